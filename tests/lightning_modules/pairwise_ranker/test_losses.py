import math

import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from lightning_modules.pairwise_ranker.losses import masked_l1, misorder_loss, of_known_pairs, ranking_loss


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_ranking_loss_by_hand() -> None:
    # r d: 3, 0.5, -2, 0 and no pair; max(0, 1 - r d).
    first, second = column(3, 0, 2, 1, 9), column(0, 0.5, 0, 1, 0)
    order = column(1, -1, -1, 1, 0)
    assert ranking_loss(first, second, order).tolist() == [0, 0.5, 3, 1, 0]
    assert ranking_loss(first, second, order, margin=4).tolist() == [1, 3.5, 6, 4, 0]


def test_ranking_loss_is_that_of_torch() -> None:
    first, second = torch.randn(2, 50, dtype=torch.float64)
    order = torch.where(torch.rand(50) < 0.5, 1.0, -1.0)
    expected = torch.nn.functional.margin_ranking_loss(first, second, order, margin=1.0, reduction="none")
    torch.testing.assert_close(ranking_loss(first, second, order), expected)


def misorder(difference: float, spread: float, **settings: bool) -> float:
    """Of one pair whose sigmas have this root of the sum of squares."""
    half = column(spread / math.sqrt(2))
    return float(misorder_loss(column(difference), column(0), half, half, column(1), **settings))


# Printed in the facts of the paper: -log P(Y_i - Y_j > 1) of sure and unsure pairs, far and close ones.
@pytest.mark.parametrize(
    ("difference", "spread", "loss"), [(3, 1, 0.02), (3, 10, 0.55), (0.5, 1, 1.18), (0.5, 10, 0.73)]
)
def test_misorder_loss_is_of_the_normal_distribution(difference: float, spread: float, loss: float) -> None:
    assert misorder(difference, spread) == pytest.approx(loss, abs=0.006)
    assert misorder(difference, spread) == pytest.approx(-norm.logcdf((difference - 1) / spread), rel=1e-9)
    probability = 1 - 0.5 * (1 + math.erf((1 - difference) / math.sqrt(2 * spread**2)))
    assert misorder(difference, spread, literal=True) == pytest.approx(probability, rel=1e-9)


def test_uncertainty_grows_where_a_pair_is_wrong_and_shrinks_where_it_is_right() -> None:
    def slope(difference: float, literal: bool) -> float:
        sigma = column(1).requires_grad_()
        misorder_loss(column(difference), column(0), sigma, column(1), column(1), literal=literal).backward()
        assert sigma.grad is not None
        return float(sigma.grad)

    assert slope(3, literal=False) > 0 > slope(0.5, literal=False)
    assert slope(3, literal=True) < 0 < slope(0.5, literal=True)  # as printed: the wrong way round


def test_misorder_loss_stays_finite_with_a_gradient() -> None:
    first = column(-1e4).requires_grad_()
    loss = misorder_loss(first, column(0), column(5e-5), column(5e-5), column(1))
    loss.backward()
    assert torch.isfinite(loss)
    assert first.grad is not None
    assert torch.isfinite(first.grad)


def test_exchanging_the_frames_of_a_pair_changes_nothing() -> None:
    a, b, s, t = torch.rand(4, 20, dtype=torch.float64) * 4
    order = torch.where(torch.rand(20) < 0.5, 1.0, -1.0)
    torch.testing.assert_close(ranking_loss(a, b, order), ranking_loss(b, a, -order))
    torch.testing.assert_close(misorder_loss(a, b, s, t, order), misorder_loss(b, a, t, s, -order))


def test_means_are_over_pairs_and_sums_over_action_units() -> None:
    loss, order = torch.tensor([[1.0, 5.0], [3.0, 0.0], [2.0, 0.0]]), torch.tensor([[1, -1], [1, 0], [-1, 0]])
    assert of_known_pairs(loss, order) == 2 + 5
    assert of_known_pairs(loss * 0, order * 0) == 0
    predicted = torch.tensor([[0.5, 4.0], [1.0, 9.0]], requires_grad=True)
    assert masked_l1(predicted, torch.tensor([[0, 1], [2, -1]])).item() == pytest.approx((0.5 + 1) / 2 + 3)
    unknown = masked_l1(predicted, torch.full((2, 2), -1))
    unknown.backward()
    assert unknown == 0
    assert predicted.grad is not None
    assert predicted.grad.tolist() == [[0, 0], [0, 0]]
