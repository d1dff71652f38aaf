"""The releases' networks with weights drawn from their keys, golden arrays, and the benchmarks' definitions."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def released_shapes(golden_folder: Path) -> dict[str, dict[str, list[int]]]:
    """Network -> key of the release -> shape."""
    return {
        kind: shapes
        for file in ("megraph_keys", "fau_keys")
        for kind, shapes in json.loads((golden_folder / f"{file}.json").read_text()).items()
    }


@pytest.fixture(scope="session")
def released_state(fill, released_shapes) -> Callable[[str], dict[str, Tensor]]:
    """A network's state dict as published; what two networks share is drawn once, and not to be changed."""
    drawn: dict[str, Tensor] = {}

    def state(kind: str) -> dict[str, Tensor]:
        shapes = released_shapes[kind]
        drawn.update(fill.fill_state_dict({key: shape for key, shape in shapes.items() if key not in drawn}))
        return {key: drawn[key] for key in shapes}

    return state


@pytest.fixture(scope="session")
def golden(golden_folder: Path) -> Callable[[str], dict[str, np.ndarray]]:
    """Arrays of one file by name."""

    def arrays(name: str) -> dict[str, np.ndarray]:
        with np.load(golden_folder / f"{name}.npz") as file:
            return dict(file)

    return arrays


@pytest.fixture
def benchmark(monkeypatch) -> Callable[[str], ModuleType]:
    """A script of benchmarks/, which holds the formulation that ours is measured against."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    return lambda name: __import__(name)


@pytest.fixture
def faces(data) -> Any:
    """Tiny data with landmarks, which lie somewhere in the image."""

    class FaceData(type(data)):
        dataset, image_size = "disfa", 32

        def __init__(self) -> None:
            super().__init__()
            places = np.random.default_rng(2).uniform(4, 28, (len(self.image), 68, 2))
            self.landmarks, self.rows_train = places.astype(np.float32), np.arange(len(self.image))

        def samples(self, train: bool = True) -> list[dict[str, Any]]:
            points = torch.from_numpy(self.landmarks)
            return [sample | {"landmarks": points[i]} for i, sample in enumerate(super().samples())]

    return FaceData()
