"""FrameStore: a prepared dataset on disk, written once, read at random.

STORE/
  manifest.json      what it is: dataset, crop preset, faces, counts, bytes and sha256 of every file
  index.parquet      one row a frame, sorted by (subject, sequence, frame): key, official part, place and digest of its
                     bytes, digest of the source picture, box of the face and its score, flags, labels
  landmarks.npy      (N, 68, 2) float32, pixels of the crop, NaN unknown
  matrices.npy       (N, 2, 3) float64, from pixels of the source picture to pixels of the crop, NaN without crop
  shards/SN001.bin   JPEG files of the crops of a subject (of a class where nobody is named), in the order of the index
"""

import json
import os
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from enum import IntFlag
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.errors import DataError

VERSION = 3
MANIFEST, INDEX, LANDMARKS, MATRICES = "manifest.json", "index.parquet", "landmarks.npy", "matrices.npy"
SHARDS = "shards"
_OPEN_SHARDS = 128  # of the usual 1024 descriptors a process, shared with everything else that a worker opens


class Flag(IntFlag):
    """What a row lacks; such rows stay in the store."""

    NO_IMAGE = 1  #: no bytes: the frame is missing, or nothing says where the face is
    NO_FACE = 2  #: no face was located in this frame; its crop, if any, is placed as that of a frame close by
    NO_LANDMARKS = 4  #: all 68 points unknown
    NO_LABELS = 8  #: every label -1
    OCCLUDED = 16  #: part of the face is known to be covered


class FrameStore:
    """Rows of a prepared dataset.

    Opening reads nothing; each column is read when first asked for. Pickling carries the path alone, so that every
    DataLoader worker opens its own descriptors.

    Args:
        root: Folder that `datamodules.prepare.prepare` made.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self._descriptors: OrderedDict[int, int] = OrderedDict()
        weakref.finalize(self, _close, self._descriptors)

    def __reduce__(self) -> tuple[type["FrameStore"], tuple[Path]]:
        return type(self), (self.root,)

    @staticmethod
    def check_root(root: str | os.PathLike[str]) -> None:
        """Raise `DataError` unless ``root`` is a complete store of this version."""
        root = Path(root)
        remedy = "make it with experiments/prepare.py, or give the path of a prepared store"
        if not root.is_dir():
            raise DataError(f"{root} does not exist" if not root.exists() else f"{root} is no folder", remedy)
        if not (root / MANIFEST).exists():
            raise DataError(f"{root} is no frame store: {MANIFEST} is missing", remedy)
        try:
            version = json.loads((root / MANIFEST).read_text())["version"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{root / MANIFEST} cannot be read: {error!r}", "prepare the store again") from error
        if version != VERSION:
            raise DataError(
                f"{root} has store version {version}, this program reads {VERSION}", "prepare the store again"
            )
        for name in (INDEX, LANDMARKS, MATRICES, SHARDS):
            if not (root / name).exists():
                raise DataError(f"{root} is no whole frame store: {name} is missing", remedy)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the store is: `datamodules.prepare` lists the keys."""
        return json.loads((self.root / MANIFEST).read_text())

    @property
    def columns(self) -> list[str]:
        """Label columns (``AU06``, ``AU06_intensity``, ``expression``)."""
        return list(self.manifest["label_columns"])

    def __len__(self) -> int:
        return int(self.manifest["rows"])

    @property
    def subjects(self) -> np.ndarray:
        """Names of the subjects, sorted, object."""
        return self._subject[0]

    @property
    def subject_code(self) -> np.ndarray:
        """(N,) int32, index into `subjects`."""
        return self._subject[1]

    @property
    def sequences(self) -> np.ndarray:
        """Names of the sequences, sorted, object; a name may occur with several subjects."""
        return self._sequence[0]

    @property
    def sequence_code(self) -> np.ndarray:
        """(N,) int32, index into `sequences`."""
        return self._sequence[1]

    @property
    def shards(self) -> np.ndarray:
        """File names of the shards, sorted, object."""
        return self._shard[0]

    @property
    def shard_code(self) -> np.ndarray:
        """(N,) int32, index into `shards`."""
        return self._shard[1]

    @property
    def splits(self) -> np.ndarray:
        """Names of the official parts, sorted, object; an empty name stands for none."""
        return self._split[0]

    @property
    def split_code(self) -> np.ndarray:
        """(N,) int32, index into `splits`."""
        return self._split[1]

    @cached_property
    def clip_code(self) -> np.ndarray:
        """(N,) int32, number of the video: of the run of rows of one subject and sequence."""
        return np.repeat(np.arange(len(self._clip_starts) - 1, dtype=np.int32), np.diff(self._clip_starts))

    @cached_property
    def offset(self) -> np.ndarray:
        """(N,) int64, first byte of the row's picture in its shard."""
        return self._read("offset")

    @cached_property
    def length(self) -> np.ndarray:
        """(N,) int32, bytes of the row's picture; 0 where there is none."""
        return self._read("length")

    @cached_property
    def frame(self) -> np.ndarray:
        """(N,) int64, number of the frame in its sequence."""
        return self._read("frame")

    @cached_property
    def pts(self) -> np.ndarray:
        """(N,) float64, seconds; NaN for still images."""
        return self._read("pts")

    @cached_property
    def flags(self) -> np.ndarray:
        """(N,) uint8, bits of `Flag`."""
        return self._read("flags")

    @cached_property
    def box(self) -> np.ndarray:
        """(N, 4) float32 x1, y1, x2, y2 of the face in pixels of the source picture, NaN unknown."""
        return np.stack([self._read(f"box_{name}") for name in ("x1", "y1", "x2", "y2")], axis=1)

    @cached_property
    def score(self) -> np.ndarray:
        """(N,) float32, how sure the detector was of the face; NaN where none said."""
        return self._read("score")

    @cached_property
    def digest(self) -> np.ndarray:
        """(N,) int64 of the bytes of the stored crop (BLAKE2b); 0 where there is none."""
        return self._read("digest")

    @cached_property
    def source_digest(self) -> np.ndarray:
        """(N,) int64, equal for equal source pictures, however they are cropped; 0 where there is none."""
        return self._read("source_digest")

    def occluded(self, i: int) -> int:
        """Whether part of the face is covered, 0 or 1; -1 in a store that marks no frame, where nobody has looked."""
        return int(self.flags[i] & Flag.OCCLUDED > 0) if self._marks_occlusion else -1

    def label(self, column: str) -> np.ndarray:
        """(N,) int8 labels of a column, -1 unknown. Raises `DataError` for a column that the store lacks."""
        if column not in self.columns:
            raise DataError(f"{self.root} has no labels {column}", f"choose from {', '.join(self.columns)}")
        return self._read(column)

    def landmarks(self, i: int) -> np.ndarray:
        """(68, 2) float32 x, y in pixels of the stored crop, NaN unknown."""
        return np.array(self._landmarks[i])

    def matrix(self, i: int) -> np.ndarray:
        """(2, 3) float64 from pixels of the source picture to pixels of the stored crop; NaN where there is no crop."""
        return np.array(self._matrices[i])

    def read(self, i: int) -> np.ndarray:
        """(S, S, 3) uint8 RGB; black where the row is flagged `Flag.NO_IMAGE`."""
        data = self.read_bytes(i)
        if not data:
            side = self.manifest["preset"]["size"]
            return np.zeros((side, side, 3), np.uint8)
        image = decode_crop(data)
        if image is None:
            raise DataError(
                f"{self._shard_path(i)}: the bytes of row {i} are no JPEG", f"run experiments/doctor.py {self.root}"
            )
        return image

    def read_bytes(self, i: int) -> bytes:
        """The encoded crop of a row; empty where there is none."""
        length = int(self.length[i])
        if length == 0:
            return b""
        data = os.pread(self._descriptor(int(self.shard_code[i])), length, int(self.offset[i]))
        if len(data) != length:
            raise DataError(f"{self._shard_path(i)} is cut short", f"run experiments/doctor.py {self.root}")
        return data

    def neighbour(self, i: int, offset: int) -> int | None:
        """Row of frame ``frame[i] + offset`` in the same sequence of the same subject, None where there is none."""
        clip = int(np.searchsorted(self._clip_starts, i, side="right")) - 1
        start, end = self._clip_starts[clip], self._clip_starts[clip + 1]
        wanted = self.frame[i] + offset
        if start <= i + offset < end and self.frame[i + offset] == wanted:  # no gap between: the usual case
            return int(i + offset)
        row = int(start + np.searchsorted(self.frame[start:end], wanted))
        return row if row < end and self.frame[row] == wanted else None

    def key(self, i: int) -> tuple[str, str, str, int]:
        """(dataset, subject, sequence, frame) of a row, unique in the store."""
        subject, sequence = self.subjects[self.subject_code[i]], self.sequences[self.sequence_code[i]]
        return self.manifest["dataset"], str(subject), str(sequence), int(self.frame[i])

    @cached_property
    def _marks_occlusion(self) -> bool:
        return bool((self.flags & Flag.OCCLUDED).any())

    @cached_property
    def _subject(self) -> tuple[np.ndarray, np.ndarray]:
        return self._read_names("subject")

    @cached_property
    def _sequence(self) -> tuple[np.ndarray, np.ndarray]:
        return self._read_names("sequence")

    @cached_property
    def _shard(self) -> tuple[np.ndarray, np.ndarray]:
        return self._read_names("shard")

    @cached_property
    def _split(self) -> tuple[np.ndarray, np.ndarray]:
        return self._read_names("split")

    @cached_property
    def _landmarks(self) -> np.ndarray:
        return np.asarray(np.load(self.root / LANDMARKS, mmap_mode="r"))  # a memmap is slow to index

    @cached_property
    def _matrices(self) -> np.ndarray:
        return np.asarray(np.load(self.root / MATRICES, mmap_mode="r"))

    @cached_property
    def _clip_starts(self) -> np.ndarray:
        """First row of each run of one subject and sequence, then N."""
        change = (np.diff(self.subject_code) != 0) | (np.diff(self.sequence_code) != 0)
        return np.concatenate([[0], np.flatnonzero(change) + 1, [len(self)]])

    def _read(self, column: str) -> np.ndarray:
        return _gathered([np.from_dlpack(values) for values in self._batches(column)])

    def _read_names(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        batches = list(self._batches(column))
        names = np.unique(np.concatenate([np.array(values.dictionary.to_pylist(), object) for values in batches]))
        codes = [
            np.searchsorted(names, values.dictionary.to_pylist()).astype(np.int32)[np.from_dlpack(values.indices)]
            for values in batches
        ]
        del batches
        return names, _gathered(codes)

    def _batches(self, column: str) -> Iterator[Any]:
        # read_table would load Arrow's dataset library, to_numpy pandas; threads may not outlive a fork into a worker.
        with pq.ParquetFile(self.root / INDEX, pre_buffer=False) as index:
            for batch in index.iter_batches(1 << 16, columns=[column], use_threads=False):
                yield batch.column(0)

    def _shard_path(self, i: int) -> Path:
        return self.root / SHARDS / self.shards[self.shard_code[i]]

    def _descriptor(self, shard: int) -> int:
        if shard in self._descriptors:
            self._descriptors.move_to_end(shard)
            return self._descriptors[shard]
        if len(self._descriptors) == _OPEN_SHARDS:
            os.close(self._descriptors.popitem(last=False)[1])
        descriptor = os.open(self.root / SHARDS / self.shards[shard], os.O_RDONLY)
        self._descriptors[shard] = descriptor
        return descriptor


class Rows:
    """Rows of stores that stand one after the other.

    Args:
        stores: Dataset and store.

    Attributes:
        dataset: (N,) int, number of the dataset.
        video: (N,) int, number of the video, ascending.
        frame: (N,) int64, number of the frame in its video.
    """

    def __init__(self, stores: Sequence[tuple[str, FrameStore]]) -> None:
        self.stores = list(stores)
        lengths = [len(store) for _, store in self.stores]
        self._ends = np.cumsum(lengths)
        codes = [store.clip_code for _, store in self.stores]
        first = np.cumsum([0, *(int(of[-1]) + 1 if len(of) else 0 for of in codes)])
        self.dataset = np.repeat(np.arange(len(lengths)), lengths)
        self.video = np.concatenate([of + start for of, start in zip(codes, first, strict=False)])
        self.frame = np.concatenate([store.frame for _, store in self.stores])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def place(self, row: int) -> tuple[str, FrameStore, int]:
        """Dataset and store of a row, and its row there."""
        number = int(np.searchsorted(self._ends, row, side="right"))
        dataset, store = self.stores[number]
        return dataset, store, row - int(self._ends[number]) + len(store)

    def key(self, row: int) -> tuple[str, str, str, int]:
        """(dataset, subject, sequence, frame) of a row."""
        dataset, store, here = self.place(row)
        return dataset, *store.key(here)[1:]


def decode_crop(data: bytes) -> np.ndarray | None:
    """(S, S, 3) uint8 RGB of the bytes of a stored crop; None where they are no JPEG."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def _gathered(parts: list[np.ndarray]) -> np.ndarray:
    """One array of the parts, which it empties: Arrow would keep their memory, as much again as the columns."""
    values = np.concatenate(parts)
    parts.clear()
    pa.default_memory_pool().release_unused()
    return values


def _close(descriptors: OrderedDict[int, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])
