"""The release's networks with weights drawn from their keys, loaded once as published files, and golden outputs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_modules.aunet.network import FANOutput
from lightning_modules.published import load_published

FRAMES = ("current", "former", "later")


@pytest.fixture(scope="session")
def released_shapes(golden_folder: Path) -> dict[str, dict[str, list[int]]]:
    """Network -> key of the release -> shape, in the order of the release."""
    return json.loads((golden_folder / "aunet_keys.json").read_text())


@pytest.fixture(scope="session")
def released_state(fill, released_shapes) -> Callable[[str], dict[str, Tensor]]:
    """A network's state dict as published, drawn once."""
    drawn = {}

    def state(kind: str) -> dict[str, Tensor]:
        if kind not in drawn:
            drawn[kind] = fill.fill_state_dict(released_shapes[kind])
        return dict(drawn[kind])

    return state


@pytest.fixture(scope="session")
def published(released_state) -> Callable[[str], nn.Module]:
    """Our network with that state dict; not to be changed."""
    loaded = {}

    def network(kind: str) -> nn.Module:
        if kind not in loaded:
            loaded[kind] = load_published(kind, released_state(kind))
        return loaded[kind]

    return network


class Golden(NamedTuple):
    """Golden outputs, and how ours compare."""

    arrays: dict[str, np.ndarray]

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    def error(self, name: str, ours: Tensor) -> float:
        """Largest difference relative to the largest golden value."""
        theirs = self.arrays[name]
        assert ours.shape == theirs.shape, name
        return float(np.abs(ours.numpy() - theirs).max() / np.abs(theirs).max())


@pytest.fixture(scope="session")
def golden(golden_folder: Path) -> Golden:
    with np.load(golden_folder / "aunet.npz") as arrays:
        return Golden(dict(arrays))


@pytest.fixture(scope="session")
def fan_outputs(fill, published) -> dict[str, FANOutput]:
    """FAN on the three golden frames, computed once."""
    with torch.no_grad():
        return {name: published("fan")(fill.fill_input(f"aunet.{name}", (2, 3, 256, 256))) for name in FRAMES}


@pytest.fixture(scope="session")
def head_inputs(fill) -> list[Tensor]:
    """Golden features of the current, former and later frame, (2, 768, 64, 64) each."""
    return [fill.fill_input(f"head.{name}", (2, 768, 64, 64), low=-1, high=1) for name in FRAMES]
