import math

import numpy as np
import pytest
import torch

from lightning_modules.common import metrics
from lightning_modules.common.losses import frequency_weights
from lightning_modules.emotiram_fau.losses import (
    AU_POINTS,
    au_points,
    edge_classes,
    edge_loss,
    heatmap_loss,
    heatmap_targets,
    weighted_asymmetric_loss,
)

# --- ME-GraphAU -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["BP4D", "DISFA"])
@pytest.mark.parametrize("weights", ["now", "f1", "f2", "f3"])
def test_the_weighted_asymmetric_loss_and_its_gradient_are_the_releases(golden, dataset, weights):
    arrays = golden("weighted_asymmetric_loss")
    prob = torch.from_numpy(arrays[f"{dataset}_p"]).requires_grad_()
    target = torch.from_numpy(arrays[f"{dataset}_y"]).long()
    weight = None if weights == "now" else torch.from_numpy(arrays[f"{dataset}_{weights}_w"])
    loss = weighted_asymmetric_loss(prob, target, weight)
    loss.backward()
    assert loss.item() == pytest.approx(arrays[f"{dataset}_{weights}_loss"].item(), rel=1e-6)
    np.testing.assert_allclose(prob.grad.numpy(), arrays[f"{dataset}_{weights}_grad"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("dataset", "n_aus"), [("BP4D", 12), ("DISFA", 8)])
def test_the_releases_weights_are_one_over_the_rates_with_mean_one(golden, dataset, n_aus):
    for fold in (1, 2, 3):
        released = torch.from_numpy(golden("weighted_asymmetric_loss")[f"{dataset}_f{fold}_w"])
        assert released.mean().item() == pytest.approx(1, abs=1e-6)
        torch.testing.assert_close(
            frequency_weights(0.1 / released, range(n_aus)).double(), released, rtol=1e-5, atol=0
        )


def test_unknown_labels_cost_nothing_and_get_no_gradient():
    prob = torch.tensor([[0.5, 0.9], [0.25, 0.5]], requires_grad=True)
    loss = weighted_asymmetric_loss(prob, torch.tensor([[1, -1], [0, -1]]))
    loss.backward()
    assert loss.item() == pytest.approx(-(math.log(0.5) + 0.25 * math.log(0.75)) / 2)
    assert prob.grad[:, 1].tolist() == [0, 0]
    assert weighted_asymmetric_loss(prob, torch.full((2, 2), -1)).item() == 0


def test_negatives_weigh_as_much_as_they_are_taken_for_positives_without_a_gradient():
    prob = torch.tensor([[0.8]], requires_grad=True)
    weighted_asymmetric_loss(prob, torch.tensor([[0]])).backward()
    assert prob.grad.item() == pytest.approx(0.8 / 0.2)  # not + log 5


def test_edges_tell_which_of_two_aus_are_present():
    # Edge i A + j ends in i: 2 y_i + y_j.
    assert edge_classes(torch.tensor([[1, 0], [0, -1]])).tolist() == [[3, 2, 1, 0], [0, -1, -1, -1]]
    logit = torch.zeros(1, 4, 4)
    assert edge_loss(logit, torch.tensor([[1, -1]])).item() == pytest.approx(math.log(4))
    assert edge_loss(logit, torch.tensor([[-1, -1]])).item() == 0


def test_f1_and_accuracy_are_the_releases(golden):
    arrays = golden("megraph_f1")
    names = [f"AU{au:02d}" for au in (1, 2, 4, 6, 9, 12, 25, 26)]
    ledger = {f"{name}_true": arrays["y"][:, i].astype(int) for i, name in enumerate(names)}
    ledger |= {f"{name}_prob": arrays["p"][:, i] for i, name in enumerate(names)}
    for i, name in enumerate(names):
        counts = metrics.confusion(ledger[f"{name}_true"], ledger[f"{name}_prob"])
        assert counts == tuple(arrays[key][i] for key in ("TP", "FP", "FN", "TN"))
    scores = metrics.score(ledger)
    positives = arrays["TP"] + arrays["FN"] > 0  # without them ours is undefined and theirs 0
    ours = np.array([scores["f1"][name] for name in names])
    np.testing.assert_allclose(ours[positives], arrays["f1"][positives], rtol=1e-12)
    assert np.isnan(ours[~positives]).all()
    assert np.where(positives, ours, 0).mean() == pytest.approx(arrays["mean_f1"].item())
    assert scores["accuracy_mean"] == pytest.approx(arrays["mean_acc"].item())


# --- FAU --------------------------------------------------------------------------------------------------------------


def test_targets_are_the_golden_ones(golden):
    arrays = golden("heatmap_target")
    described = torch.from_numpy(arrays["aus"])
    maps = heatmap_targets(described[..., :2], described[..., 2], 64, 64)
    np.testing.assert_allclose(maps.permute(0, 2, 3, 1).numpy(), arrays["target_nhwc"], rtol=1e-5, atol=1e-4)


def test_points_of_the_example_that_came_with_the_code():
    """Frame M017/T8: the points as given, of landmarks that lie as the inference from them says."""
    landmarks = torch.zeros(1, 68, 2)
    for number, point in {
        48: (84, 164), 54: (174, 164), 49: (102, 166), 53: (158, 165), 57: (131, 191), 8: (130, 230), 3: (38, 149),
        13: (211, 146),
    }.items():  # fmt: skip
        landmarks[0, number] = torch.tensor(point, dtype=torch.float)
    points = au_points(landmarks, [10, 12, 14, 17])[0].tolist()
    given = [[102, 166], [158, 165], [84, 164], [174, 164], [61, 156.5], [192.5, 155], [131, 191], [130.5, 210.5]]
    assert points == given


def test_points_of_an_au_mirror_each_other_or_lie_in_the_middle():
    mirror = {**{i: 16 - i for i in range(17)}, **{17 + i: 26 - i for i in range(10)}}
    mirror |= {27: 27, 28: 28, 29: 29, 30: 30, 31: 35, 32: 34, 33: 33}
    mirror |= {36: 45, 37: 44, 38: 43, 39: 42, 40: 47, 41: 46}
    mirror |= {48: 54, 49: 53, 50: 52, 51: 51, 57: 57, 58: 56, 59: 55, 62: 62, 66: 66, 8: 8}
    mirror |= {b: a for a, b in mirror.items()}
    for au, (first, second) in AU_POINTS.items():
        assert {mirror[i] for i in first} in ({*first}, {*second}), au
        assert not {*first, *second} & {60, 64}, f"AU{au}: DISFA delivers no landmark 60 and 64"


def test_unknown_intensities_and_points_have_no_target_and_absent_aus_an_empty_one():
    points = torch.tensor([[[8.0, 8], [torch.nan, torch.nan], [8, 8], [torch.nan, torch.nan]]])
    target = heatmap_targets(points, torch.tensor([[2, 0, -1, 3]]), 8, 8)
    assert target[0, 0].max().item() == 2 * 255
    assert (target[0, 0] == 2 * 255).nonzero().tolist() == [[2, 2]]
    assert (target[0, 1] == 0).all()
    assert target[0, 2:].isnan().all()
    maps = torch.ones(1, 4, 8, 8, requires_grad=True)
    loss = heatmap_loss(maps, target)
    assert loss.item() == pytest.approx((((target[0, 0] - 1) ** 2).sum().item() + 64) / 128)
    loss.backward()
    assert (maps.grad[0, 2:] == 0).all()
    unknown = heatmap_loss(maps, torch.full((1, 4, 8, 8), torch.nan))
    assert unknown.item() == 0
    unknown.backward()
