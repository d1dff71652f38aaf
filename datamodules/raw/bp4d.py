"""BP4D (Zhang, Yin, Cohn et al., Image and Vision Computing 2014): the archive's own layout.

    ROOT/
      Sequences(2D+3D)/F001/T1/2440.jpg              pictures by subject and task, also as BP4D-training/F001/T1/ or
                                                     F001/T1/ in ROOT; zero-padded to 4 or 3 digits (one sequence to
                                                     2); .obj and .mtl files of the 3D models lie beside them
      AUCoding/AU_OCC/F001_T1.csv                    occurrence, in older copies AUCoding/F001_T1.csv: a header of AU
                                                     numbers, `0` over the column of frame numbers; 0, 1, or 9 for
                                                     unknown (999 in some copies). Some list only AUs that are coded,
                                                     others all of them in sequence; those from 40 are uncoded
      AU Intensity Codes3.0/AU06/F001_T1_AU06.csv    intensity of AUs 6 10 12 14 17, also in AU-Intensity-Codes3.0/,
                                                     BP4D-AUIntensityCodes/Project/ or AUCoding/AU_INT/: no header,
                                                     lines `frame,intensity`, 0..5, 9 or 999; some frames are absent

41 subjects F001..F023 and M001..M018, tasks T1..T8, each with some 500 coded frames in a row, which begin anywhere in
the sequence. The picture of CSV frame f is number f + ``frame_offset``. Labels govern: every row of an occurrence file
becomes a record, without picture where there is none; pictures of uncoded frames are left out. Occurrence and intensity
are joined by frame number. The archive's folder 2DFeatures holds tracked points, but no source at hand states their
format, so that none are read. Other files and folders are ignored.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from datamodules.errors import DataError
from datamodules.facs import BP4D_5, au_name
from datamodules.known import load_known
from datamodules.raw.archive import TITLES, absent, check_published, read_text
from datamodules.raw.media import numbered, read_image
from datamodules.raw.records import FrameRecord, edition_of

#: AUs from this number on have columns in some copies, but are not coded.
UNCODED = 40
#: Codes of what is unknown: the archive's, and that of copies made for other programs.
UNKNOWN = (9, 999)

_SUBJECT = re.compile(r"[FM]\d{3}")
_LABEL_FILE = re.compile(r"([FM]\d{3}_T(?:[1-9]|10))\.csv")  # a T11 that BP4D+ names in places has no data
_INTENSITY_FOLDER = re.compile(r"AU[ _-]?Intensity[ _-]?Codes.*|BP4D-AUIntensityCodes.*|AU_INT", re.IGNORECASE)
_PICTURE = re.compile(r"(\d+)\.jpg", re.IGNORECASE)
_RESTORE = "restore the label file from the archive"


class Pictures(Protocol):
    """The pictures of one sequence by number."""

    where: Path

    def __iter__(self) -> Iterator[int]: ...

    def __contains__(self, number: object) -> bool: ...

    def name(self, number: int) -> str:
        """What messages call a picture."""
        ...

    def size(self, number: int) -> int:
        """Bytes of a picture's file."""
        ...

    def read(self, number: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB; raises `DataError` when unreadable."""
        ...


class FolderPictures:
    """Pictures that lie in a folder; implements `Pictures`."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self._files = numbered(where, _PICTURE)

    def __iter__(self) -> Iterator[int]:
        return iter(self._files)

    def __contains__(self, number: object) -> bool:
        return number in self._files

    def name(self, number: int) -> str:
        """The path."""
        return str(self._files[number])

    def size(self, number: int) -> int:
        """Bytes of the file."""
        return self._files[number].stat().st_size

    def read(self, number: int) -> np.ndarray:
        """See `read_image`."""
        return read_image(self._files[number])


class BP4DRaw:
    """BP4D: pictures of eight tasks, occurrence of AUs, intensity of five.

    Implements `datamodules.raw.records.RawDataset` with one clip a sequence.

    Args:
        root: Folder with the layout of this module.
        frame_offset: Number of a picture minus the frame number of its label row; 0 is how all published code reads it.
        edition: ``published`` holds the data to the archive's known subjects, sequences and row counts.
    """

    name = "bp4d"
    release = ""
    expressions: tuple[str, ...] = ()
    delivers: Literal["landmarks", "box", "crop", ""] = ""

    # Where the subjects' folders may lie in the root, the tasks that are coded, and whether intensity files hold every
    # row of the occurrence file.
    _places: tuple[str, ...] = ("Sequences(2D+3D)", "BP4D-training", ".")
    _tasks: tuple[str, ...] = tuple(f"T{task}" for task in range(1, 9))
    _whole_intensities = False

    def __init__(self, root: Path, frame_offset: int = 0, edition: Literal["published", "custom"] = "custom") -> None:
        self.root, self.frame_offset = Path(root), frame_offset
        self.edition = edition_of(self.root, edition)
        self.licence = {
            "published": f"{TITLES[self.name]}: research use by signed agreement with Binghamton University; "
            "no redistribution",
            "custom": "as its owner states",
            "twin": "rendered; shows no person",
        }[self.edition]

    def check(self) -> None:
        """Folders, names, every label file, and whether the labelled pictures are there; raises `DataError`."""
        rows: dict[str, int] = {}
        for clip in self.clips():
            self._check_name(clip)
            frames, _ = self._labels(clip)
            rows[clip] = len(frames)
            with self._pictures(clip) as pictures:
                self._check_pictures(clip, frames, pictures)
        if self.edition == "published":
            subjects, tasks = dict.fromkeys(sorted({clip[:4] for clip in rows}), 0), dict.fromkeys(self._tasks, 0)
            for clip, found in rows.items():
                subject, task = clip.split("_")
                subjects[subject] += found
                tasks[task] += found
            check_published(load_known(self.name), subjects, tasks, len(rows))

    @cached_property
    def label_columns(self) -> list[str]:
        """``AU01``, ... of the AUs coded in some file, then ``AU06_intensity``, ... of those that have a folder."""
        aus = sorted({au for coded in self._coded.values() for au in coded})
        return [*map(au_name, aus), *(f"{au_name(au)}_intensity" for au in self._intensity_folders)]

    def clips(self) -> list[str]:
        """Sequences that have labels, as ``F001_T1``."""
        return list(self._label_files)

    def shard(self, clip: str) -> str:
        """The subject."""
        return clip[:4]

    def count(self, clip: str) -> int:
        """Rows of the occurrence file."""
        return len(read_text(self._label_files[clip])) - 1

    def fingerprint(self, clip: str) -> str:
        """Hash of the options, the label columns, the label files and the names and sizes of the labelled pictures."""
        digest = hashlib.sha256(f"{self.frame_offset} {self.label_columns}".encode())
        for path in (self._label_files[clip], *self._intensity_files(clip).values()):
            digest.update("\n".join(read_text(path)).encode())
        frames, _ = read_occurrence(self._label_files[clip])
        with self._pictures(clip) as pictures:
            for number in (frames + self.frame_offset).tolist():
                if number in pictures:
                    digest.update(f"{pictures.name(number)} {pictures.size(number)}".encode())
        return digest.hexdigest()

    def frames(self, clip: str) -> Iterator[FrameRecord]:
        """One record for each row of the occurrence file; ``frame`` is the number in it, ``image`` None if absent."""
        subject, task = clip.split("_")
        frames, labels = self._labels(clip)
        with self._pictures(clip) as pictures:
            for frame, values in zip(frames.tolist(), labels.tolist(), strict=True):
                number = frame + self.frame_offset
                yield FrameRecord(
                    subject=subject,
                    sequence=task,
                    frame=frame,
                    pts=float("nan"),
                    image=pictures.read(number) if number in pictures else None,
                    landmarks=None,
                    labels=dict(zip(self.label_columns, values, strict=True)),
                )

    @cached_property
    def _label_files(self) -> dict[str, Path]:
        """Clip to occurrence file, sorted."""
        coding = self.root / "AUCoding"
        folder = coding / "AU_OCC"
        if not coding.is_dir():
            raise absent(self.root, self.name, coding)
        if not folder.is_dir():
            folder = coding
        matches = ((_LABEL_FILE.fullmatch(path.name), path) for path in folder.iterdir())
        files = {match[1]: path for match, path in matches if match}
        if not files:
            raise DataError(
                f"{folder} has no label file F001_T1.csv, ...", f"unpack {TITLES[self.name]}'s AU coding there"
            )
        return dict(sorted(files.items()))

    @cached_property
    def _intensity_folders(self) -> dict[int, Path]:
        """AU to the folder of its intensity files; empty for an archive without intensities."""
        found = [
            path / "Project" if (path / "Project").is_dir() else path
            for parent in (self.root, self.root / "AUCoding")
            for path in sorted(parent.iterdir())
            if path.is_dir() and _INTENSITY_FOLDER.fullmatch(path.name)
        ]
        if len(found) > 1:
            raise DataError(
                f"{found[0]} and {found[1]} both hold intensities", "keep one of the two, and move the other away"
            )
        folders = {au: found[0] / au_name(au) for au in BP4D_5} if found else {}
        present = {au: folder for au, folder in folders.items() if folder.is_dir()}
        if found and not present:
            raise DataError(f"{found[0]} has no folder AU06, AU10, ...", "unpack the intensities there, or remove it")
        return present

    def _intensity_files(self, clip: str) -> dict[int, Path]:
        """AU to intensity file of a clip; empty where it has none at all."""
        files = {au: folder / f"{clip}_{au_name(au)}.csv" for au, folder in self._intensity_folders.items()}
        missing = [path for path in files.values() if not path.is_file()]
        if missing and len(missing) < len(files):
            raise DataError(f"{missing[0]} is missing; other AUs of {clip} have theirs", _RESTORE)
        return {} if missing else files

    @cached_property
    def _coded(self) -> dict[str, list[int]]:
        """Clip to the AUs that it codes in some frame."""
        coded = {}
        for clip, path in self._label_files.items():
            _, columns = read_occurrence(path)
            coded[clip] = [au for au, values in columns.items() if (values >= 0).any()]
        return coded

    def _labels(self, clip: str) -> tuple[np.ndarray, np.ndarray]:
        """(N,) int64 frame numbers and (N, columns) int8 in the order of ``label_columns``."""
        frames, occurrence = read_occurrence(self._label_files[clip])
        table = np.full((len(frames), len(self.label_columns)), -1, np.int8)
        for au, values in occurrence.items():
            if au_name(au) in self.label_columns:
                table[:, self.label_columns.index(au_name(au))] = values
        for au, path in self._intensity_files(clip).items():
            coded, values = read_intensity(path)
            if self._whole_intensities and not np.array_equal(coded, frames):
                raise DataError(
                    f"{path} has {len(coded)} rows, {self._label_files[clip]} {len(frames)}, or of other frames",
                    "restore the label files of this sequence: both have one row a frame",
                )
            _, rows, found = np.intersect1d(frames, coded, assume_unique=True, return_indices=True)
            table[rows, self.label_columns.index(f"{au_name(au)}_intensity")] = values[found]
        return frames, table

    def _pictures(self, clip: str) -> AbstractContextManager[Pictures]:
        subject, task = clip.split("_")
        for place in self._places:
            if (folder := self.root / place / subject / task).is_dir():
                return nullcontext(FolderPictures(folder))
        raise self._no_pictures(clip)

    def _no_pictures(self, clip: str) -> DataError:
        """Error for a sequence with labels and without pictures."""
        subject, task = clip.split("_")
        for folder in (self.root / place for place in self._places):
            if not folder.is_dir() or not any(_SUBJECT.fullmatch(path.stem) for path in folder.iterdir()):
                continue
            if not (folder / subject).is_dir():
                return absent(self.root, self.name, folder / subject)
            return DataError(
                f"{folder / subject / task} is missing, but {self._label_files[clip]} labels its frames",
                "unpack the sequence there, or remove its label file",
            )
        return absent(self.root, self.name, self.root / self._places[0])

    def _check_name(self, clip: str) -> None:
        """Refuse subjects and tasks that the archive has not, which are those of its sister."""
        subject, task = clip.split("_")
        sister = "bp4d_plus" if self.name == "bp4d" else "bp4d"
        for what, known in ((subject, load_known(self.name).subjects), (task, self._tasks)):
            if what not in known:
                raise DataError(
                    f"{self._label_files[clip]}: {TITLES[self.name]} has no coded {what}",
                    f"if this is {TITLES[sister]}, use python experiments/prepare.py {sister}; else remove the file",
                )

    def _check_pictures(self, clip: str, frames: np.ndarray, pictures: Pictures) -> None:
        numbers = (frames + self.frame_offset).tolist()
        present = [number for number in numbers if number in pictures]
        if not present:
            there = sorted(pictures)
            raise DataError(
                f"none of the {len(frames)} labelled frames of {clip} has a picture: {pictures.where} should hold "
                f"numbers {numbers[0]} to {numbers[-1]}, and holds "
                + (f"{there[0]} to {there[-1]}" if there else "no picture"),
                f"restore the pictures from the archive, or check --frame_offset (now {self.frame_offset})",
            )
        for number in present:
            if not pictures.size(number):
                raise DataError(
                    f"{pictures.name(number)} is empty",
                    "restore it from the archive, or remove it: its frame then becomes a flagged row",
                )


def read_occurrence(path: Path) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """An occurrence file, its columns by their names.

    Args:
        path: CSV with a header of AU numbers; the column of frame numbers is called ``0``, or is the first.

    Returns:
        (N,) int64 frame numbers, ascending, and AU to (N,) int8 of 0, 1 or -1 for unknown, for AUs below `UNCODED`.

    Raises:
        DataError: For a file that is cut or damaged, and for other values; names the line.
    """
    header, *lines = read_text(path)
    names = [name.strip() for name in header.split(",")]
    numbers = [name for name in names if name.isdecimal()]
    aus = {int(name): column for column, name in enumerate(names) if name.isdecimal()}
    frame_column = aus.pop(0, 0)
    columns = {au: column for au, column in sorted(aus.items()) if au < UNCODED}
    if not columns or frame_column in aus.values() or len(set(numbers)) < len(numbers):
        raise DataError(f"{path}, line 1: {header[:60]!r} is no header of AU numbers", _RESTORE)
    if not lines:
        raise DataError(f"{path} has a header and no rows", _RESTORE)
    table = np.empty((len(lines), len(names)), np.int64)
    for row, line in enumerate(lines):
        cells = line.split(",")
        try:
            if len(cells) != len(names):
                raise ValueError
            table[row] = np.array(cells, np.int64)
        except ValueError as error:
            raise DataError(
                f"{path}, line {row + 2}: {line[:60]!r} is not {len(names)} whole numbers: the file is cut or damaged",
                _RESTORE,
            ) from error
    frames = _ascending(path, table[:, frame_column], 2)
    for au, column in columns.items():
        wrong = ~np.isin(table[:, column], (0, 1, *UNKNOWN))
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(f"{path}, line {row + 2}: AU {au} is {table[row, column]}, not 0, 1 or 9", _RESTORE)
    return frames, {au: _known(table[:, column]) for au, column in columns.items()}


def read_intensity(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """An intensity file: lines ``frame,intensity``.

    Returns:
        (N,) int64 frame numbers, ascending, and (N,) int8 of 0..5 or -1 for unknown.

    Raises:
        DataError: For a file that is cut or damaged, and for other values; names the line.
    """
    lines = read_text(path)
    table = np.empty((len(lines), 2), np.int64)
    for row, line in enumerate(lines):
        match = re.fullmatch(r"\s*(\d+)\s*,\s*([0-5]|9|999)\s*", line)
        if match is None:
            raise DataError(f"{path}, line {row + 1}: {line[:60]!r} is not 'frame,intensity' (0..5, or 9)", _RESTORE)
        table[row] = int(match[1]), int(match[2])
    return _ascending(path, table[:, 0], 1), _known(table[:, 1])


def _ascending(path: Path, frames: np.ndarray, first_line: int) -> np.ndarray:
    wrong = np.diff(frames) <= 0
    if wrong.any():
        row = int(wrong.argmax()) + 1
        raise DataError(
            f"{path}, line {row + first_line}: frame {frames[row]} after frame {frames[row - 1]}; "
            "frame numbers must increase",
            _RESTORE,
        )
    return frames


def _known(values: np.ndarray) -> np.ndarray:
    return np.where(np.isin(values, UNKNOWN), -1, values).astype(np.int8)
