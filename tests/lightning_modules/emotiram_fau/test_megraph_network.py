import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.common.backbones import create_backbone
from lightning_modules.common.errors import ModelError
from lightning_modules.emotiram_fau.megraph_network import EdgeFeatures, FacialGraph, GatedLayer, MEGraph


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("offset", [0.0, 30.0], ids=["about zero", "far from zero"])
def test_edges_are_their_definition(benchmark, training, offset):
    """Also gradients and running statistics; float64, in which the two differ by rounding alone."""
    script = benchmark("megraph")
    ours = script.trained(EdgeFeatures(4, 16)).double().train(training)
    with torch.no_grad():
        ours.project.bias += offset
    theirs = script.LiteralEdges(copy.deepcopy(ours))
    maps, face = torch.rand(3, 4, 9, 16, dtype=torch.float64), torch.rand(3, 9, 16, dtype=torch.float64)
    inputs = [(maps.clone().requires_grad_(), face.clone().requires_grad_()) for _ in range(2)]
    outputs = [network(*x) for network, x in zip((ours, theirs), inputs, strict=True)]
    direction = torch.randn_like(outputs[0])
    for output in outputs:
        (output * direction).sum().backward()
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-11)
    for a, b in zip(inputs[0], inputs[1], strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-10)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-10)
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_half_precision_leaves_the_statistics_of_edges_whole():
    """Their variance is a difference of sums, of which bfloat16 would leave little."""
    edges = EdgeFeatures(3, 16).train()
    with torch.no_grad():
        edges.project.bias += 8
    maps, face = torch.rand(2, 3, 9, 16), torch.rand(2, 9, 16)
    whole = copy.deepcopy(edges)
    expected = whole(maps, face)
    with torch.autocast("cpu", torch.bfloat16):
        value = edges(maps, face)
    assert edges.norm.running_var.min() > 0.9  # of 1 and a tenth of a variance: never less
    assert (value.float() - expected).abs().mean() < 0.1 * expected.std()


def test_the_whole_mefl_takes_half_of_its_definition_s_products(benchmark):
    """21.1 G multiply-adds twice, of the release at 12 AUs (measured there); 8.2 of them are the ResNet's."""
    with torch.device("meta"):
        network, image = MEGraph(create_backbone("resnet50"), 12).eval(), torch.empty(1, 3, 224, 224)
    flops = {}
    for name, way in {"definition": benchmark("megraph").literal(network), "ours": network}.items():
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            way(image)
        flops[name] = counter.get_total_flops() / 1e9
    assert flops["definition"] == pytest.approx(21.091, abs=0.05)
    assert flops["ours"] < 10.3


def test_neighbours_are_the_most_similar_and_those_equal_to_the_last():
    node = torch.tensor([[[3.0, 0], [2, 0], [1, 1], [0, 1]]])
    # Similarities 9 6 3 0 | 6 4 2 0 | 3 2 2 1 | 0 0 1 1; the two largest of each row, ties at the second join.
    joined = torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1]])
    degree = torch.tensor([2.0, 2, 3, 2])
    expected = joined / (degree.view(-1, 1) * degree).sqrt()
    torch.testing.assert_close(FacialGraph(4, 2, 2).adjacency(node)[0], expected)


def test_no_gradient_flows_through_the_choice_of_neighbours():
    graph = FacialGraph(3, 4, 2).eval()
    node = torch.rand(1, 3, 4, requires_grad=True)
    assert not graph.adjacency(node).requires_grad
    graph(node).sum().backward()
    assert node.grad.abs().sum() > 0


def test_gates_of_a_node_share_one_over_what_they_let_through():
    """With edges alike for all pairs a node's message is the mean of V over all nodes, over N once more."""
    layer = GatedLayer(3, 4).eval()
    with torch.no_grad():
        for linear in (layer.end, layer.start, layer.edge, layer.own):
            linear.weight.zero_()
        layer.other.weight.copy_(torch.eye(4))
    node, edge = torch.rand(2, 3, 4), torch.ones(2, 9, 4)
    value, new_edge = layer(node, edge)
    shrink = (1 + layer.node_norm.eps) ** -0.5
    torch.testing.assert_close(value, node + shrink * node.mean(1, keepdim=True) / 3)
    torch.testing.assert_close(new_edge, edge)


def test_edge_i_j_ends_in_i_and_starts_in_j():
    layer = GatedLayer(3, 4).eval()
    with torch.no_grad():
        for linear in (layer.start, layer.edge):
            linear.weight.zero_()
        layer.end.weight.copy_(torch.eye(4))
    node = torch.arange(3.0).view(1, 3, 1).expand(1, 3, 4)
    _, edge = layer(node, torch.zeros(1, 9, 4))
    assert edge[0, :, 0].round().tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("stage", ["anfl", "mefl"])
def test_similarities_lie_between_0_and_1_and_every_parameter_learns(stage):
    network = MEGraph(create_backbone("resnet18", 0.125), 4, stage, 2).train()
    output = network(torch.randn(3, 3, 64, 64))
    similarity, *edge = (output,) if stage == "anfl" else output
    assert similarity.shape == (3, 4)
    assert 0 <= similarity.min() <= similarity.max() <= 1 + 1e-6
    (similarity.log().sum() + sum((x**2).sum() for x in edge)).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_node_of_nothing_or_of_large_values_has_a_similarity_in_half_precision(kind):
    network = MEGraph(create_backbone("resnet18", 0.125), 2, "anfl", 1)
    node = torch.zeros(3, 2, network.centres.shape[1], dtype=kind)
    node[1] = 20000  # whose length float16 cannot hold
    node[2] = 1
    similarity = network.similarity(node)
    assert similarity[0].tolist() == [0, 0]
    torch.testing.assert_close(similarity[1], similarity[2])
    assert similarity[1].min() > 0.1


def test_another_backbone_is_refused():
    with pytest.raises(ModelError, match="is no ResNet"):
        MEGraph(create_backbone("convnext_atto"), 4)
