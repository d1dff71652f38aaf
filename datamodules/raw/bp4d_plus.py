"""BP4D+ (Zhang, Girard, Wu et al., CVPR 2016): the archive's own layout.

    ROOT/
      2D+3D/F001.zip                        one archive a subject, entries `F001/T1/0000.jpg`, read without unpacking,
      2D+3D/F001/T1/0000.jpg                or unpacked
      AUCoding/AU_OCC/F001_T1.csv           occurrence: a header of AU numbers, below it the frame number, from 1, and
                                            0, 1, or 9 for unknown
      AUCoding/AU_INT/AU06/F001_T1_AU06.csv intensity of AUs 6 10 12 14 17: no header, lines `frame,intensity`, 0..5, or
                                            9 for unknown
      2DFeatures/ 3DFeatures/ IRFeatures/ Physiology/ Thermal/      are ignored

140 subjects F001..F082 and M001..M058, ten tasks each, of which T1, T6, T7 and T8 are coded, some 20 s of 25 frames a
second. The picture of CSV frame f is number f + ``frame_offset``. Public code disagrees: one says that it checked that
pictures count from 0 (offset -1, the default here), another pairs equal numbers (offset 0); compare some pictures with
their labels before you trust either. Intensity files have a row for each row of the occurrence file, else they are
refused. Everything else is as in BP4D (`datamodules.raw.bp4d`). Names without data that
occur in the archive (F042T11) are ignored.
"""

import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import numpy as np

from datamodules.errors import DataError
from datamodules.raw.bp4d import BP4DRaw, Pictures
from datamodules.raw.media import read_image


class ZipPictures:
    """Pictures of one task in a subject's zip; implements `Pictures`, and closes the file as context manager."""

    def __init__(self, path: Path, task: str) -> None:
        self.where = path / task
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} cannot be read as zip: {error}", "restore it from the archive") from error
        pattern = re.compile(rf"(?:.*/)?{task}/(\d+)\.jpg", re.IGNORECASE)
        self._entries: dict[int, zipfile.ZipInfo] = {}
        for entry in self._zip.infolist():
            if match := pattern.fullmatch(entry.filename):
                if (number := int(match[1])) in self._entries:
                    first = self._entries[number].filename
                    raise DataError(
                        f"{path}: {first} and {entry.filename} are both of number {number}", "remove one of the two"
                    )
                self._entries[number] = entry

    def __enter__(self) -> "ZipPictures":
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def __iter__(self) -> Iterator[int]:
        return iter(self._entries)

    def __contains__(self, number: object) -> bool:
        return number in self._entries

    def name(self, number: int) -> str:
        """Path of the zip and the entry in it."""
        return f"{self._zip.filename}: {self._entries[number].filename}"

    def size(self, number: int) -> int:
        """Bytes of the entry, unpacked."""
        return self._entries[number].file_size

    def read(self, number: int) -> np.ndarray:
        """See `read_image`."""
        try:
            data = self._zip.read(self._entries[number])
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise DataError(
                f"{self.name(number)} cannot be read: {error}", "restore the zip from the archive"
            ) from error
        return read_image(data, self.name(number))


class BP4DPlusRaw(BP4DRaw):
    """BP4D+: pictures of four coded tasks, occurrence of AUs, intensity of five.

    Implements `datamodules.raw.records.RawDataset` with one clip a sequence.

    Args:
        root: Folder with the layout of this module.
        frame_offset: Number of a picture minus the frame number of its label row; sources disagree between -1 and 0.
        edition: ``published`` holds the data to the archive's known subjects and sequences.
    """

    name = "bp4d_plus"

    _places = ("2D+3D", ".")
    _tasks = ("T1", "T6", "T7", "T8")
    _whole_intensities = True

    def __init__(self, root: Path, frame_offset: int = -1, edition: Literal["published", "custom"] = "custom") -> None:
        super().__init__(root, frame_offset, edition)

    def _pictures(self, clip: str) -> AbstractContextManager[Pictures]:
        subject, task = clip.split("_")
        for folder in (self.root / place for place in self._places):
            packed = folder / f"{subject}.zip"
            if packed.is_file() and not (folder / subject / task).is_dir():
                return ZipPictures(packed, task)
        return super()._pictures(clip)
