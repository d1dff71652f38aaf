"""BP4D: 41 subjects in eight tasks; occurrence of 12 action units, intensity 0 to 5 of five of them."""

from typing import Any, Literal

from datamodules.facs import BP4D_12
from datamodules.splits import load_folds
from datamodules.store import FrameStore
from datamodules.store_module import StoreDataModule


class BP4D(StoreDataModule):
    """BP4D (Zhang et al., 2014) in the three subject-exclusive folds of JAA-Net, which most papers share.

    Args:
        root: Store made by ``prepare.py bp4d``, or ``synth:bp4d?...``.
        fold: Part that is held out, 1 to 3, or 1 alone with ``split: fera2015``; 0 holds out nobody.
        aus: By default the twelve that papers report. Intensity is coded for 6, 10, 12, 14 and 17.
        split: ``3fold``, the lists in ``datamodules/folds/bp4d.yaml``; ``fera2015``, the challenge's: subjects of odd
            number train, those of even number are held out (``bp4d_fera2015.yaml``).
        frame_set: ``all`` coded frames (146,847), or those that JAA-Net (146,576) or AU-Net (146,538) kept.
        **settings: See `datamodules.base.AUDataModule`.
    """

    dataset = "bp4d"
    persons = "bp4d"
    n_folds = 3

    def __init__(
        self,
        root: str = "data/bp4d",
        fold: int = 1,
        *,
        aus: list[int] = BP4D_12,
        split: Literal["3fold", "fera2015"] = "3fold",
        frame_set: Literal["all", "jaanet", "aunet"] = "all",
        **settings: Any,
    ) -> None:
        super().__init__(root, fold, aus=aus, **settings)
        self.split, self.frame_set = split, frame_set
        if split == "fera2015":
            self.n_folds = 1

    def parts(self, store: FrameStore) -> dict[int, list[str]]:
        """The committed lists."""
        return load_folds("bp4d" if self.split == "3fold" else "bp4d_fera2015")
