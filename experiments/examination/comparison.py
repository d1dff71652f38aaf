"""How far two sources of landmarks put the points of the same frames: stores with delivered and with detected faces."""

from collections.abc import Iterator

import numpy as np

from datamodules.align import warp_points
from datamodules.errors import DataError
from datamodules.store import FrameStore
from experiments.examination.findings import Case, Finding, note, plural, seen

#: Groups of the 68 points: first, and the one after the last.
GROUPS = {"jaw": (0, 17), "brows": (17, 27), "nose": (27, 36), "eyes": (36, 48), "mouth": (48, 68), "all": (0, 68)}
_SHOWN = 12  # frames that differ most, for the page


def check_other(store: FrameStore, other: FrameStore) -> None:
    """Raise `DataError` unless both are of one dataset."""
    names = [one.manifest["dataset"] for one in (store, other)]
    if names[0] != names[1]:
        raise DataError(
            f"--compare {other.root} holds {names[1]}, {store.root} {names[0]}",
            "give two stores of the same raw data, for instance with --faces dataset and --faces detect",
        )


def distances(store: FrameStore, other: FrameStore) -> tuple[np.ndarray, np.ndarray]:
    """Distances of all points in the frames that have landmarks in both stores, whatever their crops.

    Returns:
        (n,) rows of ``store``, and (n, 68) distances in the source picture, as shares of the distance between the outer
        eye corners in ``other``; NaN where a point is unknown.
    """
    rows = {other.key(row): row for row in range(len(other))}
    found, shares = [], []
    for row in range(len(store)):
        if (there := rows.get(store.key(row))) is None:
            continue
        points, reference = _in_source(store, row), _in_source(other, there)
        unit = np.linalg.norm(reference[36] - reference[45])
        share = np.linalg.norm(points - reference, axis=1) / unit
        if np.isfinite(share).any():
            found.append(row)
            shares.append(share)
    return np.array(found, int), np.array(shares).reshape(-1, 68)


def landmarks(case: Case, other: FrameStore) -> Iterator[Finding]:
    """The landmarks of another store of the same frames lie near."""
    rows, shares = distances(case.store, other)
    if not len(rows):
        yield seen(f"no frame has landmarks here and in {other.root}")
        return
    said = []
    for name, (first, last) in GROUPS.items():
        known = np.isfinite(shares[:, first:last])
        means = np.nansum(shares[:, first:last], axis=1)[known.any(axis=1)] / known.sum(axis=1)[known.any(axis=1)]
        if len(means):
            said.append(f"{name} {means.mean():.3f}, {np.percentile(means, 95):.3f}")
    worst = rows[np.argsort(-np.nanmean(shares, axis=1), kind="stable")[:_SHOWN]]
    yield note(
        f"landmarks differ from those of {other.root} by, in distances between the outer eye corners, mean and 95th "
        f"percentile over frames: {'; '.join(said)}",
        worst.tolist(),
    )
    yield seen(f"{plural(len(rows), 'frame')} with landmarks here and in {other.root}")


def _in_source(store: FrameStore, row: int) -> np.ndarray:
    """(68, 2) landmarks of a row in pixels of the source picture, NaN unknown."""
    matrix = store.matrix(row)
    if not np.isfinite(matrix).all():
        return np.full((68, 2), np.nan)
    linear = np.linalg.inv(matrix[:, :2])
    return warp_points(store.landmarks(row), np.column_stack([linear, -linear @ matrix[:, 2]]))
