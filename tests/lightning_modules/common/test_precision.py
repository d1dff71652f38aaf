"""Losses of networks that answer in half precision: those of their rounded answers, computed in float32."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_modules.aunet.losses import Consistency, consistency_loss, heatmap_loss, weighted_bce
from lightning_modules.aunet.network import LabelVAE
from lightning_modules.common.heads import au_predictions
from lightning_modules.common.losses import masked_bce, masked_cross_entropy
from lightning_modules.common.precision import at_least_single
from lightning_modules.emotiram_fau import losses as emotiram
from lightning_modules.pairwise_ranker.losses import masked_l1, misorder_loss, of_known_pairs, ranking_loss

FRAMES, AUS = 300, 5
HALF = [torch.float16, torch.bfloat16]
Loss = Callable[[Tensor], Tensor]


@pytest.fixture(scope="module")
def labels() -> Tensor:
    return torch.randint(-1, 2, (FRAMES, AUS), generator=torch.Generator().manual_seed(1))


def losses(label: Tensor) -> dict[str, Loss]:
    """Every loss as a function of what a network says: (B, A) values about 0 with a few large ones."""
    weight = torch.linspace(0.5, 1.5, AUS)
    order = label.clone()
    landmarks = torch.linspace(0, 16, 2 * FRAMES).view(FRAMES, 1, 2)
    known = torch.full((FRAMES, 1, 2, 2), 300.0)

    def maps(x: Tensor) -> Tensor:
        return x[:, None, :4].unflatten(2, (2, 2))

    return {
        "masked_bce": lambda x: masked_bce(x, label),
        "masked_cross_entropy": lambda x: masked_cross_entropy(x, label[:, 0]),
        "weighted_bce": lambda x: weighted_bce(x, label, weight),
        "landmarks": lambda x: heatmap_loss([maps(x)], landmarks),
        "intensities": lambda x: emotiram.heatmap_loss(256 * maps(x).abs(), known),
        "asymmetric": lambda x: emotiram.weighted_asymmetric_loss((x.abs() / 8).clamp(max=1), label, weight),
        "edges": lambda x: emotiram.edge_loss(x[:, None, :4].expand(-1, AUS**2, -1), label),
        "ranking": lambda x: of_known_pairs(ranking_loss(x, x.flip(0), order), order),
        "misorder": lambda x: of_known_pairs(
            misorder_loss(x, x.flip(0), x.abs().clamp(min=0.5), x.abs().clamp(min=0.25), order), order
        ),
        "l1": lambda x: masked_l1(x, label),
    }


@pytest.mark.parametrize("name", losses(torch.zeros(FRAMES, AUS)))
@pytest.mark.parametrize("kind", HALF, ids=str)
def test_a_loss_in_half_precision_is_the_loss_of_the_rounded_values(
    kind: torch.dtype, name: str, labels: Tensor
) -> None:
    said = 2 * torch.randn(FRAMES, AUS, generator=torch.Generator().manual_seed(2))
    said[:4] = torch.tensor([-30.0, -12.0, 12.0, 30.0])[:, None]
    rounded = said.to(kind)
    loss = losses(labels)[name]
    found = loss(rounded)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(rounded.float()), rtol=1e-6, atol=0)


@pytest.mark.parametrize("consistency", ["paper", "released", "label"])
@pytest.mark.parametrize("kind", HALF, ids=str)
def test_distances_in_the_label_vae_are_rounded_by_its_layers_alone(
    kind: torch.dtype, consistency: Consistency, labels: Tensor
) -> None:
    torch.manual_seed(4)
    vae, logit = LabelVAE(AUS, 3).eval(), torch.randn(FRAMES, AUS)
    expected = consistency_loss(vae, logit, labels, consistency)
    with torch.autocast("cpu", kind):
        assert {x.dtype for x in vae(labels.float())} == {torch.float32}
        found = consistency_loss(vae, logit.to(kind), labels, consistency)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("kind", HALF, ids=str)
def test_autocast_rounds_no_expected_level(kind: torch.dtype) -> None:
    logit = torch.randn(40, 3, 6, generator=torch.Generator().manual_seed(3)).to(kind)
    expected = torch.softmax(logit.double(), -1) @ torch.arange(6.0, dtype=torch.float64)
    with torch.autocast("cpu", kind):
        found = au_predictions(logit)["expected"]
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


def test_only_half_precision_is_widened() -> None:
    kinds = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.float32: torch.float32}
    for given, wanted in (kinds | {torch.float64: torch.float64}).items():
        assert at_least_single(torch.ones(2, dtype=given)).dtype == wanted
