"""MACs and parameters of layers by hand, and of AUNet's networks against the published numbers."""

import pytest
import torch
from torch import nn

from experiments.analysis.complexity import complexity_table, count_macs, count_parameters, sizes
from lightning_modules.aunet.network import FAN, AUFANHead, AUNetHead, FeatureHeadNetwork, FrozenFAN


def test_macs_of_two_layers_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16, 5), nn.Dropout())
    macs = count_macs(network, torch.zeros(1, 3, 4, 4))
    assert macs == {"": 16 * 3 * 9 * 8 + 128 * 5, "0": 16 * 3 * 9 * 8, "1": 0, "2": 128 * 5, "3": 0}
    assert network[3].training  # as it was
    network[2].requires_grad_(False)
    assert count_parameters(network) == (3 * 9 * 8 + 8 + 128 * 5 + 5, 3 * 9 * 8 + 8)


@pytest.mark.parametrize(
    ("make", "inputs", "parameters", "gmacs"),
    [
        (FAN, [(1, 3, 256, 256)], 12_106_504, 13.9236),
        (AUFANHead, [(1, 768, 64, 64)], 1_857_164, 3.0113),
        (AUNetHead, [(1, 768, 64, 64)] * 3, 2_657_036, 3.8292),
    ],
)
def test_networks_of_aunet_have_the_published_size(
    make: type[nn.Module], inputs: list[tuple[int, ...]], parameters: int, gmacs: float
) -> None:
    """Counted apart with the released code; the paper prints 12.11 M, 1.86 M, 2.66 M and 13.97, 3.02, 3.84 G."""
    with torch.device("meta"):
        network, tensors = make(), [torch.zeros(shape) for shape in inputs]
    assert count_parameters(network)[0] == parameters
    assert count_macs(network, *tensors)[""] / 1e9 == pytest.approx(gmacs, abs=5e-5)


def test_aunet_s_parts_are_three_passes_of_fan_and_its_head() -> None:
    """The head's own forward is not what runs: its parts are."""
    with torch.device("meta"):
        network = FeatureHeadNetwork(FrozenFAN(FAN()), AUNetHead())
        found = sizes(network, torch.zeros((1, 3, 3, 256, 256), dtype=torch.uint8))
    assert found[""]["macs"] == found["extractor"]["macs"] + found["head"]["macs"]
    assert found["extractor"]["macs"] / 3e9 == pytest.approx(13.9236, abs=5e-5)
    assert found["head"] == {"parameters": 2_657_036, "trained": 2_657_036, "macs": found["head"]["macs"]}
    assert found["head"]["macs"] / 1e9 == pytest.approx(3.8292, abs=5e-5)
    assert found["extractor"]["trained"] == 0


def test_table_shows_the_parts_where_there_are_several() -> None:
    one = sizes(nn.Sequential(nn.Linear(1000, 5000)), torch.zeros(1, 1000))
    two = sizes(nn.Sequential(nn.Linear(1000, 5000), nn.ReLU(), nn.Linear(5000, 1)), torch.zeros(1, 1000))
    table = complexity_table({"tiny": one, "pair": two})
    assert table.rows == [
        ["tiny", "5.00", "5.00", "0.01"],
        ["pair", "5.01", "5.01", "0.01"],
        ["pair, 0", "5.00", "5.00", "0.01"],
        ["pair, 2", "0.01", "0.01", "0.00"],
    ]
    assert table.header[-1] == "GMACs a frame"
