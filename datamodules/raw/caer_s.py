"""CAER-S (Lee, Kim, Kim, Park & Sohn, ICCV 2019): the stills of CAER, in the archive's own layout.

    ROOT/
      train/                 7 class folders a part; `Anger` is spelled `Angry` in some copies, in one part or both
        Anger/0001.png       numbered from 1, with gaps; sizes differ, up to about 711x481
        Disgust/ Fear/ Happy/ Neutral/ Sad/ Surprise/
      test/
        Anger/ ...

The folder is the label. Persons are unknown, so every image is a subject of its own, ``train/Anger/0001`` for both
spellings. Byte-identical images cross the parts of the published archive; they are kept here, `doctor.py` lists them.

Boxes of the labelled face do not come with the archive. ``boxes`` takes them from public lists, told apart by content:

    CAERS-Annotations    lines `train/Angry/0002.png,0,304,120,382,219`: image below ROOT, class, x1, y1, x2, y2
    detector lists       (of public CAER-Net code) lines `Angry/0002.png,0,304,120,382,219`: image below a part; the
                         file is called `train.txt`, or `val.txt` or `test.txt`, which share the folder `test`

Classes count from 0 in alphabetical order (Anger, Disgust, Fear, Happy, Neutral, Sad, Surprise). A box may begin before
the picture or end beyond it; corners that are listed in the wrong order, as some in CAERS-Annotations are, are put in
order. An image without a box has none; it stays.
"""

import hashlib
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from datamodules.errors import DataError
from datamodules.facs import EXPRESSIONS
from datamodules.known import load_known
from datamodules.raw.archive import absent, read_text
from datamodules.raw.media import numbered, read_image
from datamodules.raw.records import FrameRecord, edition_of

PARTS: tuple[Literal["test", "train"], ...] = ("test", "train")
#: Folder of a class to the class's name elsewhere, in the order of the numbers in box lists.
CLASSES = {
    "Anger": "Anger",
    "Disgust": "Disgust",
    "Fear": "Fear",
    "Happy": "Happiness",
    "Neutral": "Neutral",
    "Sad": "Sadness",
    "Surprise": "Surprise",
}
_SPELLINGS = {name: name for name in CLASSES} | {"Angry": "Anger"}
_IMAGE = re.compile(r"(\d+)\.png")
_LISTS = {"train.txt": "train", "val.txt": "test", "test.txt": "test"}
_BOX_LINE = re.compile(r"(?:(?P<part>train|test)/)?(?P<folder>\w+)/(?P<image>\d+)\.png,(?P<numbers>\d+(?:,-?\d+){4})")


class CAERSRaw:
    """CAER-S: stills of television scenes in seven expressions.

    Implements `datamodules.raw.records.RawDataset` with one clip a part and class.

    Args:
        root: Folder with the layout above.
        boxes: File with face boxes in one of the formats above, or folder with ``train.txt``, ``val.txt`` or
            ``test.txt``.
        edition: ``published`` holds the data to the archive's known number of images.
    """

    name = "caer_s"
    release = ""
    label_columns = ["expression"]  # noqa: RUF012
    expressions = EXPRESSIONS

    def __init__(
        self, root: Path, boxes: Path | None = None, edition: Literal["published", "custom"] = "custom"
    ) -> None:
        self.root, self.boxes = Path(root), None if boxes is None else Path(boxes)
        self.delivers: Literal["landmarks", "box", "crop", ""] = "" if boxes is None else "box"
        self.edition = edition_of(self.root, edition)
        self.licence = {
            "published": "CAER-S: research use by agreement with its authors (Yonsei University); no redistribution",
            "custom": "as its owner states",
            "twin": "rendered; shows no person",
        }[self.edition]

    def check(self) -> None:
        """Folders, classes, files and box lists; raises `DataError`. Pictures are not decoded."""
        for clip in self.clips():
            if not (images := self._images(clip)):
                raise DataError(f"{self._folders[clip]} has no 0001.png, ...", "unpack the archive's images there")
            for path in images.values():
                if path.stat().st_size == 0:
                    raise DataError(f"{path} is empty", "restore it from the archive, or remove it")
        self._boxes  # noqa: B018  reads and checks every line
        if self.edition == "published":
            for part, known in load_known(self.name).images.items():
                found = sum(self.count(clip) for clip in self.clips() if clip.startswith(f"{part}_"))
                if found != known:
                    raise DataError(
                        f"{self.root / part} has {found} images, in the published archive {known}",
                        "complete the archive, or leave out --edition published",
                    )

    def clips(self) -> list[str]:
        """``test_Anger``, ..., ``train_Surprise``."""
        return sorted(self._folders)

    def shard(self, clip: str) -> str:
        """The clip's name."""
        return clip

    def count(self, clip: str) -> int:
        """Number of images."""
        return len(self._images(clip))

    def fingerprint(self, clip: str) -> str:
        """Hash of the names and sizes of the images, and of their boxes."""
        digest = hashlib.sha256()
        for number, path in self._images(clip).items():
            box = self._boxes.get((clip, number))
            digest.update(f"{path.name} {path.stat().st_size} {None if box is None else box.tolist()}".encode())
        return digest.hexdigest()

    def frames(self, clip: str) -> Iterator[FrameRecord]:
        """One record an image, in the order of their numbers."""
        part, _, folder = clip.partition("_")
        label = EXPRESSIONS.index(CLASSES[folder])
        for number, path in self._images(clip).items():
            yield FrameRecord(
                subject=f"{part}/{folder}/{number:04d}",
                sequence="still",
                frame=0,
                pts=float("nan"),
                image=read_image(path),
                landmarks=None,
                labels={"expression": label},
                box=self._boxes.get((clip, number)),
                split=part,
            )

    @cached_property
    def _folders(self) -> dict[str, Path]:
        """Clip to folder."""
        folders: dict[str, Path] = {}
        for part in PARTS:
            if not (self.root / part).is_dir():
                raise absent(self.root, self.name, self.root / part)
            for path in sorted((self.root / part).iterdir()):
                if not path.is_dir() or path.name.startswith("."):
                    continue
                if path.name not in _SPELLINGS:
                    raise DataError(f"{path} is no class of CAER-S", f"expected {', '.join(_SPELLINGS)}")
                clip = f"{part}_{_SPELLINGS[path.name]}"
                if clip in folders:
                    raise DataError(
                        f"{folders[clip]} and {path.name} are one class in two spellings", "move all images into one"
                    )
                if next(path.glob("*.avi"), None):
                    raise DataError(
                        f"{path} holds videos: this is CAER, not CAER-S", "get CAER-S, the stills, from its authors"
                    )
                folders[clip] = path
            for name in CLASSES:
                if f"{part}_{name}" not in folders:
                    raise absent(self.root, self.name, self.root / part / name)
        return folders

    def _images(self, clip: str) -> dict[int, Path]:
        return numbered(self._folders[clip], _IMAGE)

    @cached_property
    def _boxes(self) -> dict[tuple[str, int], np.ndarray]:
        """Clip and number to (4,) float32 x1, y1, x2, y2."""
        if self.boxes is None:
            return {}
        files = [self.boxes]
        if self.boxes.is_dir():
            files = [self.boxes / name for name in _LISTS if (self.boxes / name).is_file()]
        if not files or not files[0].is_file():
            raise DataError(
                f"{self.boxes} is no box list, nor a folder with {', '.join(_LISTS)}", "point --boxes to one of these"
            )
        images = {(clip, number) for clip in self.clips() for number in self._images(clip)}
        boxes: dict[tuple[str, int], np.ndarray] = {}
        for file in files:
            for row, line in enumerate(read_text(file), start=1):
                if line.strip():
                    key, box = self._box(file, row, line.strip())
                    if key not in images:
                        raise DataError(
                            f"{file}, line {row}: {line!r}: there is no such image below {self.root}",
                            "unpack the whole archive, or remove the line",
                        )
                    if key in boxes and (boxes[key] != box).any():
                        raise DataError(
                            f"{file}, line {row}: {line!r}: another box of this image came before",
                            "remove one of the two lines",
                        )
                    boxes[key] = box
        return boxes

    @staticmethod
    def _box(file: Path, row: int, line: str) -> tuple[tuple[str, int], np.ndarray]:
        where = f"{file}, line {row}: {line[:60]!r}"
        match = _BOX_LINE.fullmatch(line)
        if match is None or match["folder"] not in _SPELLINGS:
            raise DataError(
                f"{where} is neither 'train/Angry/0002.png,0,304,120,382,219' nor 'Angry/0002.png,0,304,120,382,219'",
                "give --boxes a list in one of the two formats",
            )
        part = match["part"] or _LISTS.get(file.name)
        if part is None:
            raise DataError(
                f"{where} does not say which part it belongs to, nor does the file's name",
                f"name the file {', '.join(_LISTS)}",
            )
        label, *corners = (int(number) for number in match["numbers"].split(","))
        name = _SPELLINGS[match["folder"]]
        if label != list(CLASSES).index(name):
            raise DataError(
                f"{where}: class {label} contradicts the folder, whose number is {list(CLASSES).index(name)}",
                "restore the list: classes count from 0 in alphabetical order",
            )
        box = np.array([*np.minimum(corners[:2], corners[2:]), *np.maximum(corners[:2], corners[2:])], np.float32)
        if (box[:2] == box[2:]).any():
            raise DataError(f"{where}: the box has no area", "restore or remove the line: its image then has no box")
        return (f"{part}_{name}", int(match["image"])), box
