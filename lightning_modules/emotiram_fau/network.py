"""EmotiRAM-FAU: networks of action units with layers behind them that tell emotions, and EmotiRAM-f. Pure torch.

Masur, Costa, Figueredo and Teichrieb, "Leveraging Previous Facial Action Units Knowledge for Emotion Recognition on
Faces", 2023.
"""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from lightning_modules.common.backbones import InputNormalization, unit_range
from lightning_modules.common.heads import LEVELS, AUNetwork
from lightning_modules.emotiram_fau.fau_network import AMPLITUDE, FAU, POINTS, STRIDE, au_intensity
from lightning_modules.emotiram_fau.megraph_network import MEGraph

FACE_CHANNELS = (32, 64, 128, 256, 256)  # of CAER-Net-S's face encoder
FACE_HIDDEN = 128  # units between its feature and the classes


class AUBody(AUNetwork):
    """A network of action units on which emotions can be told: image (B, 3, H, W) uint8 -> its own output.

    Attributes:
        n_code: F, numbers of the output as the layers behind it take them.
    """

    n_code: int

    @abstractmethod
    def code(self, output: Tensor) -> Tensor:
        """The output as the layers behind it take it: (B, F), of the order of 1."""

    @abstractmethod
    def readout(self, output: Tensor) -> dict[str, Any]:
        """The output as predictions of AUs for the ledger."""


class HeatmapBody(AUBody):
    """FAU, maps (B, 2 A, H/4, W/4) of the intensity of each AU at two points.

    Args:
        net: Takes images in [0, 1], as the PyTorch release does; used in place.
        n_aus: A.
    """

    def __init__(self, net: FAU, n_aus: int) -> None:
        super().__init__(n_aus)
        self.net = net
        self.n_code = POINTS * n_aus * (net.image_size // STRIDE) ** 2
        self.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) uint8 -> maps of the AUs ``outputs``."""
        maps = self.net(unit_range(image, self.net.final.weight.dtype))
        if len(self.outputs) == self.n_aus:
            return maps
        return maps.unflatten(1, (self.n_aus, POINTS))[:, self.outputs].flatten(1, 2)

    def code(self, output: Tensor) -> Tensor:
        """Maps over 255: 1 is the height of a peak at intensity 1."""
        return output.flatten(1) / AMPLITUDE

    def readout(self, output: Tensor) -> dict[str, Any]:
        """``expected`` (B, A), the mean height of the peaks, unclamped as in the release, and ``level``, rounded."""
        expected = au_intensity(output.float())
        return {"level": expected.round().clamp(0, LEVELS - 1).long(), "expected": expected}

    def features(self, image: Tensor) -> Tensor:
        """See AUNetwork; the mean over the map from which all AUs' maps are made."""
        return self.net.feature(unit_range(image, self.net.final.weight.dtype)).mean((2, 3)).unsqueeze(1)

    def au_keys(self) -> set[str]:
        """See AUNetwork; two rows an AU."""
        return {"net.final.weight", "net.final.bias"}


class MEGraphBody(AUBody):
    """ME-GraphAU, similarities (B, A) in [0, 1].

    Args:
        net: Takes images normalised as ImageNet's; used in place.
        n_aus: A.
    """

    def __init__(self, net: MEGraph, n_aus: int) -> None:
        super().__init__(n_aus)
        self.normalize = InputNormalization()
        self.net = net
        self.n_code = n_aus

    def forward(self, image: Tensor, with_edges: bool = False) -> Tensor | tuple[Tensor, Tensor | None]:
        """Image (B, 3, H, W) uint8 -> similarities of the AUs ``outputs``.

        ``with_edges``: similarities of all AUs, and in MEFL logits of the edges (B, A^2, 4).
        """
        node, edge = self.net.graph_features(self.normalize(image))
        if not with_edges:
            return self.net.similarity(node)[:, self.outputs]
        return self.net.similarity(node), None if edge is None else self.net.edge_classifier(edge)

    def code(self, output: Tensor) -> Tensor:
        """The similarities."""
        return output

    def readout(self, output: Tensor) -> dict[str, Any]:
        """``au_prob`` (B, A): no probability, but 0.5 is where the release calls an AU present."""
        return {"au_prob": output.float()}

    def features(self, image: Tensor) -> Tensor:
        """See AUNetwork; the nodes of the graph (B, A, C)."""
        return self.net.graph_features(self.normalize(image))[0][:, self.outputs]

    def au_keys(self) -> set[str]:
        """None: most of its tensors belong to AUs or pairs of them, so that it serves the AUs of its training alone."""
        return set()


def bottleneck(n_code: int, hidden: Sequence[int], n_classes: int, dropout: float = 0.0) -> nn.Sequential:
    """Fully connected layers from a code (B, F) to logits (B, K), ReLU and dropout between them (Sec. III).

    Args:
        n_code: F.
        hidden: Units between; the paper's 2048, 1024, 512 and 256 behind maps, none behind similarities.
        n_classes: K.
        dropout: Behind every hidden layer; the paper names none.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise([n_code, *hidden]):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear([n_code, *hidden][-1], n_classes))


class EmotiRAMNetwork(nn.Module):
    """A body that knows action units and a bottleneck behind it that tells emotions (Fig. 2).

    Args:
        body: Used in place.
        hidden: See ``bottleneck``.
        n_classes: K.
        dropout: See ``bottleneck``.
        frozen: Whether the body stays as it is, batch statistics included.
    """

    def __init__(
        self, body: AUBody, hidden: Sequence[int], n_classes: int, dropout: float = 0.0, frozen: bool = False
    ) -> None:
        super().__init__()
        self.body = body
        self.head = bottleneck(body.n_code, hidden, n_classes, dropout)
        self.frozen = frozen
        body.requires_grad_(not frozen).train(not frozen)  # Lightning keeps the modes that it finds

    def train(self, mode: bool = True) -> Self:
        """A frozen body stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.body.eval()
        return self

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Image (B, 3, H, W) uint8 -> the body's output, and logits (B, K)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            output = self.body(image)
        return output, self.head(self.body.code(output))

    def features(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) uint8 -> what the last layer sees, (B, F)."""
        x = self.body.code(self.body(image))
        for layer in list(self.head)[:-1]:
            x = layer(x)
        return x


class FaceNetwork(nn.Module):
    """EmotiRAM-f, whose layers are unpublished: the face stream of CAER-Net-S (Lee et al., ICCV 2019) in its place.

    Five convolutions with batch normalisation and ReLU, halved after each of the first four, mean over the map,
    normalised as public code does, two layers.

    Args:
        n_classes: K.
        width: Factor on the channels; 1 as published.
        dropout: Before the last layer.
    """

    def __init__(self, n_classes: int, width: float = 1.0, dropout: float = 0.5) -> None:
        super().__init__()
        self.normalize = InputNormalization()
        layers: list[nn.Module] = []
        channels = [3, *(max(4, round(width * published)) for published in FACE_CHANNELS)]
        for number, (inputs, outputs) in enumerate(pairwise(channels)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            layers += [nn.MaxPool2d(2)] * (number < len(FACE_CHANNELS) - 1)
        self.encoder = nn.Sequential(*layers)
        self.norm = nn.BatchNorm1d(channels[-1])
        hidden = max(4, round(width * FACE_HIDDEN))
        self.head = nn.Sequential(
            nn.Linear(channels[-1], hidden), nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Linear(hidden, n_classes)
        )

    def features(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) uint8 -> (B, F)."""
        return self.norm(self.encoder(self.normalize(image)).mean((2, 3)))

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) uint8 -> logits (B, K)."""
        return self.head(self.features(image))
