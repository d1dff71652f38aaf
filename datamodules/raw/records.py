"""What a raw dataset yields: one record a frame, whatever its layout on disk."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from datamodules.errors import DataError

#: File that a twin carries beside its raw layout: what a correct parser must return.
TRUTH = "truth.parquet"


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """One frame of a raw dataset with its labels; disk codes for "unknown" have become -1.

    Attributes:
        subject: Person, as the dataset names it (``SN001``).
        sequence: Video, task or track of the subject; (subject, sequence, frame) is unique in a dataset.
        frame: Number of the frame in its sequence, by the dataset's own counting.
        pts: Presentation time in seconds; NaN for still images and folders of images.
        image: (H, W, 3) uint8 RGB, or None where the frame is missing.
        landmarks: (68, 2) float32 x, y in pixels of ``image``, (0, 0) the centre of the top left pixel, NaN for
            unknown points; None where the dataset gives none.
        labels: Column to value: ``AU06`` 0/1, ``AU06_intensity`` 0..5, ``expression`` class index, -1 unknown.
        occluded: Whether part of the face is known to be covered.
        box: (4,) float32 x1, y1, x2, y2 of the face in pixels of ``image``; None where the dataset gives none.
        split: Official part, ``train``, ``validation`` or ``test``; empty where the dataset has none.
        side: Which of two persons in the picture the labels describe; empty where there is no such question.
    """

    subject: str
    sequence: str
    frame: int
    pts: float
    image: np.ndarray | None
    landmarks: np.ndarray | None
    labels: dict[str, int] = field(default_factory=dict)
    occluded: bool = False
    box: np.ndarray | None = None
    split: str = ""
    side: Literal["", "left", "right"] = ""


class RawDataset(Protocol):
    """A raw dataset as `datamodules.prepare` reads it: clips that are independent of each other, frames in time order.

    The constructor takes ``root``, the dataset's own options and ``edition``; its signature and docstring are the
    command line of ``prepare.py DATASET``.
    """

    @property
    def name(self) -> str:
        """Dataset name as in commands (``disfa``)."""
        ...

    @property
    def edition(self) -> str:
        """``published`` for the archive as its authors deliver it, else ``custom`` or ``twin``: `edition_of`."""
        ...

    @property
    def release(self) -> str:
        """Which of the dataset's releases (``abaw3``); empty where there is one."""
        ...

    @property
    def licence(self) -> str:
        """One line about the terms of the data."""
        ...

    @property
    def label_columns(self) -> list[str]:
        """Every label column that the records carry, in order."""
        ...

    @property
    def expressions(self) -> tuple[str, ...]:
        """Class names of the column ``expression``; empty where there is none."""
        ...

    @property
    def delivers(self) -> Literal["landmarks", "box", "crop", ""]:
        """What the dataset says of the face: most of 68 points or all, a box, or that the pictures are crops."""
        ...

    @property
    def root(self) -> Path:
        """Folder of the raw files."""
        ...

    def check(self) -> None:
        """Look at layout, names, label files and frame counts before any long work; raises `DataError`."""

    def clips(self) -> list[str]:
        """Names of the clips (a video, a sequence), each of which can be read in its own process.

        Sorted so that the rows of a shard come out in the order of (subject, sequence, frame), and the shards in the
        order of their subjects.
        """
        ...

    def shard(self, clip: str) -> str:
        """Name of the file that the clip's pictures go to: the subject where subjects are known."""
        ...

    def count(self, clip: str) -> int:
        """Number of frames that the clip's labels announce, for progress bars."""
        ...

    def fingerprint(self, clip: str) -> str:
        """Text that changes when the clip's raw files or settings do: tells finished work from stale work, cheaply."""
        ...

    def frames(self, clip: str) -> Iterator[FrameRecord]:
        """Frames of a clip in time order, one for each row of its labels, decoded one at a time."""
        ...


def edition_of(root: Path, edition: Literal["published", "custom"] = "custom") -> str:
    """``twin`` for a root that carries a twin's truth, else ``edition``.

    Raises:
        DataError: For a twin that is said to be the published archive.
    """
    if not (root / TRUTH).exists():
        return edition
    if edition == "published":
        raise DataError(
            f"{root / TRUTH} marks a rendered twin, not the published archive", "leave out --edition published"
        )
    return "twin"
