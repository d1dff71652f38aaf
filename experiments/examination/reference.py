"""Whether a store holds what it should: known totals, a twin's truth, folds, pictures that come twice, bad frames."""

import hashlib
from collections import Counter
from collections.abc import Iterator

import numpy as np

from datamodules.errors import DataError
from datamodules.known import within
from datamodules.splits import load_folds
from experiments.examination.findings import FOLDS, Case, Finding, fault, listing, note, plural, seen

_EDITION = "compare the raw folder with the archive; without --edition published these totals are not asked for"
_TWIN = "the parser of the raw layout or prepare has a defect, or the twin was edited: synthesize it again"
_LISTED = 10  # pairs of identical pictures that are named


def totals(case: Case) -> Iterator[Finding]:
    """Rows and labels are as many as the published archive, or the twin's truth, has."""
    if case.edition == "twin":
        yield from _truth(case)
    elif case.edition == "published":
        yield from _published(case)
    else:
        yield seen("edition custom: nothing says how many rows and labels there should be")


def _truth(case: Case) -> Iterator[Finding]:
    expected = case.store.manifest.get("expected")
    if expected is None:
        yield seen("the twin has no truth")
        return
    for subject in sorted({*expected["rows"], *case.rows_of}):
        found, true = case.rows_of.get(subject, 0), expected["rows"].get(subject, 0)
        if found != true:
            yield fault(f"{subject} has {plural(found, 'row')}, the twin's truth {true}", _TWIN)
    for column, counts in expected["labels"].items():
        values = np.bincount(case.store.label(column).astype(int) + 1, minlength=7).tolist()
        if values != counts:
            yield fault(f"{column} has counts {values} of -1, 0, 1, ..., the twin's truth {counts}", _TWIN)
    yield seen(f"rows of {plural(len(expected['rows']), 'subject')}, {plural(len(expected['labels']), 'column')}")


def _published(case: Case) -> Iterator[Finding]:
    known, store = case.known, case.store
    if not known.sources:
        yield seen(f"nothing is known about the published {case.dataset}")
        return
    if missing := sorted({*known.subjects, *known.rows} - set(case.rows_of)):
        yield fault(f"{plural(len(missing), 'subject')} of the archive missing: {listing(missing)}", _EDITION)
    if known.subjects and (strangers := sorted(set(case.rows_of) - set(known.subjects))):
        yield fault(f"no subjects of the archive: {listing(strangers)}", _EDITION)
    if known.persons and not known.subjects and len(case.rows_of) != known.persons:
        yield fault(f"{plural(len(case.rows_of), 'subject')}, the archive has {known.persons}", _EDITION)
    for subject, expected in known.rows.items():
        if case.rows_of.get(subject, expected) != expected:
            yield fault(f"{subject} has {case.rows_of[subject]} frames, the published archive {expected}", _EDITION)
    for name, expected in known.sequence_rows.items():
        if (found := int((case.sequence == name).sum())) != expected:
            yield fault(f"all {name} have {found} frames, the published archive {expected}", _EDITION)
    if known.sequences and len(case.clips) != known.sequences:
        yield fault(f"{plural(len(case.clips), 'sequence')}, the published archive has {known.sequences}", _EDITION)
    for column, expected in known.positives.items():
        yield from _positives(case, column, expected, np.ones(len(store), bool), "")
    for part, facts in known.parts.items():
        members = [subject for subject, number in case.parts.items() if number == part]
        rows = np.isin(case.subject, members)
        if rows.sum() != facts.rows:
            yield fault(f"part {part} has {rows.sum()} frames, the published lists {facts.rows}", _EDITION)
        for column, expected in facts.positives.items():
            yield from _positives(case, column, expected, rows, f" of part {part}")
    for side, expected in known.images.items():
        if (found := int((case.side == side).sum())) != expected:
            yield note(f"{side} has {found:,} pictures; public counts say {expected:,}: {known.sources['images']}")
    counted = [key for key in ("persons", "rows", "sequences", "positives", "images") if key in known.sources]
    yield seen(f"{', '.join(counted)} of the published archive")


def _positives(case: Case, column: str, expected: int, rows: np.ndarray, where: str) -> Iterator[Finding]:
    known = case.known
    if column not in case.store.columns:
        yield fault(f"{column} is missing; the published archive has it", _EDITION)
        return
    found = int((case.store.label(column)[rows] >= known.least).sum())
    if abs(found - expected) > known.tolerance:
        level = f" at {known.least} or more" if known.least > 1 else ""
        yield fault(f"{column}: {found} frames{where}{level}, the published archive {expected}", _EDITION)


def folds(case: Case) -> Iterator[Finding]:
    """Nobody is on two sides; the committed lists are complete and those that were published."""
    store = case.store
    for name in FOLDS.get(case.dataset, ()):
        yield from _lists(case, name)
    if any(store.splits):
        yield from _splits(case)
    if case.dataset in FOLDS:
        yield seen(f"lists {', '.join(FOLDS[case.dataset])}")
    elif any(store.splits):
        yield seen(f"official parts {', '.join(filter(None, store.splits))}")
    else:
        yield seen(f"no lists of {case.dataset} are committed")


def _lists(case: Case, name: str) -> Iterator[Finding]:
    remedy = f"restore datamodules/folds/{name}.yaml from the repository"
    parts = load_folds(name)
    times = Counter(subject for subjects in parts.values() for subject in subjects)
    if repeated := sorted(subject for subject, count in times.items() if count > 1):
        yield fault(f"folds {name}: {listing(repeated)} come more than once", remedy)
    if missing := sorted(set(case.known.subjects) - set(times)):
        yield fault(f"folds {name}: {listing(missing)} are in no part", remedy)
    if name == case.dataset:
        for number, facts in case.known.parts.items():
            if _digest(parts.get(number, [])) != facts.digest:
                yield fault(f"folds {name}: part {number} is not the published list", remedy)
            rows = sum(case.known.rows.get(subject, 0) for subject in parts.get(number, []))
            if rows != facts.rows:
                yield fault(f"folds {name}: part {number} has {rows} rows, the published list {facts.rows}", remedy)
    if unlisted := sorted(set(case.rows_of) - set(times)):
        yield fault(
            f"{listing(unlisted)} of the store are in no part of folds {name}",
            "leave them out of the raw data, or give the archive's own names",
        )


def _splits(case: Case) -> Iterator[Finding]:
    pairs = np.unique(np.stack([case.store.subject_code, case.store.split_code]), axis=1)
    codes, counts = np.unique(pairs[0], return_counts=True)
    if (both := codes[counts > 1]).size:
        yield fault(
            f"{listing(case.store.subjects[both].tolist())}: in more than one official part",
            "restore the raw dataset's folders of parts from the archive",
        )


def duplicates(case: Case) -> Iterator[Finding]:
    """No picture is on two sides of a split or fold."""
    store = case.store
    rows = np.flatnonzero(store.length > 0)
    rows = rows[np.argsort(store.source_digest[rows], kind="stable")]
    starts = np.unique(store.source_digest[rows], return_index=True)[1]
    across: list[tuple[int, int]] = []
    inside: list[tuple[int, int]] = []
    for group in np.split(rows, starts[1:]):
        people = np.unique(store.subject_code[group], return_index=True)[1]
        if len(people) < 2 or _plain(case, int(group[0])):
            continue
        one, *others = sorted(group[people].tolist())
        for other in others:
            (across if case.side[one] != case.side[other] else inside).append((one, other))
    yield from _across(case, sorted(across))
    if inside := sorted(inside):
        yield note(
            f"{plural(len(inside), 'picture')} of two subjects, on the same side: {_pairs(case, inside)}", inside[0]
        )
    yield seen(f"{plural(len(rows), 'picture')} by digest")


def _across(case: Case, pairs: list[tuple[int, int]]) -> Iterator[Finding]:
    """A fault, unless the archive is known for it."""
    by_sides: dict[str, list[tuple[int, int]]] = {}
    for pair in pairs:
        by_sides.setdefault("/".join(sorted(str(case.side[row]) for row in pair)), []).append(pair)
    for sides, found in by_sides.items():
        what = f"{plural(len(found), 'picture')} on both sides of {sides}: {_pairs(case, found)}"
        shown = [row for pair in found[:6] for row in pair]
        if len(found) <= (known := case.known.duplicates.get(sides, 0)):
            yield note(f"{what} (the archive is known for {known}: {case.known.sources['duplicates']})", shown)
        else:
            yield fault(
                what,
                "remove one of each pair from the raw data: a test picture that was trained on proves nothing",
                shown,
            )


def _pairs(case: Case, pairs: list[tuple[int, int]]) -> str:
    named = [f"{case.name(a)} = {case.name(b)}" for a, b in pairs[:_LISTED]]
    return "; ".join(named) + (f"; and {len(pairs) - _LISTED} more" if len(pairs) > _LISTED else "")


def _plain(case: Case, row: int) -> bool:
    """Whether a picture shows nothing: a black or white frame is nobody's."""
    try:
        return float(case.store.read(row).std()) < 1
    except (DataError, OSError):
        return False  # the check of pictures tells


def bad_frames(case: Case) -> Iterator[Finding]:
    """Frames that others found unusable are told."""
    known = case.known.bad_frames
    if case.edition == "twin":
        yield seen("a twin has none")
        return
    for bad in known:
        rows = case.subject == bad.subject
        if bad.sequence is not None:
            rows &= case.sequence == bad.sequence
        if bad.frames:
            rows &= within(case.store.frame, bad.frames)
        if rows.any():
            where = f"{bad.subject} {bad.sequence or ''}".strip()
            runs = ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in bad.frames) or "all"
            yield note(
                f"{where}: {plural(int(rows.sum()), 'frame')} ({runs}): {bad.what}; source: {bad.source}",
                np.flatnonzero(rows)[:12].tolist(),
            )
    yield seen(f"{plural(len(known), 'entry').replace('entrys', 'entries')} known" if known else "none known")


def _digest(subjects: list[str]) -> str:
    return hashlib.sha256(" ".join(sorted(subjects)).encode()).hexdigest()[:16]
