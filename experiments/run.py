"""Train and score one experiment: ``python experiments/run.py --config renet_disfa.yaml [--fold K | --folds all]``.

Everything that can be wrong is looked at before the Trainer exists. The same command again prints the result of a
finished run, or goes on where a killed one was.
"""

import experiments.environment  # noqa: F401  # isort: skip
import json
import logging
import math
import os
import shlex
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from pytorch_lightning.utilities import rank_zero_info

from callbacks.wandb_mirror import AGENT
from datamodules.base import AUDataModule
from datamodules.jobs import usable_cpus
from experiments import mirrored, report
from experiments.cli import ConfigError, SuiteCLI, is_overlay, normalise, split_configs
from experiments.environment import tied
from experiments.files import write_whole
from experiments.fold import Fold, is_rank_zero
from experiments.processes import Pool, gpus, on_gpus
from experiments.run_folder import RunFolder, unwritable
from experiments.terminal import exit_with
from lightning_modules.base import AUModule
from lightning_modules.common import metrics, weights
from lightning_modules.common.classifier import AUClassifier

INHERITED_TRAINER = ("default_root_dir", "accelerator", "devices", "precision")


def main(argv: list[str]) -> int:
    """Run one fold, or all of them; returns the exit code."""
    for expected in (
        ".*does not have many workers",  # data.num_workers is the user's choice
        ".*LeafSpec",  # Lightning calls torch's deprecated name
        "Checkpoint directory .* exists and is not empty",  # a run that goes on
        r"Found .* module\(s\) in eval mode",  # AUNet's FAN stays frozen
        "The `srun` command is available",  # sweep.py submits
    ):
        warnings.filterwarnings("ignore", message=expected)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(quiet)
    folds, argv = take(argv, "--folds")
    argv = normalise(argv)
    if folds not in (None, "all"):
        raise ConfigError(f"--folds {folds}: not understood", "write --folds all, or --fold K for one fold")
    return run_folds(argv) if folds else run_fold(argv)


def take(argv: list[str], name: str) -> tuple[str | None, list[str]]:
    """The value of an option that the parser does not know, and the command line without it."""
    value, rest = None, []
    words = iter(argv)
    for word in words:
        if word == name or word.startswith(f"{name}="):
            value = word.partition("=")[2] or next(words, "")
        else:
            rest.append(word)
    return value, rest


def run_folds(argv: list[str]) -> int:
    """Every fold in a process of its own, one per GPU at a time; then the aggregate."""
    cli = SuiteCLI([*argv, "--data.fold=1"])
    _, data = cli.build()
    data.check()
    waiting = list(range(1, data.n_folds + 1))
    codes: dict[int, int] = {}
    with Pool[int](on_gpus(gpus())) as pool:
        while waiting or pool.running:
            if any(codes.values()):
                waiting.clear()  # those that run go on to their end
            while waiting and pool.free:
                fold = waiting.pop(0)
                pool.start(fold, [*argv, f"--data.fold={fold}"])
            codes |= pool.ended()
    if failed := {fold: code for fold, code in codes.items() if code}:
        said = ", ".join(f"fold {fold} (exit code {code})" for fold, code in failed.items())
        print(f"not finished: {said}; the same command goes on from here", file=sys.stderr)
        return max(1, *failed.values())
    experiment = cli.experiment
    summary = report.summarize(experiment)
    write_whole(experiment / "summary.json", json.dumps(summary, indent=1, allow_nan=False))
    report.print_table(summary)
    print(f"report: {report.write_report([experiment], experiment / 'report')}")
    mirrored.show_experiment(experiment, cli.config.run.tracker, cli.config.run.wandb)
    return 0


def run_fold(argv: list[str]) -> int:
    """Train and score one fold, in one process (or one per device)."""
    cli = SuiteCLI(argv)
    share_cores(cli)
    model, data = cli.build()
    data.check()
    by_folds = data.fold == 0 and cli.config.run.epochs == "folds"
    if not data.val_subjects and data.select_on == "val" and cli.config.run.checkpoint is None and not by_folds:
        raise ConfigError("data.val_subjects=0: nobody chooses the epoch", "set aside one subject or more")
    if is_rank_zero():
        for required in cli.config.run.requires:
            run_required(required, argv, cli)
    if by_folds:
        train_as_long_as_the_folds(argv, cli, data.n_folds)
        model, data = cli.build()
    folder = RunFolder.of(cli)
    state = folder.state()
    if state != "done":
        data.prepare_data()
        data.setup()
        model.check(data.state_dict())
        if (checkpoint := cli.config.run.checkpoint) is not None:
            load_for_scoring(checkpoint, model, data)
        if is_rank_zero():
            folder.open(state)
            log_to(folder.path / "log.txt")
        rank_zero_info(f"{folder.path}: {'goes on' if state == 'resume' else 'starts'}; {describe(data)}")
        Fold(cli, model, data, folder).run(state)
    if is_rank_zero():
        print_result(folder)
    return 0


def train_as_long_as_the_folds(argv: list[str], cli: SuiteCLI, n_folds: int) -> None:
    """Make fold 0 a run on all subjects, for the median number of epochs that the other folds chose on theirs.

    Folds that are not done run first. The configuration written into the run folder has the number.

    Raises:
        ConfigError: A fold failed, or was run with other settings.
    """
    folders = [RunFolder.of(SuiteCLI([*argv, f"--data.fold={fold}"])) for fold in range(1, n_folds + 1)]
    if is_rank_zero() and any(folder.state() != "done" for folder in folders):
        print(f"required: folds 1 to {n_folds}, which choose the number of epochs", flush=True)
        if code := run_folds(argv):
            raise ConfigError(f"run.epochs=folds: a fold ended with exit code {code}", "mend what it printed above")
    epochs = [json.loads(folder.result.read_text())["epochs"] for folder in folders]
    config = cli.config
    config.trainer.max_epochs = math.ceil(statistics.median(epochs))
    config.data.init_args.val_subjects = 0
    config.early_stopping.patience, config.run.refit = None, False
    rank_zero_info(f"folds 1 to {n_folds} chose {epochs} epochs: fold 0 trains {config.trainer.max_epochs}")


def load_for_scoring(checkpoint: str, model: AUModule, data: AUDataModule) -> None:
    """Give ``model`` the weights of another run, where these may be scored on the subjects of this one."""
    if not isinstance(model, AUClassifier):
        name = type(model).__name__
        raise ConfigError(f"run.checkpoint: {name} cannot take over a checkpoint of another run", "train it instead")
    weights.check_evaluation(checkpoint, model.aus, data.state_dict(), model.allow_crop_mismatch)
    weights.load_for_evaluation(model, checkpoint)


def share_cores(cli: SuiteCLI) -> None:
    """Leave the loader processes their cores, unless the user says how many threads torch has."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, usable_cpus() - cli.config.data.init_args.num_workers))


def run_required(command: str, argv: list[str], cli: SuiteCLI) -> None:
    """Run ``CONFIG [ARGUMENTS]`` of run.py, whose product this run reads; its own words win over what it inherits.

    Raises:
        ConfigError: It failed.
    """
    configs, own = split_configs(normalise(["--config", *shlex.split(command)]))
    overlays = [path for path in split_configs(argv)[0] if is_overlay(path)]
    config = cli.config
    inherited = [f"--trainer.{key}={config.trainer[key]}" for key in INHERITED_TRAINER if config.trainer[key]]
    required = SuiteCLI([word for path in configs for word in ("--config", path)])
    if required.config.data.class_path == config.data.class_path:
        inherited += [word for word in argv if word.startswith("--data.")]
    inherited += [f"--data.fold={config.data.init_args.fold}", f"--seed_everything={config.seed_everything}"]
    line = [word for path in [*configs, *overlays] for word in ("--config", path)] + inherited + own
    print(f"required: {command}", flush=True)
    with alone_at(RunFolder.of(SuiteCLI(line))):
        env = {name: value for name, value in tied().items() if name not in AGENT}
        code = subprocess.run([sys.executable, __file__, *line], check=False, env=env).returncode
    if code:
        raise ConfigError(f"run.requires: '{command}' ended with exit code {code}", "mend what it printed above")


@contextmanager
def alone_at(folder: RunFolder) -> Iterator[None]:
    """Wait until nobody makes the run of a folder, and keep others that require it waiting meanwhile."""
    lock = FileLock(folder.path.with_name(f".{folder.path.name}.required.lock"))
    try:
        folder.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            print(f"{folder.path}: another process makes it; this one waits", flush=True)
            lock.acquire()
    except OSError as error:
        raise unwritable(folder.path, error) from error
    try:
        while folder.busy():
            time.sleep(1)
        yield
    finally:
        lock.release()


def describe(data: AUDataModule) -> str:
    """One line about the split."""
    unseen = [*(f"AU{au:02d}" for au in data.aus_without_val_positives), *data.expressions_without_val_frames]
    without = ", ".join(unseen * (len(data.rows_val) > 0))
    return (
        f"{len(data.subjects_train)} training subjects ({len(data.rows_train)} frames), {len(data.subjects_val)} for "
        f"validation ({len(data.rows_val)}), {len(data.subjects_test)} held out ({len(data.rows_test)})"
        + (f"; not shown in validation: {without}" if without else "")
        + (f"; {data.unreadable} frames without an image left out" if data.unreadable else "")
    )


def quiet(record: logging.LogRecord) -> bool:
    """Whether a message of Lightning says something about this run."""
    chatter = ("GPU available", "TPU available", "💡", "Restoring states", "Loaded model weights", "`Trainer.")
    return not record.getMessage().startswith(chatter)


def log_to(path: Path) -> None:
    """Copy Lightning's messages and Python warnings into a file."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.captureWarnings(True)
    for name in ("pytorch_lightning", "py.warnings"):
        logging.getLogger(name).addHandler(handler)


def print_result(folder: RunFolder) -> None:
    """The scores of a finished run, from its result.json."""
    result = json.loads(folder.result.read_text())
    scores = metrics.flatten(result.get("metrics", {}))
    headline = {name: value for name, value in scores.items() if name.endswith("_mean") or name == "accuracy"}
    numbers = ", ".join(f"{name} {value:.3f}" for name, value in headline.items())
    print(f"{folder.path}: {numbers or 'done'} ({result['epochs']} epochs, {result['seconds']:.0f} s)", flush=True)


if __name__ == "__main__":
    exit_with(lambda: main(sys.argv[1:]))
