"""AUNet and the stages before it: FAN by landmarks, the VAE of labels, then action units (Yang et al., 2023)."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_modules.aunet import network as nets
from lightning_modules.aunet.losses import (
    Consistency,
    complete,
    heatmap_loss,
    joined_consistency,
    vae_losses,
    vae_terms,
    weighted_bce,
)
from lightning_modules.aunet.network import FAN, Pool, Variant
from lightning_modules.base import AUModule
from lightning_modules.common.backbones import unit_range
from lightning_modules.common.classifier import AUClassifier
from lightning_modules.common.errors import ModelError
from lightning_modules.common.heads import au_predictions
from lightning_modules.common.landmarks import check_landmarks
from lightning_modules.common.losses import frequency_weights, occurrence_rates
from lightning_modules.common.weights import (
    check_class,
    check_leakage,
    crops_differ,
    is_own,
    load_strictly,
    network_state,
    provenance,
    read_checkpoint,
)


def centre_frame(batch: Mapping[str, Any]) -> Tensor:
    """The frame that labels and landmarks belong to, of images or of clips: (B, 3, H, W) uint8."""
    return batch["image"] if "image" in batch else batch["clip"][:, batch["clip"].shape[1] // 2]


class FaceAligner(AUModule):
    """FAN, trained to find 68 landmarks: the feature of AUNet where no published weights are at hand.

    From the first of ``milestones`` on its batch normalisations keep their statistics, so that it is trained as it will
    be used. Otherwise pictures unlike the rest of a batch, whose statistics hold them down in training, may leave the
    frozen FAN with features a hundred times as large as others, from which no head learns. An earlier epoch is chosen
    only where training ends before that.

    Args:
        aus: Of the data, whose validation subjects are drawn by them; not used otherwise.
        width: Factor on all channels; 1 as published.
        depth: Of the hourglasses; the side of pictures is a multiple of 4 * 2^depth.
        stacks: How many hourglasses.
        pool: ``max`` as in AUNet's FAN.
        sigma: Of the heat-maps' Gaussians, in pixels of a quarter of the picture's resolution.
        pretrained: Nothing is fetched; a key that overlays set for every model.
        lr: Of Adam.
        milestones: Epochs after which it is multiplied by ``gamma``.
        gamma: See ``milestones``.
        seed: Of the draws during training.
    """

    monitor = "val/nme"
    monitor_mode = "min"
    network: FAN

    def __init__(
        self,
        aus: list[int],
        width: float = 1.0,
        depth: int = 4,
        stacks: int = 2,
        pool: Pool = "max",
        sigma: float = 1.0,
        pretrained: Literal[False] = False,
        lr: float = 1e-4,
        milestones: list[int] = [15, 30],  # noqa: B006  # never changed
        gamma: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(aus, seed)
        self.backbone = "fan"
        self.task = "landmarks"
        self.sigma, self.lr, self.milestones, self.gamma = sigma, lr, milestones, gamma
        self.settles_at = min(milestones, default=0)
        self.fault: ModelError | None = None
        try:
            self.network = FAN(width, depth, stacks, pool).to(memory_format=torch.channels_last)
        except ModelError as fault:  # waits for `check`, as in AUClassifier
            self.fault = fault

    def check(self, data: dict[str, Any] | None) -> None:
        """See the base class."""
        if self.fault:
            raise self.fault
        super().check(data)

    def setup(self, stage: str) -> None:
        """When a fit begins: look whether the data have landmarks at all."""
        data = getattr(self.trainer, "datamodule", None)
        if stage != "fit" or data is None:
            return
        check_landmarks(data, "FaceAligner")

    def on_train_epoch_start(self) -> None:
        """Keep the statistics of batch normalisations once the learning rate has fallen."""
        if self.milestones and self.current_epoch >= self.settles_at:
            for module in self.network.modules():
                if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):  # synchronised ones too
                    module.eval()

    def pictures(self, batch: dict[str, Any]) -> Tensor:
        """What FAN takes of a batch: (B, 3, H, W) in [0, 1]."""
        return unit_range(centre_frame(batch))

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Squared error of the heat-maps of all stacks."""
        _, _, heatmaps = self.network.stages(self.pictures(batch))
        return {"heatmap": heatmap_loss(heatmaps, batch["landmarks"], self.sigma)}

    def predictions(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """``landmarks_hat`` (B, 68, 2) in pixels of the picture and ``confidence`` (B,), the mean height of peaks."""
        heatmaps = self.network(self.pictures(batch)).heatmaps
        landmarks, _ = nets.decode_landmarks(heatmaps)
        return {"landmarks_hat": landmarks, "confidence": nets.peak_confidence(heatmaps)}

    def configure_optimizers(self) -> Any:
        """Adam, its learning rate lowered in steps."""
        optimizer = torch.optim.Adam(self.parameters(), self.lr)
        return {"optimizer": optimizer, "lr_scheduler": stepwise(optimizer, self.milestones, self.gamma)}


class LabelVAE(AUModule):
    """The variational auto-encoder of a fold's training labels (Sec. IV-B). It looks at no picture.

    Args:
        aus: FACS numbers.
        latent: Z; the paper takes 8 for BP4D, 6 for DISFA, 5 for Aff-Wild2.
        kld_weight: lambda of Eq. 2; the paper chooses from 0.1, 0.2 and 0.3.
        amplitude: Labels are corrupted by U(-amplitude, amplitude).
        pretrained: Nothing is fetched; a key that overlays set for every model.
        lr: Of Adam.
        seed: Of the draws during training.
    """

    monitor = "val/loss"
    monitor_mode = "min"
    network: nets.LabelVAE

    def __init__(
        self,
        aus: list[int],
        latent: int = 8,
        kld_weight: float = 0.1,
        amplitude: float = 0.2,
        pretrained: Literal[False] = False,
        lr: float = 1e-3,
        seed: int = 0,
    ) -> None:
        super().__init__(aus, seed)
        self.latent, self.kld_weight, self.amplitude, self.lr = latent, kld_weight, amplitude, lr
        self.task = "labels"
        self.network = nets.LabelVAE(len(aus), max(latent, 1))

    def check(self, data: dict[str, Any] | None) -> None:
        """See the base class."""
        if self.latent < 1:
            raise ModelError(f"model.latent {self.latent}: no code is that short", "set model.latent to 1 or more")
        super().check(data)

    def setup(self, stage: str) -> None:
        """When a fit begins: look whether any frame can enter the encoder."""
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and data is not None and not (data.train_labels("occurrence") >= 0).all(1).any():
            raise ModelError(
                f"no training frame of {data.dataset} has known labels of all of data.aus {self.aus}",
                "take AUs that are coded together; in a mixture each dataset has a VAE of its own",
            )

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Eq. 2, summed over the frames whose labels are all known."""
        return vae_losses(self.network, batch["au"], self.kld_weight, self.amplitude)

    def predictions(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """``au_prob`` (B, A), the labels reconstructed, and ``loss`` (B,), Eq. 2 of the frame without corruption.

        A frame with an unknown label enters no encoder: its ``loss`` is NaN, and ``au_prob`` is what the prior's mean
        decodes to, as for a frame of which nothing is known.
        """
        known = complete(batch["au"])
        target = batch["au"][known].float()
        mean, logvar = self.network.encode(target)
        logit = self.network.decode(mean)
        loss = torch.stack(list(vae_terms(logit, mean, logvar, target, self.kld_weight).values())).sum(0)
        prob = self.network.decode(mean.new_zeros(1, self.latent)).sigmoid().repeat(len(known), 1)
        every = prob.new_full((len(known),), torch.nan)
        prob[known], every[known] = logit.sigmoid(), loss
        return {"au_prob": prob, "loss": every}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant learning rate."""
        return torch.optim.Adam(self.parameters(), self.lr)


class AUNet(AUClassifier):
    """Action units from the features of a frozen FAN, with label VAE and temporal differences or without.

    AU-FAN: ``temporal: false`` and no ``vae_checkpoint``; AU-VAE: ``temporal: false``; AU-TDN: no ``vae_checkpoint``.
    A network that starts from ``backbone_checkpoint`` takes all of it, FAN too, and reads no ``fan_checkpoint``.

    Args:
        aus: FACS numbers.
        backbone: ``fan``, or a timm ResNet in its place.
        fan_checkpoint: Of FAN: checkpoints/best.ckpt of a FaceAligner run, or published weights such as 2dfan2.pth.
        vae_checkpoint: checkpoints/best.ckpt of a LabelVAE run; in a mixture {dataset: file} for each dataset that
            trains, of exactly its AUs among ``aus``.
        temporal: Whether the head sees the differences to the neighbours of a frame; needs ``data.neighbours``.
        consistency: Distance in the VAE: ``paper`` (Eq. 3), ``released`` or ``label``; see ``consistency_loss``.
        consistency_weight: gamma of Eq. 4; 0 = no VAE.
        differences: Which differences to the neighbours; see ``AUNetHead``.
        fusion: How they join the static branch; see ``AUNetHead``.
        alpha: Weight of the static branch in the released fusion.
        beta: Weight of the motion branch in the released fusion.
        width: Factor on the channels of backbone and head; 1 as published.
        depth: Of FAN's hourglasses.
        stacks: How many hourglasses.
        pool: Of FAN; published weights of the other pooling are refused where their statistics tell.
        frozen: Whether a timm backbone stays as it came; FAN always does.
        head: ``blocks`` = AU-FAN's or AUNet's; ``linear`` = the plain ResNet, mean over its last map and one layer.
        pretrained: Of a timm backbone: True = timm's ImageNet weights, a path = a file of them.
        backbone_checkpoint: Checkpoint of another AUNet run to start from; rows of AUs are mapped by their number.
        allow_crop_mismatch: Whether that run, or FaceAligner's, may have seen other crops.
        lr: Of AdamW.
        weight_decay: Of AdamW, on convolutions and linear layers; the release takes none.
        milestones: Epochs after which the learning rate is multiplied by ``gamma``.
        gamma: See ``milestones``; the paper's "degrading by 30 %" is a factor of 0.3 in the release.
        seed: Of the draws during training.
    """

    network: nets.FeatureHeadNetwork
    au_weight: Tensor

    def __init__(
        self,
        aus: list[int],
        backbone: str = "fan",
        fan_checkpoint: str | None = None,
        vae_checkpoint: str | dict[str, str] | None = None,
        temporal: bool = True,
        consistency: Consistency = "paper",
        consistency_weight: float = 1.0,
        differences: Variant = "released",
        fusion: Variant = "released",
        alpha: float = 0.9,
        beta: float = 0.1,
        width: float = 1.0,
        depth: int = 4,
        stacks: int = 2,
        pool: Pool = "max",
        frozen: bool = True,
        head: Literal["blocks", "linear"] = "blocks",
        pretrained: bool | str = False,
        backbone_checkpoint: str | None = None,
        allow_crop_mismatch: bool = False,
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        milestones: list[int] = [4, 8],  # noqa: B006  # never changed
        gamma: float = 0.3,
        seed: int = 0,
    ) -> None:
        super().__init__(
            aus, backbone, width, pretrained, backbone_checkpoint, allow_crop_mismatch, "occurrence", lr, weight_decay,
            seed,
        )  # fmt: skip
        self.fan_checkpoint, self.vae_checkpoint = fan_checkpoint, vae_checkpoint
        self.temporal = temporal
        self.consistency, self.consistency_weight = consistency, consistency_weight
        self.differences, self.fusion, self.alpha, self.beta = differences, fusion, alpha, beta
        self.depth, self.stacks, self.pool = depth, stacks, pool
        self.frozen, self.head = frozen, head
        self.milestones, self.gamma = milestones, gamma
        self.released = False  # whether the FAN is one that others published
        self.register_buffer("au_weight", torch.ones(len(aus)))
        # Not a part of the network: only training asks them, so checkpoints do without.
        self.vaes: dict[str, tuple[nets.LabelVAE, list[int]]] = {}
        self.create_network()

    def create_backbone(self, pretrained: bool | str = False) -> nn.Module:
        """FAN, or the timm backbone."""
        if self.backbone == "fan":
            return FAN(self.width, self.depth, self.stacks, self.pool)
        return super().create_backbone(pretrained)

    def build(self, backbone: nn.Module) -> nets.FeatureHeadNetwork:
        """See AUClassifier."""
        extractor: nets.FrozenFAN | nets.TimmMaps
        if isinstance(backbone, FAN):
            extractor, channels = nets.FrozenFAN(backbone), backbone.feature_channels
        else:
            extractor = nets.TimmMaps(backbone, self.head == "linear", self.frozen)
            channels = extractor.feature_channels
        inner = max(8, 8 * round(nets.CHANNELS * self.width / 8))
        if self.head == "linear":
            return nets.FeatureHeadNetwork(extractor, nets.LinearHead(len(self.aus), channels))
        if not self.temporal:
            return nets.FeatureHeadNetwork(extractor, nets.AUFANHead(len(self.aus), channels, inner))
        motion: dict[str, Any] = {"differences": self.differences, "fusion": self.fusion}
        motion |= {"alpha": self.alpha, "beta": self.beta}
        return nets.FeatureHeadNetwork(extractor, nets.AUNetHead(len(self.aus), channels, inner, **motion))

    @property
    def weights_file(self) -> str | None:
        """See AUClassifier."""
        return super().weights_file or (self.fan_checkpoint if self.backbone == "fan" else None)

    @property
    def initialisation(self) -> str:
        """As AUClassifier; ``fan:<hash>`` where FaceAligner trained it, ``published fan:<hash>`` where others did."""
        if self.backbone == "fan" and not self.backbone_checkpoint:
            source = f"{'published ' * self.released}fan:{self.source_hash}{' (other crop)' * self.crop_mismatch}"
            return source if self.fan_checkpoint else "none"
        return super().initialisation

    @property
    def has_vae(self) -> bool:
        """Whether a VAE takes part in training."""
        return bool(self.vae_checkpoint and self.consistency_weight)

    def vae_files(self, data: Mapping[str, Any]) -> dict[str, str]:
        """Dataset that trains -> checkpoint of its VAE; empty without VAEs.

        Args:
            data: ``dataset``, and in a mixture ``member_aus``: dataset -> AUs.

        Raises:
            ModelError: The files are not one for each dataset.
        """
        if not self.has_vae or not self.vae_checkpoint:
            return {}
        members = list(data.get("member_aus", [data.get("dataset", "")]))
        if isinstance(self.vae_checkpoint, str) and len(members) == 1:
            return {members[0]: self.vae_checkpoint}
        if isinstance(self.vae_checkpoint, str) or set(self.vae_checkpoint) != set(members):
            given = (
                "one file" if isinstance(self.vae_checkpoint, str) else f"files for {', '.join(self.vae_checkpoint)}"
            )
            raise ModelError(
                f"model.vae_checkpoint: {given}, and the datasets that train are {', '.join(members)}",
                "give each of them a LabelVAE of its own: {dataset: file}",
            )
        return self.vae_checkpoint

    def check(self, data: dict[str, Any] | None) -> None:
        """See AUClassifier; also the files of FAN and of the VAEs."""
        if self.head == "linear" and (self.temporal or self.backbone == "fan"):
            what = "model.head: a linear head takes a timm backbone and no neighbours"
            raise ModelError(what, "set model.head=blocks, or model.temporal=false and model.backbone=resnet18")
        if self.backbone == "fan" and (self.pretrained or not self.frozen):
            what = (
                "model.pretrained and model.frozen=false are for timm backbones: AUNet's FAN comes trained and stays so"
            )
            raise ModelError(what, "give model.fan_checkpoint alone")
        if self.backbone != "fan" and self.fan_checkpoint:
            what = f"model.fan_checkpoint: {self.backbone} stands in FAN's place"
            raise ModelError(what, "set model.fan_checkpoint=null, or model.backbone=fan")
        super().check(data)
        if self.backbone == "fan" and self.fan_checkpoint and not self.backbone_checkpoint and data:
            source = read_checkpoint(self.fan_checkpoint) if is_own(self.fan_checkpoint) else None
            self.released = source is None
            if source is not None:
                check_leakage(source, data, self.fan_checkpoint)
                self.crop_mismatch = crops_differ(source, data, self.fan_checkpoint, self.allow_crop_mismatch)
        self._check_vaes(data)

    def _check_vaes(self, data: dict[str, Any] | None) -> None:
        for name, path in self.vae_files(data or {}).items():
            source = read_checkpoint(path)
            check_class(source, "LabelVAE", path)
            _vae(path)
            if data is None:
                continue
            labels = data.get("member_aus", {}).get(name, self.aus)
            if (known := source["model"]["aus"]) != labels:
                raise ModelError(
                    f"model.vae_checkpoint: {path} knows the AUs {known}, the labels of {name} are {labels}",
                    "train the LabelVAE with the AUs that this dataset has of data.aus",
                )
            if (seen := provenance(source, path)["dataset"]) != name:
                raise ModelError(
                    f"model.vae_checkpoint: {path} has learnt the labels of {seen}, not of {name}",
                    "give each dataset a LabelVAE of its own labels",
                )
            check_leakage(source, data, path)

    def setup(self, stage: str) -> None:
        """Look for neighbours; when a fit begins also the initial weights, the weights of the AUs, and the VAEs."""
        data = getattr(self.trainer, "datamodule", None)
        neighbours = getattr(data, "neighbours", None)
        if self.temporal and neighbours == 0:
            raise ModelError(
                "model.temporal needs neighbours, and data.neighbours is 0", "set data.neighbours=10, as the paper"
            )
        if stage == "fit":
            if self.backbone == "fan" and not self.fan_checkpoint and not self.backbone_checkpoint:
                raise ModelError(
                    "model.fan_checkpoint: none given, and AUNet does not train its FAN",
                    "give a FaceAligner run's checkpoints/best.ckpt, or published weights such as 2dfan2.pth",
                )
            if self.temporal and data is not None and data.repeated_neighbours == 1:
                raise ModelError(
                    f"data.neighbours={neighbours}: no training frame has a neighbour that far away, so none moves",
                    "take a smaller data.neighbours, or set model.temporal=false",
                )
        super().setup(stage)
        if stage != "fit":
            return
        if data is None:
            raise ModelError("AUNet weighs AUs by training labels and got no DataModule", "fit it with datamodule=")
        rates = occurrence_rates(torch.as_tensor(data.train_labels("occurrence")))
        self.au_weight.copy_(frequency_weights(rates, self.aus))
        for name, path in self.vae_files(data.state_dict()).items():
            vae, aus = _vae(path)
            self.vaes[name] = vae, [self.aus.index(au) for au in aus]

    def on_fit_start(self) -> None:
        """Bring the VAEs to the device of the network."""
        for vae, _ in self.vaes.values():
            vae.to(self.device)

    def _initial_weights(self) -> dict[str, Tensor] | None:
        if self.backbone != "fan" or self.backbone_checkpoint:
            return super()._initial_weights()
        if not self.fan_checkpoint:
            return None
        fan = _fan(self.fan_checkpoint, self.width, self.depth, self.stacks, self.pool)
        ours = {f"extractor.fan.{name}": value for name, value in fan.state_dict().items()}
        return {**self.network.state_dict(), **ours}

    def pictures(self, batch: dict[str, Any]) -> Tensor:
        """Clips (B, 3, 3, H, W) where the head is temporal, else pictures (B, 3, H, W)."""
        if not self.temporal:
            return centre_frame(batch)
        if "clip" not in batch:
            raise ModelError("model.temporal needs neighbours, and the data have none", "set data.neighbours=10")
        return batch["clip"]

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Eq. 1, and gamma times Eq. 3 where there is a VAE (Eq. 4)."""
        logit, label = self.network(self.pictures(batch)).squeeze(2), batch["au"]
        terms = {"au": weighted_bce(logit, label, self.au_weight)}
        if self.vaes:
            distance = joined_consistency(self.vaes, batch["dataset"], logit, label, self.consistency)
            terms["consistency"] = self.consistency_weight * distance
        return terms

    def predictions(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """``au_prob`` (B, A), and ``confidence`` (B,) of FAN's landmarks in the current frame."""
        logit, confidence = self.network.with_confidence(self.pictures(batch))
        found = {} if confidence is None else {"confidence": confidence}
        return {**au_predictions(logit), **found}

    def configure_optimizers(self) -> Any:
        """AdamW, its learning rate lowered in steps."""
        groups = self.parameter_groups()
        optimizer = torch.optim.AdamW(groups, lr=self.lr)
        return {"optimizer": optimizer, "lr_scheduler": stepwise(optimizer, self.milestones, self.gamma)}

    @property
    def variant(self) -> str:
        """Name in the paper's Table VI, or what stands in FAN's place."""
        if self.backbone == "fan":
            return (("AU-FAN", "AU-TDN"), ("AU-VAE", "AUNet"))[self.has_vae][self.temporal]
        parts = [self.backbone, *["frozen"] * self.frozen, *["VAE"] * self.has_vae, *["TDN"] * self.temporal]
        return " ".join(parts)

    def facts(self) -> dict[str, Any]:
        """See AUClassifier; the variant, the weights of the AUs and the VAEs."""
        return super().facts() | {
            "variant": self.variant,
            "trained_parameters": sum(p.numel() for p in self.parameters() if p.requires_grad),
            "au_weight": {f"AU{au:02d}": weight for au, weight in zip(self.aus, self.au_weight.tolist(), strict=False)},
            "consistency": self.consistency if self.has_vae else None,
            "differences": self.differences if self.temporal else None,
            "fusion": self.fusion if self.temporal else None,
        }


def stepwise(
    optimizer: torch.optim.Optimizer, milestones: list[int], gamma: float
) -> torch.optim.lr_scheduler.LRScheduler:
    """Learning rate times ``gamma`` after each of the epochs ``milestones``."""
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma)


def _fan(path: str, width: float, depth: int, stacks: int, pool: Pool) -> FAN:
    """The FAN of a FaceAligner run, or a published one, of this architecture and no other."""
    declared: dict[str, Any] = {"width": width, "depth": depth, "stacks": stacks, "pool": pool}
    if not is_own(path):
        from lightning_modules.published import load_published  # which reads this folder

        fan = load_published("fan", path, **declared)
        assert isinstance(fan, FAN)
        return fan
    source = read_checkpoint(path)
    check_class(source, "FaceAligner", path)
    for name, value in declared.items():
        if (theirs := source["hyper_parameters"][name]) != value:
            raise ModelError(
                f"model.{name} {value}: the FAN of {path} was trained with {theirs}", f"set model.{name}={theirs}"
            )
    fan = FAN(**declared)
    load_strictly(fan, network_state(source), path)
    return fan


def _vae(path: str) -> tuple[nets.LabelVAE, list[int]]:
    """The VAE of a LabelVAE run, frozen, and its AUs."""
    source = read_checkpoint(path)
    aus = list(source["model"]["aus"])
    vae = nets.LabelVAE(len(aus), source["hyper_parameters"]["latent"])
    load_strictly(vae, network_state(source), path)
    return vae.requires_grad_(False).eval(), aus
