"""Parameters and multiply-accumulates (MACs) of networks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.tables import Table

NOTE = (
    "MACs of convolutions and matrix products, one picture. AUNet calls them flops, and its tool also counted biases, "
    "batch normalisations and activations: FAN 13.92 here are its 13.97. A multiplication and an addition are one MAC."
)


def count_macs(network: nn.Module, *inputs: Any) -> int:
    """Multiply-accumulates of the convolutions and matrix products in `network(*inputs)`.

    Runs the network once, in evaluation mode and without gradients. On the device `meta` nothing is computed.
    """
    training = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(*inputs)
    finally:
        for module, mode in training.items():
            module.training = mode
    return int(counter.get_total_flops()) // 2  # a multiplication and an addition each


def count_parameters(network: nn.Module) -> tuple[int, int]:
    """All parameters, and those that are trained."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def complexity_table(networks: Mapping[str, tuple[nn.Module, tuple[Any, ...]]]) -> Table:
    """Parameters and MACs of networks on a batch of one.

    Args:
        networks: Name -> network and its inputs.
    """
    rows = []
    for name, (network, inputs) in networks.items():
        parameters, trained = count_parameters(network)
        gmacs = count_macs(network, *inputs) / 1e9
        rows.append([name, f"{parameters / 1e6:.2f}", f"{trained / 1e6:.2f}", f"{gmacs:.2f}"])
    header = ["network", "parameters, million", "of them trained", "GMACs"]
    return Table("Size of the networks", header, rows, [NOTE])
