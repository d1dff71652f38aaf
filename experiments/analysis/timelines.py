"""Predictions along a sequence (AUNet, Fig. 10): which stretch is drawn, and how often predictions change."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from callbacks.ledger import KEY
from lightning_modules.common.metrics import Floats

SHORTEST = 60  # frames of a sequence that is worth a timeline
LONGEST = 600  # frames that a figure can show
RULE = f"the {LONGEST} frames (or fewer) of one sequence of {SHORTEST} or more in which labels change most often"


def sequences(ledger: pd.DataFrame) -> list[NDArray[np.intp]]:
    """Row numbers of every sequence of `SHORTEST` frames or more, in the order of its frames; sorted by name.

    Args:
        ledger: With `subject`, `sequence` and `frame`, and `dataset` where there are several; without them no sequence.
    """
    if not {"subject", "sequence", "frame"} <= set(ledger):
        return []
    names = [name for name in KEY[:-1] if name in ledger]
    frame = ledger["frame"].to_numpy()
    found = []
    for group in ledger.groupby(names, sort=True, observed=True).indices.values():
        rows = np.asarray(group, np.intp)
        if len(rows) >= SHORTEST:
            found.append(rows[np.argsort(frame[rows], kind="stable")])
    return found


def changes(values: ArrayLike, known: ArrayLike) -> NDArray[np.int64]:
    """How many AUs change between each frame and the one before it, both known.

    Args:
        values: (n, A) labels or calls.
        known: (n, A) bool.

    Returns:
        (n,), the first 0.
    """
    values, known = np.asarray(values), np.asarray(known, bool)
    both = known[1:] & known[:-1]
    return np.append(0, ((values[1:] != values[:-1]) & both).sum(axis=1))


def choose_stretch(ledger: pd.DataFrame, true: ArrayLike) -> NDArray[np.intp] | None:
    """Rows of the stretch that `RULE` names, in the order of frames; None where no sequence is long enough.

    Args:
        ledger: n rows, see `sequences`.
        true: (n, A) labels, -1 unknown.
    """
    true = np.asarray(true)
    best: NDArray[np.intp] | None = None
    most = -1
    for rows in sequences(ledger):
        total = np.cumsum(np.append(0, changes(true[rows], true[rows] >= 0)))
        length = min(LONGEST, len(rows))
        # A change counts where both its frames are in the stretch, so not the one into its first frame.
        inside = total[length:] - total[1 : len(total) - length + 1]
        if (found := int(inside.max())) > most:
            start = int(inside.argmax())
            most, best = found, rows[start : start + length]
    return best


def change_rates(ledger: pd.DataFrame, values: ArrayLike, known: ArrayLike) -> Floats:
    """Changes per 1000 steps from a known frame to the next known frame of the same sequence, by AU: (A,).

    Args:
        ledger: n rows, see `sequences`.
        values: (n, A) labels or calls.
        known: (n, A) bool, of the labels, so that labels and calls count the same steps.
    """
    values, known = np.asarray(values), np.asarray(known, bool)
    steps, changed = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    for rows in sequences(ledger):
        both = known[rows][1:] & known[rows][:-1]
        steps += both.sum(axis=0)
        changed += (both & (values[rows][1:] != values[rows][:-1])).sum(axis=0)
    return np.where(steps > 0, 1000 * changed / np.maximum(steps, 1), np.nan)
