import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.raw.records import FrameRecord
from datamodules.store import FrameStore
from datamodules.synth.identity import TEMPLATE
from experiments.examination import comparison
from experiments.examination.findings import Case

FACE = (40 * TEMPLATE + 60).astype(np.float32)
UNIT = float(np.linalg.norm(FACE[36] - FACE[45]))


def records(**moved: tuple[slice, float]) -> dict[str, list[FrameRecord]]:
    """Four frames of a face; in some, points are moved down by a share of the outer eye corners' distance."""
    found = []
    for frame in range(4):
        points = FACE.copy()
        if f"frame{frame}" in moved:
            where, share = moved[f"frame{frame}"]
            points[where, 1] += share * UNIT
        landmarks = None if frame == 3 and moved else points
        picture = np.full((128, 128, 3), 40 * frame, np.uint8)
        found.append(FrameRecord("SN001", "left", frame, frame / 20, picture, landmarks, {"AU01_intensity": 0}))
    return {"SN001": found}


def test_distances_of_the_same_points_in_other_crops(make_store: Callable[..., FrameStore]) -> None:
    delivered = make_store(records())
    # The nose is part of what places the crop: frame 1 is cropped elsewhere, distances are in the source all the same.
    detected = make_store(records(frame0=(slice(48, 68), 0.2), frame1=(slice(27, 36), 0.1)))
    assert not np.allclose(delivered.matrix(1), detected.matrix(1))
    rows, shares = comparison.distances(detected, delivered)
    assert rows.tolist() == [0, 1, 2]  # no face in frame 3
    expected = np.zeros((3, 68))
    expected[0, 48:68], expected[1, 27:36] = 0.2, 0.1
    np.testing.assert_allclose(shares, expected, atol=1e-5)


def test_it_is_told_by_group_with_the_worst_frames(make_store: Callable[..., FrameStore]) -> None:
    delivered = make_store(records())
    detected = make_store(records(frame0=(slice(48, 68), 0.2), frame2=(slice(0, 68), 0.3)))
    note, seen = comparison.landmarks(Case(detected, progress=False), delivered)
    assert "mouth 0.167, 0.290;" in note.what  # of 0.2, 0 and 0.3
    assert "brows 0.100, 0.270;" in note.what
    assert note.rows == (2, 0, 1)
    assert seen.what == f"3 frames with landmarks here and in {delivered.root}"


def test_without_common_frames_it_says_so(make_store: Callable[..., FrameStore]) -> None:
    alone = make_store({"SN002": [dataclasses.replace(record, subject="SN002") for record in records()["SN001"]]})
    (seen,) = comparison.landmarks(Case(alone, progress=False), make_store(records()))
    assert seen.what.startswith("no frame has landmarks here and in")


def test_another_dataset_is_refused(make_store: Callable[..., FrameStore]) -> None:
    with pytest.raises(DataError, match="holds disfa_plus, "):
        comparison.check_other(make_store(records()), make_store(records(), name="disfa_plus"))
