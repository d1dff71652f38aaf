from collections import Counter

import numpy as np
import pytest

from datamodules.sampling import BalancedSampler, EvalSampler, TrainSampler

ROWS = np.arange(100, 111)


def test_an_epoch_is_every_row_once_in_an_order_of_its_own() -> None:
    sampler = TrainSampler(ROWS, seed=3)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(row for _, row in first) == sorted(row for _, row in second) == list(ROWS)
    assert [row for _, row in first] != [row for _, row in second]
    assert {epoch for epoch, _ in first} == {0}
    assert {epoch for epoch, _ in second} == {1}


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    resumed = TrainSampler(ROWS, seed=3)
    resumed.set_epoch(5)
    undisturbed = TrainSampler(ROWS, seed=3)
    for epoch in range(6):
        undisturbed.set_epoch(epoch)
        order = list(undisturbed)
    assert list(resumed) == order
    other = TrainSampler(ROWS, seed=4)
    other.set_epoch(5)
    assert list(other) != order


def test_ranks_share_an_epoch_without_overlap() -> None:
    ranks = [list(TrainSampler(ROWS, seed=0, rank=rank, world_size=3)) for rank in range(3)]
    seen = [row for rank in ranks for _, row in rank]
    assert [len(rank) for rank in ranks] == [3, 3, 3]
    assert len(set(seen)) == 9
    assert len(TrainSampler(ROWS, seed=0, rank=1, world_size=3)) == 3


@pytest.mark.parametrize("world_size", [1, 2, 3, 11, 16])
def test_evaluation_covers_every_row_in_equal_shares(world_size: int) -> None:
    ranks = [list(EvalSampler(ROWS, rank, world_size)) for rank in range(world_size)]
    assert {row for rank in ranks for row in rank} == set(ROWS.tolist())
    assert len({len(rank) for rank in ranks}) == 1
    assert len(ranks[0]) == len(EvalSampler(ROWS, 0, world_size)) == int(np.ceil(11 / world_size))


def test_evaluation_of_nothing_is_empty() -> None:
    assert list(EvalSampler(ROWS[:0], 1, 2)) == []


LARGE, SMALL = np.arange(60), np.arange(100, 104)  # 64 rows, so 32 of each group


def test_balancing_takes_as_many_of_each_group() -> None:
    sampler = BalancedSampler([LARGE, SMALL], seed=1)
    drawn = [row for _, row in sampler]
    assert len(drawn) == len(sampler) == 64
    large = [row for row in drawn if row < 100]
    assert len(set(large)) == len(large) == 32  # a choice, nothing twice
    assert Counter(row for row in drawn if row >= 100) == dict.fromkeys(SMALL.tolist(), 8)  # all in turn
    assert drawn[:32] != large


def test_balancing_chooses_anew_each_epoch() -> None:
    chosen: Counter[int] = Counter()
    sampler = BalancedSampler([LARGE, SMALL], seed=1)
    for epoch in range(100):
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        assert {number for number, _ in drawn} == {epoch}
        chosen.update(row for _, row in drawn)
    expected = 100 * 32 / 60
    assert all(abs(chosen[row] - expected) < 25 for row in LARGE.tolist())  # 5 standard deviations
    resumed = BalancedSampler([LARGE, SMALL], seed=1)
    resumed.set_epoch(99)
    assert list(resumed) == drawn


def test_ranks_share_a_balanced_epoch() -> None:
    whole = list(BalancedSampler([LARGE, SMALL], seed=1))
    ranks = [list(BalancedSampler([LARGE, SMALL], 1, rank, 3)) for rank in range(3)]
    assert [len(rank) for rank in ranks] == [21, 21, 21]
    assert sorted(key for rank in ranks for key in rank) == sorted(whole[:63])
