"""A tiny prepared DISFA: seven subjects of the three parts, labels that a test can work out by hand."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from datamodules.align import PRESETS, Template
from datamodules.facs import DISFA_12, au_name
from datamodules.prepare import prepare
from datamodules.raw.records import FrameRecord

SIDE = 64
FRAMES = 6
_GEOMETRY = PRESETS["renet"].geometry
assert isinstance(_GEOMETRY, Template)
RENET = [group[0] for group in _GEOMETRY.landmarks]  # landmarks that place the crop
AT = np.array(_GEOMETRY.at, np.float32) / _GEOMETRY.side  # and where it puts them, in sides of the crop


class TinyDISFA:
    """Subject i has AU01 at level i in its even frames, AU02 unknown, AU04 at level 1 always, the others at 0."""

    name = "disfa"
    edition = "twin"
    release = ""
    licence = "made by a test"
    expressions: tuple[str, ...] = ()
    delivers: Literal["landmarks", "box", "crop", ""] = "landmarks"
    root = Path("nowhere")
    label_columns = [f"{au_name(au)}_intensity" for au in DISFA_12]  # noqa: RUF012
    subjects = ("SN002", "SN010", "SN013", "SN018", "SN011", "SN003", "SN029")  # parts 1 1 2 2 2 3 3

    def check(self) -> None:
        pass

    def clips(self) -> list[str]:
        return sorted(self.subjects)

    def shard(self, clip: str) -> str:
        return clip

    def fingerprint(self, clip: str) -> str:
        return clip

    def count(self, clip: str) -> int:
        return FRAMES

    def frames(self, clip: str) -> Iterator[FrameRecord]:
        number = self.subjects.index(clip)
        landmarks = np.random.default_rng(number).uniform(10, 50, (68, 2)).astype(np.float32)
        landmarks[RENET] = AT * SIDE - 0.5
        for frame in range(FRAMES):
            labels = dict.fromkeys(self.label_columns, 0)
            labels |= {"AU01_intensity": number % 6 * (frame % 2 == 0), "AU02_intensity": -1, "AU04_intensity": 1}
            image = np.random.default_rng((number, frame)).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
            points = landmarks.copy()
            points[60] = np.nan
            if (clip, frame) == ("SN003", 0):
                yield FrameRecord(clip, "left", frame, frame / 20, None, None, labels)
            else:
                yield FrameRecord(clip, "left", frame, frame / 20, image, points, labels)


@pytest.fixture(scope="session")
def tiny_disfa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of `TinyDISFA`."""
    return prepare(TinyDISFA(), tmp_path_factory.mktemp("stores") / "disfa", size=SIDE, progress=False).root
