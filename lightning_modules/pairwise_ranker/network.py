"""Networks with one unbounded number per action unit and frame, and the network that maps windows of them to labels."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lightning_modules.common.backbones import InputNormalization

SIGMA_LOGIT = 10.0  # sigma = exp(z), z cut to +-10: between 4.5e-5 and 2.2e4


def freeze_convolutions(backbone: nn.Module, number: int) -> None:
    """Stop the training of the first convolutions, which the published rankers leave as ImageNet made them."""
    convolutions = [module for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    for convolution in convolutions[:number]:
        convolution.requires_grad_(False)


class FrameRanker(nn.Module):
    """Image (B, 3, H, W) uint8 -> (B, A) numbers: pseudo-intensities, or logarithms of their standard deviations.

    As published every action unit has a network of its own; with ``shared`` one backbone serves all.

    Args:
        create: Name of an action unit, or ``all``, to a new backbone: normalised image -> (B, ``head_hidden_size``).
        names: Of the A action units, as ``AU06``.
        shared: One backbone and a row of the last layer for each action unit.
    """

    def __init__(self, create: Callable[[str], nn.Module], names: Sequence[str], shared: bool = False) -> None:
        super().__init__()
        self.shared = shared
        self.normalize = InputNormalization()
        self.networks = nn.ModuleDict()
        for name in ["all"] if shared else names:
            backbone = create(name)
            head = nn.Linear(cast(int, backbone.head_hidden_size), len(names) if shared else 1)
            self.networks[name] = nn.Sequential(backbone, head)

    def forward(self, image: Tensor) -> Tensor:
        """Scores of frames, or of pairs of frames that were drawn for each action unit.

        Args:
            image: (B, 3, H, W) uint8, or (B, A, 2, 3, H, W).

        Returns:
            (B, A), or (B, A, 2): each pair by the network of its action unit.
        """
        if image.ndim == 4:
            image = self.normalize(image)
            return torch.cat([network(image) for network in self.networks.values()], dim=1)
        b, a = image.shape[:2]
        if self.shared:
            scores = self.networks["all"](self.normalize(image.flatten(0, 2))).view(b, a, 2, a)
            return scores.diagonal(dim1=1, dim2=3).transpose(1, 2)
        of_au = [image[:, place].flatten(0, 1) for place in range(a)]
        pairs = zip(self.networks.values(), of_au, strict=True)
        return torch.stack([network(self.normalize(pictures)).view(b, 2) for network, pictures in pairs], dim=1)


def sigma(logit: Tensor) -> Tensor:
    """Standard deviation of a pseudo-intensity, always positive and finite."""
    return logit.clamp(-SIGMA_LOGIT, SIGMA_LOGIT).exp()


class PerAULinear(nn.Module):
    """A linear layer for each action unit: (B, A, F) -> (B, A, K).

    Args:
        n_aus: A.
        n_features: F.
        n_outputs: K.
    """

    def __init__(self, n_aus: int, n_features: int, n_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_aus, n_features, n_outputs))
        self.bias = nn.Parameter(torch.empty(n_aus, n_outputs))
        bound = n_features**-0.5  # as nn.Linear
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, feature: Tensor) -> Tensor:
        """(B, A, F) -> (B, A, K)."""
        return torch.baddbmm(self.bias[:, None], feature.transpose(0, 1), self.weight).transpose(0, 1)


class Mapping(nn.Sequential):
    """The classifier of VGG16 on a feature vector, one for each action unit: (B, A, D) -> (B, A, 1), unbounded.

    Args:
        n_aus: A.
        n_features: D.
        hidden: Width of both hidden layers; 4096 as published.
        dropout: Behind each of them.
    """

    def __init__(self, n_aus: int, n_features: int, hidden: int = 4096, dropout: float = 0.5) -> None:
        layers: list[nn.Module] = []
        for width in (n_features, hidden):
            layers += [PerAULinear(n_aus, width, hidden), nn.ReLU(), nn.Dropout(dropout)]
        super().__init__(*layers, PerAULinear(n_aus, hidden, 1))


class IntensityNetwork(nn.Module):
    """Features of `datamodules.pseudo` (B, A, 21 + 4 T) -> labels (B, A), unbounded.

    Args:
        n_aus: A.
        window: T.
        certain: Whether there is a mapping that sees confidences.
        plain: Whether there is one that does not; with both, ``uses_sigma`` says which one answers.
        hidden: Of the mappings.
        dropout: Of the mappings.

    Attributes:
        uses_sigma: (A,) bool, action units that the mapping with confidences answers for.
    """

    uses_sigma: Tensor

    def __init__(self, n_aus: int, window: int, certain: bool, plain: bool, hidden: int, dropout: float) -> None:
        super().__init__()
        self.certain = Mapping(n_aus, 21 + 4 * window, hidden, dropout) if certain else None
        self.plain = Mapping(n_aus, 4 + 2 * window, hidden, dropout) if plain else None
        self.register_buffer("uses_sigma", torch.full((n_aus,), certain))
        # The pseudo-intensity of the frame, its percentiles, its window.
        self.columns = [*range(4), *range(20, 20 + 2 * window)]

    def both(self, feature: Tensor) -> list[Tensor]:
        """What each mapping says, (B, A): first the one with confidences."""
        found = []
        if self.certain is not None:
            found.append(self.certain(feature).squeeze(-1))
        if self.plain is not None:
            found.append(self.plain(feature[..., self.columns]).squeeze(-1))
        return found

    def forward(self, feature: Tensor) -> Tensor:
        """Feature (B, A, D) -> (B, A) by the mapping that answers."""
        said = self.both(feature)
        return said[0] if len(said) == 1 else torch.where(self.uses_sigma, said[0], said[1])
