"""Check a frame store: files, keys, labels, landmarks, pictures. Exit code 1 when something is wrong.

python experiments/doctor.py data/disfa
"""

import argparse
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from datamodules.errors import DataError
from datamodules.facs import EXPRESSIONS
from datamodules.raw.disfa import PUBLISHED_POSITIVES, PUBLISHED_ROWS
from datamodules.store import INDEX, LANDMARKS, SHARDS, Flag, FrameStore
from experiments.terminal import exit_with

SAMPLE = 2000  # pictures decoded unless --full: half a second

_AGAIN = "copy the store again from where it was made, or delete it and prepare it again"


class Fault(NamedTuple):
    """Something wrong with a store, and what to do about it."""

    what: str
    remedy: str


def main() -> int:
    """Parse the command line, run the checks, print the faults."""
    parser = argparse.ArgumentParser(
        prog="doctor.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path, help="folder that prepare.py made")
    parser.add_argument("--full", action="store_true", help=f"decode every picture, not {SAMPLE} of them")
    arguments = parser.parse_args()
    FrameStore.check_root(arguments.store)
    store = FrameStore(arguments.store)
    faults = inspect(store, full=arguments.full)
    for fault in faults:
        print(f"fault: {fault.what}\nremedy: {fault.remedy}")
    manifest = store.manifest
    print(
        f"{store.root}: {manifest['dataset']} ({manifest['edition']}), {len(store)} frames of "
        f"{len(manifest['counts']['subjects'])} subjects: " + (f"{len(faults)} faults" if faults else "no faults")
    )
    return 1 if faults else 0


def inspect(store: FrameStore, full: bool = False, progress: bool = True) -> list[Fault]:
    """All faults of a store.

    Args:
        store: The store; its manifest is taken at its word, the rest is held to it.
        full: Decode every picture instead of `SAMPLE` spread over the store.
        progress: Whether to show progress bars.
    """
    faults = list(_tables(store))
    if faults:
        return faults  # without index and landmarks nothing else can be looked at
    for check in (_keys, _labels, _published, _landmarks):
        faults += check(store)
    return [*faults, *_shards(store, progress), *_pictures(store, full, progress)]


def _tables(store: FrameStore) -> Iterator[Fault]:
    """Index and landmarks are the files that prepare wrote, and agree with the manifest."""
    for name, expected in store.manifest["tables"].items():
        faults = list(_file(store.root / name, expected))
        yield from faults
        if name == INDEX and not faults and len(store.frame) != len(store):
            yield Fault(f"{INDEX} has {len(store.frame)} rows, the manifest {len(store)}", _AGAIN)


def _keys(store: FrameStore) -> Iterator[Fault]:
    """Rows are sorted, unique, complete, and counted per subject as the manifest says."""
    order = np.lexsort((store.frame, store.sequence_code, store.subject_code))
    if not np.array_equal(order, np.arange(len(order))):
        yield Fault(f"{INDEX} is not sorted by subject, sequence, frame", _AGAIN)
    counts = np.bincount(store.subject_code, minlength=len(store.subjects))
    found = dict(zip(store.subjects.tolist(), counts.tolist(), strict=True))
    for subject, expected in store.manifest["counts"]["subjects"].items():
        if found.get(subject, 0) != expected:
            yield Fault(f"{subject} has {found.get(subject, 0)} rows, the manifest says {expected}", _AGAIN)
    same = (np.diff(store.subject_code) == 0) & (np.diff(store.sequence_code) == 0)
    steps = np.diff(store.frame)
    if (same & (steps == 0)).any():
        yield Fault(f"{store.key(int(np.argmax(same & (steps == 0))))} comes twice", _AGAIN)
    first = ~np.concatenate([[False], same])
    if store.manifest["dataset"] == "disfa":  # labels and frames run from 0 without gaps
        wrong = np.concatenate([[False], same & (steps != 1)]) | (first & (store.frame != 0))
        if wrong.any():
            key = store.key(int(np.argmax(wrong)))
            yield Fault(
                f"{key[1]} {key[2]}: frames before {key[3]} are missing", "prepare the store again from the archive"
            )


def _labels(store: FrameStore) -> Iterator[Fault]:
    """Labels lie in their range and are counted as the manifest says."""
    unlabelled = np.ones(len(store), bool)
    for column in store.columns:
        values = store.label(column).astype(np.int64)
        unlabelled &= values == -1
        highest = 5 if column.endswith("_intensity") else len(EXPRESSIONS) if column == "expression" else 1
        if values.min() < -1 or values.max() > highest:
            row = int(np.argmax((values < -1) | (values > highest)))
            yield Fault(
                f"{store.key(row)}: {column} is {values[row]}, not -1..{highest}", "mend the labels, prepare again"
            )
        elif np.bincount(values + 1, minlength=7).tolist() != store.manifest["counts"]["labels"][column]:
            yield Fault(f"{column}: other counts than the manifest's", _AGAIN)
    if not np.array_equal(unlabelled, (store.flags & Flag.NO_LABELS) != 0):
        yield Fault("flag NO_LABELS contradicts the labels", _AGAIN)


def _published(store: FrameStore) -> Iterator[Fault]:
    """The published DISFA has known totals."""
    if store.manifest["dataset"] != "disfa" or store.manifest["edition"] != "published":
        return
    remedy = "compare the raw folder with the archive; without --edition published these totals are not asked for"
    counts = store.manifest["counts"]
    for subject, expected in PUBLISHED_ROWS.items():
        if counts["subjects"].get(subject, 0) != expected:
            yield Fault(
                f"{subject} has {counts['subjects'].get(subject, 0)} frames, published DISFA {expected}", remedy
            )
    for au, expected in PUBLISHED_POSITIVES.items():
        found = sum(counts["labels"][f"AU{au:02d}_intensity"][3:])
        if found != expected:
            yield Fault(f"AU{au:02d} has {found} frames at intensity >= 2, published DISFA {expected}", remedy)


def _landmarks(store: FrameStore) -> Iterator[Fault]:
    """Landmarks are known where no flag says otherwise, and lie on the crop."""
    landmarks = np.load(store.root / LANDMARKS, mmap_mode="r")
    if landmarks.shape != (len(store), 68, 2):
        yield Fault(f"{LANDMARKS} is {landmarks.shape}, not ({len(store)}, 68, 2)", _AGAIN)
        return
    side = store.manifest["preset"]["size"]
    for start in range(0, len(store), 1 << 14):
        points = np.asarray(landmarks[start : start + (1 << 14)])
        known = np.isfinite(points).all(axis=2)
        flagged = (store.flags[start : start + len(points)] & Flag.NO_LANDMARKS) != 0
        outside = known & ((points < -0.5) | (points > side - 0.5)).any(axis=2)
        for wrong, what in (
            (known.any(axis=1) == flagged, "flag NO_LANDMARKS contradicts the landmarks"),
            (outside.sum(axis=1) > 17, "more landmarks lie outside the crop than a jaw line has"),  # a turned head's do
            (np.isinf(points).any(axis=(1, 2)), "infinite landmarks"),
        ):
            if wrong.any():
                rows = np.flatnonzero(wrong) + start
                yield Fault(
                    f"{store.key(int(rows[0]))} and {len(rows) - 1} more: {what}", "mend the landmarks, prepare again"
                )


def _shards(store: FrameStore, progress: bool) -> Iterator[Fault]:
    """Shards are the files that prepare wrote, and every byte of them belongs to one row."""
    expected = store.manifest["shards"]
    folder = store.root / SHARDS
    if strangers := sorted({path.name for path in folder.iterdir()} - set(expected)):
        yield Fault(f"{folder / strangers[0]} belongs to no subject", f"remove {', '.join(strangers)} from {folder}")
    total = sum(values["bytes"] for values in expected.values())
    with tqdm(total=total, unit="B", unit_scale=True, desc="shards", disable=not progress) as bar:
        for name, values in expected.items():
            yield from _file(folder / name, values, bar.update)
    for code, name in enumerate(store.shards):
        rows = store.shard_code == code
        ends = np.cumsum(store.length[rows], dtype=np.int64)
        starts = ends - store.length[rows]
        if not np.array_equal(store.offset[rows], starts) or ends[-1] != expected.get(name, {}).get("bytes"):
            yield Fault(f"{INDEX} and {folder / name} disagree about where the pictures are", _AGAIN)
    if not np.array_equal(store.length == 0, (store.flags & Flag.NO_IMAGE) != 0):
        yield Fault("flag NO_IMAGE contradicts the shards", _AGAIN)


def _pictures(store: FrameStore, full: bool, progress: bool) -> Iterator[Fault]:
    """Pictures can be decoded and have the size that the manifest says."""
    side = store.manifest["preset"]["size"]
    rows = np.arange(len(store)) if full else np.unique(np.linspace(0, len(store) - 1, SAMPLE).astype(int))
    wrong = []
    for row in tqdm(rows.tolist(), unit="picture", desc="pictures", disable=not progress):
        try:
            image = store.read(row)
        except (DataError, OSError) as error:
            wrong.append(f"{store.key(row)}: {error}")
        else:
            if image.shape != (side, side, 3):
                wrong.append(f"{store.key(row)}: picture of {image.shape}, not {side} x {side}")
    if wrong:
        yield Fault(f"{len(wrong)} of {len(rows)} pictures looked at are bad, first {wrong[0]}", _AGAIN)


def _file(path: Path, expected: dict[str, Any], tick: Callable[[int], object] = lambda _: None) -> Iterator[Fault]:
    """Size and checksum of one file."""
    if not path.exists():
        yield Fault(f"{path} is missing", _AGAIN)
        return
    size = path.stat().st_size
    if size != expected["bytes"]:
        yield Fault(f"{path} has {size} bytes, the manifest says {expected['bytes']}", _AGAIN)
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            tick(len(block))
    if digest.hexdigest() != expected["sha256"]:
        yield Fault(f"{path}: its content has changed since it was prepared (sha256)", _AGAIN)


if __name__ == "__main__":
    exit_with(main)
