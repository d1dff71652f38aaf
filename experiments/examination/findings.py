"""What a check says, and what it is given."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from datamodules.known import Known, load_known
from datamodules.splits import load_folds
from datamodules.store import LANDMARKS, Flag, FrameStore

#: Committed subject lists by dataset, the usual protocol first. DISFA and DISFA+ show the same persons.
FOLDS = {
    "bp4d": ("bp4d", "bp4d_fera2015"),
    "bp4d_plus": ("bp4d_plus",),
    "disfa": ("disfa",),
    "disfa_plus": ("disfa",),
    "multi_pie": ("multi_pie",),
}


class Finding(NamedTuple):
    """One thing that a check says.

    Attributes:
        kind: A ``fault`` is wrong; a ``note`` is worth knowing; ``seen`` is what was looked at, or why nothing was.
        what: One line.
        remedy: What to do about a fault.
        rows: Rows of the store that show it, for the page.
    """

    kind: Literal["fault", "note", "seen"]
    what: str
    remedy: str = ""
    rows: tuple[int, ...] = ()


def fault(what: str, remedy: str, rows: Sequence[int] = ()) -> Finding:
    """Something wrong, and what to do about it."""
    return Finding("fault", what, remedy, tuple(rows))


def note(what: str, rows: Sequence[int] = ()) -> Finding:
    """Something worth knowing."""
    return Finding("note", what, rows=tuple(rows))


def seen(what: str) -> Finding:
    """What was looked at, or why nothing was."""
    return Finding("seen", what)


@dataclass(frozen=True)
class Case:
    """A store under examination.

    Attributes:
        store: The store.
        full: Whether to decode every picture.
        progress: Whether to show progress bars.
    """

    store: FrameStore
    full: bool = False
    progress: bool = True

    @property
    def dataset(self) -> str:
        """Name as in commands."""
        return str(self.store.manifest["dataset"])

    @property
    def edition(self) -> str:
        """``published``, ``custom`` or ``twin``."""
        return str(self.store.manifest["edition"])

    @cached_property
    def known(self) -> Known:
        """What is known about the dataset's published archive."""
        return load_known(self.dataset)

    @cached_property
    def subject(self) -> np.ndarray:
        """(N,) name of each row's subject, object."""
        return self.store.subjects[self.store.subject_code]

    @cached_property
    def sequence(self) -> np.ndarray:
        """(N,) name of each row's sequence, object."""
        return self.store.sequences[self.store.sequence_code]

    @cached_property
    def rows_of(self) -> dict[str, int]:
        """Subject to number of rows."""
        counts = np.bincount(self.store.subject_code, minlength=len(self.store.subjects))
        return dict(zip(self.store.subjects.tolist(), counts.tolist(), strict=True))

    @cached_property
    def clips(self) -> list[tuple[int, int]]:
        """First row and row after the last of each run of one subject and sequence."""
        change = (np.diff(self.store.subject_code) != 0) | (np.diff(self.store.sequence_code) != 0)
        ends = [0, *(np.flatnonzero(change) + 1).tolist(), len(self.store)]
        return list(pairwise(ends))

    @cached_property
    def landmarks(self) -> np.ndarray:
        """(N, 68, 2) float32, memory-mapped."""
        return np.load(self.store.root / LANDMARKS, mmap_mode="r")

    @cached_property
    def parts(self) -> dict[str, int]:
        """Subject to part in the dataset's usual folds; empty where there are none."""
        lists = load_folds(FOLDS[self.dataset][0]) if self.dataset in FOLDS else {}
        return {subject: part for part, subjects in lists.items() for subject in subjects}

    @cached_property
    def side(self) -> np.ndarray:
        """(N,) name of the official part, or of the usual fold, that each row is in; empty where neither is known."""
        if any(self.store.splits):
            return self.store.splits[self.store.split_code]
        names = [f"part {self.parts[s]}" if s in self.parts else "" for s in self.store.subjects.tolist()]
        return np.array(names, object)[self.store.subject_code]

    def has(self, flag: Flag) -> np.ndarray:
        """(N,) bool: rows with a flag."""
        return (self.store.flags & flag) != 0

    def name(self, row: int) -> str:
        """Subject, sequence and frame of a row."""
        return " ".join(map(str, self.store.key(row)[1:]))


Check = Callable[[Case], Iterator[Finding]]


@dataclass(frozen=True)
class Result:
    """What a check found.

    Attributes:
        name: Of the check.
        seen: What it looked at.
        faults: What is wrong.
        notes: What is worth knowing.
    """

    name: str
    seen: str
    faults: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.faults:
            return plural(len(self.faults), "fault")
        return plural(len(self.notes), "note") if self.notes else "ok"


def carry_out(name: str, check: Check, case: Case) -> Result:
    """Run a check."""
    findings = list(check(case))
    return Result(
        name=name,
        seen="; ".join(finding.what for finding in findings if finding.kind == "seen"),
        faults=[finding for finding in findings if finding.kind == "fault"],
        notes=[finding for finding in findings if finding.kind == "note"],
    )


def plural(count: int, noun: str) -> str:
    """``1 fault``, ``2 faults``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listing(names: Sequence[str], most: int = 8) -> str:
    """Names with commas, the rest of a long list as a number."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
