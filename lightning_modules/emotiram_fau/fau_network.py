"""FAU: heat-maps of action units by deconvolutions on a ResNet (Fan, Lam and Li, AAAI 2020). Pure torch.

"The TensorFlow code" is what came with the paper; "the PyTorch release" is its authors' later one, which has no
correspondence layers and whose weights give 10 maps of 24x24 for 96 pixels.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.common.backbones import resnet_channels
from lightning_modules.common.errors import ModelError

Graph = Literal["channel", "tf"]
Correspondence = Literal["none", "channel", "tf"]

POINTS = 2  # where a face shows an action unit, one map each
STRIDE = 4  # pixels of the image a pixel of the maps
GRANULARITY = 32  # of a ResNet: sides of images are multiples of it
AMPLITUDE = 255  # height of a map at intensity 1
NEIGHBOURS = 7  # of a node, itself among them
CHANNELS = {"none": (256, 256, 256), "channel": (256, 128, 64), "tf": (256, 128, 64)}  # of the deconvolutions


class SemanticCorrespondence(nn.Module):
    """Semantic correspondence convolution: every node of a map is mixed with those that resemble it most.

    Node i has a feature f_i. Each of its k nearest nodes j (Euclidean distance; i is one of them) gives
    ReLU(BN(W [f_i, f_j - f_i])), and the largest value of each of the D outputs is kept.

    W [f_i, f_j - f_i] = (W_own - W_other) f_i + W_other f_j: W is applied once a node and not once a pair, which takes
    a k-th of the products. In evaluation BN joins the two terms before the pairs are formed.

    Args:
        nodes: N, the channels of the map.
        features: D, its pixels.
        neighbours: k.
        graph: What a node is. ``channel`` = a channel, as the paper says; ``tf`` = what the TensorFlow code computes:
            its channels-last maps are cut into N pieces untransposed, and a piece is some pixels of a row with all
            channels.
    """

    def __init__(self, nodes: int, features: int, neighbours: int = NEIGHBOURS, graph: Graph = "channel") -> None:
        super().__init__()
        self.nodes, self.features, self.graph = nodes, features, graph
        self.neighbours = min(neighbours, nodes)
        self.linear = nn.Linear(2 * features, features, bias=False)
        self.norm = nn.BatchNorm1d(features)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, N, h, w) with h w = D -> the same shape."""
        layout = x if self.graph == "channel" else x.permute(0, 2, 3, 1)
        feature = layout.reshape(len(x), self.nodes, self.features)
        index = self.nearest(feature)
        weight_own, weight_other = self.linear.weight.chunk(2, 1)
        own, other = F.linear(feature, weight_own - weight_other), F.linear(feature, weight_other)
        if self.norm.training:
            pairs = own.unsqueeze(2) + _rows(other, index)
            largest = self.norm(pairs.flatten(0, 2)).view_as(pairs).max(2).values
        else:
            scale, shift = _affine(self.norm)
            largest = own * scale + shift + _rows(other * scale, index).max(2).values
        # ReLU is monotone: behind the maximum it is the same, and k times cheaper.
        return F.relu(largest).reshape(layout.shape).permute(*((0, 1, 2, 3), (0, 3, 1, 2))[self.graph == "tf"])

    @torch.no_grad()
    def nearest(self, feature: Tensor) -> Tensor:
        """Features (B, N, D) -> positions of the k nearest nodes of every node, (B, N, k)."""
        square = (feature**2).sum(-1)
        distance = square.unsqueeze(2) - 2 * feature @ feature.transpose(1, 2) + square.unsqueeze(1)
        return distance.topk(self.neighbours, largest=False).indices


def _rows(feature: Tensor, index: Tensor) -> Tensor:
    """feature (B, N, D), index (B, N, k) -> (B, N, k, D)."""
    first = torch.arange(len(feature), device=index.device).view(-1, 1, 1) * feature.shape[1]
    return F.embedding(index + first, feature.flatten(0, 1))  # whose gradient is faster than that of indexing


def _affine(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch normalisation in evaluation."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


class FAU(nn.Module):
    """ResNet, three deconvolutions, a correspondence layer behind each or none, and one map per point of an AU.

    Args:
        backbone: timm ResNet without classifier; used in place.
        n_maps: M, two an AU: those of an AU lie side by side.
        width: Factor on the channels of the deconvolutions; 1 as published.
        scc: Whether there are correspondence layers, and what their nodes are; see ``SemanticCorrespondence``.
        image_size: Side of the images; correspondence layers fit one size only.

    Raises:
        ModelError: No ResNet, or a size that it does not halve five times.
    """

    def __init__(
        self, backbone: nn.Module, n_maps: int, width: float = 1.0, scc: Correspondence = "none", image_size: int = 96
    ) -> None:
        super().__init__()
        channels = resnet_channels(backbone)
        if image_size % GRANULARITY:
            what = f"model.image_size {image_size}: FAU's maps need sides in multiples of {GRANULARITY}"
            raise ModelError(what, f"set data.image_size={max(1, round(image_size / GRANULARITY)) * GRANULARITY}")
        self.backbone = backbone
        self.deconvolutions, self.correspondences = nn.ModuleList(), nn.ModuleList()
        side = image_size // GRANULARITY
        for published in CHANNELS[scc]:
            inputs, channels, side = channels, max(8, round(width * published)), 2 * side
            deconvolution = nn.ConvTranspose2d(inputs, channels, 4, 2, 1, bias=False)
            nn.init.trunc_normal_(deconvolution.weight, std=0.01)  # the TensorFlow code's
            self.deconvolutions.append(nn.Sequential(deconvolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)))
            layer = nn.Identity() if scc == "none" else SemanticCorrespondence(channels, side**2, graph=scc)
            self.correspondences.append(layer)
        self.final = nn.Conv2d(channels, n_maps, 1)
        self.image_size = image_size

    def feature(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) floating in [0, 1] -> what the maps are made of, (B, C, H/4, W/4)."""
        x = self.backbone.forward_features(image)  # type: ignore[operator]
        for deconvolution, correspondence in zip(self.deconvolutions, self.correspondences, strict=True):
            x = correspondence(deconvolution(x))
        return x

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) floating in [0, 1] -> maps (B, M, H/4, W/4), of height 255 at intensity 1."""
        return self.final(self.feature(image))


def point_intensity(maps: Tensor) -> Tensor:
    """Maps (B, M, h, w) -> intensity at every point (B, M): its highest value, unclamped."""
    return maps.amax((2, 3)) / AMPLITUDE


def au_intensity(maps: Tensor) -> Tensor:
    """Maps (B, M, h, w) -> intensity of every AU (B, M / 2): the mean over its points, unclamped."""
    return point_intensity(maps).unflatten(1, (-1, POINTS)).mean(2)
