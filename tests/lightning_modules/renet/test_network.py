import copy

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from lightning_modules.common.backbones import create_backbone
from lightning_modules.renet.network import AUBatchNorm2d, AURelation, RENetwork, pairwise_pearson


def layer(n_aus: int, n_channels: int = 5, affine: bool = True) -> AUBatchNorm2d:
    """A layer whose rows differ, as after training."""
    norm = AUBatchNorm2d(nn.BatchNorm2d(n_channels), n_aus, affine, 0.1)
    for tensor in norm.state_dict().values():
        tensor += torch.rand(tensor.shape)
    return norm


def run(norm: AUBatchNorm2d, x: torch.Tensor, au: int, mix: torch.Tensor) -> torch.Tensor:
    norm.selected = au, mix
    return norm(x)


def network(n_aus: int = 3, name: str = "resnet18", width: float = 0.125, **arguments) -> RENetwork:
    """A network in evaluation whose rows of AUs, statistics and relation all differ."""
    arguments = {"relation": "fixed", **arguments}
    backbone = create_backbone(name, width) if isinstance(name, str) else name
    net = RENetwork(backbone, n_aus, **arguments).eval()
    with torch.no_grad():
        for norm in net.norms:
            for tensor in norm.state_dict().values():
                tensor += 0.3 * torch.rand(tensor.shape)
        if arguments["relation"] == "fixed":
            net.relation.omega.copy_(torch.eye(n_aus) + 0.2 * torch.rand(n_aus, n_aus).fill_diagonal_(0))
    return net


def images(n: int = 4, size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8)


# --- the layer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_one_au_is_ordinary_batch_norm(training):
    reference = nn.BatchNorm2d(5).train(training)
    nn.init.uniform_(reference.weight), nn.init.uniform_(reference.bias)
    norm = AUBatchNorm2d(reference, 1, affine=True, momentum=0.1).train(training)
    x = torch.randn(4, 5, 3, 3)
    for _ in range(3):
        torch.testing.assert_close(run(norm, x, 0, torch.ones(1)), reference(x))
    torch.testing.assert_close(norm.running_mean[0], reference.running_mean)
    torch.testing.assert_close(norm.running_var[0], reference.running_var)


def test_identity_is_a_batch_norm_per_au():
    norm, references = layer(3).train(), []
    for au in range(3):
        reference = nn.BatchNorm2d(5)
        rows = {name: tensor[au].clone() for name, tensor in norm.state_dict().items()}
        reference.load_state_dict(rows | {"num_batches_tracked": torch.tensor(0)})
        references.append(reference)
    mixing = AURelation(3, False, "sum")()
    for au in (2, 0, 2, 1):
        x = torch.randn(4, 5, 3, 3)
        torch.testing.assert_close(run(norm, x, au, mixing[au]), references[au](x))
    for au in range(3):
        torch.testing.assert_close(norm.running_var[au], references[au].running_var)


def test_a_training_pass_moves_the_statistics_of_its_au_only():
    norm = layer(3).train()
    before = norm.running_mean.clone(), norm.running_var.clone()
    run(norm, torch.randn(4, 5, 3, 3), 1, torch.full((3,), 1 / 3))
    for old, new in zip(before, (norm.running_mean, norm.running_var), strict=True):
        assert (new != old).any(1).tolist() == [False, True, False]


def test_all_rows_learn_in_proportion_to_their_share():
    norm, mix = layer(3), torch.tensor([1.0, 0.5, -0.25])
    (run(norm, torch.randn(4, 5, 3, 3), 0, mix) * torch.randn(5, 1, 1)).sum().backward()
    for parameter in (norm.weight, norm.bias):
        assert (parameter.grad[0] != 0).all()
        torch.testing.assert_close(parameter.grad, mix[:, None] * parameter.grad[:1])


def test_without_affine_only_the_statistics_remain():
    norm = layer(2, affine=False).eval()
    assert not list(norm.parameters())
    x = torch.randn(4, 5, 3, 3)
    expected = (x - norm.running_mean[1].view(-1, 1, 1)) / (norm.running_var[1].view(-1, 1, 1) + 1e-5).sqrt()
    torch.testing.assert_close(run(norm, x, 1, torch.tensor([0.5, 0.5])), expected)


# --- the relation ----------------------------------------------------------------------------------------------------


def test_correlation_is_pairwise_complete_as_in_pandas():
    label = np.random.default_rng(0).integers(0, 6, (60, 4))
    label[np.random.default_rng(1).random(label.shape) < 0.3] = -1
    expected = pd.DataFrame(np.where(label < 0, np.nan, label)).corr().to_numpy()
    np.testing.assert_allclose(pairwise_pearson(torch.from_numpy(label)).numpy(), expected, atol=1e-12)


def test_correlation_of_complete_labels_is_numpys():
    label = np.random.default_rng(0).integers(0, 2, (50, 3))
    expected = np.corrcoef(label, rowvar=False)
    np.testing.assert_allclose(pairwise_pearson(torch.from_numpy(label)).numpy(), expected, atol=1e-12)


def test_constant_and_unknown_columns_are_unrelated():
    label = torch.randint(0, 2, (40, 4))
    label[:, 1], label[:, 3] = 1, -1
    correlation = pairwise_pearson(label)
    assert torch.equal(correlation[[1, 3]], torch.eye(4).double()[[1, 3]])
    assert correlation.isfinite().all()


@pytest.mark.parametrize(
    ("normalizer", "expected"),
    [
        ("sum", [1 / 0.8, 0.3 / 0.8, -0.5 / 0.8]),
        ("abs_sum", [1 / 1.8, 0.3 / 1.8, -0.5 / 1.8]),
        ("relu_sum", [1 / 1.3, 0.3 / 1.3, 0.0]),
        ("softmax", np.exp([1, 0.3, -0.5]) / (np.exp(1) + np.exp(0.3) + np.exp(-0.5))),
    ],
)
def test_normalizers_worked_by_hand(normalizer, expected):
    relation = AURelation(3, False, normalizer)
    relation.omega[0] = torch.tensor([1.0, 0.3, -0.5])
    torch.testing.assert_close(relation()[0], torch.tensor(np.array(expected), dtype=torch.float32))


@pytest.mark.parametrize(("total", "denominator"), [(0.0, 0.1), (0.04, 0.1), (-0.04, -0.1), (-2.0, -2.0), (0.3, 0.3)])
def test_a_vanishing_denominator_is_held_off_zero_with_its_sign(total, denominator):
    relation = AURelation(2, False, "sum")
    relation.omega[0] = torch.tensor([1.0, total - 1])
    torch.testing.assert_close(relation()[0], torch.tensor([1.0, total - 1]) / denominator)


def test_equal_rows_pass_through_any_relation():
    net = RENetwork(create_backbone("resnet18", 0.125), 3).eval()
    image = images()
    before = net(image, [0, 1, 2])
    net.relation.omega.copy_(torch.tensor([[1, 0.9, -0.3], [0.9, 1, 0.2], [-0.3, 0.2, 1]]))
    torch.testing.assert_close(net(image, [0, 1, 2]), before)


def test_a_learnable_relation_learns_off_its_diagonal():
    net = RENetwork(create_backbone("resnet18", 0.125), 3, relation="learnable", seed=5)
    off = ~torch.eye(3, dtype=torch.bool)
    assert (net.relation.omega[off].abs() <= 0.1).all()
    assert net.relation.omega[off].unique().numel() == 6
    assert torch.equal(
        RENetwork(create_backbone("resnet18", 0.125), 3, relation="learnable", seed=5).relation.omega,
        net.relation.omega,
    )
    for norm in net.norms:  # equal rows would make the relation irrelevant
        nn.init.uniform_(norm.weight)
    net(images(), [1]).sum().backward()
    assert (net.relation.omega.grad != 0).tolist() == [[False] * 3, [True, False, True], [False] * 3]


def test_the_relation_travels_in_the_state_dict():
    for kind in ("fixed", "learnable"):
        assert "relation.omega" in network(relation=kind).state_dict()


def test_without_scale_and_shift_training_tells_no_aus_apart():
    logit = RENetwork(create_backbone("resnet18", 0.125), 3, relation="none").train()(images(), [0, 1, 2])
    torch.testing.assert_close(logit[:, 1:], logit[:, :1].expand(-1, 2, -1))


# --- unseen AUs ------------------------------------------------------------------------------------------------------


def test_others_mix_without_the_unseen_au_and_sum_to_one():
    relation = AURelation(3, False, "sum", unseen=[1])
    relation.omega.copy_(torch.tensor([[1, 0.5, 0.25], [0.5, 1, -0.5], [0.25, -0.5, 1]]))
    torch.testing.assert_close(relation()[[0, 2]], torch.tensor([[0.8, 0, 0.2], [0.2, 0, 0.8]]))


@pytest.mark.parametrize(
    ("row", "expected"),
    [([0.6, 1.0, 0.2, -0.7], [0.75, 0, 0.25, 0]), ([-0.6, 1.0, 0.02, 0.0], [1 / 3, 0, 1 / 3, 1 / 3])],
)
def test_an_unseen_au_is_the_mean_of_its_positive_relatives_or_of_all(row, expected):
    relation = AURelation(4, False, "sum", unseen=[1])
    relation.omega[1] = torch.tensor(row)
    torch.testing.assert_close(relation()[1], torch.tensor(expected))


def test_an_unseen_au_borrows_statistics_until_it_is_recalibrated():
    net = network(3, unseen=[2])
    own = net.norms[4].running_var[2].clone()
    net.borrow_statistics()
    mix = net.relation()[2]
    expected = mix[0] * net.norms[4].running_var[0] + mix[1] * net.norms[4].running_var[1]
    torch.testing.assert_close(net.norms[4].running_var[2], expected)
    net.recalibrate([images(8)])
    assert not torch.allclose(net.norms[4].running_var[2], expected)
    assert not torch.allclose(net.norms[4].running_var[2], own)


# --- the network -----------------------------------------------------------------------------------------------------


def test_all_twenty_layers_of_a_resnet18_are_replaced():
    backbone = timm.create_model("resnet18", num_classes=0)
    net = RENetwork(backbone, 12)
    assert len(net.norms) == 20
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    assert sum(norm.weight.numel() for norm in net.norms) == 12 * 4800


@pytest.mark.parametrize("norm_layer", [nn.BatchNorm2d, BatchNormAct2d])
def test_every_au_starts_as_the_backbone_that_it_was_made_of(norm_layer):
    backbone = timm.create_model("resnet18", num_classes=0, channels=(8, 16, 32, 64), norm_layer=norm_layer)
    for norm in backbone.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in norm.state_dict().values():
                tensor += torch.rand(tensor.shape).to(tensor.dtype)
    plain = copy.deepcopy(backbone).eval()
    net = RENetwork(backbone, 2).eval()
    image = images()
    features = net.features(image, [0, 1])
    for au in range(2):
        torch.testing.assert_close(features[:, au], plain(net.normalize(image)))


@pytest.mark.parametrize(
    ("name", "width", "arguments"),
    [
        ("resnet18", 0.125, {}),
        ("resnet18", 0.125, {"relation": "none"}),
        ("resnet18", 0.125, {"relation": "learnable", "normalizer": "softmax", "shared_head": False}),
        ("resnet18", 0.125, {"unseen": [1], "task": "intensity"}),
        ("resnet50", 0.125, {}),  # bottlenecks
        ("resnet10t", 0.25, {}),  # deep stem with normalisations inside, average-pooled shortcut
        ("seresnet18", 0.125, {}),  # convolutions that no normalisation follows
    ],
)
def test_folded_inference_equals_the_loop_over_aus(name, width, arguments):
    net, image = network(3, name, width, **arguments), images()
    with torch.no_grad():
        loop, folded = net(image, [0, 1, 2]), net(image)
    torch.testing.assert_close(folded, loop, atol=1e-5, rtol=1e-5)
    assert (loop[:, 0] - loop[:, 1]).abs().max() > 1e-3  # the AUs differ, so that equality means something


def test_folding_leaves_no_normalisation_and_computes_the_first_convolution_once(monkeypatch):
    net = network(3)
    assert not any(isinstance(module, AUBatchNorm2d) for folded in net.folded().values() for module in folded.modules())
    calls = []
    net.stem.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        net(images())
    assert len(calls) == 1


def change_by_step(net):
    net.train()
    net(images(), [1]).sum().backward()
    torch.optim.SGD(net.parameters(), 0.1).step()
    net.eval()


def change_by_training_pass(net):
    net.train()
    with torch.no_grad():
        net(images(), [0, 1, 2])
    net.eval()


CHANGES = {
    "optimizer step": change_by_step,
    "statistics alone": change_by_training_pass,
    "load_state_dict": lambda net: net.load_state_dict(network(3).state_dict()),
    "recalibrate": lambda net: net.recalibrate([images()]),
    "relation": lambda net: net.relation.omega.copy_(torch.tensor([[1, 0.9, 0], [0, 1, 0.5], [0.3, 0, 1]])),
    "outputs": lambda net: setattr(net, "outputs", [2, 1]),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_folded_weights_follow_every_change(change, mode):
    net, image = network(3), images()
    with mode():
        stale = net(image)
        kept = net.folded()
        assert net.folded() is kept
    CHANGES[change](net)
    with mode():
        new = net(image)
        torch.testing.assert_close(new, net(image, net.outputs), atol=1e-5, rtol=1e-5)
    assert new.shape != stale.shape or not torch.allclose(new, stale, atol=1e-4)


def test_the_joint_gradient_is_the_sum_of_the_single_ones():
    net, image = network(3), images()
    weight = torch.randn(4, 3, 1)
    joint = torch.autograd.grad((net(image, [0, 1, 2]) * weight).sum(), list(net.parameters()))
    singles = [
        torch.autograd.grad((net(image, [au])[:, 0] * weight[:, au]).sum(), list(net.parameters())) for au in range(3)
    ]
    for total, *parts in zip(joint, *singles, strict=True):
        torch.testing.assert_close(total, sum(parts), atol=1e-4, rtol=1e-4)


def test_recomputing_for_the_joint_gradient_moves_statistics_once():
    net = network(2).train()
    twin = copy.deepcopy(net)
    image = images()
    net(image, [0, 1]).sum().backward()
    with torch.no_grad():
        for au in range(2):
            twin(image, [au])
    for norm, other in zip(net.norms, twin.norms, strict=True):
        torch.testing.assert_close(norm.running_var, other.running_var)


def test_joint_training_keeps_one_graph_in_memory():
    """A further AU saves next to nothing for the backward pass, while one alone saves all its activations."""

    def saved(n_aus: int) -> int:
        sizes: dict[int, int] = {}  # by address: what several AUs share counts once

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.data_ptr()] = tensor.nbytes
            return tensor

        net = network(6).train()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            graph = net(images(), list(range(n_aus)))
        del graph
        return sum(sizes.values())

    single, two, six = saved(1), saved(2), saved(6)
    assert (six - two) / 4 < 0.02 * single


def test_recalibration_is_the_mean_of_batch_statistics_and_idempotent():
    net = network(2)
    batches = [images(8), images(8), images(6)]
    seen = []
    net.stem.register_forward_hook(lambda module, inputs, output: seen.append(output))
    net.recalibrate(batches)
    expected = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    for au in range(2):
        torch.testing.assert_close(net.norms[0].running_mean[au], expected, atol=1e-4, rtol=1e-4)
    first = [norm.running_var.clone() for norm in net.norms]
    net.recalibrate(batches)
    for norm, old in zip(net.norms, first, strict=True):
        torch.testing.assert_close(norm.running_var, old)
        assert norm.momentum == 0.1
    assert not net.training
    assert not net.norms[0].training


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_bfloat16_autocast_runs_and_stays_close(mode):
    net, image = network(2).train(mode == "train"), images()
    with torch.no_grad():
        full = net(image)
        with torch.autocast("cpu", torch.bfloat16):
            half = net(image)
    torch.testing.assert_close(half.float(), full, atol=0.1, rtol=0.1)


def test_autocast_mixes_in_full_precision():
    norm, mix = layer(3), torch.tensor([1.0, 0.003, -0.001])
    exact = norm.scale_and_shift(mix)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(norm.scale_and_shift(mix)[0], exact)
