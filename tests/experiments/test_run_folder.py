from pathlib import Path
from typing import Any

import pytest

from experiments.cli import ConfigError
from experiments.run_folder import RunFolder

SETTINGS: dict[str, Any] = {
    "run": {"name": "x", "refit": False, "flip": False, "predict": "test", "media": "none"},
    "model": {"init_args": {"lr": 0.1}},
    "data": {"init_args": {"root": "synth:disfa", "num_workers": 2, "fold": 1}},
}


def test_a_folder_goes_from_new_over_resume_to_done(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "fold1-seed0", SETTINGS)
    assert folder.state() == "new"
    folder.open("new")
    assert folder.state() == "new"
    folder.last.write_bytes(b"")
    assert folder.state() == "resume"
    folder.close({"metrics": {}})
    assert folder.state() == "done"


def test_a_start_without_a_checkpoint_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "fold1-seed0", SETTINGS)
    folder.open("new")
    (folder.path / "metrics.csv").write_text("of a killed start")
    folder.open("new")
    assert sorted(p.name for p in folder.path.iterdir()) == ["checkpoints", "config.yaml"]


def test_two_processes_never_share_a_folder(tmp_path: Path) -> None:
    first, second = (RunFolder(tmp_path / "fold1-seed0", SETTINGS) for _ in range(2))
    first.open("new")
    first.last.write_bytes(b"of the first")
    with pytest.raises(ConfigError, match="another process"):
        second.open("new")
    assert first.last.read_bytes() == b"of the first"
    first.close({})
    second.open("resume")


def test_other_settings_are_refused_by_name_and_nothing_is_touched(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", SETTINGS).open("new")
    kept = (tmp_path / "run" / "config.yaml").read_bytes()
    other = RunFolder(tmp_path / "run", SETTINGS | {"model": {"init_args": {"lr": 0.2}}})
    with pytest.raises(ConfigError, match=r"model\.init_args\.lr \(0\.1 there, 0\.2 here\)"):
        other.state()
    assert (tmp_path / "run" / "config.yaml").read_bytes() == kept
    elsewhere = SETTINGS | {"run": {"name": "y", "refit": False}}
    assert RunFolder(tmp_path / "run", elsewhere).state() == "new"


def test_results_are_strict_json(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", SETTINGS)
    folder.open("new")
    with pytest.raises(ValueError, match="JSON"):
        folder.close({"metrics": {"f1_mean": float("nan")}})
    assert not folder.done.exists()
    assert not folder.result.exists()


def test_a_folder_tells_whether_somebody_is_at_it(tmp_path: Path) -> None:
    first, second = (RunFolder(tmp_path / "fold1-seed0", SETTINGS) for _ in range(2))
    assert not second.busy()
    first.open("new")
    assert second.busy()
    first.close({})
    assert not second.busy()


def test_a_newer_version_s_folder_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", SETTINGS)
    folder.open("new")
    folder.close({})
    assert folder.state() == "done"
    folder.config.write_text(folder.config.read_text().replace("# format: 1", "# format: 2"))
    with pytest.raises(ConfigError, match="newer version") as refused:
        folder.state()
    assert "update" in refused.value.remedy
    folder.config.write_text(folder.config.read_text().replace("# format: 2\n", ""))  # from before formats were written
    assert folder.state() == "done"


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot be written: (Not a directory|File exists)") as refused:
        RunFolder(tmp_path / "file" / "x" / "fold1-seed0", SETTINGS).open("new")
    assert "default_root_dir" in refused.value.remedy
