"""Tiny images with labels, and a Trainer without files, for the model tests."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

AUS = [1, 2, 4, 12]
PROVENANCE: dict[str, Any] = {
    "dataset": "disfa",
    "fold": 1,
    "aus": AUS,
    "expressions": [],
    "train_persons": ["disfa/S1", "disfa/S2"],
    "val_persons": ["disfa/S3"],
    "test_persons": ["disfa/S4"],
    "preprocessing": "0123456789ab",
}


class TinyData(pl.LightningDataModule):
    """32 px images whose brightness gives AUs and expression away; one label in five is unknown."""

    def __init__(self, n: int = 16, batch_size: int = 8) -> None:
        super().__init__()
        coin = np.random.default_rng(0)
        self.au = coin.integers(0, 2, (n, len(AUS)))
        image = coin.integers(0, 60, (n, 3, 32, 32))
        for a in range(len(AUS)):
            image[:, :, 8 * a : 8 * a + 8] += 150 * self.au[:, a, None, None, None]
        self.image = torch.from_numpy(image.astype(np.uint8))
        self.expression = np.where(np.random.default_rng(1).random(n) < 0.2, -1, 2 * self.au[:, 0] + self.au[:, 3])
        self.au[coin.random(self.au.shape) < 0.2] = -1
        self.batch_size = batch_size

    def samples(self) -> list[dict[str, Any]]:
        au = torch.from_numpy(self.au)
        intensity = torch.where(au > 0, 3, au)
        return [
            {"image": x, "au": y, "intensity": level, "expression": int(self.expression[i]), "index": i}
            for i, (x, y, level) in enumerate(zip(self.image, au, intensity, strict=True))
        ]

    def batch(self, n: int = 8) -> dict[str, Any]:
        return next(iter(DataLoader(self.samples(), n)))

    def train_labels(self, kind: str) -> np.ndarray:
        intensity = np.where(self.au > 0, 3, self.au)
        return {"occurrence": self.au, "intensity": intensity, "expression": self.expression}[kind]

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.samples(), self.batch_size)

    val_dataloader = test_dataloader = train_dataloader

    def state_dict(self) -> dict[str, Any]:
        return PROVENANCE


@pytest.fixture
def provenance() -> Callable[..., dict[str, Any]]:
    """What a DataModule says of itself, with changes."""

    def make(**changes: Any) -> dict[str, Any]:
        return PROVENANCE | changes

    return make


@pytest.fixture
def aus() -> list[int]:
    return AUS


@pytest.fixture
def data() -> TinyData:
    return TinyData()


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., pl.Trainer]:
    def make(**arguments: Any) -> pl.Trainer:
        quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
        return pl.Trainer(default_root_dir=tmp_path, accelerator="cpu", **{**quiet, "max_epochs": 1, **arguments})

    return make


@pytest.fixture(scope="session")
def golden_folder(shared: Path) -> Path:
    folder = shared / "golden"
    if not (folder / "fill.py").is_file():
        pytest.skip("the golden arrays (../shared/golden) are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def fill(golden_folder: Path) -> ModuleType:
    """fill.py, which draws weights and inputs from their names."""
    spec = importlib.util.spec_from_file_location("golden_fill", golden_folder / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
