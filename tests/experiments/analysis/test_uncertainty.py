from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from experiments.analysis.sections import uncertainty_section
from experiments.analysis.uncertainty import COVERAGES, judge, order_errors, risk_coverage
from experiments.evaluation import evaluate
from experiments.ledgers import load_experiment


def test_order_errors_are_those_of_a_loop_over_pairs() -> None:
    coin = np.random.default_rng(0)
    video, level = np.repeat([0, 1, 2], [15, 15, 6]), coin.integers(-1, 4, 36)
    level[30:] = 1  # nothing to compare with
    pseudo = np.round(level + coin.normal(size=36), 0)  # with ties
    expected = np.full(36, np.nan)
    for i in range(36):
        others = [j for j in range(36) if video[j] == video[i] and level[j] >= 0 and level[j] != level[i]]
        if level[i] >= 0 and others:
            agree = [np.sign(level[i] - level[j]) * np.sign(pseudo[i] - pseudo[j]) for j in others]
            expected[i] = np.mean([{1: 0, 0: 0.5, -1: 1}[int(a)] for a in agree])
    np.testing.assert_allclose(order_errors(level, pseudo, video), expected)


def test_risk_falls_as_the_uncertain_are_set_aside() -> None:
    error, sigma = np.array([4.0, 0, 2, np.nan, 0]), np.array([9.0, 1, 5, 0, 2])
    assert risk_coverage(error, sigma, [0.25, 0.5, 0.75, 1]).tolist() == [0, 0, 2 / 3, 1.5]
    assert risk_coverage(error, -sigma, [0.25, 1]).tolist() == [4, 1.5]
    assert np.isnan(risk_coverage([np.nan], [1.0])).all()


def ledger(skill: float, seed: int = 0) -> pd.DataFrame:
    """Levels off by one or two where a face is covered; sigma knows which ones with the given skill."""
    coin = np.random.default_rng(seed)
    n = 600
    level, covered = coin.integers(0, 4, n), (coin.random(n) < 0.2).astype(int)
    columns = {"subject": np.repeat([f"S{seed}{i}" for i in range(6)], 100), "sequence": "video", "frame": np.arange(n)}
    guess = level + covered * coin.integers(1, 3, n)
    columns |= {"AU06_true_level": level, "AU06_level": guess, "AU06_pseudo": guess + coin.normal(0, 0.1, n)}
    return pd.DataFrame(columns | {"AU06_sigma": np.exp(skill * covered + coin.normal(0, 0.5, n)), "occluded": covered})


def test_a_sigma_that_knows_covered_faces_is_worth_it() -> None:
    good, bad = judge(ledger(5.0), 6), judge(ledger(0.0), 6)
    table = ledger(5.0)
    assert good.covered == pytest.approx(roc_auc_score(table["occluded"], table["AU06_sigma"]))
    assert good.covered > 0.99
    assert bad.covered == pytest.approx(0.5, abs=0.06)
    assert good.risk[-1] == pytest.approx(np.abs(table["AU06_level"] - table["AU06_true_level"]).mean())
    assert good.risk[9] == 0  # half of the frames are surely uncovered
    assert good.trapped == pytest.approx(1, abs=0.05)
    assert bad.trapped == pytest.approx(0, abs=0.2)
    worst = judge(table.assign(AU06_sigma=-table["AU06_sigma"]), 6)
    assert worst.trapped < -0.5
    assert len(good.oracle) == len(COVERAGES)


def test_calls_and_orders_have_errors_too() -> None:
    table = ledger(5.0)
    table["AU06_true"] = (table["AU06_true_level"] > 1).astype(int)
    calls = table.drop(columns=["AU06_level", "AU06_true_level"]).assign(AU06_prob=(table["AU06_level"] > 1) * 1.0)
    assert judge(calls, 6).risk[-1] == pytest.approx(((table["AU06_level"] > 1) != (table["AU06_true"] == 1)).mean())
    ranked = table.drop(columns=["AU06_level"])
    assert 0 < judge(ranked, 6).risk[-1] < 0.5
    assert np.isnan(judge(ranked.drop(columns="occluded"), 6).covered)


def test_the_section_judges_every_fold_by_itself(tmp_path: Path, write_fold: Callable[..., Any]) -> None:
    for fold in (1, 2):
        table = ledger(5.0, seed=fold).drop(columns="AU06_level")
        table["AU06_sigma"] *= 1000**fold  # another scale in each fold
        folder = write_fold(tmp_path / "ranker", fold, table, aus=[6], task="ranking")
        sheet = {"most uncertain": np.zeros((3, 8, 8, 3), np.uint8), "least uncertain": np.ones((2, 8, 8, 3), np.uint8)}
        named = {f"{end} images": images for end, images in sheet.items()}
        named |= {f"{end} frames": np.array(["S, 1"] * len(images)) for end, images in sheet.items()}
        np.savez(folder / "uncertain_frames.npz", **named)
    experiment = load_experiment(tmp_path / "ranker")
    section = uncertainty_section([(experiment, evaluate(experiment, resamples=20))])
    assert section is not None
    assert section.tables[0].rows[0][:2] == ["AU06", "1.000"]
    names = [picture.name for picture in section.pictures]
    assert names == ["ranker_pseudo", "ranker_uncertain", "ranker_risk"]
    assert uncertainty_section([]) is None
