"""What is publicly known about the datasets as their owners deliver them: one YAML file a dataset, with sources.

Raw parsers hold an archive to these numbers where it is said to be the published one, `experiments.doctor` a store.
Numbers that nobody has checked against the archive or the lists made from it are not here.
"""

from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import yaml

Ranges = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class BadFrames:
    """Frames that others found unusable.

    Attributes:
        subject: Subject, as in the store.
        sequence: Sequence, None for every sequence of the subject.
        frames: First and last frame of each run, both included; empty for all frames.
        what: What is wrong with them.
        source: Who found it.
    """

    subject: str
    sequence: str | None
    frames: Ranges
    what: str
    source: str


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the reference folds.

    Attributes:
        rows: Label rows.
        positives: Column to number of positives, as `Known.positives`.
        digest: First 16 hex digits of the SHA-256 of the sorted subject names, joined by single spaces.
    """

    rows: int
    digest: str
    positives: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Known:
    """Facts of one dataset's published archive; a field is empty where nothing is known.

    Attributes:
        dataset: Name as in commands.
        sources: Field to where its numbers come from.
        subjects: Names of all subjects.
        persons: Number of subjects.
        sequences: Number of coded sequences.
        rows: Subject to number of label rows.
        sequence_rows: Sequence name to number of label rows over all subjects.
        total: Label rows of the archive.
        positives: Column to number of rows at ``least`` or above.
        least: Lowest value that counts as positive.
        tolerance: By how much a number of ``positives`` may differ: sources disagree by as much.
        images: Part (``train``) or part and class (``train/Anger``) to number of pictures.
        boxed: Part and class to number of pictures in the public face box list.
        duplicates: Sides (``train/train``, ``test/train``, sorted) to number of pairs of identical pictures.
        bad_frames: Frames that others found unusable.
        missing: Frame set of a published code base (``jaanet``) to subject, or subject/sequence, to the coded frames
            that it leaves out.
        parts: Number of the part, from 1, to what the reference lists have in it.
    """

    dataset: str
    sources: dict[str, str] = field(default_factory=dict)
    subjects: list[str] = field(default_factory=list)
    persons: int | None = None
    sequences: int | None = None
    rows: dict[str, int] = field(default_factory=dict)
    sequence_rows: dict[str, int] = field(default_factory=dict)
    total: int | None = None
    positives: dict[str, int] = field(default_factory=dict)
    least: int = 1
    tolerance: int = 0
    images: dict[str, int] = field(default_factory=dict)
    boxed: dict[str, int] = field(default_factory=dict)
    duplicates: dict[str, int] = field(default_factory=dict)
    bad_frames: list[BadFrames] = field(default_factory=list)
    missing: dict[str, dict[str, Ranges]] = field(default_factory=dict)
    parts: dict[int, Part] = field(default_factory=dict)

    def left_out(self, frame_set: str, subject: str, sequence: str, frames: np.ndarray) -> np.ndarray:
        """(N,) bool: which frames (N,) of a sequence the named frame set leaves out."""
        ranges = self.missing[frame_set]
        return within(frames, [*ranges.get(subject, []), *ranges.get(f"{subject}/{sequence}", [])])


def within(frames: np.ndarray, ranges: Ranges) -> np.ndarray:
    """(N,) bool: which of the frame numbers (N,) lie in one of the ranges, ends included."""
    found = np.zeros(len(frames), bool)
    for first, last in ranges:
        found |= (frames >= first) & (frames <= last)
    return found


@cache
def load_known(dataset: str) -> Known:
    """Facts of a dataset by its name; all fields empty for one that nothing is known about."""
    path = files("datamodules") / "known" / f"{dataset}.yaml"
    values: dict[str, Any] = yaml.safe_load(path.read_text()) if path.is_file() else {}
    bad = [BadFrames(**entry | {"frames": _ranges(entry["frames"])}) for entry in values.pop("bad_frames", [])]
    parts = {number: Part(**part) for number, part in values.pop("parts", {}).items()}
    missing = {
        name: {where: _ranges(runs) for where, runs in places.items()}
        for name, places in values.pop("missing", {}).items()
    }
    return Known(dataset, bad_frames=bad, parts=parts, missing=missing, **values)


def _ranges(runs: list[list[int]]) -> Ranges:
    return [(first, last) for first, last in runs]
