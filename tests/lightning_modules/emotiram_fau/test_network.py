import pytest
import torch
from torch import nn

from lightning_modules.common.backbones import create_backbone
from lightning_modules.emotiram_fau.fau_network import FAU
from lightning_modules.emotiram_fau.megraph_network import MEGraph
from lightning_modules.emotiram_fau.network import EmotiRAMNetwork, FaceNetwork, HeatmapBody, MEGraphBody, bottleneck


def image(side: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)


def heatmap(n_aus: int = 3, side: int = 32) -> HeatmapBody:
    return HeatmapBody(FAU(create_backbone("resnet10t", 0.125), 2 * n_aus, 0.125, image_size=side), n_aus)


def megraph(n_aus: int = 3, stage: str = "mefl") -> MEGraphBody:
    return MEGraphBody(MEGraph(create_backbone("resnet10t", 0.125), n_aus, stage, 2), n_aus)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("n_code", "hidden", "expected"),
    [(5760, [2048, 1024, 512, 256], 14_554_631), (12, [], 91), (8, [], 63)],
    ids=["10 maps of 24x24", "BP4D's 12 similarities", "DISFA's 8"],
)
def test_the_bottleneck_has_the_papers_sizes(n_code, hidden, expected):
    assert parameters(bottleneck(n_code, hidden, 7)) == expected


def test_the_bottleneck_is_linear_layers_with_relu_between():
    layers = bottleneck(3, [2], 2)
    x = torch.tensor([[1.0, -2.0, 0.5]])
    hidden = (x @ layers[0].weight.T + layers[0].bias).clamp(min=0)
    torch.testing.assert_close(layers(x), hidden @ layers[-1].weight.T + layers[-1].bias)


def test_the_face_stream_has_caer_nets_sizes():
    network = FaceNetwork(7)
    assert parameters(network.encoder) == 979_968
    assert parameters(network) == 1_014_279
    assert network.encoder(torch.zeros(1, 3, 96, 96)).shape == (1, 256, 6, 6)


@pytest.mark.parametrize("side", [32, 64, 96])
def test_the_first_layer_fits_the_maps(side):
    body = heatmap(5, side)
    network = EmotiRAMNetwork(body, [16], 7)
    assert network.head[0].in_features == body.n_code == 10 * (side // 4) ** 2
    assert network(image(side))[1].shape == (2, 7)


def test_maps_are_divided_by_255_and_similarities_are_not():
    maps = torch.full((1, 2, 2, 2), 510.0)
    assert heatmap(1).code(maps).tolist() == [[2.0] * 8]
    assert megraph(2).code(torch.tensor([[0.25, 0.5]])).tolist() == [[0.25, 0.5]]


def test_heatmaps_see_images_in_0_to_1_and_megraph_normalised_ones():
    x = image()
    body = heatmap().eval()
    torch.testing.assert_close(body(x), body.net(x.float() / 255))
    body = megraph().eval()
    scaled = (x.float() / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    torch.testing.assert_close(body(x), body.net(scaled)[0], rtol=1e-4, atol=1e-5)


def test_levels_are_heights_rounded_and_kept_in_range():
    maps = torch.zeros(1, 8, 2, 2)
    for au, (first, second) in enumerate([(0.2, 0.4), (2.4, 2.8), (7, 9), (-3, -2)]):
        maps[0, 2 * au] = torch.full((2, 2), 255 * first)
        maps[0, 2 * au + 1] = torch.full((2, 2), 255 * second)
    found = heatmap(4).readout(maps)
    assert found["expected"].tolist() == [pytest.approx([0.3, 2.6, 8.0, -2.5], rel=1e-6)]
    assert found["level"].tolist() == [[0, 3, 5, 0]]
    assert found["level"].dtype == torch.int64


@pytest.mark.parametrize("make", [heatmap, megraph, lambda n: megraph(n, "anfl")], ids=["heatmap", "mefl", "anfl"])
def test_an_evaluation_may_ask_for_some_aus(make):
    body, x = make(3).eval(), image()
    everything = body.readout(body(x))
    body.outputs = [2, 0]
    for name, values in body.readout(body(x)).items():
        torch.testing.assert_close(values, everything[name][:, [2, 0]])
    assert body.features(x).shape[:2] in ((2, 1), (2, 2))


@pytest.mark.parametrize("make", [heatmap, megraph], ids=["heatmap", "megraph"])
def test_a_frozen_body_keeps_weights_and_statistics(make):
    network = EmotiRAMNetwork(make(3), [], 4, frozen=True).train()
    before = {name: tensor.clone() for name, tensor in network.body.state_dict().items()}
    network(image())[1].sum().backward()
    assert all(parameter.grad is None for parameter in network.body.parameters())
    assert all(parameter.grad is not None for parameter in network.head.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.body.state_dict().items())
    free = EmotiRAMNetwork(make(3), [], 4).train()
    free(image())[1].sum().backward()
    assert any(parameter.grad.abs().sum() > 0 for parameter in free.body.parameters() if parameter.grad is not None)
