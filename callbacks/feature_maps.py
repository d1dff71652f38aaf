"""Where a network looks: feature maps at three resolutions (AUNet, Fig. 6) and of its two branches (Fig. 9)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.common.metrics import Floats

STRIDES = (4, 8, 16)  # pixels of the picture a pixel of the map: maps of 64, 32 and 16 for a picture of 256
BRANCHES = {"static_block": "static", "motion_block": "dynamic"}  # of lightning_modules.aunet.network.AUNetHead


def normalised(features: Tensor, size: int) -> Floats:
    """What the eye can see of feature maps: mean of the absolute values over channels, from 0 to 1 in every picture.

    Args:
        features: (N, C, h, w).
        size: Side S of the result; up-sampled bilinearly.

    Returns:
        (N, S, S) float64; all 0 where a map is constant.
    """
    energy = features.detach().float().abs().mean(1, keepdim=True)
    energy = F.interpolate(energy, (size, size), mode="bilinear", align_corners=False).squeeze(1).double()
    low, high = energy.amin((1, 2), keepdim=True), energy.amax((1, 2), keepdim=True)
    spread = high - low
    return np.asarray(torch.where(spread > 0, (energy - low) / spread.clamp(min=1e-30), 0).cpu().numpy())


def resolution_maps(network: nn.Module, image: Tensor, strides: Sequence[int] = STRIDES) -> dict[str, Floats]:
    """The last maps that a network computes at each resolution: of a ResNet its stages, of AU-FAN its head's blocks.

    Args:
        network: Takes `image`.
        image: Pictures (B, 3, S, S), or clips (B, T, 3, S, S), where only maps of the clip as a whole count: a map of
            each of its frames is none.
        strides: Pixels of the picture a pixel of the map.

    Returns:
        `64 x 64` -> (B, S, S) normalised maps; a resolution that the network does not have is absent.
    """
    size = image.shape[-1]
    outputs = list(_outputs(network, image).values())
    found = {}
    for side in (size // stride for stride in strides):
        if at_side := [output for output in outputs if output.shape[-2:] == (side, side)]:
            found[f"{side} x {side}"] = normalised(at_side[-1], size)
    return found


def branch_maps(network: nn.Module, clip: Tensor) -> dict[str, Floats]:
    """Maps of the static and of the dynamic branch behind their first blocks.

    Args:
        network: With an ``AUNetHead`` inside, or not.
        clip: (B, 3, 3, S, S) uint8, the frames t-T, t and t+T.

    Returns:
        `static` and `dynamic` -> (B, S, S) normalised maps; nothing for a network without these branches.
    """
    outputs = _outputs(network, clip)
    return {
        branch: normalised(maps, clip.shape[-1])
        for end, branch in BRANCHES.items()
        for name, maps in outputs.items()
        if name.split(".")[-1] == end
    }


def _outputs(network: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """Mean magnitude (B, 1, h, w) of the maps of each module, by its name, in the order of execution, from one pass."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and len(output) == len(image):
                found.pop(name, None)  # a module that runs again is last
                found[name] = (
                    output.detach().float().abs().mean(1, keepdim=True)
                )  # all channels of all would fill memory

        return hook

    training = {module: module.training for module in network.modules()}
    handles = [module.register_forward_hook(keep(name)) for name, module in network.named_modules()]
    network.eval()
    try:
        with torch.no_grad():
            network(image)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    return found


class FeatureMaps(pl.Callback):
    """Writes ``feature_maps.npz`` in a test: a few pictures and their maps, for the report.

    Of modules whose ``network`` takes what their ``pictures(batch)`` gives.

    Pictures of real people, and maps in which one may know them, are not written unless ``faces``.

    Args:
        path: File to write.
        edition: Of the data; ``twin`` is rendered.
        faces: Whether the licence of the data lets the caller show its faces.
        frames: How many frames, evenly spread over the first test batch.
    """

    def __init__(self, path: Path, edition: str | None, faces: bool = False, frames: int = 5) -> None:
        self.path, self.frames = path, frames
        self.allowed = faces or edition == "twin"

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Take the maps of the first batch, on rank 0."""
        if batch_idx or dataloader_idx or not trainer.is_global_zero or not self.allowed:
            return
        image = pl_module.pictures(batch)
        chosen = np.unique(np.linspace(0, len(image) - 1, self.frames).round().astype(int))
        image = image[torch.from_numpy(chosen)]
        maps = resolution_maps(pl_module.network, image) | branch_maps(pl_module.network, image)
        current = image[:, image.shape[1] // 2] if image.ndim == 5 else image
        frames = [f"{batch['subject'][i]}, {batch['sequence'][i]}, {int(batch['frame'][i])}" for i in chosen]
        arrays: dict[str, Any] = {name: values.astype(np.float16) for name, values in maps.items()}
        temporary = self.path.with_name(f".{self.path.name}")
        np.savez_compressed(
            temporary, images=current.permute(0, 2, 3, 1).cpu().numpy(), frames=np.array(frames), **arrays
        )
        temporary.replace(self.path)
