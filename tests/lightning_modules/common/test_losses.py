import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from lightning_modules.common.errors import ModelError
from lightning_modules.common.losses import frequency_weights, masked_bce, masked_cross_entropy, occurrence_rates


def test_bce_is_the_mean_over_known_labels_worked_by_hand():
    logit = torch.tensor([[0.0, math.log(3)], [7.0, 0.0]])
    target = torch.tensor([[1, 0], [-1, 0]])
    # -log 1/2, -log(1 - 3/4), unknown, -log 1/2
    assert masked_bce(logit, target).item() == pytest.approx((math.log(2) + math.log(4) + math.log(2)) / 3)


def test_cross_entropy_is_the_mean_over_known_labels():
    logit, target = torch.randn(4, 3, 6), torch.randint(0, 6, (4, 3))
    expected = cross_entropy(logit[1:].reshape(-1, 6), target[1:].reshape(-1))
    target[0] = -1
    torch.testing.assert_close(masked_cross_entropy(logit, target), expected)


def test_without_unknown_labels_bce_is_torchs():
    logit, target = torch.randn(5, 4), torch.randint(0, 2, (5, 4))
    torch.testing.assert_close(masked_bce(logit, target), binary_cross_entropy_with_logits(logit, target.float()))


@pytest.mark.parametrize("loss", [masked_bce, masked_cross_entropy])
def test_unknown_labels_get_no_gradient_and_an_unknown_batch_costs_nothing(loss):
    logit = torch.randn(4, 6, requires_grad=True)
    value = loss(logit, torch.full((4, 6) if loss is masked_bce else (4,), -1))
    value.backward()
    assert value.item() == 0
    assert logit.grad.abs().sum() == 0


def test_rates_and_weights_worked_by_hand():
    label = torch.tensor([[1, 0, -1], [0, 0, 1], [0, 1, -1], [1, 0, 1]])
    rate = occurrence_rates(label)
    assert rate.tolist() == [0.5, 0.25, 1]  # of 4, 4 and 2 known labels
    # 1 / r = 2, 4, 1: shares 2/7, 4/7, 1/7 of the paper, times 3.
    assert frequency_weights(rate, [1, 2, 4]).tolist() == pytest.approx([6 / 7, 12 / 7, 3 / 7])


@pytest.mark.parametrize(
    "column", [[0, 0, 0], [0, -1, 0], [-1, -1, -1]], ids=["absent", "absent or unknown", "unknown"]
)
def test_an_au_that_never_occurs_has_no_weight(column):
    label = torch.tensor([[1, 1, 0], column]).T
    with pytest.raises(ModelError, match="no AU09") as fault:
        frequency_weights(occurrence_rates(label), [1, 9])
    assert "AU01" not in str(fault.value)
    assert "data.aus" in fault.value.remedy


def test_unknown_labels_enter_no_rate():
    label = torch.tensor([[1, 1], [0, 0], [0, 1]])
    more = torch.cat([label, torch.full((5, 2), -1)])
    assert torch.equal(occurrence_rates(label), occurrence_rates(more))
