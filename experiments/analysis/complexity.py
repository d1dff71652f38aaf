"""Parameters and multiply-accumulates (MACs) of networks and of their parts."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.tables import Table

NOTES = [
    "MACs of convolutions and matrix products for one predicted frame; a multiplication and an addition are one MAC. "
    "With neighbours the extractor sees three frames.",
    "AUNet calls MACs flops, counts one pass of FAN, and its tool added biases, batch normalisations and activations. "
    "It prints, in million and G: FAN 12.11 and 13.97 (13.92 here), head of AU-FAN 1.86 and 3.02 (3.01), of AUNet 2.66 "
    "and 3.84 (3.83), ResNet18 11.38 and 2.35, JÄA-Net 25 and 8.38, MEGraph 31.67 and 10.29.",
]


def count_macs(network: nn.Module, *inputs: Any) -> dict[str, int]:
    """Multiply-accumulates of the convolutions and matrix products in `network(*inputs)`.

    Runs the network once, in evaluation mode and without gradients. On the device `meta` nothing is computed.

    Returns:
        Name of each direct child -> its MACs, and `""` -> those of the network.
    """
    training = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(*inputs)
    finally:
        for module, mode in training.items():
            module.training = mode
    counts = {name: sum(by_operation.values()) for name, by_operation in counter.get_flop_counts().items()}

    def of(module: nn.Module, name: str) -> int:
        # A module whose forward is not what runs has no count of its own, but the modules in it have.
        return counts[name] if name in counts else sum(of(x, f"{name}.{n}") for n, x in module.named_children())

    root = type(network).__name__
    parts = {name: of(child, f"{root}.{name}") for name, child in network.named_children()}
    # A multiplication and an addition each.
    return {name: int(flops) // 2 for name, flops in {"": counts["Global"], **parts}.items()}


def count_parameters(network: nn.Module) -> tuple[int, int]:
    """All parameters, and those that are trained."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def sizes(network: nn.Module, *inputs: Any) -> dict[str, dict[str, int]]:
    """`parameters`, `trained` and `macs` of a network on a batch of one, and of those direct children that have any.

    Returns:
        Name of the child -> its sizes, and `""` -> those of the network. No children where they do not add up to it,
        as in RE-Net, whose backbone is computed in copies.
    """
    counted = count_macs(network, *inputs)
    if 2 * counted[""] != sum(counted.values()):
        counted = {"": counted[""]}
    found = {}
    for name, macs in counted.items():
        parameters, trained = count_parameters(network.get_submodule(name))
        if parameters or macs:
            found[name] = {"parameters": parameters, "trained": trained, "macs": macs}
    return found


def complexity_table(of_runs: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Table:
    """The sizes of networks, and of the parts of those that have several.

    Args:
        of_runs: Name -> its `sizes`.
    """
    rows = []
    for run, parts in of_runs.items():
        shown: Sequence[str] = list(parts) if len(parts) > 2 else [""]
        for name in shown:
            size = parts[name]
            millions = [f"{size[key] / 1e6:.2f}" for key in ("parameters", "trained")]
            rows.append([f"{run}, {name}" if name else run, *millions, f"{size['macs'] / 1e9:.2f}"])
    header = ["network", "parameters, million", "of them trained", "GMACs a frame"]
    return Table("Parameters and multiply-accumulates", header, rows, NOTES)
