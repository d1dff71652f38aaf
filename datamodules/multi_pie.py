"""Multi-PIE: still images of 337 subjects in six expressions, under many cameras and flashes."""

from typing import Any

from datamodules.splits import load_folds
from datamodules.store import FrameStore
from datamodules.store_module import StoreDataModule


class MultiPIE(StoreDataModule):
    """Multi-PIE (Gross et al., 2010) in five subject-exclusive folds of our own: no paper published its lists.

    Which cameras and flashes are in it was chosen when it was prepared.

    Args:
        root: Store made by ``prepare.py multi_pie``, or ``synth:multi_pie?...``.
        fold: Part that is held out, 1 to 5; 0 holds out nobody.
        aus: Empty, since none are coded.
        val_subjects: Training subjects set aside for validation, or their share if below 1.
        **settings: See `datamodules.base.AUDataModule`.
    """

    dataset = "multi_pie"
    persons = "multi_pie"
    split = "facsuite"
    n_folds = 5
    only_expressions = True

    def __init__(
        self,
        root: str = "data/multi_pie",
        fold: int = 1,
        *,
        aus: list[int] | None = None,
        val_subjects: int | float = 0.1,
        **settings: Any,
    ) -> None:
        super().__init__(root, fold, aus=aus or [], val_subjects=val_subjects, **settings)

    def parts(self, store: FrameStore) -> dict[int, list[str]]:
        """The committed lists."""
        return load_folds("multi_pie")
