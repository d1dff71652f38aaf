"""Stores of hand-made frames, and rendered subjects without their pictures."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.facs import DISFA_12, au_name
from datamodules.prepare import prepare
from datamodules.raw.records import FrameRecord
from datamodules.store import FrameStore
from datamodules.synth.behaviour import SYNTH_AUS, Behaviour
from datamodules.synth.face import Face
from datamodules.synth.identity import draw_identity

SIDE = 32
COLUMNS = [f"{au_name(au)}_intensity" for au in DISFA_12]
_CODED = [SYNTH_AUS.index(au) for au in DISFA_12]


class HandMade:
    """A raw dataset of given frames, one clip a subject; its other facts can be replaced."""

    def __init__(self, records: dict[str, list[FrameRecord]], **facts: Any) -> None:
        self.records = records
        self.name, self.edition, self.release, self.licence = "disfa", "custom", "", "made by a test"
        self.label_columns, self.expressions, self.delivers, self.root = COLUMNS, (), "landmarks", Path("nowhere")
        self.shard: Callable[[str], str] = lambda clip: clip
        self.__dict__ |= facts

    def check(self) -> None:
        pass

    def clips(self) -> list[str]:
        return sorted(self.records)

    def fingerprint(self, clip: str) -> str:
        return clip

    def count(self, clip: str) -> int:
        return len(self.records[clip])

    def frames(self, clip: str) -> Iterator[FrameRecord]:
        return iter(self.records[clip])


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., FrameStore]:
    """A maker of stores: (subject to records, how to treat failures, facts of the raw dataset) -> store."""
    numbers = itertools.count()

    def make(records: dict[str, list[FrameRecord]], failures: Any = "nearest", **facts: Any) -> FrameStore:
        raw: Any = HandMade(records, **facts)
        out = tmp_path / f"store{next(numbers)}"
        return FrameStore(prepare(raw, out, size=SIDE, failures=failures, progress=False).root)

    return make


def rendered(subject: int, frames: int, seed: int = 0, fps: float = 20.0) -> tuple[np.ndarray, np.ndarray]:
    """(frames, 68, 2) landmarks of a face that moves about, with half a pixel of noise, and (frames, 12) coded levels.

    Coder noise, blinks and speech are those of the synthetic datasets; the eyes are some 100 pixels apart.
    """
    rng = np.random.default_rng((seed, subject))
    face = Face(draw_identity(seed, subject), seed, subject, 48)
    behaviour = Behaviour(subject, seed, "published")
    points, levels = np.empty((frames, 68, 2)), np.empty((frames, len(_CODED)), int)
    for k in range(frames):
        strength = np.clip((behaviour.activation(k / fps) / 5) ** 0.7, 0, 1.3)
        points[k] = face.landmarks(np.stack([strength, strength]), behaviour.distractors(k / fps))
        levels[k] = behaviour.coded(k / fps)[_CODED]
    time = np.arange(frames)[:, None] / fps
    moved = (points[..., 0] + 1j * points[..., 1]) * (130 + 20 * np.cos(time / 2)) * np.exp(0.2j * np.sin(time))
    moved += 40 * np.sin(time / 3) + 200 + 200j  # leans, comes closer, drifts
    noise = rng.normal(0, 0.5, (frames, 68, 2))
    return (np.stack([moved.real, moved.imag], axis=-1) + noise).astype(np.float32), levels


@pytest.fixture(scope="session")
def subjects() -> list[tuple[np.ndarray, np.ndarray]]:
    """Landmarks and levels of eight subjects, 16 seconds each."""
    return [rendered(number, 320) for number in range(1, 9)]
