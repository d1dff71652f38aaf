from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.evaluation import evaluate
from experiments.ledgers import load_experiment
from experiments.protocols import PROTOCOLS
from experiments.report import write_report
from experiments.trials import best_trials, trial_scores

Writer = Callable[..., Any]
KEYS = {"subject": list("aabb"), "sequence": ["q"] * 4, "frame": [0, 1, 0, 1]}
TRUE = {"AU01_true": [1, 0, 1, 0], "AU02_true": [1, 1, 0, 0]}
RIGHT, WRONG = [0.9, 0.1, 0.9, 0.1], [0.1, 0.9, 0.1, 0.9]


@pytest.fixture
def trials(tmp_path: Path, write_fold: Writer) -> Path:
    """Seed 0 is right on AU01 in validation, seed 1 on AU02; in the test seed 1 is right on both, in another order."""
    half = [0.9, 0.9, 0.1, 0.1]
    for seed, (first, second) in enumerate(((RIGHT, [0.1, 0.1, 0.9, 0.9]), (WRONG, half))):
        val = {**KEYS, **TRUE, "AU01_prob": first, "AU02_prob": second}
        test = {**KEYS, **TRUE, "AU01_prob": RIGHT if seed else WRONG, "AU02_prob": half if seed else second}
        table = pd.DataFrame(test).iloc[::-1] if seed else test
        write_fold(tmp_path / "runs", 1, table, seed=seed, ledgers={"predictions_val": val})
    return tmp_path / "runs"


def test_every_au_takes_the_seed_that_validation_prefers(trials: Path) -> None:
    experiment = load_experiment(trials)
    assert trial_scores(list(experiment.runs)) == {1: [1.0, 0.0], 2: [0.0, 1.0]}
    chosen = evaluate(best_trials(experiment), resamples=0).metrics["f1"].fold_mean.value
    assert chosen.tolist() == [0.0, 1.0, 0.5]  # not the test's best, which would be 1 and 1
    mean = evaluate(experiment, resamples=0).metrics["f1"].fold_mean.value
    assert mean.tolist() == [0.5, 0.5, 0.5]


def test_the_protocol_is_stamped_and_needs_trials(trials: Path, tmp_path: Path, write_fold: Writer) -> None:
    protocol = PROTOCOLS["best_trial"]
    assert protocol.refuse(load_experiment(trials)) is None
    assert "best of 2 trials" in str(protocol.remark(load_experiment(trials)))
    write_fold(tmp_path / "one", 1, {**KEYS, **TRUE, "AU01_prob": RIGHT, "AU02_prob": RIGHT})
    assert "a fold has one seed" in str(protocol.refuse(load_experiment(tmp_path / "one")))
    page = write_report([trials], tmp_path / "report", ["strict", "best_trial"], resamples=0)
    assert "best of 2 trials: above the mean over seeds" in page.with_name("report.md").read_text()
