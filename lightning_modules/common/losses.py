"""Losses that more than one paper uses. Pure functions; a label of -1 is unknown and never enters."""

import torch.nn.functional as F
from torch import Tensor


def masked_bce(logit: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy over the known labels; zero, with a gradient, when nothing is known.

    Args:
        logit: (...) floating.
        target: (...) int64 in {-1, 0, 1}.
    """
    known = target >= 0
    raw = F.binary_cross_entropy_with_logits(logit, target.clamp(min=0).to(logit.dtype), reduction="none")
    return (raw * known).sum() / known.sum().clamp(min=1)


def masked_cross_entropy(logit: Tensor, target: Tensor) -> Tensor:
    """Mean softmax cross-entropy over the known labels; zero, with a gradient, when nothing is known.

    Args:
        logit: (..., K) floating.
        target: (...) int64 in {-1, 0, ..., K-1}.
    """
    known = target >= 0
    raw = F.cross_entropy(logit.flatten(0, -2), target.clamp(min=0).flatten(), reduction="none")
    return (raw * known.flatten()).sum() / known.sum().clamp(min=1)
