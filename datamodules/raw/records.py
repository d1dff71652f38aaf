"""What a raw dataset yields: one record a frame, whatever its layout on disk."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """One frame of a raw dataset with its labels; disk codes for "unknown" have become -1.

    Attributes:
        subject: Person, as the dataset names it (``SN001``).
        sequence: Video, task or track of the subject; (subject, sequence, frame) is unique in a dataset.
        frame: Number of the frame in its sequence, by the dataset's own counting.
        pts: Presentation time in seconds; NaN for still images.
        image: (H, W, 3) uint8 RGB, or None where the frame is missing or unreadable.
        landmarks: (68, 2) float32 x, y in pixels of ``image``, (0, 0) the centre of the top left pixel, NaN for
            unknown points; None where the dataset gives none.
        labels: Column to value: ``AU06`` 0/1, ``AU06_intensity`` 0..5, ``expression`` class index, -1 unknown.
        occluded: Whether part of the face is known to be covered.
    """

    subject: str
    sequence: str
    frame: int
    pts: float
    image: np.ndarray | None
    landmarks: np.ndarray | None
    labels: dict[str, int] = field(default_factory=dict)
    occluded: bool = False


class RawDataset(Protocol):
    """A raw dataset as `datamodules.prepare` reads it: clips that are independent of each other, frames in time order.

    Attributes:
        name: Dataset name as in commands (``disfa``).
        edition: ``published`` for the archive as its authors deliver it, else ``custom`` or ``twin``.
        licence: One line about the terms of the data.
        label_columns: Every label column that the records carry, in order.
    """

    name: str
    edition: str
    licence: str
    label_columns: list[str]

    def check(self) -> None:
        """Look at layout, names and label files before any long work; raises `DataError`."""

    def clips(self) -> list[str]:
        """Names of the clips (a video, a sequence), sorted; each can be read in its own process."""
        ...

    def subject(self, clip: str) -> str:
        """Subject of a clip."""
        ...

    def count(self, clip: str) -> int:
        """Number of frames that the clip's labels announce, for progress bars."""
        ...

    def fingerprint(self, clip: str) -> str:
        """Text that changes when the clip's raw files or settings do: tells finished work from stale work, cheaply."""
        ...

    def frames(self, clip: str) -> Iterator[FrameRecord]:
        """Frames of a clip in time order, decoded one at a time."""
        ...
