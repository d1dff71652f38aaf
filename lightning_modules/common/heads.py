"""A network with one output per AU: its interface, its last layer, its losses and its predictions. Pure torch."""

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_modules.common.losses import masked_bce, masked_cross_entropy

Task = Literal["occurrence", "intensity"]
LABEL_KEY: dict[str, str] = {"occurrence": "au", "intensity": "intensity"}  # task -> key of the batch
LEVELS = 6  # FACS: absent, A..E


class AUNetwork(nn.Module, ABC):
    """Image (B, 3, H, W) uint8 -> logits (B, A, K); K = 1 for occurrence, 6 for intensity.

    The methods tell initialisation and optimiser what they need to know of its tensors.

    Args:
        n_aus: A at training.

    Attributes:
        outputs: Positions of the AUs that ``forward`` returns, all of them unless an evaluation needs fewer.
    """

    def __init__(self, n_aus: int) -> None:
        super().__init__()
        self.n_aus = n_aus
        self.outputs = list(range(n_aus))

    @abstractmethod
    def features(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) uint8 -> features before the head: (B, A, F), or (B, 1, F) where the AUs share them."""

    @abstractmethod
    def au_keys(self) -> set[str]:
        """Names in the state dict whose first dimension is the AU."""

    def run_keys(self) -> set[str]:
        """Names in the state dict that belong to the labels of a run and are never taken from another one."""
        return set()

    def no_weight_decay(self) -> set[str]:
        """Parameters of more than one dimension without weight decay."""
        return set()


class AUHead(nn.Module):
    """Linear layer from features to the logits of each AU, with one weight per AU or one that all share.

    Args:
        n_features: F.
        n_aus: A.
        task: occurrence = one logit (sigmoid), intensity = six (softmax).
        shared: One weight for all AUs; sensible only where the features differ by AU.
    """

    def __init__(self, n_features: int, n_aus: int, task: Task, shared: bool = False) -> None:
        super().__init__()
        rows, classes = 1 if shared else n_aus, 1 if task == "occurrence" else LEVELS
        # One parameter for all AUs: every step gives it a gradient, so DDP never waits for an unused head.
        self.weight = nn.Parameter(torch.empty(rows, n_features, classes))
        self.bias = nn.Parameter(torch.empty(rows, classes))
        bound = 1 / math.sqrt(n_features)  # as nn.Linear
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, feature: Tensor, aus: list[int]) -> Tensor:
        """Feature (B, len(aus) or 1, F) of the AUs at these positions -> logits (B, len(aus), K)."""
        weight, bias = (self.weight, self.bias) if len(self.weight) == 1 else (self.weight[aus], self.bias[aus])
        return (feature.unsqueeze(2) @ weight).squeeze(2) + bias


def au_loss(logit: Tensor, label: Tensor) -> Tensor:
    """Mean loss over the known labels: binary cross-entropy for one logit, softmax cross-entropy for six.

    Args:
        logit: (..., K).
        label: (...) int64, -1 unknown.
    """
    return masked_bce(logit.squeeze(-1), label) if logit.shape[-1] == 1 else masked_cross_entropy(logit, label)


def au_predictions(logit: Tensor) -> dict[str, Any]:
    """Predictions for the ledger from logits (B, A, K).

    Returns:
        ``au_prob`` (B, A) in [0, 1] for K = 1; else ``level`` (B, A) int64, the most probable one, and ``expected``
        (B, A), the mean of the level under the softmax.
    """
    logit = logit.float()
    if logit.shape[-1] == 1:
        return {"au_prob": logit.squeeze(-1).sigmoid()}
    levels = torch.arange(logit.shape[-1], device=logit.device, dtype=logit.dtype)
    expected = (logit.softmax(-1) * levels).sum(-1)  # autocast would round a matrix product
    return {"level": logit.argmax(-1), "expected": expected}
