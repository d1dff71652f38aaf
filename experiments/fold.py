"""Train and score one fold of an experiment in its run folder."""

import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only
from torch.utils.data import default_collate

from callbacks.best_checkpoint import BestCheckpoint
from callbacks.feature_maps import FeatureMaps
from callbacks.features import Features
from callbacks.ledger import Ledger, write_parquet
from callbacks.recalibration import Recalibration
from callbacks.tracking import EpochLines, EpochRows, MetricsCSV, tracker
from callbacks.uncertain_frames import UncertainFrames
from callbacks.wandb_mirror import WandbMirror
from datamodules.base import AUDataModule
from experiments import mirrored
from experiments.analysis import complexity
from experiments.cli import SuiteCLI, flatten
from experiments.plugins import check_processes, plugins
from experiments.run_folder import RunFolder, State
from lightning_modules.base import AUModule
from lightning_modules.common import metrics, weights

T_SNE_FRAMES = 1500
LEDGERS = {"test": "predictions", "val": "predictions_val", "test_flip": "predictions_flip"}


class Fold:
    """One (configuration, fold, seed) on its way from a configuration to ``result.json``.

    Args:
        cli: The parsed configuration.
        model: Built from it.
        data: Built from it, set up.
        folder: Where the run writes.
    """

    def __init__(self, cli: SuiteCLI, model: AUModule, data: AUDataModule, folder: RunFolder) -> None:
        self.cli, self.model, self.data, self.folder = cli, model, data, folder
        self.scored: Path | None = None
        self.options = cli.config.run
        kind = self.options.tracker if is_rank_zero() else "none"
        self.seed = cli.config.seed_everything
        named = mirrored.identity(
            self.options.name, type(model).__name__, data.dataset, data.fold, self.seed, bool(self.options.checkpoint)
        )
        config = dict(flatten(folder.settings))
        self.loggers = tracker(kind, self.options.wandb, folder.path, config=config, **named)

    def run(self, state: State) -> None:
        """Train (or go on, unless the model came trained), score, and close the folder."""
        started = time.monotonic()
        sizes = network_sizes(self.model, self.data) if is_rank_zero() else {}
        if self.options.compile:
            self.model.network.compile()
        if self.data.drawn_pairs and is_rank_zero():
            write_parquet(pd.DataFrame(self.data.drawn_pairs.table()), self.folder.path / "pairs.parquet")
        epochs = self.train(state) if self.options.checkpoint is None else 0
        result = self.evaluate()
        if is_rank_zero():
            result |= {"sizes": sizes, "epochs": epochs, "seconds": round(time.monotonic() - started, 1)}
            self.folder.close(metrics.to_json(result))
            for mirror in self.loggers:
                if isinstance(mirror, WandbMirror):
                    faces = self.options.media == "dashboard"
                    mirrored.finish_fold(
                        mirror, self.folder.path, self.data.fold, self.seed, self.options.artifacts, faces
                    )

    def train(self, state: State) -> int:
        """Fit, and give the model the weights of the best epoch; returns how many epochs are behind them."""
        config, folder = self.cli.config, self.folder
        monitor = config.checkpoint.monitor or self.model.monitor
        mode = config.checkpoint.mode or self.model.monitor_mode
        validated = len(self.data.rows_val) > 0 or self.data.select_on == "test"
        callbacks = keep(folder.checkpoints, best=True, monitor=monitor if validated else None, mode=mode)
        if (patience := config.early_stopping.patience) is not None:
            delta = config.early_stopping.min_delta
            rule: dict[str, Any] = {"patience": patience, "mode": mode, "min_delta": delta}
            callbacks.append(EarlyStopping(monitor, check_on_train_epoch_end=True, **rule))
        if not folder.trained.exists():
            csv = MetricsCSV(folder.path / "metrics.csv")
            limits = {} if validated else {"limit_val_batches": 0}  # the last epoch is the best known
            trainer = self.trainer([csv, *self.loggers], [Ledger(), EpochRows(csv), *callbacks], **limits)
            trainer.fit(self.model, self.data, ckpt_path=folder.last if state == "resume" else None)
            folder.trained.touch()
        self.scored = folder.best
        chosen = torch.load(self.scored, weights_only=True, map_location="cpu")
        epochs = int(chosen["epoch"]) + 1
        if self.options.refit:
            self.scored = self.refit(epochs)
            chosen = torch.load(self.scored, weights_only=True, map_location="cpu")
        self.model.load_state_dict(chosen["state_dict"])
        return epochs

    def refit(self, epochs: int) -> Path:
        """Train a new model on all training subjects for the number of epochs that validation chose."""
        self.cli.config.data.init_args.val_subjects = 0
        model, data = self.cli.build()
        folder = self.folder.checkpoints / "refit"
        last = folder / "last.ckpt"
        trainer = self.trainer([], keep(folder, best=False), max_epochs=epochs, limit_val_batches=0)
        trainer.fit(model, data, ckpt_path=last if last.exists() else None)
        return last

    def evaluate(self) -> dict[str, Any]:
        """Score the model on validation and held-out subjects, write the ledgers, return what result.json says."""
        model, data = self.model, self.data
        ledger, recalibration = Ledger(flip=self.options.flip), Recalibration()
        callbacks: list[Callback] = [ledger, recalibration]
        shown = {"edition": data.state_dict()["edition"], "faces": self.options.media != "none"}
        if hasattr(model, "features"):
            share = T_SNE_FRAMES / max(1, len(data.rows_test))
            if model.aus:  # the figure is of single AUs
                callbacks.append(Features(self.folder.path / "features.npz", share, T_SNE_FRAMES))
            callbacks.append(FeatureMaps(self.folder.path / "feature_maps.npz", **shown))
        limits = ("limit_val_batches", "limit_test_batches", "limit_predict_batches")
        limited = [name for name in limits if self.cli.config_init.trainer.get(name) is not None]
        product = dict.fromkeys(
            limited if self.options.predict == "all" else [], 1.0
        )  # the next stage needs all frames
        callbacks.append(UncertainFrames(self.folder.path / "uncertain_frames.npz", **shown))
        trainer = self.trainer(self.loggers, callbacks, enable_checkpointing=False, **product)
        as_trained = None
        if data.fold and getattr(model, "recalibrate_batches", 0):
            trainer.test(model, data, verbose=False)
            as_trained = metrics.score(ledger.tables["test"])
            recalibration.enabled = True
        if len(data.rows_val) and not self.options.refit:  # after a refit these subjects are training subjects
            trainer.validate(model, data, verbose=False)
        if data.fold:
            trainer.test(model, data, verbose=False)
        if recalibration.enabled:
            self.scored = self.folder.checkpoints / "recalibrated.ckpt"
            trainer.save_checkpoint(self.scored, weights_only=True)
        if self.options.predict == "all":
            trainer.predict(model, data, return_predictions=False)
        if not is_rank_zero():
            return {}
        for stage, name in LEDGERS.items():
            if stage in ledger.tables:
                write_parquet(ledger.tables[stage], self.folder.path / f"{name}.parquet")
        if self.options.predict == "all":
            table = ledger.tables["predict"]
            # A mixture names its subjects as dataset/subject.
            joined = table["dataset"] + "/" + table["subject"]
            names = table["subject"].where(table["dataset"] == data.dataset, joined)
            write_parquet(table[names.isin(data.subjects_train)], self.folder.path / "predictions_train.parquet")
        return self.facts(trainer) | scores(ledger.tables, self.options.threshold, as_trained)

    def trainer(self, loggers: list[Logger], callbacks: list[Callback], **overrides: Any) -> pl.Trainer:
        """A Trainer whose own root is the run folder."""
        configured = self.cli.config_init.trainer
        if not sys.stderr.isatty():
            callbacks = [*callbacks, EpochLines()]
            overrides["enable_progress_bar"] = False
        trainer = self.cli.make_trainer(
            logger=loggers or False,
            callbacks=[*(configured.callbacks or []), *callbacks],
            default_root_dir=self.folder.path,
            plugins=[*(configured.plugins or []), *plugins(configured.sync_batchnorm)],
            **overrides,
        )
        check_processes(trainer, configured.sync_batchnorm, self.model)
        return trainer

    def facts(self, trainer: pl.Trainer) -> dict[str, Any]:
        """What must travel with the scores."""
        state, model, data = self.data.state_dict(), self.model, self.data
        shared = ("dataset", "edition", "split", "fold", "aus", "label_threshold", "camera", "frame_set")
        packages = ("torch", "pytorch-lightning", "timm", "albumentations", "numpy")
        on_gpu = trainer.strategy.root_device.type == "cuda"
        return {
            "name": self.options.name,
            "config_hash": self.folder.hash,
            "class": type(model).__name__,
            "backbone": getattr(model, "backbone", None),
            "task": getattr(model, "task", "occurrence"),
            **{name: state[name] for name in shared},
            "expressions": list(model.expressions),
            "preprocessing": state["preprocessing"],
            "licence": state["licence"],
            "held_out_subjects": data.subjects_test,
            "val_subjects": data.subjects_val,
            "n_train_subjects": len(data.subjects_train) + len(data.subjects_val) * self.options.refit,
            "aus_without_val_positives": data.aus_without_val_positives,
            "unreadable_frames": data.unreadable,
            "left_out_frames": data.left_out,
            "repeated_neighbours": data.repeated_neighbours,
            "seed": self.seed,
            "media": self.options.media,
            "select_on": state["select_on"],
            "initialisation": model.initialisation,
            "threshold_rule": self.options.threshold,
            "checkpoint": self.options.checkpoint,
            "trained_on": self.options.checkpoint and weights.dataset_of(self.options.checkpoint),
            "scored_checkpoint": self.scored
            and {"file": str(self.scored.relative_to(self.folder.path)), "sha256": weights.file_sha(self.scored)},
            "pairs": data.drawn_pairs and data.drawn_pairs.facts,
            "device": torch.cuda.get_device_name() if on_gpu else "cpu",
            "world_size": trainer.world_size,
            "effective_batch": data.batch_size * trainer.world_size * trainer.accumulate_grad_batches,
            "precision": str(trainer.precision),
            "versions": {name: version(name) for name in packages},
            "commit": commit(),
            "n_params": sum(p.numel() for p in model.parameters()),
            "model": model.facts(),
        }


def network_sizes(model: AUModule, data: AUDataModule) -> dict[str, dict[str, int]]:
    """`complexity.sizes` of a model that looks at pictures, on one of them; counted before anything is compiled."""
    if (pictures := getattr(model, "pictures", None)) is None:
        return {}
    batch = default_collate([data.samples(train=False)[int(data.rows_all[0])]])
    return complexity.sizes(model.network, pictures(batch))


def is_rank_zero() -> bool:
    """Whether this process is the first of the run: the one that writes and prints."""
    return bool(getattr(rank_zero_only, "rank", 0) == 0)


def keep(folder: Path, best: bool, monitor: str | None = None, mode: str = "max") -> list[Callback]:
    """``best.ckpt`` by ``monitor``, if asked for, then ``last.ckpt``, at the end of each epoch, when scores are known.

    Two callbacks, because Lightning's ``save_last`` writes only where the best is written.
    """
    settings: dict[str, Any] = {"save_on_train_epoch_end": True, "enable_version_counter": False}
    chosen = [BestCheckpoint(folder, "best", monitor=monitor, mode=mode, **settings)] if best else []
    return [*chosen, ModelCheckpoint(folder, "last", **settings)]


def scores(tables: dict[str, Any], rule: str, as_trained: dict[str, Any] | None) -> dict[str, Any]:
    """Scores of the held-out subjects (of the validation subjects where nobody is held out).

    Args:
        tables: Ledgers by stage.
        rule: ``run.threshold``, of ``f1_tuned``.
        as_trained: Scores before recalibration, if there was one.
    """
    table = tables.get("test", tables.get("val"))
    if table is None:
        return {}
    result: dict[str, Any] = {"n_frames": len(table), "metrics": metrics.score(table)}
    result["trivial"] = metrics.trivial(table)
    if as_trained is not None:
        result["metrics_without_recalibration"] = as_trained
    source, _, how = rule.partition("_")
    if how and source in tables and (aus := metrics.occurrence_aus(table.columns)):
        chosen = metrics.thresholds(tables[source], "f1" if how == "f1" else "break_even")
        tuned = metrics.score(table, chosen)
        result["metrics"] |= {"f1_tuned": tuned["f1"], "f1_tuned_mean": tuned["f1_mean"]}
        result["threshold"] = {f"AU{au:02d}": chosen[au] for au in aus}
    return result


def commit() -> str | None:
    """Commit of the code, with a plus sign when tracked files differ from it; None outside a checkout."""
    root = Path(__file__).parents[1]
    revision, changes = (
        subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=False)
        for words in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    )
    if revision.returncode:
        return None
    return revision.stdout.strip() + "+" * bool(changes.stdout.strip())
