import hashlib

import numpy as np
import pytest

from datamodules.known import load_known
from datamodules.splits import choose_validation, load_folds, number_of

BP4D = [*(f"F{i:03d}" for i in range(1, 24)), *(f"M{i:03d}" for i in range(1, 19))]
BP4D_PLUS = [*(f"F{i:03d}" for i in range(1, 83)), *(f"M{i:03d}" for i in range(1, 59))]
# Every id of the archive: 1-13, 16-18, 21, 23-32.
DISFA = [f"SN{i:03d}" for i in (*range(1, 14), 16, 17, 18, 21, *range(23, 33))]


@pytest.mark.parametrize(
    ("name", "sizes", "subjects"),
    [
        ("disfa", {1: 9, 2: 9, 3: 9}, DISFA),
        ("bp4d", {1: 14, 2: 14, 3: 13}, BP4D),
        ("bp4d_fera2015", {0: 21, 1: 20}, BP4D),
        ("bp4d_plus", {1: 47, 2: 47, 3: 46}, BP4D_PLUS),
        ("multi_pie", {1: 70, 2: 69, 3: 69, 4: 69, 5: 69}, [f"{i:03d}" for i in range(1, 347)]),
    ],
)
def test_parts_are_disjoint_and_complete(name: str, sizes: dict[int, int], subjects: list[str]) -> None:
    parts = load_folds(name)
    assert {k: len(part) for k, part in parts.items()} == sizes
    assert sorted(subject for part in parts.values() for subject in part) == subjects


@pytest.mark.parametrize("name", ["disfa", "bp4d"])
def test_parts_are_those_of_the_published_lists(name: str) -> None:
    for number, part in load_folds(name).items():
        digest = hashlib.sha256(" ".join(sorted(part)).encode()).hexdigest()
        assert digest.startswith(load_known(name).parts[number].digest)


def test_fera_2015_goes_by_odd_and_even() -> None:
    for part, names in load_folds("bp4d_fera2015").items():
        assert {int(name[1:]) % 2 for name in names} == {1 - part}


def test_our_own_parts_can_be_made_again() -> None:
    """As the head of each file says; men are spread evenly over the parts of BP4D+."""
    shuffle = np.random.default_rng(0)
    order = [*shuffle.permutation(BP4D_PLUS[:82]), *shuffle.permutation(BP4D_PLUS[82:])]
    parts = load_folds("bp4d_plus")
    assert parts == {k + 1: sorted(order[k::3]) for k in range(3)}
    assert [sum(name[0] == "M" for name in parts[k]) for k in (1, 2, 3)] == [19, 20, 19]
    order = list(np.random.default_rng(0).permutation([f"{i:03d}" for i in range(1, 347)]))
    assert load_folds("multi_pie") == {k + 1: sorted(order[k::5]) for k in range(5)}


def people(*has: str) -> dict[str, np.ndarray]:
    """One subject per text; "101" shows the first and third action unit."""
    return {f"P{i:02d}": np.array([bit == "1" for bit in text]) for i, text in enumerate(has)}


@pytest.mark.parametrize("seed", range(20))
def test_every_action_unit_keeps_positives_on_both_sides(seed: int) -> None:
    shows = people("100", "100", "010", "010", "001", "001", "000", "000", "000", "000")
    chosen = choose_validation(shows, 3, seed)
    assert len(chosen) == 3
    training = [name for name in shows if name not in chosen]
    for side in (chosen, training):
        assert np.any([shows[name] for name in side], axis=0).all()


@pytest.mark.parametrize("seed", range(5))
def test_what_only_one_subject_shows_is_the_smallest_loss(seed: int) -> None:
    shows = people("100", "100", "100", "010")
    chosen = choose_validation(shows, 1, seed)
    assert chosen != ["P03"]  # its loss would leave the first unvalidated and the second untrained


def test_draws_follow_the_seed_and_vary_with_it() -> None:
    shows = people(*["111"] * 12)
    draws = [tuple(choose_validation(shows, 3, seed)) for seed in range(30)]
    assert draws == [tuple(choose_validation(shows, 3, seed)) for seed in range(30)]
    assert {name for draw in draws for name in draw} == set(shows)  # nobody is preferred or left out
    assert all(list(draw) == sorted(draw) for draw in draws)


@pytest.mark.parametrize(("count", "number"), [(3, 3), (0.25, 3), (0.01, 1), (0, 0), (1, 1), (20, 20)])
def test_numbers_and_shares(count: float, number: int) -> None:
    assert number_of(count, 12) == number
