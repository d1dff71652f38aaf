"""Multi-PIE: still images of 337 subjects in six expressions, under many cameras and flashes."""

from typing import Any, Literal

import numpy as np

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
        frame_set: ``one_recording`` keeps of each person and expression the first recording alone, which brings the
            classes nearer to each other: with all four sessions Neutral has five of eleven recordings.
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
        frame_set: Literal["all", "one_recording"] = "all",
        val_subjects: int | float = 0.1,
        **settings: Any,
    ) -> None:
        super().__init__(root, fold, aus=aus or [], val_subjects=val_subjects, **settings)
        self.frame_set = frame_set

    def parts(self, store: FrameStore) -> dict[int, list[str]]:
        """The committed lists."""
        return load_folds("multi_pie")

    def dropped(self, store: FrameStore) -> dict[str, np.ndarray]:
        """See the base class."""
        if self.frame_set == "all":
            return {}
        # Sequences are named session, recording, camera, shot; their order is that of time.
        _, recording = np.unique([name[:5] for name in store.sequences], return_inverse=True)
        recording = recording[store.sequence_code]
        shown = store.subject_code * (len(self.expressions) + 1) + self.labels["expression"] + 1  # unknown apart
        first = np.full(shown.max(initial=0) + 1, len(store.sequences))
        np.minimum.at(first, shown[self._used], recording[self._used])
        return {"of a person's further recordings of an expression": recording != first[shown]}
