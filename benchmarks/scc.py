"""Semantic correspondence convolution against its definition, which joins a node to each neighbour before the weights.

    python benchmarks/scc.py [--device cuda] [--batch 16] [--image_size 96]

The three layers of FAU for both kinds of nodes. Measured as ``benchmarks/megraph.py`` says; outputs and gradients must
be equal to 1e-5 of the largest.
"""

import argparse
import copy
import platform

import torch
from megraph import TOLERANCE, compare, trained
from torch import Tensor, nn

from lightning_modules.emotiram_fau.fau_network import CHANNELS, GRANULARITY, Graph, SemanticCorrespondence


def literal_correspondence(layer: SemanticCorrespondence, x: Tensor) -> Tensor:
    """What ``SemanticCorrespondence`` computes, as it is defined: a product for every node and neighbour."""
    layout = x if layer.graph == "channel" else x.permute(0, 2, 3, 1)
    feature = layout.reshape(len(x), layer.nodes, layer.features)
    index = layer.nearest(feature)
    central = feature.unsqueeze(2).expand(*index.shape, layer.features)
    neighbour = feature[torch.arange(len(x), device=x.device).view(-1, 1, 1), index]
    pairs = layer.linear(torch.cat([central, neighbour - central], -1))
    value = layer.norm(pairs.flatten(0, 2)).view_as(pairs).relu().max(2).values.reshape(layout.shape)
    return value if layer.graph == "channel" else value.permute(0, 3, 1, 2)


class LiteralCorrespondence(nn.Module):
    """``SemanticCorrespondence`` by ``literal_correspondence``, with the same parameters."""

    def __init__(self, layer: SemanticCorrespondence) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """See ``SemanticCorrespondence``."""
        return literal_correspondence(self.layer, x)


def main() -> int:
    """Measure and print one table; 1 when results differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--image_size", type=int, default=96)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    on_gpu = arguments.device.startswith("cuda")
    machine = torch.cuda.get_device_name() if on_gpu else f"{platform.machine()}, one thread, CPU time"
    print(f"batch {arguments.batch}, {arguments.image_size} px, torch {torch.__version__}, {machine}")
    print("nodes   layer       mode       definition  ours, ms/image  ratio   outputs  gradients")
    exact = True
    kinds: tuple[Graph, ...] = ("channel", "tf")
    for graph in kinds:
        side = arguments.image_size // GRANULARITY
        for channels in CHANNELS[graph]:
            side *= 2
            layer = trained(SemanticCorrespondence(channels, side**2, graph=graph)).to(arguments.device)
            image = torch.rand(arguments.batch, channels, side, side, device=arguments.device)
            ways = {"definition": LiteralCorrespondence(copy.deepcopy(layer)), "ours": layer}
            for training in (False, True):
                seconds, error, gradient = compare(ways, (image,), training)
                milliseconds = {name: 1e3 * time / arguments.batch for name, time in seconds.items()}
                print(
                    f"{graph:<7} {channels:>3}x{side:>2}x{side:<2}   {'training' if training else 'inference':<9} "
                    f"{milliseconds['definition']:>11.2f} {milliseconds['ours']:>15.2f} "
                    f"{seconds['definition'] / seconds['ours']:>6.2f} {error:>9.1e} {gradient:>10.1e}"
                )
                exact &= max(error, gradient) <= TOLERANCE
    return 0 if exact else 1


if __name__ == "__main__":
    raise SystemExit(main())
