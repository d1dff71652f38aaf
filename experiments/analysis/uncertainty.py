"""What the uncertainty of a pseudo-intensity is worth: does it know covered faces, and which predictions are wrong?"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from lightning_modules.common.metrics import Floats, groups, roc_auc, truth_of, videos

COVERAGES = np.linspace(0.05, 1, 20)


def order_errors(level: ArrayLike, pseudo: ArrayLike, video: NDArray[np.int64]) -> Floats:
    """How often each frame is on the wrong side of a frame of its video that has another label.

    Args:
        level: (n,) labels, -1 unknown.
        pseudo: (n,) pseudo-intensities.
        video: (n,) number of the video.

    Returns:
        (n,) share of these frames, ties half; NaN where there is none, and for unknown labels.
    """
    level, pseudo = np.asarray(level), np.asarray(pseudo, np.float64)
    found = np.full(len(level), np.nan)
    for rows in groups(video):
        rows = rows[level[rows] >= 0]
        wrong, partners = np.zeros(len(rows)), np.zeros(len(rows))
        for value in np.unique(level[rows]):
            here = np.sort(pseudo[rows[level[rows] == value]])
            others = level[rows] != value
            scores = pseudo[rows[others]]
            below, up_to = (np.searchsorted(here, scores, side) for side in ("left", "right"))
            higher = level[rows[others]] > value  # wrong is then what the others score above this one
            above = len(here) - up_to
            wrong[others] += np.where(higher, above, below) + (up_to - below) / 2
            partners[others] += len(here)
        found[rows] = np.where(partners > 0, wrong / np.maximum(partners, 1), np.nan)
    return found


def risk_coverage(error: ArrayLike, sigma: ArrayLike, coverages: ArrayLike = COVERAGES) -> Floats:
    """Mean error of the frames that are kept when the most uncertain are set aside.

    Args:
        error: (n,), NaN for frames without one, which do not count.
        sigma: (n,) uncertainty; of equal ones the earlier frame is kept first.
        coverages: (Q,) shares of frames kept, above 0.

    Returns:
        (Q,); NaN where there is no frame.
    """
    values, spread = np.asarray(error, np.float64), np.asarray(sigma, np.float64)
    known = ~np.isnan(values)
    values = values[known][np.argsort(spread[known], kind="stable")]
    wanted = np.asarray(coverages, np.float64)
    if not values.size:
        return np.full(wanted.shape, np.nan)
    kept = np.maximum(np.ceil(wanted * values.size - 1e-9).astype(int), 1)
    return np.cumsum(values)[kept - 1] / kept


class Uncertainty(NamedTuple):
    """What one ledger says of one AU.

    Attributes:
        covered: ROC-AUC of sigma for frames with a covered face; NaN where nobody says which are.
        risk: (Q,) see `risk_coverage`.
        oracle: (Q,) the same if sigma were the error itself: no uncertainty does better.
        trapped: Share of the way from the mean error to the oracle that sigma goes, averaged over coverages: 1 is
            the oracle, 0 is setting frames aside at random, below 0 is worse than that.
    """

    covered: float
    risk: Floats
    oracle: Floats
    trapped: float


def judge(ledger: pd.DataFrame, au: int) -> Uncertainty:
    """Judge the sigma of an AU by the error of the prediction: of a level, of a call at 0.5, else of the order."""
    name = f"AU{au:02d}"
    sigma = ledger[f"{name}_sigma"].to_numpy(np.float64)
    true = ledger[str(truth_of(ledger.columns, au))].to_numpy(np.int64)
    if f"{name}_level" in ledger:
        error = np.abs(ledger[f"{name}_level"].to_numpy(np.float64) - true)
    elif f"{name}_prob" in ledger:
        true = ledger[f"{name}_true"].to_numpy(np.int64)
        error = ((ledger[f"{name}_prob"].to_numpy(np.float64) >= 0.5) != (true == 1)).astype(np.float64)
    else:
        error = order_errors(true, ledger[f"{name}_pseudo"], videos(ledger))
    error[true < 0] = np.nan
    covered = float("nan")
    if "occluded" in ledger:
        occluded = ledger["occluded"].to_numpy()
        covered = roc_auc(occluded[occluded >= 0], sigma[occluded >= 0])
    risk, oracle = risk_coverage(error, sigma), risk_coverage(error, error)
    room = float(np.sum(risk[-1] - oracle))
    trapped = float(np.sum(risk[-1] - risk)) / room if room > 0 else float("nan")
    return Uncertainty(covered, risk, oracle, trapped)
