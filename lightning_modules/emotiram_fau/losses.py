"""Losses and targets of the two AU networks. Pure functions; a label of -1 and a point of NaN are unknown."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.common.losses import masked_cross_entropy
from lightning_modules.common.precision import at_least_single
from lightning_modules.emotiram_fau.fau_network import AMPLITUDE, STRIDE

#: Two points of every AU, each the mean of some of the 68 landmarks. Those of 10, 12, 14 and 17 are read off the
#: example that came with FAU's code; its authors say "midpoints between landmarks", so the others are our reading.
AU_POINTS: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {
    1: ((21,), (22,)),
    2: ((18,), (25,)),
    4: ((21, 39), (22, 42)),
    5: ((37, 38), (43, 44)),
    6: ((1, 41), (15, 46)),
    7: ((37, 38, 40, 41), (43, 44, 46, 47)),
    9: ((31, 39), (35, 42)),
    10: ((49,), (53,)),
    12: ((48,), (54,)),
    14: ((48, 3), (54, 13)),
    15: ((48, 59), (54, 55)),
    17: ((57,), (57, 8)),
    20: ((48, 4), (54, 12)),
    23: ((51,), (57,)),
    24: ((50, 58), (52, 56)),
    25: ((62,), (66,)),
    26: ((57, 8), (8,)),
}


def au_points(landmarks: Tensor, aus: Sequence[int]) -> Tensor:
    """Where the AUs show: landmarks (B, 68, 2) -> (B, 2 A, 2), NaN where a landmark that is needed is unknown."""
    groups = [group for au in aus for group in AU_POINTS[au]]
    return torch.stack([landmarks[:, list(group)].mean(1) for group in groups], 1)


def heatmap_targets(points: Tensor, intensity: Tensor, height: int, width: int, sigma: float = 2.0) -> Tensor:
    """A Gaussian about every point, of height 255 times the intensity there (FAU's TensorFlow code).

    Its centre is the pixel of the map nearest to the point divided by the stride, and it ends nowhere.

    Args:
        points: (B, M, 2) x, y in pixels of the image.
        intensity: (B, M) 0..5.
        height: h of the maps.
        width: w of the maps.
        sigma: In pixels of the maps, the same for all AUs and intensities.

    Returns:
        (B, M, h, w); 0 everywhere at intensity 0, wherever the point is, and NaN where intensity or a needed point is
        unknown.
    """
    present = intensity > 0
    centre = (points / STRIDE + 0.5).floor().masked_fill(~present.unsqueeze(-1), 0)
    x = torch.arange(width, device=points.device) - centre[..., :1]
    y = torch.arange(height, device=points.device) - centre[..., 1:]
    gaussian = torch.exp(-(y**2) / (2 * sigma**2)).unsqueeze(-1) * torch.exp(-(x**2) / (2 * sigma**2)).unsqueeze(-2)
    height_of = (AMPLITUDE * intensity).to(gaussian.dtype).masked_fill(intensity < 0, torch.nan)
    return height_of[..., None, None] * gaussian


def heatmap_loss(maps: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of maps and targets (B, M, h, w), over the targets that are known.

    Zero, with a gradient, when none is. The weight decay of the TensorFlow code is the optimiser's.
    """
    maps, known = at_least_single(maps), target.isfinite().all(-1).all(-1)
    squares = (maps - target.nan_to_num())[known] ** 2
    return squares.sum() / max(1, squares.numel()) + 0 * maps.sum()


def weighted_asymmetric_loss(prob: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """ME-GraphAU's loss: cross-entropy whose negatives count as much as they are taken for positives.

    -w [y log p + (1 - y) p' log(1 - p)], p' = p without a gradient, mean over the known labels; zero, with a gradient,
    when nothing is known.

    Args:
        prob: (B, A) in [0, 1].
        target: (B, A) int64 in {-1, 0, 1}.
        weight: (A,) w of ``common.losses.frequency_weights``; 1 by default.
    """
    prob, known = at_least_single(prob), target >= 0
    positive = target.clamp(min=0).to(prob.dtype)
    raw = positive * prob.clamp(min=1e-8).log()
    raw = raw + (1 - positive) * prob.detach() * (1 - prob).clamp(min=1e-8).log()
    weighted = raw if weight is None else raw * weight
    return -(weighted * known).sum() / known.sum().clamp(min=1)


def edge_classes(label: Tensor) -> Tensor:
    """Which of two AUs are present: labels (B, A) -> (B, A^2) int64, 2 y_i + y_j at edge i A + j.

    -1 where one of the two is unknown.
    """
    end, start = label.unsqueeze(2), label.unsqueeze(1)
    return torch.where((end >= 0) & (start >= 0), 2 * end + start, -1).flatten(1)


def edge_loss(logit: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of the edges' classes, mean over the edges whose AUs are both known.

    Args:
        logit: (B, A^2, 4).
        label: (B, A) int64 in {-1, 0, 1}.
    """
    return masked_cross_entropy(logit, edge_classes(label))
