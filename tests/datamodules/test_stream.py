"""Frames in a stream against a store of the same frames: another way to the same samples."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from datamodules.align import PRESETS, Template
from datamodules.faces.sources import DatasetFaces
from datamodules.frames import FrameDataset
from datamodules.prepare import prepare
from datamodules.raw.records import FrameRecord
from datamodules.store import FrameStore
from datamodules.stream import Seen, samples, seen
from datamodules.transforms import Whole, create_transform

SIDE, WITHOUT = 48, (3, 4)  # frames of the first video in which no face is known
_GEOMETRY = PRESETS["renet"].geometry
assert isinstance(_GEOMETRY, Template)


@dataclass
class Videos:
    """Two videos of noise, seven frames and two, with landmarks that wander."""

    name: str = "toy"
    edition: str = "custom"
    release: str = ""
    licence: str = "none"
    label_columns: tuple[str, ...] = ("AU06",)
    expressions: tuple[str, ...] = ()
    delivers: Literal["landmarks", "box", "crop", ""] = "landmarks"
    root: Path = Path("nowhere")

    def check(self) -> None:
        pass

    def clips(self) -> list[str]:
        return ["a", "b"]

    def shard(self, clip: str) -> str:
        return clip

    fingerprint = shard

    def count(self, clip: str) -> int:
        return {"a": 7, "b": 2}[clip]

    def frames(self, clip: str) -> Iterator[FrameRecord]:
        for frame in range(self.count(clip)):
            rng = np.random.default_rng((frame, len(clip), ord(clip)))
            points = rng.uniform(20, 60, (68, 2)).astype(np.float32)
            for group, at in zip(_GEOMETRY.landmarks, np.array(_GEOMETRY.at), strict=True):
                points[list(group)] = 0.3 * at + 10 + rng.normal(size=2)
            known = None if clip == "a" and frame in WITHOUT else points
            image = rng.integers(0, 255, (90, 80, 3), dtype=np.uint8)
            yield FrameRecord(clip, "v", frame, frame / 20, image, known, {"AU06": 1})


@pytest.mark.parametrize("reach", [0, 2])
@pytest.mark.parametrize("preset", ["renet", "aunet"])
def test_samples_are_those_of_a_store(tmp_path: Path, preset: str, reach: int) -> None:
    raw = Videos()
    store = FrameStore(prepare(raw, tmp_path / "store", preset=preset, size=SIDE, failures="drop", progress=False).root)
    transform = create_transform("aunet" if preset == "aunet" else "renet", 32, train=False)
    expected = FrameDataset(store, "toy", {}, transform, 0, reach)

    records = (record for clip in raw.clips() for record in raw.frames(clip))
    found = list(samples(seen(records, DatasetFaces("landmarks"), PRESETS[preset], SIDE), transform, reach))

    assert [(frame.record.subject, frame.record.frame) for frame, _ in found] == [
        store.key(row)[1::2] for row in range(len(store))
    ]
    assert [row for row, (_, picture) in enumerate(found) if picture is None] == list(WITHOUT)
    for row, (frame, picture) in enumerate(found):
        assert frame.record.image is None  # whole pictures are not kept
        if picture is not None and frame.face is not None:
            assert torch.equal(picture, expected[row]["clip" if reach else "image"])
            np.testing.assert_array_equal(frame.face.box, store.box[row])


def test_no_more_is_read_than_neighbours_need() -> None:
    read = 0

    def endless() -> Iterator[FrameRecord]:
        nonlocal read
        record = next(iter(Videos().frames("b")))
        while True:
            yield FrameRecord("", "endless", read, 0.0, record.image, record.landmarks)
            read += 1

    frames: Iterator[Seen] = seen(endless(), DatasetFaces("landmarks"), PRESETS["renet"], SIDE)
    stream = samples(frames, Whole(16), reach=5)
    for number in range(30):
        frame, _ = next(stream)
        assert (frame.record.frame, read) == (number, number + 5)
