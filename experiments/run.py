"""Train and score one experiment: ``python experiments/run.py --config renet_disfa.yaml [--fold K | --folds all]``.

Everything that can be wrong is looked at before the Trainer exists. The same command again prints the result of a
finished run, or goes on where a killed one was.
"""

import json
import logging
import os
import shlex
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

from callbacks.features import Features
from callbacks.ledger import Ledger, thresholds, write_parquet
from callbacks.recalibration import Recalibration
from callbacks.tracking import EpochLines, MetricsCSV, tracker
from datamodules.base import AUDataModule
from experiments import report
from experiments.cli import ConfigError, SuiteCLI, normalise
from experiments.run_folder import RunFolder, write_text
from experiments.terminal import exit_with
from lightning_modules.base import AUModule
from lightning_modules.common import metrics, weights

T_SNE_FRAMES = 1500
INHERITED_TRAINER = ("default_root_dir", "accelerator", "devices", "precision")


def main(argv: list[str]) -> int:
    """Run one fold, or all of them one after the other; returns the exit code."""
    warnings.filterwarnings("ignore", message=".*does not have many workers")  # data.num_workers is the user's choice
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
    gpus: SimpleQueue[str | None] = SimpleQueue()
    devices = [str(i) for i in range(torch.cuda.device_count())]
    for device in devices or [None]:
        gpus.put(device)

    def run(fold: int) -> int:
        device = gpus.get()
        environment = os.environ | ({"CUDA_VISIBLE_DEVICES": device} if device and len(devices) > 1 else {})
        try:
            command = [sys.executable, __file__, *argv, f"--data.fold={fold}"]
            return subprocess.run(command, env=environment, check=False).returncode
        finally:
            gpus.put(device)

    with ThreadPoolExecutor(max(1, len(devices))) as pool:
        codes = list(pool.map(run, range(1, data.n_folds + 1)))
    if failed := [f"fold {i} (exit code {code})" for i, code in enumerate(codes, 1) if code]:
        print(f"not finished: {', '.join(failed)}; the same command goes on from here", file=sys.stderr)
        return max(codes)
    experiment = experiment_folder(cli)
    summary = report.summarize(experiment)
    write_text(experiment / "summary.json", json.dumps(summary, indent=1, allow_nan=False))
    report.print_table(summary)
    print(f"report: {report.write_report([experiment], experiment / 'report')}")
    return 0


def experiment_folder(cli: SuiteCLI) -> Path:
    """Folder of all folds and seeds of an experiment."""
    return Path(cli.config.trainer.default_root_dir or "runs") / cli.config.run.name


def run_fold(argv: list[str]) -> int:
    """Train and score one fold, in one process (or one per device)."""
    cli = SuiteCLI(argv)
    model, data = cli.build()
    data.check()
    settings, run = cli.settings, cli.config.run
    if rank_zero_only.rank == 0:
        for required in run.requires:
            run_required(required, argv, cli)
    folder = RunFolder(experiment_folder(cli) / f"fold{data.fold}-seed{cli.config.seed_everything}", settings)
    state = folder.state()
    if state == "done":
        print_result(folder)
        return 0
    data.prepare_data()
    data.setup()
    model.check(data.state_dict())
    if run.checkpoint is not None:
        weights.check_evaluation(Path(run.checkpoint), model.aus, data.state_dict())
    if rank_zero_only.rank == 0:
        folder.open(state)
        log_to(folder.path / "log.txt")
    rank_zero_info(f"{folder.path}: {'goes on' if state == 'resume' else 'starts'}; {describe(data)}")

    started = time.monotonic()
    ledger = Ledger(flip=run.flip)
    checkpoint, epochs = train(cli, model, data, folder, ledger, state)
    result = evaluate(cli, model, data, folder, ledger, checkpoint)
    if rank_zero_only.rank == 0:
        result |= {"epochs": epochs, "seconds": round(time.monotonic() - started, 1)}
        folder.close(metrics.to_json(result))
        print_result(folder)
    return 0


def run_required(command: str, argv: list[str], cli: SuiteCLI) -> None:
    """Run a command line of run.py whose product this run reads; its own words win over what it inherits.

    Raises:
        ConfigError: It failed.
    """
    own = normalise(shlex.split(command))
    trainer = [f"--trainer.{key}={cli.config.trainer[key]}" for key in INHERITED_TRAINER if cli.config.trainer[key]]
    overlays = [word for word in argv[: 2 * argv.count("--config")] if word != "--config" and "overlays" in word]
    same_data = SuiteCLI(own).config.data.class_path == cli.config.data.class_path
    data = [word for word in argv if word.startswith("--data.") and same_data]
    configs = 2 * own.count("--config")
    line = [
        *own[:configs],
        *(word for overlay in overlays for word in ("--config", overlay)),
        *trainer,
        *data,
        f"--data.fold={cli.config.data.init_args.fold}",
        f"--seed_everything={cli.config.seed_everything}",
        *own[configs:],
    ]
    print(f"required: {command}")
    code = subprocess.run([sys.executable, __file__, *line], check=False).returncode
    if code:
        raise ConfigError(f"run.requires: '{command}' ended with exit code {code}", "mend what it printed above")


def train(
    cli: SuiteCLI, model: AUModule, data: AUDataModule, folder: RunFolder, ledger: Ledger, state: str
) -> tuple[Path, int]:
    """Fit, unless a checkpoint was given; returns the checkpoint to score and the epochs behind it."""
    run = cli.config.run
    if run.checkpoint is not None:
        return Path(run.checkpoint), 0
    monitor = cli.config.checkpoint.monitor or model.monitor
    mode = cli.config.checkpoint.mode or model.monitor_mode
    keep = keep_best(folder.checkpoints, monitor, mode)
    callbacks: list[Callback] = [keep]
    if (patience := cli.config.early_stopping.patience) is not None:
        delta = cli.config.early_stopping.min_delta
        callbacks.append(
            EarlyStopping(monitor, patience=patience, mode=mode, min_delta=delta, check_on_train_epoch_end=True)
        )
    trainer = make_trainer(cli, folder, ledger, callbacks)
    pl.seed_everything(cli.config.seed_everything, workers=True, verbose=False)
    trainer.fit(model, data, ckpt_path=folder.last if state == "resume" else None)
    best_epoch = int(torch.load(folder.best, weights_only=True, map_location="cpu")["epoch"]) + 1
    if not run.refit:
        return folder.best, best_epoch
    return refit(cli, folder, best_epoch), best_epoch


def keep_best(folder: Path, monitor: str | None, mode: str = "max") -> ModelCheckpoint:
    """``best.ckpt`` by ``monitor`` and ``last.ckpt``, written at the end of an epoch, when the scores are known."""
    return ModelCheckpoint(
        folder,
        filename="best",
        monitor=monitor,
        mode=mode,
        save_last=True,
        save_on_train_epoch_end=True,
        auto_insert_metric_name=False,
        enable_version_counter=False,
    )


def refit(cli: SuiteCLI, folder: RunFolder, epochs: int) -> Path:
    """Train a new model on all training subjects for the number of epochs that validation chose."""
    cli.config.data.init_args.val_subjects = 0
    model, data = cli.build()
    checkpoints = folder.checkpoints / "refit"
    last = checkpoints / "last.ckpt"
    trainer = make_trainer(cli, folder, Ledger(), [keep_best(checkpoints, None)], max_epochs=epochs)
    pl.seed_everything(cli.config.seed_everything, workers=True, verbose=False)
    trainer.fit(model, data, ckpt_path=last if last.exists() else None)
    return last


def make_trainer(
    cli: SuiteCLI, folder: RunFolder, ledger: Ledger, callbacks: list[Callback], **overrides: Any
) -> pl.Trainer:
    """A Trainer whose own root is the run folder, with the run's loggers."""
    run = cli.config.run
    kind = "none" if rank_zero_only.rank else run.tracker
    loggers = [MetricsCSV(folder.path / "metrics.csv")]
    name = f"{run.name}-f{cli.config.data.init_args.fold}-s{cli.config.seed_everything}"
    loggers += tracker(kind, run.wandb, folder.path, name, run.name, folder.settings)
    if not sys.stderr.isatty():
        callbacks = [*callbacks, EpochLines()]
        overrides["enable_progress_bar"] = False
    configured = cli.config_init.trainer
    if SLURMEnvironment.detect():  # last.ckpt is what a requeued job goes on from, not files beside other array tasks
        overrides["plugins"] = [*(configured.get("plugins") or []), SLURMEnvironment(auto_requeue=False)]
    return cli.trainer(
        logger=loggers,
        callbacks=[*(configured.get("callbacks") or []), ledger, *callbacks],
        default_root_dir=folder.path,
        **overrides,
    )


def evaluate(
    cli: SuiteCLI, model: AUModule, data: AUDataModule, folder: RunFolder, ledger: Ledger, checkpoint: Path
) -> dict[str, Any]:
    """Score the checkpoint on validation and held-out subjects, write the ledgers, return what result.json says."""
    run = cli.config.run
    recalibration = Recalibration()
    share = T_SNE_FRAMES / max(1, len(data.rows_test))
    features = [Features(folder.path / "features.npz", share)] if hasattr(model, "features") else []
    trainer = make_trainer(cli, folder, ledger, [recalibration, *features])
    if run.checkpoint is not None:
        weights.load_for_evaluation(model, checkpoint)
    ckpt_path = checkpoint if run.checkpoint is None else None
    raw: dict[str, Any] | None = None
    if data.fold and getattr(model, "recalibrate_batches", 0):
        trainer.test(model, data, ckpt_path=ckpt_path, verbose=False)
        raw = metrics.score(ledger.tables["test"])
        recalibration.enabled = True
    if len(data.rows_val):
        trainer.validate(model, data, ckpt_path=ckpt_path, verbose=False)
    if data.fold:
        trainer.test(model, data, ckpt_path=ckpt_path, verbose=False)
    if run.predict == "all":
        trainer.predict(model, data, ckpt_path=ckpt_path, return_predictions=False)
    if rank_zero_only.rank:
        return {}
    for stage, name in {"test": "predictions", "val": "predictions_val", "test_flip": "predictions_flip"}.items():
        if stage in ledger.tables:
            write_parquet(ledger.tables[stage], folder.path / f"{name}.parquet")
    if run.predict == "all":
        table = ledger.tables["predict"]
        write_parquet(table[table["subject"].isin(data.subjects_train)], folder.path / "predictions_train.parquet")
    return facts(cli, model, data, folder, trainer) | scores(run.threshold, ledger, raw)


def scores(rule: str, ledger: Ledger, raw: dict[str, Any] | None) -> dict[str, Any]:
    """Scores of the held-out subjects (of the validation subjects where nobody is held out)."""
    table = ledger.tables.get("test", ledger.tables.get("val"))
    if table is None:
        return {}
    result: dict[str, Any] = {
        "n_frames": len(table),
        "metrics": metrics.score(table),
        "trivial": metrics.trivial(table),
    }
    if raw is not None:
        result["metrics_without_recalibration"] = raw
    if rule != "0.5" and (aus := metrics.occurrence_aus(table.columns)):
        source, _, how = rule.partition("_")
        chosen = thresholds(ledger.tables[source], how)
        tuned = metrics.score(table, chosen)
        result["metrics"] |= {"f1_tuned": tuned["f1"], "f1_tuned_mean": tuned["f1_mean"]}
        result["threshold"] = {f"AU{au:02d}": chosen[au] for au in aus}
    return result


def facts(cli: SuiteCLI, model: AUModule, data: AUDataModule, folder: RunFolder, trainer: pl.Trainer) -> dict[str, Any]:
    """What must travel with the scores."""
    state, run = data.state_dict(), cli.config.run
    return {
        "name": run.name,
        "config_hash": folder.hash,
        "class": type(model).__name__,
        "task": getattr(model, "task", "occurrence"),
        "dataset": state["dataset"],
        "fold": state["fold"],
        "held_out_subjects": state["test_subjects"],
        "val_subjects": state["val_subjects"],
        "n_train_subjects": len(state["train_subjects"]) + (len(state["val_subjects"]) if run.refit else 0),
        "aus_without_val_positives": data.aus_without_val_positives,
        "unreadable_frames": data.unreadable,
        "seed": cli.config.seed_everything,
        "select_on": state["select_on"],
        "initialisation": model.initialisation,
        "label_threshold": state["label_threshold"],
        "threshold_rule": run.threshold,
        "camera": state["camera"],
        "frame_set": state["frame_set"],
        "preprocessing": state["preprocessing"],
        "licence": state["licence"],
        "aus": state["aus"],
        "checkpoint": run.checkpoint,
        "device": torch.cuda.get_device_name()
        if trainer.accelerator.__class__.__name__ == "CUDAAccelerator"
        else "cpu",
        "world_size": trainer.world_size,
        "precision": str(trainer.precision),
        "versions": {name: version(name) for name in ("torch", "pytorch-lightning", "timm", "albumentations", "numpy")},
        "commit": commit(),
        "n_params": sum(p.numel() for p in model.parameters()),
        "model": model.facts(),
    }


def commit() -> str | None:
    """Commit of the code, with a plus sign when files differ from it; None outside a checkout."""
    root = Path(__file__).parents[1]
    answers = [
        subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=False)
        for words in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    ]
    if answers[0].returncode:
        return None
    return answers[0].stdout.strip() + ("+" if answers[1].stdout.strip() else "")


def describe(data: AUDataModule) -> str:
    """One line about the split."""
    without = ", ".join(f"AU{au:02d}" for au in data.aus_without_val_positives)
    return (
        f"{len(data.subjects_train)} training subjects ({len(data.rows_train)} frames), {len(data.subjects_val)} for "
        f"validation ({len(data.rows_val)}), {len(data.subjects_test)} held out ({len(data.rows_test)})"
        + (f"; no positives in validation: {without}" if without else "")
        + (f"; {data.unreadable} frames without an image left out" if data.unreadable else "")
    )


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
    headline = {k: v for k, v in result.get("metrics", {}).items() if k.endswith("_mean") and v is not None}
    numbers = ", ".join(f"{name} {value:.3f}" for name, value in headline.items())
    print(f"{folder.path}: {numbers or 'done'} ({result['epochs']} epochs, {result['seconds']:.0f} s)")


if __name__ == "__main__":
    exit_with(lambda: main(sys.argv[1:]))
