import numpy as np
import pytest

from datamodules.sampling import EvalSampler, TrainSampler

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
