"""Folders of many runs: what is read, what is left out, and what is refused before any work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.errors import DataError
from experiments import report
from experiments.ledgers import FORMAT, NothingFinished, load_all, load_experiment
from experiments.report import write_report

Writer = Callable[..., Any]
LEDGER = {"subject": ["a", "b"], "sequence": ["s", "s"], "frame": [1, 1], "AU01_true": [1, 0], "AU01_prob": [0.9, 0.1]}


def test_a_folder_of_runs_is_read_whole(tmp_path: Path, write_fold: Writer) -> None:
    write_fold(tmp_path / "b", 1, LEDGER)
    write_fold(tmp_path / "a", 1, LEDGER)
    write_fold(tmp_path / "stage", 0, LEDGER)
    write_fold(tmp_path / "begun", 1, LEDGER, done=False)
    (tmp_path / "sweeps" / "x").mkdir(parents=True)
    found, left_out = load_all([tmp_path])
    assert [experiment.name for experiment in found] == ["a", "b"]
    assert left_out == ["begun", "stage"]
    page = write_report([tmp_path], resamples=0)
    assert page == tmp_path / "report" / "report.html"
    assert "Nothing finished, and left out: begun, stage." in page.with_name("report.md").read_text()
    assert [experiment.name for experiment in load_all([tmp_path])[0]] == ["a", "b"]  # the report is no run


def test_nothing_finished_and_repeated_names_are_refused(tmp_path: Path, write_fold: Writer) -> None:
    write_fold(tmp_path / "one" / "run", 1, LEDGER, done=False)
    with pytest.raises(NothingFinished, match="no finished fold with held-out subjects in any of its runs") as caught:
        load_all([tmp_path / "one"])
    assert "goes on" in caught.value.remedy
    with pytest.raises(DataError, match="no fold<k>-seed<s> folder"):
        load_all([tmp_path / "nowhere"])
    for root in ("two", "three"):
        write_fold(tmp_path / root / "run", 1, LEDGER)
    with pytest.raises(DataError, match="two run folders are named run"):
        load_all([tmp_path / "two", tmp_path / "three"])


def test_damage_is_found_before_anything_is_scored(
    tmp_path: Path, write_fold: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "evaluate", lambda *_, **__: pytest.fail("scored"))
    write_fold(tmp_path / "a", 1, LEDGER)
    path = write_fold(tmp_path / "b", 1, LEDGER, ledgers={"predictions_val": LEDGER})
    whole = (path / "predictions_val.parquet").read_bytes()
    (path / "predictions_val.parquet").write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"b.fold1-seed0.predictions_val\.parquet: not a readable ledger") as caught:
        write_report([tmp_path])
    assert "run this fold again" in caught.value.remedy
    (path / "predictions_val.parquet").write_bytes(whole)
    (path / "config.yaml").write_text("a: [1")
    with pytest.raises(DataError, match=r"config\.yaml: no YAML"):
        load_experiment(tmp_path / "b").runs[0].settings()


def test_a_newer_version_is_named(tmp_path: Path, write_fold: Writer) -> None:
    path = write_fold(tmp_path / "run", 1, LEDGER)
    (path / "config.yaml").write_text(f"# config_hash: 0123\n# format: {FORMAT}\n")
    load_experiment(tmp_path / "run")
    (path / "config.yaml").write_text(f"# config_hash: 0123\n# format: {FORMAT + 1}\n")
    with pytest.raises(DataError, match=rf"newer version \(format {FORMAT + 1}; this one knows {FORMAT}\)") as caught:
        load_experiment(tmp_path / "run")
    assert "update this checkout" in caught.value.remedy


def test_ledgers_of_the_same_frames_are_told_by_their_names(tmp_path: Path, write_fold: Writer) -> None:
    backwards = {name: values[::-1] for name, values in LEDGER.items()}
    renamed = LEDGER | {"frame": [1, 2]}
    nameless = {name: values for name, values in LEDGER.items() if name != "frame"}
    for name, ledger in (("a", LEDGER), ("b", backwards), ("c", renamed), ("d", nameless)):
        write_fold(tmp_path / name, 1, ledger)
    a, b, c, d = (load_experiment(tmp_path / name) for name in "abcd")
    assert a.frames == b.frames != c.frames
    assert d.frames is None
    assert a.held_out.equals(b.held_out)
