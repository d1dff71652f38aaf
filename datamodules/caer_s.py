"""CAER-S: single pictures of television scenes in seven expressions."""

from typing import Any, Literal

import numpy as np

from datamodules.splits import number_of
from datamodules.store import FrameStore
from datamodules.store_module import StoreDataModule

VALIDATION_THIRD = 1 / 3  # of the test folder, as papers that say 70/10/20 cut it


class CAERS(StoreDataModule):
    """CAER-S (Lee et al., 2019). Nobody knows who is in its pictures, so sides are told apart by picture.

    Scores are optimistic for that: pictures were cut out of clips, and clips, scenes and actors are on both sides.
    Pictures that are byte for byte the same after preparing are on one side only: those of the test leave training and
    validation, those of validation leave training.

    Args:
        root: Store made by ``prepare.py caer_s``, or ``synth:caer_s?...``.
        fold: 1 holds out pictures of the archive's folder ``test``; 0 holds out none.
        aus: Empty, since none are coded.
        protocol: ``70/10/20``: the folder ``train`` trains, of ``test`` a third of each class, the same for every
            ``seed``, validates, the rest is held out. ``train_val``: all of ``test`` is held out, ``val_subjects`` of
            each class of ``train`` validate.
        val_subjects: Pictures, or share of them, of each class. With ``70/10/20`` any number; 0 lets the third train.
        **settings: See `datamodules.base.AUDataModule`.
    """

    dataset = "caer_s"
    persons = "caer_s"
    n_folds = 1
    only_expressions = True

    def __init__(
        self,
        root: str = "data/caer_s",
        fold: int = 1,
        *,
        aus: list[int] | None = None,
        protocol: Literal["70/10/20", "train_val"] = "70/10/20",
        val_subjects: int | float = 0.1,
        **settings: Any,
    ) -> None:
        super().__init__(root, fold, aus=aus or [], val_subjects=val_subjects, **settings)
        self.protocol = self.split = protocol

    def parts(self, store: FrameStore) -> dict[int, list[str]]:
        """Part 1 is what the protocol tests, part 0 the rest."""
        test = self._sides(store) == "test"
        return {0: self._pictures(store, ~test), 1: self._pictures(store, test)}

    def validation(self) -> list[str]:
        """What the protocol validates on, as far as it is in use."""
        chosen = self._pictures(self.opened, self._sides(self.opened) == "val")
        return sorted(set(chosen) & set(self.training))

    def dropped(self, store: FrameStore) -> dict[str, np.ndarray]:
        """Pictures that are also on a side that must not have been seen."""
        side, digest = self._sides(store), store.source_digest
        known = store.length > 0
        in_test = known & np.isin(digest, digest[known & (side == "test")])
        in_val = known & np.isin(digest, digest[known & (side == "val")])
        return {
            "of training and validation, identical to held-out ones": in_test & (side != "test"),
            "of training, identical to validation ones": in_val & (side == "train"),
        }

    def _sides(self, store: FrameStore) -> np.ndarray:
        """(N,) train, val or test: the side of each row."""
        folder = store.splits[store.split_code]
        side = np.where((folder == "test") & (self.fold > 0), "test", "train").astype("<U5")
        source, count, seed = ("train", self.val_subjects, self.seed)
        if self.protocol == "70/10/20":
            source, count, seed = ("test", VALIDATION_THIRD, 0)  # all seeds of a run test the same pictures
        generator = np.random.default_rng(seed)
        for k in range(len(store.manifest["expressions"])):
            rows = np.flatnonzero((folder == source) & (self.labels["expression"] == k))
            chosen = generator.permutation(rows)[: number_of(count, len(rows))]
            side[chosen] = "val" if self.val_subjects else "train"
        return side

    @staticmethod
    def _pictures(store: FrameStore, rows: np.ndarray) -> list[str]:
        return list(store.subjects[np.unique(store.subject_code[rows])])
