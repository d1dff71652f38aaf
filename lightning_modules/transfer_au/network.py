"""The networks of both stages (Wang et al. 2022, Fig. 1). Pure torch."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Self, cast

from torch import Tensor, nn

from lightning_modules.common.backbones import InputNormalization
from lightning_modules.common.heads import AUHead, AUNetwork


class ExpressionNetwork(nn.Module):
    """Image -> backbone -> one linear layer (Sec. 2.1).

    Args:
        backbone: timm model without classifier; used in place.
        n_classes: K.
    """

    def __init__(self, backbone: nn.Module, n_classes: int) -> None:
        super().__init__()
        self.normalize = InputNormalization()
        self.backbone = backbone
        self.head = nn.Linear(cast(int, backbone.head_hidden_size), n_classes)

    def features(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) uint8 -> (B, F)."""
        return self.backbone(self.normalize(image))

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) uint8 -> logits (B, K)."""
        return self.head(self.features(image))


class TransferNetwork(AUNetwork):
    """Image -> backbone -> multilayer perceptron with an output per AU (Sec. 2.2).

    Args:
        backbone: timm model without classifier; used in place.
        n_aus: A.
        hidden: Units of each hidden layer.
        dropout: After each of them.
        frozen: Whether the backbone stays as it is, batch statistics included.
    """

    def __init__(
        self, backbone: nn.Module, n_aus: int, hidden: Sequence[int], dropout: float, frozen: bool = False
    ) -> None:
        super().__init__(n_aus)
        self.normalize = InputNormalization()
        self.backbone = backbone
        sizes = [cast(int, backbone.head_hidden_size), *hidden]
        layers = [
            nn.Sequential(nn.Linear(n_in, n_out), nn.ReLU(), nn.Dropout(dropout)) for n_in, n_out in pairwise(sizes)
        ]
        self.hidden = nn.Sequential(*layers)
        self.head = AUHead(sizes[-1], n_aus, "occurrence")
        self.frozen = frozen
        backbone.requires_grad_(not frozen).train(not frozen)  # Lightning keeps the modes that it finds

    def train(self, mode: bool = True) -> Self:
        """A frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def features(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) uint8 -> last hidden layer (B, 1, F): all AUs share it."""
        return self.hidden(self.backbone(self.normalize(image))).unsqueeze(1)

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) uint8 -> logits (B, A, 1)."""
        return self.head(self.features(image), self.outputs)

    def au_keys(self) -> set[str]:
        """See AUNetwork."""
        return {"head.weight", "head.bias"}
