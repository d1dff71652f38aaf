"""Who trains, who chooses the epoch, who is tested: always whole subjects."""

from collections.abc import Mapping
from importlib.resources import files

import numpy as np
import yaml


def load_folds(name: str) -> dict[int, list[str]]:
    """Committed subject lists: part number, from 1, to subjects (``datamodules/folds/NAME.yaml``).

    Part 0 is never held out.
    """
    return yaml.safe_load((files("datamodules") / "folds" / f"{name}.yaml").read_text())


def number_of(count: int | float, total: int) -> int:
    """``count`` itself, or as many of ``total`` as the share ``count`` below 1 says: at least one."""
    return int(count) if count >= 1 or count == 0 else max(1, round(count * total))


def choose_validation(shows: Mapping[str, np.ndarray], number: int, seed: int) -> list[str]:
    """Draw validation subjects at random, so that every label is shown on both sides where possible.

    Args:
        shows: Training subject to (K,) bool: which AUs or expressions some frame of it shows.
        number: Subjects to draw.
        seed: Seed of the draw.

    Returns:
        The subjects, sorted.
    """
    names = sorted(shows)
    has = np.array([shows[name] for name in names], bool)
    generator = np.random.default_rng(seed)
    best, fewest = np.arange(0), 2 * has.shape[1] + 1
    for _ in range(1000):  # rejection stays uniform among the good draws; a greedy choice favours a few subjects
        order = generator.permutation(len(names))
        missing = sum(int(np.count_nonzero(~has[side].any(axis=0))) for side in (order[:number], order[number:]))
        if missing < fewest:
            best, fewest = order[:number], missing
        if missing == 0:
            break
    return sorted(names[i] for i in best)
