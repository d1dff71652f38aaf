"""MACs and parameters of layers by hand, and of AUNet's networks against the published numbers."""

import pytest
import torch
from torch import nn

from experiments.analysis.complexity import complexity_table, count_macs, count_parameters
from lightning_modules.aunet.network import FAN, AUFANHead, AUNetHead


def test_macs_of_two_layers_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16, 5), nn.Dropout())
    assert count_macs(network, torch.zeros(1, 3, 4, 4)) == 16 * 3 * 9 * 8 + 128 * 5
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
    assert count_macs(network, *tensors) / 1e9 == pytest.approx(gmacs, abs=5e-5)


def test_table() -> None:
    table = complexity_table({"tiny": (nn.Linear(1000, 5000), (torch.zeros(1, 1000),))})
    assert table.rows == [["tiny", "5.00", "5.00", "0.01"]]
    assert table.header[-1] == "GMACs"
