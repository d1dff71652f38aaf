import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments import dashboard, mirrored
from experiments.cli import ConfigError
from experiments.evaluation import evaluate
from experiments.ledgers import load_experiment
from experiments.sections import pictures

SECTIONS = ["Overview", "Per-AU", "Folds", "Subjects", "Training", "Published"]


@pytest.fixture
def made() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a package in public preview
        pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is in the extra `dashboard`")
        return dashboard.workspace("team", "facsuite")


def test_it_has_its_sections_and_survives_its_own_format(made: Any) -> None:
    assert [section.name for section in made.sections] == SECTIONS
    again = type(made)._from_model(made._to_model())
    assert [(s.name, len(s.panels)) for s in again.sections] == [(s.name, len(s.panels)) for s in made.sections]


def test_it_shows_what_is_there(
    made: Any, tmp_path: Path, write_fold: Callable[..., Path], random_ledger: Callable[..., dict[str, Any]]
) -> None:
    for fold in (1, 2):
        write_fold(tmp_path / "tiny", fold, random_ledger(fold), name="tiny")
    experiment = load_experiment(tmp_path / "tiny")
    evaluation = evaluate(experiment, resamples=10)
    there = {f"tables/{name}" for name in mirrored.tables(experiment, evaluation)}
    there |= {f"figures/{name}" for name in mirrored.figures(experiment.name, pictures(experiment, evaluation))}
    panels = [panel for section in made.sections for panel in section.panels]
    asked = {key for panel in panels for key in [getattr(panel, "table_name", ""), *getattr(panel, "media_keys", [])]}
    assert {key for key in asked if key and "published" not in key} <= there
    assert (
        {panel.title for panel in made.sections[0].panels}
        >= {"test/f1_mean", "test/icc_mean"}
        <= {*mirrored.means(evaluation)}
    )


def test_what_cannot_be_saved_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="not installed") as refused:
        dashboard.main(["team"])
    assert "[dashboard]" in refused.value.remedy
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="no W&B key"):
        dashboard.main(["team"])
