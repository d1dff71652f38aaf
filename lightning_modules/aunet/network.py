"""AUNet: a face-alignment network as frozen feature, two heads that find AUs in it, and the VAE of labels. Pure torch.

Yang, Hristov, Shen, Lin and Pantic, "Towards Robust Facial Action Units Detection", Proceedings of the IEEE, 2023.
Sections, equations and figures below are the paper's; "the release" is the code that its authors published.
"""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.common.backbones import InputNormalization, unit_range
from lightning_modules.common.errors import ModelError
from lightning_modules.common.heads import AUNetwork
from lightning_modules.common.precision import at_least_single

Pool = Literal["max", "avg"]
Variant = Literal["paper", "released"]

CHANNELS = 256  # of FAN's hourglasses, as published
LANDMARKS = 68
STRIDE = 4  # pixels of the image a pixel of FAN's maps


class ConvBlock(nn.Module):
    """FAN's multi-scale residual block (Fig. 5): three 3x3 convolutions in a row, whose outputs are all kept.

    Args:
        in_channels: C_in.
        channels: C_out, a multiple of 4; half of it from the first convolution, a quarter from each other.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, half, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, quarter, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(quarter)
        self.conv3 = nn.Conv2d(quarter, quarter, 3, padding=1, bias=False)
        self.downsample = None
        if in_channels != channels:
            project = nn.Conv2d(in_channels, channels, 1, bias=False)
            self.downsample = nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU(), project)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C_in, h, w) -> (B, C_out, h, w)."""
        # In place: a twentieth of FAN's time on a CPU, and every map of this size once less in memory.
        first = self.conv1(F.relu(self.bn1(x), inplace=True))
        second = self.conv2(F.relu(self.bn2(first), inplace=True))
        third = self.conv3(F.relu(self.bn3(second), inplace=True))
        return torch.cat([first, second, third], 1).add_(x if self.downsample is None else self.downsample(x))


def halve(x: Tensor, pool: Pool) -> Tensor:
    """Pool 2x2: (B, C, h, w) -> (B, C, h/2, w/2)."""
    return F.max_pool2d(x, 2) if pool == "max" else F.avg_pool2d(x, 2)


class Hourglass(nn.Module):
    """Down and up again by factors of two, with a block beside it at every resolution.

    Args:
        channels: Of input, output and everything in between.
        depth: How often the resolution is halved.
        pool: How.
    """

    def __init__(self, channels: int, depth: int, pool: Pool) -> None:
        super().__init__()
        self.pool: Pool = pool
        self.skip = ConvBlock(channels, channels)
        self.down = ConvBlock(channels, channels)
        self.inner = Hourglass(channels, depth - 1, pool) if depth > 1 else ConvBlock(channels, channels)
        self.up = ConvBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, h, w); h and w are multiples of 2^depth."""
        low = self.up(self.inner(self.down(halve(x, self.pool))))
        return F.interpolate(low, scale_factor=2, mode="nearest").add_(self.skip(x))


class Stack(nn.Module):
    """One hourglass with its heat-maps, and in all stacks but the last the way back into the stem's feature.

    Args:
        channels: C.
        depth: Of the hourglass.
        pool: Of the hourglass.
        landmarks: L.
        last: Whether no stack follows.
    """

    def __init__(self, channels: int, depth: int, pool: Pool, landmarks: int, last: bool) -> None:
        super().__init__()
        self.hourglass = Hourglass(channels, depth, pool)
        self.top = ConvBlock(channels, channels)
        self.conv = nn.Conv2d(channels, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        self.heatmaps = nn.Conv2d(channels, landmarks, 1)
        self.back = None if last else nn.Conv2d(channels, channels, 1)
        self.heatmaps_back = None if last else nn.Conv2d(landmarks, channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x: (B, C, h, w) -> feature of this stack (B, C, h, w), heat-maps (B, L, h, w), input of the next stack.

        The feature is what the release takes: behind the last ReLU in the last stack, and behind the linear
        convolution that follows it in the others, so that only there it can be negative.
        """
        feature = F.relu(self.norm(self.conv(self.top(self.hourglass(x)))))
        heatmaps = self.heatmaps(feature)
        if self.back is None or self.heatmaps_back is None:
            return feature, heatmaps, x
        back = self.back(feature)
        return back, heatmaps, x + back + self.heatmaps_back(heatmaps)


class FANOutput(NamedTuple):
    """Everything that AUNet takes from FAN for images (B, 3, H, W); C = 256 channels at full width.

    Attributes:
        low: F_l (B, C, H/4, W/4), the feature before the first hourglass.
        hourglasses: F_h1, F_h2, ...: (B, C, H/4, W/4) a stack, not masked.
        heatmaps: F_hm (B, L, H/4, W/4) of the last stack.
        feature: (B, C (1 + stacks), H/4, W/4), see ``attention_feature``; 768 channels as published.
    """

    low: Tensor
    hourglasses: tuple[Tensor, ...]
    heatmaps: Tensor
    feature: Tensor


def attention_feature(low: Tensor, hourglasses: tuple[Tensor, ...], heatmaps: Tensor) -> Tensor:
    """Basic AU feature F of Sec. IV-A: F_l, F_h1, F_h2 in this order, all but F_l times the sum of the heat-maps."""
    mask = heatmaps.sum(1, keepdim=True, dtype=heatmaps.dtype)  # autocast would make it, and all of F, single precision
    return torch.cat([low, *(feature * mask for feature in hourglasses)], 1)


class FAN(nn.Module):
    """Face-alignment network: a stem to a quarter of the resolution, then hourglasses with a heat-map per landmark.

    Args:
        width: Factor on all channels; 1 as published.
        depth: Of the hourglasses.
        stacks: How many hourglasses.
        pool: ``max`` in AUNet's FAN and EmoNet's, ``avg`` in the four-stack network of the package face-alignment.
        landmarks: L.

    Raises:
        ModelError: A width that does not give a multiple of 8 channels.
    """

    def __init__(
        self, width: float = 1.0, depth: int = 4, stacks: int = 2, pool: Pool = "max", landmarks: int = LANDMARKS
    ) -> None:
        super().__init__()
        channels = round(CHANNELS * width)
        if channels != CHANNELS * width or channels % 8 or channels <= 0:
            raise ModelError(
                f"model.width {width}: FAN would have {CHANNELS * width} channels", "use a multiple of 1/32"
            )
        self.depth, self.pool = depth, pool
        self.channels = channels
        self.feature_channels = channels * (1 + stacks)
        self.conv1 = nn.Conv2d(3, channels // 4, 7, stride=2, padding=3)
        self.bn1 = nn.BatchNorm2d(channels // 4)
        self.conv2 = ConvBlock(channels // 4, channels // 2)
        self.conv3 = ConvBlock(channels // 2, channels // 2)
        self.conv4 = ConvBlock(channels // 2, channels)
        self.stacks = nn.ModuleList(Stack(channels, depth, pool, landmarks, i == stacks - 1) for i in range(stacks))

    @property
    def granularity(self) -> int:
        """Height and width of images must be multiples of this: 64 as published."""
        return STRIDE * 2**self.depth

    def stages(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """F_l, the feature of every stack and the heat-maps of every stack, which training supervises.

        Args:
            image: (B, 3, H, W) floating RGB in [0, 1]; no mean, no deviation.

        Raises:
            ModelError: H or W is no multiple of ``granularity``.
        """
        if image.shape[-1] % self.granularity or image.shape[-2] % self.granularity:
            size = f"{image.shape[-2]}x{image.shape[-1]}"
            raise ModelError(f"FAN of depth {self.depth}: {size} pixels", f"take a multiple of {self.granularity}")
        x = self.conv2(F.relu(self.bn1(self.conv1(image))))
        low = x = self.conv4(self.conv3(halve(x, self.pool)))
        features, heatmaps = [], []
        for stack in self.stacks:
            feature, heatmap, x = stack(x)
            features.append(feature)
            heatmaps.append(heatmap)
        return low, tuple(features), tuple(heatmaps)

    def forward(self, image: Tensor) -> FANOutput:
        """Image (B, 3, H, W) as for ``stages``."""
        low, hourglasses, heatmaps = self.stages(image)
        return FANOutput(low, hourglasses, heatmaps[-1], attention_feature(low, hourglasses, heatmaps[-1]))


def to_maps(landmarks: Tensor) -> Tensor:
    """Landmarks (..., 2) in pixels of the image -> in pixels of FAN's maps; (0, 0) = centre of the top left pixel."""
    return (landmarks + 0.5) / STRIDE - 0.5


def to_image(landmarks: Tensor) -> Tensor:
    """Inverse of ``to_maps``."""
    return (landmarks + 0.5) * STRIDE - 0.5


def decode_landmarks(heatmaps: Tensor, radius: float = 0.1) -> tuple[Tensor, Tensor]:
    """Landmarks as centroids around the peaks of heat-maps, and the heights of the peaks as confidence.

    The rule is that of the laboratory whose FAN the release takes (ibug.face_alignment); a whole-pixel peak would be
    off by up to two pixels of the image.

    Args:
        heatmaps: (B, L, h, w).
        radius: Of the neighbourhood of the peak, as a fraction of the side of the map.

    Returns:
        (B, L, 2) in pixels of the image, and (B, L).
    """
    heatmaps = heatmaps.float()
    height, width = heatmaps.shape[-2:]
    score, index = heatmaps.flatten(2).max(2)
    y = torch.arange(height, device=heatmaps.device)
    x = torch.arange(width, device=heatmaps.device)
    dy = y - (index // width).unsqueeze(-1)
    dx = x - (index % width).unsqueeze(-1)
    distance = dy.unsqueeze(-1) ** 2 + dx.unsqueeze(-2) ** 2
    weight = heatmaps.clamp(min=0) * (distance <= radius**2 * height * width)
    # Where no value is positive, as in a network just drawn, the peak itself is the answer.
    weight = weight + (distance == 0) * torch.finfo(weight.dtype).tiny
    total = weight.sum((2, 3))
    centroid = torch.stack([(weight.sum(2) * x).sum(2) / total, (weight.sum(3) * y).sum(2) / total], -1)
    return to_image(centroid), score


def _classifier(channels: int, n_aus: int) -> nn.Sequential:
    hidden = channels // 2
    return nn.Sequential(nn.Linear(channels, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, n_aus))


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(layer for _ in range(count) for layer in (ConvBlock(channels, channels), nn.MaxPool2d(2))))


class AUFANHead(nn.Module):
    """AU-FAN: four blocks with pooling, then a classifier (Fig. 4c). Takes maps of any size from 16x16.

    Args:
        n_aus: A.
        in_channels: Of the feature.
        channels: Of everything after.
    """

    def __init__(self, n_aus: int = 12, in_channels: int = 3 * CHANNELS, channels: int = CHANNELS) -> None:
        super().__init__()
        self.static_in = nn.Conv2d(in_channels, channels, 1)
        self.tail = _blocks(channels, 4)
        self.classifier = _classifier(channels, n_aus)

    def features(self, feature: Tensor) -> Tensor:
        """What the classifier sees: feature (B, C_in, h, w) -> (B, C)."""
        return self.tail(self.static_in(feature)).mean((2, 3))

    def forward(self, feature: Tensor) -> Tensor:
        """Feature (B, C_in, h, w) -> logits (B, A)."""
        return self.classifier(self.features(feature))


class AUNetHead(nn.Module):
    """AU-TDN and AUNet: AU-FAN with what changes between the frames (Sec. IV-C). Takes maps of any size from 16x16.

    The static branch sees the current frame, the motion branch the differences to its neighbours at half the
    resolution. ``fusion``:

    - ``released``: static <- alpha static + beta motion, before and after the first block of both branches, the
      motion up-sampled to the nearest pixel.
    - ``paper``: the sum of both behind their first blocks, where they have the same resolution.

    Args:
        n_aus: A.
        in_channels: Of the feature.
        channels: Of everything after.
        alpha: Weight of the static branch in the released fusion.
        beta: Weight of the motion branch in the released fusion.
        differences: ``released`` = current - former, later - current; ``paper`` = current - former, current - later.
        fusion: See above.
    """

    def __init__(
        self,
        n_aus: int = 12,
        in_channels: int = 3 * CHANNELS,
        channels: int = CHANNELS,
        alpha: float = 0.9,
        beta: float = 0.1,
        differences: Variant = "released",
        fusion: Variant = "released",
    ) -> None:
        super().__init__()
        self.alpha, self.beta = alpha, beta
        self.differences, self.fusion = differences, fusion
        self.halve = nn.AvgPool2d(2)
        # In the order of the release, whose published heads carry their tensors by position.
        self.static_in = nn.Conv2d(in_channels, channels, 1)
        self.static_block = _blocks(channels, 1)
        self.motion_block = _blocks(channels, 1) if fusion == "released" else _blocks(channels, 1)[:1]
        self.tail = _blocks(channels, 3)
        self.classifier = _classifier(channels, n_aus)
        self.motion_in = nn.Conv2d(2 * in_channels, channels, 1)

    def motion(self, current: Tensor, former: Tensor, later: Tensor) -> Tensor:
        """Input of the motion branch: features (B, C_in, h, w) -> (B, C, h/2, w/2)."""
        first, second = self.differenced(current, former, later)
        return self.motion_in(torch.cat([self.halve(first), self.halve(second)], 1))

    def differenced(self, current: Tensor, former: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
        """Both differences of three maps of one shape."""
        return current - former, later - current if self.differences == "released" else current - later

    def features(self, current: Tensor, former: Tensor, later: Tensor) -> Tensor:
        """What the classifier sees: features (B, C_in, h, w) of three frames -> (B, C)."""
        return self.joined(self.static_in(current), self.motion(current, former, later))

    def joined(self, static: Tensor, motion: Tensor) -> Tensor:
        """Both branches up to the classifier: ``static_in`` (B, C, h, w) and ``motion`` (B, C, h/2, w/2) -> (B, C)."""
        if self.fusion == "released":
            static = self.static_block(self._mixed(static, motion))
            static = self._mixed(static, self.motion_block(motion))
        else:
            static = self.static_block(static) + self.motion_block(motion)
        return self.tail(static).mean((2, 3))

    def _mixed(self, static: Tensor, motion: Tensor) -> Tensor:
        return self.alpha * static + self.beta * F.interpolate(motion, static.shape[-2:], mode="nearest")

    def forward(self, current: Tensor, former: Tensor, later: Tensor) -> Tensor:
        """Features (B, C_in, h, w) of the frames t, t-T and t+T -> logits (B, A) of the frame t."""
        return self.classifier(self.features(current, former, later))


class LabelVAE(nn.Module):
    """Variational auto-encoder of the labels of a frame (Sec. IV-B). What it says is in float32 under autocast too.

    Args:
        n_aus: A.
        latent: Z; the paper takes 8 for BP4D, 6 for DISFA, 5 for Aff-Wild2.
    """

    def __init__(self, n_aus: int = 12, latent: int = 8) -> None:
        super().__init__()
        self.hidden = nn.Linear(n_aus, latent)
        self.mean = nn.Linear(latent, latent)
        self.logvar = nn.Linear(latent, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, latent), nn.ReLU(), nn.Linear(latent, n_aus))

    def encode(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """Labels or probabilities (B, A), all known -> mean and log-variance (B, Z) of the latent code."""
        hidden = F.relu(self.hidden(label))
        return at_least_single(self.mean(hidden)), at_least_single(self.logvar(hidden))

    def decode(self, latent: Tensor) -> Tensor:
        """Latent code (B, Z) -> logits (B, A)."""
        return at_least_single(self.decoder(latent))

    def forward(self, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Labels (B, A) -> logits (B, A), mean and log-variance (B, Z); the code is drawn in training only."""
        mean, logvar = self.encode(label)
        latent = mean + torch.randn_like(mean) * (0.5 * logvar).exp() if self.training else mean
        return self.decode(latent), mean, logvar


class FrozenFAN(nn.Module):
    """FAN as AUNet uses it: pictures in, feature out; nothing trains it, and batch statistics never change.

    Args:
        fan: Taken over, and set channels-last.
    """

    def __init__(self, fan: FAN) -> None:
        super().__init__()
        self.fan = fan.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> "FrozenFAN":
        """As nn.Module, but stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def output(self, image: Tensor) -> FANOutput:
        """Image (N, 3, H, W) uint8 -> all that FAN computes, without a graph."""
        return self.fan(unit_range(image, self.fan.conv1.weight.dtype))

    def forward(self, image: Tensor) -> Tensor:
        """Image (N, 3, H, W) uint8 -> attention-masked feature (N, C_in, H/4, W/4) without a graph."""
        return self.output(image).feature


def peak_confidence(heatmaps: Tensor) -> Tensor:
    """How sure FAN is of a face: heat-maps (B, L, h, w) -> (B,), the mean height of their peaks, each within 0..1."""
    return heatmaps.float().flatten(2).max(2).values.clamp(0, 1).mean(1)


class TimmMaps(nn.Module):
    """Maps of a timm network in FAN's place.

    Args:
        backbone: Taken over, such as a ResNet; its stages have 1/4, 1/8, 1/16 and 1/32 of the picture's resolution.
        last_only: Give the maps of the last stage; else those of all four, up-sampled to the resolution of the first.
        frozen: Nothing trains it, and batch statistics never change.

    Raises:
        ModelError: A network without these stages.
    """

    def __init__(self, backbone: nn.Module, last_only: bool, frozen: bool) -> None:
        super().__init__()
        stages = [(i, stage["num_chs"], stage["reduction"]) for i, stage in enumerate(_stages(backbone))]
        stages = [stage for stage in stages if stage[2] >= STRIDE]
        if [reduction for *_, reduction in stages] != [4, 8, 16, 32] or not hasattr(backbone, "forward_intermediates"):
            what = f"model.backbone: {type(backbone).__name__} has not the four stages of a ResNet"
            raise ModelError(what, "use a timm ResNet, such as resnet18, or fan")
        self.normalize = InputNormalization()
        self.backbone = backbone.requires_grad_(not frozen)
        self.last_only, self.frozen = last_only, frozen
        self.stages = [stage for stage, *_ in stages]
        self.feature_channels = stages[-1][1] if last_only else sum(channels for _, channels, _ in stages)
        self.train(self.training)

    def train(self, mode: bool = True) -> "TimmMaps":
        """As nn.Module, but a frozen one stays in evaluation mode."""
        return super().train(mode and not self.frozen)

    def forward(self, image: Tensor) -> Tensor:
        """Image (N, 3, H, W) uint8 -> maps (N, C_in, H/4, W/4), or (N, C_in, H/32, W/32) of the last stage."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.backbone.forward_intermediates(  # type: ignore[operator]
                self.normalize(image), indices=self.stages, intermediates_only=True
            )
            if self.last_only:
                return maps[-1]
            return torch.cat([maps[0], *(F.interpolate(x, maps[0].shape[-2:], mode="nearest") for x in maps[1:])], 1)


def _stages(backbone: nn.Module) -> list[dict[str, Any]]:
    info = getattr(backbone, "feature_info", None)
    return list(info) if info is not None else []


class LinearHead(nn.Module):
    """The head of a plain ResNet: mean over the map, one linear layer. Takes maps of any size.

    Args:
        n_aus: A.
        in_channels: Of the feature.
    """

    def __init__(self, n_aus: int, in_channels: int) -> None:
        super().__init__()
        self.classifier = nn.Sequential(nn.Linear(in_channels, n_aus))

    def features(self, feature: Tensor) -> Tensor:
        """What the classifier sees: feature (B, C_in, h, w) -> (B, C_in)."""
        return feature.mean((2, 3))

    def forward(self, feature: Tensor) -> Tensor:
        """Feature (B, C_in, h, w) -> logits (B, A)."""
        return self.classifier(self.features(feature))


class FeatureHeadNetwork(AUNetwork):
    """From pictures to logits (B, A, 1): an extractor of feature maps and a head.

    With ``AUNetHead`` the image is a clip (B, 3, 3, H, W) of the frames t-T, t and t+T, whose features are computed in
    one pass.

    Args:
        extractor: Image (N, 3, H, W) uint8 -> maps (N, C_in, h, w), as ``FrozenFAN`` and ``TimmMaps``.
        head: For these maps.
    """

    def __init__(self, extractor: nn.Module, head: AUFANHead | AUNetHead | LinearHead) -> None:
        super().__init__(head.classifier[-1].out_features)  # type: ignore[arg-type]
        self.extractor = extractor
        self.head = head

    def features(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W), or clip (B, 3, 3, H, W), uint8 -> features before the classifier (B, 1, F)."""
        return self._seen(self.extractor(self._frames(image)))

    def forward(self, image: Tensor) -> Tensor:
        """Image or clip as for ``features`` -> logits (B, len(outputs), 1)."""
        return self._logits(self.features(image))

    def with_confidence(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """As ``forward``, with the ``peak_confidence`` (B,) of the current frame; None where no FAN looks."""
        if not isinstance(self.extractor, FrozenFAN):
            return self(image), None
        output = self.extractor.output(self._frames(image))
        heatmaps = output.heatmaps.chunk(3)[1] if isinstance(self.head, AUNetHead) else output.heatmaps
        return self._logits(self._seen(output.feature)), peak_confidence(heatmaps)

    def _frames(self, image: Tensor) -> Tensor:
        # By place in the clip, so that the maps of one place lie together and convolutions need not copy them.
        return image.transpose(0, 1).flatten(0, 1) if isinstance(self.head, AUNetHead) else image

    def _seen(self, maps: Tensor) -> Tensor:
        if not isinstance(self.head, AUNetHead):
            return self.head.features(maps).unsqueeze(1)
        former, current, later = maps.chunk(3)
        return self.head.features(current, former, later).unsqueeze(1)

    def _logits(self, features: Tensor) -> Tensor:
        return self.head.classifier(features.squeeze(1))[:, self.outputs].unsqueeze(2)

    def au_keys(self) -> set[str]:
        """Names in the state dict whose first dimension is the AU."""
        last = len(self.head.classifier) - 1
        return {f"head.classifier.{last}.{name}" for name in ("weight", "bias")}
