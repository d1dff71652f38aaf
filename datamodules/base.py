"""What all DataModules share: settings, loaders, labels of the training part."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.errors import DataError
from datamodules.sampling import EvalSampler, TrainSampler

Kind = Literal["occurrence", "intensity", "expression"]
LABELS: dict[Kind, str] = {"occurrence": "au", "intensity": "intensity", "expression": "expression"}


def _one_thread(_worker: int) -> None:
    cv2.setNumThreads(0)  # workers are the parallelism; OpenCV's own threads would fight them


class AUDataModule(pl.LightningDataModule, ABC):
    """Loaders over the rows of training, validation and held-out subjects.

    Fold k holds out part k for the test; validation subjects are drawn by ``seed`` from the others. Fold 0 holds out
    nobody: all subjects train, but for the validation subjects. Constructing checks nothing; `check` does, before any
    long work.

    Args:
        fold: Part that is held out, from 1; 0 holds out nothing.
        aus: Action units, in the order of every label and prediction.
        image_size: Side of the images in pixels.
        batch_size: Frames a batch and process.
        num_workers: Loader processes.
        label_threshold: Lowest intensity that counts as occurrence, where a dataset codes no occurrence of its own.
        val_subjects: Number of training subjects set aside for validation, or their share if below 1.
        select_on: Whose scores choose the epoch: validation subjects, or the held-out ones as papers do. ``test`` is
            stamped on everything that comes of it.
        train_stride: Train on every n-th frame of a sequence; evaluation always sees all frames.
        duplicate_aus: Frames in which one of these occurs stand twice in the training set (RE-Net, section 4.6).
        neighbours: T > 0 gives clips of the frames -T, 0 and +T instead of images.
        augment: Crop and augmentation: RE-Net's, or AUNet's, which needs a store of the preset ``aunet``.
        seed: Seed of validation subjects, order and augmentation.

    Attributes:
        labels: ``au`` and ``intensity`` (N, A), ``expression`` (N,) where there are expressions: int8, -1 unknown.
        expressions: Names of the expression classes.
        rows_train, rows_val, rows_test: Rows of the three sides; ``rows_all`` are all that have a picture.
        subjects_train, subjects_val, subjects_test: Their subjects, sorted.
        aus_without_val_positives: AUs that no validation frame shows.
        unreadable: Number of frames without a picture.
        left_out: Other reasons for which frames are on no side, with their numbers.
        repeated_neighbours: Share of neighbours in training that are missing, None without ``neighbours``.
    """

    dataset: str  # in the ledger and in commands
    n_folds: int
    only_expressions: ClassVar[bool] = False  # whether data.aus may be empty

    labels: dict[str, np.ndarray]
    expressions: tuple[str, ...]
    rows_train: np.ndarray
    rows_val: np.ndarray
    rows_test: np.ndarray
    rows_all: np.ndarray
    subjects_train: list[str]
    subjects_val: list[str]
    subjects_test: list[str]
    unreadable: int
    left_out: dict[str, int]
    repeated_neighbours: float | None

    def __init__(
        self,
        fold: int = 1,
        *,
        aus: list[int],
        image_size: int = 224,
        batch_size: int = 64,
        num_workers: int = 4,
        label_threshold: int = 2,
        val_subjects: int | float = 3,
        select_on: Literal["val", "test"] = "val",
        train_stride: int = 1,
        duplicate_aus: list[int] | None = None,
        neighbours: int = 0,
        augment: Literal["renet", "aunet"] = "renet",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.fold, self.aus = fold, list(aus)
        self.image_size, self.batch_size, self.num_workers = image_size, batch_size, num_workers
        self.label_threshold, self.val_subjects, self.select_on = label_threshold, val_subjects, select_on
        self.train_stride, self.duplicate_aus = train_stride, list(duplicate_aus or [])
        self.neighbours, self.augment, self.seed = neighbours, augment, seed

    @abstractmethod
    def setup(self, stage: str | None = None) -> None:
        """Open the stores, split their subjects, read the labels; raises `DataError`."""

    @abstractmethod
    def samples(self, train: bool) -> Dataset[dict[str, Any]]:
        """Samples by row, augmented if ``train``."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must tell of its data; plain types."""

    def check(self) -> None:
        """Refuse settings that cannot work, before anything long starts; raises `DataError`."""
        if not 0 <= self.fold <= self.n_folds:
            folds = "fold 1 alone" if self.n_folds == 1 else f"folds 1 to {self.n_folds}"
            raise DataError(
                f"data.fold={self.fold}: {self.dataset} has {folds}",
                f"choose --fold {'1' if self.n_folds == 1 else f'1 to {self.n_folds}'}, or 0 to hold out nobody",
            )
        if len(set(self.aus)) != len(self.aus) or not (self.aus or self.only_expressions):
            raise DataError(f"data.aus={self.aus}: empty or with repetitions", "list each action unit once")
        if missing := sorted(set(self.duplicate_aus) - set(self.aus)):
            raise DataError(f"data.duplicate_aus: {missing} are not in data.aus", "duplicate only AUs that are trained")
        if self.select_on == "test" and self.fold == 0:
            raise DataError("data.select_on=test with fold 0: nobody is held out", "use data.select_on=val")
        lowest = {"image_size": 1, "batch_size": 1, "train_stride": 1}
        lowest |= dict.fromkeys(("val_subjects", "num_workers", "neighbours"), 0)
        for name, least in lowest.items():
            if getattr(self, name) < least:
                raise DataError(f"data.{name}={getattr(self, name)}: must be at least {least}", f"set data.{name}")

    @property
    def aus_without_val_positives(self) -> list[int]:
        """AUs that no validation frame shows."""
        shown = (self.labels["au"][self.rows_val] == 1).any(axis=0)
        return [au for au, there in zip(self.aus, shown, strict=True) if not there]

    def train_labels(self, kind: Kind) -> np.ndarray:
        """Labels of the training part of the fold, int64, -1 unknown: the only source of statistics.

        (n, A), or (n,) for ``expression``.
        """
        return self.labels[LABELS[kind]][self.rows_train].astype(np.int64)

    def train_sampler(self, rank: int, world_size: int) -> TrainSampler:
        """The order of training rows."""
        return TrainSampler(self.rows_train, self.seed, rank, world_size)

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Shuffled, augmented training frames."""
        return self._loader(self.train_sampler(*self._rank()), train=True)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Frames of the validation subjects; inside a fit those that choose the epoch, see ``select_on``."""
        on_test = self.select_on == "test" and self.trainer is not None and self.trainer.state.fn == "fit"
        return self._loader(EvalSampler(self.rows_test if on_test else self.rows_val, *self._rank()))

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Frames of the held-out subjects."""
        return self._loader(EvalSampler(self.rows_test, *self._rank()))

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """All readable frames in the order of the store."""
        return self._loader(EvalSampler(self.rows_all, *self._rank()))

    def calibration_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Training frames without augmentation in an order drawn by ``seed``, the same on every rank."""
        order = np.random.default_rng((self.seed, 0xCA11)).permutation(self.rows_train)
        return self._loader(EvalSampler(order))

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader(self, sampler: TrainSampler | EvalSampler, train: bool = False) -> DataLoader[dict[str, Any]]:
        return DataLoader(
            self.samples(train),
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=train and self.num_workers > 0,
            worker_init_fn=_one_thread,
            drop_last=train and len(sampler) >= self.batch_size,  # a batch of one frame has no variance
            pin_memory=torch.cuda.is_available(),
        )

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Refuse a checkpoint that was trained on frames that this run tests on."""
        own = self.state_dict()
        for key in ("dataset", "split", "fold", "aus", "preprocessing"):
            if state_dict[key] != own[key]:
                raise DataError(
                    f"the checkpoint was made with {key}={state_dict[key]}, this run has {key}={own[key]}",
                    "run with the settings of the checkpoint, or start a run under another --run.name",
                )
