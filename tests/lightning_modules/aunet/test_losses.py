import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy_with_logits

from lightning_modules.aunet.losses import (
    consistency_loss,
    corrupted,
    gaussian_heatmaps,
    heatmap_loss,
    vae_losses,
    weighted_bce,
)
from lightning_modules.aunet.network import LabelVAE
from lightning_modules.common.losses import frequency_weights

LN2 = math.log(2)

# --- Eq. 1 ------------------------------------------------------------------------------------------------------------


def test_weighted_bce_is_the_releases(golden):
    rate = golden.tensor("bce.rate").clamp(min=0.05)  # the array is clamped already: some AUs of it never occur
    weight = frequency_weights(rate, range(12))
    value = weighted_bce(golden.tensor("vae.logit"), golden.tensor("vae.y").long(), weight)
    assert value.item() == pytest.approx(golden.tensor("bce.weighted").item(), rel=1e-5)


def test_weighted_bce_is_eq_1():
    torch.manual_seed(0)
    rate = torch.tensor([0.1, 0.5, 0.3, 0.05], dtype=torch.float64)
    logit, target = torch.randn(6, 4, dtype=torch.float64), torch.randint(0, 2, (6, 4))
    share = (1 / rate) / (1 / rate).sum()
    prob = logit.sigmoid()
    paper = -(share * (target * prob.log() + (1 - target) * (1 - prob).log())).sum(1).mean()
    value = weighted_bce(logit, target, frequency_weights(rate, range(4)).double())
    assert value.item() == pytest.approx(paper.item(), rel=1e-6)


def test_weights_multiply_positives_and_negatives_alike():
    weight = torch.tensor([0.5, 1.5])
    for target in ([[1, 1]], [[0, 0]], [[1, 0]]):
        assert weighted_bce(torch.zeros(1, 2), torch.tensor(target), weight).item() == pytest.approx(LN2)
    logit = torch.tensor([[2.0, 0.0]])
    parts = [weighted_bce(logit, torch.tensor([[y, -1]]), weight).item() for y in (0, 1)]
    assert parts == pytest.approx([0.5 * math.log1p(math.exp(2)), 0.5 * math.log1p(math.exp(-2))])


def test_unknown_labels_enter_no_loss():
    logit = torch.randn(3, 2, requires_grad=True)
    target = torch.tensor([[1, -1], [-1, -1], [0, 1]])
    weighted_bce(logit, target, torch.tensor([0.5, 1.5])).backward()
    assert ((logit.grad != 0) == (target >= 0)).all()
    logit = torch.randn(3, 2, requires_grad=True)
    value = weighted_bce(logit, torch.full((3, 2), -1), torch.ones(2))
    value.backward()
    assert value.item() == 0
    assert logit.grad.abs().sum() == 0


# --- Eq. 2 ------------------------------------------------------------------------------------------------------------


def test_labels_are_corrupted_uniformly_and_not_clipped():
    torch.manual_seed(0)
    label = torch.tensor([0.0, 1.0]).repeat(20_000, 1)
    noise = corrupted(label) - label
    assert noise.abs().max() <= 0.2 + 1e-6
    assert noise.min() < -0.199
    assert noise.max() > 0.199
    assert noise.mean().item() == pytest.approx(0, abs=2e-3)
    assert noise.var().item() == pytest.approx(0.4**2 / 12, rel=0.02)
    assert corrupted(label, 0.0).equal(label)


def test_vae_losses_are_sums_over_the_batch():
    torch.manual_seed(0)
    vae = LabelVAE(3, 2).eval()  # the code is its mean
    label = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 1, 1], [0, 0, 0]])
    terms = vae_losses(vae, label, kld_weight=0.3, amplitude=0.0)
    mean, logvar = vae.encode(label.float())
    prob = vae.decode(mean).sigmoid()
    bce = -(label * prob.log() + (1 - label) * (1 - prob).log()).sum()
    kld = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum()
    assert terms["bce"].item() == pytest.approx(bce.item(), rel=1e-5)
    assert terms["kld"].item() == pytest.approx(0.3 * kld.item(), rel=1e-5)


def test_the_vae_reconstructs_clean_labels_from_corrupted_ones():
    torch.manual_seed(0)
    vae, seen = LabelVAE(3, 2).eval(), []
    vae.hidden.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    label = torch.randint(0, 2, (50, 3))
    bce = vae_losses(vae, label, kld_weight=0.0)["bce"]
    assert 0.15 < (seen[0] - label).abs().max() <= 0.2
    logit = vae.decode(vae.encode(seen[0])[0])
    expected = binary_cross_entropy_with_logits(logit, label.float(), reduction="sum")
    assert bce.item() == pytest.approx(expected.item(), rel=1e-5)


def test_frames_with_unknown_labels_enter_no_encoder():
    torch.manual_seed(0)
    vae, seen = LabelVAE(3, 2).eval(), []
    vae.hidden.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    label = torch.tensor([[1, 0, 1], [1, -1, 0], [0, 1, 0], [-1, -1, -1]])
    terms = vae_losses(vae, label, 0.1, amplitude=0.0)
    logit = torch.randn(4, 3)
    losses = {kind: consistency_loss(vae, logit, label, kind) for kind in ("paper", "released", "label")}
    assert all(len(given) == 2 and given.min() >= 0 for given in seen)
    known = label[[0, 2]]
    assert terms == vae_losses(vae, known, 0.1, amplitude=0.0)
    for kind, value in losses.items():
        assert value == consistency_loss(vae, logit[[0, 2]], known, kind)


# --- Eq. 3 ------------------------------------------------------------------------------------------------------------


def test_the_released_consistency_is_the_releases(golden, published):
    value = consistency_loss(
        published("label_vae"), golden.tensor("vae.logit"), golden.tensor("vae.y").long(), "released"
    )
    assert value.item() == pytest.approx(golden.tensor("vae.consistency_released").item(), rel=1e-5)


def test_the_papers_consistency_compares_means_and_covariances(golden, published):
    """From the release's codes: squared norm of the difference of the means and of the (diagonal) covariances."""
    arrays = golden.arrays
    covariance_p, covariance_g = (
        np.stack([np.diag(row) for row in np.exp(arrays[f"vae.logvar_{name}"].astype(np.float64))]) for name in "pg"
    )
    expected = (
        np.linalg.norm(arrays["vae.mu_p"] - arrays["vae.mu_g"], axis=1) ** 2
        + np.linalg.norm(covariance_p - covariance_g, axis=(1, 2)) ** 2
    ).mean()
    value = consistency_loss(published("label_vae"), golden.tensor("vae.logit"), golden.tensor("vae.y").long(), "paper")
    assert value.item() == pytest.approx(expected, rel=1e-4)


def test_consistency_in_label_space_compares_what_the_codes_decode_to(golden, published):
    vae = published("label_vae")
    target = 1 / (1 + np.exp(-golden.arrays["vae.decoded_mu_g"].astype(np.float64)))
    with torch.no_grad():
        prob = vae.decode(golden.tensor("vae.mu_p")).sigmoid().numpy()
    expected = ((prob - target) ** 2).sum(1).mean()
    value = consistency_loss(vae, golden.tensor("vae.logit"), golden.tensor("vae.y").long(), "label")
    assert value.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["paper", "released", "label"])
def test_consistency_pulls_predictions_to_labels_and_leaves_labels_alone(kind):
    torch.manual_seed(0)
    vae = LabelVAE(3, 16).eval().requires_grad_(False)
    label = torch.tensor([[1, 0, 1], [0, 1, 1]])
    right = 30.0 * (2 * label - 1)
    logit = torch.randn(2, 3, requires_grad=True)
    consistency_loss(vae, logit, label, kind).backward()
    assert logit.grad.abs().min() > 0
    if kind == "released":  # what remains is the deviation, which the release shrinks whatever the label
        assert consistency_loss(vae, right, label, kind) > 0.1
    else:
        assert consistency_loss(vae, right, label, kind) < 1e-9 < consistency_loss(vae, -right, label, kind)


@pytest.mark.parametrize("kind", ["paper", "released", "label"])
def test_a_batch_without_a_complete_frame_costs_nothing(kind):
    vae, logit = LabelVAE(2, 2), torch.randn(3, 2, requires_grad=True)
    label = torch.tensor([[1, -1], [-1, 0], [-1, -1]])
    value = consistency_loss(vae, logit, label, kind)
    value.backward()
    assert value.item() == 0
    assert logit.grad.abs().sum() == 0
    assert all(term.item() == 0 for term in vae_losses(vae, label, 0.1).values())


# --- heat-maps --------------------------------------------------------------------------------------------------------


def test_targets_are_gaussians_between_pixels():
    # Pixel (2, 3) of the map covers pixels 8..11 x 12..15 of the image: its centre is (9.5, 13.5).
    target = gaussian_heatmaps(torch.tensor([[[9.5, 13.5], [11.5, 13.5]]]), 6, 5)
    assert target.shape == (1, 2, 6, 5)
    assert target[0, 0, 3, 2] == 1
    assert target[0, 0, 5, 1].item() == pytest.approx(math.exp(-(2**2 + 1) / 2))
    assert target[0, 1, 3, 2] == target[0, 1, 3, 3] == pytest.approx(math.exp(-(0.5**2) / 2))
    wide = gaussian_heatmaps(torch.tensor([[[9.5, 13.5]]]), 6, 5, sigma=2.0)
    assert wide[0, 0, 5, 1].item() == pytest.approx(math.exp(-5 / 8))
    assert gaussian_heatmaps(torch.tensor([[[400.0, 13.5]]]), 6, 5).max() == 0


def test_heatmap_loss_is_the_mean_over_known_maps_and_stacks():
    landmarks = torch.tensor([[[9.5, 13.5], [math.nan, math.nan]], [[5.5, math.nan], [5.5, 5.5]]])
    target = gaussian_heatmaps(landmarks, 4, 4)
    first, second = torch.randn(2, 2, 2, 4, 4)
    known = ((0, 0), (1, 1))
    squares = [((maps[at] - target[at]) ** 2).mean() for maps in (first, second) for at in known]
    assert heatmap_loss([first, second], landmarks).item() == pytest.approx(torch.stack(squares).mean().item())


def test_unknown_landmarks_get_no_gradient():
    landmarks = torch.tensor([[[9.5, 13.5], [math.nan, 3.0]]])
    maps = torch.randn(1, 2, 4, 4, requires_grad=True)
    heatmap_loss([maps], landmarks).backward()
    assert maps.grad[0, 0].abs().min() > 0
    assert maps.grad[0, 1].abs().max() == 0
    value = heatmap_loss([maps], torch.full((1, 2, 2), math.nan))
    assert value.item() == 0
    assert value.requires_grad
