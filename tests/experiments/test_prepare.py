import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.store import FrameStore
from experiments import prepare
from experiments.terminal import exit_with

ROOT = Path(__file__).parents[2]


Command = Callable[..., subprocess.CompletedProcess[str]]


def test_from_nothing_to_a_checked_store(tmp_path: Path, command: Command) -> None:
    raw, out = tmp_path / "raw", tmp_path / "store"
    made = command(
        "synthesize.py", "disfa", "--out", raw, "--subjects", "2", "--frames", "4", "--size", "64", "--workers", "0"
    )
    assert made.returncode == 0, made.stderr
    prepared = command(
        "prepare.py", "disfa", "--raw", raw, "--out", out, "--edition", "twin", "--size", "64", "--workers", "2"
    )
    assert prepared.returncode == 0, prepared.stderr
    assert "8 frames of 2 subjects, 64 px" in prepared.stdout
    assert "100%" in prepared.stderr  # the progress bar
    assert command("doctor.py", out, "--full").returncode == 0
    assert FrameStore(out).manifest["edition"] == "twin"


def test_synthetic_faces_without_a_raw_folder(tmp_path: Path, command: Command) -> None:
    root = "synth:synth_facs?subjects=2&frames=2&size=32"
    prepared = command(
        "prepare.py", "synth_facs", "--raw", root, "--out", tmp_path / "store", "--size", "32", "--workers", "0"
    )
    assert prepared.returncode == 0, prepared.stderr
    assert len(FrameStore(tmp_path / "store")) == 4


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("disfa", "--raw", "nowhere", "--out", "{tmp}/out"), "nowhere"),
        (("disfa", "--raw", "{tmp}", "--out", "{tmp}/out"), "ActionUnit_Labels"),
        (("synth_facs", "--raw", "synth:synth_facs?subject=1", "--out", "{tmp}/out"), "subject"),
        (("synth_facs", "--raw", "data", "--out", "{tmp}/out"), "data"),
    ],
)
def test_what_cannot_start_says_so_in_two_lines(
    tmp_path: Path,
    words: tuple[str, ...],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare.py", *(word.format(tmp=tmp_path) for word in words)])
    with pytest.raises(SystemExit) as ended:
        exit_with(prepare.main)
    assert ended.value.code == 2
    what, remedy = capsys.readouterr().err.splitlines()
    assert named in what
    assert remedy.startswith("remedy: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", ["synthesize.py", "prepare.py", "doctor.py"])
def test_commands_start_without_loading_torch(script: str) -> None:
    program = f"import runpy, sys; sys.argv = ['{script}', '--help']\n"
    program += f"try: runpy.run_path({str(ROOT / 'experiments' / script)!r}, run_name='__main__')\n"
    program += "finally: assert 'torch' not in sys.modules"
    helped = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert helped.returncode == 0, helped.stderr
    assert "usage" in helped.stdout
