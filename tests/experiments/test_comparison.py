"""Who leads, who ties, and which runs are compared at all."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from experiments import comparison
from experiments.comparison import Pair, comparison_section, groups, leaderboard_section, leaderboards, pairings
from experiments.evaluation import evaluate
from experiments.ledgers import load_experiment
from experiments.summary import p_text
from experiments.tables import Table

Writer = Callable[..., Any]
NAMES = ["AU06", "AU12"]


def pair_of(path: Path, resamples: int = 300) -> Pair:
    experiment = load_experiment(path)
    return experiment, evaluate(experiment, resamples=resamples)


def frame(table: Table) -> pd.DataFrame:
    return pd.DataFrame(table.rows, columns=table.header).set_index("run")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, write_fold: Writer, random_ledger: Writer) -> Path:
    """`best`; `near`, the same but for its draws; `poor`; two folds of eight subjects, two seeds."""
    root = tmp_path_factory.mktemp("compared")
    for fold in (1, 2):
        for seed in (0, 1):
            for name, skill in (("poor", 1.0), ("best", 2.5), ("near", 2.5)):
                draws = seed + 10 * (name == "near")
                ledger = pd.DataFrame(random_ledger(fold, subjects=8, skill=skill, seed=draws))
                ledger = ledger[[column for column in ledger if "level" not in column]]
                write_fold(root / name, fold, ledger, seed=seed, label_threshold=1)
    return root


def test_leaderboard_against_independent_scores(runs: Path) -> None:
    pairs = [pair_of(runs / name) for name in ("poor", "near", "best")]
    (table,) = leaderboards(groups(pairs))
    cells = frame(table)
    assert table.caption == "Leaderboard of disfa: mean F1 over AUs in percent"

    def ledger(name: str, fold: int, seed: int) -> pd.DataFrame:
        return pd.read_parquet(runs / name / f"fold{fold}-seed{seed}" / "predictions.parquet")

    trials = list(itertools.product((1, 2), (0, 1)))
    ledgers = {name: {trial: ledger(name, *trial) for trial in trials} for name in ("best", "near", "poor")}

    def f1(ledger: pd.DataFrame, au: str) -> float:
        known = ledger[ledger[f"{au}_true"] >= 0]
        return float(f1_score(known[f"{au}_true"], known[f"{au}_prob"] >= 0.5))

    by_seed = {
        name: [np.mean([f1(of[k, s], au) for k in (1, 2) for au in NAMES]) for s in (0, 1)]
        for name, of in ledgers.items()
    }
    expected = sorted(by_seed, key=lambda name: -float(np.mean(by_seed[name])))
    assert list(cells.index) == expected
    assert expected[-1] == "poor"
    leader = expected[0]
    for name in expected:
        assert cells.loc[name, "F1"] == f"{100 * np.mean(by_seed[name]):.1f}"
        assert cells.loc[name, "sd over seeds"] == f"{100 * np.std(by_seed[name], ddof=1):.1f}"
    assert cells.loc["poor", "minus leader"] == f"{100 * (np.mean(by_seed['poor']) - np.mean(by_seed[leader])):+.1f}"
    assert list(cells["verdict"]) == ["leader", "tie", "worse"]

    def losses(name: str) -> pd.Series:
        table = pd.concat(ledgers[name].values())
        found = {}
        for au in NAMES:
            prob = table[f"{au}_prob"].clip(1e-6, 1 - 1e-6)
            loss = -np.log(np.where(table[f"{au}_true"] == 1, prob, 1 - prob))
            found[au] = (
                pd.Series(np.where(table[f"{au}_true"] < 0, np.nan, loss)).groupby(table["subject"].to_numpy()).mean()
            )
        return pd.DataFrame(found).mean(axis=1)

    p = {name: float(stats.wilcoxon(losses(name) - losses(leader)).pvalue) for name in expected[1:]}
    low, high = sorted(p, key=p.__getitem__)
    assert cells.loc[low, "p, log-loss"] == p_text(2 * p[low])
    assert cells.loc[high, "p, log-loss"] == p_text(max(2 * p[low], p[high]))


def test_every_two_runs_are_subtracted_once_each_way(runs: Path) -> None:
    pairs = [pair_of(runs / name) for name in ("poor", "near", "best")]
    section = leaderboard_section(groups(pairs))
    assert section is not None
    cells = frame(section.tables[1])
    first, second, third = cells.index
    assert cells.loc[first, "minus 1"] == ""
    assert cells.loc[first, "minus 2"].endswith("tie")
    assert cells.loc[first, "minus 3"].replace("+", "-") == cells.loc[third, "minus 1"]
    assert "tie" not in cells.loc[third, "minus 2"]
    assert float(cells.loc[second, "minus 1"].split()[0]) <= 0


def test_of_more_than_four_runs_only_the_leader_is_compared_by_au(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (group,) = groups([pair_of(runs / name) for name in ("poor", "near", "best")])
    assert [(a[0].name, b[0].name) for a, b in pairings(group)][-1][1] == "poor"
    assert len(pairings(group)) == 3
    monkeypatch.setattr(comparison, "EVERY_PAIR", 2)
    assert {first[0].name for first, _ in pairings(group)} == {group[0][0].name}
    section = comparison_section([group])
    assert section is not None
    assert len(section.tables) == 2


def test_runs_that_cannot_be_compared_are_told(runs: Path, tmp_path: Path, write_fold: Writer) -> None:
    for name, facts in (("right", {"camera": "right"}), ("part", {}), ("twin", {"edition": "twin", "dataset": "bp4d"})):
        ledger = pd.read_parquet(runs / "poor" / "fold1-seed0" / "predictions.parquet")
        write_fold(tmp_path / name, 1, ledger, label_threshold=1, **facts)
    found = groups(
        [pair_of(path) for path in (runs / "best", tmp_path / "right", tmp_path / "part", tmp_path / "twin")]
    )
    assert [len(group) for group in found] == [1, 1, 1, 1]
    section = leaderboard_section(found)
    assert section is not None
    assert section.tables == []
    assert section.text == [
        "best: compared with no other run; from part it differs in held-out subjects.",
        "right: compared with no other run; from part it differs in camera.",
        "part: compared with no other run; from best it differs in held-out subjects.",
        "twin: compared with no other run; from part it differs in dataset, edition.",
    ]
    assert comparison_section(found) is None
    assert leaderboard_section(found[:1]) is None


def test_runs_of_other_aus_are_ranked_over_what_they_share(runs: Path, tmp_path: Path, write_fold: Writer) -> None:
    for fold in (1, 2):
        for seed in (0, 1):
            ledger = pd.read_parquet(runs / "poor" / f"fold{fold}-seed{seed}" / "predictions.parquet")
            alone = ledger.drop(columns=["AU06_true", "AU06_prob"])
            write_fold(tmp_path / "alone", fold, alone, seed=seed, label_threshold=1)
    best, alone = pair_of(runs / "best"), pair_of(tmp_path / "alone")
    (table,) = leaderboards(groups([best, alone]))
    assert frame(table).loc["best", "F1"] == f"{100 * best[1].metrics['f1'].fold_mean.value[1]:.1f}"
    assert frame(table).loc["best", "sd over seeds"] == "–"  # of the mean over other AUs
    assert table.notes == ["Over what all of these runs score: AU12."]


def test_too_few_resamples_to_tell_runs_apart_are_said(runs: Path) -> None:
    (group,) = groups([pair_of(runs / name, resamples=50) for name in ("best", "poor", "near")])
    (table,) = leaderboards([group])
    assert list(frame(table)["verdict"])[1:] == ["tie", "tie"]
    assert "every run ties. --bootstrap 160 can tell them apart" in table.notes[0]
    (group,) = groups([pair_of(runs / name, resamples=0) for name in ("best", "poor")])
    (table,) = leaderboards([group])
    assert list(frame(table)["verdict"])[1:] == ["–"]
    assert table.notes[0].startswith("No intervals and no p")
