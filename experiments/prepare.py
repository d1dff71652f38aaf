"""Make a frame store of a raw dataset: align, crop, encode. The same command goes on after an interruption.

python experiments/prepare.py disfa --raw raw/disfa --out data/disfa
python experiments/prepare.py synth_facs --raw 'synth:synth_facs?subjects=486&frames=20' --out data/synth_facs
"""

import argparse
import time
from pathlib import Path

from datamodules.align import PRESETS
from datamodules.errors import DataError
from datamodules.jobs import usable_cpus
from datamodules.prepare import prepare
from datamodules.raw.disfa import DISFARaw
from datamodules.raw.records import RawDataset
from datamodules.store import FrameStore
from datamodules.synth.roots import PREFIX, parse_root
from datamodules.synth.synth_facs import SynthFACSSource
from experiments.terminal import exit_with


def main() -> int:
    """Parse the command line, prepare, and say what came of it."""
    parser = argparse.ArgumentParser(
        prog="prepare.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    datasets = parser.add_subparsers(dest="dataset", required=True, metavar="DATASET")
    disfa = datasets.add_parser("disfa", help="DISFA or a twin of it")
    synth = datasets.add_parser("synth_facs", help="rendered faces")
    for command, raw_help in ((disfa, "root folder of the archive"), (synth, "synth:synth_facs?subjects=..&frames=..")):
        command.add_argument("--raw", required=True, help=raw_help)
        command.add_argument("--out", type=Path, required=True, help="folder to make")
        command.add_argument(
            "--preset", choices=list(PRESETS), default="renet", help="where the crop puts the face (%(default)s)"
        )
        command.add_argument("--size", type=int, help="side of the crops in pixels (as the preset says)")
        command.add_argument(
            "--workers", type=int, default=usable_cpus(), help="processes; 0 works in this one (%(default)s)"
        )
    disfa.add_argument(
        "--camera", choices=("left", "right"), default="left", help="which of the two videos (%(default)s)"
    )
    disfa.add_argument(
        "--edition",
        choices=("published", "custom", "twin"),
        default="custom",
        help="published: hold the data to the archive's known subjects and row counts (%(default)s)",
    )
    arguments = parser.parse_args()
    started = time.perf_counter()
    out = prepare(
        _raw(arguments), arguments.out, preset=arguments.preset, size=arguments.size, workers=arguments.workers
    )
    print(_summary(FrameStore(out), time.perf_counter() - started))
    return 0


def _raw(arguments: argparse.Namespace) -> RawDataset:
    if arguments.dataset == "disfa":
        return DISFARaw(Path(arguments.raw), arguments.camera, arguments.edition)
    if not arguments.raw.startswith(f"{PREFIX}synth_facs"):
        raise DataError(
            f"--raw {arguments.raw} is no synth root", "write --raw 'synth:synth_facs?subjects=486&frames=20'"
        )
    return SynthFACSSource(**parse_root(arguments.raw)[1])


def _summary(store: FrameStore, seconds: float) -> str:
    manifest = store.manifest
    counts = manifest["counts"]
    size = sum(shard["bytes"] for shard in manifest["shards"].values()) / 1e6
    flagged = ", ".join(f"{n} {flag}" for flag, n in counts["flags"].items() if n) or "none"
    return (
        f"{store.root}: {len(store)} frames of {len(counts['subjects'])} subjects, "
        f"{manifest['preset']['size']} px, {size:.0f} MB, {seconds:.0f} s\n"
        f"flagged: {flagged}\nnext: python experiments/doctor.py {store.root}"
    )


if __name__ == "__main__":
    exit_with(main)
