"""Losses that more than one paper uses. Pure functions; a label of -1 is unknown and never enters.

These and the papers' own compute in float32 where the network answers in half precision.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.common.errors import ModelError
from lightning_modules.common.precision import at_least_single


def masked_bce(logit: Tensor, target: Tensor, pos_weight: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy over the known labels; zero, with a gradient, when nothing is known.

    Args:
        logit: (..., A) floating.
        target: (..., A) int64 in {-1, 0, 1}.
        pos_weight: (A,) factor on the terms of positive labels.
    """
    logit, known = at_least_single(logit), target >= 0
    raw = F.binary_cross_entropy_with_logits(
        logit, target.clamp(min=0).to(logit.dtype), reduction="none", pos_weight=pos_weight
    )
    return (raw * known).sum() / known.sum().clamp(min=1)


def masked_cross_entropy(logit: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean softmax cross-entropy over the known labels; zero, with a gradient, when nothing is known.

    Args:
        logit: (..., K) floating.
        target: (...) int64 in {-1, 0, ..., K-1}.
        weight: (K,) weights of the classes in the mean.
    """
    label = target.flatten()
    known = label >= 0
    raw = F.cross_entropy(at_least_single(logit).flatten(0, -2), label.clamp(min=0), reduction="none")
    counts = known.to(raw.dtype) if weight is None else known * weight[label.clamp(min=0)]
    total = counts.sum()
    return (raw * counts).sum() / torch.where(total > 0, total, 1)


def occurrence_rates(label: Tensor) -> Tensor:
    """Share of positives among the known labels of every AU.

    Args:
        label: (N, A) int64 in {-1, 0, 1}, of the training fold.

    Returns:
        (A,) float64; NaN where nothing is known.
    """
    return (label > 0).sum(0).double() / (label >= 0).sum(0)


def frequency_weights(rate: Tensor, aus: Sequence[int]) -> Tensor:
    """Weights of the AUs, inverse to their rates and of mean 1 (AUNet, Eq. 1; ME-GraphAU's release).

    Args:
        rate: (A,) of ``occurrence_rates``.
        aus: FACS numbers, for the message.

    Returns:
        (A,) float32.

    Raises:
        ModelError: An AU never occurs, so that its weight would be infinite.
    """
    if never := [au for au, value in zip(aus, rate.tolist(), strict=True) if not value > 0]:
        names = ", ".join(f"AU{au:02d}" for au in never)
        raise ModelError(
            f"the training frames show no {names}: its weight, 1 / rate, would be infinite",
            "leave it out of data.aus, or lower the intensity from which it counts as present",
        )
    return ((1 / rate) / (1 / rate).mean()).float()
