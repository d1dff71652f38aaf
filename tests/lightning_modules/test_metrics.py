"""Scores against scikit-learn, torchmetrics, published worked examples and numbers worked by hand."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import torchmetrics.functional.classification as tm
from scipy import stats
from sklearn import metrics as sk

from lightning_modules.common import metrics
from lightning_modules.common.errors import ModelError

# Ratings of six targets by four judges, and of eight frames by label and prediction.
SHROUT_FLEISS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])
LEVELS = np.array([0, 1, 2, 3, 4, 5, 0, 2]), np.array([0, 1, 1, 3, 5, 4, 1, 2])


def draw(seed: int, n: int = 400, rate: float = 0.3, levels: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Labels and coarse scores with many ties that carry some signal."""
    rng = np.random.default_rng(seed)
    true = (rng.random(n) < rate).astype(np.int64)
    return true, np.round(np.clip(rng.normal(0.4 + 0.15 * true, 0.2), 0, 1) * levels) / levels


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rate", [0.02, 0.3, 0.9])
def test_occurrence_scores_equal_sklearn(seed: int, rate: float) -> None:
    true, prob = draw(seed, rate=rate)
    scores = metrics.score({"AU06_true": true, "AU06_prob": prob}, threshold=0.45)
    called = prob >= 0.45
    assert scores["f1"]["AU06"] == pytest.approx(sk.f1_score(true, called), abs=1e-12)
    assert scores["accuracy"]["AU06"] == pytest.approx(sk.accuracy_score(true, called), abs=1e-12)
    assert scores["auc"]["AU06"] == pytest.approx(sk.roc_auc_score(true, prob), abs=1e-12)
    assert scores["ap"]["AU06"] == pytest.approx(sk.average_precision_score(true, prob), abs=1e-12)
    assert scores["prevalence"]["AU06"] == true.mean()
    assert (scores["positives"]["AU06"], scores["n"]["AU06"]) == (true.sum(), true.size)
    assert scores["undefined"] == {}


def test_scores_equal_torchmetrics_with_unknown_labels() -> None:
    true, prob = draw(7)
    true[::5] = -1
    scores = metrics.score({"AU12_true": true, "AU12_prob": prob}, threshold=0.48)  # torchmetrics: prob > threshold
    label, score = torch.tensor(true), torch.tensor(prob)
    f1 = tm.binary_f1_score(score, label, threshold=0.48, ignore_index=-1)
    assert scores["f1"]["AU12"] == pytest.approx(float(f1), abs=1e-6)
    assert scores["auc"]["AU12"] == pytest.approx(float(tm.binary_auroc(score, label, ignore_index=-1)), abs=1e-6)
    assert scores["ap"]["AU12"] == pytest.approx(
        float(tm.binary_average_precision(score, label, ignore_index=-1)), abs=1e-6
    )


def test_unknown_labels_are_left_out_for_their_au_only() -> None:
    ledger = {
        "AU01_true": np.array([1, -1, 0, 1]),
        "AU01_prob": np.array([0.9, 0.9, 0.1, 0.1]),
        "AU02_true": np.array([1, 1, 0, 0]),
        "AU02_prob": np.array([0.9, 0.9, 0.1, 0.9]),
    }
    scores = metrics.score(ledger)
    assert scores["f1"] == {"AU01": pytest.approx(2 / 3), "AU02": pytest.approx(4 / 5)}
    assert scores["f1_mean"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert scores["accuracy"] == {"AU01": pytest.approx(2 / 3), "AU02": pytest.approx(3 / 4)}
    assert scores["n"] == {"AU01": 3, "AU02": 4}


def test_undefined_scores_are_nan_listed_and_outside_the_mean() -> None:
    ledger = {
        "AU01_true": np.array([0, 0, 0]),  # no positive: no F1, AP, AUC
        "AU01_prob": np.array([0.1, 0.9, 0.2]),
        "AU02_true": np.array([1, 1, 1]),  # no negative: no AUC
        "AU02_prob": np.array([0.1, 0.9, 0.2]),
        "AU04_true": np.array([-1, -1, -1]),  # nothing known
        "AU04_prob": np.array([0.1, 0.9, 0.2]),
        "AU06_true": np.array([0, 1, 0]),  # nothing predicted: F1 is 0, not undefined
        "AU06_prob": np.array([0.1, 0.2, 0.3]),
    }
    scores = metrics.score(ledger)
    assert scores["undefined"] == {
        "f1": ["AU01", "AU04"],
        "abaw2": ["AU01", "AU04"],
        "accuracy": ["AU04"],
        "auc": ["AU01", "AU02", "AU04"],
        "ap": ["AU01", "AU04"],
    }
    assert scores["f1"]["AU06"] == 0
    assert scores["f1_mean"] == pytest.approx((1 / 2 + 0) / 2)
    assert scores["auc_mean"] == 0.5


def test_all_undefined_mean_is_nan_without_a_warning() -> None:
    scores = metrics.score({"AU01_true": np.zeros(4, int), "AU01_prob": np.zeros(4)})
    assert np.isnan(scores["f1_mean"])
    assert np.isnan(scores["auc_mean"])


def test_empty_ledger_is_undefined_everywhere() -> None:
    ledger = {"AU01_true": np.array([], int), "AU01_prob": np.array([]), "AU01_true_level": [], "AU01_level": []}
    scores = metrics.score(ledger)
    assert set(scores["undefined"]) == {"f1", "accuracy", "abaw2", "auc", "ap", "icc", "mae", "mse", "pcc"}


def test_threshold_is_inclusive_in_float64_and_may_differ_by_au() -> None:
    prob = np.array([0.5, np.nextafter(np.float64(0.5), 0), 0.7])
    ledger = {f"AU{au:02d}_{kind}": value for au in (1, 2) for kind, value in (("true", [1, 1, 0]), ("prob", prob))}
    scores = metrics.score(ledger, {1: 0.5, 2: 0.6})
    assert scores["f1"] == {"AU01": 0.5, "AU02": 0.0}
    # In float32 the score just under one half would have become one half.
    assert metrics.confusion([1], np.float32([0.3]), float(np.float32(0.3))) == (1, 0, 0, 0)


def test_dataframe_is_a_ledger() -> None:
    frame = pd.DataFrame({"subject": ["a", "b"], "AU25_true": [0, 1], "AU25_prob": np.float32([0.2, 0.8])})
    assert metrics.ledger_aus(frame.columns) == [25]
    assert metrics.score(frame)["f1_mean"] == 1


def test_diverged_prediction_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"AU01_prob: 1 of 2 predictions") as caught:
        metrics.score({"AU01_true": [0, 1, -1], "AU01_prob": [0.1, np.nan, np.nan]})
    assert "lr" in caught.value.remedy


# ---------------------------------------------------------------------------------------------------- thresholds


@pytest.mark.parametrize("seed", range(10))
def test_best_f1_threshold_beats_every_other_score(seed: int) -> None:
    true, prob = draw(seed, n=60)
    chosen = metrics.best_f1_threshold(true, prob)
    reachable = {threshold: sk.f1_score(true, prob >= threshold) for threshold in np.unique(prob)}
    assert reachable[chosen] == max(reachable.values())


@pytest.mark.parametrize("seed", range(10))
def test_break_even_threshold_has_the_smallest_gap(seed: int) -> None:
    true, prob = draw(seed, n=60)
    chosen = metrics.break_even_threshold(true, prob)

    def gap(threshold: float) -> float:
        return abs(sk.precision_score(true, prob >= threshold) - sk.recall_score(true, prob >= threshold))

    candidates = [t for t in np.unique(prob) if true[prob >= t].any()]
    assert gap(chosen) == pytest.approx(min(gap(t) for t in candidates), abs=1e-12)


def test_break_even_ignores_the_start_where_nothing_is_hit() -> None:
    # At 0.9 precision and recall are both 0; at 0.7 both are 1/2.
    assert metrics.break_even_threshold([0, 1, 1, 0], [0.9, 0.7, 0.3, 0.1]) == 0.7


@pytest.mark.parametrize("choose", [metrics.best_f1_threshold, metrics.break_even_threshold])
@pytest.mark.parametrize("true", [[], [0, 0]])
def test_threshold_without_positives_is_one_half(choose, true) -> None:
    assert choose(true, np.linspace(0.1, 0.2, len(true))) == 0.5


# ----------------------------------------------------------------------------------------------------- intensity


def test_icc_of_shrout_and_fleiss() -> None:
    assert metrics.icc31(SHROUT_FLEISS) == pytest.approx(0.714841, abs=5e-7)


def test_intensity_scores_of_the_worked_vector() -> None:
    true, level = LEVELS
    scores = metrics.score({"AU04_true_level": np.append(true, -1), "AU04_level": np.append(level, 5)})
    assert scores["icc"]["AU04"] == pytest.approx(0.908571, abs=5e-7)
    assert scores["mae"]["AU04"] == 0.5
    assert scores["mse"]["AU04"] == pytest.approx(sk.mean_squared_error(true, level))
    assert scores["pcc"]["AU04"] == pytest.approx(stats.pearsonr(true, level).statistic)
    assert scores["n"]["AU04"] == 8


def test_icc_of_two_raters_is_the_closed_form_and_ignores_bias() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=200)
    b = 0.7 * a + rng.normal(size=200)
    cov = np.cov(a, b)
    assert metrics.icc31(np.stack([a, b], 1)) == pytest.approx(2 * cov[0, 1] / (cov[0, 0] + cov[1, 1]))
    assert metrics.icc31(np.stack([a, b + 100], 1)) == pytest.approx(metrics.icc31(np.stack([a, b], 1)))


@pytest.mark.parametrize(
    ("true", "level", "icc", "correlation"),
    [
        ([0, 0, 0], [0, 0, 0], 0, np.nan),
        ([0, 0, 0], [2, 2, 2], 0, np.nan),
        ([0, 0, 0], [0, 1, 0], 0, np.nan),
        ([0, 3, 1], [0, 0, 0], 0, 0),
        ([0, 3, 1], [0, 3, 1], 1, 1),
        ([2], [2], np.nan, np.nan),
    ],
)
def test_degenerate_intensities(true, level, icc, correlation) -> None:
    scores = metrics.score({"AU04_true_level": true, "AU04_level": level})
    assert scores["icc"]["AU04"] == pytest.approx(icc, nan_ok=True)
    assert scores["pcc"]["AU04"] == pytest.approx(correlation, nan_ok=True)


# ------------------------------------------------------------------------------------------------- trivial, plain


def test_trivial_predictors_are_the_scores_of_constant_predictions() -> None:
    true, _ = draw(3)
    levels = np.where(true == 1, 3, 0)
    found = metrics.trivial(
        {"AU01_true": true, "AU01_prob": true * 1.0, "AU01_true_level": levels, "AU01_level": levels}
    )
    assert found["all_positive_f1"]["AU01"] == pytest.approx(sk.f1_score(true, np.ones_like(true)))
    assert found["all_negative_accuracy_mean"] == pytest.approx(sk.accuracy_score(true, np.zeros_like(true)))
    assert found["all_zero_mae"]["AU01"] == pytest.approx(3 * true.mean())


def test_trivial_of_an_au_without_positives_is_undefined() -> None:
    found = metrics.trivial({"AU01_true": [0, 0], "AU01_prob": [0.1, 0.2], "AU02_true": [0, 1], "AU02_prob": [0, 1]})
    assert np.isnan(found["all_positive_f1"]["AU01"])
    assert found["all_positive_f1_mean"] == pytest.approx(2 / 3)


def test_flatten_names_scalars_only() -> None:
    scores = metrics.score({"AU01_true": [0, 0, -1], "AU01_prob": [0.1, 0.2, 0.3]})
    flat = metrics.flatten(scores)
    assert flat["accuracy/AU01"] == 1
    assert flat["accuracy_mean"] == 1
    assert np.isnan(flat["f1/AU01"])
    assert all(isinstance(value, float) for value in flat.values())
    assert {name.split("/")[0].removesuffix("_mean") for name in flat} == {"f1", "accuracy", "abaw2", "auc", "ap"}


def test_to_json_writes_null_for_nan_and_plain_types() -> None:
    value = {"a": np.float32(0.5), "b": [np.nan, np.int64(3)], "c": {"d": np.array([[1, 2]])}, "e": True, "f": None}
    text = json.dumps(metrics.to_json(value), allow_nan=False)
    assert json.loads(text) == {"a": 0.5, "b": [None, 3], "c": {"d": [[1, 2]]}, "e": True, "f": None}


def test_thresholds_ignore_unknown_labels_and_keep_a_half_without_positives() -> None:
    table = pd.DataFrame(
        {
            "AU01_true": [1, 1, 0, 0, -1],
            "AU01_prob": [0.8, 0.4, 0.3, 0.1, 0.99],
            "AU02_true": [0, 0, 0, -1, -1],
            "AU02_prob": [0.9, 0.1, 0.1, 0.9, 0.9],
        }
    )
    chosen = metrics.thresholds(table, "f1")
    assert 0.3 < chosen[1] <= 0.4
    assert chosen[2] == 0.5


# ---------------------------------------------------------------------------------------------------- expressions

CLASSES = ("Neutral", "Fear", "Other", "Smile")


def expression_ledger(seed: int, absent: int | None = None, n: int = 300) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    true = rng.choice([-1, 0, 0, 1, 2, 3], n)
    true[true == absent] = 0
    prob = rng.dirichlet(np.ones(len(CLASSES)), n) + np.eye(len(CLASSES))[true]
    prob[::7] = 0.25  # ties go to the first class
    return {"expression_true": true, **{f"expression_{name}_prob": prob[:, k] for k, name in enumerate(CLASSES)}}


@pytest.mark.parametrize("absent", [None, 2])
@pytest.mark.parametrize("seed", range(3))
def test_expression_scores_equal_sklearn(seed: int, absent: int | None) -> None:
    ledger = expression_ledger(seed, absent)
    scores = metrics.score(ledger)["expression"]
    known = ledger["expression_true"] >= 0
    true = ledger["expression_true"][known]
    choice = np.stack([ledger[f"expression_{name}_prob"] for name in CLASSES], 1)[known].argmax(1)
    present = [k for k in range(4) if k != absent]
    assert scores["accuracy"] == pytest.approx(sk.accuracy_score(true, choice))
    assert scores["f1_mean"] == pytest.approx(sk.f1_score(true, choice, labels=present, average="macro"))
    assert scores["recall_mean"] == pytest.approx(sk.recall_score(true, choice, labels=present, average="macro"))
    for metric, reference in (("f1", sk.f1_score), ("recall", sk.recall_score)):
        expected = reference(true, choice, labels=present, average=None)
        assert [scores[metric][CLASSES[k]] for k in present] == pytest.approx(expected.tolist())
    assert scores["n"] == {name: int((true == k).sum()) for k, name in enumerate(CLASSES)}
    nothing = [] if absent is None else ["Other"]
    assert scores["undefined"] == ({"f1": nothing, "recall": nothing} if nothing else {})
    assert [name for name, value in scores["f1"].items() if np.isnan(value)] == nothing
    table = metrics.class_confusion(true, choice, 4)
    assert (table == sk.confusion_matrix(true, choice, labels=range(4))).all()
    largest = np.bincount(true).max() / true.size
    assert metrics.trivial(ledger)["majority_accuracy"] == pytest.approx(largest)


def test_expressions_stand_beside_aus_and_have_one_name_in_the_log() -> None:
    ledger = {**expression_ledger(0), "AU06_true": np.ones(300, int), "AU06_prob": np.full(300, 0.9)}
    scores = metrics.score(ledger)
    assert (scores["f1_mean"], scores["accuracy"]) == (1, {"AU06": 1})
    flat = metrics.flatten(scores)
    assert flat["accuracy"] == scores["expression"]["accuracy"] < 1
    assert flat["expression/recall/Fear"] == scores["expression"]["recall"]["Fear"]
    assert not {"expression/accuracy", "expression/n/Fear"} & set(flat)
    json.dumps(metrics.to_json(scores), allow_nan=False)


def test_unlabelled_expressions_are_undefined() -> None:
    ledger = expression_ledger(0) | {"expression_true": np.full(300, -1)}
    assert np.isnan(metrics.score(ledger)["expression"]["accuracy"])
    assert np.isnan(metrics.trivial(ledger)["majority_accuracy"])
    assert metrics.expression_names({"expression_Fear_prob": 0}) == []  # no labels: nothing to score


def test_diverged_expressions_are_refused() -> None:
    ledger = expression_ledger(0)
    ledger["expression_Fear_prob"][ledger["expression_true"] >= 0] = np.nan
    with pytest.raises(ModelError, match="expression_Fear_prob"):
        metrics.score(ledger)


# ------------------------------------------------------------------------------------------------------------ rankings


def test_rank_correlation_is_spearmans_within_each_video() -> None:
    coin = np.random.default_rng(0)
    video = np.repeat(["a", "b", "c", "d"], [30, 20, 10, 5])
    level = coin.integers(0, 6, 65)
    level[50:60] = 2  # constant in c
    level[3:9] = -1
    pseudo = level + coin.normal(size=65)
    pseudo[60:] = 1.0  # constant in d
    level[60:] = range(5)
    ledger = {"subject": video, "sequence": video, "AU06_true_level": level, "AU06_pseudo": pseudo}
    scores = metrics.score(ledger)
    expected = [stats.spearmanr(level[r], pseudo[r]).statistic for r in ((video == "a") & (level >= 0), video == "b")]
    assert scores["rank"]["AU06"] == pytest.approx(np.mean([*expected, 0.0]))
    assert scores["rank_mean"] == scores["rank"]["AU06"]
    assert "f1" not in scores
    occurrence = {"subject": video, "sequence": video, "AU06_true": np.sign(level), "AU06_pseudo": pseudo}
    assert metrics.score(occurrence)["rank"]["AU06"] != scores["rank"]["AU06"]


def test_videos_are_told_apart_by_dataset_and_subject() -> None:
    ledger = {"dataset": list("xxyyy"), "subject": list("sstss"), "sequence": list("12111")}
    assert [rows.tolist() for rows in metrics.groups(metrics.videos(ledger))] == [[0], [1], [3, 4], [2]]
    assert metrics.groups(np.zeros(0, int)) == []


def test_the_metric_of_abaw2_is_the_mean_of_f1_and_accuracy() -> None:
    true, prob = np.array([1, 1, 0, 0, 0, -1]), np.array([0.9, 0.2, 0.8, 0.1, 0.3, 0.9])
    scores = metrics.score({"subject": list("aaaaaa"), "AU01_true": true, "AU01_prob": prob})
    assert scores["abaw2"]["AU01"] == pytest.approx((0.5 + 3 / 5) / 2)  # tp 1, fp 1, fn 1; 3 of 5 right
    never = {"subject": list("aa"), "AU01_true": [0, 0], "AU01_prob": [0.1, 0.2]}
    assert np.isnan(metrics.score(never)["abaw2"]["AU01"])
