"""What a sweep says of its parameters: against scores that are made of them."""

import itertools

import numpy as np
import pytest

from experiments.analysis.importance import distinct, importance, is_full_grid


def grid(**values: list[str]) -> dict[str, list[str]]:
    """Columns of all combinations."""
    return dict(zip(values, map(list, zip(*itertools.product(*values.values()), strict=True)), strict=True))


def test_parameters_that_change_together_are_one_and_constant_ones_none() -> None:
    columns = {"a": ["x", "y", "x"], "b": ["1", "2", "1"], "c": ["1", "2", "3"], "d": ["0", "0", "0"]}
    assert distinct(columns) == {"a = b": ["x", "y", "x"], "c": ["1", "2", "3"]}
    assert is_full_grid(grid(a=["1", "2"], b=["x", "y", "z"]))
    assert not is_full_grid({"a": ["1", "1", "2"], "b": ["x", "y", "x"]})
    assert not is_full_grid({"a": ["1", "1", "2", "2", "1"], "b": ["x", "y", "x", "y", "x"]})


def test_ranges_of_marginal_means_worked_by_hand() -> None:
    """lr .1: 1, 2, 3, 4; lr .2: 5, 6, 7, 12. Seed is constant."""
    columns = grid(lr=[".1", ".2"], width=["64", "128"], fold=["1", "2"]) | {"seed": ["0"] * 8}
    setting = [f"{lr}/{width}" for lr, width in zip(columns["lr"], columns["width"], strict=True)]
    found = importance(columns, setting, [1, 2, 3, 4, 5, 6, 7, 12])
    assert found is not None
    assert found.explained is None
    assert found.means["lr"] == {".1": 2.5, ".2": 7.5}
    assert list(found.size.items()) == [("lr", 5.0), ("width", 3.0), ("fold", 2.0)]


def test_variants_that_are_no_grid_of_their_parameters_are_one_parameter() -> None:
    """Three variants that differ in two switches, of which one combination is missing."""
    runs = grid(variant=["plain", "a", "ab"], fold=["1", "2"], seed=["0", "1"])
    columns = {
        "a": [str(variant != "plain") for variant in runs["variant"]],
        "b": [str(variant == "ab") for variant in runs["variant"]],
        "fold": runs["fold"],
        "seed": runs["seed"],
    }
    score = [0.1 * ["plain", "a", "ab"].index(variant) for variant in runs["variant"]]
    found = importance(columns, runs["variant"], score)
    assert found is not None
    assert found.size == pytest.approx({"variant": 0.2, "fold": 0, "seed": 0})
    assert importance({name: of[:-1] for name, of in columns.items()}, runs["variant"][:-1], score[:-1]) is None


def random_search(settings: int) -> tuple[dict[str, list[str]], list[str], np.ndarray]:
    rng = np.random.default_rng(0)
    lr, kind, useless = 10 ** rng.uniform(-4, -2, settings), rng.integers(0, 3, settings), rng.random(settings)
    columns = {
        "lr": [f"{value:.3g}" for value in lr for _ in range(2)],
        "kind": [["sgd", "adam", "lion"][value] for value in kind for _ in range(2)],
        "useless": [f"{value:.3f}" for value in useless for _ in range(2)],
        "fold": ["1", "2"] * settings,
        "seed": ["0"] * (2 * settings),
    }
    score = 0.4 - 0.1 * np.repeat(np.log10(lr) + 3, 2) ** 2 - 0.05 * np.repeat(kind == 0, 2)
    return columns, [str(number) for number in np.repeat(np.arange(settings), 2)], score


def test_a_forest_finds_what_a_random_search_depends_on() -> None:
    columns, setting, score = random_search(40)
    found = importance(columns, setting, score)
    assert found is not None
    assert found.explained is not None
    assert 0.7 < found.explained <= 1
    assert list(found.size)[:2] == ["lr", "kind"]
    assert abs(found.size["useless"]) < 0.15 * found.size["kind"]
    assert abs(found.size["fold"]) < 0.15 * found.size["kind"]


def test_a_forest_that_explains_nothing_says_so() -> None:
    columns, setting, _ = random_search(40)
    noise = np.repeat(np.random.default_rng(1).normal(size=40), 2)  # equal in both folds, and learnable from neither
    found = importance(columns, setting, noise)
    assert found is not None
    assert found.explained is not None
    assert found.explained < 0.1


def test_too_few_settings_are_told_apart_from_many() -> None:
    columns, setting, score = random_search(11)
    only_one = {name: of[:2] for name, of in columns.items()}
    assert importance(only_one, setting[:2], score[:2]) is None
    # Eleven settings in two folds are a grid of variant and fold; with one trial missing, nothing is left to go by.
    found = importance(columns, setting, score)
    assert found is not None
    assert next(iter(found.size)) == "variant"
    assert importance({name: of[1:] for name, of in columns.items()}, setting[1:], score[1:]) is None
