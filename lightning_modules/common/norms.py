"""Batch normalisation over the batches of all processes. Pure torch."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; each process's loss has a gradient with respect to every summand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _SumOverProcesses.forward(ctx, gradient)


def synchronized_batch_norm(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """``F.batch_norm`` in training as one process with all batches would compute it, gradients too.

    Args:
        x: (B, F, h, w) floating; B may differ by process.
        running_mean: (F,), changed in place.
        running_var: (F,), changed in place.
        weight: Scale (F,); None = 1.
        bias: Shift (F,); None = 0.
        momentum: Share of this batch in the running statistics.
        eps: Added to the variance.
    """
    value = x.float()
    sums = torch.cat([value.sum((0, 2, 3)), value.new_tensor([value.numel() / value.shape[1]])])
    sums = _SumOverProcesses.apply(sums)
    count, mean = sums[-1], sums[:-1] / sums[-1]
    centred = value - mean.view(-1, 1, 1)
    var = _SumOverProcesses.apply(centred.square().sum((0, 2, 3))) / count
    with torch.no_grad():
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((var * count / (count - 1)).to(running_var.dtype), momentum)
    factor = (var + eps).rsqrt()
    factor = factor if weight is None else factor * weight
    result = centred * factor.view(-1, 1, 1)
    return (result if bias is None else result + bias.view(-1, 1, 1)).to(x.dtype)
