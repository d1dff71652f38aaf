"""ME-GraphAU: action units as nodes of a graph (Luo, Song, Xie, Shen and Gunes, IJCAI 2022). Pure torch.

N action units, D = h w positions of the ResNet's last map, C channels. Edges are numbered i N + j: edge (i, j) ends in
node i and starts in node j.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.common.backbones import resnet_channels
from lightning_modules.common.precision import at_least_single

Stage = Literal["anfl", "mefl"]

REDUCTION = 4  # C is a fourth of a ResNet's channels
EDGE_CLASSES = 4  # of two AUs: neither, start alone, end alone, both
EPSILON = 1e-12  # of the lengths in a cosine


class LinearBlock(nn.Module):
    """Linear layer, batch normalisation over all positions, ReLU: (B, D, C_in) -> (B, D, C_out)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs)
        nn.init.normal_(self.linear.weight, std=(2 / outputs) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.linear(x)
        return F.relu(self.norm(x.flatten(0, 1)).view_as(x))


class FacialGraph(nn.Module):
    """FGG: one graph convolution over the nodes that resemble each other (ANFL).

    Args:
        n_aus: N.
        channels: C.
        neighbors: A node is joined to those at least as similar as its ``neighbors``-th most similar one.
    """

    def __init__(self, n_aus: int, channels: int, neighbors: int) -> None:
        super().__init__()
        self.neighbors = min(neighbors, n_aus)
        self.own, self.other = nn.Linear(channels, channels), nn.Linear(channels, channels)
        for linear in (self.own, self.other):
            nn.init.normal_(linear.weight, std=(2 / channels) ** 0.5)
        self.norm = nn.BatchNorm1d(n_aus)

    def forward(self, node: Tensor) -> Tensor:
        """Nodes (B, N, C) -> the same shape."""
        return F.relu(node + self.norm(self.adjacency(node).to(node.dtype) @ self.other(node) + self.own(node)))

    @torch.no_grad()
    def adjacency(self, node: Tensor) -> Tensor:
        """Nodes (B, N, C) -> (B, N, N) float32: 1 for neighbours, divided by the roots of both rows' sums."""
        with torch.autocast(node.device.type, enabled=False):  # half precision would make neighbours of equals
            node = node.float()
            similarity = node @ node.transpose(1, 2)
            joined = (similarity >= similarity.topk(self.neighbors).values[..., -1:]).float()
            degree = joined.sum(-1).rsqrt()
            return degree.unsqueeze(2) * joined * degree.unsqueeze(1)


class CrossAttention(nn.Module):
    """The layers of softmax(q k' / sqrt(C/2)) v, q and k of C/2 channels, v of C.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.query, self.key = nn.Linear(channels, half), nn.Linear(channels, half)
        self.value = nn.Linear(channels, channels)
        for linear in (self.query, self.key, self.value):
            nn.init.normal_(linear.weight, std=(2 / linear.out_features) ** 0.5)
        self.scale = half**-0.5


class EdgeFeatures(nn.Module):
    """FAM and ARM: a feature for every ordered pair of AUs.

    FAM: every node's map attends to the whole face. ARM: the result for AU j attends to that for AU i, is projected,
    normalised by edge and averaged over its D positions.

    The pairs share what belongs to one node: queries, keys and values are computed N times and not N^2 times, and the
    projection is applied to the values, since rows of an attention sum to 1. The N^2 maps of D positions that the
    definition averages are never made: their mean over positions needs the attention's mean alone, and the variance
    that training normalises by is, with attention A and values V of an edge, |A V|^2 = tr(A (V V') A').

    Args:
        n_aus: N.
        channels: C.
    """

    def __init__(self, n_aus: int, channels: int) -> None:
        super().__init__()
        self.face, self.pair = CrossAttention(channels), CrossAttention(channels)
        self.project = nn.Linear(channels, channels)
        nn.init.normal_(self.project.weight, std=(2 / channels) ** 0.5)
        self.norm = nn.BatchNorm2d(n_aus**2)

    def forward(self, node_map: Tensor, face: Tensor) -> Tensor:
        """Maps of the nodes (B, N, D, C), map of the face (B, D, C) -> edges (B, N^2, C)."""
        query = self.face.query(node_map).flatten(1, 2)
        node_map = F.scaled_dot_product_attention(query, self.face.key(face), self.face.value(face)).view_as(node_map)
        query, key = self.pair.query(node_map), self.pair.key(node_map)
        value = self.project(self.pair.value(node_map))
        # i is the end, (j, d) the start and its positions: one product for all starts of an end.
        attention = (query.flatten(1, 2).unsqueeze(1) @ key.transpose(2, 3) * self.pair.scale).softmax(-1)
        mean = attention.unflatten(2, query.shape[1:3]).mean(3) @ value
        return self._normalised(mean, attention, value).flatten(1, 2)

    def _normalised(self, mean: Tensor, attention: Tensor, value: Tensor) -> Tensor:
        """Mean over positions of the normalised products of attention and value.

        Args:
            mean: (B, N, N, C) of the products.
            attention: (B, N, N D, D).
            value: (B, N, D, C).
        """
        norm = self.norm
        if not norm.training:
            edges = mean.flatten(1, 2)
            running = norm.running_mean, norm.running_var
            return F.batch_norm(edges, *running, norm.weight, norm.bias, eps=norm.eps).view_as(mean)
        with torch.autocast(mean.device.type, enabled=False):
            batch, n_aus, positions, channels = value.shape
            mean, attention, value = (x.to(norm.weight.dtype) for x in (mean, attention, value))
            # Moments about a value close to the mean: about 0 the variance would be a difference of large numbers.
            origin = value.detach().mean((0, 2, 3))
            centred = value - origin.view(-1, 1, 1)
            squares = (attention @ (centred @ centred.transpose(2, 3)) * attention).sum(-1)
            count = batch * positions * channels
            offset = (mean - origin.view(-1, 1, 1)).mean((0, 3))
            variance = squares.unflatten(2, (n_aus, positions)).sum((0, 3)) / count - offset**2
            with torch.no_grad():
                self._remember(offset + origin.unsqueeze(1), variance * (count / (count - 1)))
            scale = norm.weight.view_as(variance) * torch.rsqrt(variance + norm.eps)
            shift = norm.bias.view_as(variance) - (offset + origin.unsqueeze(1)) * scale
            return mean * scale.unsqueeze(-1) + shift.unsqueeze(-1)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        norm: Any = self.norm  # whose statistics are there, by the constructor's defaults
        norm.running_mean.lerp_(mean.flatten(), norm.momentum)
        norm.running_var.lerp_(variance.flatten(), norm.momentum)
        norm.num_batches_tracked += 1


class GatedLayer(nn.Module):
    """One layer of the gated graph network of MEFL: edges learn from their nodes, nodes from what edges let through.

    Args:
        n_aus: N.
        channels: C.
    """

    def __init__(self, n_aus: int, channels: int) -> None:
        super().__init__()
        self.own, self.other, self.end, self.start, self.edge = (
            nn.Linear(channels, channels, bias=False) for _ in range(5)
        )
        for linear in (self.own, self.other, self.end, self.start, self.edge):
            nn.init.normal_(linear.weight, std=(2 / channels) ** 0.5)
        self.node_norm, self.edge_norm = nn.BatchNorm1d(n_aus), nn.BatchNorm1d(n_aus**2)

    def forward(self, node: Tensor, edge: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes (B, N, C) and edges (B, N^2, C) -> both, of the same shapes."""
        n_aus = node.shape[1]
        ends = self.end(node).unsqueeze(2) + self.start(node).unsqueeze(1)
        edge = edge + F.relu(self.edge_norm(ends.flatten(1, 2) + self.edge(edge)))
        gate = edge.sigmoid().unflatten(1, (n_aus, n_aus)).softmax(2)
        message = (gate * self.other(node).unsqueeze(1)).mean(2)
        return F.relu(node + self.node_norm(self.own(node) + message)), edge


class MEGraph(nn.Module):
    """ME-GraphAU of one stage: ANFL, which learns the nodes, or MEFL, which learns nodes and edges from there.

    Args:
        backbone: timm ResNet without classifier; used in place.
        n_aus: N.
        stage: ``anfl`` or ``mefl``.
        neighbors: Of a node in ANFL: 4 for BP4D, 3 for DISFA; MEFL has none.

    Raises:
        ModelError: No ResNet.
    """

    def __init__(self, backbone: nn.Module, n_aus: int, stage: Stage = "mefl", neighbors: int = 4) -> None:
        super().__init__()
        wide = resnet_channels(backbone)
        channels = wide // REDUCTION
        self.stage = stage
        self.backbone = backbone
        self.reduce = LinearBlock(wide, channels)
        self.nodes = nn.ModuleList(LinearBlock(channels, channels) for _ in range(n_aus))
        self.centres = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_aus, channels)))
        if stage == "anfl":
            self.graph = FacialGraph(n_aus, channels, neighbors)
        else:
            self.edges = EdgeFeatures(n_aus, channels)
            self.layers = nn.ModuleList(GatedLayer(n_aus, channels) for _ in range(2))
            self.edge_classifier = nn.Linear(channels, EDGE_CLASSES)

    def graph_features(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Normalised image (B, 3, H, W) -> nodes (B, N, C), and in MEFL edges (B, N^2, C)."""
        face = self.reduce(self.backbone.forward_features(image).flatten(2).transpose(1, 2))  # type: ignore[operator]
        node_map = torch.stack([block(face) for block in self.nodes], 1)
        node = node_map.mean(2)
        if self.stage == "anfl":
            return self.graph(node), None
        edge = self.edges(node_map, face)
        for layer in self.layers:
            node, edge = layer(node, edge)
        return node, edge

    def similarity(self, node: Tensor) -> Tensor:
        """Nodes (B, N, C) -> cosine with the AU's trained centre, (B, N) in [0, 1]: neither has negative values."""
        centre = F.normalize(F.relu(self.centres), dim=-1, eps=EPSILON)
        return (F.normalize(at_least_single(node), dim=-1, eps=EPSILON) * centre).sum(-1)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Normalised image (B, 3, H, W) -> similarities (B, N); of MEFL with logits of the edges (B, N^2, 4)."""
        node, edge = self.graph_features(image)
        similarity = self.similarity(node)
        return similarity if edge is None else (similarity, self.edge_classifier(edge))
