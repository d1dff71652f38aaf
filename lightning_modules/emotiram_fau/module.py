"""The stages of EmotiRAM-FAU: an AU network (HeatmapFAU, MEGraphAU), then emotions on it; and EmotiRAM-f."""

import copy
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from lightning_modules.base import AUModule
from lightning_modules.common.classifier import AUClassifier, Classifier
from lightning_modules.common.errors import ModelError
from lightning_modules.common.landmarks import check_landmarks
from lightning_modules.common.losses import frequency_weights, masked_cross_entropy, occurrence_rates
from lightning_modules.common.precision import at_least_single
from lightning_modules.common.weights import check_class, is_own, map_weights, network_state
from lightning_modules.emotiram_fau.fau_network import FAU, POINTS, Correspondence
from lightning_modules.emotiram_fau.losses import (
    AU_POINTS,
    au_points,
    edge_loss,
    heatmap_loss,
    heatmap_targets,
    weighted_asymmetric_loss,
)
from lightning_modules.emotiram_fau.megraph_network import MEGraph, Stage
from lightning_modules.emotiram_fau.network import AUBody, EmotiRAMNetwork, FaceNetwork, HeatmapBody, MEGraphBody

Body = Literal["heatmap", "megraph"]

# What a stage of ME-GraphAU does not share with the other.
GRAPH = ("net.graph.", "net.edges.", "net.layers.", "net.edge_classifier.")
BODY_CLASS: dict[Body, str] = {"heatmap": "HeatmapFAU", "megraph": "MEGraphAU"}
HIDDEN: dict[Body, list[int]] = {"heatmap": [2048, 1024, 512, 256], "megraph": []}  # Sec. III and IV-A


def check_image_size(data: Any, image_size: int) -> None:
    """Raise ModelError when the images of the DataModule have another side than the network was built for."""
    if data is not None and (side := getattr(data, "image_size", image_size)) != image_size:
        what = f"model.image_size {image_size}: the images of the data have {side} pixels"
        raise ModelError(what, "leave model.image_size at ${data.init_args.image_size}")


def check_aus(source: Mapping[str, Any], aus: list[int], path: str, key: str) -> None:
    """Raise ModelError unless a checkpoint knows just the AUs of the argument ``key``."""
    if (known := list(source["model"]["aus"])) != aus:
        raise ModelError(f"checkpoint {path}: knows the AUs {known}, {key} is {aus}", f"set {key}={known}")


def cosine(optimizer: torch.optim.Optimizer, steps: int) -> dict[str, Any]:
    """Optimiser whose learning rate falls to 0 along half a cosine, step by step."""
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * step / steps)) / 2)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class HeatmapFAU(AUClassifier):
    """FAU (Fan, Lam and Li, AAAI 2020): intensities as the heights of heat-maps at two points of every AU.

    Args:
        aus: FACS numbers; those that have points in ``AU_POINTS``.
        image_size: Side of the images, a multiple of 32; correspondence layers fit one size.
        backbone: Name of a timm ResNet.
        width: Factor on all channels; 1 as published.
        scc: ``none`` as in the PyTorch release; correspondence layers whose nodes are ``channel``s, as in the paper, or
            what the TensorFlow code makes of them (``tf``).
        sigma: Of the Gaussians, in pixels of the maps.
        pretrained: True = timm's ImageNet weights, a path = a file of them.
        backbone_checkpoint: Checkpoint of another HeatmapFAU run to start from; maps of AUs are mapped by their number.
        allow_crop_mismatch: Whether that run, or one that is scored, may have seen other crops.
        lr: Of Adam.
        weight_decay: L2 on convolutions.
        milestones: Epochs after which the learning rate is divided by ten.
        seed: Of the draws during training.
    """

    network: HeatmapBody

    def __init__(
        self,
        aus: list[int],
        image_size: int = 96,
        backbone: str = "resnet50.tv_in1k",
        width: float = 1.0,
        scc: Correspondence = "none",
        sigma: float = 2.0,
        pretrained: bool | str = False,
        backbone_checkpoint: str | None = None,
        allow_crop_mismatch: bool = False,
        lr: float = 5e-4,
        weight_decay: float = 1e-5,
        milestones: list[int] = [5],  # noqa: B006  # never changed
        seed: int = 0,
    ) -> None:
        super().__init__(
            aus, backbone, width, pretrained, backbone_checkpoint, allow_crop_mismatch, "intensity", lr, weight_decay,
            seed,
        )  # fmt: skip
        self.image_size, self.scc, self.sigma = image_size, scc, sigma
        self.milestones = milestones
        self.create_network()

    def build(self, backbone: nn.Module) -> HeatmapBody:
        """See Classifier."""
        net = FAU(backbone, POINTS * len(self.aus), self.width, self.scc, self.image_size)
        return HeatmapBody(net, len(self.aus))

    def check(self, data: dict[str, Any] | None) -> None:
        """See AUClassifier."""
        if unknown := [au for au in self.aus if au not in AU_POINTS]:
            raise ModelError(f"model.aus: no points are known for {unknown}", f"choose from {list(AU_POINTS)}")
        super().check(data)

    def setup(self, stage: str) -> None:
        """See AUClassifier; when a fit begins also whether the data have landmarks and intensities at all."""
        data = getattr(self.trainer, "datamodule", None)
        check_image_size(data, self.image_size)
        super().setup(stage)
        if stage != "fit" or data is None:
            return
        check_landmarks(data, "HeatmapFAU")
        if not (data.train_labels("intensity") >= 0).any():
            what = f"HeatmapFAU learns intensities, and {data.dataset} has none of the AUs {self.aus} in training"
            raise ModelError(what, "take a dataset that codes intensities, or model.class_path=MEGraphAU")

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Mean squared error of the maps whose target is known."""
        maps = self.network(self.pictures(batch))
        points = au_points(batch["landmarks"], self.aus)
        intensity = batch["intensity"].repeat_interleave(POINTS, 1)
        height, width = maps.shape[2:]
        return {"heatmap": heatmap_loss(maps, heatmap_targets(points, intensity, height, width, self.sigma))}

    def predictions(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """``expected`` (B, A), the height of the maps, and ``level`` (B, A), rounded."""
        return self.network.readout(self.network(self.pictures(batch)))

    def configure_optimizers(self) -> Any:
        """Adam, its learning rate lowered in steps."""
        optimizer = torch.optim.Adam(self.parameter_groups(), lr=self.lr)
        return {
            "optimizer": optimizer,
            "lr_scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, self.milestones),
        }

    def facts(self) -> dict[str, Any]:
        """See AUClassifier; which correspondence layers there are."""
        return super().facts() | {"scc": self.scc}


class MEGraphAU(AUClassifier):
    """ME-GraphAU (Luo et al., IJCAI 2022): occurrence as similarity to a trained centre of every AU.

    Args:
        aus: FACS numbers.
        stage: ``anfl``, the first stage, or ``mefl``, which starts from its checkpoint.
        neighbors: Of a node in ANFL: 4 for BP4D, 3 for DISFA.
        edge_weight: Of the loss of the edges in MEFL; 0.05 for BP4D, unpublished for DISFA.
        backbone: Name of a timm ResNet.
        width: Factor on all channels; 1 as published.
        pretrained: True = timm's ImageNet weights, a path = a file of them.
        backbone_checkpoint: Checkpoint of another MEGraphAU run of the same AUs. MEFL takes from ANFL all but its
            graph.
        allow_crop_mismatch: Whether that run, or one that is scored, may have seen other crops.
        lr: Of AdamW, falling to 0 along half a cosine; 1e-4 in the first stage, 1e-5 in the second.
        weight_decay: Of AdamW, on all parameters.
        seed: Of the draws during training.
    """

    network: MEGraphBody
    au_weight: Tensor

    def __init__(
        self,
        aus: list[int],
        stage: Stage = "mefl",
        neighbors: int = 4,
        edge_weight: float = 0.05,
        backbone: str = "resnet50.tv_in1k",
        width: float = 1.0,
        pretrained: bool | str = False,
        backbone_checkpoint: str | None = None,
        allow_crop_mismatch: bool = False,
        lr: float = 1e-4,
        weight_decay: float = 5e-4,
        seed: int = 0,
    ) -> None:
        super().__init__(
            aus, backbone, width, pretrained, backbone_checkpoint, allow_crop_mismatch, "occurrence", lr, weight_decay,
            seed,
        )  # fmt: skip
        self.stage, self.neighbors, self.edge_weight = stage, neighbors, edge_weight
        self.register_buffer("au_weight", torch.ones(len(aus)))
        self.create_network()

    def build(self, backbone: nn.Module) -> MEGraphBody:
        """See Classifier."""
        return MEGraphBody(MEGraph(backbone, len(self.aus), self.stage, self.neighbors), len(self.aus))

    def check(self, data: dict[str, Any] | None) -> None:
        """See AUClassifier."""
        if self.neighbors < 1:
            raise ModelError(f"model.neighbors {self.neighbors}: a node has one or more", "set model.neighbors=4")
        super().check(data)

    def take_over(self, source: dict[str, Any], path: str) -> dict[str, Tensor]:
        """All tensors of the same stage; of the stage before all but its graph, whose place MEFL's own takes."""
        check_class(source, type(self).__name__, path)
        check_aus(source, self.aus, path, "model.aus")
        own, theirs = self.network.state_dict(), network_state(source)
        before = source["hyper_parameters"]["stage"]
        if before == self.stage:
            return map_weights(own, theirs, [], [], ())
        if before == "mefl":
            raise ModelError(f"checkpoint {path}: of the stage mefl, which follows anfl", "set model.stage=mefl")
        shared = {name: tensor for name, tensor in own.items() if not name.startswith(GRAPH)}
        theirs = {name: tensor for name, tensor in theirs.items() if not name.startswith(GRAPH)}
        return own | map_weights(shared, theirs, [], [], ())

    def setup(self, stage: str) -> None:
        """See AUClassifier; when a fit begins also the weights of the AUs, from the training labels of the fold."""
        super().setup(stage)
        if stage != "fit":
            return
        if (data := getattr(self.trainer, "datamodule", None)) is None:
            raise ModelError("MEGraphAU weighs AUs by training labels and got no DataModule", "fit it with datamodule=")
        rates = occurrence_rates(torch.as_tensor(data.train_labels("occurrence")))
        self.au_weight.copy_(frequency_weights(rates, self.aus))

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Weighted asymmetric loss of the AUs; in MEFL also cross-entropy of the edges."""
        similarity, edge = self.network(self.pictures(batch), with_edges=True)
        terms = {"au": weighted_asymmetric_loss(similarity, batch["au"], self.au_weight)}
        if edge is not None:
            terms["edge"] = self.edge_weight * edge_loss(edge, batch["au"])
        return terms

    def predictions(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """``au_prob`` (B, A), a similarity in [0, 1] and no probability."""
        return self.network.readout(self.network(self.pictures(batch)))

    def configure_optimizers(self) -> Any:
        """AdamW, its learning rate along half a cosine."""
        optimizer = torch.optim.AdamW(self.network.parameters(), self.lr, weight_decay=self.weight_decay)
        return cosine(optimizer, int(self.trainer.estimated_stepping_batches))

    def facts(self) -> dict[str, Any]:
        """See AUClassifier; the weights of the AUs, and what ``au_prob`` is."""
        weights = {f"AU{au:02d}": weight for au, weight in zip(self.aus, self.au_weight.tolist(), strict=False)}
        return super().facts() | {"stage": self.stage, "au_weight": weights, "au_prob": "cosine similarity"}


class EmotiRAMFAU(Classifier):
    """Emotions from the output of an AU network by fully connected layers (Masur et al., 2023).

    Args:
        expressions: Names of the classes, in the order of the labels of the dataset.
        body: The AU network: ``heatmap`` (HeatmapFAU) or ``megraph`` (MEGraphAU).
        body_aus: Its AUs.
        aus: Those of the data, which are not used; CAER-S has none.
        image_size: Side of the images; the first layer behind heat-maps depends on it.
        backbone: Name of a timm ResNet.
        width: Factor on the channels of backbone and body; 1 as published.
        scc: Of HeatmapFAU.
        stage: Of MEGraphAU.
        neighbors: Of MEGraphAU.
        hidden: Units of the layers before the last one; by default the paper's for this body.
        dropout: Behind each of them; the paper names none.
        pretrained: True = timm's ImageNet weights for the backbone, a path = a file of them.
        backbone_checkpoint: Of the body: checkpoint of a HeatmapFAU or MEGraphAU run, or their published weights; or
            checkpoint of another EmotiRAMFAU run of the same classes, all of which is taken.
        allow_crop_mismatch: Whether that run may have seen other crops.
        frozen: Whether the body stays as it came. Without weights to come from it is a random projection.
        au_loss_weight: Above 0, the body's output is held to what it was when it came, by the mean squared difference
            on the same images: emotions are learnt on pictures without AU labels, so that the AU network itself is the
            only one to say what it should not forget.
        lr: Of AdamW for the body, falling to 0 along half a cosine.
        head_lr_factor: How many times ``lr`` the layers behind it learn with.
        weight_decay: Of AdamW, on convolutions and linear layers.
        seed: Of the draws during training.
    """

    network: EmotiRAMNetwork
    monitor = "val/accuracy"

    def __init__(
        self,
        expressions: list[str],
        body: Body,
        body_aus: list[int],
        aus: list[int] = [],  # noqa: B006  # never changed
        image_size: int = 96,
        backbone: str = "resnet50.tv_in1k",
        width: float = 1.0,
        scc: Correspondence = "none",
        stage: Stage = "mefl",
        neighbors: int = 4,
        hidden: list[int] | None = None,
        dropout: float = 0.0,
        pretrained: bool | str = False,
        backbone_checkpoint: str | None = None,
        allow_crop_mismatch: bool = False,
        frozen: bool = False,
        au_loss_weight: float = 0.0,
        lr: float = 1e-4,
        head_lr_factor: float = 10.0,
        weight_decay: float = 5e-4,
        seed: int = 0,
    ) -> None:
        super().__init__(
            aus, backbone, width, pretrained, backbone_checkpoint, allow_crop_mismatch, lr, weight_decay, seed
        )
        self.task = "expression"
        self.expressions = list(expressions)
        self.body: Body = body
        self.predicted_aus = list(body_aus)
        self.image_size, self.scc, self.neighbors = image_size, scc, neighbors
        self.stage: Stage = stage
        self.hidden = HIDDEN[body] if hidden is None else list(hidden)
        self.dropout = dropout
        self.frozen, self.au_loss_weight = frozen, au_loss_weight
        self.head_lr_factor = head_lr_factor
        self.source_kind = "checkpoint"  # what ``backbone_checkpoint`` is, once it was read
        self.teacher: list[AUBody] = []  # in a list: no part of the network, checkpoints do without
        self.create_network()

    def build(self, backbone: nn.Module) -> EmotiRAMNetwork:
        """See Classifier."""
        n_aus = len(self.predicted_aus)
        body: AUBody
        if self.body == "heatmap":
            body = HeatmapBody(FAU(backbone, POINTS * n_aus, self.width, self.scc, self.image_size), n_aus)
        else:
            body = MEGraphBody(MEGraph(backbone, n_aus, self.stage, self.neighbors), n_aus)
        network = EmotiRAMNetwork(body, self.hidden, len(self.expressions), self.dropout, self.frozen)
        if self.body == "megraph" and self.stage == "mefl":
            # Emotions ask nothing of the edges, and DDP would wait for their gradients.
            network.get_submodule("body.net.edge_classifier").requires_grad_(False)
        return network

    @property
    def published(self) -> bool:
        """Whether the body's weights come from a file that others published."""
        return bool(self.backbone_checkpoint and not is_own(self.backbone_checkpoint))

    @property
    def initialisation(self) -> str:
        """As Classifier; ``au:<hash>`` where an AU stage trained the body, ``published au:<hash>`` where others did."""
        found = super().initialisation
        return found.replace("checkpoint", self.source_kind, 1) if self.backbone_checkpoint else found

    def check(self, data: dict[str, Any] | None) -> None:
        """See Classifier; also that the settings make sense together."""
        aus = self.predicted_aus
        if not aus or len(set(aus)) < len(aus):
            raise ModelError(f"model.body_aus: {aus} is empty or names an AU twice", "list each AU number once")
        if len(set(self.expressions)) < max(2, len(self.expressions)):
            what = f"model.expressions: {', '.join(self.expressions) or 'none'}"
            raise ModelError(what, "name each class of the data once, two or more")
        if self.au_loss_weight and (self.frozen or not self.backbone_checkpoint):
            what = f"model.au_loss_weight {self.au_loss_weight}: " + (
                "a frozen body forgets nothing" if self.frozen else "no AU network to be true to"
            )
            raise ModelError(what, "set it to 0, or give model.backbone_checkpoint and model.frozen=false")
        super().check(data)

    def check_source(self, path: str, data: dict[str, Any]) -> None:
        """See Classifier; what others published does not say whom it has seen."""
        if not self.published:
            super().check_source(path, data)

    def setup(self, stage: str) -> None:
        """See Classifier; when a fit begins also the AU network that ``au_loss_weight`` holds the body to."""
        check_image_size(getattr(self.trainer, "datamodule", None), self.image_size)
        super().setup(stage)
        if stage == "fit" and self.au_loss_weight:
            teacher = copy.deepcopy(self.network.body)
            teacher.load_state_dict(self.initial_body())  # also in a fit that goes on, whose body has moved
            self.teacher = [teacher.requires_grad_(False).eval()]

    def initial_body(self) -> dict[str, Tensor]:
        """State dict of the body as it came from ``backbone_checkpoint``; raises ModelError without one."""
        if not self.backbone_checkpoint:
            raise ModelError("model.backbone_checkpoint: none, so no AU stage is behind the body", "give one")
        return _part(self._initial_weights() or {}, "body.")

    def on_fit_start(self) -> None:
        """Bring the teacher to the device of the network."""
        for teacher in self.teacher:
            teacher.to(self.device)

    def _initial_weights(self) -> dict[str, Tensor] | None:
        if self.backbone_checkpoint and self.published:
            return self._with_body(self._published_body(self.backbone_checkpoint), self.backbone_checkpoint)
        return super()._initial_weights()

    def take_over(self, source: dict[str, Any], path: str) -> dict[str, Tensor]:
        """The body of an AU stage, or all of another EmotiRAMFAU."""
        if source["model"]["class"] == type(self).__name__:
            theirs = [list(source["model"]["expressions"]), list(source["hyper_parameters"]["body_aus"])]
            if theirs != [self.expressions, self.predicted_aus]:
                what = f"checkpoint {path}: tells {', '.join(theirs[0])} by the AUs {theirs[1]}"
                raise ModelError(what, "take a source with the same model.expressions and model.body_aus")
            self.source_kind = "checkpoint"
            return map_weights(self.network.state_dict(), network_state(source), [], [], ())
        check_class(source, BODY_CLASS[self.body], path)
        check_aus(source, self.predicted_aus, path, "model.body_aus")
        if self.body == "megraph" and (theirs_stage := source["hyper_parameters"]["stage"]) != self.stage:
            raise ModelError(f"checkpoint {path}: of the stage {theirs_stage}", f"set model.stage={theirs_stage}")
        self.source_kind = "au"
        return self._with_body(network_state(source), path)

    def _published_body(self, path: str) -> dict[str, Tensor]:
        from lightning_modules.published import load_published  # which reads this folder

        kind = "fau_heatmap" if self.body == "heatmap" else f"megraph_{self.stage}"
        net = load_published(kind, path)
        n_aus = net.final.out_channels // POINTS if isinstance(net, FAU) else len(net.get_parameter("centres"))
        if n_aus != len(self.predicted_aus):
            what = f"checkpoint {path}: knows {n_aus} AUs, model.body_aus is {self.predicted_aus}"
            raise ModelError(what, "name the AUs that the file was trained on, in its order")
        self.source_kind = "published au"
        return {f"net.{name}": tensor for name, tensor in net.state_dict().items()}

    def _with_body(self, body: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
        own = self.network.state_dict()
        theirs = {f"body.{name}": tensor for name, tensor in body.items()}
        return own | map_weights({k: v for k, v in own.items() if k.startswith("body.")}, theirs, [], [], ())

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Cross-entropy of the known expressions; with ``au_loss_weight`` also the distance to the teacher."""
        image = self.pictures(batch)
        output, logit = self.network(image)
        terms = {"expression": masked_cross_entropy(logit, batch["expression"])}
        for teacher in self.teacher:
            code = self.network.body.code
            with torch.no_grad():
                target = code(teacher(image))
            terms["au"] = self.au_loss_weight * F.mse_loss(at_least_single(code(output)), at_least_single(target))
        return terms

    def predictions(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """``expression_prob`` (B, K), and what the body says of its AUs (see its own stage)."""
        output, logit = self.network(self.pictures(batch))
        return {"expression_prob": logit.float().softmax(-1), **self.network.body.readout(output)}

    def features(self, batch: dict[str, Any]) -> Tensor:
        """What the last layer sees: (B, F)."""
        return self.network.features(self.pictures(batch))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The body, unless it is frozen, and the layers behind it at their own learning rate."""
        network, decay = self.network, self.weight_decay
        groups = [g | {"lr": self.lr * self.head_lr_factor} for g in param_groups_weight_decay(network.head, decay)]
        groups += [] if self.frozen else param_groups_weight_decay(network.body, decay)
        return [group for group in groups if group["params"]]

    def configure_optimizers(self) -> Any:
        """AdamW, its learning rates along half a cosine."""
        optimizer = torch.optim.AdamW(self.parameter_groups(), self.lr)
        return cosine(optimizer, int(self.trainer.estimated_stepping_batches))

    def facts(self) -> dict[str, Any]:
        """See Classifier; the body, and what of it is trained."""
        return super().facts() | {
            "body": self.body,
            "body_aus": self.predicted_aus,
            "frozen": self.frozen,
            "au_loss_weight": self.au_loss_weight,
            "trained_parameters": sum(p.numel() for p in self.parameters() if p.requires_grad),
        }


class EmotiRAMFace(AUModule):
    """EmotiRAM-f, the face stream that EmotiRAM-FAU replaces: convolutions that know nothing of action units.

    Args:
        expressions: Names of the classes, in the order of the labels of the dataset.
        aus: Those of the data, which are not used.
        width: Factor on the channels; 1 as in CAER-Net-S.
        dropout: Before the last layer.
        pretrained: Nothing is fetched; a key that overlays set for every model.
        lr: Of SGD with Nesterov momentum, falling to 0 along half a cosine.
        momentum: Of SGD.
        weight_decay: Of SGD, on convolutions and linear layers.
        seed: Of the draws during training.
    """

    network: FaceNetwork
    monitor = "val/accuracy"

    def __init__(
        self,
        expressions: list[str],
        aus: list[int] = [],  # noqa: B006  # never changed
        width: float = 1.0,
        dropout: float = 0.5,
        pretrained: Literal[False] = False,
        lr: float = 1e-2,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        seed: int = 0,
    ) -> None:
        super().__init__(aus, seed)
        self.task, self.backbone = "expression", "face stream"
        self.expressions = list(expressions)
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.network = FaceNetwork(len(expressions), width, dropout).to(memory_format=torch.channels_last)

    def pictures(self, batch: dict[str, Any]) -> Tensor:
        """What the network takes of a batch: (B, 3, H, W) uint8."""
        return batch["image"]

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Cross-entropy of the known expressions."""
        return {"expression": masked_cross_entropy(self.network(self.pictures(batch)), batch["expression"])}

    def predictions(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """``expression_prob`` (B, K)."""
        return {"expression_prob": self.network(self.pictures(batch)).float().softmax(-1)}

    def features(self, batch: dict[str, Any]) -> Tensor:
        """Features before the two linear layers: (B, F)."""
        return self.network.features(self.pictures(batch))

    def configure_optimizers(self) -> Any:
        """SGD, its learning rate along half a cosine."""
        groups = param_groups_weight_decay(self.network, self.weight_decay)
        optimizer = torch.optim.SGD(groups, self.lr, momentum=self.momentum, nesterov=True)
        return cosine(optimizer, int(self.trainer.estimated_stepping_batches))

    def facts(self) -> dict[str, Any]:
        """See the base class."""
        return {"parameters": sum(parameter.numel() for parameter in self.parameters())}


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
