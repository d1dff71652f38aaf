"""timm backbones by name, and the layer that turns uint8 images into what they expect. Pure torch and timm."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import huggingface_hub.constants as hub
import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.resnet import ResNet
from torch import Tensor, nn

from lightning_modules.common.errors import ModelError


class InputNormalization(nn.Module):
    """ImageNet normalisation: uint8 RGB (B, 3, H, W) -> float (B, 3, H, W) with mean 0, deviation 1 over ImageNet."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, value in (("mean", IMAGENET_DEFAULT_MEAN), ("std", IMAGENET_DEFAULT_STD)):
            self.register_buffer(name, 255 * torch.tensor(value).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Image: (B, 3, H, W) uint8, or floating in [0, 255]; the result is channels-last, as convolutions like it."""
        image = image.to(self.mean.dtype, memory_format=torch.channels_last)
        return (image - self.mean) / self.std


def unit_range(image: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Image (B, 3, H, W) uint8 -> floating in [0, 1]; channels-last, as convolutions like it."""
    return image.to(dtype, memory_format=torch.channels_last) / 255


def create_backbone(name: str, width: float = 1.0, pretrained: bool | str = False, dropout: float = 0.0) -> nn.Module:
    """A timm model without classifier: floating image (B, 3, H, W) -> pooled feature (B, ``head_hidden_size``).

    Its weights are channels-last, as the images are: DDP wants gradients and weights in one layout.

    Args:
        name: timm model name.
        width: Factor on the channels of a ResNet; 1 = as published. A stem of one convolution keeps its 64.
        pretrained: True = timm's default weights (downloaded once), a path = weights of that model in timm's layout.
        dropout: Of the pooled feature, and between the layers that a model has behind its last convolution.

    Raises:
        ModelError: Unknown name, a width that the model cannot take, or weights that cannot be had.
    """
    if not timm.is_model(name):
        raise ModelError(f"model.backbone: timm knows no model '{name}'", "see timm.list_models('*resnet*')")
    if width != 1 and pretrained:
        raise ModelError(
            f"model.width {width} has no pretrained weights", "set model.width=1 or model.pretrained=false"
        )
    arguments = _scaled_channels(name, width) if width != 1 else {}
    arguments |= {"drop_rate": dropout} if dropout else {}
    if isinstance(pretrained, str):
        arguments["pretrained_cfg_overlay"] = {"file": pretrained}
    try:
        with _cache_only_where_the_hub_has_no_address() if pretrained is True else nullcontext():
            model = timm.create_model(name, pretrained=bool(pretrained), num_classes=0, **arguments)
    except Exception as error:
        if not pretrained:
            raise
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"model.pretrained={pretrained}: no weights for {name} ({cause})",
            "give the path of a weights file, connect to the network once, or set model.pretrained=false",
        ) from error
    return model.to(memory_format=torch.channels_last)


def resnet_channels(backbone: nn.Module) -> int:
    """Channels of the last map of a timm ResNet.

    Raises:
        ModelError: It is none.
    """
    if not isinstance(backbone, ResNet):
        name = getattr(backbone, "default_cfg", {}).get("architecture", type(backbone).__name__)
        raise ModelError(f"model.backbone: {name} is no ResNet", "use a timm ResNet, such as resnet50")
    return int(backbone.num_features)


@contextmanager
def _cache_only_where_the_hub_has_no_address() -> Iterator[None]:
    """Without a network timm's hub client would try again for a minute before it says that weights cannot be had."""
    before = hub.HF_HUB_OFFLINE
    if not before and not getproxies():
        try:
            socket.getaddrinfo(urlsplit(hub.ENDPOINT).hostname, 443)
        except OSError:
            hub.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before


def _scaled_channels(name: str, width: float) -> dict[str, Any]:
    """Arguments of a timm ResNet that scale its stages, and its stem where that is several convolutions."""
    published = timm.create_model(name)
    if width <= 0 or not isinstance(published, ResNet):
        raise ModelError(f"model.width {width} does not fit {name}", "use a timm ResNet and a width above 0, or 1")
    arguments: dict[str, Any] = {"channels": tuple(max(1, round(width * channels)) for channels in (64, 128, 256, 512))}
    if isinstance(published.conv1, nn.Sequential):
        arguments["stem_width"] = max(4, round(width * published.bn1.num_features / 2))
    return arguments
