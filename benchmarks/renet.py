"""RE-Net's inference against the paper's loop: one whole forward pass per AU, in the usual memory layout.

    python benchmarks/renet.py [--device cuda] [--backbone resnet18] [--aus 12]

Rounds of all ways alternate and the median counts; on a CPU the time of the process, which other work on the machine
disturbs little. Each way must give the same logits to 1e-5. On a GPU the peak memory of a call is printed too.
"""

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lightning_modules.common.backbones import create_backbone
from lightning_modules.renet.network import RENetwork

ROUNDS = 7
TOLERANCE = 1e-5


def main() -> int:
    """Measure and print one table; 1 when a way differs from the loop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--aus", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # TF32 would hide a difference
    on_gpu = arguments.device.startswith("cuda")
    machine = torch.cuda.get_device_name() if on_gpu else f"{platform.machine()}, one thread, CPU time"
    print(f"{arguments.backbone}, {arguments.aus} AUs, torch {torch.__version__}, {machine}")
    print(
        f"{'side':>5} {'width':>5} {'batch':>5}  {'way':<24} {'ms/image':>8} {'ratio':>6} {'MB':>6} {'difference':>10}"
    )
    exact = True
    for side, width, batch in ((224, 1.0, 1), (224, 1.0, 4), (64, 0.5, 1), (64, 0.5, 32)):
        network = trained(RENetwork(create_backbone(arguments.backbone, width), arguments.aus)).to(arguments.device)
        image = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, device=arguments.device)
        ways: dict[str, Callable[[Tensor], Tensor]] = {
            "loop over AUs": in_usual_layout(network),
            "channels-last, one stem": partial(network, aus=network.outputs),
            "folded": network,
        }
        seconds, memory, difference = measure(ways, image)
        for name in ways:
            ratio = seconds["loop over AUs"] / seconds[name]
            megabytes = f"{memory[name] / 1e6:.0f}" if on_gpu else "-"
            print(
                f"{side:>5} {width:>5} {batch:>5}  {name:<24} {1e3 * seconds[name] / batch:>8.2f} {ratio:>6.2f} "
                f"{megabytes:>6} {difference[name]:>10.1e}"
            )
        exact &= max(difference.values()) <= TOLERANCE
    return 0 if exact else 1


def trained(network: RENetwork) -> RENetwork:
    """The network in evaluation, with statistics, rows and relations as different as after training."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for norm in network.norms:
            for tensor in norm.state_dict().values():
                tensor += 0.2 * torch.rand(tensor.shape, generator=generator)
        network.relation.omega += 0.2 * torch.rand(network.relation.omega.shape, generator=generator)
    return network.eval()


def in_usual_layout(network: RENetwork) -> Callable[[Tensor], Tensor]:
    """The paper's procedure: all of the network once per AU."""
    usual = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    usual.normalize.register_forward_hook(lambda module, inputs, output: output.contiguous())
    return lambda image: torch.cat([usual(image, [au]) for au in range(network.n_aus)], 1)


@torch.inference_mode()
def measure(
    ways: dict[str, Callable[[Tensor], Tensor]], image: Tensor
) -> tuple[dict[str, float], dict[str, int], dict[str, float]]:
    """Median seconds, peak bytes on the GPU, and largest difference of a logit from the first way's."""
    clock = time.perf_counter if image.is_cuda else time.process_time
    synchronize = torch.cuda.synchronize if image.is_cuda else lambda: None
    output = {name: way(image) for name, way in ways.items()}
    reference = next(iter(output.values()))
    taken: dict[str, list[float]] = {name: [] for name in ways}
    memory = dict.fromkeys(ways, 0)
    for _ in range(ROUNDS):
        for name, way in ways.items():
            if image.is_cuda:
                torch.cuda.reset_peak_memory_stats()
            synchronize()
            start = clock()
            way(image)
            synchronize()
            taken[name].append(clock() - start)
            memory[name] = torch.cuda.max_memory_allocated() if image.is_cuda else 0
    difference = {name: (value - reference).abs().max().item() for name, value in output.items()}
    return {name: statistics.median(times) for name, times in taken.items()}, memory, difference


if __name__ == "__main__":
    raise SystemExit(main())
