"""The order of frames: a pure function of seed, epoch and rank, so that a resumed run sees what it would have seen."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class TrainSampler(Sampler[tuple[int, int]]):
    """Shuffled rows of an epoch as (epoch, row), of which this rank takes every ``world_size``-th.

    The epoch travels with the row, so that augmentation can depend on it in workers that outlive an epoch.
    Ranks get equally many rows: what does not divide evenly is dropped from the end of the shuffled order.

    Args:
        rows: (N,) rows of the store; a row may stand more than once.
        seed: Seed of the run.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(self, rows: np.ndarray, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.rows, self.seed, self.rank, self.world_size = rows, seed, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer at the start of each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.rows)
        mine = order[self.rank : len(self) * self.world_size : self.world_size]
        return ((self.epoch, int(row)) for row in mine)

    def __len__(self) -> int:
        return len(self.rows) // self.world_size


class EvalSampler(Sampler[int]):
    """Rows in their given order, of which this rank takes every ``world_size``-th.

    Every rank gets equally many, because ranks that run out early would hang in the next collective call; the rows
    repeated for that are dropped by ``index`` when the predictions are gathered.
    """

    def __init__(self, rows: np.ndarray, rank: int = 0, world_size: int = 1) -> None:
        length = -(-len(rows) // world_size)
        self.rows = np.resize(rows, length * world_size)[rank::world_size] if len(rows) else rows

    def __iter__(self) -> Iterator[int]:
        return (int(row) for row in self.rows)

    def __len__(self) -> int:
        return len(self.rows)


class BalancedSampler(TrainSampler):
    """As many rows of each group as of any other, shuffled together; an epoch is as long as that of all rows.

    With R rows in G groups a group gives R // G an epoch: a new random choice of its rows where it has more, where it
    has fewer all of them in turn, each time in a new order, so that none comes more than once oftener than another.

    Args:
        groups: Rows of each group; none is empty.
        seed: Seed of the run.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(self, groups: list[np.ndarray], seed: int, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(np.concatenate(groups), seed, rank, world_size)
        self.groups = groups
        self.share = len(self.rows) // len(groups)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = np.random.default_rng((self.seed, self.epoch))
        drawn = [
            np.concatenate([generator.permutation(rows) for _ in range(-(-self.share // len(rows)))])[: self.share]
            for rows in self.groups
        ]
        order = generator.permutation(np.concatenate(drawn))
        mine = order[self.rank : len(self) * self.world_size : self.world_size]
        return ((self.epoch, int(row)) for row in mine)

    def __len__(self) -> int:
        return self.share * len(self.groups) // self.world_size
