import copy

import numpy as np
import pytest
import torch

from lightning_modules.common.backbones import create_backbone
from lightning_modules.common.errors import ModelError
from lightning_modules.emotiram_fau.fau_network import (
    AMPLITUDE,
    FAU,
    SemanticCorrespondence,
    au_intensity,
    point_intensity,
)


@pytest.mark.parametrize(("graph", "prefix"), [("channel", "paper"), ("tf", "tf")])
def test_correspondence_is_the_golden_one(golden, graph, prefix):
    arrays = golden("scc_small")
    image = torch.from_numpy(arrays["x_nhwc"]).permute(0, 3, 1, 2)
    layer = SemanticCorrespondence(8, 16, int(arrays["k"]), graph).double().eval()
    layer.linear.weight.data = torch.from_numpy(arrays[f"{prefix}_W"]).T.contiguous()
    for name, value in {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "var"}.items():
        getattr(layer.norm, name).data.copy_(torch.from_numpy(arrays[f"{prefix}_{value}"]))
    layer.norm.eps = 1e-9  # in the TensorFlow code; a GPU raises it to ours
    found = {}
    nearest = layer.nearest
    layer.nearest = lambda feature: found.setdefault("index", nearest(feature))
    value = layer(image).permute(0, 2, 3, 1)
    np.testing.assert_allclose(value.detach().numpy(), arrays[f"{prefix}_out_nhwc"], atol=1e-10)
    assert np.array_equal(np.sort(found["index"].numpy()), np.sort(arrays[f"{prefix}_idx"]))


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("graph", ["channel", "tf"])
def test_correspondence_is_its_definition(benchmark, graph, training):
    definition, megraph = benchmark("scc"), benchmark("megraph")
    layer = megraph.trained(SemanticCorrespondence(12, 16, 5, graph)).double().train(training)
    ours, theirs = layer, definition.LiteralCorrespondence(copy.deepcopy(layer))
    image = torch.randn(3, 12, 4, 4, dtype=torch.float64)
    direction = torch.randn_like(image)
    inputs = [image.clone().requires_grad_() for _ in range(2)]
    outputs = [network(x) for network, x in zip((ours, theirs), inputs, strict=True)]
    for output in outputs:
        (output * direction).sum().backward()
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=0, atol=1e-11)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-11)
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_nodes_are_channels_or_pieces_of_rows():
    image = torch.randn(1, 4, 2, 4)
    for graph, permuted in (("channel", image[:, [2, 0, 3, 1]]), ("tf", image[..., [2, 3, 0, 1]])):
        torch.manual_seed(1)
        layer = SemanticCorrespondence(4, 8, 2, graph).eval()
        moved = layer(image)[:, [2, 0, 3, 1]] if graph == "channel" else layer(image)[..., [2, 3, 0, 1]]
        # The order of nodes is free: channels, or for tf halves of a row, which are two pixels with all channels.
        torch.testing.assert_close(layer(permuted), moved)


@pytest.mark.parametrize("scc", ["none", "channel", "tf"])
@pytest.mark.parametrize("side", [32, 96])
def test_maps_are_a_quarter_of_the_image(scc, side):
    network = FAU(create_backbone("resnet18", 0.125), 10, 0.125, scc, side)
    assert network(torch.rand(2, 3, side, side)).shape == (2, 10, side // 4, side // 4)


def test_sizes_and_backbones_that_do_not_fit_are_refused():
    with pytest.raises(ModelError, match="image_size 100") as fault:
        FAU(create_backbone("resnet18", 0.125), 10, image_size=100)
    assert fault.value.remedy == "set data.image_size=96"
    with pytest.raises(ModelError, match=r"convnext_atto.* is no ResNet"):
        FAU(create_backbone("convnext_atto"), 10)


def test_intensity_is_the_height_of_the_maps_over_255_and_the_mean_of_two_points():
    maps = torch.zeros(1, 4, 3, 3)
    for position, height in enumerate((2.0, 4.0, -1.0, 0.5)):
        maps[0, position] = torch.full((3, 3), -9.0)
        maps[0, position, 1, position % 3] = AMPLITUDE * height
    assert point_intensity(maps).tolist() == [pytest.approx([2.0, 4.0, -9 / AMPLITUDE, 0.5])]
    assert au_intensity(maps)[0, 0].item() == 3
