"""BaselineAU: the ResNet-18 baseline of RE-Net's tables, and any other timm model."""

from typing import Any

from torch import Tensor, nn

from lightning_modules.baseline.network import BaselineNetwork
from lightning_modules.common.classifier import AUClassifier
from lightning_modules.common.heads import LABEL_KEY, Task, au_loss


class BaselineAU(AUClassifier):
    """A timm backbone with one sigmoid (occurrence) or one six-way softmax (intensity) per AU, all trained together.

    Args:
        aus: FACS numbers.
        backbone: timm model name.
        width: Factor on the channels of a ResNet; 1 as published.
        pretrained: True = timm's ImageNet weights, a path = a file of them.
        backbone_checkpoint: Checkpoint of another BaselineAU run to start from.
        allow_crop_mismatch: Whether that run, or one that is scored, may have seen other crops.
        task: What is predicted.
        lr: Of Adam, constant (RE-Net, Sec. 4.3).
        weight_decay: L2 on convolutions and the head.
        seed: Of the draws during training.
    """

    def __init__(
        self,
        aus: list[int],
        backbone: str = "resnet18",
        width: float = 1.0,
        pretrained: bool | str = False,
        backbone_checkpoint: str | None = None,
        allow_crop_mismatch: bool = False,
        task: Task = "occurrence",
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            aus, backbone, width, pretrained, backbone_checkpoint, allow_crop_mismatch, task, lr, weight_decay, seed
        )
        self.create_network()

    def build(self, backbone: nn.Module) -> BaselineNetwork:
        """See AUClassifier."""
        return BaselineNetwork(backbone, len(self.aus), self.task)

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Mean loss over all known labels of the batch."""
        return {"au": au_loss(self.network(batch["image"]), batch[LABEL_KEY[self.task]])}
