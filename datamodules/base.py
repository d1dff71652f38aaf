"""What all DataModules share: opening the store, folds, validation subjects, labels, loaders."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.errors import DataError
from datamodules.facs import au_name
from datamodules.sampling import EvalSampler, TrainSampler
from datamodules.splits import choose_validation
from datamodules.store import Flag, FrameStore
from datamodules.synth.roots import check_root, resolve_root
from datamodules.transforms import CropFlip

UNREADABLE = Flag.NO_IMAGE


class FrameDataset(Dataset[dict[str, Any]]):
    """Frames of a store as samples of the batch contract (docs/samples.md).

    Args:
        store: The prepared dataset.
        dataset: Name of the dataset for the ledger.
        au: (N, A) int64 occurrence of every row of the store, -1 unknown.
        intensity: (N, A) int64 intensity of every row, -1 unknown.
        transform: Augmentation or evaluation crop.
        seed: Seed of the run; augmentation depends on (seed, epoch, row) alone.
    """

    def __init__(
        self, store: FrameStore, dataset: str, au: np.ndarray, intensity: np.ndarray, transform: CropFlip, seed: int
    ) -> None:
        self.store, self.dataset, self.au, self.intensity = store, dataset, au, intensity
        self.transform, self.seed = transform, seed

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Sample of a row, or of (epoch, row) as the training sampler gives it."""
        epoch, row = key if isinstance(key, tuple) else (0, key)
        image, landmarks = self.transform(self.store.read(row), self.store.landmarks(row), (self.seed, epoch, row))
        _, subject, sequence, frame = self.store.key(row)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "landmarks": torch.from_numpy(np.ascontiguousarray(landmarks, dtype=np.float32)),
            "au": torch.from_numpy(self.au[row]),
            "intensity": torch.from_numpy(self.intensity[row]),
            "index": row,
            "dataset": self.dataset,
            "subject": subject,
            "sequence": sequence,
            "frame": frame,
        }


def _one_thread(_worker: int) -> None:
    cv2.setNumThreads(0)  # workers are the parallelism; OpenCV's own threads would fight them


class AUDataModule(pl.LightningDataModule, ABC):
    """Subject-exclusive folds of a prepared dataset.

    Fold k holds out part k of the dataset's subject lists for the test; validation subjects are drawn by ``seed`` from
    the others. Fold 0 holds out nobody: all subjects train, but for the validation subjects. Constructing checks
    nothing; `check` does, before any long work.

    Args:
        root: A store made by prepare.py, or ``synth:<dataset>?subjects=..&frames=..&seed=..``.
        fold: Part that is held out, from 1; 0 holds out nothing.
        aus: Action units, in the order of every label and prediction.
        image_size: Side of the images in pixels.
        batch_size: Frames a batch and process.
        num_workers: Loader processes.
        label_threshold: Lowest intensity that counts as occurrence.
        val_subjects: Number of training subjects set aside for validation.
        select_on: Whose scores choose the epoch: validation subjects, or the held-out ones as papers do. ``test`` is
            stamped on everything that comes of it.
        train_stride: Train on every n-th frame of a sequence; evaluation always sees all frames.
        duplicate_aus: Frames in which one of these occurs stand twice in the training set (RE-Net, section 4.6).
        seed: Seed of validation subjects, order and augmentation.
    """

    dataset: ClassVar[str]
    persons: ClassVar[str]  # datasets that share this name share people
    n_folds: int

    def __init__(
        self,
        root: str,
        fold: int = 1,
        *,
        aus: list[int],
        image_size: int = 224,
        batch_size: int = 64,
        num_workers: int = 4,
        label_threshold: int = 2,
        val_subjects: int = 3,
        select_on: Literal["val", "test"] = "val",
        train_stride: int = 1,
        duplicate_aus: list[int] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.root, self.fold, self.aus = root, fold, list(aus)
        self.image_size, self.batch_size, self.num_workers = image_size, batch_size, num_workers
        self.label_threshold, self.val_subjects, self.select_on = label_threshold, val_subjects, select_on
        self.train_stride, self.duplicate_aus, self.seed = train_stride, duplicate_aus, seed
        self.store: FrameStore | None = None

    @abstractmethod
    def parts(self, subjects: list[str]) -> dict[int, list[str]]:
        """Subject lists of the parts, from 1; ``subjects`` are those of the store."""

    def check(self) -> None:
        """Refuse settings that cannot work, before anything long starts; raises `DataError`."""
        if not 0 <= self.fold <= self.n_folds:
            raise DataError(
                f"data.fold={self.fold}: {self.dataset} has folds 1 to {self.n_folds}",
                f"choose --fold 1 to {self.n_folds}, or 0 to hold out nobody",
            )
        if len(set(self.aus)) != len(self.aus) or not self.aus:
            raise DataError(f"data.aus={self.aus}: empty or with repetitions", "list each action unit once")
        if self.select_on == "test" and self.fold == 0:
            raise DataError("data.select_on=test with fold 0: nobody is held out", "use data.select_on=val")
        lowest = {"image_size": 1, "batch_size": 1, "train_stride": 1, "val_subjects": 0, "num_workers": 0}
        for name, least in lowest.items():
            if getattr(self, name) < least:
                raise DataError(f"data.{name}={getattr(self, name)}: must be at least {least}", f"set data.{name}")
        check_root(self.root)

    def prepare_data(self) -> None:
        """Render and prepare a synthetic root once; a store is left as it is."""
        if self.store is None:
            resolve_root(self.root)

    def setup(self, stage: str | None = None) -> None:
        """Open the store, split its subjects, and read the labels."""
        if self.store is not None:
            return
        store = FrameStore(resolve_root(self.root))
        if store.manifest["dataset"] != self.dataset:
            raise DataError(
                f"data.root={self.root} holds {store.manifest['dataset']}, but the DataModule is {type(self).__name__}",
                f"point data.root to a store of {self.dataset}, or choose the DataModule of the store",
            )
        self.intensity, self.au = self._labels(store)
        readable = (store.flags & UNREADABLE) == 0
        present = [str(subject) for subject in store.subjects]
        parts = self.parts(present)
        held_out = [s for s in parts.get(self.fold, []) if s in set(present)]
        listed = {subject for part in parts.values() for subject in part}
        if unlisted := sorted(set(present) - listed):
            raise DataError(
                f"{self.root}: subjects without a fold: {', '.join(unlisted)}",
                f"take them out of the store or add them to datamodules/folds/{self.dataset}.yaml",
            )
        if self.fold and not held_out:
            raise DataError(
                f"data.fold={self.fold}: no subject of part {self.fold} is in {self.root}",
                "choose a fold whose subjects are in the store (doctor.py lists them)",
            )
        training = sorted(set(present) - set(held_out))
        if len(training) <= self.val_subjects:
            raise DataError(
                f"data.val_subjects={self.val_subjects}, but fold {self.fold} has {len(training)} training subjects",
                "set aside fewer, or use more subjects",
            )
        positives = {s: ((self.au == 1) & self._rows_of(store, [s])[:, None]).sum(axis=0) for s in training}
        self.subjects_val, without = choose_validation(positives, self.val_subjects, self.seed)
        self.aus_without_val_positives = [self.aus[i] for i in without]
        self.subjects_train = sorted(set(training) - set(self.subjects_val))
        self.subjects_test = sorted(held_out)

        train = np.flatnonzero(self._rows_of(store, self.subjects_train) & readable)
        train = train[store.frame[train] % self.train_stride == 0]
        self.rows_train = self._duplicated(train)
        self.rows_val = np.flatnonzero(self._rows_of(store, self.subjects_val) & readable)
        self.rows_test = np.flatnonzero(self._rows_of(store, self.subjects_test) & readable)
        self.rows_all = np.flatnonzero(readable)
        self.unreadable = int((~readable).sum())
        self.store = store

    @property
    def _opened(self) -> FrameStore:
        assert self.store is not None, "setup() opens the store"
        return self.store

    @property
    def cameras(self) -> str | None:
        """Camera of the frames, where a dataset has several."""
        return None

    def _labels(self, store: FrameStore) -> tuple[np.ndarray, np.ndarray]:
        """(N, A) int64 intensity and occurrence; occurrence comes from intensity where the dataset codes no other."""
        columns = set(store.columns)
        intensity = np.full((len(store), len(self.aus)), -1, dtype=np.int64)
        au = intensity.copy()
        for i, number in enumerate(self.aus):
            name = au_name(number)
            if not {name, f"{name}_intensity"} & columns:
                coded = sorted({c.removesuffix("_intensity") for c in columns if c.startswith("AU")})
                raise DataError(f"data.aus: {self.root} has no labels of {name}", f"choose from {', '.join(coded)}")
            if f"{name}_intensity" in columns:
                intensity[:, i] = store.label(f"{name}_intensity")
            if name in columns:
                au[:, i] = store.label(name)
            else:
                known = intensity[:, i] >= 0
                au[known, i] = intensity[known, i] >= self.label_threshold
        return intensity, au

    @staticmethod
    def _rows_of(store: FrameStore, subjects: list[str]) -> np.ndarray:
        return np.isin(store.subject_code, np.flatnonzero(np.isin(store.subjects, subjects)))

    def _duplicated(self, rows: np.ndarray) -> np.ndarray:
        if not self.duplicate_aus:
            return rows
        if missing := sorted(set(self.duplicate_aus) - set(self.aus)):
            raise DataError(f"data.duplicate_aus: {missing} are not in data.aus", "duplicate only AUs that are trained")
        rare = [self.aus.index(au) for au in self.duplicate_aus]
        return np.concatenate([rows, rows[(self.au[rows][:, rare] == 1).any(axis=1)]])

    def train_labels(self, kind: Literal["occurrence", "intensity"]) -> np.ndarray:
        """(n, A) int64 labels of the training part of the fold, -1 unknown: the only source of statistics."""
        return (self.au if kind == "occurrence" else self.intensity)[self.rows_train]

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Shuffled, augmented training frames."""
        rank, world = self._rank()
        sampler = TrainSampler(self.rows_train, self.seed, rank, world)
        return self._loader(sampler, train=True)

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
        transform = CropFlip(self.image_size, train)
        return DataLoader(
            FrameDataset(self._opened, self.dataset, self.au, self.intensity, transform, self.seed),
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=train and self.num_workers > 0,
            worker_init_fn=_one_thread,
            drop_last=train and len(sampler) >= self.batch_size,  # a batch of one frame has no variance
            pin_memory=torch.cuda.is_available(),
        )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must tell of its data; plain types."""
        manifest = self._opened.manifest
        return {
            "dataset": self.dataset,
            "edition": manifest["edition"],
            "persons": self.persons,
            "fold": self.fold,
            "aus": self.aus,
            "label_threshold": self.label_threshold,
            "camera": self.cameras,
            "frame_set": "all",
            "train_subjects": self.subjects_train,
            "val_subjects": self.subjects_val,
            "test_subjects": self.subjects_test,
            "select_on": self.select_on,
            "preprocessing": manifest["preprocessing"],
            "licence": manifest["licence"],
            "seed": self.seed,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Refuse a checkpoint that was trained on frames that this run tests on."""
        own = self.state_dict()
        for key in ("dataset", "fold", "aus", "preprocessing"):
            if state_dict[key] != own[key]:
                raise DataError(
                    f"the checkpoint was made with {key}={state_dict[key]}, this run has {key}={own[key]}",
                    "run with the settings of the checkpoint, or start a run under another --run.name",
                )
