"""SynthFACS: rendered faces with exact labels, as many subjects as asked."""

from typing import Any

from datamodules.base import AUDataModule


class SynthFACS(AUDataModule):
    """The embedded synthetic dataset (docs/synth_facs.md), with folds made over its subjects.

    Args:
        root: ``synth:synth_facs?subjects=..&frames=..&seed=..``, or a store made from it.
        n_folds: Number of parts; subject i of the sorted list is in part i mod ``n_folds``.
        **settings: See `datamodules.base.AUDataModule`.
    """

    dataset = "synth_facs"
    persons = "synth_facs"

    def __init__(
        self, root: str = "synth:synth_facs", fold: int = 1, *, aus: list[int], n_folds: int = 3, **settings: Any
    ) -> None:
        super().__init__(root, fold, aus=aus, **settings)
        self.n_folds = n_folds

    def parts(self, subjects: list[str]) -> dict[int, list[str]]:
        """Every ``n_folds``-th subject."""
        return {k + 1: sorted(subjects)[k :: self.n_folds] for k in range(self.n_folds)}
