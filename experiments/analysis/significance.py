"""Whether one run is better than another on the same frames: the test of AUNet's Table XII, and tests to trust."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from lightning_modules.common.metrics import Floats, mean_defined

ADVICE = (
    "Trust the tests over subjects: frames of one recording are near copies of each other, so a test that counts them "
    "as independent calls almost any difference significant; and the paired t-test of AUNet's Table XII asks whether "
    "the mean prediction moved, not whether predictions got better."
)
SMALLEST = 1e-6  # probabilities are kept so far from 0 and 1: single precision reaches both


class Outcome(NamedTuple):
    """A test by AU, and last of all AUs together: (A + 1,) each.

    Attributes:
        statistic: What the test says it is.
        p: Two-sided, not corrected; NaN where there is nothing to test.
    """

    statistic: Floats
    p: Floats


def log_loss(true: ArrayLike, prob: ArrayLike) -> Floats:
    """-log of the probability given to the label, element by element; NaN where the label is unknown (-1)."""
    true = np.asarray(true)
    prob = np.clip(np.asarray(prob, np.float64), SMALLEST, 1 - SMALLEST)
    return np.where(true < 0, np.nan, -np.log(np.where(true == 1, prob, 1 - prob)))


def frame_t_test(first: ArrayLike, second: ArrayLike, known: ArrayLike) -> Outcome:
    """Paired t-test of predictions over frames, as AUNet's Table XII; the last is over all frames of all AUs at once.

    The printed t and p agree only from some 800,000 degrees of freedom on, and BP4D has 147,000 frames: there, too,
    frames and AUs were one sample.

    Args:
        first: (n, A) predictions.
        second: (n, A) those of the other run for the same frames.
        known: (n, A) bool, which of them count.

    Returns:
        t of first minus second and its p; NaN for fewer than two frames, or when the difference does not vary.
    """
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    known = np.asarray(known, bool)
    columns = [difference[known[:, a], a] for a in range(difference.shape[1])]
    found = [_paired_t(column) for column in (*columns, difference[known])]
    return Outcome(*np.array(found).T)


def _paired_t(difference: Floats) -> tuple[float, float]:
    if difference.size < 2 or np.ptp(difference) == 0:
        return float("nan"), float("nan")
    t = difference.mean() / difference.std(ddof=1) * np.sqrt(difference.size)
    return float(t), float(2 * stats.t.sf(abs(t), difference.size - 1))


def subject_means(values: ArrayLike, code: ArrayLike) -> Floats:
    """Mean of every subject's frames, then over AUs.

    Args:
        values: (n, A); NaN is left out.
        code: (n,) number of the subject, from 0.

    Returns:
        (S, A + 1); NaN where the subject has no value.
    """
    values, code = np.asarray(values, np.float64), np.asarray(code)
    defined = np.isfinite(values)
    size = int(code.max()) + 1
    count = np.stack([np.bincount(code, column, size) for column in defined.T], 1)
    total = np.stack([np.bincount(code, column, size) for column in np.where(defined, values, 0).T], 1)
    means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return np.concatenate([means, mean_defined(means)[:, None]], 1)


def wilcoxon_over_subjects(first: ArrayLike, second: ArrayLike) -> Outcome:
    """Wilcoxon's signed-rank test of paired values of subjects.

    Args:
        first: (S, A + 1) one value a subject, such as ``subject_means(log_loss(...))``; NaN leaves the subject out.
        second: (S, A + 1) those of the other run.

    Returns:
        Median of first minus second and p; p is 1 when all are equal, NaN without any subject. With n subjects it
        cannot fall below 2 / 2^n: .06 for five.
    """
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    medians, p = [], []
    for column in difference.T:
        defined = column[np.isfinite(column)]
        medians.append(float(np.median(defined)) if defined.size else float("nan"))
        if defined.size == 0:
            p.append(float("nan"))
        elif not defined.any():
            p.append(1.0)
        else:
            p.append(float(stats.wilcoxon(defined).pvalue))
    return Outcome(np.array(medians), np.array(p))


def holm(p: ArrayLike) -> Floats:
    """p-values corrected for their number by Holm's step-down rule; NaN stays NaN and does not count."""
    p = np.asarray(p, np.float64)
    corrected = np.full(p.shape, np.nan)
    order = [int(place) for place in np.argsort(p) if np.isfinite(p[place])]
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * float(p[place])))
        corrected[place] = largest
    return corrected


def bootstrap_p(draws: NDArray[np.float64]) -> Floats:
    """Two-sided p of a difference being 0, from its bootstrap draws (R, K): (K,), NaN without draws.

    Twice the share of draws on the other side of 0, counting one more draw so that it is never 0.
    """
    defined = np.isfinite(draws)
    count = defined.sum(axis=0)
    below = (defined & (draws <= 0)).sum(axis=0)
    above = (defined & (draws >= 0)).sum(axis=0)
    p = np.minimum(1, 2 * (1 + np.minimum(below, above)) / (1 + count))
    return np.where(count > 0, p, np.nan)
