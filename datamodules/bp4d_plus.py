"""BP4D+: 140 subjects in the four tasks that are coded; action units as in BP4D."""

from typing import Any

from datamodules.facs import BP4D_12
from datamodules.splits import load_folds
from datamodules.store import FrameStore
from datamodules.store_module import StoreDataModule


class BP4DPlus(StoreDataModule):
    """BP4D+ (Zhang et al., 2016) in three folds of our own: no paper published its lists.

    Its subjects are other people than those of the same names in BP4D.

    Args:
        root: Store made by ``prepare.py bp4d_plus``, or ``synth:bp4d_plus?...``.
        fold: Part that is held out, 1 to 3; 0 holds out nobody.
        aus: By default the twelve that papers report. Intensity is coded for 6, 10, 12, 14 and 17.
        **settings: See `datamodules.base.AUDataModule`.
    """

    dataset = "bp4d_plus"
    persons = "bp4d_plus"
    split = "facsuite"
    n_folds = 3

    def __init__(
        self, root: str = "data/bp4d_plus", fold: int = 1, *, aus: list[int] = BP4D_12, **settings: Any
    ) -> None:
        super().__init__(root, fold, aus=aus, **settings)

    def parts(self, store: FrameStore) -> dict[int, list[str]]:
        """The committed lists."""
        return load_folds("bp4d_plus")
