"""Scores of an experiment from its ledgers: by fold, mean of folds, pooled, with intervals over subjects.

Aggregation: per AU the mean over the folds in which it is defined, then the mean over AUs. Intervals: subjects are
drawn with replacement within each fold; the networks stay as they are, so training variance is not in the interval.

Every metric but average precision is a function of sums over subjects (ROC-AUC: over pairs of subjects), so that a
resample costs one product of weights and sums, whatever the number of frames.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datamodules.errors import DataError
from experiments.ledgers import Experiment, FoldRun, persons
from lightning_modules.common.metrics import (
    INTENSITY_METRICS,
    OCCURRENCE_METRICS,
    RANKING_METRICS,
    Floats,
    average_precision,
    expression_names,
    f1_from_counts,
    groups,
    intensity_aus,
    mean_defined,
    occurrence_aus,
    rank_correlation,
    ranking_aus,
    truth_of,
    videos,
)
from lightning_modules.common.metrics import (
    thresholds as best_thresholds,
)

Aggregation = Literal["fold_mean", "pooled"]
Thresholds = Callable[[FoldRun], Mapping[int, float]]
_Weights = Mapping[int, NDArray[Any]]  # fold -> (R, S of the fold)

# ICC is a ratio of variances that a single fold estimates badly; all others follow the papers' mean of folds.
HEADLINE: dict[str, Aggregation] = {"icc": "pooled"}
# What the ledger is scored for -> column that knows the labels, and metrics: own ones, then of trivial predictors.
TRUTH = {
    **{"occurrence": "true", "intensity": "true_level", "ranking": "ranked"},
    **{"landmarks": "known", "expression": "no_au"},
}
METRICS = {
    "occurrence": (*OCCURRENCE_METRICS, "all_positive_f1", "all_negative_accuracy"),
    "intensity": (*INTENSITY_METRICS, "all_zero_mae"),
    "ranking": RANKING_METRICS,
    "landmarks": ("nme",),
    "expression": ("expression_accuracy", "expression_f1", "expression_recall", "majority_accuracy"),
}
WHOLE = {"nme": "landmarks", "expression_accuracy": "expressions", "majority_accuracy": "expressions"}  # one column
BY_CLASS = ("expression_f1", "expression_recall")


@dataclass(frozen=True)
class Aggregate:
    """One number a column, A of them and then their mean: see `Evaluation.columns`.

    Attributes:
        value: (A + 1,) on the ledgers as they are.
        low: (A + 1,) lower end of the 95 % interval.
        high: (A + 1,) upper end.
        lost: (A + 1,) resamples in which a fold that defines the score lost it (no positives drawn).
        draws: (R, A + 1) the resampled values.
        seed_sd: (A + 1,) standard deviation over the seeds that have all folds; NaN for fewer than two.
    """

    value: Floats
    low: Floats
    high: Floats
    lost: NDArray[np.int64]
    draws: Floats
    seed_sd: Floats


@dataclass(frozen=True)
class MetricScores:
    """One metric: `folds` (F, A + 1) mean over seeds, `fold_sd` its spread, and both aggregates.

    `single` has the mean over AUs or classes of every fold and seed alone.
    """

    folds: Floats
    fold_sd: Floats
    fold_mean: Aggregate
    pooled: Aggregate
    single: Mapping[tuple[int, int], float]


@dataclass(frozen=True)
class Evaluation:
    """All metrics of one experiment under one reading of its ledgers.

    Attributes:
        aus: The A action units, ascending; none for a run that finds landmarks or expressions alone.
        expressions: The K expression classes; none for a run without expressions.
        folds: The F finished folds.
        subjects: Fold -> held-out subjects, sorted; `dataset/subject` where the ledger names the dataset.
        frames: Fold -> number of frames in the ledger.
        metrics: Metric -> scores; the trivial predictors are among them under their own names. Of a run that finds
            landmarks `nme`, the error of a frame as a fraction of the distance of the outer eye corners. Expressions
            have `expression_accuracy`, and by class `expression_f1` and `expression_recall`.
        known: (A,) frames with a known label, all folds; `positives` (A,) those with the AU (level 1 or more).
        class_frames: (K,) frames that show a class, all folds.
        subject_f1: (S, A) F1 of single subjects (first seed), NaN without positives; empty for intensity.
        resamples: R.
        seed: Of the resampling.
    """

    aus: list[int]
    expressions: list[str]
    folds: list[int]
    subjects: dict[int, list[str]]
    frames: dict[int, int]
    metrics: dict[str, MetricScores]
    known: NDArray[np.int64]
    positives: NDArray[np.int64]
    class_frames: NDArray[np.int64]
    subject_f1: Floats
    resamples: int
    seed: int

    @property
    def names(self) -> list[str]:
        """Names of the AUs and `mean`."""
        return [*(f"AU{au:02d}" for au in self.aus), "mean"]

    @property
    def reading(self) -> dict[str, Any]:
        """What the numbers are of, for `published.differences`."""
        return {"aus": self.aus, "expressions": self.expressions, "threshold": 0.5}

    def columns(self, metric: str) -> list[str]:
        """Column names of a metric: AUs or classes and `mean`; of one number a frame, what it is of and `mean`."""
        if metric in WHOLE:
            return [WHOLE[metric], "mean"]
        return [*self.expressions, "mean"] if metric in BY_CLASS else self.names

    @property
    def unit(self) -> str:
        """What is resampled: `images` where nobody knows who is in which, so that each counts as a subject."""
        return "images" if all(len(names) == self.frames[fold] for fold, names in self.subjects.items()) else "subjects"

    @property
    def prevalence(self) -> Floats:
        """(A,) share of the known frames of all folds that have the AU (level 1 or more); NaN where none is known."""
        return _ratio(self.positives.astype(np.float64), self.known.astype(np.float64))

    def headline(self, metric: str, aggregation: Aggregation | None = None) -> Aggregate:
        """The aggregate that a table prints for a metric."""
        scores = self.metrics[metric]
        return scores.pooled if (aggregation or HEADLINE.get(metric)) == "pooled" else scores.fold_mean

    def to_dict(self) -> dict[str, Any]:
        """Plain values: metric -> {folds: {fold: {AU01: x}}, fold_mean: {AU01: {value, low, ...}}, pooled: ...}."""

        def named(names: list[str], values: NDArray[Any]) -> dict[str, Any]:
            return dict(zip(names, values.tolist(), strict=True))

        def aggregated(names: list[str], part: Aggregate) -> dict[str, dict[str, Any]]:
            fields = {key: named(names, getattr(part, key)) for key in ("value", "low", "high", "lost", "seed_sd")}
            return {name: {key: values[name] for key, values in fields.items()} for name in names}

        metrics = {}
        for metric, scores in self.metrics.items():
            names = self.columns(metric)
            metrics[metric] = {
                "headline": HEADLINE.get(metric, "fold_mean"),
                "folds": {fold: named(names, row) for fold, row in zip(self.folds, scores.folds, strict=True)},
                "fold_sd": {fold: named(names, row) for fold, row in zip(self.folds, scores.fold_sd, strict=True)},
                "defined_folds": named(names, np.isfinite(scores.folds).sum(axis=0)),
                "fold_mean": aggregated(names, scores.fold_mean),
                "pooled": aggregated(names, scores.pooled),
            }
        labelled = self.columns("nme") if "nme" in self.metrics else self.names
        return {
            "aus": self.aus,
            "expressions": self.expressions,
            "folds": self.folds,
            "subjects": {fold: len(names) for fold, names in self.subjects.items()},
            "frames": self.frames,
            "known": named(labelled[:-1], self.known),
            "positives": named(labelled[:-1], self.positives),
            "prevalence": named(labelled, _with_mean(self.prevalence)),
            "class_frames": named(self.expressions, self.class_frames),
            "bootstrap": {"resamples": self.resamples, "seed": self.seed, "unit": f"{self.unit} within folds"},
            "metrics": metrics,
        }


def one_half(run: FoldRun) -> Mapping[int, float]:
    """0.5 for every AU."""
    return dict.fromkeys(run.result["aus"], 0.5)


def tuned_on_validation(run: FoldRun) -> Mapping[int, float]:
    """Per AU the threshold with the best F1 on the fold's validation subjects (0.5 for an AU that they never show)."""
    return best_thresholds(run.ledger("predictions_val"))


def break_even_on_validation(run: FoldRun) -> Mapping[int, float]:
    """Per AU the threshold where precision and recall meet on the fold's validation subjects, see above."""
    return best_thresholds(run.ledger("predictions_val"), "break_even")


def tuned_on_test(run: FoldRun) -> Mapping[int, float]:
    """Per AU the threshold with the best F1 on the held-out frames that are scored: an upper bound, no estimate."""
    return best_thresholds(run.ledger())


def evaluate(
    experiment: Experiment,
    ledger: str = "predictions",
    thresholds: Thresholds = one_half,
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Score an experiment.

    Args:
        experiment: Its finished folds.
        ledger: Which ledger of every fold is read.
        thresholds: Decision thresholds of a fold.
        resamples: Number of bootstrap resamples; 0 = no intervals.
        seed: Of the resampling. Two experiments with the same held-out subjects get the same resamples, so that their
            draws can be subtracted.

    Raises:
        DataError: A ledger is missing or damaged, or the seeds of a fold disagree about its subjects.
    """
    tasks, aus, expressions = _scored(experiment, ledger)
    seeds = [_Seed(experiment, number, ledger, aus, expressions, thresholds, tasks) for number in experiment.seeds]
    subjects = _subjects_of_folds(experiment, seeds)
    weights = {
        fold: np.random.default_rng([seed, fold]).multinomial(
            len(names), np.full(len(names), 1 / len(names)), resamples
        )
        for fold, names in subjects.items()
    }
    # With a single subject there is nothing to resample.
    weights = {fold: drawn[: resamples * (min(map(len, subjects.values())) > 1)] for fold, drawn in weights.items()}
    ones = {fold: np.ones((1, len(names))) for fold, names in subjects.items()}
    wanted = [metric for task in tasks for metric in METRICS[task]]
    metrics = {metric: _aggregate(seeds, experiment.folds, metric, ones, weights) for metric in wanted}
    first_of_fold = [next(s for s in seeds if fold in s.folds) for fold in experiment.folds]
    rows = [part.fold_of_frame == fold for part, fold in zip(first_of_fold, experiment.folds, strict=True)]
    truth = np.concatenate([part.truth[row] for part, row in zip(first_of_fold, rows, strict=True)])
    shown = [part.columns["shown"][row] for part, row in zip(first_of_fold, rows, strict=True) if expressions]
    subject_f1 = [
        f1_from_counts(*np.moveaxis(part.sums("f1")[part.fold_of_subject == fold], -1, 0))
        for part, fold in zip(first_of_fold, experiment.folds, strict=True)
        if "occurrence" in tasks
    ]
    return Evaluation(
        aus=aus,
        expressions=expressions,
        folds=experiment.folds,
        subjects=subjects,
        frames={fold: int(row.sum()) for fold, row in zip(experiment.folds, rows, strict=True)},
        metrics=metrics,
        known=(truth >= 0).sum(axis=0),
        positives=(truth > 0).sum(axis=0),
        class_frames=np.concatenate(shown).sum(axis=0) if shown else np.zeros(0, np.int64),
        subject_f1=np.concatenate(subject_f1) if subject_f1 else np.zeros((0, len(aus))),
        resamples=len(next(iter(weights.values()))),
        seed=seed,
    )


@dataclass(frozen=True)
class Comparison:
    """Paired difference, first minus second, by AU or class and then their mean: (A + 1,) each, over the common ones.

    `draws` are the resampled differences (R, A + 1).
    """

    names: list[str]
    value: Floats
    low: Floats
    high: Floats
    draws: Floats

    @property
    def ties(self) -> NDArray[np.bool_]:
        """Where the interval includes 0."""
        return np.asarray((self.low <= 0) & (self.high >= 0))


def over(evaluation: Evaluation, metric: str, names: Sequence[str]) -> Aggregate:
    """The headline of some of the AUs or classes of a metric, with their mean."""
    own, whole = evaluation.columns(metric)[:-1], evaluation.headline(metric)
    if list(names) == own:
        return whole
    columns = [own.index(name) for name in names]
    return _finish(
        value=_with_mean(whole.value[columns]),
        draws=_with_mean(whole.draws[:, columns]),
        lost=np.zeros((len(whole.draws), len(columns)), dtype=bool),
        seed_sd=np.append(whole.seed_sd[columns], np.nan),
    )


def compare(first: Evaluation, second: Evaluation, metric: str, names: Sequence[str] | None = None) -> Comparison:
    """Difference of two evaluations on the same held-out subjects, with a 95 % interval over these subjects.

    Args:
        first: One of them.
        second: Is subtracted from it.
        metric: Of both.
        names: AUs or classes that count; by default all that both have.

    Raises:
        ValueError: Folds, subjects or resampling differ, so that the draws are not paired.
    """
    same = (first.subjects, first.resamples, first.seed) == (second.subjects, second.resamples, second.seed)
    if not same:
        raise ValueError("the folds hold out different subjects")
    if names is None:
        names = [name for name in first.columns(metric)[:-1] if name in second.columns(metric)]
    a, b = over(first, metric, names), over(second, metric, names)
    # An AU that is undefined in one of them is out of both means.
    found = _finish(
        value=_with_mean((a.value - b.value)[:-1]),
        draws=_with_mean((a.draws - b.draws)[:, :-1]),
        lost=np.zeros((len(a.draws), len(names)), dtype=bool),
        seed_sd=np.full(len(names) + 1, np.nan),
    )
    return Comparison([*names, "mean"], found.value, found.low, found.high, found.draws)


# ------------------------------------------------------------------------------------------- one seed, all its folds


class _Seed:
    """The ledgers of one seed as arrays, its folds one after the other, its subjects numbered fold by fold."""

    def __init__(
        self,
        experiment: Experiment,
        seed: int,
        ledger: str,
        aus: Sequence[int],
        expressions: Sequence[str],
        thresholds: Thresholds,
        tasks: Sequence[str],
    ) -> None:
        runs = {run.fold: run for run in experiment.runs if run.seed == seed}
        self.number = seed
        self.folds = sorted(runs)
        self.subjects: list[tuple[int, str]] = []
        codes, columns = [], []
        for fold in self.folds:
            run = runs[fold]
            frame = run.ledger(ledger)
            code, names = pd.factorize(persons(frame), sort=True)
            codes.append(code + len(self.subjects))
            self.subjects += [(fold, str(name)) for name in names]
            columns.append(_columns(run, frame, ledger, aus, expressions, thresholds, tasks))
        self.code = np.concatenate(codes)
        self.fold_of_subject = np.array([fold for fold, _ in self.subjects])
        self.fold_of_frame = self.fold_of_subject[self.code]
        self.columns = {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
        self.truth = self.columns[TRUTH[tasks[0]]]  # -1 unknown, 0 absent, above present
        self._sums: dict[str, Floats] = {}

    def sums(self, metric: str) -> Floats:
        """(S, A, K) sums over the frames of every subject of the K terms that the metric is made of."""
        if metric not in self._sums:
            terms = _TERMS[metric](**self.columns)
            flat = terms.reshape(len(terms), -1).T
            totals: Floats = np.array([np.bincount(self.code, term, len(self.subjects)) for term in flat], np.float64).T
            self._sums[metric] = totals.reshape(-1, *terms.shape[1:])
        return self._sums[metric]

    def width(self, metric: str) -> int:
        """A, the number of columns of the metric before their mean."""
        return self.truth.shape[1] if metric in ("ap", "auc") else self.sums(metric).shape[1]

    def score(self, metric: str, weights: Floats) -> Floats:
        """(R, A) the metric when every subject counts `weights` (R, S) times."""
        if metric == "ap":
            rows = [self._average_precision(row > 0) for row in weights]
            return np.array(rows).reshape(len(rows), self.truth.shape[1])
        if metric == "auc":
            return self._auc(weights)
        return _FINISH[metric](*np.moveaxis(np.tensordot(weights, self.sums(metric), 1), -1, 0))

    def _average_precision(self, chosen: NDArray[np.bool_]) -> Floats:
        rows = chosen[self.code]
        true, prob = self.columns["true"][rows], self.columns["prob"][rows]
        known = true >= 0
        return np.array([average_precision(true[known[:, a], a], prob[known[:, a], a]) for a in range(true.shape[1])])

    def _auc(self, weights: Floats) -> Floats:
        """Weighted share of (positive, negative) pairs in the right order, ties half, summed over pairs of subjects."""
        if "auc" not in self._sums:
            self._sums["auc"] = np.stack([self._wins(a) for a in range(self.columns["true"].shape[1])])
        positives, negatives = np.moveaxis(np.tensordot(weights, self.sums("auc_classes"), 1), -1, 0)
        wins = np.stack(
            [np.einsum("rs,st,rt->r", weights, of_au, weights, optimize=True) for of_au in self._sums["auc"]]
        )
        pairs = positives * negatives
        return np.where(pairs > 0, wins.T / np.maximum(pairs, 1), np.nan)

    def _wins(self, au: int) -> Floats:
        """(S, S) how often a positive frame of the row's subject scores above a negative one of the column's."""
        true, prob = self.columns["true"][:, au], self.columns["prob"][:, au]
        size = len(self.subjects)
        positive, owner = prob[true == 1], self.code[true == 1]
        order = np.argsort(positive)
        positive, owner = positive[order], owner[order]
        # A negative is below the positives from `right` on and ties with those from `left` to `right`.
        left, right = (np.searchsorted(positive, prob[true == 0], side) for side in ("left", "right"))
        code = self.code[true == 0]
        wins: Floats = np.zeros((size, size))
        for subject in range(size):
            mine = code == subject
            steps = sum(np.bincount(side[mine], minlength=positive.size + 1) for side in (left, right))
            wins[:, subject] = np.bincount(owner, np.cumsum(steps)[:-1] / 2, size)
        return wins


def _columns(
    run: FoldRun,
    frame: pd.DataFrame,
    ledger: str,
    aus: Sequence[int],
    expressions: Sequence[str],
    thresholds: Thresholds,
    tasks: Sequence[str],
) -> dict[str, NDArray[Any]]:
    """The ledger's columns as (n, A) arrays: true, prob, called; true_level, level; or error, known of landmarks.

    Of expressions (n, K) bool: shown, and chosen, the most probable class; all false where the expression is unknown.
    """

    def stack(suffix: str, dtype: type) -> NDArray[Any]:
        return take([f"AU{au:02d}_{suffix}" for au in aus], dtype)

    def take(names: list[str], dtype: type) -> NDArray[Any]:
        if missing := [name for name in names if name not in frame]:
            path = run.path / f"{ledger}.parquet"
            raise DataError(f"{path}: no column {missing[0]}", f"remove {run.path} and run this fold again")
        return frame[names].to_numpy(dtype)

    columns: dict[str, NDArray[Any]] = {}
    if "occurrence" in tasks:
        limit = thresholds(run)
        columns = {"true": stack("true", np.int64), "prob": stack("prob", np.float64)}
        _check_finite(columns["true"], columns["prob"], run, ledger)
        columns["called"] = columns["prob"] >= np.array([limit[au] for au in aus], np.float64)
    if "intensity" in tasks:
        columns |= {"true_level": stack("true_level", np.int64), "level": stack("level", np.float64)}
        _check_finite(columns["true_level"], columns["level"], run, ledger)
    if "ranking" in tasks:
        level = take([str(truth_of(frame.columns, au)) for au in aus], np.int64)
        pseudo = stack("pseudo", np.float64)
        _check_finite(level, pseudo, run, ledger)
        columns |= {"ranked": level, "correlation": _correlations(level, pseudo, videos(frame))}
    if "landmarks" in tasks:
        error = frame[["nme"]].to_numpy(np.float64)
        columns |= {"error": error, "known": np.where(np.isnan(error), -1, 0)}
        _check_finite(columns["known"], error, run, ledger)
    if "expression" in tasks:
        true = take(["expression_true"], np.int64)
        prob = take([f"expression_{name}_prob" for name in expressions], np.float64)
        _check_finite(true, prob, run, ledger)
        classes = np.arange(len(expressions))
        choice = np.where(true >= 0, prob.argmax(axis=1)[:, None], -1)
        columns |= {"shown": true == classes, "chosen": choice == classes, "no_au": true[:, :0]}
    return columns


def _correlations(level: NDArray[Any], pseudo: Floats, video: NDArray[Any]) -> Floats:
    """(n, A) rank correlation of a video at its first frame, NaN at the others and where its labels are constant."""
    found = np.full(level.shape, np.nan)
    for rows in groups(video):
        for a in range(level.shape[1]):
            known = rows[level[rows, a] >= 0]
            found[rows[0], a] = rank_correlation(level[known, a], pseudo[known, a])
    return found


def _check_finite(true: NDArray[Any], predicted: Floats, run: FoldRun, ledger: str) -> None:
    if (broken := int(((true >= 0) & ~np.isfinite(predicted)).sum())) > 0:
        raise DataError(
            f"{run.path / ledger}.parquet: {broken} predictions beside known labels are not finite",
            f"the training has diverged: remove {run.path} and run this fold again with a lower model.lr",
        )


def _scored(experiment: Experiment, ledger: str) -> tuple[list[str], list[int], list[str]]:
    """What the ledger of the first fold can be scored for, and the AUs and expressions that it can be scored on."""
    columns = experiment.runs[0].ledger(ledger).columns
    by_task = {"occurrence": occurrence_aus(columns), "intensity": intensity_aus(columns)}
    if not any(by_task.values()):  # beside labels that are predicted, pseudo-intensities are what they were made of
        by_task = {"ranking": ranking_aus(columns)}
    tasks = [task for task, aus in by_task.items() if aus]
    aus = sorted(set.intersection(*(set(by_task[task]) for task in tasks))) if tasks else []
    expressions = expression_names(columns)
    tasks += ["expression"] * bool(expressions)
    if not tasks and "nme" in columns:
        return ["landmarks"], [], []
    if not tasks:
        raise DataError(
            f"{experiment.runs[0].path / ledger}.parquet: no AU and no expression with both labels and predictions",
            "give a run that predicts or ranks AUs, landmarks or expressions that its dataset labels",
        )
    return tasks, aus, expressions


def _subjects_of_folds(experiment: Experiment, seeds: Sequence[_Seed]) -> dict[int, list[str]]:
    """Held-out subjects of every fold, the same for all its seeds."""
    subjects: dict[int, list[str]] = {}
    for part in seeds:
        for fold in part.folds:
            names = [name for owner, name in part.subjects if owner == fold]
            if subjects.setdefault(fold, names) != names:
                raise DataError(
                    f"{experiment.path}: the seeds of fold {fold} hold out different subjects",
                    "give them different run names (run.name): they are not one experiment",
                )
    return subjects


# ------------------------------------------------------------------------------------------------- metrics from sums


def _counts(true: NDArray[Any], called: NDArray[Any], **_: Any) -> Floats:
    positive, negative = true == 1, true == 0
    return np.stack([positive & called, negative & called, positive & ~called], -1).astype(np.float64)


def _right(true: NDArray[Any], called: NDArray[Any], **_: Any) -> Floats:
    return np.stack([(true >= 0) & ((true == 1) == called), true >= 0], -1).astype(np.float64)


def _classes(true: NDArray[Any], **_: Any) -> Floats:
    return np.stack([true == 1, true == 0], -1).astype(np.float64)


def _moments(true_level: NDArray[Any], level: Floats, **_: Any) -> Floats:
    known = true_level >= 0
    x, y = true_level * known, level * known
    return np.stack([known, x, y, x * x, y * y, x * y], -1).astype(np.float64)


def _errors(true_level: NDArray[Any], level: Floats, power: int, **_: Any) -> Floats:
    known = true_level >= 0
    return np.stack([known * np.abs(true_level - level) ** power, known], -1).astype(np.float64)


def _landmark_errors(error: Floats, known: NDArray[Any], **_: Any) -> Floats:
    return np.stack([np.where(known == 0, error, 0), known == 0], -1).astype(np.float64)


def _f1_and_accuracy(true: NDArray[Any], called: NDArray[Any], **_: Any) -> Floats:
    return np.concatenate([_counts(true, called), _right(true, called)], -1)


def _ranks(correlation: Floats, **_: Any) -> Floats:
    defined = ~np.isnan(correlation)
    return np.stack([np.where(defined, correlation, 0), defined], -1).astype(np.float64)


def _choices(shown: NDArray[Any], chosen: NDArray[Any], **_: Any) -> Floats:
    return np.stack([shown & chosen, ~shown & chosen, shown & ~chosen], -1).astype(np.float64)


def _found(shown: NDArray[Any], chosen: NDArray[Any], **_: Any) -> Floats:
    return np.stack([shown & chosen, shown], -1).astype(np.float64)


def _agreements(shown: NDArray[Any], chosen: NDArray[Any], **_: Any) -> Floats:
    """(n, 1, 2) whether the class is found, and whether it is known."""
    return _found(shown, chosen).sum(axis=1, keepdims=True)


def _shown(shown: NDArray[Any], **_: Any) -> Floats:
    """(n, 1, K): the classes are terms of one column."""
    return shown[:, None].astype(np.float64)


def _abaw2(tp: Floats, fp: Floats, fn: Floats, right: Floats, known: Floats) -> Floats:
    return (f1_from_counts(tp, fp, fn) + _ratio(right, known)) / 2


def _majority(*frames: Floats) -> Floats:
    """Share of the most frequent class, which no constant answer exceeds."""
    return _ratio(np.max(frames, axis=0), np.sum(frames, axis=0))


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _spread(n: Floats, x: Floats, y: Floats, xx: Floats, yy: Floats, xy: Floats) -> tuple[Floats, Floats, Floats]:
    """n^2 times covariance and both variances."""
    return n * xy - x * y, n * xx - x * x, n * yy - y * y


def _icc(n: Floats, *sums: Floats) -> Floats:
    """ICC(3,1) of two raters is 2 cov / (var + var)."""
    cov, var_x, var_y = _spread(n, *sums)
    varies = var_x + var_y > 0
    return np.where(n > 1, np.where(varies, 2 * cov / np.where(varies, var_x + var_y, 1), 0), np.nan)


def _pcc(n: Floats, *sums: Floats) -> Floats:
    cov, var_x, var_y = _spread(n, *sums)
    both = (var_x > 0) & (var_y > 0)
    return np.where(var_x > 0, np.where(both, cov / np.sqrt(np.where(both, var_x * var_y, 1)), 0), np.nan)


def _all(value: bool, terms: Callable[..., Floats], true: NDArray[Any], **_: Any) -> Floats:
    return terms(true=true, called=np.full(true.shape, value))


def _all_zero(true_level: NDArray[Any], **_: Any) -> Floats:
    return _errors(true_level, np.zeros(true_level.shape), power=1)


_TERMS: dict[str, Callable[..., Floats]] = {
    "f1": _counts,
    "accuracy": _right,
    "abaw2": _f1_and_accuracy,
    "auc_classes": _classes,
    "icc": _moments,
    "pcc": _moments,
    "mae": partial(_errors, power=1),
    "mse": partial(_errors, power=2),
    "rank": _ranks,
    "nme": _landmark_errors,
    "all_positive_f1": partial(_all, True, _counts),
    "all_negative_accuracy": partial(_all, False, _right),
    "all_zero_mae": _all_zero,
    "expression_accuracy": _agreements,
    "expression_f1": _choices,
    "expression_recall": _found,
    "majority_accuracy": _shown,
}
_FINISH: dict[str, Callable[..., Floats]] = {
    "f1": f1_from_counts,
    "accuracy": _ratio,
    "abaw2": _abaw2,
    "icc": _icc,
    "pcc": _pcc,
    "mae": _ratio,
    "mse": _ratio,
    "rank": _ratio,
    "nme": _ratio,
    "all_positive_f1": f1_from_counts,
    "all_negative_accuracy": _ratio,
    "all_zero_mae": _ratio,
    "expression_accuracy": _ratio,
    "expression_f1": f1_from_counts,
    "expression_recall": _ratio,
    "majority_accuracy": _majority,
}


# ------------------------------------------------------------------------------------------------------- aggregation


def _with_mean(values: Floats) -> Floats:
    """Append the mean over AUs or classes as last column."""
    return np.concatenate([values, mean_defined(values, -1)[..., None]], axis=-1)


def _sd(values: Floats) -> Floats:
    """Standard deviation over the first axis; NaN for fewer than two values."""
    return np.std(values, axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1:], np.nan)


def _aggregate(
    seeds: Sequence[_Seed], folds: Sequence[int], metric: str, ones: _Weights, drawn: _Weights
) -> MetricScores:
    if metric == "ap":  # no function of sums over subjects, so without an interval
        drawn = {fold: weights[:0] for fold, weights in drawn.items()}
    complete = [part for part in seeds if part.folds == list(folds)]

    def scores(parts: Sequence[_Seed], chosen: Sequence[int], weights: _Weights) -> Floats:
        """(seeds, R, A) on the chosen folds together."""
        rows = [part.score(metric, np.hstack([weights[k] * (k in chosen) for k in part.folds])) for part in parts]
        return np.stack(rows) if rows else np.zeros((0, len(weights[folds[0]]), seeds[0].width(metric)))

    owners = {fold: [part for part in seeds if fold in part.folds] for fold in folds}
    by_seed = [scores(owners[fold], [fold], ones)[:, 0] for fold in folds]
    single = {
        (fold, part.number): row
        for fold, rows in zip(folds, by_seed, strict=True)
        for part, row in zip(owners[fold], rows, strict=True)
    }
    values = np.stack([mean_defined(of_seed, 0) for of_seed in by_seed])
    draws = np.stack([mean_defined(scores(owners[fold], [fold], drawn), 0) for fold in folds])
    of_complete = np.array([[single[fold, part.number] for fold in folds] for part in complete])
    of_complete = of_complete.reshape(len(complete), len(folds), values.shape[-1])
    pooled = scores(complete, folds, ones)[:, 0]  # empty where no seed has all folds: there is nothing to pool
    pooled_draws = mean_defined(scores(complete, folds, drawn), 0)
    return MetricScores(
        folds=_with_mean(values),
        fold_sd=np.stack([_sd(_with_mean(of_seed)) for of_seed in by_seed]),
        fold_mean=_finish(
            value=_with_mean(mean_defined(values, 0)),
            draws=_with_mean(mean_defined(draws, 0)),
            lost=np.any(~np.isfinite(draws) & np.isfinite(values)[:, None], axis=0),
            seed_sd=_sd(_with_mean(mean_defined(of_complete, 1))),
        ),
        pooled=_finish(
            value=_with_mean(mean_defined(pooled, 0)),
            draws=_with_mean(pooled_draws),
            lost=np.asarray(~np.isfinite(pooled_draws) & np.isfinite(mean_defined(pooled, 0))),
            seed_sd=_sd(_with_mean(pooled)),
        ),
        single={key: float(mean_defined(row, -1)) for key, row in single.items()},
    )


def _finish(value: Floats, draws: Floats, lost: NDArray[np.bool_], seed_sd: Floats) -> Aggregate:
    low, high = np.full(value.shape, np.nan), np.full(value.shape, np.nan)
    for column in range(value.size):
        defined = draws[:, column][np.isfinite(draws[:, column])]
        if defined.size and np.isfinite(value[column]):
            low[column], high[column] = np.percentile(defined, [2.5, 97.5])
    return Aggregate(
        value=value,
        low=low,
        high=high,
        lost=np.append(lost.sum(axis=0), lost.any(axis=1).sum()).astype(np.int64),
        draws=draws,
        seed_sd=seed_sd,
    )
