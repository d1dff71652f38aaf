"""Where numbers of a run go while it runs: metrics.csv always, W&B or TensorBoard beside it."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

from callbacks.wandb_mirror import WandbMirror, wandb_mode


class MetricsCSV(Logger):
    """``metrics.csv`` of a run: one row a step with ``epoch``, ``step`` and the metrics logged there.

    Unlike Lightning's CSVLogger it goes on after a resume: rows of the epoch that is done again are replaced.

    Args:
        path: File to write; what stands there is kept up to the first step that is logged again.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._old = pd.read_csv(path).to_dict("records") if path.exists() else []
        self._rows: dict[int, dict[str, Any]] = {}

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "metrics.csv"

    @property
    def version(self) -> str:
        """No versions: one run folder, one file."""
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add metrics to the row of ``step``."""
        assert step is not None
        if not self._rows:
            self._old = [row for row in self._old if row["step"] < step]
        self._rows.setdefault(step, {"step": step}).update(metrics)

    @rank_zero_only
    def save(self) -> None:
        """Write the file whole or not at all."""
        if not self._rows:
            return
        table = pd.DataFrame([*self._old, *self._rows.values()])
        table = table[["epoch", "step", *sorted(str(name) for name in table if name not in ("epoch", "step"))]]
        temporary = self.path.with_name(f".{self.path.name}.part")
        table.to_csv(temporary, index=False)
        temporary.replace(self.path)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()


class EpochRows(pl.Callback):
    """Writes the row of an epoch before its checkpoint, which a killed run goes on from; Lightning logs after it.

    Args:
        csv: The logger to write to.
    """

    def __init__(self, csv: MetricsCSV) -> None:
        self.csv = csv

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Log what the epoch has come to; checkpoints are written by the callbacks after this one."""
        numbers = {name: value.item() for name, value in trainer.callback_metrics.items()}
        self.csv.log_metrics({"epoch": trainer.current_epoch, **numbers}, step=trainer.global_step - 1)
        self.csv.save()


class EpochLines(pl.Callback):
    """One line an epoch, for logs that no terminal shows; a progress bar would fill them."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Print the epoch with its loss and the monitored score."""
        seen = trainer.callback_metrics
        numbers = [f"{name} {float(seen[name]):.4f}" for name in ("train/loss", pl_module.monitor) if name in seen]
        rank_zero_info(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: {', '.join(numbers)}")


def tracker(kind: str, mode: str, folder: Path, **settings: Any) -> list[Logger]:
    """Loggers beside metrics.csv.

    Args:
        kind: ``wandb``, ``tensorboard`` or ``none``.
        mode: W&B mode, see `wandb_mode`.
        folder: Run folder.
        settings: Of W&B, see `WandbMirror`.
    """
    if kind == "tensorboard":
        return [TensorBoardLogger(folder, name="tensorboard", version="")]
    if kind == "none" or (resolved := wandb_mode(mode)) == "disabled":
        return []
    return [WandbMirror(folder, resolved, **settings)]
