"""DISFA: 27 subjects, one video each, intensities 0 to 5 of 12 action units."""

from typing import Any

from datamodules.base import AUDataModule
from datamodules.facs import DISFA_8
from datamodules.splits import load_folds


class DISFA(AUDataModule):
    """DISFA (Mavadati et al., 2013) in the three subject-exclusive folds that the field shares.

    Occurrence is intensity at or above ``label_threshold``: RE-Net counts from 1, most later papers from 2, and their
    scores do not compare. The held-out lists stand in ``datamodules/folds/disfa.yaml``.

    Args:
        root: Store made by ``prepare.py disfa``, or ``synth:disfa?...``.
        aus: By default the eight that papers report; twelve are coded.
        **settings: See `datamodules.base.AUDataModule`.
    """

    dataset = "disfa"
    persons = "disfa"  # DISFA+ filmed some of the same people
    n_folds = 3

    def __init__(self, root: str = "data/disfa", fold: int = 1, *, aus: list[int] = DISFA_8, **settings: Any) -> None:
        super().__init__(root, fold, aus=aus, **settings)

    def parts(self, subjects: list[str]) -> dict[int, list[str]]:
        """The committed lists; a store may hold fewer subjects."""
        return load_folds("disfa")

    @property
    def cameras(self) -> str:
        """Camera of the store's videos: ``left``, ``right`` or ``left+right``."""
        return "+".join(self._opened.sequences)
