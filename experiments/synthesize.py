"""Render a synthetic twin of a dataset in the raw layout of its archive.

python experiments/synthesize.py disfa --out raw/disfa
"""

import sys

from jsonargparse import ArgumentError, ArgumentParser

from datamodules.errors import DataError
from datamodules.jobs import usable_cpus
from datamodules.synth.registry import TWINS
from experiments.terminal import exit_with, first_line, innermost, lists_as_json


def main() -> int:
    """Parse the command line and render."""
    parser = ArgumentParser(prog="synthesize.py", description=__doc__, exit_on_error=False)
    datasets = parser.add_subcommands(dest="dataset", metavar="DATASET")
    for name, (write, _) in TWINS.items():
        command = ArgumentParser(description=first_line(write), exit_on_error=False)
        command.add_function_arguments(write, skip={"workers", "progress", "with_faults"}, as_group=False)
        command.add_argument("--with-faults", action="store_true", help="add what prepare.py must refuse")
        command.add_argument("--workers", type=int, default=usable_cpus(), help="processes; 0 renders in this one")
        datasets.add_subcommand(name, command, help=first_line(write))
    try:
        writers = {name: twin.write for name, twin in TWINS.items()}
        arguments = parser.parse_args(lists_as_json(sys.argv[1:], writers))
    except ArgumentError as error:
        raise DataError(innermost(error), "`synthesize.py DATASET --help` lists the options") from error
    out = TWINS[arguments.dataset].write(**arguments[arguments.dataset].as_dict())
    print(f"{out}: next, python experiments/prepare.py {arguments.dataset} --raw {out} --out DIR")
    return 0


if __name__ == "__main__":
    exit_with(main)
