"""How faithfully predictions repeat the way in which action units go together (AUNet, Sec. V-E, Table X, Fig. 8)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_modules.common.metrics import Floats


def correlation(values: ArrayLike, known: ArrayLike) -> Floats:
    """Pearson correlation of every two columns, each pair over the rows where both are known.

    Args:
        values: (n, A) labels, calls or probabilities; anything where not known.
        known: (n, A) bool.

    Returns:
        (A, A) with 1 on the diagonal; 0 where one of the two does not vary; NaN where they are never known together.
    """
    known = np.asarray(known, bool)
    values = np.where(known, np.asarray(values, np.float64), 0)
    n, total, squares = (x.T @ known.astype(np.float64) for x in (known.astype(np.float64), values, values**2))
    covariance = n * (values.T @ values) - total * total.T
    variance = n * squares - total**2  # of the row, where the column is known too
    varies = variance > 1e-12 * n * squares
    both = varies & varies.T
    found = np.where(both, covariance / np.sqrt(np.where(both, variance * variance.T, 1)), 0)
    found = np.where(n > 0, found, np.nan)
    np.fill_diagonal(found, 1)
    return np.asarray(found)


def matrix_distance(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Frobenius norm of the difference of two (A, A) matrices, divided by A: 0 is faithful, lower is better.

    The paper calls it L2 distance and does not say how it is scaled; divided by A it is the root mean square of the
    differences of single entries, whatever the number of AUs. Entries that are NaN in either count as equal.
    """
    difference = np.asarray(predicted, np.float64) - np.asarray(labels, np.float64)
    return float(np.sqrt(np.nansum(difference**2)) / len(difference))


@dataclass(frozen=True)
class Dependency:
    """Precision and recall of AU i (row) over the frames that show AU j (column), and the F1 of their means.

    Attributes:
        precision: (A, A); 0 where i is never called; NaN on the diagonal and where i and j are never shown together.
        recall: (A, A), NaN as above.
        f1: Harmonic mean of the mean precision and the mean recall over all pairs; NaN without any pair.
    """

    precision: Floats
    recall: Floats
    f1: float


def dependency_f1(true: ArrayLike, called: ArrayLike) -> Dependency:
    """Dependency F1 as we read it.

    The paper names it in one sentence and refers to Tirupattur et al., CVPR 2021, whose action-conditional precision
    and recall at the same time step (tau = 0) these are; their published code takes the harmonic mean of the two means.
    What the paper's percentages are relative to, it does not say.

    Args:
        true: (n, A) in {-1, 0, 1}; -1 is unknown.
        called: (n, A) predicted presence.
    """
    true, called = np.asarray(true), np.asarray(called, bool)
    shown = (true == 1).astype(np.float64)
    hits = (shown * called).T @ shown
    calls = (called & (true >= 0)).T.astype(np.float64) @ shown
    positives = shown.T @ shown
    pairs: NDArray[np.bool_] = (positives > 0) & ~np.eye(len(positives), dtype=bool)
    precision = np.where(pairs, hits / np.maximum(calls, 1), np.nan)
    recall = np.where(pairs, hits / np.maximum(positives, 1), np.nan)
    if not pairs.any():
        return Dependency(precision, recall, float("nan"))
    p, r = float(precision[pairs].mean()), float(recall[pairs].mean())
    return Dependency(precision, recall, 2 * p * r / (p + r) if p + r else 0.0)
