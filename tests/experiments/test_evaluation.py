"""Aggregation and intervals on ledgers small enough to work out by hand, and against brute force."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from datamodules.errors import DataError
from experiments.evaluation import (
    break_even_on_validation,
    compare,
    evaluate,
    tuned_on_test,
    tuned_on_validation,
)
from experiments.ledgers import load_experiment
from lightning_modules.common import metrics

Writer = Callable[..., Any]


def column(evaluation: Any, metric: str, kind: str = "fold_mean", part: str = "value") -> dict[str, float]:
    scores = evaluation.metrics[metric]
    return dict(zip(evaluation.columns(metric), getattr(getattr(scores, kind), part), strict=True))


# ---------------------------------------------------------------------------------------------------- aggregation


def test_mean_over_folds_with_positives_then_over_aus(two_folds: Path) -> None:
    evaluation = evaluate(load_experiment(two_folds), resamples=0)
    f1 = column(evaluation, "f1")
    assert f1["AU01"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert f1["AU02"] == pytest.approx(2 / 3)  # the one fold that has positives
    assert np.isnan(f1["AU04"])
    assert f1["mean"] == pytest.approx(((4 / 5 + 2 / 3) / 2 + 2 / 3) / 2)
    pooled = column(evaluation, "f1", "pooled")
    assert pooled["AU01"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert pooled["mean"] == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert column(evaluation, "accuracy")["AU02"] == pytest.approx((2 / 3 + 1) / 2)
    assert column(evaluation, "all_positive_f1")["AU01"] == pytest.approx(2 / 3)
    assert evaluation.known.tolist() == [8, 7, 8]
    assert evaluation.positives.tolist() == [4, 2, 0]


def test_values_equal_the_scores_of_the_ledgers(tmp_path: Path, write_fold: Writer, random_ledger: Writer) -> None:
    folds = {fold: random_ledger(fold) for fold in (1, 2, 3)}
    for fold, ledger in folds.items():
        write_fold(tmp_path / "run", fold, ledger)
    evaluation = evaluate(load_experiment(tmp_path / "run"), resamples=0)
    whole = pd.concat([pd.DataFrame(ledger) for ledger in folds.values()])
    for metric in ("f1", "accuracy", "auc", "ap", "icc", "mae", "mse", "pcc"):
        for row, ledger in enumerate(folds.values()):
            expected = metrics.score(ledger)
            values = [expected[metric]["AU06"], expected[metric]["AU12"], expected[f"{metric}_mean"]]
            assert evaluation.metrics[metric].folds[row] == pytest.approx(values)
        assert column(evaluation, metric, "pooled")["mean"] == pytest.approx(metrics.score(whole)[f"{metric}_mean"])
    assert column(evaluation, "all_zero_mae", "pooled")["AU06"] == pytest.approx(
        metrics.trivial(whole)["all_zero_mae"]["AU06"]
    )


def test_icc_is_pooled_by_default_and_f1_is_not(tmp_path: Path, write_fold: Writer, random_ledger: Writer) -> None:
    for fold in (1, 2):
        write_fold(tmp_path / "run", fold, random_ledger(fold))
    evaluation = evaluate(load_experiment(tmp_path / "run"), resamples=0)
    assert evaluation.headline("icc") is evaluation.metrics["icc"].pooled
    assert evaluation.headline("f1") is evaluation.metrics["f1"].fold_mean


def test_seeds_are_averaged_within_a_fold(tmp_path: Path, write_fold: Writer, random_ledger: Writer) -> None:
    singles = []
    for seed in (0, 1):
        write_fold(tmp_path / "both", 1, random_ledger(1, seed=seed), seed=seed)
        write_fold(tmp_path / f"only{seed}", 1, random_ledger(1, seed=seed), seed=seed)
        singles.append(evaluate(load_experiment(tmp_path / f"only{seed}"), resamples=0).metrics["f1"].folds[0])
    both = evaluate(load_experiment(tmp_path / "both"), resamples=0).metrics["f1"]
    assert both.folds[0] == pytest.approx(np.mean(singles, axis=0))
    assert both.fold_sd[0] == pytest.approx(np.std(singles, axis=0, ddof=1))
    assert both.fold_mean.seed_sd == pytest.approx(np.std(singles, axis=0, ddof=1))


def test_folds_without_a_common_seed_are_not_pooled(tmp_path: Path, write_fold: Writer, random_ledger: Writer) -> None:
    write_fold(tmp_path / "run", 1, random_ledger(1), seed=0)
    write_fold(tmp_path / "run", 2, random_ledger(2), seed=1)
    evaluation = evaluate(load_experiment(tmp_path / "run"), resamples=10)
    assert np.isnan(evaluation.metrics["f1"].pooled.value).all()
    assert np.isfinite(evaluation.metrics["f1"].fold_mean.value).all()


def test_thresholds_come_from_the_validation_subjects_of_the_fold(tmp_path: Path, write_fold: Writer) -> None:
    ledger = {"subject": list("aabb"), "AU01_true": [1, 1, 0, 0], "AU01_prob": [0.4, 0.4, 0.3, 0.1]}
    validation = {"subject": list("vv"), "AU01_true": [1, 0], "AU01_prob": [0.35, 0.2]}
    write_fold(tmp_path / "run", 1, ledger, ledgers={"predictions_val": validation})
    experiment = load_experiment(tmp_path / "run")
    assert tuned_on_validation(experiment.runs[0]) == {1: 0.35}
    tuned = evaluate(experiment, thresholds=tuned_on_validation, resamples=0)
    assert column(tuned, "f1")["AU01"] == 1
    assert column(evaluate(experiment, resamples=0), "f1")["AU01"] == 0


def test_thresholds_where_precision_meets_recall_and_those_of_the_scored_frames(
    tmp_path: Path, write_fold: Writer
) -> None:
    """Validation has two positives: at .6 one of two calls is right, at .3 recall is 1 and F1 the highest, 4/5."""
    validation = {"subject": list("vvvv"), "AU01_true": [0, 1, 1, 0], "AU01_prob": [0.7, 0.6, 0.3, 0.1]}
    ledger = {"subject": list("aabb"), "AU01_true": [1, 1, 0, 0], "AU01_prob": [0.8, 0.2, 0.65, 0.15]}
    write_fold(tmp_path / "run", 1, ledger, ledgers={"predictions_val": validation})
    experiment = load_experiment(tmp_path / "run")
    rules = {
        rule: rule(experiment.runs[0])[1] for rule in (tuned_on_validation, break_even_on_validation, tuned_on_test)
    }
    assert list(rules.values()) == [0.3, 0.6, 0.2]
    f1 = [column(evaluate(experiment, thresholds=rule, resamples=0), "f1")["AU01"] for rule in rules]
    assert f1 == pytest.approx([1 / 2, 1 / 2, 4 / 5])  # tp fp fn: 1 1 1, 1 1 1, 2 1 0


def test_landmark_errors_are_means_over_frames(tmp_path: Path, write_fold: Writer) -> None:
    write_fold(tmp_path / "fan", 1, {"subject": list("aab"), "nme": [0.02, 0.04, np.nan]}, task="landmarks", aus=[6])
    write_fold(tmp_path / "fan", 2, {"subject": list("ccdd"), "nme": [0.1, 0.1, 0.2, 0.2]}, task="landmarks", aus=[6])
    evaluation = evaluate(load_experiment(tmp_path / "fan"), resamples=50)
    assert evaluation.aus == []
    assert evaluation.known.tolist() == [6]
    assert evaluation.metrics.keys() == {"nme"}
    assert evaluation.metrics["nme"].folds == pytest.approx(np.array([[0.03, 0.03], [0.15, 0.15]]))
    assert column(evaluation, "nme") == pytest.approx({"landmarks": 0.09, "mean": 0.09})
    assert column(evaluation, "nme", "pooled")["mean"] == pytest.approx(0.66 / 6)
    assert np.isfinite(column(evaluation, "nme", part="low")["mean"])
    assert compare(evaluation, evaluation, "nme").value.tolist() == [0, 0]


def test_landmarks_that_were_not_found_are_refused(tmp_path: Path, write_fold: Writer) -> None:
    write_fold(tmp_path / "fan", 1, {"subject": ["a"], "nme": [np.inf]}, task="landmarks", aus=[6])
    with pytest.raises(DataError, match="not finite"):
        evaluate(load_experiment(tmp_path / "fan"))


def test_expressions_are_scored_as_sklearn_does(
    tmp_path: Path, write_fold: Writer, random_ledger: Writer, expression_ledger: Writer
) -> None:
    """Fold 2 never shows the last class; AUs stand beside the expressions."""
    folds = {fold: pd.DataFrame(expression_ledger(fold)) for fold in (1, 2)}
    folds[2].loc[folds[2]["expression_true"] == 2, "expression_true"] = 0
    aus = pd.DataFrame(random_ledger(1, subjects=5, frames=12))[["AU06_true", "AU06_prob"]]
    for fold, ledger in folds.items():
        write_fold(tmp_path / "run", fold, pd.concat([ledger, aus], axis=1), aus=[6])
    evaluation = evaluate(load_experiment(tmp_path / "run"), resamples=0)
    assert (evaluation.aus, evaluation.expressions) == ([6], ["Neutral", "Smile", "Scream"])
    assert column(evaluation, "f1")["AU06"] == pytest.approx(metrics.score(aus)["f1"]["AU06"])
    known = [ledger[ledger["expression_true"] >= 0] for ledger in folds.values()]
    pairs = [(t["expression_true"], t.filter(like="_prob").to_numpy().argmax(1)) for t in known]
    both = tuple(np.concatenate(part) for part in zip(*pairs, strict=True))
    accuracy = evaluation.metrics["expression_accuracy"]
    assert accuracy.folds[:, 0] == pytest.approx([sk.accuracy_score(*pair) for pair in pairs])
    assert column(evaluation, "expression_accuracy", "pooled")["mean"] == pytest.approx(sk.accuracy_score(*both))
    f1 = [sk.f1_score(*pair, average=None, labels=[0, 1, 2]) for pair in pairs]
    assert evaluation.metrics["expression_f1"].folds[0] == pytest.approx([*f1[0], f1[0].mean()])
    assert evaluation.metrics["expression_f1"].folds[1] == pytest.approx(
        [*f1[1][:2], np.nan, f1[1][:2].mean()], nan_ok=True
    )
    mean = column(evaluation, "expression_f1")
    assert mean["Smile"] == pytest.approx((f1[0][1] + f1[1][1]) / 2)
    assert mean["Scream"] == pytest.approx(f1[0][2])
    recall = sk.recall_score(*both, average=None)
    assert column(evaluation, "expression_recall", "pooled")["Scream"] == pytest.approx(recall[2])
    largest = [np.bincount(true).max() / len(true) for true, _ in pairs]
    assert column(evaluation, "majority_accuracy")["mean"] == pytest.approx(np.mean(largest))
    assert evaluation.class_frames.tolist() == np.bincount(both[0]).tolist()
    assert evaluation.unit == "subjects"


def test_pictures_of_nobody_known_are_resampled_one_by_one(
    tmp_path: Path, write_fold: Writer, expression_ledger: Writer
) -> None:
    write_fold(tmp_path / "run", 1, expression_ledger(1, subjects=40, frames=1), aus=[])
    evaluation = evaluate(load_experiment(tmp_path / "run"), resamples=50)
    assert evaluation.unit == "images"
    assert evaluation.to_dict()["bootstrap"]["unit"] == "images within folds"
    assert evaluation.aus == []
    assert evaluation.metrics.keys() == {
        *("expression_accuracy", "expression_f1", "expression_recall", "majority_accuracy")
    }


# ------------------------------------------------------------------------------------------------------ intervals


def test_bootstrap_equals_the_loop_over_resampled_frames(
    tmp_path: Path, write_fold: Writer, random_ledger: Writer
) -> None:
    ledgers = {fold: random_ledger(fold, subjects=4, frames=15) for fold in (1, 2)}
    for fold, ledger in ledgers.items():
        write_fold(tmp_path / "run", fold, ledger)
    evaluation = evaluate(load_experiment(tmp_path / "run"), resamples=20, seed=3)
    weights = {fold: np.random.default_rng([3, fold]).multinomial(4, np.full(4, 1 / 4), 20) for fold in ledgers}

    def draw(fold: int, resample: int) -> pd.DataFrame:
        frame = pd.DataFrame(ledgers[fold])
        by_subject = [rows for _, rows in frame.groupby("subject", sort=True)]
        copies = [rows for rows, times in zip(by_subject, weights[fold][resample], strict=True) for _ in range(times)]
        return pd.concat(copies)

    for metric in ("f1", "accuracy", "auc", "icc", "mae", "mse", "pcc"):
        for resample in range(20):
            drawn = [draw(fold, resample) for fold in ledgers]
            by_fold = np.array([list(metrics.score(frame)[metric].values()) for frame in drawn])
            loop = [*by_fold.mean(axis=0), by_fold.mean()]
            assert evaluation.metrics[metric].fold_mean.draws[resample] == pytest.approx(loop), metric
            together = list(metrics.score(pd.concat(drawn))[metric].values())
            assert evaluation.metrics[metric].pooled.draws[resample] == pytest.approx([*together, np.mean(together)])
        draws = evaluation.metrics[metric].fold_mean.draws
        assert evaluation.metrics[metric].fold_mean.low == pytest.approx(np.percentile(draws, 2.5, axis=0))
        assert evaluation.metrics[metric].fold_mean.high == pytest.approx(np.percentile(draws, 97.5, axis=0))


def test_bootstrap_of_expressions_equals_the_loop_over_resampled_frames(
    tmp_path: Path, write_fold: Writer, expression_ledger: Writer
) -> None:
    ledgers = {fold: pd.DataFrame(expression_ledger(fold, subjects=4)) for fold in (1, 2)}
    for fold, ledger in ledgers.items():
        write_fold(tmp_path / "run", fold, ledger, aus=[])
    evaluation = evaluate(load_experiment(tmp_path / "run"), resamples=20, seed=3)
    weights = {fold: np.random.default_rng([3, fold]).multinomial(4, np.full(4, 1 / 4), 20) for fold in ledgers}
    loop: dict[str, list[float]] = {"expression_accuracy": [], "expression_f1": [], "majority_accuracy": []}
    for resample in range(20):
        scores = []
        for fold, ledger in ledgers.items():
            parts = [rows for _, rows in ledger.groupby("subject", sort=True)]
            drawn = [part for part, n in zip(parts, weights[fold][resample], strict=True) for _ in range(n)]
            table = pd.concat(drawn)
            found = metrics.score(table)["expression"]
            scores.append((found["accuracy"], found["f1_mean"], metrics.trivial(table)["majority_accuracy"]))
        for metric, value in zip(loop, np.mean(scores, axis=0), strict=True):
            loop[metric].append(value)
    for metric, values in loop.items():
        assert evaluation.metrics[metric].fold_mean.draws[:, -1] == pytest.approx(values)
    low = np.percentile(loop["expression_accuracy"], 2.5)
    assert column(evaluation, "expression_accuracy", part="low")["mean"] == pytest.approx(low)


def test_resamples_that_lose_all_positives_are_counted(tmp_path: Path, write_fold: Writer) -> None:
    # Only subject a has the AU: a resample without a has no positives; that happens with (2/3)^3.
    ledger = {"subject": list("abc"), "AU01_true": [1, 0, 0], "AU01_prob": [0.9, 0.1, 0.1]}
    write_fold(tmp_path / "run", 1, ledger)
    evaluation = evaluate(load_experiment(tmp_path / "run"), resamples=2000)
    without_a = int((np.random.default_rng([0, 1]).multinomial(3, np.full(3, 1 / 3), 2000)[:, 0] == 0).sum())
    assert column(evaluation, "f1", part="lost")["AU01"] == without_a
    assert without_a / 2000 == pytest.approx((2 / 3) ** 3, abs=0.03)
    assert column(evaluation, "f1", part="low")["AU01"] == 1


def test_a_fold_that_never_had_positives_loses_none(two_folds: Path) -> None:
    evaluation = evaluate(load_experiment(two_folds), resamples=100)
    lost = column(evaluation, "f1", part="lost")
    assert lost["AU04"] == 0  # no fold has it
    only_b = np.random.default_rng([0, 1]).multinomial(2, [0.5, 0.5], 100)[:, 0] == 0
    assert lost["AU02"] == only_b.sum()  # fold 1 has it in subject a alone; fold 2 not at all


def test_single_subject_has_no_interval(tmp_path: Path, write_fold: Writer) -> None:
    write_fold(tmp_path / "run", 1, {"subject": ["a", "a"], "AU01_true": [1, 0], "AU01_prob": [0.9, 0.1]})
    evaluation = evaluate(load_experiment(tmp_path / "run"), resamples=100)
    assert np.isnan(evaluation.metrics["f1"].fold_mean.low).all()
    assert evaluation.metrics["f1"].fold_mean.value[-1] == 1


def test_people_of_two_datasets_with_one_name_are_two(tmp_path: Path, write_fold: Writer) -> None:
    """F001 of BP4D and F001 of BP4D+ are drawn apart: with two people, half of the resamples hold one of them alone."""
    ledger = {
        "dataset": ["bp4d", "bp4d", "bp4d_plus", "bp4d_plus"],
        "subject": ["F001"] * 4,
        "AU01_true": [1, 1, 1, 0],
        "AU01_prob": [0.9, 0.9, 0.1, 0.9],
    }
    write_fold(tmp_path / "run", 1, ledger)
    evaluation = evaluate(load_experiment(tmp_path / "run"), resamples=400)
    assert evaluation.subjects == {1: ["bp4d/F001", "bp4d_plus/F001"]}
    assert evaluation.subject_f1.ravel().tolist() == [1, 0]
    draws = evaluation.metrics["f1"].fold_mean.draws[:, 0]
    assert set(np.round(draws, 6)) == {0, round(2 / 3, 6), 1}  # tp 2, fp 1, fn 1 with both
    assert np.mean(draws == 1) == pytest.approx(0.25, abs=0.07)


def test_comparison_is_paired(tmp_path: Path, write_fold: Writer, random_ledger: Writer) -> None:
    for fold in (1, 2):
        write_fold(tmp_path / "good", fold, random_ledger(fold, skill=3))
        write_fold(tmp_path / "poor", fold, random_ledger(fold, skill=1))
    good, poor = (evaluate(load_experiment(tmp_path / name)) for name in ("good", "poor"))
    found = compare(good, poor, "f1")
    assert found.value == pytest.approx(good.metrics["f1"].fold_mean.value - poor.metrics["f1"].fold_mean.value)
    differences = good.metrics["f1"].fold_mean.draws - poor.metrics["f1"].fold_mean.draws
    assert found.low == pytest.approx(np.percentile(differences, 2.5, axis=0))
    assert not found.ties[-1]
    same = compare(good, good, "f1")
    assert same.ties.all()
    assert (same.high == 0).all()


def test_runs_are_compared_by_accuracy(tmp_path: Path, write_fold: Writer, expression_ledger: Writer) -> None:
    for name, skill in (("good", 4), ("poor", 1)):
        write_fold(tmp_path / name, 1, expression_ledger(1, skill=skill), aus=[])
    good, poor = (evaluate(load_experiment(tmp_path / name)) for name in ("good", "poor"))
    found = compare(good, poor, "expression_accuracy")
    a, b = (evaluation.metrics["expression_accuracy"].fold_mean for evaluation in (good, poor))
    assert found.value[-1] == pytest.approx(a.value[-1] - b.value[-1])
    assert found.low[-1] == pytest.approx(np.percentile(a.draws[:, -1] - b.draws[:, -1], 2.5))
    assert found.low[-1] > 0
    assert compare(good, poor, "expression_f1").names == ["Neutral", "Smile", "Scream", "mean"]


def test_comparison_of_other_subjects_is_refused(tmp_path: Path, write_fold: Writer, random_ledger: Writer) -> None:
    write_fold(tmp_path / "one", 1, random_ledger(1))
    write_fold(tmp_path / "other", 1, random_ledger(2))
    one, other = (evaluate(load_experiment(tmp_path / name)) for name in ("one", "other"))
    with pytest.raises(ValueError, match="different subjects"):
        compare(one, other, "f1")


def test_subject_f1_is_that_of_sklearn(tmp_path: Path, write_fold: Writer, random_ledger: Writer) -> None:
    ledger = random_ledger(1)
    write_fold(tmp_path / "run", 1, ledger)
    rows = (ledger["subject"] == "S11") & (ledger["AU12_true"] >= 0)
    expected = sk.f1_score(ledger["AU12_true"][rows], ledger["AU12_prob"][rows] >= 0.5)
    assert evaluate(load_experiment(tmp_path / "run"), resamples=0).subject_f1[1, 1] == pytest.approx(expected)


# ---------------------------------------------------------------------------------------------------- run folders


def test_unfinished_folds_are_listed_and_left_out(tmp_path: Path, write_fold: Writer, random_ledger: Writer) -> None:
    write_fold(tmp_path / "run", 1, random_ledger(1))
    write_fold(tmp_path / "run", 2, random_ledger(2), done=False)
    experiment = load_experiment(tmp_path / "run")
    assert experiment.folds == [1]
    assert experiment.incomplete == ("fold2-seed0",)


def test_damaged_files_are_named(tmp_path: Path, write_fold: Writer, random_ledger: Writer) -> None:
    path = write_fold(tmp_path / "run", 1, random_ledger(1))
    (path / "predictions.parquet").write_bytes(b"half a fi")
    with pytest.raises(DataError, match=r"fold1-seed0.predictions\.parquet: not a readable ledger") as caught:
        evaluate(load_experiment(tmp_path / "run"))
    assert "\n" not in str(caught.value)
    (path / "predictions.parquet").unlink()
    with pytest.raises(DataError, match=r"predictions\.parquet: no such ledger"):
        evaluate(load_experiment(tmp_path / "run"))
    (path / "result.json").write_text("{")
    with pytest.raises(DataError, match=r"result\.json: not readable"):
        load_experiment(tmp_path / "run")
    (path / "result.json").unlink()
    with pytest.raises(DataError, match=r"result\.json: not readable"):
        load_experiment(tmp_path / "run")


def test_diverged_predictions_are_refused(tmp_path: Path, write_fold: Writer) -> None:
    path = write_fold(tmp_path / "run", 1, {"subject": ["a"], "AU01_true": [1], "AU01_prob": [np.nan]})
    with pytest.raises(DataError, match="not finite") as caught:
        evaluate(load_experiment(tmp_path / "run"))
    assert str(path) in caught.value.remedy


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root, write, ledger: root.mkdir(), "no fold<k>-seed<s> folder"),
        (lambda root, write, ledger: write(root, 1, ledger, done=False), r"no finished fold .*fold1-seed0"),
        (lambda root, write, ledger: write(root, 0, ledger), "no finished fold"),
        (lambda root, write, ledger: (root / "fold1-seedx").mkdir(parents=True), "not of the form"),
        (
            lambda root, write, ledger: [write(root, k, ledger, label_threshold=k) for k in (1, 2)],
            "differ in label_threshold: 2 and 1",
        ),
    ],
)
def test_folders_that_are_no_experiment(
    tmp_path: Path, make: Any, said: str, write_fold: Writer, random_ledger: Writer
) -> None:
    make(tmp_path / "run", write_fold, random_ledger(1))
    with pytest.raises(DataError, match=said):
        load_experiment(tmp_path / "run")


def test_a_single_fold_is_sent_one_folder_up(tmp_path: Path, write_fold: Writer, random_ledger: Writer) -> None:
    path = write_fold(tmp_path / "run", 1, random_ledger(1))
    with pytest.raises(DataError, match="is a single fold") as caught:
        load_experiment(path)
    assert str(tmp_path / "run") in caught.value.remedy


def test_seeds_of_a_fold_must_hold_out_the_same_subjects(
    tmp_path: Path, write_fold: Writer, random_ledger: Writer
) -> None:
    write_fold(tmp_path / "run", 1, random_ledger(1), seed=0)
    write_fold(tmp_path / "run", 1, random_ledger(2), seed=1)
    with pytest.raises(DataError, match="hold out different subjects"):
        evaluate(load_experiment(tmp_path / "run"))
