"""The two stages of Wang et al. 2022: ExpressionClassifier, and TransferAU on its backbone."""

from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_warn
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from lightning_modules.common.classifier import AUClassifier, Classifier
from lightning_modules.common.errors import ModelError
from lightning_modules.common.losses import masked_bce, masked_cross_entropy
from lightning_modules.common.weights import check_class, map_backbone, map_weights, network_state
from lightning_modules.transfer_au.losses import class_weights, positive_weights
from lightning_modules.transfer_au.network import ExpressionNetwork, TransferNetwork


class ExpressionClassifier(Classifier):
    """Stage one (Sec. 2.1): one expression an image, by a linear layer on a timm backbone.

    Args:
        expressions: Names of the classes, in the order of the labels of the dataset.
        aus: Those of the data, which are not used; most datasets of expressions have none.
        backbone: timm model name.
        width: Factor on the channels of a ResNet; 1 as published.
        pretrained: True = timm's ImageNet weights, a path = a file of them.
        backbone_checkpoint: Checkpoint of another ExpressionClassifier run of the same classes, all of which is taken.
        allow_crop_mismatch: Whether that run may have seen other crops.
        weigh_classes: Whether classes weigh the same in the loss, however many training frames show them.
        lr: Of Adam, constant.
        weight_decay: L2 on convolutions and the linear layer.
        seed: Of the draws during training.
    """

    network: ExpressionNetwork
    monitor = "val/accuracy"
    class_weight: Tensor

    def __init__(
        self,
        expressions: list[str],
        aus: list[int] = [],  # noqa: B006  # never changed
        backbone: str = "resnet50",
        width: float = 1.0,
        pretrained: bool | str = False,
        backbone_checkpoint: str | None = None,
        allow_crop_mismatch: bool = False,
        weigh_classes: bool = False,
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            aus, backbone, width, pretrained, backbone_checkpoint, allow_crop_mismatch, lr, weight_decay, seed
        )
        self.task = "expression"
        self.expressions = list(expressions)
        self.weigh_classes = weigh_classes
        self.never_shown: list[str] = []
        self.register_buffer("class_weight", torch.ones(len(expressions)))
        self.create_network()

    def build(self, backbone: nn.Module) -> ExpressionNetwork:
        """See Classifier."""
        if len(set(self.expressions)) < max(2, len(self.expressions)):
            what = f"model.expressions: {', '.join(self.expressions) or 'none'}"
            raise ModelError(what, "name each class of the data once, two or more")
        return ExpressionNetwork(backbone, len(self.expressions))

    def setup(self, stage: str) -> None:
        """See Classifier; when a fit begins also which classes the training frames show, and how often."""
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if stage != "fit" or data is None:
            return
        label = torch.as_tensor(data.train_labels("expression"))
        weight = class_weights(label, len(self.expressions))
        self.never_shown = [name for name, w in zip(self.expressions, weight.tolist(), strict=True) if not w]
        if len(self.never_shown) == len(self.expressions):
            raise ModelError("no training frame has a known expression", "take other training subjects (data.fold)")
        if self.never_shown:
            rank_zero_warn(f"no training frame shows {', '.join(self.never_shown)}: it will never be predicted")
        if self.weigh_classes:
            self.class_weight.copy_(weight)

    def take_over(self, source: dict[str, Any], path: str) -> dict[str, Tensor]:
        """All tensors, of a run with the same classes."""
        check_class(source, type(self).__name__, path)
        if (theirs := list(source["model"]["expressions"])) != self.expressions:
            raise ModelError(
                f"checkpoint {path}: knows {', '.join(theirs)}, not {', '.join(self.expressions)}",
                "take a source that was trained on the same classes",
            )
        return map_weights(self.network.state_dict(), network_state(source), [], [], ())

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Eq. 1 over the frames whose expression is known."""
        weight = self.class_weight if self.weigh_classes else None
        return {"expression": masked_cross_entropy(self.network(self.pictures(batch)), batch["expression"], weight)}

    def predictions(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """``expression_prob`` (B, K)."""
        return {"expression_prob": self.network(self.pictures(batch)).float().softmax(-1)}

    def features(self, batch: dict[str, Any]) -> Tensor:
        """Features before the linear layer: (B, F)."""
        return self.network.features(self.pictures(batch))

    def facts(self) -> dict[str, Any]:
        """See Classifier; the weights of the classes, and those that no training frame showed."""
        weights = dict(zip(self.expressions, self.class_weight.tolist(), strict=True)) if self.weigh_classes else None
        return super().facts() | {"class_weight": weights, "never_shown": self.never_shown}


class TransferAU(AUClassifier):
    """Stage two (Sec. 2.2): AUs by a multilayer perceptron on the backbone of an ExpressionClassifier.

    Without ``backbone_checkpoint`` it starts from ImageNet (``pretrained``) or from nothing, the paper's missing
    ablation.

    Args:
        aus: FACS numbers.
        backbone: timm model name.
        width: Factor on the channels of a ResNet; 1 as published.
        pretrained: True = timm's ImageNet weights, a path = a file of them.
        backbone_checkpoint: Checkpoint of an ExpressionClassifier run, of which the backbone alone is taken; or of
            another TransferAU run, all of which is taken.
        allow_crop_mismatch: Whether that run, or one that is scored, may have seen other crops.
        hidden: Units of each hidden layer.
        dropout: After each hidden layer.
        frozen: Whether the backbone stays as it came. Without weights to come from it is a random projection.
        weigh_positives: Whether positive and negative frames of an AU weigh the same in the loss.
        lr: Of Adam, for the backbone; constant.
        head_lr_factor: How many times ``lr`` the perceptron learns with.
        weight_decay: L2 on convolutions and linear layers.
        seed: Of the draws during training.
    """

    network: TransferNetwork
    positive_weight: Tensor

    def __init__(
        self,
        aus: list[int],
        backbone: str = "resnet50",
        width: float = 1.0,
        pretrained: bool | str = False,
        backbone_checkpoint: str | None = None,
        allow_crop_mismatch: bool = False,
        hidden: list[int] = [512, 256],  # noqa: B006  # never changed
        dropout: float = 0.5,
        frozen: bool = False,
        weigh_positives: bool = False,
        lr: float = 1e-4,
        head_lr_factor: float = 10.0,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            aus, backbone, width, pretrained, backbone_checkpoint, allow_crop_mismatch, "occurrence", lr, weight_decay,
            seed,
        )  # fmt: skip
        self.hidden, self.dropout = list(hidden), dropout
        self.frozen = frozen
        self.weigh_positives = weigh_positives
        self.head_lr_factor = head_lr_factor
        self.source = ""  # what an ExpressionClassifier behind ``backbone_checkpoint`` started from
        self.register_buffer("positive_weight", torch.ones(len(aus)))
        self.create_network()

    def build(self, backbone: nn.Module) -> TransferNetwork:
        """See AUClassifier."""
        if any(units < 1 for units in self.hidden):
            raise ModelError(
                f"model.hidden={self.hidden}: a layer without units", "give numbers above 0, as [512, 256]"
            )
        if not 0 <= self.dropout < 1:
            raise ModelError(f"model.dropout={self.dropout} is no share of units", "give one from 0 to below 1")
        return TransferNetwork(backbone, len(self.aus), self.hidden, self.dropout, self.frozen)

    @property
    def initialisation(self) -> str:
        """As Classifier; ``expression:<hash> (from <what that run started from>)`` on an ExpressionClassifier."""
        found = super().initialisation
        return f"{found.replace('checkpoint', 'expression')} (from {self.source})" if self.source else found

    def check(self, data: dict[str, Any] | None) -> None:
        """See AUClassifier; also that the perceptron can learn."""
        for name, value in (("lr", self.lr), ("head_lr_factor", self.head_lr_factor)):
            if not value > 0:
                raise ModelError(
                    f"model.{name}={value}: the perceptron would not learn",
                    "give a number above 0; model.frozen=true keeps the backbone alone as it is",
                )
        super().check(data)

    def setup(self, stage: str) -> None:
        """See AUClassifier; when a fit begins also the weights of positive frames."""
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and self.weigh_positives and data is not None:
            self.positive_weight.copy_(positive_weights(torch.as_tensor(data.train_labels("occurrence"))))

    def take_over(self, source: dict[str, Any], path: str) -> dict[str, Tensor]:
        """The backbone of an ExpressionClassifier, or all of another TransferAU."""
        if source["model"]["class"] == type(self).__name__:
            return super().take_over(source, path)
        check_class(source, "ExpressionClassifier", path)
        self.source = source["model"]["initialisation"]
        return map_backbone(self.network.state_dict(), network_state(source))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The backbone, unless it is frozen, and the perceptron at its own learning rate."""
        network, decay = self.network, self.weight_decay
        head = [*param_groups_weight_decay(network.hidden, decay), *param_groups_weight_decay(network.head, decay)]
        groups = [group | {"lr": self.lr * self.head_lr_factor} for group in head]
        groups += [] if self.frozen else param_groups_weight_decay(network.backbone, decay)
        return [group for group in groups if group["params"]]

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Eq. 2: mean binary cross-entropy over the known labels."""
        logit = self.network(self.pictures(batch)).squeeze(-1)
        return {"au": masked_bce(logit, batch["au"], self.positive_weight if self.weigh_positives else None)}

    def facts(self) -> dict[str, Any]:
        """See AUClassifier; what is trained, and the weights of positive frames."""
        names = (f"AU{au:02d}" for au in self.aus)
        weights = dict(zip(names, self.positive_weight.tolist(), strict=True)) if self.weigh_positives else None
        return super().facts() | {
            "frozen": self.frozen,
            "trained_parameters": sum(p.numel() for p in self.parameters() if p.requires_grad),
            "positive_weight": weights,
        }
