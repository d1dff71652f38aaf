"""RENet: the training of RE-Net (Yang and Yin, ACCV 2020) for occurrence and intensity."""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_warn
from timm.models.resnet import ResNet
from torch import Tensor, nn

from lightning_modules.common.classifier import AUClassifier
from lightning_modules.common.errors import ModelError
from lightning_modules.common.heads import LABEL_KEY, Task, au_loss
from lightning_modules.renet.network import MIN_ROW_SUM, Normalizer, RelationKind, RENetwork, pairwise_pearson


class RENet(AUClassifier):
    """A ResNet with AU-specific batch normalisation whose parameters are mixed by the correlation of the AU labels.

    Args:
        aus: FACS numbers.
        backbone: Name of a timm ResNet.
        width: Factor on its channels; 1 as published.
        pretrained: True = timm's ImageNet weights, a path = a file of them.
        backbone_checkpoint: Checkpoint of another RENet run to start from; rows of AUs are mapped by their number.
        allow_crop_mismatch: Whether that run, or one that is scored, may have seen other crops.
        task: What is predicted; intensity has six levels (Sec. 4.5).
        relation: ``fixed`` = Pearson correlation of the fold's training labels (Sec. 3.3); ``learnable`` (Sec. 4.6);
            ``identity`` = own scale and shift without mixing; ``none`` = scale 1, shift 0 (Sec. 4.6), which needs
            ``head: per_au``.
        normalizer: Denominator of Eq. 5; ``sum`` is the paper's.
        head: One linear layer shared by all AUs (the paper's), or one per AU.
        strategy: ``random`` = one AU a step, drawn uniformly; ``joint`` = all AUs in every step (Sec. 3.4).
        unseen_aus: AUs whose training labels are not used (Table 6).
        recalibrate_batches: Training batches from which the running statistics are estimated anew before the final
            validation and test; 0 = never.
        momentum: Of the running statistics.
        lr: Of Adam, constant (Sec. 4.3).
        weight_decay: L2 on convolutions and the head only.
        seed: Of the draws during training and of a learnable relation.
    """

    network: RENetwork

    def __init__(
        self,
        aus: list[int],
        backbone: str = "resnet18",
        width: float = 1.0,
        pretrained: bool | str = False,
        backbone_checkpoint: str | None = None,
        allow_crop_mismatch: bool = False,
        task: Task = "occurrence",
        relation: RelationKind = "fixed",
        normalizer: Normalizer = "sum",
        head: Literal["shared", "per_au"] = "shared",
        strategy: Literal["random", "joint"] = "random",
        unseen_aus: list[int] | None = None,
        recalibrate_batches: int = 0,
        momentum: float = 0.1,
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            aus, backbone, width, pretrained, backbone_checkpoint, allow_crop_mismatch, task, lr, weight_decay, seed
        )
        self.relation = relation
        self.normalizer = normalizer
        self.head = head
        self.strategy = strategy
        self.unseen_aus = list(unseen_aus or [])
        self.recalibrate_batches = recalibrate_batches
        self.momentum = momentum
        self.trained = [position for position, au in enumerate(self.aus) if au not in self.unseen_aus]
        self.create_network()

    def build(self, backbone: nn.Module) -> RENetwork:
        """See AUClassifier."""
        return RENetwork(
            backbone,
            len(self.aus),
            task=self.task,
            relation=self.relation,
            normalizer=self.normalizer,
            shared_head=self.head == "shared",
            unseen=[position for position in range(len(self.aus)) if position not in self.trained],
            momentum=self.momentum,
            seed=self.seed,
        )

    def check(self, data: dict[str, Any] | None) -> None:
        """See AUClassifier."""
        if foreign := sorted(set(self.unseen_aus) - set(self.aus)):
            raise ModelError(f"model.unseen_aus: {foreign} are not in model.aus {self.aus}", "name AUs of model.aus")
        if not self.trained:
            raise ModelError("model.unseen_aus: names every AU of model.aus", "leave at least one AU to train on")
        if self.unseen_aus and self.head == "per_au":
            raise ModelError("model.unseen_aus: an unseen AU cannot have a head of its own", "set model.head=shared")
        if self.relation == "none" and self.head == "shared":
            what = "model.relation: none with a shared head gives all AUs the same output"
            raise ModelError(what, "set model.head=per_au")
        super().check(data)
        if not isinstance(self.network.backbone, ResNet):
            raise ModelError(f"model.backbone: {self.backbone} is no ResNet", "use a timm ResNet, such as resnet18")

    def setup(self, stage: str) -> None:
        """When a fit begins: relations and AUs to train from the training labels of the fold, then the initial weights.

        Testing needs no labels: the relation lies in the checkpoint.
        """
        super().setup(stage)
        if stage != "fit":
            return
        if (datamodule := getattr(self.trainer, "datamodule", None)) is None:
            raise ModelError(
                "RENet reads its relations from training labels and got no DataModule", "fit it with datamodule="
            )
        label = torch.as_tensor(datamodule.train_labels(self.task))
        known = (label >= 0).any(0)
        self.trained = [position for position in self.trained if known[position]]
        if self.relation == "fixed":
            self.network.relation.omega.copy_(pairwise_pearson(label))
        sums = self.network.relation.row_sums().tolist()
        weak = {f"AU{self.aus[i]:02d}": round(sums[i], 3) for i in self.trained if sums[i] < MIN_ROW_SUM}
        if weak and self.normalizer == "sum":
            rank_zero_warn(
                f"Relations of these AUs sum to less than {MIN_ROW_SUM}; the denominator of Eq. 5 is kept at it: {weak}"
            )

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Eq. 6 for one AU, or its sum over all of them."""
        aus = [self.drawn_au()] if self.strategy == "random" else self.trained
        logit = self.network(batch["image"], aus)
        label = batch[LABEL_KEY[self.task]]
        return {"au": torch.stack([au_loss(logit[:, i], label[:, au]) for i, au in enumerate(aus)]).sum()}

    def drawn_au(self) -> int:
        """Position of this step's AU: uniform over the trained ones, equal on all ranks whatever their batches hold."""
        return int(np.random.default_rng(self.step_seed()).choice(self.trained))

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Any], batch_idx: int) -> None:
        """Keep the statistics of unseen AUs up with those of the others."""
        self.network.borrow_statistics()

    def recalibrate(self, batches: Iterable[dict[str, Any]]) -> None:
        """Estimate each AU's running statistics anew from batches of training images; see ``RENetwork.recalibrate``."""
        self.network.recalibrate(batch["image"].to(self.device) for batch in batches)

    def facts(self) -> dict[str, Any]:
        """See AUClassifier; the relation matrix with its row sums (Fig. 2), and how many parameters are AU-specific."""
        relation, outputs = self.network.relation, self.network.outputs
        return super().facts() | {
            "relation": relation.matrix()[outputs][:, outputs].tolist(),
            "relation_row_sums": relation.row_sums()[outputs].tolist(),
            "relation_kind": self.relation,
            "normalizer": self.normalizer,
            "au_specific_parameters": sum(
                parameter.numel() for norm in self.network.norms for parameter in norm.parameters()
            ),
        }
