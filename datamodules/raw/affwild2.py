"""Aff-Wild2 (Kollias & Zafeiriou, 2019) with the annotations of an ABAW competition: the archives' own layouts.

    ROOT/
      annotations/                           abaw1 (2020) and abaw2 (2021)
        AU_Set/ EXPR_Set/
          Training_Set/ Validation_Set/      abaw1
          Train_Set/ Validation_Set/         abaw2
            1-30-1280x720.txt                one file a face track: a header line, then one line a frame of the video
      Third ABAW Annotations/                abaw3 (2022), and later editions under their own names
        AU_Detection_Challenge/              AU   header `AU1,AU2,AU4,...`, lines `0,1,0,...`: found by the header
        EXPR_Classification_Challenge/       EXPR header `Neutral,Anger,...`, lines `4`; later editions call the folder
          Train_Set/ Validation_Set/              EXPR_Recognition_Challenge
      cropped_aligned/1-30-1280x720/         source=crops: faces of 112x112 as the competitions give them; folders
        00001.jpg                            cropped_aligned_new_50_vids and the like are looked into as well
      batch1/ batch2/ new_vids/              source=videos: the raw videos, here or below ROOT/videos
        1-30-1280x720.mp4 1-60-1280x720.avi

The folder of the annotations may have any name, or be ROOT. Releases differ in AUs, classes and official parts, and the
parts of AU and EXPR differ within one release: a store holds one release and one track.

Label line i (from 1, after the header) is frame i: crop ``0000i.jpg``, the i-th decoded frame of the video. Joined by
number: frames in which no face was found have no crop. -1 (and -5) is unknown, for each AU alone; rows in which nothing
is known stay. ``_left`` and ``_right`` after a video's name are the track of a second person on that side of the
picture; the video's own track is then of the person on the other. ``.DS_Store``, ``*_3d.jpg`` and lists of test videos
are ignored.

Numbers of crops and frames may exceed the label lines, and videos fall short of them, by a hundredth of the lines or 5,
whatever is more: decoders disagree about the ends of videos that were cut or encoded anew. What exceeds is left out,
what falls short are rows without picture. Crops may end, and be missing, anywhere: in some tracks few faces were found.
"""

import hashlib
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

import numpy as np

from datamodules.errors import DataError
from datamodules.facs import AFFWILD2_8, AFFWILD2_12, AFFWILD2_EXPRESSIONS, EXPRESSIONS, au_name
from datamodules.raw.archive import absent, read_text
from datamodules.raw.media import count_packets, decode, numbered, read_image
from datamodules.raw.records import FrameRecord, edition_of

Release = Literal["abaw1", "abaw2", "abaw3"]
Track = Literal["au", "expr"]


class Edition(NamedTuple):
    """How the annotations of a release lie and read.

    Attributes:
        annotations: What the archive calls the folder of all annotations.
        folders: Track to the names that its folder may have; the first is the release's own.
        training: Folder of the training part.
        aus: Columns of the AU files.
        expressions: Classes of the EXPR files, in the order of their numbers.
    """

    annotations: str
    folders: dict[Track, tuple[str, ...]]
    training: str
    aus: list[int]
    expressions: tuple[str, ...]


VALIDATION = "Validation_Set"
RELEASES: dict[Release, Edition] = {
    "abaw1": Edition(
        "annotations", {"au": ("AU_Set",), "expr": ("EXPR_Set",)}, "Training_Set", AFFWILD2_8, EXPRESSIONS
    ),
    "abaw2": Edition("annotations", {"au": ("AU_Set",), "expr": ("EXPR_Set",)}, "Train_Set", AFFWILD2_12, EXPRESSIONS),
    "abaw3": Edition(
        "Third ABAW Annotations",
        {
            "au": ("AU_Detection_Challenge",),
            "expr": ("EXPR_Classification_Challenge", "EXPR_Recognition_Challenge"),
        },
        "Train_Set",
        AFFWILD2_12,
        AFFWILD2_EXPRESSIONS,
    ),
}
UNKNOWN = (-1, -5)

_CROP = re.compile(r"(\d+)\.jpg")
_SIDE = re.compile(r"(.+)_(left|right)")
_VIDEO_FOLDERS = ("batch1", "batch2", "batch3", "new_vids")
_OTHER_SIDE: dict[str, Literal["", "left", "right"]] = {"left": "right", "right": "left"}


class AffWild2Raw:
    """Aff-Wild2: action units or expressions of an ABAW competition.

    Implements `datamodules.raw.records.RawDataset` with one clip a face track.

    Args:
        root: Folder with the layout above.
        release: Competition whose annotations to read. Later ones than the third have its layout, AUs and classes.
        track: ``au`` for action units, ``expr`` for expressions.
        source: ``crops`` of 112x112 pixels, or the raw ``videos``, whose faces are larger and have to be found.
        edition: ``published`` for the archive as delivered.
    """

    name = "affwild2"

    def __init__(
        self,
        root: Path,
        release: Release = "abaw3",
        track: Track = "au",
        source: Literal["crops", "videos"] = "crops",
        edition: Literal["published", "custom"] = "custom",
    ) -> None:
        self.root, self.track, self.source = Path(root), track, source
        self.release: str = release
        self._format = RELEASES[release]
        self.expressions = self._format.expressions if track == "expr" else ()
        self.label_columns = ["expression"] if track == "expr" else [au_name(au) for au in self._format.aus]
        self.delivers: Literal["landmarks", "box", "crop", ""] = "crop" if source == "crops" else ""
        self.edition = edition_of(self.root, edition)
        self.licence = {
            "published": "Aff-Wild2: research use by agreement with its authors (Imperial College); no redistribution",
            "custom": "as its owner states",
            "twin": "rendered; shows no person",
        }[self.edition]

    def check(self) -> None:
        """Folders, releases, every label file, and its length against crops or video; raises `DataError`.

        Of videos the packets are counted; pictures are not decoded.
        """
        for clip in self.clips():
            rows = len(self._labels(clip))
            if self.source == "videos":
                self._check_length(clip, rows, count_packets(self._video(clip)))
                continue
            crops = self._crops(clip)
            if not crops:
                raise DataError(
                    f"{self._crop_folder(clip)} has no 00001.jpg, ...",
                    f"unpack the crops there, or remove {self._label_file(clip)}",
                )
            self._check_length(clip, rows, max(crops))
            for path in crops.values():
                if path.stat().st_size == 0:
                    raise DataError(
                        f"{path} is empty",
                        "restore it from the archive, or remove it: its frame then becomes a flagged row",
                    )

    def clips(self) -> list[str]:
        """Face tracks, in the order of their videos."""
        return sorted(self._files, key=lambda clip: (_video_name(clip), clip))

    def shard(self, clip: str) -> str:
        """The track's video."""
        return _video_name(clip)

    def count(self, clip: str) -> int:
        """Rows of the label file."""
        return len(read_text(self._label_file(clip))) - 1

    def fingerprint(self, clip: str) -> str:
        """Hash of the settings, the label file, and the names and sizes of the crops or the size of the video."""
        digest = hashlib.sha256(f"{self.release} {self.track} {self.source} {self._side(clip)}".encode())
        split, path = self._files[clip]
        digest.update(f"{split} ".encode() + path.read_bytes())
        if self.source == "videos":
            digest.update(f"{self._video(clip).stat().st_size}".encode())
        else:
            for number, path in self._crops(clip).items():
                digest.update(f"{number} {path.stat().st_size}".encode())
        return digest.hexdigest()

    def frames(self, clip: str) -> Iterator[FrameRecord]:
        """One record a label row, in time order; see the module for the rules."""
        labels = self._labels(clip).tolist()
        pictures = self._decoded(clip, len(labels)) if self.source == "videos" else self._read_crops(clip, len(labels))
        side = self._side(clip) if self.source == "videos" else ""
        for number, (row, (pts, image)) in enumerate(zip(labels, pictures, strict=True), start=1):
            yield FrameRecord(
                subject=_video_name(clip),
                sequence=clip,
                frame=number,
                pts=pts,
                image=image,
                landmarks=None,
                labels=dict(zip(self.label_columns, row, strict=True)),
                split=self._files[clip][0],
                side=side,
            )

    def _read_crops(self, clip: str, rows: int) -> Iterator[tuple[float, np.ndarray | None]]:
        crops = self._crops(clip)
        for number in range(1, rows + 1):
            yield float("nan"), read_image(crops[number]) if number in crops else None

    def _decoded(self, clip: str, rows: int) -> Iterator[tuple[float, np.ndarray | None]]:
        decoded = 0
        for pts, image in decode(self._video(clip)):
            decoded += 1
            if decoded <= rows:
                yield pts, image
        self._check_length(clip, rows, decoded)
        for _ in range(decoded, rows):
            yield float("nan"), None

    # ------------------------------------------------------------------------------------------------------ annotations

    @cached_property
    def _track_folder(self) -> Path:
        """Folder of the chosen release's track; refuses that of another release by its name."""
        annotations = self.root / self._format.annotations
        if not self.root.is_dir():
            raise absent(self.root, self.name, annotations)
        places = [self.root, *sorted(path for path in self.root.iterdir() if path.is_dir())]

        def find(names: tuple[str, ...]) -> list[Path]:
            return [place / name for place in places for name in names if (place / name).is_dir()]

        found = find(self._format.folders[self.track])
        if len(found) > 1:
            raise DataError(
                f"{found[0]} and {found[1]} are both annotations of track {self.track}", "keep one of the two"
            )
        if found and (found[0] / self._format.training).is_dir():
            return found[0]
        for release, other in RELEASES.items():
            for folder in find(other.folders[self.track]):
                if (folder / other.training).is_dir():
                    raise self._foreign(f"{folder / other.training} is", release)
        wanted = found[0] if found else annotations / self._format.folders[self.track][0]
        raise absent(self.root, self.name, wanted / self._format.training if annotations.is_dir() else annotations)

    @cached_property
    def _files(self) -> dict[str, tuple[str, Path]]:
        """Track of a face to its official part and label file."""
        files: dict[str, tuple[str, Path]] = {}
        for split, name in (("train", self._format.training), ("validation", VALIDATION)):
            folder = self._track_folder / name
            if not folder.is_dir():
                raise DataError(f"{folder} is missing", "unpack the whole archive of annotations")
            paths = sorted(path for path in folder.glob("*.txt") if not path.name.startswith("."))
            if not paths:
                raise DataError(f"{folder} has no label file", "unpack the whole archive of annotations")
            for path in paths:
                if path.stem in files:
                    raise DataError(
                        f"{files[path.stem][1]} and {path} label the same track in both parts", "remove one of the two"
                    )
                files[path.stem] = (split, path)
        return files

    def _label_file(self, clip: str) -> Path:
        return self._files[clip][1]

    def _labels(self, clip: str) -> np.ndarray:
        """(rows, columns) int8, -1 unknown."""
        path = self._label_file(clip)
        lines = read_text(path)
        if len(lines) < 2:
            raise DataError(f"{path} has no label line", "restore the file from the archive, or remove it")
        header = [name.strip() for name in lines[0].split(",")]
        if self.track == "expr":
            self._check_classes(path, header)
            header, highest = ["expression"], len(self.expressions) - 1
        else:
            self._check_columns(path, header)
            highest = 1
        fields = [line.split(",") for line in lines[1:]]
        try:
            values = np.array(fields, dtype=np.int8)
        except (ValueError, OverflowError):  # some line is no list of small whole numbers
            self._refuse_line(path, lines, len(header), highest)
        known = (values >= 0) & (values <= highest) | np.isin(values, UNKNOWN)
        if values.shape[1] != len(header) or not known.all():
            self._refuse_line(path, lines, len(header), highest)
        values[np.isin(values, UNKNOWN)] = -1
        if self.track == "expr":
            return values
        column = {name: k for k, name in enumerate(header)}
        return values[:, [column[f"AU{au}"] for au in self._format.aus]]

    def _check_columns(self, path: Path, header: list[str]) -> None:
        for release, other in RELEASES.items():
            if set(header) == {f"AU{au}" for au in other.aus} and other.aus != self._format.aus:
                raise self._foreign(f"{path}, line 1: the columns are", release)
        missing = [f"AU{au}" for au in self._format.aus if f"AU{au}" not in header]
        if missing or len(set(header)) < len(header):
            what = f"lacks {', '.join(missing)}" if missing else "names a column twice"
            raise DataError(f"{path}, line 1: the header {what}: {','.join(header)!r}", "restore the file")

    def _check_classes(self, path: Path, header: list[str]) -> None:
        if header == list(self.expressions):
            return
        for release, other in RELEASES.items():
            if header == list(other.expressions):
                raise self._foreign(f"{path}, line 1: the classes are", release)
        raise DataError(
            f"{path}, line 1: the header is {','.join(header)!r}, not {','.join(self.expressions)!r}",
            "restore the file from the archive",
        )

    def _refuse_line(self, path: Path, lines: list[str], columns: int, highest: int) -> NoReturn:
        value = re.compile(rf"\s*(?:[0-{highest}]|-1|-5)\s*")
        for row, line in enumerate(lines[1:], start=2):
            fields = line.split(",")
            if len(fields) != columns or not all(value.fullmatch(field) for field in fields):
                expected = f"{columns} numbers" if columns > 1 else "one number"
                raise DataError(
                    f"{path}, line {row}: {line!r} is not {expected} from 0 to {highest}, or -1",
                    f"restore the file from the archive; it must be of release {self.release}",
                )
        raise AssertionError(f"{path}: no line is wrong")

    def _foreign(self, what: str, release: Release) -> DataError:
        return DataError(f"{what} of release {release}, not {self.release}", f"give --release {release}")

    # --------------------------------------------------------------------------------------------------------- pictures

    def _side(self, clip: str) -> Literal["", "left", "right"]:
        """Which of two persons a track is of: by its own suffix, or opposite to the second person's."""
        if match := _SIDE.fullmatch(clip):
            return "left" if match[2] == "left" else "right"
        seconds = [side for side in ("left", "right") if f"{clip}_{side}" in self._files]
        return _OTHER_SIDE[seconds[0]] if len(seconds) == 1 else ""

    def _crop_folder(self, clip: str) -> Path:
        places = [path for path in self._crop_places if (path / clip).is_dir()]
        if not places:
            raise DataError(
                f"{self.root / 'cropped_aligned' / clip} is missing",
                f"unpack the crops of this track there, or remove {self._label_file(clip)}",
            )
        if len(places) > 1:
            raise DataError(f"{places[0] / clip} and {places[1] / clip} are both there", "keep one of the two")
        return places[0] / clip

    @cached_property
    def _crop_places(self) -> list[Path]:
        places = sorted(path for path in self.root.glob("cropped_aligned*") if path.is_dir())
        if not places:
            raise absent(self.root, self.name, self.root / "cropped_aligned")
        return places

    def _crops(self, clip: str) -> dict[int, Path]:
        return numbered(self._crop_folder(clip), _CROP)

    def _video(self, clip: str) -> Path:
        name = _video_name(clip)
        if name not in self._videos:
            raise DataError(
                f"there is no {name}.mp4 or {name}.avi in {', '.join(_VIDEO_FOLDERS)} below {self.root}",
                f"unpack the raw videos there, or remove {self._label_file(clip)}",
            )
        return self._videos[name]

    @cached_property
    def _videos(self) -> dict[str, Path]:
        videos: dict[str, Path] = {}
        below = self.root / "videos"
        for folder in (below, *(place / name for place in (self.root, below) for name in _VIDEO_FOLDERS)):
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if path.suffix.lower() in (".mp4", ".avi") and not path.name.startswith("."):
                    if path.stem in videos:
                        raise DataError(f"{videos[path.stem]} and {path} are of one name", "remove one of the two")
                    videos[path.stem] = path
        return videos

    def _check_length(self, clip: str, rows: int, pictures: int) -> None:
        slack = max(5, rows // 100)
        if self.source == "videos" and abs(pictures - rows) > slack:
            raise DataError(
                f"{self._video(clip)} has {pictures} frames, {self._label_file(clip)} {rows} label lines: "
                f"they differ by more than {slack}",
                "restore both from the archive; one of them is cut short or of another video",
            )
        if self.source == "crops" and pictures > rows + slack:
            raise DataError(
                f"{self._label_file(clip)} has {rows} label lines, the crops in {self._crop_folder(clip)} "
                f"go up to {pictures}: more than {slack} too far",
                "restore the label file from the archive; it is cut short or of another video",
            )


def _video_name(clip: str) -> str:
    match = _SIDE.fullmatch(clip)
    return match[1] if match else clip
