"""What an epoch of each paper's configuration costs: training steps and predictions as published, on one device.

    python benchmarks/throughput.py [--device cuda] [--configs renet_disfa.yaml,...] [--compiled renet_disfa.yaml,...]

Weights are as drawn and frames are a small twin's, at the configuration's own picture size and batch size. A step is
loss, gradient and optimiser; ``GFLOP`` are those of its convolutions and matrix products for one sample, forwards and
backwards; ``loader`` is what one core reads, decodes and augments for it in a second. A sample is a frame, a clip of
three, or a pair of frames of one AU; of the rankers' networks two are measured, and the time of others is proportional.
The median step counts. "32" is as Lightning trains by default: on a GPU convolutions round to TF32.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning_fabric.utilities import move_data_to_device
from pytorch_lightning import Trainer
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from experiments.cli import SuiteCLI, normalise

TWINS = {
    "BP4D": "synth:bp4d?subjects=8&tasks=1&frames=40&size=256&preset=aunet",
    "CAERS": "synth:caer_s?subjects=4&size=256&preset=emotiram",
    "DISFA": "synth:disfa?subjects=9&frames=50&size=256&preset=aunet",
    "MultiPIE": "synth:multi_pie?subjects=10&size=256&cameras=05_1&shots=7&preset=aunet",
}
CONFIGS = (
    *("resnet18_disfa.yaml", "renet_disfa.yaml", "aunet_disfa_fan.yaml", "aunet_disfa.yaml"),
    *("pairwise_disfa_ranker.yaml", "pairwise_disfa_uncertainty.yaml", "transfer_multi_pie.yaml"),
    *("heatmap_fau_bp4d.yaml", "megraph_bp4d_anfl.yaml", "megraph_bp4d_mefl.yaml", "emotiram_fau_caer_s.yaml"),
)
CHANGING = [4, 25]  # AUs of which the twin of DISFA has pairs
WARM = 3


def main() -> int:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--configs", default=",".join(CONFIGS), help="separated by commas")
    parser.add_argument("--compiled", default="renet_disfa.yaml,aunet_disfa.yaml", help="measured by torch.compile too")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, help="in place of the configurations' batch sizes")
    arguments = parser.parse_args()
    on_gpu = arguments.device == "cuda"
    machine = torch.cuda.get_device_name() if on_gpu else f"{platform.machine()}, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {machine}")
    print(
        f"{'configuration':<34} {'batch':>5} {'precision':<12} {'GFLOP':>7} {'ms/step':>8} {'samples/s':>9} {'MB':>6} "
        f"{'predicts/s':>10} {'loader/s':>8}"
    )
    for name in arguments.configs.split(","):
        model, batch, loads = prepare(name, arguments.batch)
        batch = move_data_to_device(batch, torch.device(arguments.device))
        model.to(arguments.device)
        size = samples(batch)
        with FlopCounterMode(display=False) as counted:
            training(model, batch)()
        flops = counted.get_total_flops() / size
        precisions = ["32"] + ["bf16-mixed"] * on_gpu + ["bf16 compiled"] * (name in arguments.compiled.split(","))
        for precision in precisions:
            if precision == "bf16 compiled":
                model.network.compile()
            with torch.autocast(arguments.device, torch.bfloat16, enabled=precision != "32"):
                trained = timed(training(model, batch), arguments)
                megabytes = f"{torch.cuda.max_memory_allocated() / 1e6:.0f}" if on_gpu else "-"
                model.eval()  # once: entering evaluation makes RE-Net fold its weights
                predicted = timed(partial(predict, model, batch), arguments)
            print(
                f"{name:<34} {size:>5} {precision:<12} {flops / 1e9:>7.1f} {1e3 * trained:>8.1f} "
                f"{size / trained:>9.3g} {megabytes:>6} {size / predicted:>10.3g} {loads:>8.0f}",
                flush=True,
            )
        torch.compiler.reset()
    return 0


def prepare(name: str, batch_size: int | None) -> tuple[Any, dict[str, Any], float]:
    """Model, a training batch, and samples a second that one core loads."""
    words = ["--config", name]
    data = SuiteCLI(normalise(words)).config.data
    words += [f"--data.aus={CHANGING}"] * bool(data.init_args.pairs.train)
    dataset = data.class_path.rpartition(".")[2]
    words += [f"--data.root={TWINS[dataset]}", "--data.num_workers=0", "--model.pretrained=false"]
    words += [f"--data.batch_size={batch_size}"] * (batch_size is not None)
    model, data = SuiteCLI(normalise(words)).build()
    data.prepare_data()
    data.setup()
    loader, loaded, started = data.train_dataloader(), 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < 2 or not loaded:
        batch = next(iter(loader))
        loaded += samples(batch)
    return model, batch, loaded / seconds


def samples(batch: dict[str, Any]) -> int:
    """Frames or clips of a batch, or its pairs for all AUs."""
    return batch["order"].numel() if "order" in batch else len(batch["index"])


def training(model: Any, batch: dict[str, Any]) -> Callable[[], Tensor]:
    """A training step of the model."""
    model.train()
    # Schedules ask the trainer how long they are.
    model.trainer = Trainer(max_steps=1000, max_epochs=-1, logger=False, enable_checkpointing=False)
    chosen = model.configure_optimizers()
    optimizer = chosen["optimizer"] if isinstance(chosen, dict) else chosen

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = torch.stack(list(model.losses(batch).values())).sum()
        loss.backward()
        optimizer.step()
        return loss

    return step


@torch.no_grad()
def predict(model: Any, batch: dict[str, Any]) -> dict[str, Tensor]:
    """Predictions of the model for a batch."""
    return model.predictions(batch)


def timed(call: Callable[[], Any], arguments: argparse.Namespace) -> float:
    """Median seconds of a call, after some that warm up."""
    taken = []
    if arguments.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(WARM + arguments.steps):
        started = time.perf_counter()
        call()
        if arguments.device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[WARM:])


if __name__ == "__main__":
    raise SystemExit(main())
