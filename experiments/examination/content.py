"""Whether the parts of a store are whole and agree with each other."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from datamodules.errors import DataError
from datamodules.store import INDEX, LANDMARKS, MATRICES, SHARDS, Flag
from experiments.examination.findings import Case, Finding, fault, listing, note, plural, seen

SAMPLE = 2000  # pictures decoded unless all are: half a second

_AGAIN = "copy the store again from where it was made, or delete it and prepare it again"
_JAW = 17  # landmarks of a jaw line: so many of a turned head's lie outside the crop
_CHUNK = 1 << 14  # rows of arrays on disk that are looked at together


def tables(case: Case) -> Iterator[Finding]:
    """Index, landmarks and matrices are the files that prepare wrote, and agree with the manifest."""
    store = case.store
    expected = store.manifest["tables"]
    for name in (INDEX, LANDMARKS, MATRICES):
        faults = list(_file(store.root / name, expected[name])) if name in expected else [_unlisted(name)]
        yield from faults
        if faults:
            continue
        rows = len(store.frame) if name == INDEX else len(np.load(store.root / name, mmap_mode="r"))
        if rows != len(store):
            yield fault(f"{name} has {rows} rows, the manifest {len(store)}", _AGAIN)
    yield seen(plural(len(store), "row"))


def keys(case: Case) -> Iterator[Finding]:
    """Rows are sorted, unique, complete, and as many as the manifest says."""
    store, count = case.store, case.store.manifest["counts"]["subjects"]
    order = np.lexsort((store.frame, store.sequence_code, store.subject_code))
    if not np.array_equal(order, np.arange(len(order))):
        yield fault(f"{INDEX} is not sorted by subject, sequence, frame", _AGAIN)
    if len(store.subjects) != count:
        yield fault(f"{INDEX} has {plural(len(store.subjects), 'subject')}, the manifest says {count}", _AGAIN)
    same = (np.diff(store.subject_code) == 0) & (np.diff(store.sequence_code) == 0)
    steps = np.diff(store.frame)
    if (same & (steps == 0)).any():
        yield fault(f"{store.key(int(np.argmax(same & (steps == 0))))} comes twice", _AGAIN)
    if case.dataset == "disfa":  # labels and frames run from 0 without gaps
        first = ~np.concatenate([[False], same])
        wrong = np.concatenate([[False], same & (steps != 1)]) | (first & (store.frame != 0))
        if wrong.any():
            _, subject, sequence, frame = store.key(int(np.argmax(wrong)))
            yield fault(
                f"{subject} {sequence}: frames before {frame} are missing", "prepare the store again from the archive"
            )
    yield seen(f"{plural(len(store.subjects), 'subject')}, {plural(len(case.clips), 'sequence')}")


def labels(case: Case) -> Iterator[Finding]:
    """Labels lie in their range and are counted as the manifest says."""
    store = case.store
    unlabelled = np.ones(len(store), bool)
    for column in store.columns:
        values = store.label(column).astype(np.int64)
        unlabelled &= values == -1
        highest = highest_value(case, column)
        if values.min() < -1 or values.max() > highest:
            row = int(np.argmax((values < -1) | (values > highest)))
            yield fault(
                f"{store.key(row)}: {column} is {values[row]}, not -1..{highest}", "mend the labels, prepare again"
            )
        elif np.bincount(values + 1, minlength=7).tolist() != store.manifest["counts"]["labels"][column]:
            yield fault(f"{column}: other counts than the manifest's", _AGAIN)
    if not np.array_equal(unlabelled, case.has(Flag.NO_LABELS)):
        yield fault("flag NO_LABELS contradicts the labels", _AGAIN)
    unknown = f", {plural(int(unlabelled.sum()), 'row')} without any" if unlabelled.any() else ""
    yield seen(f"{plural(len(store.columns), 'column')}{unknown}")


def highest_value(case: Case, column: str) -> int:
    """Largest value that a label column may have."""
    if column == "expression":
        return len(case.store.manifest["expressions"]) - 1
    return 5 if column.endswith("_intensity") else 1


def geometry(case: Case) -> Iterator[Finding]:
    """Landmarks, crop matrices and boxes are known where no flag says otherwise, and make sense."""
    store, side = case.store, case.store.manifest["preset"]["size"]
    matrices = np.load(store.root / MATRICES, mmap_mode="r")
    for name, array, shape in ((LANDMARKS, case.landmarks, (68, 2)), (MATRICES, matrices, (2, 3))):
        if array.shape != (len(store), *shape):
            yield fault(f"{name} is {array.shape}, not {(len(store), *shape)}", _AGAIN)
            return
    wrong: dict[str, list[int]] = {}
    for start in range(0, len(store), _CHUNK):
        part = slice(start, start + _CHUNK)
        points, crops, box = np.asarray(case.landmarks[part]), np.asarray(matrices[part]), store.box[part]
        known = np.isfinite(points).all(axis=2)
        outside = known & ((points < -0.5) | (points > side - 0.5)).any(axis=2)
        cropped, picture = np.isfinite(crops).all(axis=(1, 2)), store.length[part] > 0
        for what, bad in (
            ("flag NO_LANDMARKS contradicts the landmarks", known.any(axis=1) == case.has(Flag.NO_LANDMARKS)[part]),
            ("more landmarks lie outside the crop than a jaw line has", outside.sum(axis=1) > _JAW),
            ("infinite landmarks", np.isinf(points).any(axis=(1, 2))),
            ("there is a picture, but not where it was cropped", picture & ~cropped),
            ("the crop is mirrored or has no extent", cropped & (np.linalg.det(np.nan_to_num(crops[..., :2])) <= 0)),
            ("the box of the face has no extent", (box[:, 2] <= box[:, 0]) | (box[:, 3] <= box[:, 1])),
        ):
            wrong.setdefault(what, []).extend((np.flatnonzero(bad) + start).tolist())
    for what, found in wrong.items():
        if found:
            more = f" and {len(found) - 1:,} more" if len(found) > 1 else ""
            yield fault(
                f"{store.key(found[0])}{more}: {what}", "mend the landmarks or boxes, prepare again", found[:12]
            )
    boxes = int(np.isfinite(store.box).all(axis=1).sum())
    located = int((~case.has(Flag.NO_LANDMARKS)).sum())
    yield seen(f"{boxes:,} rows with a box, {located:,} with landmarks")


def faces(case: Case) -> Iterator[Finding]:
    """Some face was located of everybody."""
    store = case.store
    lost = case.has(Flag.NO_FACE)
    # Where every picture is a subject of its own, shards are the groups that mean something.
    people = len(store.subjects) <= len(store) / 2
    names, code = (store.subjects, store.subject_code) if people else (store.shards, store.shard_code)
    rows, without = np.bincount(code, minlength=len(names)), np.bincount(code, lost, minlength=len(names))
    share = without / rows
    for group in np.flatnonzero(share == 1):
        shown = np.flatnonzero(code == group)[:12].tolist()
        yield fault(
            f"{_stem(names[group])}: no face was located in any of {plural(int(rows[group]), 'frame')}",
            "look at the raw pictures and landmarks; another detector may find it, or leave the subject out",
            shown,
        )
    often = sorted(np.flatnonzero((share > 0.1) & (share < 1)), key=lambda group: -share[group])
    if often:
        worst = listing([f"{_stem(names[group])} ({share[group]:.0%})" for group in often])
        yield note(
            f"no face was located in more than a tenth of the frames of {worst}", np.flatnonzero(lost)[:12].tolist()
        )
    borrowed = int((lost & ~case.has(Flag.NO_IMAGE)).sum())
    yield seen(
        f"{lost.mean():.1%} of rows without face"
        + (f", {borrowed:,} of them cropped like the nearest" if borrowed else "")
    )


def shards(case: Case) -> Iterator[Finding]:
    """Shards are the files that prepare wrote, and every byte of them belongs to one row."""
    store = case.store
    expected = store.manifest["shards"]
    folder = store.root / SHARDS
    if strangers := sorted({path.name for path in folder.iterdir()} - set(expected)):
        yield fault(f"{folder / strangers[0]} belongs to no row", f"remove {', '.join(strangers)} from {folder}")
    total = sum(values["bytes"] for values in expected.values())
    with tqdm(total=total, unit="B", unit_scale=True, desc="shards", disable=not case.progress) as bar:
        for name, values in expected.items():
            yield from _file(folder / name, values, bar.update)
    for code, name in enumerate(store.shards):
        rows = store.shard_code == code
        ends = np.cumsum(store.length[rows], dtype=np.int64)
        starts = ends - store.length[rows]
        listed = expected.get(name, {})
        if not np.array_equal(store.offset[rows], starts) or ends[-1] != listed.get("bytes"):
            yield fault(f"{INDEX} and {folder / name} disagree about where the pictures are", _AGAIN)
        if rows.sum() != listed.get("rows"):
            yield fault(f"{INDEX} has {rows.sum()} rows of {name}, the manifest says {listed.get('rows')}", _AGAIN)
    if not np.array_equal(store.length == 0, case.has(Flag.NO_IMAGE)):
        yield fault("flag NO_IMAGE contradicts the shards", _AGAIN)
    yield seen(f"{plural(len(expected), 'file')}, {total / 1e6:,.1f} MB")


def pictures(case: Case) -> Iterator[Finding]:
    """Pictures can be decoded, have the size that the manifest says and the digest that the index says."""
    store, side = case.store, case.store.manifest["preset"]["size"]
    rows = np.flatnonzero(store.length > 0)
    if not case.full and len(rows) > SAMPLE:
        rows = rows[np.linspace(0, len(rows) - 1, SAMPLE).astype(int)]
    wrong: dict[str, list[int]] = {"cannot be read": [], "other bytes than the index says": []}
    for i in tqdm(rows.tolist(), desc="pictures", disable=not case.progress):
        try:
            data = store.read_bytes(i)
            readable = store.read(i).shape == (side, side, 3)
        except (DataError, OSError):
            readable = False
        if not readable:
            wrong["cannot be read"].append(i)
        elif short_digest(data) != store.digest[i]:
            wrong["other bytes than the index says"].append(i)
    for what, found in wrong.items():
        if found:
            yield fault(f"{len(found)} of {len(rows)} pictures: {what}, the first is {store.key(found[0])}", _AGAIN)
    yield seen(f"{len(rows):,} of {plural(int((store.length > 0).sum()), 'picture')} decoded")


def short_digest(data: bytes) -> int:
    """What the index's column ``digest`` holds of a picture's bytes."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


def _stem(name: str) -> str:
    return name.removesuffix(".bin")


def _unlisted(name: str) -> Finding:
    return fault(f"{name} is not in the manifest", _AGAIN)


def _file(path: Path, expected: dict[str, Any], tick: Callable[[int], object] = lambda _: None) -> Iterator[Finding]:
    """Size and checksum of a file are those of the manifest."""
    if not path.exists():
        yield fault(f"{path} is missing", _AGAIN)
        return
    size = path.stat().st_size
    if size != expected["bytes"]:
        yield fault(f"{path} has {size} bytes, the manifest says {expected['bytes']}", _AGAIN)
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            tick(len(block))
    if digest.hexdigest() != expected["sha256"]:
        yield fault(f"{path}: its content has changed since it was prepared (sha256)", _AGAIN)
