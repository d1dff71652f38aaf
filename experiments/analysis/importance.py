"""How much a score depends on each parameter of a sweep: pure functions on what was set and what came out."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

FOREST_FROM = 12  # settings; of fewer, a forest would learn nothing that holds for another setting
TREES, REPEATS = 100, 10

Columns = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Importance:
    """What a sweep says of its parameters, the most important first.

    Attributes:
        size: Parameter -> how much the score depends on it, in the unit of the score: the range of its marginal means,
            or by how much a forest errs more when the parameter is shuffled.
        means: Parameter -> value -> mean score of its trials.
        explained: R^2 of the forest on settings that it has not seen; None for marginal means.
    """

    size: dict[str, float]
    means: dict[str, dict[str, float]]
    explained: float | None = None


def distinct(columns: Columns) -> dict[str, list[str]]:
    """Parameters that differ between trials; those that always change together are one, named by the first of them.

    Args:
        columns: Parameter -> its value in every trial, as text.
    """
    together: dict[tuple[int, ...], list[str]] = {}
    for name, values in columns.items():
        order = {value: place for place, value in enumerate(dict.fromkeys(values))}
        if len(order) > 1:
            together.setdefault(tuple(order[value] for value in values), []).append(name)
    return {_joined(names): list(columns[names[0]]) for names in together.values()}


def _joined(names: Sequence[str]) -> str:
    more = f" and {len(names) - 2} more" if len(names) > 3 else ""
    return " = ".join(names[:2] if more else names) + more


def is_full_grid(columns: Columns) -> bool:
    """Whether every combination of values was tried, and all equally often."""
    counts = Counter(zip(*columns.values(), strict=True))
    return len(counts) == math.prod(len(set(values)) for values in columns.values()) and len({*counts.values()}) == 1


def importance(columns: Columns, setting: Sequence[str], score: Sequence[float], seed: int = 0) -> Importance | None:
    """How much the score depends on each parameter: by marginal means of a full grid, else by a random forest.

    A grid of settings whose parameters are no full grid (variants) is one of variant, fold and seed.

    Args:
        columns: Parameter -> its value in every trial; `fold` and `seed` among them.
        setting: Which trials have all in common but fold and seed.
        score: Of every trial.
        seed: Of the forest.

    Returns:
        None where there is nothing to say: fewer than two settings, too few for a forest and no grid, or one parameter
        alone, fold and seed included, to which there is no other to compare it.
    """
    differing = distinct(columns)
    variants = distinct({"variant": setting} | {name: columns[name] for name in ("fold", "seed")})
    if len(set(setting)) < 2:
        return None
    if len(differing) > 1 and is_full_grid(differing):
        return _marginal(differing, score)
    if len(set(setting)) >= FOREST_FROM:
        return _forest(differing, setting, score, seed)
    return _marginal(variants, score) if len(variants) > 1 and is_full_grid(variants) else None


def _means(columns: Columns, score: Sequence[float]) -> dict[str, dict[str, float]]:
    values = np.asarray(score, np.float64)
    return {
        name: {value: float(values[np.array(column) == value].mean()) for value in dict.fromkeys(column)}
        for name, column in columns.items()
    }


def _in_order(size: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(size.items(), key=lambda item: -item[1]))


def _marginal(columns: Columns, score: Sequence[float]) -> Importance:
    means = _means(columns, score)
    return Importance(_in_order({name: float(np.ptp([*of.values()])) for name, of in means.items()}), means)


def _forest(columns: Columns, setting: Sequence[str], score: Sequence[float], seed: int) -> Importance:
    from sklearn.ensemble import RandomForestRegressor  # half a second to import, and few reports need it
    from sklearn.inspection import permutation_importance
    from sklearn.metrics import r2_score
    from sklearn.model_selection import GroupKFold

    x = np.stack([_numbers(column) for column in columns.values()], axis=1)
    y = np.asarray(score, np.float64)
    guessed, sizes = np.empty(len(y)), []
    for train, test in GroupKFold(5).split(x, y, setting):
        forest = RandomForestRegressor(TREES, random_state=seed).fit(x[train], y[train])
        guessed[test] = forest.predict(x[test])
        found = permutation_importance(
            forest, x[test], y[test], scoring="neg_mean_absolute_error", n_repeats=REPEATS, random_state=seed
        )
        sizes.append(found.importances_mean)
    size = dict(zip(columns, np.mean(sizes, axis=0).tolist(), strict=True))
    return Importance(_in_order(size), _means(columns, score), float(r2_score(y, guessed)))


def _numbers(column: Sequence[str]) -> np.ndarray:
    """Values as numbers where all are, else their place in sorted order: a tree cuts either where it likes."""
    number = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
    if all(number.fullmatch(value) for value in column):
        return np.array([float(value) for value in column])
    order = sorted(set(column))
    return np.array([order.index(value) for value in column], np.float64)
