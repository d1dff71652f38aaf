"""Losses of the pairwise rankers (Saito et al. 2021). Pure functions; an order of 0 is no pair and never enters."""

import torch
from torch import Tensor

from lightning_modules.common.precision import at_least_single


def ranking_loss(first: Tensor, second: Tensor, order: Tensor, margin: float = 1.0) -> Tensor:
    """``max(0, m - r (f_i - f_j))`` of Sec. 3.1, element by element; 0 without a pair.

    Args:
        first: (...) pseudo-intensity of the first frame.
        second: (...) of the second.
        order: (...) r: 1 where the first frame shows more, -1 where it shows less, 0 for no pair.
        margin: m.
    """
    loss = (margin - order * (at_least_single(first) - at_least_single(second))).clamp(min=0)
    return torch.where(order != 0, loss, 0)


def misorder_loss(
    first: Tensor,
    second: Tensor,
    sigma_first: Tensor,
    sigma_second: Tensor,
    order: Tensor,
    margin: float = 1.0,
    literal: bool = False,
) -> Tensor:
    """``-log P(r (Y_i - Y_j) > m)`` of normal pseudo-intensities, element by element; 0 without a pair.

    The paper prints the loss as that probability itself, which would be least where the order is surely wrong; the
    authors' code minimises its negative logarithm. The logarithm of the normal distribution function is computed as
    one, so that it stays finite where the probability does not.

    Args:
        first: (...) pseudo-intensity of the first frame, the mean of Y_i.
        second: (...) of the second.
        sigma_first: (...) uncertainty of the first, the standard deviation of Y_i; above 0.
        sigma_second: (...) of the second.
        order: (...) r, see `ranking_loss`.
        margin: m.
        literal: The loss as it is printed in Sec. 3.2.
    """
    first, second, sigma_first, sigma_second = map(at_least_single, (first, second, sigma_first, sigma_second))
    score = (order * (first - second) - margin) / torch.hypot(sigma_first, sigma_second)
    loss = torch.special.ndtr(score) if literal else -torch.special.log_ndtr(score)
    return torch.where(order != 0, loss, 0)


def of_known_pairs(loss: Tensor, order: Tensor) -> Tensor:
    """Mean over the pairs of each action unit, summed over action units, which so stay independent. (B, A) -> ()."""
    return (loss.sum(0) / (order != 0).sum(0).clamp(min=1)).sum()


def masked_l1(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error over the known labels of each action unit, summed over action units. (B, A) -> ().

    Args:
        predicted: (B, A) floating.
        target: (B, A) int64, -1 unknown.
    """
    known = target >= 0
    return ((at_least_single(predicted) - target).abs() * known).sum(0).div(known.sum(0).clamp(min=1)).sum()
