import pytest
import torch

from lightning_modules.common.heads import AUHead, au_loss, au_predictions


@pytest.mark.parametrize("shared", [True, False])
def test_each_au_is_a_linear_layer_of_its_own_features(shared):
    head = AUHead(5, 3, "intensity", shared)
    feature = torch.randn(2, 3, 5)
    for au in range(3):
        row = 0 if shared else au
        expected = feature[:, au] @ head.weight[row] + head.bias[row]
        torch.testing.assert_close(head(feature, [0, 1, 2])[:, au], expected)
        torch.testing.assert_close(head(feature[:, [au]], [au])[:, 0], expected)


def test_features_that_all_aus_share_give_an_output_for_each():
    assert AUHead(5, 3, "occurrence")(torch.randn(2, 1, 5), [2, 0]).shape == (2, 2, 1)


def test_levels_are_the_most_probable_and_the_mean():
    logit = torch.full((1, 1, 6), -50.0)
    logit[..., 5], logit[..., 2] = 1.0, 0.9
    predicted = au_predictions(logit)
    share = torch.tensor([1.0, 0.9]).softmax(0)
    assert predicted["level"].item() == 5
    assert predicted["expected"].item() == pytest.approx((5 * share[0] + 2 * share[1]).item())


def test_occurrence_is_a_sigmoid():
    assert au_predictions(torch.zeros(1, 2, 1))["au_prob"].tolist() == [[0.5, 0.5]]


def test_the_number_of_logits_chooses_the_loss():
    assert au_loss(torch.zeros(2, 1), torch.tensor([0, 1])).item() == pytest.approx(0.6931, abs=1e-4)  # log 2
    assert au_loss(torch.zeros(2, 6), torch.tensor([0, 5])).item() == pytest.approx(1.7918, abs=1e-4)  # log 6
