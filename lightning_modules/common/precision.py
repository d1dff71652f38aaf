"""What mixed precision must not round."""

import torch
from torch import Tensor


def at_least_single(value: Tensor) -> Tensor:
    """A tensor of half precision in float32, any other as it is: for losses and lengths, whatever autocast keeps."""
    return value.to(torch.promote_types(value.dtype, torch.float32))
