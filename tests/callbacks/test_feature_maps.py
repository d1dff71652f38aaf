"""Maps of networks whose maps are known, and that real faces are not written."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from callbacks.feature_maps import FeatureMaps, branch_maps, normalised, resolution_maps
from lightning_modules.aunet.network import FAN, AUFANHead, AUNetHead, FeatureHeadNetwork, FrozenFAN


class Pyramid(nn.Module):
    """Averages of 4 x 4, 8 x 8 and 16 x 16 pixels: its maps can be worked out."""

    def __init__(self) -> None:
        super().__init__()
        self.quarter, self.halve, self.again = nn.AvgPool2d(4), nn.AvgPool2d(2), nn.AvgPool2d(2)
        self.drop = nn.Dropout(0.5)

    def forward(self, image: Tensor) -> Tensor:
        return self.drop(self.again(self.halve(self.quarter(image.float())))).mean((1, 2, 3))


def test_maps_are_mean_magnitudes_from_0_to_1() -> None:
    features = torch.tensor(
        [[[[1.0, -3.0], [0.0, 2.0]], [[-1.0, 1.0], [0.0, 2.0]]], [[[5.0] * 2] * 2, [[5.0] * 2] * 2]]
    )
    maps = normalised(features, 2)
    assert maps[0].tolist() == [[0.5, 1], [0, 1]]  # means of magnitudes 1, 2, 0, 2
    assert not maps[1].any()  # constant
    assert normalised(features, 8).shape == (2, 8, 8)


def test_the_last_map_of_every_resolution_is_taken() -> None:
    image = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    image[0, :, :16, :16] = 200  # the top left quarter is bright
    network = Pyramid().train()
    maps = resolution_maps(network, image)
    assert list(maps) == ["8 x 8", "4 x 4", "2 x 2"]
    assert network.training
    assert network.drop.training
    for values in maps.values():
        assert values[0, 2, 2] == 1
        assert values[0, -3, -3] == 0
        assert not values[1].any()
    assert resolution_maps(network, image, strides=(64, 4)).keys() == {"8 x 8"}


def test_resnet18_and_aufan_have_the_three_resolutions_of_fig_6() -> None:
    resnet = timm.create_model("resnet18", num_classes=2)
    picture = torch.rand(1, 3, 64, 64)
    taken: dict[str, Tensor] = {}
    for name in ("layer1", "layer2", "layer3"):
        getattr(resnet, name).register_forward_hook(lambda module, _, output, name=name: taken.update({name: output}))
    maps = resolution_maps(resnet, picture)
    for (name, values), stage in zip(maps.items(), ("layer1", "layer2", "layer3"), strict=True):
        assert values == pytest.approx(normalised(taken[stage], 64)), name
    fan = FAN(width=1 / 16, depth=2)
    network = FeatureHeadNetwork(FrozenFAN(fan), AUFANHead(2, fan.feature_channels, fan.channels)).eval()
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    found = resolution_maps(network, image)
    inside = network.head.tail[0](network.head.static_in(network.extractor(image)))
    assert list(found) == ["16 x 16", "8 x 8", "4 x 4"]
    assert found["16 x 16"] == pytest.approx(normalised(inside, 64))
    assert branch_maps(network, image) == {}


def clip_network() -> FeatureHeadNetwork:
    torch.manual_seed(0)
    fan = FAN(width=1 / 16, depth=2)
    return FeatureHeadNetwork(FrozenFAN(fan), AUNetHead(2, fan.feature_channels, fan.channels)).eval()


def test_the_dynamic_branch_sees_nothing_where_nothing_moves() -> None:
    network = clip_network()
    still = torch.randint(0, 256, (2, 1, 3, 64, 64), dtype=torch.uint8).repeat(1, 3, 1, 1, 1)
    moving = still.clone()
    moving[1, 0, :, :32] = 0  # the former frame of the second clip differs in its upper half
    network.head.motion_in.bias.data.zero_()
    maps = branch_maps(network, moving)
    assert list(maps) == ["static", "dynamic"]
    assert maps["static"].shape == maps["dynamic"].shape == (2, 64, 64)
    assert np.ptp(maps["static"][0]) == 1
    unmoved = network.head.motion(*[network.extractor(still[:, 0])] * 3)
    assert not unmoved.any()  # so that the branch has only its own constants for the first clip
    assert not np.allclose(maps["dynamic"][1], maps["dynamic"][0])
    # A clip has no map of single frames: those have three times as many rows.
    assert resolution_maps(network, moving).keys() <= {"16 x 16", "8 x 8", "4 x 4"}


@pytest.mark.parametrize(
    ("edition", "faces", "written"), [("twin", False, True), ("published", False, False), ("published", True, True)]
)
def test_only_rendered_or_released_faces_are_written(tmp_path: Path, edition: str, faces: bool, written: bool) -> None:
    clip = torch.randint(0, 256, (7, 3, 3, 64, 64), dtype=torch.uint8)
    batch: dict[str, Any] = {"clip": clip, "subject": list("abcdefg"), "sequence": ["s"] * 7, "frame": torch.arange(7)}
    module = SimpleNamespace(network=clip_network(), pictures=lambda batch: batch["clip"])
    trainer = SimpleNamespace(is_global_zero=True)
    callback = FeatureMaps(tmp_path / "feature_maps.npz", edition, faces, frames=3)
    for number in (0, 1):  # the first batch counts
        callback.on_test_batch_end(trainer, module, {}, batch | {"clip": clip if number == 0 else clip * 0}, number)
    assert (tmp_path / "feature_maps.npz").exists() == written
    if written:
        with np.load(tmp_path / "feature_maps.npz") as arrays:
            assert arrays["frames"].tolist() == ["a, s, 0", "d, s, 3", "g, s, 6"]
            assert (arrays["images"] == clip[[0, 3, 6], 1].permute(0, 2, 3, 1).numpy()).all()
            assert set(arrays) == {"images", "frames", "16 x 16", "8 x 8", "4 x 4", "static", "dynamic"}
            assert arrays["static"].shape == (3, 64, 64)
