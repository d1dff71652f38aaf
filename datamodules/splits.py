"""Who trains, who chooses the epoch, who is tested: always whole subjects."""

from collections.abc import Mapping
from importlib.resources import files

import numpy as np
import yaml


def load_folds(name: str) -> dict[int, list[str]]:
    """Committed subject lists of a dataset: part number, from 1, to subjects (``datamodules/folds/NAME.yaml``)."""
    return yaml.safe_load((files("datamodules") / "folds" / f"{name}.yaml").read_text())


def choose_validation(
    positives: Mapping[str, np.ndarray], count: int | float, seed: int
) -> tuple[list[str], list[int]]:
    """Draw validation subjects at random, so that every action unit keeps positives on both sides where possible.

    Args:
        positives: Training subject to (A,) number of positive frames.
        count: Number of subjects to draw, or their share if below 1 (then at least one).
        seed: Seed of the draw.

    Returns:
        The subjects, sorted, and the indices of the action units that have no positives among them.
    """
    names = sorted(positives)
    has = np.array([np.asarray(positives[name]) > 0 for name in names])
    number = int(count) if count >= 1 or count == 0 else max(1, round(count * len(names)))
    generator = np.random.default_rng(seed)
    best, fewest = np.arange(0), 2 * has.shape[1] + 1
    for _ in range(1000):  # rejection stays uniform among the good draws; a greedy choice favours a few subjects
        order = generator.permutation(len(names))
        missing = sum(int(np.count_nonzero(~has[side].any(axis=0))) for side in (order[:number], order[number:]))
        if missing < fewest:
            best, fewest = order[:number], missing
        if missing == 0:
            break
    return sorted(names[i] for i in best), np.flatnonzero(~has[best].any(axis=0)).tolist()
