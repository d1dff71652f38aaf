"""AUNet's losses. Pure functions; a label of -1 is unknown and enters no rate, weight, encoder or loss."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.aunet.network import LabelVAE, to_maps
from lightning_modules.common.precision import at_least_single

Consistency = Literal["paper", "released", "label"]


def weighted_bce(logit: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Eq. 1: binary cross-entropy whose terms, positive and negative alike, are weighted by AU.

    Mean over the known labels; zero, with a gradient, when nothing is known. With all labels known it equals the sum
    over AUs of the paper, whose weights sum to 1, averaged over frames.

    Args:
        logit: (B, A) floating.
        target: (B, A) int64 in {-1, 0, 1}.
        weight: (A,) of ``common.losses.frequency_weights``.
    """
    logit, known = at_least_single(logit), target >= 0
    raw = F.binary_cross_entropy_with_logits(logit, target.clamp(min=0).to(logit.dtype), reduction="none")
    return (raw * weight * known).sum() / known.sum().clamp(min=1)


def corrupted(label: Tensor, amplitude: float = 0.2) -> Tensor:
    """Labels (B, A) with noise from U(-amplitude, amplitude), not clipped (Sec. IV-B)."""
    return label + torch.empty_like(label).uniform_(-amplitude, amplitude)


def vae_losses(vae: LabelVAE, label: Tensor, kld_weight: float, amplitude: float = 0.2) -> dict[str, Tensor]:
    """Eq. 2, summed over the frames whose labels are all known, as the release does.

    Args:
        vae: Draws its latent code in training mode.
        label: (B, A) int64 in {-1, 0, 1}.
        kld_weight: lambda.
        amplitude: Of the corruption of what the encoder sees.

    Returns:
        ``bce``, the reconstruction of the uncorrupted labels, and ``kld``, lambda times the divergence from N(0, I).
    """
    target = label[complete(label)].float()
    logit, mean, logvar = vae(corrupted(target, amplitude))
    terms = vae_terms(logit, mean, logvar, target, kld_weight)
    return {name: term.sum() for name, term in terms.items()}


def vae_terms(logit: Tensor, mean: Tensor, logvar: Tensor, target: Tensor, kld_weight: float) -> dict[str, Tensor]:
    """Both terms of Eq. 2 by frame: ``bce`` and ``kld``, (B,) each.

    Args:
        logit: (B, A), decoded.
        mean: (B, Z), of the encoder.
        logvar: (B, Z), of the encoder.
        target: (B, A) floating in {0, 1}.
        kld_weight: lambda.
    """
    return {
        "bce": F.binary_cross_entropy_with_logits(logit, target, reduction="none").sum(1),
        "kld": -0.5 * kld_weight * (1 + logvar - mean**2 - logvar.exp()).sum(1),
    }


def consistency_loss(vae: LabelVAE, logit: Tensor, label: Tensor, kind: Consistency) -> Tensor:
    """Distance of predictions and labels as the label VAE sees them, over the frames whose labels are all known.

    - ``paper``: Eq. 3 with Sigma the diagonal covariance, squared norms, mean over frames.
    - ``released``: mean squared difference of the means, plus the mean *predicted* standard deviation; that of the
      labels, which Eq. 3 compares it with, is computed and dropped by the release.
    - ``label``: squared distance of the decoder's probabilities at the two means, mean over frames (the alignment in
      label space of Sec. V-E).

    Args:
        vae: Gets a gradient only if its parameters want one; no code is drawn.
        logit: (B, A) of the AUs that the VAE knows, in its order.
        label: (B, A) int64 in {-1, 0, 1}.
        kind: See above.

    Returns:
        Scalar; zero, with a gradient, when no frame is known completely.
    """
    rows = complete(label)
    mean_p, logvar_p = vae.encode(logit[rows].float().sigmoid())
    with torch.no_grad():
        mean_g, logvar_g = vae.encode(label[rows].float())
    frames = max(len(mean_p), 1)
    if kind == "paper":
        return ((mean_p - mean_g) ** 2 + (logvar_p.exp() - logvar_g.exp()) ** 2).sum() / frames
    if kind == "released":
        return ((mean_p - mean_g) ** 2 + (0.5 * logvar_p).exp()).sum() / (frames * mean_p.shape[1])
    with torch.no_grad():
        target = vae.decode(mean_g).sigmoid()
    return ((vae.decode(mean_p).sigmoid() - target) ** 2).sum() / frames


def joined_consistency(
    vaes: Mapping[str, tuple[LabelVAE, list[int]]],
    datasets: Sequence[str],
    logit: Tensor,
    label: Tensor,
    kind: Consistency,
) -> Tensor:
    """``consistency_loss`` of frames of several datasets, each in the VAE of its own labels.

    Args:
        vaes: Dataset -> its VAE, and the positions of the AUs that it knows, in its order.
        datasets: Of the B frames; those without a VAE do not enter.
        logit: (B, A).
        label: (B, A) int64 in {-1, 0, 1}.
        kind: See ``consistency_loss``.

    Returns:
        Mean over the frames of all datasets whose labels are known as far as their VAE goes.
    """
    terms, frames = [], []
    for dataset, (vae, columns) in vaes.items():
        rows = [i for i, name in enumerate(datasets) if name == dataset]
        own_logit, own_label = logit[rows][:, columns], label[rows][:, columns]
        terms.append(consistency_loss(vae, own_logit, own_label, kind))
        frames.append(complete(own_label).sum())
    weight = torch.stack(frames)
    return (torch.stack(terms) * weight).sum() / weight.sum().clamp(min=1)


def complete(label: Tensor) -> Tensor:
    """(B,) bool: frames whose labels (B, A) are all known."""
    return (label >= 0).all(1)


def gaussian_heatmaps(landmarks: Tensor, height: int, width: int, sigma: float = 1.0) -> Tensor:
    """Targets of FAN: a Gaussian of height 1 around every landmark, centred between pixels where the landmark is.

    Args:
        landmarks: (B, L, 2) x, y in pixels of the image; NaN unknown.
        height: h of the maps.
        width: w of the maps.
        sigma: Standard deviation in pixels of the maps.

    Returns:
        (B, L, h, w); NaN for unknown landmarks, empty for those far outside.
    """
    centre = to_maps(landmarks)
    x = torch.arange(width, device=landmarks.device) - centre[..., :1]
    y = torch.arange(height, device=landmarks.device) - centre[..., 1:]
    # A product of two exponentials costs h + w of them, not h w.
    return torch.exp(-0.5 * (y / sigma) ** 2).unsqueeze(-1) * torch.exp(-0.5 * (x / sigma) ** 2).unsqueeze(-2)


def heatmap_loss(heatmaps: Sequence[Tensor], landmarks: Tensor, sigma: float = 1.0) -> Tensor:
    """Mean squared error of the heat-maps of every stack, averaged over stacks; maps of unknown landmarks left out.

    Loss, supervision of every stack and sigma are those by which FAN is trained (Bulat and Tzimiropoulos, ICCV 2017;
    sigma and centring between pixels: the laboratory's later code, fan_training).

    Args:
        heatmaps: (B, L, h, w) a stack.
        landmarks: (B, L, 2) in pixels of the image; NaN unknown.
        sigma: Of the targets, in pixels of the maps.

    Returns:
        Scalar; zero, with a gradient, when no landmark is known.
    """
    height, width = heatmaps[0].shape[-2:]
    known = landmarks.isfinite().all(-1)
    target = gaussian_heatmaps(landmarks, height, width, sigma)[known]
    squares = torch.stack([((maps[known] - target) ** 2).sum() for maps in heatmaps])
    return squares.mean() / max(math.prod(target.shape), 1)
