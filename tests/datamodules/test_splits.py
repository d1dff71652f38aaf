import numpy as np
import pytest

from datamodules.splits import choose_validation, load_folds


def test_disfa_parts_are_disjoint_and_complete() -> None:
    parts = load_folds("disfa")
    assert [len(parts[k]) for k in (1, 2, 3)] == [9, 9, 9]
    # Every id of the archive: 1-13, 16-18, 21, 23-32.
    ids = [*range(1, 14), 16, 17, 18, 21, *range(23, 33)]
    assert sorted(parts[1] + parts[2] + parts[3]) == [f"SN{i:03d}" for i in ids]
    assert "SN010" in parts[1]  # the fold with one frame less: 43,604 rows, held out by our fold 1


def people(*has: str) -> dict[str, np.ndarray]:
    """One subject per text; "101" has positives of the first and third action unit."""
    return {f"P{i:02d}": np.array([int(bit) * 7 for bit in text]) for i, text in enumerate(has)}


@pytest.mark.parametrize("seed", range(20))
def test_every_action_unit_keeps_positives_on_both_sides(seed: int) -> None:
    positives = people("100", "100", "010", "010", "001", "001", "000", "000", "000", "000")
    chosen, without = choose_validation(positives, 3, seed)
    assert without == []
    training = [name for name in positives if name not in chosen]
    for side in (chosen, training):
        assert (np.sum([positives[name] for name in side], axis=0) > 0).all()


def test_impossible_action_units_are_listed() -> None:
    chosen, without = choose_validation(people("100", "100", "100", "010"), 1, 0)
    assert len(chosen) == 1
    assert without == [1, 2]  # nobody has the third; the only one with the second trains


def test_draws_follow_the_seed_and_vary_with_it() -> None:
    positives = people(*["111"] * 12)
    draws = [tuple(choose_validation(positives, 3, seed)[0]) for seed in range(30)]
    assert draws == [tuple(choose_validation(positives, 3, seed)[0]) for seed in range(30)]
    assert {name for draw in draws for name in draw} == set(positives)  # nobody is preferred or left out
    assert all(list(draw) == sorted(draw) for draw in draws)


@pytest.mark.parametrize(("count", "number"), [(3, 3), (0.25, 3), (0.01, 1), (0, 0)])
def test_numbers_and_shares(count: float, number: int) -> None:
    assert len(choose_validation(people(*["11"] * 12), count, 0)[0]) == number
