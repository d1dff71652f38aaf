"""Scores of action units and expressions from a ledger: pure functions on NumPy arrays, computed once over all frames.

A ledger is a mapping of columns (a dict of arrays or a pandas DataFrame), one row a frame:

- occurrence: `AU01_true` in {-1, 0, 1} and `AU01_prob` in [0, 1];
- intensity: `AU01_true_level` in {-1, 0..5} and `AU01_level` (the scored level);
- expressions: `expression_true` in {-1, 0..K-1} and `expression_<Name>_prob` for each of the K classes, in their order;
- pseudo-intensity: `AU01_pseudo`, any number, beside `AU01_true_level` or `AU01_true`;
- a stage before AUs: `nme` (landmarks) or `loss`, one number a frame, NaN where there is no truth.

A label of -1 is unknown; its row is left out for that AU only. A score that cannot be computed is NaN, stays out of
the mean and is listed under `undefined`. Whether a score is undefined depends on the labels, never on the prediction,
so that a model cannot raise its mean by predicting nothing: F1 and average precision need a positive, ROC-AUC both
classes, PCC labels that vary; F1 and recall of an expression need a frame that shows it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from lightning_modules.common.errors import ModelError

Floats = NDArray[np.float64]

OCCURRENCE_METRICS = ("f1", "accuracy", "abaw2", "auc", "ap")
INTENSITY_METRICS = ("icc", "mae", "mse", "pcc")
RANKING_METRICS = ("rank",)
FRAME_METRICS = ("nme", "loss", "order")
LABEL_FACTS = ("prevalence", "positives", "n", "undefined")
LOGGED_AS = {"expression/accuracy": "accuracy"}  # AUs have accuracy_mean


class Ledger(Protocol):
    """Columns by name: a dict of arrays or a DataFrame."""

    def __getitem__(self, name: str, /) -> Any: ...
    def __iter__(self) -> Iterator[Any]: ...


def ledger_aus(columns: Iterable[str]) -> list[int]:
    """Action units that the ledger has predictions for (`AU01_prob` or `AU01_level`), ascending."""
    return sorted({int(found[1]) for name in columns if (found := re.fullmatch(r"AU(\d+)_(?:prob|level)", name))})


def occurrence_aus(columns: Iterable[str]) -> list[int]:
    """Action units that the ledger can score for occurrence, ascending."""
    present = set(columns)
    return [au for au in ledger_aus(present) if {f"AU{au:02d}_true", f"AU{au:02d}_prob"} <= present]


def intensity_aus(columns: Iterable[str]) -> list[int]:
    """Action units that the ledger can score for intensity, ascending."""
    present = set(columns)
    return [au for au in ledger_aus(present) if {f"AU{au:02d}_true_level", f"AU{au:02d}_level"} <= present]


def ranking_aus(columns: Iterable[str]) -> list[int]:
    """Action units whose pseudo-intensity the ledger has beside a label, ascending."""
    present = set(columns)
    found = (int(match[1]) for name in present if (match := re.fullmatch(r"AU(\d+)_pseudo", name)))
    return sorted(au for au in found if truth_of(present, au))


def truth_of(columns: Iterable[str], au: int) -> str | None:
    """The finer label column of an AU: its level, else its occurrence; None where there is neither."""
    present = set(columns)
    return next((name for name in (f"AU{au:02d}_true_level", f"AU{au:02d}_true") if name in present), None)


def expression_names(columns: Iterable[str]) -> list[str]:
    """Expression classes that the ledger can score, in the order of their labels."""
    present = list(columns)
    found = [match[1] for name in present if (match := re.fullmatch(r"expression_(.+)_prob", name))]
    return found if "expression_true" in present else []


def known_pairs(ledger: Ledger, true: str, predicted: str) -> tuple[NDArray[np.int64], Floats]:
    """Labels and predictions of the rows whose label is known.

    Args:
        ledger: The columns.
        true: Name of the label column; -1 is unknown.
        predicted: Name of the prediction column.

    Returns:
        Labels (n,) int64 and predictions (n,) float64.

    Raises:
        ModelError: A prediction beside a known label is not finite: the training has diverged.
    """
    labels = np.asarray(ledger[true]).astype(np.int64)
    known = labels >= 0
    scores = np.asarray(ledger[predicted])[known].astype(np.float64)
    if (broken := int((~np.isfinite(scores)).sum())) > 0:
        raise ModelError(
            f"{predicted}: {broken} of {scores.size} predictions are not finite",
            "the training has diverged: lower model.lr, or use trainer.precision=32",
        )
    return labels[known], scores


# ---------------------------------------------------------------------------------------------------- occurrence


def confusion(true: ArrayLike, prob: ArrayLike, threshold: float = 0.5) -> tuple[int, int, int, int]:
    """Counts (tp, fp, fn, tn) of `prob >= threshold`, compared in float64. `true` (n,) in {0, 1}."""
    positive = np.asarray(true) == 1
    called = np.asarray(prob, np.float64) >= threshold
    tp = int(np.sum(positive & called))
    fp = int(np.sum(called)) - tp
    fn = int(np.sum(positive)) - tp
    return tp, fp, fn, positive.size - tp - fp - fn


def f1_from_counts(tp: ArrayLike, fp: ArrayLike, fn: ArrayLike) -> Floats:
    """F1 = 2 tp / (2 tp + fp + fn), element by element; 0 where nothing was predicted, NaN without positives."""
    tp, fp, fn = (np.asarray(count, np.float64) for count in (tp, fp, fn))
    return np.where(tp + fn > 0, 2 * tp / np.maximum(2 * tp + fp + fn, 1), np.nan)


def operating_points(true: ArrayLike, prob: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Every decision that a threshold can make, from the strictest to the loosest.

    Args:
        true: (n,) in {0, 1}.
        prob: (n,) scores.

    Returns:
        The k distinct scores, descending, and the true and false positives of `prob >= score`; each (k,) float64.
    """
    true, prob = np.asarray(true), np.asarray(prob, np.float64)
    order = np.argsort(-prob, kind="stable")
    prob = prob[order]
    last = np.flatnonzero(np.append(prob[1:] != prob[:-1], True))[: prob.size]  # equal scores are one decision
    tp = np.cumsum(true[order] == 1, dtype=np.float64)[last]
    return prob[last], tp, last + 1 - tp


def roc_auc(true: ArrayLike, prob: ArrayLike) -> float:
    """Area under the ROC curve, ties counted half; NaN unless both classes occur. `true`, `prob` (n,)."""
    _, tp, fp = operating_points(true, prob)
    if tp.size == 0 or tp[-1] == 0 or fp[-1] == 0:
        return float("nan")
    return float(np.trapezoid(np.append(0, tp), np.append(0, fp)) / (tp[-1] * fp[-1]))


def average_precision(true: ArrayLike, prob: ArrayLike) -> float:
    """Mean precision over the recall steps, not interpolated; NaN without positives. `true`, `prob` (n,)."""
    _, tp, fp = operating_points(true, prob)
    if tp.size == 0 or tp[-1] == 0:
        return float("nan")
    return float(np.sum(np.diff(tp, prepend=0) * tp / (tp + fp)) / tp[-1])


def best_f1_threshold(true: ArrayLike, prob: ArrayLike) -> float:
    """The score at which `prob >= score` has the highest F1 (the strictest of equals); 0.5 without positives."""
    scores, tp, fp = operating_points(true, prob)
    if tp.size == 0 or tp[-1] == 0:
        return 0.5
    return float(scores[np.argmax(2 * tp / (tp + fp + tp[-1]))])


def break_even_threshold(true: ArrayLike, prob: ArrayLike) -> float:
    """The score at which precision and recall are nearest (of equals the highest F1); 0.5 without positives."""
    scores, tp, fp = operating_points(true, prob)
    if tp.size == 0 or tp[-1] == 0:
        return 0.5
    hits = np.flatnonzero(tp)  # before the first hit both are 0: equal, but no break-even point
    scores, tp, called, positives = scores[hits], tp[hits], (tp + fp)[hits], tp[-1]
    gap = np.abs(tp / called - tp / positives)
    return float(scores[np.lexsort((-2 * tp / (called + positives), gap))[0]])


def thresholds(ledger: Ledger, rule: Literal["f1", "break_even"] = "f1") -> dict[int, float]:
    """Threshold of each AU by `best_f1_threshold` or `break_even_threshold`, from the rows whose label is known."""
    choose = {"f1": best_f1_threshold, "break_even": break_even_threshold}[rule]
    return {au: choose(*known_pairs(ledger, f"AU{au:02d}_true", f"AU{au:02d}_prob")) for au in occurrence_aus(ledger)}


# ----------------------------------------------------------------------------------------------------- intensity


def icc31(ratings: ArrayLike) -> float:
    """ICC(3,1): two-way mixed effects, consistency, single rater (Shrout & Fleiss 1979).

    Args:
        ratings: (n, k) one row a target, one column a rater.

    Returns:
        (BMS - EMS) / (BMS + (k - 1) EMS); 0 where no rater varies (0 / 0); NaN for fewer than two rows or columns.
    """
    x = np.asarray(ratings, np.float64)
    n, k = x.shape
    if n < 2 or k < 2:
        return float("nan")
    if not np.ptp(x, axis=0).any():
        return 0.0
    centred = x - x.mean()
    between_rows = k * np.sum(centred.mean(axis=1) ** 2)
    between_columns = n * np.sum(centred.mean(axis=0) ** 2)
    bms = between_rows / (n - 1)
    ems = (np.sum(centred**2) - between_rows - between_columns) / ((n - 1) * (k - 1))
    return float((bms - ems) / (bms + (k - 1) * ems))


def pcc(true: ArrayLike, predicted: ArrayLike) -> float:
    """Pearson correlation of (n,) values; 0 for a constant prediction, NaN for constant labels."""
    a, b = np.asarray(true, np.float64), np.asarray(predicted, np.float64)
    if a.size < 2 or np.ptp(a) == 0:
        return float("nan")
    if np.ptp(b) == 0:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    return float(np.sum(a * b) / np.sqrt(np.sum(a**2) * np.sum(b**2)))


# --------------------------------------------------------------------------------------------------- expressions


def known_choices(ledger: Ledger, names: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels (n,) and most probable classes (n,) of the rows whose expression is known; of equals the first class.

    Raises:
        ModelError: As `known_pairs`.
    """
    pairs = [known_pairs(ledger, "expression_true", f"expression_{name}_prob") for name in names]
    return pairs[0][0], np.stack([prob for _, prob in pairs], axis=1).argmax(axis=1)


def class_confusion(true: ArrayLike, choice: ArrayLike, classes: int) -> NDArray[np.int64]:
    """(K, K) number of frames of the class of the row that were called the class of the column."""
    pairs = np.asarray(true, np.int64) * classes + np.asarray(choice, np.int64)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def class_scores(confusion: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Accuracy (...), F1 and recall (..., K) of confusion matrices (..., K, K); NaN for a class without frames."""
    table = np.asarray(confusion, np.float64)
    hits, shown = np.diagonal(table, axis1=-2, axis2=-1), table.sum(axis=-1)
    frames = shown.sum(axis=-1)
    accuracy = np.where(frames > 0, hits.sum(axis=-1) / np.maximum(frames, 1), np.nan)
    recall = np.where(shown > 0, hits / np.maximum(shown, 1), np.nan)
    return accuracy, f1_from_counts(hits, table.sum(axis=-2) - hits, shown - hits), recall


def score_expressions(ledger: Ledger) -> dict[str, Any]:
    """Scores of the most probable class, over the frames whose expression is known.

    Returns:
        `accuracy`; per class `f1`, `recall` and the known frames `n`; `f1_mean` and `recall_mean`, means over the
        classes that occur (macro F1, balanced accuracy); `undefined`: metric -> classes with NaN.
    """
    names = expression_names(ledger)
    table = class_confusion(*known_choices(ledger, names), len(names))
    accuracy, f1, recall = class_scores(table)
    scores: dict[str, Any] = {"accuracy": float(accuracy)}
    for metric, values in (("f1", f1), ("recall", recall)):
        scores[f"{metric}_mean"] = float(mean_defined(values))
        scores[metric] = dict(zip(names, values.tolist(), strict=True))
    scores["n"] = dict(zip(names, table.sum(axis=1).tolist(), strict=True))
    absent = [name for name, n in scores["n"].items() if n == 0]
    return scores | {"undefined": {"f1": absent, "recall": absent} if absent else {}}


# ------------------------------------------------------------------------------------------------------- rankings


def rank_correlation(level: ArrayLike, pseudo: ArrayLike) -> float:
    """Spearman's correlation of (n,) values, ties by their mean rank; 0 for a constant prediction, NaN for labels."""
    return pcc(rankdata(level), rankdata(pseudo))


def videos(ledger: Ledger) -> NDArray[np.int64]:
    """(n,) number of the video of every row: of its dataset, subject and sequence."""
    code = np.zeros(len(np.asarray(ledger["subject"])), np.int64)
    for name in ("dataset", "subject", "sequence"):
        if name in set(ledger):
            names, of = np.unique(np.asarray(ledger[name]).astype(str), return_inverse=True)
            code = np.unique(code * len(names) + of, return_inverse=True)[1]
    return code


def groups(code: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows of every group of (n,) codes."""
    order = np.argsort(code, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(code[order])) + 1) if len(code) else []


# --------------------------------------------------------------------------------------------- one number a frame


def landmark_error(landmarks: ArrayLike, predicted: ArrayLike) -> Floats:
    """Mean distance of the known landmarks over the distance of the outer eye corners (36 and 45), frame by frame.

    Args:
        landmarks: (n, 68, 2), NaN unknown.
        predicted: (n, 68, 2) in the same pixels.

    Returns:
        (n,); NaN where an eye corner is unknown, infinite where a known landmark has no finite prediction.
    """
    landmarks, predicted = np.asarray(landmarks, np.float64), np.asarray(predicted, np.float64)
    with np.errstate(invalid="ignore"):
        distance = np.linalg.norm(predicted - landmarks, axis=-1)
        ruler = np.linalg.norm(landmarks[:, 36] - landmarks[:, 45], axis=-1)
    known = np.isfinite(landmarks).all(axis=-1)
    distance = np.where(known & ~np.isfinite(distance), np.inf, np.where(known, distance, 0))
    ruler[~(ruler > 0)] = np.nan
    return distance.sum(axis=-1) / np.maximum(known.sum(axis=-1), 1) / ruler


# -------------------------------------------------------------------------------------------------- whole ledgers


def mean_defined(values: ArrayLike, axis: int = -1) -> Floats:
    """Mean over an axis of the values that are not NaN; NaN where there is none."""
    values = np.asarray(values, np.float64)
    defined = ~np.isnan(values)
    count = defined.sum(axis=axis)
    return np.where(count > 0, np.where(defined, values, 0).sum(axis=axis) / np.maximum(count, 1), np.nan)


def score(ledger: Ledger, threshold: float | Mapping[int, float] = 0.5) -> dict[str, Any]:
    """All scores of a ledger.

    Args:
        ledger: Columns as the module describes, (n,) each.
        threshold: An AU is called present when `prob >= threshold` in float64; one number, or one per AU.

    Returns:
        Per metric the per-AU values and their mean, `{"f1": {"AU01": x, ...}, "f1_mean": x, ...}`: f1, accuracy, auc
        and ap where occurrence is predicted, and abaw2, the mean of f1 and accuracy; icc, mae, mse and pcc where
        intensity is; rank, the mean over videos of Spearman's correlation, where pseudo-intensity is. Beside them per
        AU, without a mean, `prevalence` and `positives` (occurrence) and `n`, the known frames; `undefined`: metric ->
        AUs with NaN. `nme`, `loss` and `order`, where the ledger has them: their mean over the frames that have one.
        `expression`, where expressions are predicted: see `score_expressions`.

    Raises:
        ModelError: A prediction beside a known label is not finite, or an error is infinite.
    """
    per_au: dict[str, dict[str, float]] = {}
    facts: dict[str, dict[str, float]] = {}
    for au in occurrence_aus(ledger):
        name = f"AU{au:02d}"
        true, prob = known_pairs(ledger, f"{name}_true", f"{name}_prob")
        tp, fp, fn, tn = confusion(true, prob, threshold[au] if isinstance(threshold, Mapping) else threshold)
        values = {
            "f1": float(f1_from_counts(tp, fp, fn)),
            "accuracy": (tp + tn) / true.size if true.size else float("nan"),
            "abaw2": float(f1_from_counts(tp, fp, fn) + (tp + tn) / max(true.size, 1)) / 2,
            "auc": roc_auc(true, prob),
            "ap": average_precision(true, prob),
        }
        for metric, value in values.items():
            per_au.setdefault(metric, {})[name] = value
        facts.setdefault("prevalence", {})[name] = (tp + fn) / true.size if true.size else float("nan")
        facts.setdefault("positives", {})[name] = tp + fn
        facts.setdefault("n", {})[name] = int(true.size)
    for au in intensity_aus(ledger):
        name = f"AU{au:02d}"
        true, level = known_pairs(ledger, f"{name}_true_level", f"{name}_level")
        error = true - level
        values = {
            "icc": icc31(np.stack([true, level], axis=1)),
            "mae": float(np.mean(np.abs(error))) if true.size else float("nan"),
            "mse": float(np.mean(error**2)) if true.size else float("nan"),
            "pcc": pcc(true, level),
        }
        for metric, value in values.items():
            per_au.setdefault(metric, {})[name] = value
        facts.setdefault("n", {}).setdefault(name, int(true.size))
    if aus := ranking_aus(ledger):
        video = videos(ledger)
        for au in aus:
            name = f"AU{au:02d}"
            known = np.asarray(ledger[str(truth_of(ledger, au))]) >= 0
            true, pseudo = known_pairs(ledger, str(truth_of(ledger, au)), f"{name}_pseudo")
            of_videos = [rank_correlation(true[rows], pseudo[rows]) for rows in groups(video[known])]
            per_au.setdefault("rank", {})[name] = float(mean_defined(of_videos))
            facts.setdefault("n", {}).setdefault(name, int(true.size))
    scores: dict[str, Any] = {}
    for metric, by_au in per_au.items():
        scores[f"{metric}_mean"] = float(mean_defined(list(by_au.values())))
        scores[metric] = by_au
    for metric in FRAME_METRICS:
        if metric in set(ledger):
            numbers = np.asarray(ledger[metric], np.float64)
            if np.isinf(numbers).any():
                raise ModelError(
                    f"{metric} of {np.isinf(numbers).sum()} of {numbers.size} frames is infinite",
                    "the training has diverged: lower model.lr, or use trainer.precision=32",
                )
            scores[metric] = float(mean_defined(numbers))
    if expression_names(ledger):
        scores["expression"] = score_expressions(ledger)
    undefined = {m: [au for au, value in by_au.items() if np.isnan(value)] for m, by_au in per_au.items()}
    return {**scores, **facts, "undefined": {metric: aus for metric, aus in undefined.items() if aus}}


def trivial(ledger: Ledger) -> dict[str, Any]:
    """What a predictor that looks at no image scores on this ledger.

    Returns:
        Per AU and as mean (`*_mean`): `all_positive_f1` = 2p / (1 + p) at prevalence p and `all_negative_accuracy`
        = 1 - p where occurrence is predicted, `all_zero_mae` = the mean level where intensity is. `majority_accuracy`:
        the share of the most frequent expression among these labels, which no constant answer exceeds.
    """
    values: dict[str, dict[str, float]] = {}
    for au in occurrence_aus(ledger):
        name = f"AU{au:02d}"
        true, _ = known_pairs(ledger, f"{name}_true", f"{name}_prob")
        positives = int(np.sum(true == 1))
        values.setdefault("all_positive_f1", {})[name] = float(f1_from_counts(positives, true.size - positives, 0))
        values.setdefault("all_negative_accuracy", {})[name] = 1 - positives / true.size if true.size else float("nan")
    for au in intensity_aus(ledger):
        name = f"AU{au:02d}"
        true, _ = known_pairs(ledger, f"{name}_true_level", f"{name}_level")
        values.setdefault("all_zero_mae", {})[name] = float(np.mean(true)) if true.size else float("nan")
    result: dict[str, Any] = {}
    for metric, by_au in values.items():
        result[metric] = by_au
        result[f"{metric}_mean"] = float(mean_defined(list(by_au.values())))
    if names := expression_names(ledger):
        true, _ = known_choices(ledger, names)
        result["majority_accuracy"] = float(np.bincount(true).max() / true.size) if true.size else float("nan")
    return result


def flatten(scores: Mapping[str, Any]) -> dict[str, float]:
    """Nested scores as flat names to log, without the facts of the labels, which never change.

    `f1_mean`, `f1/AU12`; `accuracy`, `expression/f1_mean`, `expression/f1/Fear`.
    """
    flat: dict[str, float] = {}
    for name, value in scores.items():
        if name in LABEL_FACTS:
            continue
        if isinstance(value, Mapping):
            flat |= {f"{name}/{key}": number for key, number in flatten(value).items()}
        elif isinstance(value, int | float | np.number):
            flat[name] = float(value)
    return {LOGGED_AS.get(name, name): value for name, value in flat.items()}


def to_json(value: Any) -> Any:
    """Plain JSON values of any nesting of mappings, sequences and NumPy values; NaN and infinities become None."""
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | np.ndarray):
        return [to_json(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
