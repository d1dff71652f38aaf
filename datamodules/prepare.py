"""From a raw dataset to a frame store: find the face, align, crop, encode.

The work is done shard by shard in a hidden folder beside the destination (``.NAME.partial``), which is renamed when
complete. A preparation that was killed, or stopped by a full disk, goes on after the last finished shard and ends with
the same bytes as an undisturbed one. A worker holds one decoded frame, `CARRY` of them while it looks for a face to
borrow a crop from, and some 150 bytes a frame of its shard.

Keys of ``manifest.json``: ``version, dataset, edition, release, licence, rows, label_columns, aus, expressions, preset
{name, version, size, needs, source, geometry}, preprocessing`` (the preset's hash), ``faces`` (who said where the faces
are: `datamodules.faces`), ``raw`` (fingerprint of the raw files), ``counts {subjects, pictures, faces, flags, labels}``
(``pictures``: rows whose picture exists; ``faces``: those in which a face was located; ``labels``: rows with -1, 0, 1,
... per column), ``shards {file: {bytes, sha256, rows}}, tables`` (bytes and sha256 of index, landmarks and matrices),
``settings {size, jpeg_quality, carry, failures}, expected {rows, labels}`` (of twins: rows per subject and counts of
labels that their truth demands), ``created_with``.
"""

import errno
import hashlib
import json
import platform
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import cv2
import filelock
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.align import PRESETS, Preset
from datamodules.errors import DataError
from datamodules.faces import DETECTORS, face_source
from datamodules.facs import LANDMARKS, au_number
from datamodules.jobs import run_jobs
from datamodules.raw.records import TRUTH, RawDataset
from datamodules.shards import CARRY, JPEG_QUALITY, STAGES, Clock, write_shard
from datamodules.store import INDEX, MANIFEST, MATRICES, SHARDS, VERSION, Flag, FrameStore
from datamodules.store import LANDMARKS as LANDMARKS_FILE

#: Preset of a source of faces, unless another is asked for.
_USUAL = {"landmarks": "renet", "box": "emotiram", "crop": "delivered"}
#: What a preset needs to what a source of faces must give.
_SUFFICES = {"landmarks": {"landmarks"}, "box": {"landmarks", "box"}, "image": {"landmarks", "box", "crop"}}


@dataclass(frozen=True, slots=True)
class Summary:
    """What came of a preparation.

    Attributes:
        root: Folder of the store.
        rows: Frames in it.
        subjects: Persons, or pictures of a dataset that names nobody.
        side: Side of the crops in pixels.
        bytes: Size of the shards.
        flags: Rows with each `Flag`.
        detection_rate: Share of the pictures in which a face was located; NaN where there is no picture.
        seconds: How long the call took.
        stages: Frames a second and process in each of `STAGES`, of the work that this call did.
    """

    root: Path
    rows: int
    subjects: int
    side: int
    bytes: int
    flags: dict[str, int]
    detection_rate: float
    seconds: float
    stages: dict[str, float]


def prepare(
    raw: RawDataset,
    out: Path,
    *,
    faces: Literal["dataset", "detect", "truth"] = "dataset",
    detector: str = "dlib",
    preset: str | None = None,
    size: int | None = None,
    failures: Literal["nearest", "drop"] = "nearest",
    workers: int = 0,
    progress: bool = True,
) -> Summary:
    """Make a frame store of a raw dataset.

    Every label row becomes a row of the store. Where nothing places the crop, the row is flagged ``NO_FACE``. It is
    then cropped like the nearest frame of its sequence, before or after, that was placed (``failures="nearest"``; at
    most `CARRY` frames away, the earlier of two equally near), or has no picture (``"drop"``, and where none is near).

    Args:
        raw: The raw dataset.
        out: Folder to make. An existing store of the same data and settings is left as it is.
        faces: Who says where the face is: what the dataset delivers, a detector, or the truth of a twin.
        detector: ``dlib``, ``mediapipe`` or ``mtcnn``, where faces are detected.
        preset: Where the crop puts the face: ``renet``, ``aunet``, ``pairwise``, ``megraph``, ``emotiram`` or
            ``delivered`` (datamodules/presets.yaml); by default ``renet`` where landmarks are known, ``emotiram`` where
            boxes are, ``delivered`` where the pictures are crops.
        size: Side of the stored crops in pixels; by default as the preset says.
        failures: What becomes of frames in which no face is located: cropped like the nearest, or without picture.
        workers: Processes to spread the shards over; 0 works in this one.
        progress: Whether to show a progress bar.

    Raises:
        DataError: For faults of the raw data or the settings, when ``out`` holds something else, or on a full disk.
            Nothing that was there is changed, and finished shards are kept for the next attempt.
    """
    started = time.perf_counter()
    _check_settings(preset, size, detector, failures, workers)
    clips = raw.clips()  # first of all: a wrong root would read as a dataset without faces
    source = face_source(faces, raw, detector)
    crop = PRESETS[preset or _USUAL[source.gives]]
    if source.gives not in _SUFFICES[crop.needs]:
        usual = _USUAL[source.gives]
        raise DataError(
            f"preset {crop.name} needs {crop.needs}, but --faces {faces} gives {source.gives} of {raw.name}",
            f"find {crop.needs} with --faces detect, or choose --preset {usual}",
        )
    side = size or crop.size
    shards: dict[str, list[str]] = defaultdict(list)
    for clip in clips:
        shards[raw.shard(clip)].append(clip)
    sources = {shard: _digest(*map(raw.fingerprint, names)) for shard, names in shards.items()}
    identity = {
        "version": VERSION,
        "dataset": raw.name,
        "edition": raw.edition,
        "release": raw.release,
        "preprocessing": crop.hash,
        "faces": json.loads(json.dumps(source.facts())),
        "settings": {"size": side, "jpeg_quality": JPEG_QUALITY, "carry": CARRY, "failures": failures},
    }
    whole = {**identity, "raw": _digest(*(sources[shard] for shard in sorted(sources)))}
    work = out.with_name(f".{out.name}.partial")
    if out.exists():
        _check_existing(out, whole)
        shutil.rmtree(work, ignore_errors=True)  # left behind by a kill after the rename
        return _summary(out, [], started)

    raw.check()
    store = work / "store"
    try:
        (store / SHARDS).mkdir(parents=True, exist_ok=True)
        (work / "parts").mkdir(exist_ok=True)
    except OSError as error:
        raise DataError(f"{work} cannot be made: {error.strerror}", "choose another --out") from error
    try:
        with filelock.FileLock(work / "lock", timeout=0), _room(work):
            _check_work(work, identity)
            counts = {shard: sum(map(raw.count, names)) for shard, names in shards.items()}
            todo = [(shard, shards[shard], sources[shard]) for shard in sources]
            todo = [item for item in todo if not _finished(work, item[0], item[2])]
            todo.sort(key=lambda item: -counts[item[0]])  # no long shard is left for the end
            times = run_jobs(
                partial(write_shard, raw, source, work, crop, side, failures),
                todo,
                total=sum(counts.values()),
                done=sum(counts.values()) - sum(counts[shard] for shard, _, _ in todo),
                workers=workers,
                progress=progress,
                description=f"prepare {raw.name}",
            )
            manifest = {**whole, **_join(raw, work, list(sources)), **_facts(raw, crop, side)}
            (store / MANIFEST).write_text(json.dumps(manifest, indent=1))
            store.rename(out)
    except filelock.Timeout as error:
        raise DataError(
            f"{work} is in use by another preparation", "wait until it ends, or choose another --out"
        ) from error
    shutil.rmtree(work, ignore_errors=True)
    return _summary(out, times, started)


def _check_settings(preset: str | None, size: int | None, detector: str, failures: str, workers: int) -> None:
    if preset is not None and preset not in PRESETS:
        raise DataError(f"there is no crop preset {preset!r}", f"choose from {', '.join(PRESETS)}")
    if detector not in DETECTORS:
        raise DataError(f"there is no detector {detector!r}", f"choose from {', '.join(DETECTORS)}")
    if failures not in ("nearest", "drop"):
        raise DataError(f"failures={failures!r} is unknown", "choose nearest or drop")
    if (size is not None and size < 16) or workers < 0:
        raise DataError(
            f"size={size}, workers={workers}: too small", "crops have 16 pixels or more; workers count from 0"
        )


def _facts(raw: RawDataset, crop: Preset, side: int) -> dict[str, Any]:
    """What the manifest tells of the data and of how it was made, besides identity and counts."""
    return {
        "licence": raw.licence,
        "label_columns": raw.label_columns,
        "aus": sorted({au for column in raw.label_columns if (au := au_number(column)) is not None}),
        "expressions": list(raw.expressions),
        "preset": {**asdict(crop), "size": side},
        "created_with": {
            "facsuite": version("facsuite"),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "av": version("av"),
        },
    }


@contextmanager
def _room(work: Path) -> Iterator[None]:
    """Say what a full disk means; what was being written stays in ``work``, where nothing takes it for whole."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DataError(
            f"{error.filename or work} cannot be written: {error.strerror}",
            f"make room on the disk of {work.parent} and give the same command again: finished shards are kept",
        ) from error


def _check_existing(out: Path, wanted: dict[str, Any]) -> None:
    try:
        FrameStore.check_root(out)
    except DataError as error:
        # Only what is a store is called expendable: --out may point to the raw data by mistake.
        spoilt = (out / MANIFEST).exists()
        raise DataError(str(error), f"choose another --out{f', or delete {out}' if spoilt else ''}") from error
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
        flat |= {f"{key}.{inner}": item for inner, item in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _finished(work: Path, shard: str, source: str) -> bool:
    """Whether an earlier attempt finished this shard from the same raw files: its table is written last."""
    path = work / "parts" / f"{shard}.parquet"
    return path.exists() and pq.read_schema(path).metadata[b"source"].decode() == source


def _join(raw: RawDataset, work: Path, names: list[str]) -> dict[str, Any]:
    """Write the store's index, landmarks and matrices from the parts; returns counts and checksums for the manifest."""
    store, parts = work / "store", work / "parts"
    tables = {name: pq.read_table(parts / f"{name}.parquet") for name in names}
    tables = {name: table for name, table in tables.items() if len(table)}
    if not tables:
        raise DataError(f"{raw.name}: the labels have no rows", f"complete the label files of {raw.root}")
    ordered = dict(sorted(tables.items(), key=lambda item: _key(item[1], 0)))
    for (before, first), (after, second) in pairwise(ordered.items()):
        if _key(first, -1) >= _key(second, 0):
            raise DataError(
                f"{' '.join(map(str, _key(second, 0)))}: the rows of {before} and {after} overlap",
                "(subject, sequence, frame) must be unique: remove the duplicate from the raw data",
            )
    shards = {
        f"{name}.bin": {
            "bytes": (store / SHARDS / f"{name}.bin").stat().st_size,
            "sha256": table.schema.metadata[b"sha256"].decode(),
            "rows": len(table),
        }
        for name, table in ordered.items()
    }
    for path in (store / SHARDS).iterdir():
        if path.name not in shards:
            path.unlink()  # without rows, or of a clip that an earlier attempt still found in the raw data
    index = pa.concat_tables(table.replace_schema_metadata(None) for table in ordered.values()).unify_dictionaries()
    pq.write_table(index, store / INDEX)
    _concatenate([parts / f"{name}.points" for name in ordered], store / LANDMARKS_FILE, "<f4", (LANDMARKS, 2))
    _concatenate([parts / f"{name}.matrices" for name in ordered], store / MATRICES, "<f8", (2, 3))
    flags = index["flags"].to_numpy()
    expected = _expected(raw)
    return {
        "rows": len(index),
        "counts": {
            "subjects": len(index["subject"].chunk(0).dictionary),
            **{
                name: sum(int(table.schema.metadata[name.encode()]) for table in ordered.values())
                for name in ("pictures", "faces")
            },
            "flags": {flag.name: int(np.count_nonzero(flags & flag)) for flag in Flag},
            "labels": _label_counts(index, raw.label_columns),
        },
        "shards": shards,
        "tables": {name: _checksum(store / name) for name in (INDEX, LANDMARKS_FILE, MATRICES)},
        **({} if expected is None else {"expected": expected}),
    }


def _key(table: pa.Table, row: int) -> tuple[str, str, int]:
    subject, sequence, frame = (table[name][row % len(table)].as_py() for name in ("subject", "sequence", "frame"))
    return subject, sequence, frame


def _concatenate(parts: list[Path], out: Path, kind: str, shape: tuple[int, ...]) -> None:
    """One array file of the raw bytes of several."""
    rows = sum(part.stat().st_size for part in parts) // (np.dtype(kind).itemsize * int(np.prod(shape)))
    with out.open("wb") as file:
        header = {"descr": kind, "fortran_order": False, "shape": (rows, *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            with part.open("rb") as content:
                shutil.copyfileobj(content, file, 1 << 20)


def _label_counts(table: pa.Table, columns: Sequence[str]) -> dict[str, list[int]]:
    """Rows with -1, 0, 1, ... by column."""
    return {c: np.bincount(table[c].to_numpy().astype(np.int64) + 1, minlength=7).tolist() for c in columns}


def _expected(raw: RawDataset) -> dict[str, Any] | None:
    """Rows and labels that a twin's truth demands of the store; None of other data.

    A raw dataset with options that leave sequences out says which it takes: ``selects(sequence: str) -> bool``.
    """
    if raw.edition != "twin" or not (raw.root / TRUTH).exists():
        return None
    truth = pq.read_table(raw.root / TRUTH, columns=["subject", "sequence", *raw.label_columns])
    if selects := getattr(raw, "selects", None):
        truth = truth.filter(pa.array(map(selects, truth["sequence"].to_pylist()), pa.bool_()))
    rows = truth["subject"].value_counts().to_pylist()
    return {
        "rows": {row["values"]: row["counts"] for row in sorted(rows, key=lambda row: row["values"])},
        "labels": _label_counts(truth, raw.label_columns),
    }


def _checksum(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _summary(out: Path, times: Sequence[Clock], started: float) -> Summary:
    manifest = FrameStore(out).manifest
    counts = manifest["counts"]
    frames = {stage: sum(clock.frames[stage] for clock in times) for stage in STAGES}
    seconds = {stage: sum(clock.seconds[stage] for clock in times) for stage in STAGES}
    return Summary(
        root=out,
        rows=manifest["rows"],
        subjects=counts["subjects"],
        side=manifest["preset"]["size"],
        bytes=sum(shard["bytes"] for shard in manifest["shards"].values()),
        flags=counts["flags"],
        detection_rate=counts["faces"] / counts["pictures"] if counts["pictures"] else float("nan"),
        seconds=time.perf_counter() - started,
        stages={stage: frames[stage] / seconds[stage] for stage in STAGES if frames[stage]},
    )
