import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from datamodules.frames import FrameDataset
from datamodules.store import Flag, FrameStore
from datamodules.transforms import CropFlip, Frame, SourceCrop, create_transform


@pytest.fixture
def store(tiny_disfa: Path) -> FrameStore:
    """Seven subjects of six frames; SN003 has no picture of frame 0."""
    return FrameStore(tiny_disfa)


def labels(store: FrameStore) -> dict[str, np.ndarray]:
    """Labels that say their row, in the types that stores have and DataModules make."""
    rows = np.arange(len(store))
    return {
        "au": np.stack([rows, rows + 1, np.full_like(rows, -1)], axis=1),
        "intensity": np.stack([rows % 6, -np.ones_like(rows)], axis=1).astype(np.int8),
        "expression": (rows % 7).astype(np.int8),
    }


def centre(store: FrameStore, row: int) -> np.ndarray:
    """(3, 56, 56) middle of the stored 64 px."""
    return store.read(row)[4:60, 4:60].transpose(2, 0, 1)


def test_a_sample(store: FrameStore) -> None:
    data = FrameDataset(store, "disfa", labels(store), CropFlip(56, train=False), seed=0)
    assert len(data) == len(store) == 42
    sample = data[8]
    np.testing.assert_array_equal(sample["image"], centre(store, 8))
    np.testing.assert_array_equal(sample["landmarks"], store.landmarks(8) - 4)
    assert sample["au"].tolist() == [8, 9, -1]
    assert sample["intensity"].tolist() == [2, -1]
    assert sample["expression"].tolist() == 1
    subject = str(store.subjects[store.subject_code[8]])
    provenance = {key: sample[key] for key in ("index", "dataset", "subject", "sequence", "frame")}
    assert provenance == {"index": 8, "dataset": "disfa", "subject": subject, "sequence": "left", "frame": 2}
    types = {key: value.dtype for key, value in sample.items() if torch.is_tensor(value)}
    integers = dict.fromkeys(("au", "intensity", "expression"), torch.int64)
    assert types == {"image": torch.uint8, "landmarks": torch.float32, **integers}


def row_of(store: FrameStore, subject: str, frame: int) -> int:
    (rows,) = np.nonzero((store.subjects[store.subject_code] == subject) & (store.frame == frame))
    return int(rows[0])


def test_a_clip_shows_the_frames_around_it(store: FrameStore) -> None:
    data = FrameDataset(store, "disfa", {}, CropFlip(56, train=False), seed=0, neighbours=2)
    row = row_of(store, "SN010", 3)
    sample = data[row]
    assert "image" not in sample
    assert sample["clip"].shape == (3, 3, 56, 56)
    for picture, number in zip(sample["clip"], (1, 3, 5), strict=True):
        np.testing.assert_array_equal(picture, centre(store, row_of(store, "SN010", number)))
    np.testing.assert_array_equal(sample["landmarks"], store.landmarks(row) - 4)
    assert sample["frame"] == 3


@pytest.mark.parametrize(
    ("subject", "frame", "shown"),
    [
        ("SN010", 0, (0, 0, 2)),  # nothing before the first frame, nor is the end of the subject before it
        ("SN010", 4, (2, 4, 4)),
        ("SN003", 2, (2, 2, 4)),  # frame 0 is there, but has no picture
    ],
)
def test_a_missing_neighbour_repeats_the_frame(
    store: FrameStore, subject: str, frame: int, shown: tuple[int, ...]
) -> None:
    assert store.flags[row_of(store, "SN003", 0)] & Flag.NO_IMAGE
    data = FrameDataset(store, "disfa", {}, CropFlip(56, train=False), seed=0, neighbours=2)
    clip = data[row_of(store, subject, frame)]["clip"]
    for picture, number in zip(clip, shown, strict=True):
        np.testing.assert_array_equal(picture, centre(store, row_of(store, subject, number)))


def test_transforms_get_what_the_store_has(store: FrameStore) -> None:
    seen: list[Any] = []

    def transform(frames: list[Frame], draw: tuple[int, ...]) -> tuple[list[np.ndarray], np.ndarray]:
        seen.append((frames, draw))
        return [frame.image for frame in frames], frames[1].landmarks

    data = FrameDataset(store, "disfa", {}, transform, seed=5, neighbours=1)
    row = row_of(store, "SN003", 1)
    data[3, row]
    ((before, now, after), draw) = seen[0]
    assert draw == (5, 3, row)
    assert before is now  # without a picture of its own
    for frame, index in ((now, row), (after, row + 1)):
        np.testing.assert_array_equal(frame.image, store.read(index))
        np.testing.assert_array_equal(frame.landmarks, store.landmarks(index))
        np.testing.assert_array_equal(frame.box, store.box[index])
        np.testing.assert_array_equal(frame.matrix, store.matrix(index))


@pytest.mark.parametrize("augment", ["renet", "aunet"])
def test_workers_change_nothing(store: FrameStore, augment: Any) -> None:
    """Samples are the same to the bit in one process, in two workers, in another order and after a pickle."""
    data = FrameDataset(store, "disfa", labels(store), create_transform(augment, 48, train=True), seed=3, neighbours=1)
    rows = np.flatnonzero((store.flags & Flag.NO_IMAGE) == 0)[:12].tolist()
    keys = [(epoch, row) for epoch in (0, 1) for row in rows]
    alone = {key: data[key] for key in keys}
    loader = DataLoader(data, batch_size=5, sampler=keys, num_workers=2)
    batches = list(loader)
    for name in ("clip", "landmarks", "au", "expression", "index", "frame"):
        joined = torch.cat([batch[name] for batch in batches])
        for value, key in zip(joined, keys, strict=True):
            np.testing.assert_array_equal(value, alone[key][name], err_msg=f"{name} of {key}")
    copy = pickle.loads(pickle.dumps(data))
    assert all(torch.equal(copy[key]["clip"], alone[key]["clip"]) for key in reversed(keys))
    assert sum(torch.equal(alone[0, row]["clip"], alone[1, row]["clip"]) for row in rows) < 3


def test_a_source_crop_reads_the_box(store: FrameStore) -> None:
    """The picture around the face box, scaled as the release scales it: 200 px of a box whose sides sum to 260."""
    data = FrameDataset(store, "disfa", {}, SourceCrop(40, train=False), seed=0)
    row = row_of(store, "SN010", 3)
    x1, y1, x2, y2 = store.box[row]
    span = 200 * (x2 - x1 + y2 - y1) / 260
    known = np.isfinite(store.landmarks(row)).all(axis=1)
    stored, matrix = store.landmarks(row)[known], store.matrix(row)
    in_source = np.linalg.solve(matrix[:, :2], stored.T - matrix[:, 2:]).T
    expected = (in_source - ((x1 + x2) / 2, (y1 + y2) / 2)) * 256 / span + 128
    np.testing.assert_allclose(data[row]["landmarks"][known], (expected + 0.5) * 40 / 256 - 0.5, atol=1e-3)
