"""A plain timm backbone with one linear output per AU. Pure torch."""

from typing import cast

from torch import Tensor, nn

from lightning_modules.common.backbones import InputNormalization
from lightning_modules.common.heads import AUHead, AUNetwork, Task


class BaselineNetwork(AUNetwork):
    """Image -> backbone -> linear layer with a row per AU.

    Args:
        backbone: timm model without classifier; used in place.
        n_aus: A.
        task: K = 1 logit for occurrence, 6 for intensity.
    """

    def __init__(self, backbone: nn.Module, n_aus: int, task: Task) -> None:
        super().__init__(n_aus)
        self.normalize = InputNormalization()
        self.backbone = backbone
        self.head = AUHead(cast(int, backbone.head_hidden_size), n_aus, task)

    def features(self, image: Tensor) -> Tensor:
        """See AUNetwork; all AUs share one feature."""
        return self.backbone(self.normalize(image)).unsqueeze(1)

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) uint8 -> logits (B, A, K)."""
        return self.head(self.features(image), self.outputs)

    def au_keys(self) -> set[str]:
        """See AUNetwork."""
        return {"head.weight", "head.bias"}
