import socket

import huggingface_hub.constants as hub
import pytest
import timm
import torch
from torch import nn

from lightning_modules.common.backbones import InputNormalization, create_backbone
from lightning_modules.common.errors import ModelError


def test_images_are_scaled_to_the_statistics_of_imagenet():
    image = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    black, white = InputNormalization()(image)[0, :, 0].T
    torch.testing.assert_close(black, torch.tensor([-2.1179, -2.0357, -1.8044]), atol=1e-4, rtol=0)  # -mean / std
    torch.testing.assert_close(white, torch.tensor([2.2489, 2.4286, 2.6400]), atol=1e-4, rtol=0)  # (1 - mean) / std


def test_width_scales_the_stages():
    assert create_backbone("resnet18", width=0.25).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 128)


def test_width_scales_a_deep_stem():
    stem = [layer.out_channels for layer in create_backbone("resnet10t", 0.25).conv1 if hasattr(layer, "out_channels")]
    assert stem == [6, 8, 16]  # 24, 32, 64 as published


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "resnet81"}, "resnet81"),
        ({"name": "resnet18", "width": 0.5, "pretrained": True}, "model.width"),
        ({"name": "resnet18", "width": -1}, "model.width"),
        ({"name": "vit_tiny_patch16_224", "width": 0.5}, "vit_tiny"),
        ({"name": "resnet18", "pretrained": "nowhere.pth"}, "nowhere.pth"),
    ],
)
def test_faults_name_the_argument(arguments, words):
    with pytest.raises(ModelError, match=words) as caught:
        create_backbone(**arguments)
    assert caught.value.remedy


def test_weights_that_cannot_be_downloaded_are_a_user_error(monkeypatch):
    def offline(*_, **__):
        raise OSError("We couldn't connect to the hub")

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr(socket, "getaddrinfo", offline)
    with pytest.raises(ModelError, match=r"model.pretrained=True.*couldn't connect"):
        create_backbone("resnet18", pretrained=True)


def test_without_an_address_only_the_cache_is_read(monkeypatch):
    seen = []

    def no_address(*_):
        seen.append("asked")
        raise OSError("Name or service not known")

    def create(*_, **__):
        seen.append(hub.HF_HUB_OFFLINE)
        return nn.Identity()

    monkeypatch.setattr(timm, "create_model", create)
    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    monkeypatch.setattr("lightning_modules.common.backbones.getproxies", dict)
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    create_backbone("resnet18", pretrained=True)
    create_backbone("resnet18")
    assert seen == ["asked", True, False]
    assert hub.HF_HUB_OFFLINE is False


def test_a_local_file_gives_the_weights(tmp_path):
    source = timm.create_model("resnet10t")
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    loaded = create_backbone("resnet10t", pretrained=str(tmp_path / "weights.pth"))
    torch.testing.assert_close(loaded.layer1[0].conv1.weight, source.layer1[0].conv1.weight)
