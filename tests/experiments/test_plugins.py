import errno
import os
from pathlib import Path

import pytest
import torch

from experiments.plugins import WholeCheckpoints
from experiments.terminal import exit_with


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"epoch": 1, "weight": torch.ones(3)}, path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        WholeCheckpoints().save_checkpoint({"epoch": 2, "weight": torch.ones(3)}, path)
    assert torch.load(path, weights_only=True)["epoch"] == 1
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_a_full_disk_is_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x/result.json")

    with pytest.raises(SystemExit) as ended:
        exit_with(command)
    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: the disk is full: runs/x/result.json",
        "remedy: make room; the same command goes on from here",
    ]


def test_another_error_of_the_system_keeps_its_traceback() -> None:
    def command() -> int:
        raise PermissionError(errno.EACCES, "no")

    with pytest.raises(PermissionError):
        exit_with(command)


@pytest.mark.parametrize(("goes_on", "what"), [(True, "goes on from here"), (False, "begins anew")])
def test_an_interrupted_command_says_what_a_second_start_does(
    goes_on: bool, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> int:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        exit_with(command, goes_on)
    assert ended.value.code == 130
    assert capsys.readouterr().err == f"interrupted; the same command {what}\n"
