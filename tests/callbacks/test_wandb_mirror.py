import time
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import PIL.Image
import pytest
import wandb

from callbacks.tracking import tracker
from callbacks.wandb_mirror import WandbMirror, wandb_mode
from tests.wandb_files import read

NAMED = {
    "name": "renet_disfa-f1-s0",
    "group": "renet_disfa",
    "job_type": "fold",
    "tags": ["RENet"],
    "config": {"a.b": 1},
}


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that W&B does not know."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def runs(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*"))


def png() -> bytes:
    buffer = BytesIO()
    PIL.Image.new("RGB", (4, 4)).save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.usefixtures("nobody")
def test_auto_is_offline_without_a_key_and_never_asks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert wandb_mode("auto") == wandb_mode("online") == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert wandb_mode("auto") == "online"
    monkeypatch.delenv("WANDB_API_KEY")
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai login user password {'x' * 40}\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert wandb_mode("auto") == wandb_mode("online") == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode("auto") == "disabled"
    assert wandb_mode("offline") == "offline"


def test_an_offline_run_holds_everything_and_says_how_it_is_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (mirror,) = tracker("wandb", "offline", tmp_path, **NAMED)
    assert isinstance(mirror, WandbMirror)
    mirror.log_metrics({"val/f1_mean": 0.5, "epoch": 0}, step=9)
    mirror.log_metrics({"val/f1_mean": 0.25, "epoch": 1}, step=19)
    mirror.finalize("success")  # of the training; the scores come later
    (tmp_path / "result.json").write_text("{}")
    table = pd.DataFrame({"AU": ["AU01", "AU02"], "f1": [0.5, float("nan")]})
    scores = {"test/f1_mean": 0.75}
    mirror.finish({"dataset": "disfa"}, scores, {"per_au": table}, {"pr": (png(), "P")}, [tmp_path / "result.json"])
    (folder,) = runs(tmp_path)
    found = read(folder)
    run = found["run"]
    assert (run.display_name, run.run_group, run.job_type, list(run.tags)) == (
        "renet_disfa-f1-s0",
        "renet_disfa",
        "fold",
        ["RENet"],
    )
    assert found["config"].items() >= {"a.b": 1, "dataset": "disfa"}.items()
    assert [(row["trainer/global_step"], row["val/f1_mean"]) for row in found["history"][:2]] == [(9, 0.5), (19, 0.25)]
    assert found["summary"]["test/f1_mean"] == 0.75
    tables = [row["tables/per_au"] for row in found["history"] if "tables/per_au" in row]
    written = pd.read_json(folder / "files" / tables[0]["path"], orient="split")
    assert written.columns.tolist() == ["AU", "f1"]
    (picture,) = (row["figures/pr"] for row in found["history"] if "figures/pr" in row)
    with PIL.Image.open(folder / "files" / picture["path"]) as image:
        assert image.size == (4, 4)
    assert f"wandb sync {folder}" in caplog.text


def test_several_runs_in_one_process_stay_apart_and_one_that_goes_on_keeps_its_id(tmp_path: Path) -> None:
    first, other = (WandbMirror(tmp_path / name, "offline", name=name) for name in "ab")
    first.log_metrics({"x": 0}, step=0)
    other.log_metrics({"x": 1}, step=0)
    first.finalize("failed")
    first.log_metrics({"x": 9}, step=9)  # too late, and no reason to fail
    time.sleep(1.1)  # W&B names folders by the second
    again = WandbMirror(tmp_path / "a", "offline", name="a")
    again.log_metrics({"x": 2}, step=1)
    for mirror in (again, other):
        mirror.finish({}, {}, {}, {})
    (b,), a = ([read(folder) for folder in runs(tmp_path / name)] for name in "ba")
    assert [row["x"] for row in b["history"]] == [1]
    assert [[row["x"] for row in run["history"]] for run in a] == [[0], [2]]
    assert a[0]["run"].run_id == a[1]["run"].run_id != b["run"].run_id


def test_an_agent_chooses_id_and_project_of_its_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(wandb, "init", lambda **settings: given.append(settings) or Broken())
    for sweep in ("", "abc123"):
        monkeypatch.setenv("WANDB_SWEEP_ID", sweep)
        WandbMirror(tmp_path, "offline", name="x").log_metrics({"x": 1}, step=0)
    assert {"id", "project"} <= given[0].keys()
    assert not {"id", "project"} & given[1].keys()
    assert all(settings["reinit"] == "create_new" for settings in given)


def test_a_server_that_does_not_answer_makes_the_run_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    init = wandb.init

    tried: list[str] = []

    def unreachable(**settings: Any) -> Any:
        tried.append(settings["id"])
        if settings["mode"] == "online":
            raise wandb.errors.CommError("Run initialization has timed out")
        return init(**settings)

    monkeypatch.setattr(wandb, "init", unreachable)
    mirror = WandbMirror(tmp_path, "online", name="x")
    mirror.log_metrics({"x": 1}, step=0)
    mirror.finish({}, {}, {}, {})
    assert read(runs(tmp_path)[0])["history"][0]["x"] == 1
    assert "timed out; this run is recorded offline" in caplog.text
    assert tried[0] != tried[1], "W&B says of the first that it is in use"
    assert "wandb sync" in caplog.text


class Broken:
    """A run whose server went away, or whose disk is full."""

    dir, id = "nowhere", "none"

    def log(self, _: Any) -> None:
        raise OSError(28, "No space left on device")

    def finish(self, exit_code: int) -> None:
        raise TimeoutError("not finished after 300 s")


def test_what_fails_ends_the_mirror_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(WandbMirror, "_start", lambda _: Broken())
    mirror = WandbMirror(tmp_path, "online", name="x")
    for step in range(3):
        mirror.log_metrics({"x": 1}, step=step)
    mirror.finish({}, {}, {}, {})
    assert caplog.text.count("No space left on device") == 1
    assert caplog.text.count("not finished after 300 s") == 1
    assert "wandb sync" in caplog.text
