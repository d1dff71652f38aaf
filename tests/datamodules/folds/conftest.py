"""Tiny prepared stores of any dataset, whose rows a test writes down itself."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from datamodules.align import PRESETS, Template
from datamodules.prepare import prepare
from datamodules.raw.records import FrameRecord

SIDE = 32


def _record(
    subject: str,
    sequence: str = "T1",
    frame: int = 0,
    labels: dict[str, int] | None = None,
    split: str = "",
    picture: int | None = None,
) -> FrameRecord:
    """A frame whose picture follows from ``picture``, by default from its key."""
    seed = [picture] if picture is not None else [*f"{subject} {sequence}".encode(), frame]
    image = np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    geometry = PRESETS["renet"].geometry
    assert isinstance(geometry, Template)
    landmarks = np.full((68, 2), SIDE / 2, np.float32)
    landmarks[[group[0] for group in geometry.landmarks]] = np.array(geometry.at) / geometry.side * SIDE - 0.5
    return FrameRecord(subject, sequence, frame, np.nan, image, landmarks, labels or {}, split=split)


class Rows:
    """A raw dataset of the given records."""

    edition = "twin"
    licence = "made by a test"
    delivers: Literal["landmarks"] = "landmarks"
    root = Path("nowhere")

    def __init__(
        self, name: str, records: list[FrameRecord], expressions: tuple[str, ...] = (), release: str = ""
    ) -> None:
        self.name, self.release, self.expressions = name, release, expressions
        self.label_columns = sorted({column for record in records for column in record.labels})
        self.records: dict[str, list[FrameRecord]] = defaultdict(list)
        for record in records:
            self.records[record.subject].append(record)

    def check(self) -> None:
        pass

    def clips(self) -> list[str]:
        return sorted(self.records)

    def shard(self, clip: str) -> str:
        return "_".join(clip.split("/")[:2])

    def fingerprint(self, clip: str) -> str:
        return clip

    def count(self, clip: str) -> int:
        return len(self.records[clip])

    def frames(self, clip: str) -> Iterator[FrameRecord]:
        yield from sorted(self.records[clip], key=lambda record: (record.sequence, record.frame))


@pytest.fixture(scope="session")
def record() -> Callable[..., FrameRecord]:
    return _record


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A writer of stores: (dataset, records, expressions=(), release="", preset=None) -> root."""

    def make(name: str, records: list[FrameRecord], preset: str | None = None, **facts: Any) -> Path:
        out = tmp_path_factory.mktemp("stores") / name
        return prepare(Rows(name, records, **facts), out, size=SIDE, preset=preset, progress=False).root

    return make


@pytest.fixture(scope="session")
def opened() -> Callable[..., Any]:
    """A DataModule, checked and set up, with settings that suit tiny stores."""

    def make(module: type, root: Any, fold: int = 1, **settings: Any) -> Any:
        defaults = {"image_size": 28, "batch_size": 1, "num_workers": 0, "val_subjects": 1}
        data = module(root if isinstance(root, dict) else str(root), fold=fold, **(defaults | settings))
        data.check()
        data.prepare_data()
        data.setup()
        return data

    return make


@pytest.fixture(scope="session")
def sides() -> Callable[..., dict[str, set[str]]]:
    """Subjects that the three loaders yield, in fact."""

    def look(data: Any) -> dict[str, set[str]]:
        loaders = {"train": data.train_dataloader(), "val": data.val_dataloader(), "test": data.test_dataloader()}
        return {side: {s for batch in loader for s in batch["subject"]} for side, loader in loaders.items()}

    return look
