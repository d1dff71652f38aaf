"""DISFA (Mavadati, Mahoor, Bartlett, Trinh & Cohn, IEEE TAC 2013): the archive's own layout.

    ROOT/
      Videos_LeftCamera/LeftVideoSN001_comp.avi      one video a subject, 20 fps; the right camera's are spelled
      Video_RightCamera/RightVideoSN001_Comp.avi     differently, and either spelling is accepted for both
      ActionUnit_Labels/SN001/SN001_au1.txt          lines `frame,intensity`, frame from 1, intensity 0..5; AUs 1 2 4 5
                                                     6 9 12 15 17 20 25 26
      Landmark_Points/SN001/tmp_frame_lm/            one MATLAB file a frame, `pts` 66x2: the 68 points without the
        SN001_0000_lm.mat                            inner mouth corners 60 and 64; numbered from 0,
        l00001_lm.mat                                or, for some subjects, from 1

Frame k (from 0) is the k-th decoded frame, row k + 1 of the label files. Labels govern: a video may be one frame longer
than its labels (SN010's is), the excess frame is left out; a shorter one is an error. A frame without a landmark file
(one of SN031) has unknown landmarks. Other files and folders are ignored.

Published code uses the landmarks with the left camera's pictures. No source at hand says that they fit the right
camera's: compare some, or take ``--faces detect`` there.
"""

import hashlib
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.io

from datamodules.errors import DataError
from datamodules.facs import DISFA_12, LANDMARKS, au_name
from datamodules.known import load_known
from datamodules.raw.archive import absent, check_published, read_text
from datamodules.raw.media import count_packets, decode
from datamodules.raw.records import FrameRecord, edition_of

#: Points of the 68 that the 66 of a landmark file are.
POINTS_66 = np.array([point for point in range(LANDMARKS) if point not in (60, 64)])

_VIDEO_FOLDER = {camera: re.compile(rf"Videos?_{camera.capitalize()}Camera") for camera in ("left", "right")}
_VIDEO = {camera: re.compile(rf"{camera.capitalize()}Video(SN\d{{3}})_[Cc]omp\.avi") for camera in ("left", "right")}
_LABEL_LINE = re.compile(r"\s*(\d+)\s*,\s*([0-5])\s*")
_LANDMARK_FILE = re.compile(r"SN\d{3}_(?P<from0>\d{4,})_lm\.mat|l(?P<from1>\d{5,})_lm\.mat")


class DISFARaw:
    """DISFA: one video a subject, landmarks, intensities of 12 AUs.

    Implements `datamodules.raw.records.RawDataset` with one clip a subject.

    Args:
        root: Folder with the layout above.
        camera: Which of the two cameras; it becomes the records' ``sequence``.
        edition: ``published`` holds the data to the archive's known subjects and row counts.
    """

    name = "disfa"
    release = ""
    label_columns = [f"{au_name(au)}_intensity" for au in DISFA_12]  # noqa: RUF012
    expressions: tuple[str, ...] = ()
    delivers: Literal["landmarks", "box", "crop", ""] = "landmarks"

    def __init__(
        self,
        root: Path,
        camera: Literal["left", "right"] = "left",
        edition: Literal["published", "custom"] = "custom",
    ) -> None:
        self.root, self.camera = Path(root), camera
        self.edition = edition_of(self.root, edition)
        self.licence = {
            "published": "DISFA: research use by signed agreement with the University of Denver; no redistribution",
            "custom": "as its owner states",
            "twin": "rendered; shows no person",
        }[self.edition]

    def check(self) -> None:
        """Folders, names, every label file, and the frames in each video; raises `DataError`."""
        rows: dict[str, int] = {}
        for subject in self.clips():
            rows[subject] = len(self._labels(subject))
            files = self._landmark_files(subject)
            self._points(files[min(files)])
            self._check_length(subject, rows[subject], count_packets(self._videos[subject]))
        if self.edition == "published":
            check_published(load_known(self.name), rows)

    def clips(self) -> list[str]:
        """Subjects that have a video and labels."""
        labels = self._folder("ActionUnit_Labels")
        coded = {path.name for path in labels.iterdir() if path.is_dir() and re.fullmatch(r"SN\d{3}", path.name)}
        filmed = set(self._videos)
        for subject in sorted(coded ^ filmed):
            if subject in coded:
                name = f"{self.camera.capitalize()}Video{subject}_comp.avi"
                raise DataError(
                    f"{self._video_folder / name} is missing", f"add the video, or remove {labels / subject}"
                )
            raise DataError(f"{labels / subject} is missing", f"add the labels, or remove {self._videos[subject]}")
        if not coded:
            raise DataError(f"{labels} has no folder SN001, SN002, ...", "point --raw to DISFA's root folder")
        return sorted(coded)

    def shard(self, clip: str) -> str:
        """The subject, which is the clip's name."""
        return clip

    def count(self, clip: str) -> int:
        """Rows of the label files."""
        return len(self._labels(clip))

    def fingerprint(self, clip: str) -> str:
        """Hash of the camera, the label files, the video's size and the names of the landmark files."""
        digest = hashlib.sha256(f"{self.camera} {self._videos[clip].stat().st_size}".encode())
        for au in DISFA_12:
            digest.update("\n".join(read_text(self._label_file(clip, au))).encode())
        for frame, path in sorted(self._landmark_files(clip).items()):
            digest.update(f"{frame} {path.name}".encode())
        return digest.hexdigest()

    def frames(self, clip: str) -> Iterator[FrameRecord]:
        """Frames in time order, decoded one at a time; see the module for the rules."""
        labels, files = self._labels(clip), self._landmark_files(clip)
        decoded = 0
        for frame, (pts, image) in enumerate(decode(self._videos[clip])):
            decoded += 1
            if frame >= len(labels):
                continue
            yield FrameRecord(
                subject=clip,
                sequence=self.camera,
                frame=frame,
                pts=pts,
                image=image,
                landmarks=self._points(files[frame]) if frame in files else None,
                labels=dict(zip(self.label_columns, labels[frame].tolist(), strict=True)),
            )
        self._check_length(clip, len(labels), decoded)

    def _folder(self, name: str) -> Path:
        if not (self.root / name).is_dir():
            raise absent(self.root, self.name, self.root / name)
        return self.root / name

    @cached_property
    def _video_folder(self) -> Path:
        found = [path for path in sorted(self.root.glob("*")) if _VIDEO_FOLDER[self.camera].fullmatch(path.name)]
        return (
            found[0] if found else self._folder("Videos_LeftCamera" if self.camera == "left" else "Video_RightCamera")
        )

    @cached_property
    def _videos(self) -> dict[str, Path]:
        matches = ((_VIDEO[self.camera].fullmatch(path.name), path) for path in sorted(self._video_folder.iterdir()))
        return {match[1]: path for match, path in matches if match}

    def _label_file(self, subject: str, au: int) -> Path:
        return self._folder("ActionUnit_Labels") / subject / f"{subject}_au{au}.txt"

    def _labels(self, subject: str) -> np.ndarray:
        """(rows, 12) int8."""
        columns = [_read_labels(self._label_file(subject, au)) for au in DISFA_12]
        for au, column in zip(DISFA_12, columns, strict=True):
            if len(column) != len(columns[0]):
                raise DataError(
                    f"{self._label_file(subject, au)} has {len(column)} rows, the file before it {len(columns[0])}",
                    "restore the label files of this subject: all have one row a frame",
                )
        return np.stack(columns, axis=1)

    def _landmark_files(self, subject: str) -> dict[int, Path]:
        """Frame (from 0) to landmark file."""
        folder = self._folder("Landmark_Points") / subject / "tmp_frame_lm"
        if not folder.is_dir():
            raise DataError(f"{folder} is missing", "unpack the landmarks of this subject, or remove the subject")
        files: dict[int, Path] = {}
        for path in sorted(folder.iterdir()):
            if match := _LANDMARK_FILE.fullmatch(path.name):
                frame = int(match["from0"]) if match["from0"] else int(match["from1"]) - 1
                if frame in files:
                    raise DataError(
                        f"{files[frame]} and {path.name} are both of frame {frame}", "remove one of the two"
                    )
                files[frame] = path
        if not files:
            raise DataError(
                f"{folder} has no {subject}_0000_lm.mat, ... or l00001_lm.mat, ...", "unpack the landmarks there"
            )
        return files

    @staticmethod
    def _points(path: Path) -> np.ndarray:
        """(68, 2) float32, points 60 and 64 NaN."""
        remedy = "restore the file from the archive, or remove it: its frame then has unknown landmarks"
        try:
            points = scipy.io.loadmat(path)["pts"]
        except Exception as error:  # damaged files raise anything from zlib.error to TypeError
            raise DataError(f"{path} cannot be read as MATLAB file with `pts`: {error}", remedy) from error
        if points.shape != (len(POINTS_66), 2):
            raise DataError(f"{path}: `pts` is {points.shape}, not (66, 2)", remedy)
        landmarks = np.full((LANDMARKS, 2), np.nan, np.float32)
        landmarks[POINTS_66] = points
        return landmarks

    def _check_length(self, subject: str, rows: int, frames: int) -> None:
        video = self._videos[subject]
        if frames < rows:
            raise DataError(
                f"{subject}: {video} has {frames} frames, its labels {rows} rows: the video is too short",
                "restore the video from the archive, or remove the subject's video and labels",
            )
        if frames > rows + 1:
            raise DataError(
                f"{subject}: {video} has {frames} frames, its labels {rows} rows; one frame more is the most",
                "restore the subject's label files or video from the archive",
            )


def _read_labels(path: Path) -> np.ndarray:
    """(rows,) int8 intensities of one action unit."""
    lines = read_text(path)
    values = np.empty(len(lines), np.int8)
    for row, line in enumerate(lines):
        match = _LABEL_LINE.fullmatch(line)
        if match is None or int(match[1]) != row + 1:
            raise DataError(
                f"{path}, line {row + 1}: {line!r} is not '{row + 1},<intensity 0..5>'",
                "restore the label file from the archive",
            )
        values[row] = int(match[2])
    return values
