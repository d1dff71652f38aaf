"""SynthFACS: rendered faces with exact labels, as many subjects as asked."""

from typing import Any

from datamodules.store import FrameStore
from datamodules.store_module import StoreDataModule


class SynthFACS(StoreDataModule):
    """The embedded synthetic dataset (docs/synth_facs.md), with folds made over its subjects.

    Args:
        root: ``synth:synth_facs?subjects=..&frames=..&seed=..``, or a store made from it.
        fold: Part that is held out, from 1; 0 holds out nobody.
        aus: Of the 17 that are rendered.
        n_folds: Number of parts; subject i of the sorted list is in part i mod ``n_folds``.
        **settings: See `datamodules.base.AUDataModule`.
    """

    dataset = "synth_facs"
    persons = "synth_facs"
    split = "every n-th"
    n_folds = 3

    def __init__(
        self, root: str = "synth:synth_facs", fold: int = 1, *, aus: list[int], n_folds: int = 3, **settings: Any
    ) -> None:
        super().__init__(root, fold, aus=aus, **settings)
        self.n_folds = n_folds

    def parts(self, store: FrameStore) -> dict[int, list[str]]:
        """Every ``n_folds``-th subject."""
        return {k + 1: list(store.subjects[k :: self.n_folds]) for k in range(self.n_folds)}
