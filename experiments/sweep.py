"""Run the trials of a W&B sweep file: on this machine, on a SLURM cluster, or by W&B's agents.

    python experiments/sweep.py renet_table7_synthetic.yaml                     # on each free GPU, or on the CPU
    python experiments/sweep.py renet_table1.yaml --backend slurm --slurm partition=gpu --slurm gres=gpu:1
    python experiments/sweep.py aunet_lr.yaml --backend wandb                   # says what to type on each node

The same command goes on after a stop, skips what is finished, and ends in a report. FILE is a path or a name in
sweeps/. All other words go to run.py: --config overlays/cpu.yaml --trainer.default_root_dir=DIR
"""

import experiments.environment  # noqa: F401  # isort: skip
import argparse
import shlex
import signal
import sys
from pathlib import Path

import yaml

from experiments import mirrored, report
from experiments.cli import ConfigError
from experiments.sweeping import agents, local, slurm
from experiments.sweeping.board import Board
from experiments.sweeping.plan import Sweep, check_writable, load_sweep
from experiments.terminal import exit_with


def main(argv: list[str]) -> int:
    """Parse the command line, check every trial, and run them; returns the exit code."""
    parser = argparse.ArgumentParser(
        "sweep.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--backend", choices=("local", "slurm", "wandb"), default="local")
    parser.add_argument("--dry-run", action="store_true", help="say what would be run, or submitted, and do nothing")
    parser.add_argument("--workers", type=int, metavar="N", help="local: trials at the same time, on the CPU")
    parser.add_argument("--gpus", type=lambda text: text.split(","), metavar="0,1", help="local: these, in use or not")
    parser.add_argument(
        "--slurm", action="append", default=[], metavar="KEY=VALUE", help="an option of sbatch; time is in minutes"
    )
    parser.add_argument("--random-seed", type=int, default=0, metavar="S", help="of the draws of method: random")
    options, extra = parser.parse_known_args(argv)
    if options.workers is not None and options.workers < 1:
        raise ConfigError(f"--workers {options.workers}: nobody would work", "--workers 1 or more")
    sweep = load_sweep(options.file, extra, options.random_seed, server=options.backend == "wandb")
    for note in sweep.notes:
        print(f"note: {note}")
    trials = sweep.trials()
    if options.backend == "wandb":
        return by_agents(sweep, options.dry_run)
    folder = trials[0].path.parents[1] / "sweeps" / sweep.name
    if not options.dry_run:
        check_writable(folder)
    board = Board(sweep, trials)
    if options.backend == "slurm":
        return on_slurm(sweep, board, folder, options.slurm, options.dry_run)
    if options.dry_run:
        for trial in trials:
            print(f"{trial.folder.state():6} {trial.path}: run.py {shlex.join(trial.words)}")
        return 0
    local.run(trials, local.places(options.workers, options.gpus), folder, board)
    return finish(board, folder)


def by_agents(sweep: Sweep, dry_run: bool) -> int:
    """Create the sweep on W&B's server, and say how its agents are started."""
    if dry_run:
        print(yaml.safe_dump(agents.definition(sweep), sort_keys=False))
        return 0
    print("on each node, in this folder:")
    for line in agents.agent_lines(agents.create(sweep)):
        print(f"    {line}")
    return 0


def on_slurm(sweep: Sweep, board: Board, folder: Path, options: list[str], dry_run: bool) -> int:
    """Submit what is neither finished nor in the queue; with nothing left to do, finish."""
    queued = slurm.queued(folder / "slurm")
    for trial in board.trials:
        if trial.folder.state() == "done":
            board.set(trial, "done")
        elif str(trial.path) in queued:
            board.set(trial, "queued")
        elif trial.folder.busy():
            board.set(trial, "elsewhere")
    rest = board.having("waiting")
    array = slurm.executor(sweep, folder / "slurm", options)
    if dry_run:
        print(array.script(len(rest)))
        for number, trial in enumerate(rest):
            print(f"# {number}: run.py {shlex.join(trial.words)}")
        return 0
    if rest:
        jobs = slurm.submit(array, rest, [local.log_of(trial, folder) for trial in rest])
        for trial in rest:
            board.set(trial, "queued")
        print(f"submitted {len(jobs)} trials, jobs {jobs[0]} to {jobs[-1]}; what they say is in {folder}")
    if board.having("queued", "elsewhere"):
        board.console.print(board.table())
        print("squeue --me shows the queue; the same command later shows what is finished, and submits what failed")
        return 0
    return finish(board, folder)


def finish(board: Board, folder: Path) -> int:
    """The table as it ended, what failed, and the report where nothing is missing."""
    board.console.print(board.table())
    for trial in board.having("failed"):
        log = local.log_of(trial, folder)
        said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-2:]
        print("\n  ".join([f"failed: {trial.path}, see {log}", *said]), file=sys.stderr)
    if missing := len(board.trials) - len(board.having("done")):
        print(
            f"{missing} of {len(board.trials)} trials are not finished; the same command goes on from here",
            file=sys.stderr,
        )
        return 1
    experiments = list(dict.fromkeys(trial.path.parent for trial in board.trials))
    print(f"report: {report.write_report(experiments, folder / 'report')}")
    options = board.trials[0].settings["run"]
    for experiment in experiments:
        mirrored.show_experiment(experiment, options["tracker"], options["wandb"])
    return 0


def terminate(*_: object) -> None:
    """Leave as after Ctrl-C, so that what runs is stopped."""
    raise SystemExit


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminate)
    exit_with(lambda: main(sys.argv[1:]))
