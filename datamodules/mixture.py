"""Mixture: several prepared datasets at once, or training on some and testing on others."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from torch.utils.data import Dataset

from datamodules.affwild2 import AffWild2
from datamodules.base import AUDataModule
from datamodules.bp4d import BP4D
from datamodules.bp4d_plus import BP4DPlus
from datamodules.caer_s import CAERS
from datamodules.disfa import DISFA, DISFAPlus
from datamodules.errors import DataError
from datamodules.facs import au_name, au_number
from datamodules.frames import FrameDataset
from datamodules.multi_pie import MultiPIE
from datamodules.sampling import BalancedSampler, TrainSampler
from datamodules.splits import choose_validation, number_of
from datamodules.store import FrameStore
from datamodules.store_module import StoreDataModule, listed
from datamodules.synth.roots import check_root, resolve_root
from datamodules.synth_facs import SynthFACS
from datamodules.transforms import create_transform

DATASETS: dict[str, type[StoreDataModule]] = {
    module.dataset: module for module in (DISFA, DISFAPlus, BP4D, BP4DPlus, AffWild2, CAERS, MultiPIE, SynthFACS)
}


class Mixture(AUDataModule):
    """Several datasets as one: their rows one store after the other, labels that a dataset lacks -1.

    Without ``test``, fold k holds out part k of every dataset; where one of them has an official split alone, fold 1
    is the only one. With ``test``, fold 1 trains on all subjects of ``train`` and tests on all of ``test``, who must be
    other people. Fold 0 holds out nobody and leaves ``test`` out. Validation subjects are drawn from each of ``train``;
    datasets that share people (DISFA and DISFA+) draw together, so that nobody is on two sides. Each dataset has the
    defaults of its own DataModule otherwise.

    Args:
        train: Name of each dataset to its root: ``{bp4d: data/bp4d, disfa: data/disfa}``.
        test: Datasets to test on instead of held-out parts.
        fold: Part that is held out, from 1; 1 alone with ``test``; 0 holds out nobody.
        aus: Each is coded by at least one dataset that trains.
        sampling: ``proportional`` takes every training frame once an epoch; ``balanced`` takes equally many of each
            dataset, see `datamodules.sampling.BalancedSampler`.
        allow_crop_mismatch: Whether the stores may differ in their crop presets.
        **settings: See `datamodules.base.AUDataModule`; ``val_subjects`` are of each dataset.
    """

    only_expressions = True

    def __init__(
        self,
        train: dict[str, str],
        test: dict[str, str] | None = None,
        fold: int = 1,
        *,
        aus: list[int],
        sampling: Literal["proportional", "balanced"] = "proportional",
        allow_crop_mismatch: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(fold, aus=aus, **settings)
        self.roots_train, self.roots_test = dict(train), dict(test or {})
        self.sampling, self.allow_crop_mismatch = sampling, allow_crop_mismatch
        self.dataset = f"mixture({'+'.join(train)}{' -> ' * bool(test)}{'+'.join(test or {})})"
        folds = [DATASETS[name].n_folds for name in train if name in DATASETS]
        self.n_folds = 1 if test else min(folds, default=1)
        self.members: list[StoreDataModule] = []

    def check(self) -> None:
        """See the base class; also looks at names and roots of the datasets."""
        super().check()
        if not self.roots_train:
            raise DataError("data.train: names no dataset", "write {name: root} for each")
        for key, roots in (("train", self.roots_train), ("test", self.roots_test)):
            if unknown := sorted(set(roots) - set(DATASETS)):
                raise DataError(f"data.{key}: there is no dataset {listed(unknown)}", f"choose from {listed(DATASETS)}")
            for root in roots.values():
                check_root(root)
        if self.sampling == "balanced" and self.balanced_expressions:
            raise DataError(
                "data.sampling=balanced and data.balanced_expressions: one of them orders the training frames",
                "balance either datasets or expressions",
            )
        folds = {name: DATASETS[name].n_folds for name in self.roots_train}
        if not self.roots_test and len(set(folds.values()) - {1}) > 1:
            numbers = ", ".join(f"{name} {number}" for name, number in folds.items())
            raise DataError(
                f"data.train: datasets with different numbers of folds: {numbers}",
                "mix datasets with equally many folds, or name others in data.test",
            )

    def prepare_data(self) -> None:
        """Render and prepare synthetic roots once."""
        if not self.members:
            for root in (*self.roots_train.values(), *self.roots_test.values()):
                resolve_root(root)

    def split_subjects(self) -> None:
        """See the base class."""
        cross = bool(self.roots_test)
        train = [self._open(name, root, 0 if cross else self.fold) for name, root in self.roots_train.items()]
        tested = [self._open(name, root, 0) for name, root in self.roots_test.items() if self.fold]
        members = [*train, *tested]
        self._check_together(train, members)
        for member, validation in self._validation(train):
            member.assign(validation)
        for member in tested:  # all its subjects are tested, none trains
            member.held_out, member.training = member.training, []
            member.assign([])
        self._offsets = np.cumsum([0, *(len(member.opened) for member in members)])
        self.labels = self._joined_labels(members)
        self.check_balance()
        for side in ("train", "val", "test"):
            setattr(self, f"subjects_{side}", self._names(members, f"subjects_{side}", "dataset"))
            setattr(self, f"rows_{side}", self._rows(members, f"rows_{side}"))
        self.rows_all = self._rows(members, "rows_all")
        self._check_persons(members)
        self.unreadable = sum(member.unreadable for member in members)
        self.left_out = {f"{m.dataset}: {reason}": n for m in members for reason, n in m.left_out.items()}
        self.repeated_neighbours = None
        if self.neighbours:
            shares = [(m.repeated_neighbours or 0) * len(m.rows_train) for m in members]
            self.repeated_neighbours = sum(shares) / len(self.rows_train)
        self.members = members

    def stores(self) -> list[tuple[str, FrameStore]]:
        """See the base class."""
        return [(member.dataset, member.opened) for member in self.members]

    def _open(self, name: str, root: str, fold: int) -> StoreDataModule:
        store = FrameStore(resolve_root(root))
        coded = {au_number(column) for column in store.columns}
        aus = [au for au in self.aus if au in coded]
        if not aus and "expression" not in store.columns:
            raise DataError(f"data.aus={self.aus}: {root} codes none of them", f"leave {name} out, or add its AUs")
        settings: dict[str, Any] = {
            **{"aus": aus, "image_size": self.image_size, "label_threshold": self.label_threshold, "seed": self.seed},
            **{"val_subjects": self.val_subjects, "train_stride": self.train_stride, "neighbours": self.neighbours},
            **{"duplicate_aus": [au for au in self.duplicate_aus if au in aus], "augment": self.augment},
        }
        if name == "affwild2":
            settings["edition"] = store.manifest["release"]
        member = DATASETS[name](root, fold, **settings)
        member.open()
        return member

    def _check_together(self, train: list[StoreDataModule], members: list[StoreDataModule]) -> None:
        presets = {member.dataset: member.opened.manifest["preset"]["name"] for member in members}
        if len({member.opened.manifest["preprocessing"] for member in members}) > 1 and not self.allow_crop_mismatch:
            crops = ", ".join(f"{name} {preset}" for name, preset in presets.items())
            raise DataError(
                f"{self.dataset}: stores with different crops: {crops}",
                "prepare all with one preset, or set data.allow_crop_mismatch=true",
            )
        if uncoded := [au_name(au) for au in self.aus if not any(au in member.aus for member in train)]:
            raise DataError(f"data.aus: no dataset that trains codes {listed(uncoded)}", "leave them out")
        if len(classes := {member.expressions for member in members if "expression" in member.labels}) > 1:
            lists = "; ".join(", ".join(names) for names in sorted(classes))
            raise DataError(f"{self.dataset}: different expression classes: {lists}", "mix datasets with equal classes")
        self.expressions = next(iter(classes), ())

    def _validation(self, train: list[StoreDataModule]) -> Iterable[tuple[StoreDataModule, list[str]]]:
        """Members with their validation subjects; a person is drawn once, whatever number of datasets it is in."""
        sharing: dict[str, list[StoreDataModule]] = defaultdict(list)
        for member in train:
            sharing[member.persons].append(member)
        for group in sharing.values():
            if len(group) == 1:
                yield group[0], group[0].validation()
                continue
            people = sorted({subject for member in group for subject in member.training})
            number = number_of(self.val_subjects, len(people))
            tables = [member.shows(member.training) for member in group]
            nothing = [np.zeros_like(next(iter(table.values()))) for table in tables]
            shows = {p: np.concatenate([t.get(p, n) for t, n in zip(tables, nothing, strict=True)]) for p in people}
            chosen = set(choose_validation(shows, number, self.seed))
            for member in group:
                yield member, sorted(chosen & set(member.training))

    def _check_persons(self, members: list[StoreDataModule]) -> None:
        seen = {side: self._names(members, f"subjects_{side}", "persons") for side in ("train", "val", "test")}
        self.persons = {side: sorted(set(names)) for side, names in seen.items()}
        seen_in_training = {*self.persons["train"], *self.persons["val"]}
        if both := sorted(seen_in_training & set(self.persons["test"])):
            raise DataError(
                f"{self.dataset}: the same people would train and be tested: {listed(both)}",
                "test on a dataset with other people, or leave data.test out to hold out parts",
            )

    def _joined_labels(self, members: list[StoreDataModule]) -> dict[str, np.ndarray]:
        total = int(self._offsets[-1])
        labels: dict[str, np.ndarray] = {
            kind: np.full((total, len(self.aus)), -1, np.int8) for kind in ("au", "intensity")
        }
        if self.expressions:
            labels["expression"] = np.full(total, -1, np.int8)
        for member, start, end in zip(members, self._offsets, self._offsets[1:], strict=False):
            columns = [self.aus.index(au) for au in member.aus]
            for kind, values in member.labels.items():
                if kind == "expression":
                    labels[kind][start:end] = values
                else:
                    labels[kind][start:end, columns] = values
        return labels

    def _names(self, members: list[StoreDataModule], subjects: str, of: Literal["dataset", "persons"]) -> list[str]:
        return sorted(f"{getattr(member, of)}/{name}" for member in members for name in getattr(member, subjects))

    def _rows(self, members: list[StoreDataModule], rows: str) -> np.ndarray:
        starts = zip(members, self._offsets, strict=False)
        return np.concatenate([getattr(member, rows) + start for member, start in starts])

    def train_sampler(self, rank: int, world_size: int) -> TrainSampler:
        """See the base class."""
        if self.sampling == "proportional" or self.kind_of_sample != "frames":  # pairs are drawn by dataset anyway
            return super().train_sampler(rank, world_size)
        starts = zip(self.members, self._offsets, strict=False)
        groups = [member.rows_train + start for member, start in starts if len(member.rows_train)]
        return BalancedSampler(groups, self.seed, rank, world_size)

    def samples(self, train: bool) -> Dataset[dict[str, Any]]:
        """See the base class."""
        transform = create_transform(self.augment, self.image_size, train)
        parts = []
        for member, start, end in zip(self.members, self._offsets, self._offsets[1:], strict=False):
            labels = {kind: values[start:end] for kind, values in self.labels.items()}
            parts.append(FrameDataset(member.opened, member.dataset, labels, transform, self.seed, self.neighbours))
        return _Joined(parts)

    def state_dict(self) -> dict[str, Any]:
        """See the base class."""
        states = [member.state_dict() for member in self.members]

        def joined(fact: str, by: str = "+") -> str | None:
            return by.join(dict.fromkeys(state[fact] for state in states if state[fact] is not None)) or None

        return {
            "dataset": self.dataset,
            "edition": joined("edition"),
            "split": "cross-dataset" if self.roots_test else joined("split"),
            "fold": self.fold,
            "aus": self.aus,
            "expressions": list(self.expressions),
            "label_threshold": self.label_threshold if any(m.thresholded for m in self.members) else None,
            "camera": joined("camera"),
            "frame_set": joined("frame_set"),
            "member_aus": {m.dataset: m.aus for m in self.members if m.dataset in self.roots_train},
            **{f"{side}_persons": names for side, names in self.persons.items()},
            "select_on": self.select_on,
            "sampling": self.sampling,
            "preprocessing": joined("preprocessing"),
            "crop_size": max(state["crop_size"] for state in states),
            "licence": joined("licence", "; "),
            "samples": self.kind_of_sample,
            "window": self.pseudo.window if self.pseudo.predictions else None,
            "sigma": self.pseudo_intensities is not None and self.pseudo_intensities.sigma is not None,
            "seed": self.seed,
        }


class _Joined(Dataset[dict[str, Any]]):
    """Datasets one after the other; ``index`` counts through all of them."""

    def __init__(self, parts: list[FrameDataset]) -> None:
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, row = key if isinstance(key, tuple) else (0, key)
        place = int(np.searchsorted(self.ends, row, side="right"))
        part = self.parts[place]
        return part[epoch, row - int(self.ends[place]) + len(part)] | {"index": row}
