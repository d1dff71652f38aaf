"""Whether predictions fail where the landmarks are doubtful (AUNet, Fig. 7)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.analysis.significance import log_loss
from lightning_modules.common.metrics import Floats, mean_defined

CONFIDENCE = "landmark_confidence"  # column of the ledger


@dataclass(frozen=True)
class ByConfidence:
    """One value a bin, from the least confident frames to the most confident ones: (Q,) each.

    Attributes:
        frames: How many.
        low: Lowest confidence in the bin.
        high: Highest.
        error: Share of wrong calls among the known labels of all AUs.
        missed: Share of the positive labels that were not called; NaN without positives.
        loss: Mean log-loss of the known labels.
    """

    frames: NDArray[np.int64]
    low: Floats
    high: Floats
    error: Floats
    missed: Floats
    loss: Floats


def error_by_confidence(confidence: ArrayLike, true: ArrayLike, prob: ArrayLike, bins: int = 5) -> ByConfidence:
    """Errors by quantile of confidence; equal confidences share a bin, so that there may be fewer bins.

    Args:
        confidence: (n,); frames where it is NaN are left out.
        true: (n, A) in {-1, 0, 1}.
        prob: (n, A), positive from 0.5.
        bins: Q.
    """
    every = np.asarray(confidence, np.float64)
    rows = np.isfinite(every)
    sure, labels, scores = every[rows], np.asarray(true)[rows], np.asarray(prob, np.float64)[rows]
    edges = np.quantile(sure, np.linspace(0, 1, bins + 1)[1:-1]) if sure.size else np.zeros(0)
    place = np.searchsorted(edges, sure, side="left")
    called, loss = scores >= 0.5, log_loss(labels, scores)
    parts = [place == number for number in range(bins) if np.any(place == number)]

    def share(hits: NDArray[np.bool_], of: NDArray[np.bool_]) -> Floats:
        return np.array([hits[p].sum() / of[p].sum() if of[p].any() else np.nan for p in parts])

    known, positive = labels >= 0, labels == 1
    return ByConfidence(
        frames=np.array([p.sum() for p in parts], np.int64),
        low=np.array([sure[p].min() for p in parts]),
        high=np.array([sure[p].max() for p in parts]),
        error=share(known & (called != positive), known),
        missed=share(positive & ~called, positive),
        loss=np.array([float(mean_defined(loss[p].ravel())) for p in parts]),
    )


def worst_frames(true: ArrayLike, prob: ArrayLike, group: ArrayLike, count: int = 10) -> NDArray[np.intp]:
    """Rows with the highest mean log-loss over AUs, the worst first and at most one a group, since neighbours repeat.

    Args:
        true: (n, A) in {-1, 0, 1}.
        prob: (n, A).
        group: (n,) what a frame belongs to: its sequence.
        count: At most so many.
    """
    loss = mean_defined(log_loss(true, prob), axis=1)
    order = np.argsort(-loss, kind="stable")  # NaN, nothing known, is last
    order = order[np.isfinite(loss[order])]
    _, first = np.unique(np.asarray(group)[order], return_index=True)
    return order[np.sort(first)][:count]
