"""One shard of a store: its frames read, located, cropped and encoded, in one process."""

import hashlib
import time
from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.align import Preset, warp_image, warp_points
from datamodules.errors import DataError
from datamodules.faces import Face, FaceSource
from datamodules.facs import LANDMARKS
from datamodules.jobs import Tick
from datamodules.raw.records import FrameRecord, RawDataset
from datamodules.store import SHARDS, Flag

JPEG_QUALITY = 95  # mean error below one grey level; 12 times smaller than raw pixels
CARRY = 10  # frames from which a crop may be borrowed, either way: half a second of DISFA
#: What preparing a frame consists of.
STAGES = ("read", "faces", "warp", "encode")


class Clock:
    """Frames and seconds by stage."""

    def __init__(self) -> None:
        self.frames: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Count a frame, and what the block takes, to a stage."""
        start = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - start
        self.frames[stage] += 1


class Place(NamedTuple):
    """A frame and where it is cropped.

    Attributes:
        record: The frame.
        face: What the source of faces found in it.
        matrix: (2, 3) from its pixels to crop pixels; None where nothing places the crop.
        own: Whether its own face placed it.
    """

    record: FrameRecord
    face: Face | None
    matrix: np.ndarray | None
    own: bool


def write_shard(
    raw: RawDataset,
    source: FaceSource,
    work: Path,
    crop: Preset,
    side: int,
    failures: Literal["nearest", "drop"],
    item: tuple[str, list[str], str],
    tick: Tick,
) -> Clock:
    """Write a shard, its landmarks, matrices and table; the table last, as the mark that all is there."""
    shard, clips, fingerprint = item
    parts, clock = work / "parts", Clock()
    table = parts / f"{shard}.parquet"
    table.unlink(missing_ok=True)  # of an attempt with other raw files
    rows = _Rows(raw.label_columns)
    checksum = hashlib.sha256()
    found = places(_read(raw, clips, clock), source, crop, side, clock)
    with (
        (work / "store" / SHARDS / f"{shard}.bin").open("wb") as pictures,
        (parts / f"{shard}.points").open("wb") as points,
        (parts / f"{shard}.matrices").open("wb") as matrices,
    ):
        for place in _nearest(found) if failures == "nearest" else found:
            data = encoded(place, side, clock)
            landmarks = crop_landmarks(place)
            pictures.write(data)
            checksum.update(data)
            points.write(landmarks.astype("<f4").tobytes())
            matrix = np.full((2, 3), np.nan) if place.matrix is None else place.matrix
            matrices.write(matrix.astype("<f8").tobytes())
            rows.append(place, data, known=bool(np.isfinite(landmarks).any()))
            tick(1)
    metadata = {"source": fingerprint, "sha256": checksum.hexdigest(), **rows.counts()}
    pq.write_table(rows.table(f"{shard}.bin").replace_schema_metadata(metadata), table.with_suffix(".tmp"))
    table.with_suffix(".tmp").replace(table)
    return clock


def _read(raw: RawDataset, clips: list[str], clock: Clock) -> Iterator[FrameRecord]:
    records = chain.from_iterable(map(raw.frames, clips))
    while True:
        with clock.of("read"):
            record = next(records, None)
        if record is None:
            clock.frames["read"] -= 1  # the end is no frame
            return
        yield record


def places(
    records: Iterable[FrameRecord], source: FaceSource, crop: Preset, side: int, clock: Clock
) -> Iterator[Place]:
    """Each frame, its face, and where its crop of ``side`` pixels lies; one at a time."""
    for record in records:
        with clock.of("faces"):
            face = source.find(record)
        landmarks, box = (None, None) if face is None else (face.landmarks, face.box)
        matrix = crop.matrix(landmarks, box, None if record.image is None else record.image.shape[:2], side)
        yield Place(record, face, matrix, own=matrix is not None)


def _nearest(places: Iterator[Place]) -> Iterator[Place]:
    """The same frames; those that nothing placed get the matrix of the nearest of their sequence, if one is near."""
    sequence: tuple[str, str] | None = None
    past: tuple[int, np.ndarray] | None = None  # number and matrix of the last frame that was placed
    waiting: deque[Place] = deque()
    for place in places:
        record = place.record
        if (record.subject, record.sequence) != sequence:
            yield from (_borrow(other, past, None) for other in waiting)
            waiting.clear()
            sequence, past = (record.subject, record.sequence), None
        if place.matrix is None:
            waiting.append(place)
            while waiting and not _may_find_nearer(waiting[0], past, record.frame + 1):
                yield _borrow(waiting.popleft(), past, None)
        else:
            now = (record.frame, place.matrix)
            yield from (_borrow(other, past, now) for other in waiting)
            waiting.clear()
            past = now
            yield place
    yield from (_borrow(other, past, None) for other in waiting)


def _may_find_nearer(place: Place, past: tuple[int, np.ndarray] | None, next_frame: int) -> bool:
    """Whether a frame yet to come can be the nearest; its number is ``next_frame`` or more."""
    ahead = next_frame - place.record.frame
    return ahead <= CARRY and (past is None or ahead < place.record.frame - past[0])


def _borrow(place: Place, past: tuple[int, np.ndarray] | None, future: tuple[int, np.ndarray] | None) -> Place:
    """The frame with the matrix of the nearer of two others, where it is near enough; the earlier if equally near."""
    if place.record.image is None:
        return place
    others = [(abs(number - place.record.frame), matrix) for number, matrix in filter(None, (past, future))]
    distance, matrix = min(others, key=lambda other: other[0], default=(CARRY + 1, None))
    return place if distance > CARRY else place._replace(matrix=matrix)


def encoded(place: Place, side: int, clock: Clock) -> bytes:
    """JPEG file of the crop, empty where there is none."""
    image = place.record.image
    if image is None or place.matrix is None:
        return b""
    with clock.of("warp"):
        crop = warp_image(image, place.matrix, side)
    with clock.of("encode"):
        bgr = cv2.cvtColor(crop, cv2.COLOR_RGB2BGR)
        done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done
    return data.tobytes()


def crop_landmarks(place: Place) -> np.ndarray:
    """(68, 2) float32 in pixels of the crop, NaN unknown."""
    if place.matrix is None or place.face is None or place.face.landmarks is None:
        return np.full((LANDMARKS, 2), np.nan, np.float32)
    return warp_points(place.face.landmarks, place.matrix)


class _Names:
    """Names by number, in the order of their first use, and the numbers of the rows."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.rows = array("i")

    def append(self, name: str) -> None:
        self.rows.append(self.numbers.setdefault(name, len(self.numbers)))

    def column(self) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(np.asarray(self.rows), list(self.numbers))


class _Rows:
    """Index rows of one shard as compact columns: some 100 bytes a frame, however long the videos."""

    def __init__(self, label_columns: list[str]) -> None:
        self.last: tuple[str, str, int] | None = None
        self.subject, self.sequence, self.split = _Names(), _Names(), _Names()
        self.frame, self.pts = array("q"), array("d")
        self.digest, self.source_digest = array("q"), array("q")
        self.offset, self.length, self.flags = array("q"), array("i"), array("B")
        self.box, self.score = array("f"), array("f")
        self.labels = {column: array("b") for column in label_columns}
        self.pictures = self.faces = 0

    def append(self, place: Place, data: bytes, known: bool) -> None:
        """Add a row: its place, its picture, and whether any of its landmarks is known."""
        record, face = place.record, place.face
        key = (record.subject, record.sequence, record.frame)
        if self.last is not None and key <= self.last:
            raise DataError(
                f"{record.subject} {record.sequence}: frame {record.frame} comes twice or out of order",
                "(subject, sequence, frame) must be unique and in order: remove the duplicate from the raw data",
            )
        self.last = key
        located = face is not None and place.own
        labels = [record.labels.get(column, -1) for column in self.labels]
        flags = Flag.OCCLUDED if record.occluded else Flag(0)
        flags |= Flag(0) if data else Flag.NO_IMAGE
        flags |= Flag(0) if located else Flag.NO_FACE
        flags |= Flag(0) if known else Flag.NO_LANDMARKS
        flags |= Flag.NO_LABELS if all(label == -1 for label in labels) else Flag(0)
        for column, label in zip(self.labels.values(), labels, strict=True):
            column.append(label)
        self.subject.append(record.subject)
        self.sequence.append(record.sequence)
        self.split.append(record.split)
        self.frame.append(record.frame)
        self.pts.append(record.pts)
        self.offset.append(self.offset[-1] + self.length[-1] if self.offset else 0)
        self.length.append(len(data))
        self.digest.append(_short_digest(data))
        self.source_digest.append(_source_digest(record.image))
        self.box.extend([np.nan] * 4 if face is None else face.box.tolist())
        self.score.append(np.nan if face is None else face.score)
        self.flags.append(int(flags))
        self.pictures += record.image is not None
        self.faces += record.image is not None and located

    def counts(self) -> dict[str, str]:
        """What the index cannot tell, for the metadata of the table."""
        return {"pictures": str(self.pictures), "faces": str(self.faces)}

    def table(self, shard: str) -> pa.Table:
        """Columns of the index."""
        box = np.asarray(self.box).reshape(-1, 4)
        columns = {
            "subject": self.subject.column(),
            "sequence": self.sequence.column(),
            "frame": np.asarray(self.frame),
            "pts": np.asarray(self.pts),
            "split": self.split.column(),
            "shard": pa.DictionaryArray.from_arrays(np.zeros(len(self.frame), np.int32), [shard]),
            "offset": np.asarray(self.offset),
            "length": np.asarray(self.length),
            "digest": np.asarray(self.digest),
            "source_digest": np.asarray(self.source_digest),
            **{f"box_{name}": np.ascontiguousarray(box[:, k]) for k, name in enumerate(("x1", "y1", "x2", "y2"))},
            "score": np.asarray(self.score),
            "flags": np.asarray(self.flags),
            **{column: np.asarray(values) for column, values in self.labels.items()},
        }
        return pa.table(columns)


def _source_digest(image: np.ndarray | None) -> int:
    # Every fourth pixel either way: the noise of a sensor tells pictures apart by far fewer, and all would cost as much
    # as their decoding.
    return 0 if image is None else _short_digest(str(image.shape).encode() + image[::4, ::4].tobytes())


def _short_digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True) if data else 0
