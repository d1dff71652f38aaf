"""LightningModules around a network on backbones: its initial weights, its optimiser; with an output per AU."""

from abc import abstractmethod
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_info
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from lightning_modules.base import AUModule
from lightning_modules.common.backbones import create_backbone
from lightning_modules.common.errors import ModelError
from lightning_modules.common.heads import AUNetwork, Task, au_predictions
from lightning_modules.common.weights import (
    check_class,
    check_leakage,
    crops_differ,
    file_sha,
    map_weights,
    network_state,
    read_checkpoint,
)


class BackboneModule(AUModule):
    """A network on timm backbones, and where its first weights come from.

    The network starts from ``backbone_checkpoint``, else from ``pretrained`` (the backbone), else from random weights.
    They are read when a fit begins, so testing a finished run needs no file but its own.

    Args:
        aus: FACS numbers.
        backbone: timm model name.
        width: Factor on the channels of a ResNet; 1 as published.
        pretrained: True = timm's ImageNet weights, a path = a file of them.
        backbone_checkpoint: Checkpoint of another run.
        allow_crop_mismatch: Whether that run may have seen other crops.
        lr: Of Adam, constant.
        weight_decay: L2 on convolutions and linear layers, never on normalisation.
        seed: Of the draws during training.
    """

    def __init__(
        self,
        aus: list[int],
        backbone: str,
        width: float,
        pretrained: bool | str,
        backbone_checkpoint: str | None,
        allow_crop_mismatch: bool,
        lr: float,
        weight_decay: float,
        seed: int,
    ) -> None:
        super().__init__(aus, seed)
        self.backbone = backbone
        self.width = width
        self.pretrained = pretrained
        self.backbone_checkpoint = backbone_checkpoint
        self.allow_crop_mismatch = allow_crop_mismatch
        self.crop_mismatch = False
        self.source_hash = ""  # of the file behind the first weights, taken before it can change
        self.lr = lr
        self.weight_decay = weight_decay
        self.fault: ModelError | None = None

    def create_network(self) -> None:
        """Build ``network``; to be called at the end of a constructor.

        A fault waits for ``check``: the configuration parser would bury the remedy of one raised in a constructor.
        """
        try:
            self.network = self.create()
        except ModelError as fault:
            self.fault = fault

    @abstractmethod
    def create(self, pretrained: bool | str = False) -> nn.Module:
        """The network, its backbones with weights as drawn, timm's (True) or of a file."""

    @abstractmethod
    def take_over(self, source: dict[str, Any], path: str) -> dict[str, Tensor]:
        """State dict of ``network`` with what it takes of ``backbone_checkpoint``.

        Args:
            source: The checkpoint.
            path: Of its file, for messages.

        Raises:
            ModelError: It does not fit.
        """

    @property
    def weights_file(self) -> str | None:
        """File of the initial weights, if they come from one."""
        return self.backbone_checkpoint or (self.pretrained if isinstance(self.pretrained, str) else None)

    @property
    def initialisation(self) -> str:
        """Where the first weights come from: ``checkpoint:<hash>``, ``weights:<hash>``, ``imagenet`` or ``none``."""
        if self.backbone_checkpoint:
            return f"checkpoint:{self.source_hash}{' (other crop)' * self.crop_mismatch}"
        if isinstance(self.pretrained, str):
            return f"weights:{self.source_hash}"
        return "imagenet" if self.pretrained else "none"

    def check(self, data: dict[str, Any] | None) -> None:
        """See the base class; also reads the initial weights once, so that a fit cannot fail on them later."""
        if self.fault:
            raise self.fault
        super().check(data)
        if self.backbone_checkpoint and data:
            self.check_source(self.backbone_checkpoint, data)
        self._initial_weights()
        if self.weights_file:
            self.source_hash = file_sha(self.weights_file)

    def check_source(self, path: str, data: dict[str, Any]) -> None:
        """Raise ModelError where ``backbone_checkpoint`` has seen whom this run scores, or other crops unasked."""
        source = read_checkpoint(path)
        check_leakage(source, data, path)
        self.crop_mismatch = crops_differ(source, data, path, self.allow_crop_mismatch)

    def setup(self, stage: str) -> None:
        """Load the initial weights when a fit begins; a resumed fit takes its own checkpoint instead."""
        if stage == "fit" and not self.trainer.ckpt_path and (weights := self._initial_weights()):
            self.network.load_state_dict(weights)

    def _initial_weights(self) -> dict[str, Tensor] | None:
        if self.backbone_checkpoint:
            return self.take_over(read_checkpoint(self.backbone_checkpoint), self.backbone_checkpoint)
        return self.create(self.pretrained).state_dict() if self.pretrained else None

    def facts(self) -> dict[str, Any]:
        """Number of parameters."""
        return {"parameters": sum(parameter.numel() for parameter in self.parameters())}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained, with the weight decay of each."""
        return param_groups_weight_decay(self.network, self.weight_decay)

    def configure_optimizers(self) -> Any:
        """Adam with a constant learning rate."""
        return torch.optim.Adam(self.parameter_groups(), lr=self.lr)


class Classifier(BackboneModule):
    """A network on one timm backbone, which sees pictures; arguments as BackboneModule."""

    def create(self, pretrained: bool | str = False) -> nn.Module:
        """See BackboneModule."""
        return self.build(self.create_backbone(pretrained))

    def create_backbone(self, pretrained: bool | str = False) -> nn.Module:
        """The timm backbone."""
        return create_backbone(self.backbone, self.width, pretrained)

    @abstractmethod
    def build(self, backbone: nn.Module) -> nn.Module:
        """The network on a backbone, whose weights it takes over."""

    def pictures(self, batch: dict[str, Any]) -> Tensor:
        """What the network takes of a batch: (B, 3, H, W) uint8."""
        return batch["image"]


class AUClassifier(Classifier):
    """An AUNetwork on a timm backbone, for occurrence or intensity.

    ``backbone_checkpoint`` is of another run of the same class, and the network takes all of it.

    Args:
        aus: FACS numbers.
        backbone: timm model name.
        width: Factor on the channels of a ResNet; 1 as published.
        pretrained: True = timm's ImageNet weights, a path = a file of them.
        backbone_checkpoint: Checkpoint of another run of this class.
        allow_crop_mismatch: Whether that run may have seen other crops.
        task: What is predicted.
        lr: Of Adam, constant.
        weight_decay: L2 on convolutions and heads, never on normalisation or a relation.
        seed: Of the draws during training.
    """

    network: AUNetwork
    task: Task

    def __init__(
        self,
        aus: list[int],
        backbone: str,
        width: float,
        pretrained: bool | str,
        backbone_checkpoint: str | None,
        allow_crop_mismatch: bool,
        task: Task,
        lr: float,
        weight_decay: float,
        seed: int,
    ) -> None:
        super().__init__(
            aus, backbone, width, pretrained, backbone_checkpoint, allow_crop_mismatch, lr, weight_decay, seed
        )
        self.task = task
        self.new_aus: list[int] = []
        if task == "intensity":
            self.monitor = "val/icc_mean"

    @abstractmethod
    def build(self, backbone: nn.Module) -> AUNetwork:
        """The network on a backbone, whose weights it takes over."""

    def setup(self, stage: str) -> None:
        """See Classifier; says which AUs the checkpoint did not know."""
        super().setup(stage)
        if stage == "fit" and self.new_aus:
            rank_zero_info(f"{self.backbone_checkpoint} lacks AUs {self.new_aus}: they start as the mean of its AUs")

    def take_over(self, source: dict[str, Any], path: str) -> dict[str, Tensor]:
        """All tensors, rows of AUs by number."""
        check_class(source, type(self).__name__, path)
        source_aus = source["model"]["aus"]
        self.new_aus = [au for au in self.aus if au not in source_aus]
        own, au_keys, run_keys = self.network.state_dict(), self.network.au_keys(), self.network.run_keys()
        return map_weights(own, network_state(source), self.aus, source_aus, au_keys, run_keys)

    def facts(self) -> dict[str, Any]:
        """See Classifier; the AUs that ``backbone_checkpoint`` did not know."""
        return super().facts() | {"newly_initialised_aus": self.new_aus}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained, with the weight decay of each."""
        kept = self.network.no_weight_decay()
        return param_groups_weight_decay(self.network, self.weight_decay, no_weight_decay_list=kept)

    def predictions(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """See the base class."""
        return au_predictions(self.network(self.pictures(batch)))

    def features(self, batch: dict[str, Any]) -> Tensor:
        """Features before the head: (B, A, F), or (B, 1, F) where the AUs share them."""
        return self.network.features(self.pictures(batch))
