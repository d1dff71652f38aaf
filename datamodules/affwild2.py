"""Aff-Wild2: videos of people in the wild, in the official split of each ABAW challenge."""

from typing import Any, Literal

import numpy as np

from datamodules.errors import DataError
from datamodules.facs import AFFWILD2_8, AFFWILD2_12
from datamodules.store import FrameStore
from datamodules.store_module import StoreDataModule, listed


class AffWild2(StoreDataModule):
    """Aff-Wild2 (Kollias and Zafeiriou) with the training and validation set of a challenge.

    Labels of the challenges' test sets are secret, so the official validation set is what is held out here, and what
    papers score; our validation videos come out of the training set. A subject is a video: who is in it is not known,
    and both persons of a video are on one side.

    Args:
        root: Store made by ``prepare.py affwild2``, or ``synth:affwild2?...``; of the AU or the expression track.
        fold: 1 holds out the official validation set; 0 holds out nobody.
        edition: The challenge whose labels and split the store holds.
        aus: By default those of the edition, eight in ABAW1 and twelve later; empty for the expression track.
        val_subjects: Training videos set aside for validation, or their share if below 1.
        **settings: See `datamodules.base.AUDataModule`.
    """

    dataset = "affwild2"
    persons = "affwild2"
    n_folds = 1
    only_expressions = True

    def __init__(
        self,
        root: str = "data/affwild2",
        fold: int = 1,
        *,
        edition: Literal["abaw1", "abaw2", "abaw3"] = "abaw3",
        aus: list[int] | None = None,
        val_subjects: int | float = 0.1,
        **settings: Any,
    ) -> None:
        if aus is None:
            aus = AFFWILD2_8 if edition == "abaw1" else AFFWILD2_12
        super().__init__(root, fold, aus=aus, val_subjects=val_subjects, **settings)
        self.edition = edition
        self.split = f"official {edition}"

    def check_store(self, store: FrameStore) -> None:
        """See the base class; the store is of the edition."""
        super().check_store(store)
        if (release := store.manifest["release"]) != self.edition:
            raise DataError(
                f"data.edition={self.edition}: {self.root} holds {release}",
                f"set data.edition={release}, or prepare the dataset with --release {self.edition}",
            )

    def parts(self, store: FrameStore) -> dict[int, list[str]]:
        """Part 0 is the official training set, part 1 the official validation set."""
        training, held_out = (self._videos(store, name) for name in ("train", "validation"))
        if both := sorted(set(training) & set(held_out)):
            raise DataError(
                f"{self.root}: videos with tracks in training and validation: {listed(both)}",
                "their persons would be on both sides: take the tracks out of one annotation folder and prepare again",
            )
        return {0: training, 1: held_out}

    @staticmethod
    def _videos(store: FrameStore, split: str) -> list[str]:
        rows = np.isin(store.split_code, np.flatnonzero(store.splits == split))
        return list(store.subjects[np.unique(store.subject_code[rows])])
