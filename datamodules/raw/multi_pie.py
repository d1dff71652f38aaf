"""Multi-PIE (Gross, Matthews, Cohn, Kanade & Baker, Image and Vision Computing 2010): the archive's own layout.

    ROOT/
      data/session01/multiview/001/01/05_1/      session, subject, recording, camera
        001_01_01_051_00.png                     subject, session, recording, camera, shot
      meta/subject_list.txt                      optional; lines `001 1979 Male 1 0 1 1`: subject, year of birth, sex,
                                                 and which of the four sessions the subject came to

337 subjects with ids up to 346. What a recording shows follows from session and recording, see `RECORDINGS`. Shots 00
and 19 are without flash, 01 to 18 with one flash each (07: the one at the frontal camera). Folders ``highres`` and
others are ignored. Each recording on disk has a row for every selected camera and shot; an image that is missing among
others leaves a row without picture.
"""

import hashlib
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from datamodules.errors import DataError
from datamodules.facs import MULTI_PIE_EXPRESSIONS
from datamodules.known import load_known
from datamodules.raw.archive import absent, read_text
from datamodules.raw.media import read_image
from datamodules.raw.records import FrameRecord, edition_of

#: Session and recording to what the subjects were asked to show.
RECORDINGS = {
    (1, 1): "Neutral",
    (1, 2): "Smile",
    (2, 1): "Neutral",
    (2, 2): "Surprise",
    (2, 3): "Squint",
    (3, 1): "Neutral",
    (3, 2): "Smile",
    (3, 3): "Disgust",
    (4, 1): "Neutral",
    (4, 2): "Neutral",
    (4, 3): "Scream",
}
#: Camera to the yaw, in degrees, of a head that looks to the frontal camera 05_1: positive turns the nose to the right
#: of the picture. 08_1 and 19_1 look down from above; the others are at the height of the head.
CAMERAS = {
    "11_0": -90,
    "12_0": -75,
    "09_0": -60,
    "08_0": -45,
    "08_1": -45,
    "13_0": -30,
    "14_0": -15,
    "05_1": 0,
    "05_0": 15,
    "04_1": 30,
    "19_0": 45,
    "19_1": 45,
    "20_0": 60,
    "01_0": 75,
    "24_0": 90,
}
SHOTS = range(20)
HALF_FRONTAL = ["08_0", "13_0", "14_0", "05_1", "05_0", "04_1", "19_0"]  # within 45 degrees, at the head's height
AMBIENT_AND_FRONTAL = [0, 7]

_SESSION = re.compile(r"session(\d\d)")
_IMAGE = re.compile(r"(\d{3})_(\d\d)_(\d\d)_(\d{3})_(\d\d)\.png")
_LIST_LINE = re.compile(r"(\d{1,3})\s+\S+\s+(?:Male|Female)\s+([01])\s+([01])\s+([01])\s+([01])")


class _Image(NamedTuple):
    """One selected image of a subject; sorts as the sequences do."""

    sequence: str
    expression: str
    path: Path
    exists: bool


class MultiPIERaw:
    """Multi-PIE: stills under many cameras and flashes, six expressions.

    Implements `datamodules.raw.records.RawDataset` with one clip a subject.

    Args:
        root: Folder with the layout above.
        cameras: Cameras to take, as their folders are called; by default those within 45 degrees of the frontal one.
        shots: Shots to take, 0 to 19; by default the one without flash and the one with the frontal flash.
        edition: ``published`` holds the data to the archive's number of subjects and to all four sessions.
    """

    name = "multi_pie"
    release = ""
    label_columns = ["expression"]  # noqa: RUF012
    expressions = MULTI_PIE_EXPRESSIONS
    delivers: Literal["landmarks", "box", "crop", ""] = ""

    def __init__(
        self,
        root: Path,
        cameras: list[str] = HALF_FRONTAL,
        shots: list[int] = AMBIENT_AND_FRONTAL,
        edition: Literal["published", "custom"] = "custom",
    ) -> None:
        for key, values, known in (("cameras", cameras, list(CAMERAS)), ("shots", shots, list(SHOTS))):
            wrong = [value for value in values if value not in known]
            if wrong or not values or len(set(values)) < len(values):
                what = f"there is no {wrong[0]!r}" if wrong else "give at least one, each once"
                raise DataError(f"multi_pie: {key}={values}: {what}", f"choose from {', '.join(map(str, known))}")
        self.root, self.cameras, self.shots = Path(root), sorted(cameras), sorted(shots)
        self.edition = edition_of(self.root, edition)
        self.licence = {
            "published": "Multi-PIE: research use by licence of Carnegie Mellon University; no redistribution",
            "custom": "as its owner states",
            "twin": "rendered; shows no person",
        }[self.edition]

    def check(self) -> None:
        """Folders, file names, selected cameras and shots, attendance; raises `DataError`. Nothing is decoded."""
        cameras, shots = set(self.cameras), {f"{shot:02d}" for shot in self.shots}
        for clip in self.clips():
            for image in self._images(clip):
                if image.path.parent.is_dir():
                    cameras.discard(image.sequence[6:10])
                if image.exists:
                    shots.discard(image.sequence[-2:])
                    if image.path.stat().st_size == 0:
                        raise DataError(
                            f"{image.path} is empty",
                            "restore it from the archive, or remove it: its frame then becomes a flagged row",
                        )
        for key, missing in (("cameras", cameras), ("shots", shots)):
            if missing:
                raise DataError(
                    f"{self.root / 'data'} has no image of {key} {', '.join(sorted(missing))}",
                    f"unpack them, or choose among those that are there by --{key}",
                )
        self._check_attendance()
        if self.edition == "published":
            persons = load_known(self.name).persons
            if len(self.clips()) != persons or len(self._sessions) != 4:
                raise DataError(
                    f"{self.root} has {len(self.clips())} subjects in {len(self._sessions)} sessions, "
                    f"the published archive {persons} in 4",
                    "complete the archive, or leave out --edition published",
                )

    def clips(self) -> list[str]:
        """Subjects, of whichever session."""
        return sorted({subject for subjects in self._subjects.values() for subject in subjects})

    def shard(self, clip: str) -> str:
        """The clip's name: one clip a subject."""
        return clip

    def count(self, clip: str) -> int:
        """Selected images, missing ones included."""
        return len(self._images(clip))

    def selects(self, sequence: str) -> bool:
        """Whether a sequence is of the selected cameras and shots."""
        camera, shot = sequence[6:10], int(sequence[-2:])
        return camera in self.cameras and shot in self.shots

    def fingerprint(self, clip: str) -> str:
        """Hash of the names and sizes of the selected images."""
        digest = hashlib.sha256()
        for image in self._images(clip):
            digest.update(f"{image.sequence} {image.path.stat().st_size if image.exists else None}".encode())
        return digest.hexdigest()

    def frames(self, clip: str) -> Iterator[FrameRecord]:
        """One record an image, in the order of session, recording, camera and shot."""
        for image in self._images(clip):
            yield FrameRecord(
                subject=clip,
                sequence=image.sequence,
                frame=0,
                pts=float("nan"),
                image=read_image(image.path) if image.exists else None,
                landmarks=None,
                labels={"expression": MULTI_PIE_EXPRESSIONS.index(image.expression)},
            )

    @cached_property
    def _sessions(self) -> dict[int, Path]:
        """Session number to its folder ``multiview``."""
        data = self.root / "data"
        if not data.is_dir():
            raise absent(self.root, self.name, data)
        sessions: dict[int, Path] = {}
        for path in sorted(data.iterdir()):
            if match := _SESSION.fullmatch(path.name):
                if int(match[1]) not in {session for session, _ in RECORDINGS}:
                    raise DataError(f"{path} is none of Multi-PIE's four sessions", "move it elsewhere")
                if not (path / "multiview").is_dir():
                    raise absent(self.root, self.name, path / "multiview")
                sessions[int(match[1])] = path / "multiview"
        if not sessions:
            raise absent(self.root, self.name, data / "session01")
        return sessions

    @cached_property
    def _subjects(self) -> dict[int, list[str]]:
        """Session to the subjects that it has."""
        found = {
            session: sorted(path.name for path in folder.iterdir() if re.fullmatch(r"\d{3}", path.name))
            for session, folder in self._sessions.items()
        }
        for session, subjects in found.items():
            if not subjects:
                raise DataError(f"{self._sessions[session]} has no folder 001, 002, ...", "unpack the subjects there")
        return found

    def _images(self, subject: str) -> list[_Image]:
        images: list[_Image] = []
        for session, folder in self._sessions.items():
            if subject not in self._subjects[session]:
                continue
            for recording in sorted((folder / subject).iterdir()):
                if re.fullmatch(r"\d\d", recording.name):
                    images += self._recording(subject, session, recording)
        if not images:
            raise DataError(f"subject {subject} has no recording", "unpack the subject's images, or remove its folders")
        return images

    def _recording(self, subject: str, session: int, folder: Path) -> list[_Image]:
        expression = RECORDINGS.get((session, int(folder.name)))
        if expression is None:
            raise DataError(
                f"{folder}: session {session} of Multi-PIE has no recording {folder.name}", "move it elsewhere"
            )
        images = []
        for camera in self.cameras:
            expected = (subject, f"{session:02d}", folder.name, camera.replace("_", ""))
            present = set()
            for path in (folder / camera).iterdir() if (folder / camera).is_dir() else ():
                if match := _IMAGE.fullmatch(path.name):
                    if match.groups()[:4] != expected:
                        raise DataError(
                            f"{path}: the name says subject {match[1]}, session {match[2]}, recording {match[3]}, "
                            f"camera {match[4]}; the folders say {', '.join(expected)}",
                            "restore the folder from the archive",
                        )
                    present.add(path.name)
            for shot in self.shots:
                name = f"{'_'.join(expected)}_{shot:02d}.png"
                sequence = f"{session:02d}_{folder.name}_{camera}_{shot:02d}"
                images.append(_Image(sequence, expression, folder / camera / name, name in present))
        return images

    def _check_attendance(self) -> None:
        """Hold the sessions on disk to ``meta/subject_list.txt`` where it is there."""
        path = self.root / "meta" / "subject_list.txt"
        if not path.is_file():
            return
        listed: dict[str, list[int]] = {}
        for row, line in enumerate(read_text(path), start=1):
            if line.strip():
                match = _LIST_LINE.fullmatch(line.strip())
                if match is None or match[1].zfill(3) in listed:
                    raise DataError(
                        f"{path}, line {row}: {line!r} is not a new '001 1979 Male 1 0 1 1'",
                        "restore the list from the archive, or remove it",
                    )
                listed[match[1].zfill(3)] = [session for session in range(1, 5) if match[session + 1] == "1"]
        for session, subjects in self._subjects.items():
            expected = {subject for subject, sessions in listed.items() if session in sessions}
            for subject in sorted(expected ^ set(subjects)):
                folder = self._sessions[session] / subject
                if subject in expected:
                    raise DataError(
                        f"{folder} is missing, {path} lists the subject in session {session}",
                        "unpack the subject's images, or remove the list",
                    )
                raise DataError(
                    f"{path} does not list the subject of {folder} in session {session}",
                    "restore the list from the archive, or remove it",
                )
