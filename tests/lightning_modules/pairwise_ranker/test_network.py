import pytest
import torch
from torch import Tensor, nn

from lightning_modules.common.backbones import create_backbone
from lightning_modules.pairwise_ranker.network import (
    FrameRanker,
    IntensityNetwork,
    Mapping,
    freeze_convolutions,
    sigma,
)

NAMES = ["AU04", "AU06", "AU12"]


def ranker(shared: bool = False) -> FrameRanker:
    return FrameRanker(lambda _: create_backbone("resnet10t", 0.125), NAMES, shared).eval()


@pytest.mark.parametrize("shared", [False, True])
def test_a_pair_is_scored_as_its_frames_are_by_the_network_of_its_au(shared: bool) -> None:
    network = ranker(shared)
    pair = torch.randint(0, 256, (2, 3, 2, 3, 32, 32), dtype=torch.uint8)
    scores = network(pair)
    assert scores.shape == (2, 3, 2)
    for a in range(3):
        for k in range(2):
            torch.testing.assert_close(scores[:, a, k], network(pair[:, a, k])[:, a], atol=1e-5, rtol=1e-4)


def test_each_au_has_a_network_of_its_own_unless_they_share_one() -> None:
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    for network, touched in ((ranker(), 1), (ranker(shared=True), 3)):
        before = network(image)
        with torch.no_grad():
            for parameter in next(iter(network.networks.values()))[0].parameters():
                parameter.mul_(1.5)
        changed = (network(image) - before).abs().amax(0) > 1e-6
        assert changed.sum() == touched


def test_vgg16_has_what_the_paper_trains() -> None:
    network = FrameRanker(lambda _: create_backbone("vgg16", dropout=0.5), ["AU06"])
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [c.out_channels for c in convolutions[:2]] == [64, 64]
    # torchvision's VGG16 has 138,357,544 parameters with 1000 classes of 4096 weights and a bias.
    assert sum(p.numel() for p in network.parameters()) == 138_357_544 - 1000 * 4097 + 4097
    assert [module.p for module in network.modules() if isinstance(module, nn.Dropout)] == [0.5, 0.5]
    freeze_convolutions(network, 2)
    frozen = [name for name, p in network.named_parameters() if not p.requires_grad]
    assert len(frozen) == 4
    assert not any(p.requires_grad for c in convolutions[:2] for p in c.parameters())
    assert convolutions[2].weight.requires_grad


def test_sigma_is_positive_and_finite() -> None:
    values = sigma(torch.tensor([-1e9, -1.0, 0, 2, 1e9]))
    torch.testing.assert_close(values, torch.tensor([4.539993e-5, 0.3678794, 1, 7.389056, 22026.466]))


def plain_mapping(mapping: Mapping, au: int) -> nn.Sequential:
    """The network of one AU, of ordinary layers."""
    layers: list[nn.Module] = []
    for layer in mapping:
        if not hasattr(layer, "weight"):
            layers.append(layer)
            continue
        linear = nn.Linear(*layer.weight.shape[1:])
        linear.load_state_dict({"weight": layer.weight[au].T, "bias": layer.bias[au]})
        layers.append(linear)
    return nn.Sequential(*layers)


def test_mappings_are_the_classifier_of_vgg16_for_each_au() -> None:
    mapping = Mapping(3, 29, hidden=16).eval()
    feature = torch.randn(5, 3, 29)
    found = mapping(feature)
    for au in range(3):
        torch.testing.assert_close(found[:, au], plain_mapping(mapping, au)(feature[:, au]))
    # Sec. 2a of the facts: 21.79 M for 1221 numbers.
    assert sum(p.numel() for p in Mapping(1, 1221).parameters()) == 21_790_721


def test_the_plain_mapping_sees_no_confidence() -> None:
    window = 3
    network = IntensityNetwork(2, window, certain=True, plain=True, hidden=8, dropout=0.0)
    feature = torch.randn(4, 2, 21 + 4 * window)
    other = feature.clone()
    other[..., 4:20] += 1  # percentiles of the confident frames, and their share
    other[..., 20 + 2 * window :] += 1  # confidences
    certain, plain = zip(network.both(feature), network.both(other), strict=True)
    assert (certain[0] != certain[1]).all()
    assert torch.equal(*plain)
    network.uses_sigma = torch.tensor([True, False])
    answer = network(feature)
    assert torch.equal(answer[:, 0], certain[0][:, 0])
    assert torch.equal(answer[:, 1], plain[0][:, 1])


def test_they_compile_whole() -> None:
    def whole(network: nn.Module, example: Tensor) -> None:
        compiled = torch.compile(network, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(example), network(example))

    whole(ranker(), torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
    whole(ranker(shared=True), torch.randint(0, 256, (2, 3, 2, 3, 32, 32), dtype=torch.uint8))
    whole(IntensityNetwork(2, 3, True, True, 8, 0.0).eval(), torch.randn(4, 2, 33))
