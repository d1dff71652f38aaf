"""PairwiseRanker, UncertaintyRanker and IntensityMapper: the three stages of Saito et al. (ICCV-W 2021)."""

from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_modules.base import AUModule
from lightning_modules.common.backbones import create_backbone
from lightning_modules.common.classifier import BackboneModule
from lightning_modules.common.errors import ModelError
from lightning_modules.common.heads import LABEL_KEY, LEVELS, Task
from lightning_modules.common.precision import at_least_single
from lightning_modules.common.weights import (
    check_class,
    check_leakage,
    crops_differ,
    file_sha,
    load_strictly,
    network_state,
    read_checkpoint,
)
from lightning_modules.pairwise_ranker.losses import masked_l1, misorder_loss, of_known_pairs, ranking_loss
from lightning_modules.pairwise_ranker.network import FrameRanker, IntensityNetwork, freeze_convolutions, sigma


class PairwiseRanker(BackboneModule):
    """Pseudo-intensity of action units: numbers that rise with intensity within a video (Sec. 3.1).

    Trained on pairs of frames of one video (``data.pairs``); predicts every frame by itself.

    Args:
        aus: FACS numbers. As published each has a network of its own; one AU a run is how the paper trains.
        backbone: timm model name.
        width: Factor on the channels of a ResNet; 1 as published.
        pretrained: True = timm's ImageNet weights, a path = a file of them.
        shared: One backbone for all AUs, with a row of the last layer for each; not in the paper.
        margin: m: how far apart the pseudo-intensities of a pair are wanted, which sets their scale.
        dropout: Of the backbone's classifier.
        frozen_convolutions: How many of the first convolutions stay as they came, where weights are given.
        backbone_checkpoint: Checkpoint of another run of this class to start from; networks are matched by AU.
        allow_crop_mismatch: Whether that run may have seen other crops.
        lr: Of Adam, constant.
        seed: Of initial weights and of the draws during training.
    """

    monitor = "val/loss"
    monitor_mode = "min"
    samples = "pairs"
    network: FrameRanker

    def __init__(
        self,
        aus: list[int],
        backbone: str = "vgg16",
        width: float = 1.0,
        pretrained: bool | str = False,
        shared: bool = False,
        margin: float = 1.0,
        dropout: float = 0.5,
        frozen_convolutions: int = 2,
        backbone_checkpoint: str | None = None,
        allow_crop_mismatch: bool = False,
        lr: float = 5e-5,
        seed: int = 0,
    ) -> None:
        super().__init__(aus, backbone, width, pretrained, backbone_checkpoint, allow_crop_mismatch, lr, 0.0, seed)
        self.task = "ranking"
        self.shared, self.margin, self.dropout = shared, margin, dropout
        self.frozen_convolutions = frozen_convolutions
        self.new_aus: list[int] = []
        self.create_network()

    @property
    def names(self) -> list[str]:
        """Of the action units, as ``AU06``."""
        return [f"AU{au:02d}" for au in self.aus]

    def create(self, pretrained: bool | str = False) -> FrameRanker:
        """See BackboneModule; weights depend on the AU and the seed, not on which other AUs there are."""

        def backbone(name: str) -> nn.Module:
            stage = type(self).__name__.encode()
            words = np.random.SeedSequence((self.seed, *stage, *name.encode())).generate_state(1)
            torch.manual_seed(int(words[0]))
            return create_backbone(self.backbone, self.width, pretrained, self.dropout)

        with torch.random.fork_rng(devices=[]):
            return FrameRanker(backbone, self.names, self.shared)

    def check(self, data: dict[str, Any] | None) -> None:
        """See BackboneModule."""
        if self.margin < 0 or self.frozen_convolutions < 0:
            raise ModelError("model.margin and model.frozen_convolutions: not below 0", "leave them at their defaults")
        super().check(data)

    def setup(self, stage: str) -> None:
        """See BackboneModule; when a fit begins also what stays frozen."""
        super().setup(stage)
        if stage != "fit":
            return
        if self.new_aus:
            rank_zero_info(f"{self.backbone_checkpoint} lacks AUs {self.new_aus}: they start untrained")
        if self.pretrained or self.backbone_checkpoint:
            for network in self.network.networks.values():
                freeze_convolutions(network, self.frozen_convolutions)

    def take_over(self, source: dict[str, Any], path: str) -> dict[str, Tensor]:
        """All tensors of a run of this class and architecture; networks, or rows, by AU."""
        check_class(source, type(self).__name__, path)
        check_architecture(source, self, path)
        theirs, own = network_state(source), self.network.state_dict()
        known = source["model"]["aus"]
        self.new_aus = [au for au in self.aus if au not in known]
        if not self.shared:
            return {name: theirs.get(name, value) for name, value in own.items()}
        rows = [known.index(au) for au in self.aus if au in known]
        mine = [place for place, au in enumerate(self.aus) if au in known]
        mapped = {name: theirs[name].clone() for name in own}
        for name in ("networks.all.1.weight", "networks.all.1.bias"):
            mapped[name] = own[name].clone()
            mapped[name][mine] = theirs[name][rows]
        return mapped

    def loss_of_pairs(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Loss and score difference of each pair, (B, A) each; 0 without a pair."""
        first, second = self.network(batch["pair"]).unbind(-1)
        return ranking_loss(first, second, batch["order"], self.margin), first - second

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Mean over the pairs of each AU, summed over AUs."""
        loss, _ = self.loss_of_pairs(batch)
        return {"pairs": of_known_pairs(loss, batch["order"])}

    def predictions(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Of frames ``pseudo`` (B, A); of pairs their mean ``loss`` (B,) and ``order`` (B,), the share in order."""
        if "pair" not in batch:
            return self.predict_frames(batch["image"])
        loss, difference = self.loss_of_pairs(batch)
        pairs = (batch["order"] != 0).sum(1)
        right = ((difference * batch["order"] > 0).float() + 0.5 * (difference == 0)) * (batch["order"] != 0)
        nothing = loss.new_full((len(loss),), torch.nan)
        share = {"loss": loss.sum(1), "order": right.sum(1)}
        return {name: torch.where(pairs > 0, value / pairs.clamp(min=1), nothing) for name, value in share.items()}

    def predict_frames(self, image: Tensor) -> dict[str, Tensor]:
        """``pseudo`` (B, A)."""
        return {"pseudo": self.network(image)}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant learning rate, on what is not frozen."""
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=self.lr)

    def facts(self) -> dict[str, Any]:
        """How many parameters, and the AUs that ``backbone_checkpoint`` did not know."""
        trained = sum(p.numel() for p in self.network.parameters() if p.requires_grad)
        own = {"trained_parameters": trained, "shared": self.shared, "newly_initialised_aus": self.new_aus}
        return super().facts() | own


class UncertaintyRanker(PairwiseRanker):
    """How far the pseudo-intensity of a frame may be off: a second network beside a finished ranker (Sec. 3.2).

    The ranker is frozen and in evaluation mode; it travels in the checkpoint, so that one pass over the frames gives
    both numbers.

    Args:
        aus: FACS numbers.
        ranker_checkpoint: checkpoints/best.ckpt of the PairwiseRanker, of the same AUs and architecture.
        backbone: timm model name.
        width: Factor on the channels of a ResNet; 1 as published.
        pretrained: True = timm's ImageNet weights, a path = a file of them.
        shared: As that of the ranker.
        margin: m: pairs closer than it count as uncertain even in the right order.
        literal: Minimise the loss as it is printed, which rewards the wrong order; for an ablation.
        dropout: Of the backbone's classifier.
        frozen_convolutions: How many of the first convolutions stay as they came, where weights are given.
        backbone_checkpoint: Checkpoint of another run of this class to start from.
        allow_crop_mismatch: Whether it, or the ranker, may have seen other crops.
        lr: Of Adam, constant.
        seed: Of initial weights and of the draws during training.
    """

    ranker: FrameRanker

    def __init__(
        self,
        aus: list[int],
        ranker_checkpoint: str | None = None,
        backbone: str = "vgg16",
        width: float = 1.0,
        pretrained: bool | str = False,
        shared: bool = False,
        margin: float = 1.0,
        literal: bool = False,
        dropout: float = 0.5,
        frozen_convolutions: int = 2,
        backbone_checkpoint: str | None = None,
        allow_crop_mismatch: bool = False,
        lr: float = 5e-5,
        seed: int = 0,
    ) -> None:
        super().__init__(
            aus, backbone, width, pretrained, shared, margin, dropout, frozen_convolutions, backbone_checkpoint,
            allow_crop_mismatch, lr, seed,
        )  # fmt: skip
        self.ranker_checkpoint, self.literal = ranker_checkpoint, literal
        if self.fault is None:
            self.ranker = self.create().requires_grad_(False).eval()

    def check(self, data: dict[str, Any] | None) -> None:
        """See the base class; also the ranker."""
        super().check(data)
        if not self.ranker_checkpoint:
            return
        source = self._read_ranker()
        if data:
            check_leakage(source, data, self.ranker_checkpoint)
            self.crop_mismatch |= crops_differ(source, data, self.ranker_checkpoint, self.allow_crop_mismatch)

    def _read_ranker(self) -> dict[str, Any]:
        if not self.ranker_checkpoint:
            what = "model.ranker_checkpoint: none given, and uncertainty is that of a finished ranker"
            raise ModelError(what, "give checkpoints/best.ckpt of a PairwiseRanker run")
        source = read_checkpoint(self.ranker_checkpoint)
        check_class(source, "PairwiseRanker", self.ranker_checkpoint)
        if (known := source["model"]["aus"]) != self.aus:
            raise ModelError(
                f"model.ranker_checkpoint: {self.ranker_checkpoint} ranks the AUs {known}, model.aus are {self.aus}",
                f"set data.aus={known}, or train the ranker on these AUs",
            )
        check_architecture(source, self, self.ranker_checkpoint)
        return source

    def setup(self, stage: str) -> None:
        """See the base class; when a fit begins also the ranker."""
        super().setup(stage)
        if stage == "fit" and not self.trainer.ckpt_path:
            source = self._read_ranker()
            load_strictly(self.ranker, network_state(source), str(self.ranker_checkpoint))

    def train(self, mode: bool = True) -> "UncertaintyRanker":
        """Training mode for the uncertainty alone: the ranker answers as it does in a test."""
        super().train(mode)
        if self.fault is None:
            self.ranker.eval()
        return self

    def loss_of_pairs(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """See the base class."""
        with torch.no_grad():
            first, second = self.ranker(batch["pair"]).unbind(-1)
        of_first, of_second = sigma(self.network(batch["pair"]).float()).unbind(-1)
        loss = misorder_loss(first, second, of_first, of_second, batch["order"], self.margin, self.literal)
        return loss, first - second

    def predict_frames(self, image: Tensor) -> dict[str, Tensor]:
        """``pseudo`` and ``sigma`` (B, A)."""
        return {"pseudo": self.ranker(image), "sigma": sigma(self.network(image).float())}

    def facts(self) -> dict[str, Any]:
        """See the base class; also the hash of the ranker's file and which loss it was."""
        ranker = file_sha(self.ranker_checkpoint) if self.ranker_checkpoint else None
        return super().facts() | {"ranker": ranker, "literal": self.literal}


class IntensityMapper(AUModule):
    """Labels from the pseudo-intensities of a video and their uncertainty (Sec. 3.3).

    Trained on the features of ``data.pseudo``: one fully connected network for each action unit.

    Args:
        aus: FACS numbers.
        task: What is mapped to: 0 and 1, or levels 0 to 5.
        window: Frames on each side of a frame, as ``data.pseudo.window``.
        uncertainty: ``always`` sees confidences (the paper's P1), ``never`` does not, ``per_au`` trains both and lets
            validation subjects choose for each AU (P2).
        hidden: Width of both hidden layers.
        dropout: Behind each of them.
        pretrained: Nothing is fetched; a key that overlays set for every model.
        lr: Of Adam, constant.
        seed: Of initial weights and of the draws during training.
    """

    monitor = "val/loss"
    monitor_mode = "min"
    samples = "features"
    network: IntensityNetwork

    def __init__(
        self,
        aus: list[int],
        task: Task = "occurrence",
        window: int = 300,
        uncertainty: Literal["always", "never", "per_au"] = "always",
        hidden: int = 4096,
        dropout: float = 0.5,
        pretrained: Literal[False] = False,
        lr: float = 5e-5,
        seed: int = 0,
    ) -> None:
        super().__init__(aus, seed)
        self.backbone = "pseudo-intensities"
        self.task, self.window, self.uncertainty = task, window, uncertainty
        self.hidden, self.dropout, self.lr = hidden, dropout, lr
        certain, plain = uncertainty != "never", uncertainty != "always"
        self.network = IntensityNetwork(len(aus), max(window, 1), certain, plain, max(hidden, 1), dropout)
        self._errors: list[Tensor] = []

    def check(self, data: dict[str, Any] | None) -> None:
        """See the base class; also whether there are features, of this window and with uncertainty."""
        super().check(data)
        if self.hidden < 1:
            raise ModelError(f"model.hidden={self.hidden}: must be at least 1", "set model.hidden")
        if data and (given := data["window"]) != self.window:
            raise ModelError(
                f"model.window={self.window}, but the features are of {given} frames on each side",
                "leave model.window at ${data.init_args.pseudo.window}",
            )
        if data and self.uncertainty != "never" and not data["sigma"]:
            raise ModelError(
                f"model.uncertainty={self.uncertainty}: data.pseudo.predictions have no sigma",
                "give the run of an UncertaintyRanker, or set model.uncertainty=never",
            )

    def setup(self, stage: str) -> None:
        """When a fit begins: look whether every AU has labels to learn from."""
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and data is not None:
            known = (data.train_labels(self.task) >= 0).any(axis=0)
            if lacking := [au for au, there in zip(self.aus, known, strict=True) if not there]:
                raise ModelError(
                    f"model.task={self.task}: no training frame of {data.dataset} has a label of the AUs {lacking}",
                    "leave them out of data.aus, or map to the other task",
                )

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Mean absolute error over the frames of each AU, summed over AUs, of each mapping."""
        said = self.network.both(batch["feature"])
        terms = [masked_l1(values, batch[LABEL_KEY[self.task]]) for values in said]
        return dict(zip(("certain", "plain") if len(terms) > 1 else ("label",), terms, strict=True))

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """See the base class; inside a fit also keeps the errors that choose the epoch and the mapping."""
        if self.trainer.state.fn == "fit":
            label = batch[LABEL_KEY[self.task]]
            said = map(at_least_single, self.network.both(batch["feature"]))
            errors = [((values - label).abs() * (label >= 0)).sum(0) for values in said]
            self._errors.append(torch.stack([*errors, (label >= 0).sum(0).to(errors[0].dtype)]))
        return super().validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Let the mapping with the lower error answer for each AU, and log ``val/loss``, the mean over AUs of it."""
        if not self._errors:
            return
        total = torch.stack(self._errors).sum(0)
        self._errors = []
        *errors, known = self.trainer.strategy.reduce(total, reduce_op="sum")
        mean = torch.stack(errors) / known.clamp(min=1)
        if len(errors) == 2:
            self.network.uses_sigma = mean[0] <= mean[1]
        scored = known > 0
        loss = mean.amin(0)[scored].mean() if scored.any() else mean.new_tensor(torch.nan)
        self.log("val/loss", loss, sync_dist=True)

    def predictions(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """``au_prob`` (B, A), or ``level`` and ``expected``, cut to the labels' range; and what the rankers said.

        ``au_prob`` is no probability: it is trained to be the label, whose halves are rounded.
        """
        said = self.network(batch["feature"])
        passed: dict[str, Tensor] = {name: batch[name] for name in ("pseudo", "sigma") if name in batch}
        if self.task == "occurrence":
            return {"au_prob": said.clamp(0, 1), **passed}
        expected = said.clamp(0, LEVELS - 1)
        return {"level": (expected + 0.5).floor().long(), "expected": expected, **passed}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant learning rate."""
        return torch.optim.Adam(self.parameters(), lr=self.lr)

    def facts(self) -> dict[str, Any]:
        """Which AUs use the uncertainty."""
        chosen = dict(zip((f"AU{au:02d}" for au in self.aus), self.network.uses_sigma.tolist(), strict=True))
        return {
            "uncertainty": self.uncertainty,
            "uses_sigma": chosen,
            "au_prob": "output of a regression, no probability",
        }


def check_architecture(source: dict[str, Any], model: PairwiseRanker, path: str) -> None:
    """Raise ModelError unless the networks of the checkpoint are built as those of ``model``."""
    for name in ("backbone", "width", "shared"):
        if (theirs := source["hyper_parameters"][name]) != getattr(model, name):
            raise ModelError(
                f"model.{name}={getattr(model, name)}: {path} was trained with {theirs}", f"set model.{name}={theirs}"
            )
