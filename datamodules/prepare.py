"""From a raw dataset to a frame store: align, crop, encode.

The work is done subject by subject in a hidden folder beside the destination (``.NAME.partial``), which is renamed when
complete. A preparation that was killed goes on after the last finished subject and ends with the same bytes as an
undisturbed one. A worker holds one decoded frame and some 100 bytes a frame of its subject.

Keys of ``manifest.json``: ``version, dataset, edition, licence, rows, label_columns, aus, preset, preprocessing`` (the
preset's hash), ``raw`` (fingerprint of the raw files), ``detector, counts {subjects, flags, labels}`` (``labels``: rows
with -1, 0, 1, ... per column), ``shards {file: {bytes, sha256}}, tables`` (the same of the index and the landmarks),
``settings, created_with``.
"""

import hashlib
import json
import platform
import shutil
from array import array
from collections import defaultdict
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import filelock
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.align import PRESETS, Preset, warp_image, warp_points
from datamodules.errors import DataError
from datamodules.facs import LANDMARKS, au_number
from datamodules.jobs import Tick, run_jobs
from datamodules.raw.records import FrameRecord, RawDataset
from datamodules.store import INDEX, MANIFEST, SHARDS, VERSION, Flag, FrameStore
from datamodules.store import LANDMARKS as LANDMARKS_FILE

JPEG_QUALITY = 95  # mean error below one grey level; 12 times smaller than raw pixels
CARRY = 10  # frames for which a crop may be borrowed from the last frame with landmarks: half a second of DISFA


def prepare(
    raw: RawDataset, out: Path, preset: str = "renet", size: int | None = None, workers: int = 0, progress: bool = True
) -> Path:
    """Make a frame store of a raw dataset.

    A frame whose landmarks do not place the crop is flagged ``NO_LANDMARKS | NO_FACE``. It is cropped like the last
    frame of its sequence that they did place, at most `CARRY` frames back; failing that, its row has no image.

    Args:
        raw: The raw dataset.
        out: Folder to make. An existing store of the same data and settings is left as it is.
        preset: Name in `datamodules.align.PRESETS`.
        size: Side of the stored crops in pixels; None: as the preset says.
        workers: Processes to spread the subjects over; 0 works in this one.
        progress: Whether to show a progress bar.

    Returns:
        ``out``.

    Raises:
        DataError: For faults of the raw data or the settings, or when ``out`` holds something else. Nothing that was
            there is changed, and finished subjects are kept for the next attempt.
    """
    if preset not in PRESETS:
        raise DataError(f"there is no crop preset {preset!r}", f"choose from {', '.join(PRESETS)}")
    if (size is not None and size < 16) or workers < 0:
        raise DataError(
            f"size={size}, workers={workers}: too small", "crops have 16 pixels or more; workers count from 0"
        )
    crop = PRESETS[preset]
    side = size or crop.size
    clips: dict[str, list[str]] = defaultdict(list)
    for clip in raw.clips():
        clips[raw.subject(clip)].append(clip)
    sources = {subject: _digest(*map(raw.fingerprint, names)) for subject, names in sorted(clips.items())}
    identity = {
        "version": VERSION,
        "dataset": raw.name,
        "edition": raw.edition,
        "preprocessing": crop.hash,
        "settings": {"size": side, "jpeg_quality": JPEG_QUALITY, "carry": CARRY},
    }
    whole = {**identity, "raw": _digest(*sources.values())}
    work = out.with_name(f".{out.name}.partial")
    if out.exists():
        _check_existing(out, whole)
        shutil.rmtree(work, ignore_errors=True)  # left behind by a kill after the rename
        return out

    raw.check()
    store = work / "store"
    try:
        (store / SHARDS).mkdir(parents=True, exist_ok=True)
        (work / "parts").mkdir(exist_ok=True)
    except OSError as error:
        raise DataError(f"{work} cannot be made: {error.strerror}", "choose another --out") from error
    try:
        with filelock.FileLock(work / "lock", timeout=0):
            _check_work(work, identity)
            todo = [(s, clips[s], source) for s, source in sources.items() if not _finished(work, s, source)]
            counts = {subject: sum(map(raw.count, names)) for subject, names in clips.items()}
            run_jobs(
                partial(_prepare_subject, raw, work, crop, side),
                todo,
                total=sum(counts.values()),
                done=sum(counts.values()) - sum(counts[subject] for subject, _, _ in todo),
                workers=workers,
                progress=progress,
                description=f"prepare {raw.name}",
            )
            manifest = {**whole, **_join(work, list(sources), raw.label_columns), **_facts(raw, crop, side)}
            (store / MANIFEST).write_text(json.dumps(manifest, indent=1))
            store.rename(out)
    except filelock.Timeout as error:
        raise DataError(
            f"{work} is in use by another preparation", "wait until it ends, or choose another --out"
        ) from error
    shutil.rmtree(work, ignore_errors=True)
    return out


def _facts(raw: RawDataset, crop: Preset, side: int) -> dict[str, Any]:
    """What the manifest tells of the data and of how it was made, besides identity and counts."""
    return {
        "licence": raw.licence,
        "label_columns": raw.label_columns,
        "aus": sorted({au for column in raw.label_columns if (au := au_number(column)) is not None}),
        "preset": {**asdict(crop), "size": side},
        "detector": None,  # the landmarks are the dataset's own
        "created_with": {
            "facsuite": version("facsuite"),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "av": version("av"),
        },
    }


def _check_existing(out: Path, wanted: dict[str, Any]) -> None:
    try:
        FrameStore.check_root(out)
    except DataError as error:
        raise DataError(str(error), f"choose another --out, or delete {out}") from error
    _check_same(FrameStore(out).manifest, wanted, out)


def _check_work(work: Path, identity: dict[str, Any]) -> None:
    """Hold an unfinished preparation to the settings it began with; note them if it begins now."""
    path = work / "settings.json"
    if path.exists():
        _check_same(json.loads(path.read_text()), identity, work)
        return
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(identity))
    temporary.replace(path)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def _check_same(found: dict[str, Any], wanted: dict[str, Any], where: Path) -> None:
    found, wanted = _flat({key: found.get(key) for key in wanted}), _flat(wanted)
    differing = [f"{key} {found.get(key)}, now {value}" for key, value in wanted.items() if found.get(key) != value]
    if differing:
        raise DataError(
            f"{where} holds other data or settings: {'; '.join(differing)}", f"choose another --out, or delete {where}"
        )


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= value if isinstance(value, dict) else {key: value}
    return flat


def _finished(work: Path, subject: str, source: str) -> bool:
    """Whether an earlier attempt finished this subject from the same raw files: its table is written last."""
    path = work / "parts" / f"{subject}.parquet"
    return path.exists() and pq.read_schema(path).metadata[b"source"].decode() == source


def _prepare_subject(
    raw: RawDataset, work: Path, crop: Preset, side: int, item: tuple[str, list[str], str], tick: Tick
) -> None:
    """Write a subject's shard, landmarks and table; the table last, as the mark that all is there."""
    subject, clips, source = item
    rows = _Rows(raw.label_columns)
    last: tuple[str, int, np.ndarray] | None = None  # sequence, frame and matrix of the last located face
    digest = hashlib.sha256()
    shard, points = work / "store" / SHARDS / f"{subject}.bin", work / "parts" / f"{subject}.points"
    table = work / "parts" / f"{subject}.parquet"
    table.unlink(missing_ok=True)  # of an attempt with other raw files
    with shard.open("wb") as shard_file, points.open("wb") as points_file:
        for record in chain.from_iterable(map(raw.frames, clips)):
            flags = Flag.OCCLUDED if record.occluded else Flag(0)
            landmarks = np.full((LANDMARKS, 2), np.nan, np.float32) if record.landmarks is None else record.landmarks
            matrix = crop.matrix(landmarks, None, None, side)
            if matrix is not None:
                last = (record.sequence, record.frame, matrix)
            else:
                flags |= Flag.NO_FACE
                if last is not None and last[0] == record.sequence and record.frame - last[1] <= CARRY:
                    matrix = last[2]
            landmarks = np.full_like(landmarks, np.nan) if matrix is None else warp_points(landmarks, matrix)
            if np.isnan(landmarks).all():
                flags |= Flag.NO_LANDMARKS
            data = b""
            if matrix is None or record.image is None:
                flags |= Flag.NO_IMAGE
            else:
                data = _encode(warp_image(record.image, matrix, side))
            shard_file.write(data)
            digest.update(data)
            points_file.write(landmarks.astype("<f4").tobytes())
            rows.append(record, len(data), flags)
            tick(1)
    metadata = {"source": source, "sha256": digest.hexdigest()}
    pq.write_table(rows.table(subject, shard.name).replace_schema_metadata(metadata), table.with_suffix(".tmp"))
    table.with_suffix(".tmp").replace(table)


def _encode(crop: np.ndarray) -> bytes:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done
    return data.tobytes()


class _Rows:
    """Index rows of one subject as compact columns: some 50 bytes a frame, however long the videos."""

    def __init__(self, label_columns: list[str]) -> None:
        self.sequences: list[str] = []
        self.sequence, self.frame, self.pts = array("i"), array("q"), array("d")
        self.offset, self.length, self.flags = array("q"), array("i"), array("B")
        self.labels = {column: array("b") for column in label_columns}

    def append(self, record: FrameRecord, length: int, flags: Flag) -> None:
        if not self.sequences or self.sequences[-1] != record.sequence:
            if self.sequences and record.sequence < self.sequences[-1]:
                raise self._disorder(record)
            self.sequences.append(record.sequence)
        elif record.frame <= self.frame[-1]:
            raise self._disorder(record)
        labels = [record.labels.get(column, -1) for column in self.labels]
        if all(label == -1 for label in labels):
            flags |= Flag.NO_LABELS
        for column, label in zip(self.labels.values(), labels, strict=True):
            column.append(label)
        self.sequence.append(len(self.sequences) - 1)
        self.frame.append(record.frame)
        self.pts.append(record.pts)
        self.offset.append(self.offset[-1] + self.length[-1] if self.offset else 0)
        self.length.append(length)
        self.flags.append(int(flags))

    def table(self, subject: str, shard: str) -> pa.Table:
        same = np.zeros(len(self.frame), np.int32)
        columns = {
            "subject": pa.DictionaryArray.from_arrays(same, [subject]),
            "sequence": pa.DictionaryArray.from_arrays(np.asarray(self.sequence), self.sequences),
            "frame": np.asarray(self.frame),
            "pts": np.asarray(self.pts),
            "shard": pa.DictionaryArray.from_arrays(same, [shard]),
            "offset": np.asarray(self.offset),
            "length": np.asarray(self.length),
            "flags": np.asarray(self.flags),
            **{column: np.asarray(values) for column, values in self.labels.items()},
        }
        return pa.table(columns)

    @staticmethod
    def _disorder(record: FrameRecord) -> DataError:
        return DataError(
            f"{record.subject} {record.sequence}: frame {record.frame} comes twice or out of order",
            "(subject, sequence, frame) must be unique and in order: remove the duplicate from the raw data",
        )


def _join(work: Path, subjects: list[str], label_columns: list[str]) -> dict[str, Any]:
    """Write the store's index and landmarks from the subjects' parts; returns counts and checksums for the manifest."""
    store, parts = work / "store", work / "parts"
    tables = [pq.read_table(parts / f"{subject}.parquet") for subject in subjects]
    shards = {
        f"{subject}.bin": {
            "bytes": (store / SHARDS / f"{subject}.bin").stat().st_size,
            "sha256": table.schema.metadata[b"sha256"].decode(),
        }
        for subject, table in zip(subjects, tables, strict=True)
    }
    for path in (store / SHARDS).iterdir():
        if path.name not in shards:
            path.unlink()  # of a subject that an earlier attempt still found in the raw data
    index = pa.concat_tables(table.replace_schema_metadata(None) for table in tables).unify_dictionaries()
    pq.write_table(index, store / INDEX)
    with (store / LANDMARKS_FILE).open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(index), LANDMARKS, 2)}
        np.lib.format.write_array_header_1_0(file, header)
        for subject in subjects:
            with (parts / f"{subject}.points").open("rb") as part:
                shutil.copyfileobj(part, file, 1 << 20)
    flags = index["flags"].to_numpy()
    return {
        "rows": len(index),
        "counts": {
            "subjects": {subject: len(table) for subject, table in zip(subjects, tables, strict=True)},
            "flags": {flag.name: int(np.count_nonzero(flags & flag)) for flag in Flag},
            "labels": {
                column: np.bincount(index[column].to_numpy().astype(np.int64) + 1, minlength=7).tolist()
                for column in label_columns
            },
        },
        "shards": shards,
        "tables": {name: _checksum(store / name) for name in (INDEX, LANDMARKS_FILE)},
    }


def _checksum(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
