"""Frames of a store as samples of the batch contract (docs/samples.md)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.store import FrameStore
from datamodules.transforms import Frame, Transform


class FrameDataset(Dataset[dict[str, Any]]):
    """Frames of a store, or clips of a frame with one neighbour on each side.

    Args:
        store: The prepared dataset.
        dataset: Name of the dataset for the ledger.
        labels: Batch key (``au``, ``intensity``, ``expression``) to (N, ...) integers of every row, -1 unknown.
        transform: Augmentation or evaluation crop.
        seed: Seed of the run; augmentation depends on (seed, epoch, row) alone.
        neighbours: T > 0 gives ``clip`` (3, 3, H, W) of the frames numbered -T, 0 and +T from this one, in the same
            sequence, instead of ``image``. A neighbour that is missing or has no picture repeats the frame itself.
    """

    def __init__(
        self,
        store: FrameStore,
        dataset: str,
        labels: dict[str, np.ndarray],
        transform: Transform,
        seed: int,
        neighbours: int = 0,
    ) -> None:
        self.store, self.dataset, self.labels = store, dataset, labels
        self.transform, self.seed, self.neighbours = transform, seed, neighbours
        if len(store):  # the store's columns are read here, so that workers forked later share them
            self._frames(0)
            store.key(0)
            store.occluded(0)

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Sample of a row, or of (epoch, row) as the training sampler gives it."""
        epoch, row = key if isinstance(key, tuple) else (0, key)
        pictures, landmarks = self.transform(self._frames(row), (self.seed, epoch, row))
        _, subject, sequence, frame = self.store.key(row)
        return {
            "clip" if self.neighbours else "image": pixels(pictures),
            "landmarks": torch.from_numpy(np.ascontiguousarray(landmarks, dtype=np.float32)),
            **{name: torch.from_numpy(np.array(values[row], np.int64)) for name, values in self.labels.items()},
            "index": row,
            "dataset": self.dataset,
            "subject": subject,
            "sequence": sequence,
            "frame": frame,
            "occluded": self.store.occluded(row),
        }

    def _frames(self, row: int) -> list[Frame]:
        centre = self._frame(row)
        if not self.neighbours:
            return [centre]
        return [
            self._neighbour(row, -self.neighbours) or centre,
            centre,
            self._neighbour(row, self.neighbours) or centre,
        ]

    def _neighbour(self, row: int, offset: int) -> Frame | None:
        other = self.store.neighbour(row, offset)
        return None if other is None or not self.store.length[other] else self._frame(other)

    def _frame(self, row: int) -> Frame:
        store = self.store
        return Frame(store.read(row), store.landmarks(row), store.box[row], store.matrix(row))


def pixels(pictures: Sequence[np.ndarray]) -> Tensor:
    """``image`` (3, H, W) of one picture (H, W, 3) uint8, or ``clip`` (3, 3, H, W) of three."""
    # Views: collating, which copies anyway, brings the channels into their order.
    channels = [torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures]
    return torch.stack(channels) if len(channels) > 1 else channels[0]
