"""What an emotion network still knows of action units: the experiments of EmotiRAM-FAU on explainability, from ledgers.

Masur et al. (2023), section IV-B: scores of AUs before and after learning emotions (Table II), AU6 and AU12 on pictures
of happiness (Table III); and which AUs are called on which emotion, against EMFACS. Pure functions on arrays.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from datamodules.facs import au_name
from lightning_modules.common.metrics import Floats, f1_from_counts, mean_defined

Bools = NDArray[np.bool_]


class Estimate(NamedTuple):
    """A number, or several, with what resampling makes of it.

    Attributes:
        value: (...).
        draws: (R, ...) the same for every resample; those of two estimates on the same units are paired.
    """

    value: Floats
    draws: Floats

    def interval(self) -> tuple[Floats, Floats]:
        """Ends of the 95 % interval, (...) each; NaN without draws that are defined."""
        defined = np.isfinite(self.draws)
        low, high = np.full(self.value.shape, np.nan), np.full(self.value.shape, np.nan)
        for place in np.ndindex(*self.value.shape):
            draws = self.draws[(slice(None), *place)][defined[(slice(None), *place)]]
            if draws.size:
                low[place], high[place] = np.percentile(draws, [2.5, 97.5])
        return low, high

    def minus(self, other: "Estimate") -> "Estimate":
        """The difference to an estimate on the same units."""
        return Estimate(self.value - other.value, self.draws - other.draws)


class Calls(NamedTuple):
    """What a ledger says of A action units in n frames.

    Attributes:
        score: (n, A) similarities in [0, 1], or expected levels.
        called: (n, A) whether the AU is called present: from similarity 0.5, or from the level that counts as present.
        true: (n, A) 1 present, 0 absent, -1 unknown; all -1 where the data label no AUs.
    """

    score: Floats
    called: Bools
    true: NDArray[np.int64]


def calls(ledger: pd.DataFrame, aus: Sequence[int], threshold: int) -> Calls:
    """Read the AUs of a ledger.

    Args:
        ledger: With ``_prob``, or ``_level`` and ``_expected``, of all ``aus``.
        aus: A action units.
        threshold: Lowest level that counts as present, where levels are predicted.
    """
    names = [au_name(au) for au in aus]
    levels = f"{names[0]}_level" in ledger
    score = ledger[[f"{name}_{'expected' if levels else 'prob'}" for name in names]].to_numpy(np.float64)
    called = ledger[[f"{name}_level" for name in names]].to_numpy() >= threshold if levels else score >= 0.5
    columns = [f"{name}_true_level" if levels else f"{name}_true" for name in names]
    true = np.full(score.shape, -1, np.int64)
    for a, column in enumerate(columns):
        if column in ledger:
            label = ledger[column].to_numpy(np.int64)
            true[:, a] = np.where(label < 0, -1, label >= threshold) if levels else label
    return Calls(score, called, true)


def bootstrap(sums: Floats, finish: Callable[[Floats], Floats], resamples: int = 1000, seed: int = 0) -> Estimate:
    """A function of sums over units, for all units and for units drawn with replacement.

    Args:
        sums: (S, ...) of each of S units.
        finish: (N, ...) sums -> (N, ...) numbers.
        resamples: R.
        seed: Of the draws; the same seed and S draw the same units.
    """
    size = len(sums)
    weights = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), resamples)
    total = np.tensordot(np.vstack([np.ones((1, size)), weights]), sums, 1)
    values = finish(total)
    return Estimate(values[0], values[1:])


def au_scores(found: Calls, subjects: Sequence[str], resamples: int = 1000, seed: int = 0) -> tuple[Estimate, Estimate]:
    """F1 and accuracy of every AU and, last, their means: (A + 1,) each, drawn by subject.

    F1 is undefined without positives, and then in no mean.
    """
    code = pd.factorize(pd.Series(subjects), sort=True)[0]
    known, positive = found.true >= 0, found.true == 1
    tp, fp, fn = positive & found.called, known & ~positive & found.called, positive & ~found.called
    counts = np.stack([tp, fp, fn, known], -1).astype(np.float64)
    sums = np.zeros((code.max() + 1, *counts.shape[1:]))
    np.add.at(sums, code, counts)

    def f1(total: Floats) -> Floats:
        return _with_mean(f1_from_counts(*np.moveaxis(total[..., :3], -1, 0)))

    def accuracy(total: Floats) -> Floats:
        _, fp, fn, n = np.moveaxis(total, -1, 0)
        return _with_mean(np.where(n > 0, (n - fp - fn) / np.maximum(n, 1), np.nan))

    return bootstrap(sums, f1, resamples, seed), bootstrap(sums, accuracy, resamples, seed)


def joint_calls(called: Bools, resamples: int = 1000, seed: int = 0) -> Estimate:
    """Shares of pictures on which both, either, the first and the second of two AUs are called: (4,), drawn by picture.

    Args:
        called: (n, 2).
    """
    first, second = called.T
    parts = np.stack([first & second, first | second, first, second], 1).astype(np.float64)
    return bootstrap(parts, lambda total: total / len(called), resamples, seed)


def profile(called: Bools, expression: ArrayLike, n_classes: int) -> Floats:
    """(K, A) share of the pictures of each expression on which each AU is called; NaN where an expression has none."""
    label = np.asarray(expression)
    return np.array(
        [
            called[label == k].mean(0) if (label == k).any() else np.full(called.shape[1], np.nan)
            for k in range(n_classes)
        ]
    )


def expected_aus(
    combinations: Mapping[str, Sequence[Collection[int]]], expressions: Sequence[str], aus: Sequence[int]
) -> Bools:
    """(K, A) whether an AU belongs to one of the combinations that show an expression."""
    return np.array(
        [[any(au in one for one in combinations.get(name, ())) for au in aus] for name in expressions], bool
    )


def agreement(called: Bools, expression: ArrayLike, expected: Bools, resamples: int = 1000, seed: int = 0) -> Estimate:
    """How much more often AUs are called on emotions that they show than on others, drawn by picture: (A + 1,).

    For each AU the share of calls on pictures of the expressions that it belongs to, less that on pictures of the
    others; last the mean over AUs. 0: nothing is known. It stays below 1 where an expression has several combinations,
    however well AUs are recognised.

    Args:
        called: (n, A).
        expression: (n,) class, -1 unknown.
        expected: (K, A) of ``expected_aus``.
    """
    label = np.asarray(expression)
    rows = label >= 0
    belongs, hit = expected[label[rows]], called[rows]
    sums = np.stack([belongs & hit, belongs, ~belongs & hit, ~belongs], -1).astype(np.float64)

    def finish(total: Floats) -> Floats:
        shown, of_shown, other, of_other = np.moveaxis(total, -1, 0)
        defined = (of_shown > 0) & (of_other > 0)
        gap = shown / np.maximum(of_shown, 1) - other / np.maximum(of_other, 1)
        return _with_mean(np.where(defined, gap, np.nan))

    return bootstrap(sums, finish, resamples, seed)


def examples(expression_prob: Floats, expression: ArrayLike, wanted: int, number: int) -> list[int]:
    """Pictures to look at: of one expression the surest right and wrong answers, then the surest answer of each other.

    Args:
        expression_prob: (n, K).
        expression: (n,) class.
        wanted: Its number.
        number: How many at most.

    Returns:
        Rows, each once.
    """
    label = np.asarray(expression)
    answer, sure = expression_prob.argmax(1), expression_prob.max(1)
    order = np.argsort(-sure, kind="stable")
    right = [int(i) for i in order if label[i] == wanted and answer[i] == wanted]
    wrong = [int(i) for i in order if label[i] == wanted and answer[i] != wanted]
    others = [
        next((int(i) for i in order if label[i] == k), None) for k in range(expression_prob.shape[1]) if k != wanted
    ]
    chosen = right[:2] + wrong[:2] + [i for i in others if i is not None]
    return chosen[:number]


def _with_mean(values: Floats) -> Floats:
    """Append the mean over AUs as last column."""
    return np.concatenate([values, mean_defined(values, -1)[..., None]], -1)
