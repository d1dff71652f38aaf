"""Render a synthetic twin of a dataset in the raw layout of its archive.

python experiments/synthesize.py disfa --out raw/disfa
"""

import argparse
from pathlib import Path

from datamodules.jobs import usable_cpus
from datamodules.synth.disfa import write_disfa
from experiments.terminal import exit_with


def main() -> int:
    """Parse the command line and render."""
    parser = argparse.ArgumentParser(
        prog="synthesize.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    datasets = parser.add_subparsers(dest="dataset", required=True, metavar="DATASET")
    disfa = datasets.add_parser("disfa", help="27 subjects, one video each")
    disfa.add_argument("--out", type=Path, required=True, help="folder to make")
    disfa.add_argument(
        "--subjects", type=int, default=27, help="how many of the 27 subjects, from the first (%(default)s)"
    )
    disfa.add_argument("--frames", type=int, default=120, help="frames of each video, at 20 a second (%(default)s)")
    disfa.add_argument("--seed", type=int, default=0, help="seed of faces and behaviour (%(default)s)")
    disfa.add_argument("--size", type=int, default=256, help="side of the square videos in pixels (%(default)s)")
    disfa.add_argument(
        "--camera", choices=("left", "right"), default="left", help="whose folder and file names to use (%(default)s)"
    )
    disfa.add_argument(
        "--workers", type=int, default=usable_cpus(), help="processes; 0 renders in this one (%(default)s)"
    )
    arguments = vars(parser.parse_args())
    del arguments["dataset"]
    out = write_disfa(**arguments)
    print(f"{out}: next, python experiments/prepare.py disfa --raw {out} --edition twin --out DIR")
    return 0


if __name__ == "__main__":
    exit_with(main)
