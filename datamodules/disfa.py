"""DISFA and DISFA+: intensities 0 to 5 of 12 action units of the same 27 persons."""

from typing import Any, Literal

from datamodules.facs import DISFA_8
from datamodules.splits import load_folds
from datamodules.store import FrameStore
from datamodules.store_module import StoreDataModule


class DISFA(StoreDataModule):
    """DISFA (Mavadati et al., 2013) in the three subject-exclusive folds that the field shares.

    Occurrence is intensity at or above ``label_threshold``: RE-Net counts from 1, most later papers from 2, and their
    scores do not compare. The held-out lists stand in ``datamodules/folds/disfa.yaml``.

    Args:
        root: Store made by ``prepare.py disfa``, or ``synth:disfa?...``.
        fold: Part that is held out, 1 to 3; 0 holds out nobody.
        aus: By default the eight that papers report; twelve are coded.
        frame_set: ``all`` coded frames, or those that JAA-Net, AU-Net and papers after them kept (126,144 of 130,814):
            they left out frames whose landmarks failed.
        **settings: See `datamodules.base.AUDataModule`.
    """

    dataset = "disfa"
    persons = "disfa"
    split = "3fold"
    n_folds = 3

    def __init__(
        self,
        root: str = "data/disfa",
        fold: int = 1,
        *,
        aus: list[int] = DISFA_8,
        frame_set: Literal["all", "jaanet"] = "all",
        **settings: Any,
    ) -> None:
        super().__init__(root, fold, aus=aus, **settings)
        self.frame_set = frame_set

    def parts(self, store: FrameStore) -> dict[int, list[str]]:
        """The committed lists."""
        return load_folds("disfa")

    @property
    def cameras(self) -> str | None:
        """Camera of the store's videos: ``left``, ``right`` or ``left+right``."""
        return "+".join(self.opened.sequences)


class DISFAPlus(StoreDataModule):
    """DISFA+ (Mavadati et al., 2016): posed expressions of nine of DISFA's persons, in DISFA's parts.

    So that a network trained on one may be tested on the other. Four persons are in part 1, one is in part 2, four in
    part 3: scores of fold 2 are those of a single face.

    Args:
        root: Store made by ``prepare.py disfa_plus``, or ``synth:disfa_plus?...``.
        fold: Part that is held out, 1 to 3; 0 holds out nobody.
        aus: By default the eight that papers report on DISFA; twelve are coded.
        val_subjects: Training subjects set aside for validation, or their share if below 1.
        **settings: See `datamodules.base.AUDataModule`.
    """

    dataset = "disfa_plus"
    persons = "disfa"
    split = "3fold"
    n_folds = 3

    def __init__(
        self,
        root: str = "data/disfa_plus",
        fold: int = 1,
        *,
        aus: list[int] = DISFA_8,
        val_subjects: int | float = 1,
        **settings: Any,
    ) -> None:
        super().__init__(root, fold, aus=aus, val_subjects=val_subjects, **settings)

    def parts(self, store: FrameStore) -> dict[int, list[str]]:
        """The committed lists of DISFA."""
        return load_folds("disfa")
