"""The analyses in the report: what they say, and when they are absent."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.analysis import sections
from experiments.analysis.sections import p_text
from experiments.evaluation import evaluate
from experiments.ledgers import load_experiment
from experiments.report import write_report
from experiments.sections import Section
from experiments.tables import Table

Writer = Callable[..., Any]
AUS = (6, 12, 25)
NAMES = ["AU06", "AU12", "AU25"]


def occurrence(ledger: dict[str, Any]) -> dict[str, Any]:
    return {name: values for name, values in ledger.items() if "level" not in name}


def pairs_of(*paths: Path, resamples: int = 100) -> list[sections.Pair]:
    return [(experiment := load_experiment(path), evaluate(experiment, resamples=resamples)) for path in paths]


def made(found: Section | None) -> Section:
    assert found is not None
    return found


def frame(table: Table) -> pd.DataFrame:
    return pd.DataFrame(table.rows, columns=table.header).set_index(table.header[0])


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, write_fold: Writer, random_ledger: Writer) -> Path:
    """`good` and `poor` of two folds of seven subjects with 65 frames; `good` in another order and with two seeds."""
    root = tmp_path_factory.mktemp("analysis")
    for fold in (1, 2):
        for name, skill, seeds in (("good", 1.3, (0, 1)), ("poor", 1.0, (0,))):
            for seed in seeds:
                columns = random_ledger(fold, AUS, subjects=7, frames=65, skill=skill, seed=seed)
                table = pd.DataFrame(occurrence(columns))
                table = table.sample(frac=1, random_state=0) if name == "good" else table
                write_fold(root / name, fold, table, seed=seed, label_threshold=2)
    return root


# ------------------------------------------------------------------------------------------------------ significance


def test_significance_is_of_subjects_and_of_the_same_frames(runs: Path) -> None:
    section = made(sections.significance_section(pairs_of(runs / "good", runs / "poor")))
    (table,) = section.tables
    assert table.caption == "good minus poor: paired tests"
    assert "14 subjects, 910 frames" in table.notes[0]
    assert "Trust the tests over subjects" in section.text[0]

    def losses(name: str) -> pd.DataFrame:
        parts = [pd.read_parquet(path) for path in sorted((runs / name).glob("*/predictions.parquet"))]
        joined = pd.concat(parts)
        out = {"subject": joined["subject"]}
        for au in NAMES:
            prob = joined[f"{au}_prob"].clip(1e-6, 1 - 1e-6)
            loss = -np.log(np.where(joined[f"{au}_true"] == 1, prob, 1 - prob))
            out[au] = np.where(joined[f"{au}_true"] < 0, np.nan, loss)
        means = pd.DataFrame(out).groupby("subject").mean()
        return means.assign(mean=means.mean(axis=1))

    difference = losses("good") - losses("poor")
    p = [stats.wilcoxon(difference[name]).pvalue for name in NAMES]
    order = np.argsort(p)
    corrected = np.maximum.accumulate([min(1, times * p[place]) for times, place in zip((3, 2, 1), order, strict=True)])
    cells = frame(table)
    for name in [*NAMES, "mean"]:
        assert float(cells.loc[name, "log-loss"]) == pytest.approx(difference[name].median(), abs=6e-4)
    assert 0.001 < corrected[0] < 0.5
    for place, expected in zip(order, corrected, strict=True):
        assert cells.loc[NAMES[place], "p, Wilcoxon"] == p_text(expected)
    assert cells.loc["mean", "p, Wilcoxon"] == p_text(stats.wilcoxon(difference["mean"]).pvalue)


def test_frames_are_paired_by_their_names_not_by_their_rows(runs: Path) -> None:
    """`good` is shuffled: row by row the t-test would be another."""
    cells = frame(made(sections.significance_section(pairs_of(runs / "good", runs / "poor"))).tables[0])
    tables = []
    for name in ("good", "poor"):
        parts = [pd.read_parquet(runs / name / f"fold{k}-seed0" / "predictions.parquet") for k in (1, 2)]
        tables.append(pd.concat(parts).set_index(["subject", "sequence", "frame"]).sort_index())
    known = (tables[0]["AU12_true"] >= 0).to_numpy()
    expected = stats.ttest_rel(tables[0]["AU12_prob"][known], tables[1]["AU12_prob"][known])
    assert float(cells.loc["AU12", "t over frames"]) == pytest.approx(expected.statistic, abs=0.06)


def test_runs_of_other_frames_are_not_tested(runs: Path, tmp_path: Path, write_fold: Writer) -> None:
    for fold in (1, 2):
        table = pd.read_parquet(runs / "poor" / f"fold{fold}-seed0" / "predictions.parquet")
        write_fold(tmp_path / "fewer", fold, table[table["frame"] != 3], label_threshold=2)
        write_fold(tmp_path / "nameless", fold, table.drop(columns="frame"), label_threshold=2)
    for name in ("fewer", "nameless"):
        assert sections.significance_section(pairs_of(runs / "poor", tmp_path / name)) is None
    assert sections.significance_section(pairs_of(runs / "poor")) is None
    assert sections.timeline_section(pairs_of(tmp_path / "nameless")) is None


def test_p_text() -> None:
    assert [p_text(p) for p in (float("nan"), 0.0004, 0.0316, 1.0)] == ["–", "<.001", ".032", "1.000"]


# --------------------------------------------------------------------------------------- dependencies and timelines


def test_dependencies_of_perfect_calls(tmp_path: Path, write_fold: Writer, runs: Path) -> None:
    table = pd.read_parquet(runs / "poor" / "fold1-seed0" / "predictions.parquet")
    for name in NAMES:
        table[f"{name}_prob"] = np.where(table[f"{name}_true"] == 1, 0.9, 0.1)
    write_fold(tmp_path / "perfect", 1, table)
    section = made(sections.dependency_section(pairs_of(tmp_path / "perfect")))
    assert section.tables[0].rows == [["perfect", "0.000", "100.0", "100.0", "100.0"]]
    assert "our reading" in " ".join(section.text)
    assert [picture.name for picture in section.pictures] == ["perfect_correlations"]


def test_timelines_draw_all_runs_of_the_same_frames(runs: Path, tmp_path: Path, write_fold: Writer) -> None:
    section = made(sections.timeline_section(pairs_of(runs / "good", runs / "poor")))
    (table,) = section.tables
    assert table.header == ["AU", "labels", "good", "poor"]
    assert [picture.name for picture in section.pictures] == ["timeline_good"]
    caption = section.pictures[0].caption
    assert re.search(r"S\d\d, left of disfa: the 600 frames \(or fewer\) of one sequence of 60 or more", caption)
    truth = pd.read_parquet(runs / "poor" / "fold1-seed0" / "predictions.parquet")
    other = pd.read_parquet(runs / "poor" / "fold2-seed0" / "predictions.parquet")
    steps = changed = 0
    for _, rows in pd.concat([truth, other]).groupby("subject"):
        label = rows.sort_values("frame")["AU12_true"].to_numpy()
        both = (label[1:] >= 0) & (label[:-1] >= 0)
        steps, changed = steps + both.sum(), changed + (both & (label[1:] != label[:-1])).sum()
    assert float(frame(table).loc["AU12", "labels"]) == pytest.approx(1000 * changed / steps, abs=0.06)
    write_fold(tmp_path / "stills", 1, truth.assign(sequence=truth["frame"].astype(str)))
    assert sections.timeline_section(pairs_of(tmp_path / "stills")) is None


# --------------------------------------------------------------------------------------- failures and feature maps


def test_failures_need_confidence(runs: Path, tmp_path: Path, write_fold: Writer) -> None:
    assert sections.failure_section(pairs_of(runs / "poor")) is None
    table = pd.read_parquet(runs / "poor" / "fold1-seed0" / "predictions.parquet")
    table["landmark_confidence"] = np.linspace(0, 1, len(table))
    write_fold(tmp_path / "sure", 1, table)
    section = made(sections.failure_section(pairs_of(tmp_path / "sure")))
    bins, worst = section.tables
    assert [row[1] for row in bins.rows] == ["91"] * 5
    assert len(worst.rows) == 7  # one a sequence
    row = worst.rows[0]
    subject, _, number = row[0].split(", ")
    found = table[(table["subject"] == subject) & (table["frame"] == int(number))].iloc[0]
    missed = [name for name in NAMES if found[f"{name}_true"] == 1 and found[f"{name}_prob"] < 0.5]
    false = [name for name in NAMES if found[f"{name}_true"] == 0 and found[f"{name}_prob"] >= 0.5]
    assert row[4:] == [" ".join(missed) or "–", " ".join(false) or "–"]
    assert row[1] == f"{found['landmark_confidence']:.3f}"


def test_feature_maps_of_the_same_frames_share_a_figure(runs: Path, tmp_path: Path, write_fold: Writer) -> None:
    table = pd.read_parquet(runs / "poor" / "fold1-seed0" / "predictions.parquet")
    maps = {"8 x 8": np.random.default_rng(0).random((2, 8, 8)).astype(np.float16)}
    images = np.zeros((2, 8, 8, 3), np.uint8)
    for name, frames in (("a", ["x, s, 1", "x, s, 2"]), ("b", ["x, s, 1", "x, s, 2"]), ("c", ["y, s, 1", "y, s, 2"])):
        path = write_fold(tmp_path / name, 1, table)
        np.savez(path / "feature_maps.npz", images=images, frames=np.array(frames), **maps)
    section = made(sections.feature_map_section([load_experiment(tmp_path / name) for name in "abc"]))
    assert [picture.name for picture in section.pictures] == ["a_feature_maps", "c_feature_maps"]
    assert "x, s, 1; x, s, 2" in section.pictures[0].caption
    assert sections.feature_map_section([load_experiment(runs / "poor")]) is None


# ---------------------------------------------------------------------------------------- runs of several datasets


def test_a_mixture_is_also_read_dataset_by_dataset(tmp_path: Path, write_fold: Writer, random_ledger: Writer) -> None:
    """Both datasets call a subject S10; BP4D does not label AU 25, DISFA not AU 7."""
    bp4d, disfa = (pd.DataFrame(occurrence(random_ledger(1, (7, 12, 25), seed=seed))) for seed in (1, 2))
    bp4d["AU25_true"], disfa["AU07_true"] = -1, -1
    bp4d.insert(0, "dataset", "bp4d")
    disfa.insert(0, "dataset", "disfa")
    mixture = "mixture(bp4d+disfa+affwild2)"
    write_fold(tmp_path / "mixed", 1, pd.concat([bp4d, disfa]), dataset=mixture, split="3fold")
    write_fold(tmp_path / "alone", 1, disfa.drop(columns=["AU07_true", "AU07_prob"]))
    parts = load_experiment(tmp_path / "mixed").parts()
    assert [(part.name, part.facts["dataset"]) for part in parts] == [
        ("mixed on bp4d", f"{mixture} on bp4d"),
        ("mixed on disfa", f"{mixture} on disfa"),
    ]
    found, expected = evaluate(parts[1]), evaluate(load_experiment(tmp_path / "alone"))
    assert found.aus == [12, 25]
    for part in ("value", "low", "high"):
        pair = (getattr(evaluation.metrics["f1"].fold_mean, part) for evaluation in (found, expected))
        assert next(pair) == pytest.approx(next(pair))
    assert evaluate(parts[0]).aus == [7, 12]
    assert load_experiment(tmp_path / "alone").parts() == []
    text = write_report([tmp_path / "mixed"], resamples=0).with_name("report.md").read_text()
    assert f"F1 on {mixture} on disfa" in text  # beside AUNet's Table VIII
    assert "split: aunet mixture vs 3fold" in text
    assert "not compared" not in text
    assert (tmp_path / "mixed" / "report" / "figures" / "mixed_on_bp4d_prevalence.png").exists()


def test_a_cross_dataset_run_names_what_it_was_tested_on(
    tmp_path: Path, write_fold: Writer, random_ledger: Writer
) -> None:
    tables = [
        pd.DataFrame(occurrence(random_ledger(1, (6, 12)))).assign(dataset=name) for name in ("disfa", "affwild2")
    ]
    write_fold(tmp_path / "cross", 1, pd.concat(tables), dataset="mixture(bp4d -> disfa+affwild2)")
    parts = load_experiment(tmp_path / "cross").parts()
    names = [part.facts["dataset"] for part in parts]
    assert names == ["mixture(bp4d -> affwild2)", "mixture(bp4d -> disfa)"]


# -------------------------------------------------------------------------------------------------------- complexity


def test_sizes_of_networks_stand_beside_each_other(runs: Path, tmp_path: Path, write_fold: Writer) -> None:
    table = pd.read_parquet(runs / "poor" / "fold1-seed0" / "predictions.parquet")
    whole = {"parameters": 3_500_000, "trained": 500_000, "macs": 12_345_000_000}
    part = {"parameters": 500_000, "trained": 500_000, "macs": 345_000_000}
    write_fold(tmp_path / "two", 1, table, sizes={"": whole, "extractor": whole, "head": part})
    write_fold(tmp_path / "one", 1, table, sizes={"": part})
    found = [load_experiment(path) for path in (tmp_path / "two", tmp_path / "one", runs / "poor")]
    (sizes,) = made(sections.complexity_section(found)).tables
    assert [row[0] for row in sizes.rows] == ["two", "two, extractor", "two, head", "one"]
    assert sizes.rows[2] == ["two, head", "0.50", "0.50", "0.34"]
    assert sections.complexity_section(found[2:]) is None
