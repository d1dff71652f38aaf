"""What all DataModules share: settings, loaders, labels of the training part."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from operator import attrgetter
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.errors import DataError
from datamodules.pairs import NO_PAIRS, DrawnPairs, PairSettings
from datamodules.pseudo import NO_PREDICTIONS, PseudoIntensities, PseudoSettings
from datamodules.sampling import BalancedSampler, EvalSampler, TrainSampler
from datamodules.store import FrameStore
from datamodules.transforms import Augmentation

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
        balanced_expressions: Training takes equally many frames of each expression, see
            `datamodules.sampling.BalancedSampler`; frames of unknown expression are left out.
        neighbours: T > 0 gives clips of the frames -T, 0 and +T instead of images.
        augment: Crop and augmentation of a paper; ``aligned``: AUNet's crop, neighbours laid on it, and flips; both
            need a store of the preset ``aunet``. ``none``: the whole crop as it is stored.
        pairs: Train on pairs of frames of one video, see `datamodules.pairs`; predictions are of frames all the same.
        pseudo: Features of predicted pseudo-intensities instead of images, see `datamodules.pseudo`.
        seed: Seed of validation subjects, order, pairs and augmentation.

    Attributes:
        labels: ``au`` and ``intensity`` (N, A), ``expression`` (N,) where there are expressions: int8, -1 unknown.
        expressions: Names of the expression classes.
        rows_train, rows_val, rows_test: Rows of the three sides; ``rows_all`` are all that have a picture.
        subjects_train, subjects_val, subjects_test: Their subjects, sorted.
        aus_without_val_positives: AUs that no validation frame shows.
        unreadable: Number of frames without a picture.
        left_out: Other reasons for which frames are on no side, with their numbers.
        repeated_neighbours: Share of neighbours in training that are missing, None without ``neighbours``.
        drawn_pairs: The pairs; None without ``pairs``.
        pseudo_intensities: What was predicted and what is made of it; None without ``pseudo``.
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
        balanced_expressions: bool = False,
        neighbours: int = 0,
        augment: Augmentation = "renet",
        pairs: PairSettings = NO_PAIRS,
        pseudo: PseudoSettings = NO_PREDICTIONS,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.fold, self.aus = fold, list(aus)
        self.image_size, self.batch_size, self.num_workers = image_size, batch_size, num_workers
        self.label_threshold, self.val_subjects, self.select_on = label_threshold, val_subjects, select_on
        self.train_stride, self.duplicate_aus = train_stride, list(duplicate_aus or [])
        self.balanced_expressions = balanced_expressions
        self.neighbours, self.augment, self.seed = neighbours, augment, seed
        self.pairs, self.pseudo = pairs, pseudo
        self.drawn_pairs: DrawnPairs | None = None
        self.pseudo_intensities: PseudoIntensities | None = None
        self._ready = False

    def setup(self, stage: str | None = None) -> None:
        """Open the stores, split their subjects, read the labels, draw pairs, read predictions; raises `DataError`."""
        if self._ready:
            return
        self.split_subjects()
        rows = {"train": self.rows_train, "val": self.rows_val, "test": self.rows_test}
        held = (rows, self.labels, self.stores(), self.aus, self.seed, self.select_on)
        if self.pairs.train:
            self.drawn_pairs = DrawnPairs(self.pairs, *held)
        if self.pseudo.predictions:
            self.pseudo_intensities = PseudoIntensities(self.pseudo, *held)
        self._ready = True

    @abstractmethod
    def split_subjects(self) -> None:
        """Open the stores, split their subjects, read the labels; raises `DataError`."""

    @abstractmethod
    def stores(self) -> list[tuple[str, FrameStore]]:
        """Datasets and stores whose rows stand one after the other."""

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
        lowest |= {"pairs.train": 0, "pairs.val": 1}
        lowest |= {"pseudo.window": 1, "pseudo.balanced": 0, "pseudo.sigma_percentile": 1}
        for name, least in lowest.items():
            if (value := attrgetter(name)(self)) < least:
                raise DataError(f"data.{name}={value}: must be at least {least}", f"set data.{name}")
        if sum(map(bool, (self.neighbours, self.pairs.train, self.pseudo.predictions))) > 1:
            raise DataError("data.neighbours, data.pairs and data.pseudo: a sample is one of them", "set one alone")
        if (share := self.pseudo.sigma_percentile) > 100:
            raise DataError(f"data.pseudo.sigma_percentile={share}: above 100", "set 100 or less")

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

    @property
    def expressions_without_val_frames(self) -> list[str]:
        """Expressions that no validation frame shows."""
        if "expression" not in self.labels:
            return []
        shown = set(self.labels["expression"][self.rows_val].tolist())
        return [name for k, name in enumerate(self.expressions) if k not in shown]

    @property
    def kind_of_sample(self) -> str:
        """What training sees: ``frames`` (or clips of them), ``pairs`` or ``features``."""
        return "pairs" if self.pairs.train else "features" if self.pseudo.predictions else "frames"

    def check_balance(self) -> None:
        """Refuse to balance expressions that nobody labelled; raises `DataError`. To be called with the labels read."""
        if self.balanced_expressions and (self.kind_of_sample != "frames" or "expression" not in self.labels):
            what = "has no expressions" if self.kind_of_sample == "frames" else f"draws {self.kind_of_sample}"
            raise DataError(f"data.balanced_expressions: {self.dataset} {what}", "set data.balanced_expressions=false")

    def train_sampler(self, rank: int, world_size: int) -> TrainSampler:
        """The order of training rows, or of the pairs or frames that were drawn."""
        if self.balanced_expressions:
            label = self.labels["expression"][self.rows_train]
            groups = [rows for k in range(len(self.expressions)) if len(rows := self.rows_train[label == k])]
            return BalancedSampler(groups, self.seed, rank, world_size)
        drawn = self.pairs.train or (self.pseudo.balanced if self.pseudo.predictions else 0)
        return TrainSampler(np.arange(drawn) if drawn else self.rows_train, self.seed, rank, world_size)

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Shuffled, augmented training frames, pairs of them, or features."""
        if self.drawn_pairs:
            samples: Dataset[dict[str, Any]] = self.drawn_pairs.samples("train", self.samples(True))
        elif self.pseudo_intensities:
            samples = self.pseudo_intensities.samples(train=True)
        else:
            samples = self.samples(True)
        return self._loader(self.train_sampler(*self._rank()), samples, train=True)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Frames of the validation subjects; inside a fit what chooses the epoch: pairs, or by ``select_on`` others."""
        fitting = self.trainer is not None and self.trainer.state.fn == "fit"
        if self.drawn_pairs and fitting:
            samples = self.drawn_pairs.samples("val", self.samples(False))
            return self._loader(EvalSampler(np.arange(len(samples)), *self._rank()), samples)
        return self._frames(self.rows_test if fitting and self.select_on == "test" else self.rows_val)

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Frames of the held-out subjects."""
        return self._frames(self.rows_test)

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """All other readable frames in the order of the store: those of training subjects, and those on no side."""
        return self._frames(np.setdiff1d(self.rows_all, np.concatenate([self.rows_val, self.rows_test])))

    def calibration_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Training frames without augmentation in an order drawn by ``seed``, the same on every rank."""
        order = np.random.default_rng((self.seed, 0xCA11)).permutation(self.rows_train)
        return self._loader(EvalSampler(order), self.samples(False))

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _frames(self, rows: np.ndarray) -> DataLoader[dict[str, Any]]:
        samples = self.pseudo_intensities.samples(train=False) if self.pseudo_intensities else self.samples(False)
        return self._loader(EvalSampler(rows, *self._rank()), samples)

    def _loader(
        self, sampler: TrainSampler | EvalSampler, samples: Dataset[dict[str, Any]], train: bool = False
    ) -> DataLoader[dict[str, Any]]:
        return DataLoader(
            samples,
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
