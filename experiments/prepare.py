"""Make a frame store of a raw dataset: find the faces, align, crop, encode. The same command goes on after a stop.

python experiments/prepare.py disfa --raw raw/disfa --out data/disfa
python experiments/prepare.py caer_s --raw raw/caer_s --out data/caer_s --faces detect
python experiments/prepare.py synth_facs --raw 'synth:synth_facs?subjects=486&frames=20' --out data/synth_facs
"""

import inspect
import sys
from argparse import RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter

from datamodules.errors import DataError
from datamodules.jobs import usable_cpus
from datamodules.prepare import Summary, prepare
from datamodules.raw.records import RawDataset
from datamodules.raw.registry import RAW
from datamodules.synth.roots import PREFIX, parse_root
from datamodules.synth.synth_facs import SynthFACSSource
from experiments.terminal import exit_with, first_line, innermost, lists_as_json

SYNTH = SynthFACSSource.name
SETTINGS = set(inspect.signature(prepare).parameters) - {"raw", "progress"}


class _HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Keeps the lines of the description, tells defaults."""


def main() -> int:
    """Parse the command line, prepare, and say what came of it."""
    dataset, options = parse(sys.argv[1:])
    settings = {key: options.pop(key) for key in SETTINGS}
    root = options.pop("raw")
    raw = RAW[dataset](root=root, **options) if dataset in RAW else _synth(root)
    print(describe(prepare(raw, **settings)))
    return 0


def parse(argv: list[str]) -> tuple[str, dict[str, Any]]:
    """Dataset and options: ``raw``, those of the dataset's class, and those of `prepare`. Raises `DataError`."""
    parser = ArgumentParser(prog="prepare.py", description=__doc__, formatter_class=_HelpFormatter, exit_on_error=False)
    datasets = parser.add_subcommands(dest="dataset", metavar="DATASET")
    for name, kind in {**RAW, SYNTH: SynthFACSSource}.items():
        command = ArgumentParser(description=first_line(kind), exit_on_error=False)
        if name == SYNTH:
            command.add_argument("--raw", required=True, help=f"{PREFIX}{SYNTH}?subjects=..&frames=..&seed=..")
        else:
            command.add_argument("--raw", type=Path, required=True, help="root of the unpacked archive, or of a twin")
            command.add_class_arguments(kind, skip={"root"}, as_group=False)
        command.add_function_arguments(prepare, skip={"raw", "progress"}, as_group=False)
        command.set_defaults(workers=usable_cpus())
        datasets.add_subcommand(name, command, help=first_line(kind))
    try:
        arguments = parser.parse_args(lists_as_json(argv, RAW))
    except ArgumentError as error:
        raise DataError(innermost(error), "`prepare.py DATASET --help` lists the options") from error
    return arguments.dataset, arguments[arguments.dataset].as_dict()


def _synth(root: str) -> RawDataset:
    if not root.startswith(f"{PREFIX}{SYNTH}"):
        raise DataError(f"--raw {root} is no synth root", f"write --raw '{PREFIX}{SYNTH}?subjects=486&frames=20'")
    parsed = parse_root(root)
    if parsed.preset:
        raise DataError(f"--raw {root}: preset is no setting of the pictures", f"write --preset {parsed.preset}")
    return SynthFACSSource(**parsed.twin)


def describe(summary: Summary) -> str:
    """What came of a preparation, for people."""
    flagged = ", ".join(f"{count} {flag}" for flag, count in summary.flags.items() if count) or "none"
    speed = ", ".join(f"{stage} {rate:.0f}" for stage, rate in summary.stages.items()) or "nothing was left to do"
    return (
        f"{summary.root}: {summary.rows} frames of {summary.subjects} subjects, {summary.side} px, "
        f"{summary.bytes / 1e6:.0f} MB, {summary.seconds:.0f} s\n"
        f"flagged: {flagged}\n"
        f"faces located: {summary.detection_rate:.1%} of the pictures\n"
        f"frames a second and process: {speed}\n"
        f"next: python experiments/doctor.py {summary.root}"
    )


if __name__ == "__main__":
    exit_with(main)
