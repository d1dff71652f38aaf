"""AUNet's three passes of FAN a frame, and what is saved of them, against the way of the release.

    python benchmarks/aunet.py [--device cuda] [--rounds 4] [--part pass,video,train]

- ``pass``: features of a clip's three frames; the release takes three passes of FAN in the usual memory layout.
- ``video``: logits of every frame of a video; three passes a frame, whose neighbours lie on its crop (``per_triple``),
  against one where they keep theirs (``per_frame``). The crops are the same here, so the logits must be.
- ``train``: a step of the head behind the frozen FAN. The result is the gradient of its last layer; further down,
  whichever of two nearly equal pixels a pooling takes decides where a gradient goes.

The rounds of all ways alternate and the best counts; on a CPU the time of the process. A difference is measured by its
norm, relative to that of the first way's result. "of peak" is the rate of what a way computes (convolutions and linear
layers) relative to that of a large matrix product in the same precision, on this device and in this run. Single
precision is IEEE's, except where a way says tf32, which only GPUs have.
"""

import argparse
import copy
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.aunet.network import FAN, AUNetHead, FeatureHeadNetwork, FrozenFAN
from lightning_modules.aunet.streaming import per_frame, per_triple

AUS = 12
#: Largest difference from the first way.
TOLERANCE = {"fp32": 1e-4, "tf32": 0.02, "bf16": 0.2}


class Case(NamedTuple):
    """Sizes of a measurement: factor on the channels, side of the pictures, clips at a time, frames of the video, T."""

    width: float
    side: int
    clips: int
    train_clips: int
    frames: int
    neighbours: int


CASES = {
    "cpu": [Case(1.0, 256, 1, 2, 9, 2), Case(0.25, 64, 16, 16, 96, 10)],
    "cuda": [Case(1.0, 256, 1, 8, 64, 10), Case(1.0, 256, 32, 16, 256, 10), Case(0.25, 64, 64, 64, 1024, 10)],
}


class Way(NamedTuple):
    """One way of computing something, and what with."""

    run: Callable[[], Tensor]
    precision: str = "fp32"


class Figures(NamedTuple):
    """Best seconds, operations, bytes that a call takes at most on a GPU, and difference from the first way."""

    seconds: float
    operations: float
    memory: int
    difference: float


def main() -> int:
    """Measure and print one table; 1 when a way differs from the first one of its kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=CASES, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--part", default="pass,video,train", help="which of the three, separated by commas")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True
    on_gpu = arguments.device == "cuda"
    machine = torch.cuda.get_device_name() if on_gpu else f"{platform.machine()}, one thread, CPU time"
    print(f"torch {torch.__version__}, {machine}")
    peaks = {precision: peak(arguments.device, precision) for precision in precisions(arguments.device)}
    print("matrix product: " + ", ".join(f"{name} {rate / 1e12:.3g} TFLOP/s" for name, rate in peaks.items()))
    print(
        f"{'part':>5} {'width':>5} {'side':>4} {'batch':>5}  {'way':<38} {'ms/frame':>8} {'frames/s':>8} {'ratio':>5} "
        f"{'MB':>6} {'of peak':>7} {'difference':>10}"
    )
    exact = True
    for case in CASES[arguments.device]:
        torch.manual_seed(0)
        fan, head = networks(case, arguments.device)
        for part in arguments.part.split(","):
            ways, frames, batch = PARTS[part](fan, head, case)
            figures = measure(ways, arguments.device, arguments.rounds)
            reference = next(iter(figures.values())).seconds
            for name, (seconds, operations, memory, difference) in figures.items():
                precision = ways[name].precision
                megabytes = f"{memory / 1e6:.0f}" if on_gpu else "-"
                print(
                    f"{part:>5} {case.width:>5} {case.side:>4} {batch:>5}  {name:<38} {1e3 * seconds / frames:>8.2f} "
                    f"{frames / seconds:>8.1f} {reference / seconds:>5.2f} {megabytes:>6} "
                    f"{operations / seconds / peaks[precision]:>7.0%} {difference:>10.1e}",
                    flush=True,
                )
                exact &= difference <= TOLERANCE[precision]
    return 0 if exact else 1


def precisions(device: str) -> list[str]:
    """Those that a device is measured in."""
    return ["fp32", "tf32", "bf16"] if device == "cuda" else ["fp32", "bf16"]


@contextmanager
def precise(device: str, precision: str) -> Iterator[None]:
    """Compute in a precision: TF32 for both kinds of products, bfloat16 by autocast."""
    rounding = "tf32" if precision == "tf32" else "ieee"
    torch.backends.cudnn.conv.fp32_precision = rounding
    torch.backends.cuda.matmul.fp32_precision = rounding
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        yield


def peak(device: str, precision: str) -> float:
    """Operations a second of a large matrix product, multiplication and addition counted apart."""
    side = 8192 if device == "cuda" else 2048
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    with precise(device, precision):
        return 2 * side**3 / min(timed(lambda: a @ a, device) for _ in range(6))


def networks(case: Case, device: str) -> tuple[FAN, AUNetHead]:
    """FAN and head with weights as drawn."""
    fan = FAN(case.width).to(device)
    pictures = clips_of(case, 4, device)
    calibrated(fan, pictures.flatten(0, 1).float() / 255)
    head = AUNetHead(AUS, fan.feature_channels, fan.channels).to(device)
    with torch.no_grad():
        calibrated(head, *(usual_pass(fan, pictures[:, i]) for i in (1, 0, 2)))
    return fan, head


def calibrated(network: nn.Module, *inputs: Tensor) -> nn.Module:
    """The network in evaluation, its normalisation with the statistics of these inputs, as after training on them."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.momentum = None  # the mean over what is seen
    with torch.no_grad():
        network.train()(*inputs)
    return network.eval()


# --- what is compared ------------------------------------------------------------------------------------------------


def usual_pass(fan: FAN, pictures: Tensor) -> Tensor:
    """FAN's feature in the usual memory layout, as one would write it."""
    return fan(pictures.float() / 255).feature


def clips_of(case: Case, clips: int, device: torch.device | str) -> Tensor:
    """(clips, 3, 3, H, W) uint8, patches of colour: white noise would look alike in all pictures to the network."""
    patches = torch.rand(9 * clips, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    pictures = F.interpolate(patches, (case.side, case.side), mode="bicubic").clamp(0, 1)
    return (255 * pictures).to(torch.uint8).view(clips, 3, 3, case.side, case.side).to(device)


def of_pass(fan: FAN, head: AUNetHead, case: Case) -> tuple[dict[str, Way], int, int]:
    """Features of the three frames of some clips."""
    clips = clips_of(case, case.clips, fan.conv1.weight.device)
    frozen = FrozenFAN(copy.deepcopy(fan))

    def three(extractor: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.cat([extractor(clips[:, i]) for i in range(3)])

    def one(extractor: Callable[[Tensor], Tensor]) -> Tensor:
        return extractor(clips.transpose(0, 1).flatten(0, 1))

    usual = partial(usual_pass, fan)
    ways = {
        "three passes": Way(partial(three, usual)),
        "one batched pass": Way(partial(one, usual)),
        "three passes, channels-last": Way(partial(three, frozen)),
        "one batched pass, channels-last": Way(partial(one, frozen)),
        **reduced("one batched pass, channels-last", partial(one, frozen), clips.device),
    }
    return ways, case.clips, case.clips


def of_video(fan: FAN, head: AUNetHead, case: Case) -> tuple[dict[str, Way], int, int]:
    """Logits of the frames of a video, whose crops do not move."""
    frames = clips_of(case, -(-case.frames // 3), fan.conv1.weight.device).flatten(0, 1)[: case.frames]
    network = FeatureHeadNetwork(FrozenFAN(copy.deepcopy(fan)), head).eval()
    reach = case.neighbours
    order = torch.arange(len(frames))
    former, later = order - reach, order + reach
    former, later = torch.where(former < 0, order, former), torch.where(later < len(frames), later, order)
    batch = max(3 * case.clips, 1)  # frames at a time that FAN sees in either alignment

    def clips() -> Iterable[Tensor]:
        return (torch.stack([frames[i] for i in places]) for places in zip(former, order, later, strict=True))

    def released() -> Tensor:
        logits = []
        for rows in order.split(case.clips):
            seen = (usual_pass(fan, frames[places[rows]]) for places in (order, former, later))
            logits.append(head(*seen))
        return torch.cat(logits)

    def triples() -> Tensor:
        return torch.stack(list(per_triple(network, clips(), case.clips)))

    def single() -> Tensor:
        return torch.stack(list(per_frame(network, frames.unbind(), reach, batch)))

    ways = {
        "three passes a frame": Way(released),
        "per_triple": Way(lambda: triples().squeeze(2)),
        "per_frame": Way(lambda: single().squeeze(2)),
        **reduced("per_frame", lambda: single().squeeze(2), frames.device),
    }
    return ways, len(frames), case.clips


def of_train(fan: FAN, head: AUNetHead, case: Case) -> tuple[dict[str, Way], int, int]:
    """A step of the head; the result is the gradient of its last layer."""
    clips = clips_of(case, case.train_clips, fan.conv1.weight.device)
    label = torch.randint(0, 2, (len(clips), AUS), generator=torch.Generator().manual_seed(1)).to(clips.device)
    in_graph = copy.deepcopy(fan).requires_grad_(True)
    plain = copy.deepcopy(fan).requires_grad_(False)
    network = FeatureHeadNetwork(FrozenFAN(copy.deepcopy(fan)), copy.deepcopy(head)).train()

    def step(logits: Callable[[nn.Module], Tensor], network: nn.Module) -> Way:
        network = copy.deepcopy(network).train()
        optimizer = torch.optim.AdamW(network.parameters(), 1e-12)  # all rounds at one place

        def run() -> Tensor:
            optimizer.zero_grad()
            with torch.enable_grad():
                loss = F.binary_cross_entropy_with_logits(logits(network).float(), label.float())
            loss.backward()
            optimizer.step()
            trained = network.head if isinstance(network, FeatureHeadNetwork) else network
            return trained.classifier[-1].weight.grad

        return Way(run)

    def three(fan: FAN, head: nn.Module) -> Tensor:
        former, current, later = (usual_pass(fan, clips[:, i]) for i in range(3))
        return head(current, former, later)

    def ours(network: nn.Module) -> Tensor:
        return network(clips).squeeze(2)

    ways = {
        "three passes, frozen": step(partial(three, plain), head),
        "three passes, FAN in the graph": step(partial(three, in_graph), head),
        "FrozenFAN": step(ours, network),
        **reduced("FrozenFAN", step(ours, network).run, clips.device),
    }
    return ways, len(clips), len(clips)


PARTS = {"pass": of_pass, "video": of_video, "train": of_train}


def reduced(name: str, run: Callable[[], Tensor], device: torch.device) -> dict[str, Way]:
    """A way in the lower precisions of a device."""
    return {f"{name}, {precision}": Way(run, precision) for precision in precisions(device.type)[1:]}


# --- how -------------------------------------------------------------------------------------------------------------


def timed(run: Callable[[], object], device: str) -> float:
    """Seconds of one call; of the process on a CPU."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    start = clock()
    run()
    synchronize()
    return clock() - start


@torch.no_grad()
def measure(ways: dict[str, Way], device: str, rounds: int) -> dict[str, Figures]:
    """Figures of every way; the first call of each, which warms up, gives its result and counts its operations."""
    reference: Tensor | None = None
    differences, operations = {}, {}
    for name, (run, precision) in ways.items():
        with precise(device, precision), FlopCounterMode(display=False) as counter:
            result = run().detach().float()
        operations[name] = counter.get_total_flops()
        reference = result.clone() if reference is None else reference
        differences[name] = ((result - reference).norm() / reference.norm()).item()
    del result, reference
    taken: dict[str, list[float]] = {name: [] for name in ways}
    memory = dict.fromkeys(ways, 0)
    for _ in range(rounds):
        for name, (run, precision) in ways.items():
            before = 0
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            with precise(device, precision):
                taken[name].append(timed(run, device))
            memory[name] = torch.cuda.max_memory_allocated() - before if device == "cuda" else 0
    return {name: Figures(min(taken[name]), operations[name], memory[name], differences[name]) for name in ways}


if __name__ == "__main__":
    raise SystemExit(main())
