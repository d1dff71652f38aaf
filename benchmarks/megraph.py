"""ME-GraphAU's edges against their definition, which projects every node once a pair and keeps a map an edge.

    python benchmarks/megraph.py [--device cuda] [--batch 4] [--sides 64 224]

Rounds of both ways alternate and the median counts; on a CPU the time of the process, which other work on the machine
disturbs little. Outputs, and in training the gradients of all parameters, must be equal to 1e-5 of the largest;
gradients are compared in float64, since where a maximum is taken the rounding of float32 may choose another of two
equal values.
"""

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_modules.common.backbones import create_backbone
from lightning_modules.emotiram_fau.megraph_network import CrossAttention, EdgeFeatures, MEGraph

ROUNDS = 5
TOLERANCE = 1e-5


def attend(layers: CrossAttention, start: Tensor, end: Tensor) -> Tensor:
    """Maps that ask and maps that answer (..., D, C) -> (..., D, C)."""
    logit = layers.query(start) @ layers.key(end).transpose(-1, -2) * layers.scale
    return logit.softmax(-1) @ layers.value(end)


def literal_edges(edges: EdgeFeatures, node_map: Tensor, face: Tensor) -> Tensor:
    """What ``EdgeFeatures`` computes, as it is defined: every pair has maps of its own."""
    n_aus = node_map.shape[1]
    node_map = attend(edges.face, node_map, face.unsqueeze(1).repeat(1, n_aus, 1, 1))
    ends, starts = node_map.repeat_interleave(n_aus, 1), node_map.repeat(1, n_aus, 1, 1)
    return edges.norm(edges.project(attend(edges.pair, starts, ends))).mean(2)


class LiteralEdges(nn.Module):
    """``EdgeFeatures`` by ``literal_edges``, with the same parameters under the same names."""

    def __init__(self, edges: EdgeFeatures) -> None:
        super().__init__()
        for name, module in edges.named_children():
            setattr(self, name, module)

    def forward(self, node_map: Tensor, face: Tensor) -> Tensor:
        """See ``EdgeFeatures``."""
        return literal_edges(self, node_map, face)  # type: ignore[arg-type]


def literal(network: MEGraph) -> MEGraph:
    """A copy of the network whose edges are computed as they are defined."""
    network = copy.deepcopy(network)
    network.edges = LiteralEdges(network.edges)  # type: ignore[assignment]
    return network


def compare(
    ways: dict[str, nn.Module], inputs: tuple[Tensor, ...], training: bool
) -> tuple[dict[str, float], float, float]:
    """Median seconds of each way, and the largest differences of an output and of a gradient, relative to the largest.

    Args:
        ways: Two networks with the same parameters, the definition first.
        inputs: Of the forward pass.
        training: Whether to go forward and backward in training mode, else forward in evaluation mode.
    """
    clock = time.perf_counter if inputs[0].is_cuda else time.process_time
    synchronize = torch.cuda.synchronize if inputs[0].is_cuda else lambda: None
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):  # the first warms up
        for name, network in ways.items():
            synchronize()
            start = clock()
            _pass(network, inputs, training)
            synchronize()
            taken[name].append(clock() - start)
    seconds = {name: statistics.median(times[1:]) for name, times in taken.items()}
    first, second = (_pass(network, inputs, training)[0] for network in ways.values())
    return seconds, _difference([first], [second]), _gradient_difference(ways, inputs) if training else 0.0


def _gradient_difference(ways: dict[str, nn.Module], inputs: tuple[Tensor, ...]) -> float:
    doubled = [copy.deepcopy(network).double() for network in ways.values()]
    first, second = (_pass(network, tuple(x.double() for x in inputs), True)[1] for network in doubled)
    return _difference(first, second)


def _pass(network: nn.Module, inputs: tuple[Tensor, ...], training: bool) -> tuple[Tensor, list[Tensor]]:
    """Output, and in training the gradients."""
    network.train(training).zero_grad()
    with torch.set_grad_enabled(training):
        output = _single(network(*inputs))
        if training:
            (output * _weights(output)).sum().backward()
    return output.detach(), [p.grad for p in network.parameters() if p.grad is not None]


def _difference(first: list[Tensor], second: list[Tensor]) -> float:
    """Largest difference relative to the largest value."""
    largest = max(a.abs().max().item() for a in first)
    return max((a - b).abs().max().item() for a, b in zip(first, second, strict=True)) / largest


def _single(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output if isinstance(output, Tensor) else torch.cat([x.flatten(1) for x in output], 1)


def _weights(output: Tensor) -> Tensor:
    """A fixed direction in the space of outputs, in which no gradient cancels."""
    return torch.randn(output.shape, generator=torch.Generator().manual_seed(0), dtype=output.dtype).to(output.device)


def trained(network: nn.Module) -> nn.Module:
    """The network with parameters and statistics of normalisations as different as after training."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                for tensor in module.state_dict().values():
                    if tensor.is_floating_point():
                        tensor += 0.2 * torch.rand(tensor.shape, generator=generator).to(tensor.device)
    return network


def main() -> int:
    """Measure and print one table; 1 when results differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--sides", type=int, nargs="+", default=[224])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # TF32 would hide a difference
    torch.manual_seed(0)
    on_gpu = arguments.device.startswith("cuda")
    machine = torch.cuda.get_device_name() if on_gpu else f"{platform.machine()}, one thread, CPU time"
    print(f"ResNet-50, batch {arguments.batch}, torch {torch.__version__}, {machine}")
    print(" side  AUs part          mode       definition  ours, ms/image  ratio   outputs  gradients")
    exact = True
    for side in arguments.sides:
        for n_aus in (8, 12):
            network = trained(MEGraph(create_backbone("resnet50"), n_aus)).to(arguments.device)
            channels, positions = network.centres.shape[1], (side // 32) ** 2
            maps = torch.rand(arguments.batch, n_aus, positions, channels, device=arguments.device)
            parts: dict[str, tuple[dict[str, nn.Module], tuple[Tensor, ...]]] = {
                "edges": (_both(network.edges, LiteralEdges), (maps, maps.mean(1))),
                "whole network": (
                    {"definition": literal(network), "ours": network},
                    (
                        torch.randn(arguments.batch, 3, side, side, device=arguments.device).to(
                            memory_format=torch.channels_last
                        ),
                    ),
                ),
            }
            for part, (ways, inputs) in parts.items():
                for training in (False, True):
                    seconds, error, gradient = compare(ways, inputs, training)
                    milliseconds = {name: 1e3 * time / arguments.batch for name, time in seconds.items()}
                    print(
                        f"{side:>5} {n_aus:>4} {part:<13} {'training' if training else 'inference':<9} "
                        f"{milliseconds['definition']:>11.1f} {milliseconds['ours']:>15.1f} "
                        f"{seconds['definition'] / seconds['ours']:>6.2f} {error:>9.1e} {gradient:>10.1e}"
                    )
                    exact &= max(error, gradient) <= TOLERANCE
    return 0 if exact else 1


def _both(module: EdgeFeatures, definition: Callable[[EdgeFeatures], nn.Module]) -> dict[str, nn.Module]:
    return {"definition": definition(copy.deepcopy(module)), "ours": copy.deepcopy(module)}


if __name__ == "__main__":
    raise SystemExit(main())
