"""Weights against imbalance, from the labels of the training part. Pure functions; -1 is unknown."""

import torch
from torch import Tensor

from lightning_modules.common.losses import occurrence_rates


def class_weights(label: Tensor, n_classes: int) -> Tensor:
    """Weights inverse to the frequency of the classes; their mean over the frames is 1.

    Args:
        label: (N,) int64 in {-1, 0, ..., K-1}.
        n_classes: K.

    Returns:
        (K,) float32; 0 for a class without frames.
    """
    frames = torch.bincount(label[label >= 0], minlength=n_classes).double()
    weight = torch.where(frames > 0, frames.sum() / (frames > 0).sum() / frames, 0)
    return weight.float()


def positive_weights(label: Tensor) -> Tensor:
    """Negative frames of an AU for each positive one, so that both weigh the same.

    Args:
        label: (N, A) int64 in {-1, 0, 1}.

    Returns:
        (A,) float32; 1 for an AU that is never present, or always.
    """
    rate = occurrence_rates(label)
    return torch.where((rate > 0) & (rate < 1), (1 - rate) / rate, 1).float()
