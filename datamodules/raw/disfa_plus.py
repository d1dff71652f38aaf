"""DISFA+ (Mavadati, Sanger & Mahoor, CVPR Workshops 2016): the archive's own layout.

    ROOT/                                            DISFAPlusDataset, or the folder that it lies in
      Images/SN001/A3_AU1_2_TrailNo_2/000.jpg        pictures by subject and session ("Trail" is the archive's own
                                                     spelling), numbered from 0
      Labels/SN001/A3_AU1_2_TrailNo_2/AU1.txt        one file an action unit, AUs 1 2 4 5 6 9 12 15 17 20 25 26: two
                                                     lines of header, then `000.jpg     0`: picture and intensity 0..5

9 subjects, who bear the numbers that they have in DISFA: the same persons. Posed expressions and single action units.
Labels govern: every row of a session's label files, which all name the same pictures, becomes a record, without picture
where there is none. ``frame`` is the picture's number. Other files and folders are ignored.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from datamodules.errors import DataError
from datamodules.facs import DISFA_12, au_name
from datamodules.known import load_known
from datamodules.raw.archive import absent, check_published, read_text
from datamodules.raw.media import numbered, read_image
from datamodules.raw.records import FrameRecord, edition_of

_FOLDER = "DISFAPlusDataset"
_SUBJECT = re.compile(r"SN\d{3}")
_PICTURE = re.compile(r"(\d+)\.jpg", re.IGNORECASE)
_LABEL_LINE = re.compile(r"\s*(\d+)\.jpg\s+([0-5])\s*", re.IGNORECASE)
_HEADER = 2  # lines
_RESTORE = "restore the label file from the archive"


class DISFAPlusRaw:
    """DISFA+: pictures of posed sessions, intensities of 12 AUs.

    Implements `datamodules.raw.records.RawDataset` with one clip a session.

    Args:
        root: Folder with the layout of this module.
        edition: ``published`` holds the data to the archive's known subjects.
    """

    name = "disfa_plus"
    release = ""
    label_columns = [f"{au_name(au)}_intensity" for au in DISFA_12]  # noqa: RUF012
    expressions: tuple[str, ...] = ()
    delivers: Literal["landmarks", "box", "crop", ""] = ""

    def __init__(self, root: Path, edition: Literal["published", "custom"] = "custom") -> None:
        self.root = Path(root)
        self.edition = edition_of(self.root, edition)
        self.licence = {
            "published": "DISFA+: research use by signed agreement with the University of Denver; no redistribution",
            "custom": "as its owner states",
            "twin": "rendered; shows no person",
        }[self.edition]

    def check(self) -> None:
        """Folders, names, every label file, and whether the labelled pictures are there; raises `DataError`."""
        rows: Counter[str] = Counter()
        for clip in self.clips():
            frames, _ = self._labels(clip)
            rows[clip[:5]] += len(frames)
            pictures = self._pictures(clip)
            present = [pictures[frame] for frame in frames.tolist() if frame in pictures]
            if not present:
                raise DataError(
                    f"none of the {len(frames)} labelled frames of {clip} has a picture in {self._images / clip}",
                    "restore the pictures from the archive, or remove the session's labels",
                )
            for path in present:
                if not path.stat().st_size:
                    raise DataError(
                        f"{path} is empty",
                        "restore it from the archive, or remove it: its frame then becomes a flagged row",
                    )
        if self.edition == "published":
            check_published(load_known(self.name), rows)

    def clips(self) -> list[str]:
        """Sessions that have labels, as ``SN001/A1_AU1_TrailNo_1``."""
        labels = self._folder("Labels")
        sessions = [path for path in labels.glob("*/*") if path.is_dir() and _SUBJECT.fullmatch(path.parent.name)]
        if not sessions:
            raise DataError(f"{labels} has no folder SN001 with a folder for each session", "unpack the labels there")
        return sorted(f"{path.parent.name}/{path.name}" for path in sessions)

    def shard(self, clip: str) -> str:
        """The subject."""
        return clip[:5]

    def count(self, clip: str) -> int:
        """Rows of the label files."""
        return len(read_text(self._label_file(clip, DISFA_12[0]))) - _HEADER

    def fingerprint(self, clip: str) -> str:
        """Hash of the label files and of the names and sizes of the session's pictures."""
        digest = hashlib.sha256()
        for au in DISFA_12:
            digest.update("\n".join(read_text(self._label_file(clip, au))).encode())
        for path in self._pictures(clip).values():
            digest.update(f"{path.name} {path.stat().st_size}".encode())
        return digest.hexdigest()

    def frames(self, clip: str) -> Iterator[FrameRecord]:
        """One record for each row of the label files; ``image`` is None where the picture is absent."""
        subject, session = clip.split("/")
        pictures = self._pictures(clip)
        frames, labels = self._labels(clip)
        for frame, values in zip(frames.tolist(), labels.tolist(), strict=True):
            yield FrameRecord(
                subject=subject,
                sequence=session,
                frame=frame,
                pts=float("nan"),
                image=read_image(pictures[frame]) if frame in pictures else None,
                landmarks=None,
                labels=dict(zip(self.label_columns, values, strict=True)),
            )

    @cached_property
    def _inner(self) -> Path:
        """The folder with Images and Labels."""
        return self.root / _FOLDER if (self.root / _FOLDER).is_dir() else self.root

    @cached_property
    def _images(self) -> Path:
        return self._folder("Images")

    def _folder(self, name: str) -> Path:
        if not (self._inner / name).is_dir():
            raise absent(self.root, self.name, self._inner / name)
        return self._inner / name

    def _label_file(self, clip: str, au: int) -> Path:
        return self._folder("Labels") / clip / f"AU{au}.txt"

    def _pictures(self, clip: str) -> dict[int, Path]:
        if not (self._images / clip).is_dir():
            raise absent(self.root, self.name, self._images / clip)
        return numbered(self._images / clip, _PICTURE)

    def _labels(self, clip: str) -> tuple[np.ndarray, np.ndarray]:
        """(N,) int64 numbers of the pictures, ascending, and (N, 12) int8."""
        files = [self._label_file(clip, au) for au in DISFA_12]
        frames, first = _read_labels(files[0])
        columns = [first]
        for path in files[1:]:
            others, values = _read_labels(path)
            if not np.array_equal(others, frames):
                raise DataError(
                    f"{path} labels {len(others)} pictures, {files[0].name} beside it {len(frames)}, or not the same",
                    "restore the label files of this session: all name the same pictures",
                )
            columns.append(values)
        return frames, np.stack(columns, axis=1)


def _read_labels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(N,) int64 numbers of the pictures and (N,) int8 intensities of one action unit."""
    lines = read_text(path)
    for line in lines[:_HEADER]:
        if _LABEL_LINE.fullmatch(line):
            raise DataError(f"{path}: {line!r} stands where {_HEADER} lines of header should be", _RESTORE)
    if len(lines) <= _HEADER:
        raise DataError(f"{path} has no rows after its {_HEADER} lines of header", _RESTORE)
    table = np.empty((len(lines) - _HEADER, 2), np.int64)
    for row, line in enumerate(lines[_HEADER:]):
        match = _LABEL_LINE.fullmatch(line)
        if match is None:
            raise DataError(
                f"{path}, line {row + _HEADER + 1}: {line[:60]!r} is not '000.jpg     <intensity 0..5>'", _RESTORE
            )
        table[row] = int(match[1]), int(match[2])
        if row and table[row, 0] <= table[row - 1, 0]:
            raise DataError(
                f"{path}, line {row + _HEADER + 1}: picture {table[row, 0]} after picture {table[row - 1, 0]}; "
                "numbers must increase",
                _RESTORE,
            )
    return table[:, 0], table[:, 1].astype(np.int8)
