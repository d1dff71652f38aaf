"""The DataModule of one store: its subjects on three sides, its labels, what a checkpoint says of them."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
from pytorch_lightning.utilities import rank_zero_info

from datamodules.base import AUDataModule
from datamodules.errors import DataError
from datamodules.facs import au_name
from datamodules.frames import FrameDataset
from datamodules.known import load_known, within
from datamodules.splits import choose_validation, number_of
from datamodules.store import Flag, FrameStore
from datamodules.synth.roots import check_root, resolve_root
from datamodules.transforms import create_transform


class StoreDataModule(AUDataModule):
    """Subject-exclusive folds of one prepared dataset.

    Args:
        root: A store made by prepare.py, or ``synth:<dataset>?subjects=..&frames=..&seed=..``.
        fold: See `datamodules.base.AUDataModule`.
        **settings: See `datamodules.base.AUDataModule`.

    Attributes:
        training: Subjects that are not held out and have a frame in use, sorted; before validation is set aside.
        held_out: Subjects of the part that is held out, sorted.
    """

    persons: ClassVar[str]  # datasets that share this name share people
    split: str  # which subject lists the folds are: a protocol fact
    frame_set: str = "all"  # of `datamodules.known`: which coded frames are used

    training: list[str]
    held_out: list[str]

    def __init__(self, root: str, fold: int = 1, **settings: Any) -> None:
        super().__init__(fold, **settings)
        self.root = root
        self.store: FrameStore | None = None

    @abstractmethod
    def parts(self, store: FrameStore) -> dict[int, list[str]]:
        """Subject lists of the parts, from 1; part 0 is never held out. A store may hold fewer subjects."""

    def check(self) -> None:
        """See the base class; also looks whether the root can be opened."""
        super().check()
        check_root(self.root)

    def prepare_data(self) -> None:
        """Render and prepare a synthetic root once; a store is left as it is."""
        if self.store is None:
            resolve_root(self.root)

    def split_subjects(self) -> None:
        """See the base class."""
        self.open()
        self.assign(self.validation())

    def stores(self) -> list[tuple[str, FrameStore]]:
        """See the base class."""
        return [(self.dataset, self.opened)]

    def open(self) -> None:
        """Open and check the store, read its labels, tell training subjects from held-out ones."""
        store = FrameStore(resolve_root(self.root))
        self.check_store(store)
        self.labels = self._labels(store)
        self.expressions = tuple(store.manifest["expressions"])
        self.check_balance()
        parts = self.parts(store)
        if unlisted := sorted(set(store.subjects) - {subject for part in parts.values() for subject in part}):
            raise DataError(
                f"{self.root}: subjects without a fold: {listed(unlisted)}",
                f"take them out of the store, or add them to the folds of {self.dataset}",
            )
        readable = (store.flags & Flag.NO_IMAGE) == 0
        self.rows_all, self.unreadable = np.flatnonzero(readable), int((~readable).sum())
        self.left_out = {}
        self._used = readable
        for reason, dropped in self.dropped(store).items():
            if count := int((self._used & dropped).sum()):
                self.left_out[reason] = count
            self._used = self._used & ~dropped
        present = set(store.subjects[np.unique(store.subject_code[self._used])])
        self.held_out = sorted(present & set(parts.get(self.fold, []))) if self.fold else []
        self.training = sorted(present - set(self.held_out))
        if self.fold and not self.held_out:
            raise DataError(
                f"data.fold={self.fold}: no subject of part {self.fold} is in {self.root}",
                "choose a fold whose subjects are in the store (doctor.py lists them)",
            )
        self.store = store

    def check_store(self, store: FrameStore) -> None:
        """Refuse a store that these settings cannot use; raises `DataError`."""
        manifest = store.manifest
        if manifest["dataset"] != self.dataset:
            raise DataError(
                f"data.root={self.root} holds {manifest['dataset']}, but the DataModule is {type(self).__name__}",
                f"point data.root to a store of {self.dataset}, or choose the DataModule of the store",
            )
        if self.augment in ("aunet", "aligned") and manifest["preset"]["name"] != "aunet":
            raise DataError(
                f"data.augment={self.augment}: {self.root} holds crops of the preset {manifest['preset']['name']}",
                "prepare the dataset with --preset aunet, or set data.augment=renet",
            )

    def validation(self) -> list[str]:
        """Draw validation subjects so that every AU and expression is on both sides where possible."""
        number = number_of(self.val_subjects, len(self.training))
        if number >= len(self.training):
            raise DataError(
                f"data.val_subjects={self.val_subjects}, but fold {self.fold} has {len(self.training)} training "
                "subjects",
                "set aside fewer, or use more subjects",
            )
        return choose_validation(self.shows(self.training), number, self.seed)

    def assign(self, validation: Iterable[str]) -> None:
        """Give every row in use its side; ``validation`` are training subjects."""
        self.subjects_val, self.subjects_test = sorted(validation), self.held_out
        self.subjects_train = sorted(set(self.training) - set(self.subjects_val))
        train = self.rows_of(self.subjects_train)
        train = train[self.opened.frame[train] % self.train_stride == 0]
        if self.training and not len(train):
            raise DataError(
                f"{self.root}: no frame is left to train on", "lower data.val_subjects or data.train_stride"
            )
        rare = [self.aus.index(au) for au in self.duplicate_aus]
        twice = (self.labels["au"][train][:, rare] == 1).any(axis=1)
        self.rows_train = np.concatenate([train, train[twice]])
        self.rows_val, self.rows_test = self.rows_of(self.subjects_val), self.rows_of(self.subjects_test)
        self.repeated_neighbours = None
        if self.neighbours:
            self.repeated_neighbours = missing_neighbours(self.opened, self.rows_train, self.neighbours)
        if self.left_out:
            said = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
            rank_zero_info(f"{self.root}: frames left out: {said}")

    def rows_of(self, subjects: Iterable[str]) -> np.ndarray:
        """Rows in use of these subjects, ascending."""
        wanted = set(subjects)
        chosen = np.array([name in wanted for name in self.opened.subjects], bool)
        return np.flatnonzero(chosen[self.opened.subject_code] & self._used)

    def shows(self, subjects: list[str]) -> dict[str, np.ndarray]:
        """Subject to (K,) bool: which AUs, then which expressions, its frames show."""
        store, expression = self.opened, self.labels.get("expression")
        columns = list((self.labels["au"] == 1).T)
        columns += [expression == k for k in range(len(self.expressions))] if expression is not None else []
        code, number = store.subject_code, len(store.subjects)
        shown = [np.bincount(code[column & self._used], minlength=number) > 0 for column in columns]
        table = np.array(shown, bool).reshape(len(columns), number).T
        return {name: table[i] for name, i in zip(subjects, np.searchsorted(store.subjects, subjects), strict=True)}

    def dropped(self, store: FrameStore) -> dict[str, np.ndarray]:
        """Reason to (N,) bool: rows with a picture that are on no side."""
        if self.frame_set == "all":
            return {}
        out = np.zeros(len(store), bool)
        for place, ranges in load_known(self.dataset).missing[self.frame_set].items():
            subject, _, sequence = place.partition("/")
            here = _code_is(store.subjects, store.subject_code, subject)
            if sequence:
                here = here & _code_is(store.sequences, store.sequence_code, sequence)
            rows = np.flatnonzero(here)
            out[rows] = within(store.frame[rows], ranges)
        return {f"not in the frame set {self.frame_set}": out}

    @property
    def opened(self) -> FrameStore:
        """The store."""
        assert self.store is not None, "setup() opens the store"
        return self.store

    @property
    def cameras(self) -> str | None:
        """Camera of the frames, where a dataset has several."""
        return None

    def _labels(self, store: FrameStore) -> dict[str, np.ndarray]:
        """Labels of every row; occurrence comes from intensity where the dataset codes no other."""
        columns = set(store.columns)
        intensity = np.full((len(store), len(self.aus)), -1, np.int8)
        au = intensity.copy()
        self.thresholded = False
        for i, number in enumerate(self.aus):
            name = au_name(number)
            if not {name, f"{name}_intensity"} & columns:
                coded = sorted({c.removesuffix("_intensity") for c in columns if c.startswith("AU")})
                raise DataError(
                    f"data.aus: {self.root} has no labels of {name}",
                    f"choose from {', '.join(coded)}" if coded else "it has none of any AU: set data.aus=[]",
                )
            if f"{name}_intensity" in columns:
                intensity[:, i] = store.label(f"{name}_intensity")
            if name in columns:
                au[:, i] = store.label(name)
            else:
                self.thresholded = True
                known = intensity[:, i] >= 0
                au[known, i] = intensity[known, i] >= self.label_threshold
        labels = {"au": au, "intensity": intensity}
        if "expression" in columns:
            labels["expression"] = store.label("expression")
        elif not self.aus:
            raise DataError(f"data.aus=[]: {self.root} has no expressions either", "list action units")
        return labels

    def samples(self, train: bool) -> FrameDataset:
        """See the base class."""
        transform = create_transform(self.augment, self.image_size, train)
        return FrameDataset(self.opened, self.dataset, self.labels, transform, self.seed, self.neighbours)

    def persons_of(self, subjects: Iterable[str]) -> list[str]:
        """Names by which people are told apart across datasets."""
        return [f"{self.persons}/{subject}" for subject in subjects]

    def state_dict(self) -> dict[str, Any]:
        """See the base class."""
        manifest = self.opened.manifest
        return {
            "dataset": self.dataset,
            "edition": manifest["edition"],
            "split": self.split,
            "fold": self.fold,
            "aus": self.aus,
            "expressions": list(self.expressions),
            "label_threshold": self.label_threshold if self.thresholded else None,
            "camera": self.cameras,
            "frame_set": self.frame_set,
            "train_persons": self.persons_of(self.subjects_train),
            "val_persons": self.persons_of(self.subjects_val),
            "test_persons": self.persons_of(self.subjects_test),
            "select_on": self.select_on,
            "preprocessing": manifest["preprocessing"],
            "crop_size": manifest["preset"]["size"],
            "licence": manifest["licence"],
            "samples": self.kind_of_sample,
            "window": self.pseudo.window if self.pseudo.predictions else None,
            "sigma": self.pseudo_intensities is not None and self.pseudo_intensities.sigma is not None,
            "seed": self.seed,
        }


def listed(names: Iterable[str], most: int = 10) -> str:
    """The first of the names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def missing_neighbours(store: FrameStore, rows: np.ndarray, offset: int) -> float:
    """Share of the frames ``offset`` before and after these rows that their sequence lacks, or that have no picture."""
    number = store.frame - store.frame.min()
    place = (
        store.clip_code.astype(np.int64) * (number.max() + offset + 1) + number
    )  # ascending; no frame of another clip is `offset` away
    wanted = np.concatenate([place[rows] - offset, place[rows] + offset])
    found = np.searchsorted(place, wanted).clip(max=len(place) - 1)
    return float(1 - ((place[found] == wanted) & (store.length[found] > 0)).mean()) if len(rows) else 0.0


def _code_is(names: np.ndarray, codes: np.ndarray, name: str) -> np.ndarray:
    """(N,) bool: rows whose code stands for ``name``."""
    return codes == next(iter(np.flatnonzero(names == name)), -1)
