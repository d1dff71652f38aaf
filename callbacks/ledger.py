"""The predictions ledger: every prediction of an evaluation, gathered over all ranks and scored once.

Scores are never averaged over batches or ranks. What a run reports can be computed again from its ledger files.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
import torch.distributed as dist

from lightning_modules.common import metrics

KEY = ["dataset", "subject", "sequence", "frame"]

OCCURRENCE, INTENSITY = ("au", "true"), ("intensity", "true_level")
# Prediction key of a module -> suffix of its ledger columns, and the labels that belong beside it.
COLUMNS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "au_prob": ("prob", (OCCURRENCE,)),
    "level": ("level", (INTENSITY,)),
    "expected": ("expected", ()),
    "pseudo": ("pseudo", (OCCURRENCE, INTENSITY)),
    "sigma": ("sigma", ()),
}
# Prediction key of a module with one number a frame -> its column.
PER_FRAME = {"confidence": "landmark_confidence", "loss": "loss", "order": "order"}
FLIP_AVERAGED = ("au_prob", "expected", "expression_prob")
PICTURES = ("image", "clip")


def ledger_columns(
    batch: Mapping[str, Any],
    predictions: Mapping[str, torch.Tensor],
    aus: list[int],
    expressions: Sequence[str] = (),
    predicted_aus: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Columns of the ledger for one batch.

    Args:
        batch: The batch contract: keys, ``index`` and labels.
        predictions: By prediction key: (B, A), (B,) of ``PER_FRAME``, ``expression_prob`` (B, K), or ``landmarks_hat``
            (B, L, 2).
        aus: Action units in the order of labels.
        expressions: Names of the K expression classes.
        predicted_aus: Action units in the order of predictions, where these are not ``aus``.

    Returns:
        Column name to B values: ``index``, the key, then per AU label and prediction, and what else is predicted;
        of expressions ``expression_true`` and ``expression_<Name>_prob``; of landmarks their ``nme``, see
        `metrics.landmark_error`.
    """
    columns: dict[str, Any] = {"index": batch["index"].cpu().numpy()}
    for name in KEY:
        columns[name] = batch[name].cpu().numpy() if torch.is_tensor(batch[name]) else list(batch[name])
    if "occluded" in batch:
        columns["occluded"] = batch["occluded"].cpu().numpy().astype(np.int8)
    for key, values in predictions.items():
        predicted = values.cpu().numpy()
        if key in PER_FRAME:
            columns[PER_FRAME[key]] = predicted
            continue
        if key == "landmarks_hat":
            columns["nme"] = metrics.landmark_error(batch["landmarks"].cpu().numpy(), predicted)
            continue
        if key == "expression_prob":
            columns["expression_true"] = batch["expression"].cpu().numpy().astype(np.int8)
            columns |= {f"expression_{name}_prob": predicted[:, k] for k, name in enumerate(expressions)}
            continue
        suffix, labels = COLUMNS[key]
        for i, au in enumerate(aus if predicted_aus is None else predicted_aus):
            for label, name in labels if au in aus else ():
                columns[f"AU{au:02d}_{name}"] = batch[label][:, aus.index(au)].cpu().numpy().astype(np.int8)
            columns[f"AU{au:02d}_{suffix}"] = predicted[:, i]
    return columns


def columns_of(pl_module: Any, batch: Mapping[str, Any], predictions: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """``ledger_columns`` of what a module predicts."""
    return ledger_columns(batch, predictions, pl_module.aus, pl_module.expressions, pl_module.predicted_aus)


def gather(parts: list[dict[str, Any]]) -> pd.DataFrame:
    """One table of all batches of all ranks, in the order of ``index``, without the rows that padding repeated."""
    frame = pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True) if parts else pd.DataFrame()
    if dist.is_available() and dist.is_initialized():
        everyone: list[pd.DataFrame] = [pd.DataFrame()] * dist.get_world_size()
        dist.all_gather_object(everyone, frame)
        frame = pd.concat(everyone, ignore_index=True)
    if frame.empty:
        return frame
    once = frame.drop_duplicates("index").sort_values("index").drop(columns="index").reset_index(drop=True)
    return _without_empty(once)


def _without_empty(frame: pd.DataFrame) -> pd.DataFrame:
    """Without what the dataset does not tell: which faces are covered, intensities beside pseudo-intensities."""
    levels = [name for name in frame if str(name).endswith("_true_level")]
    scored = any(str(name).endswith("_level") and name not in levels for name in frame)
    empty = [] if scored or (frame[levels] >= 0).any(axis=None) else levels
    if "occluded" in frame and (frame["occluded"] < 0).all():
        empty = [*empty, "occluded"]
    return frame.drop(columns=empty)


def write_parquet(table: pd.DataFrame, path: Path) -> None:
    """Write a ledger whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    table.to_parquet(temporary, index=False)
    temporary.replace(path)


class Ledger(pl.Callback):
    """Keeps the predictions of the latest evaluation of each kind, scores them and logs ``{stage}/{metric}``.

    Args:
        flip: Also predict the mirror image in the test, all frames of a clip mirrored, and keep the mean of both
            predictions as ``test_flip``.

    Attributes:
        tables: ``val``, ``test``, ``predict`` and ``test_flip`` -> ledger of the latest evaluation.
    """

    def __init__(self, flip: bool = False) -> None:
        self.flip = flip
        self.tables: dict[str, pd.DataFrame] = {}
        self._parts: list[dict[str, Any]] = []
        self._flipped: list[dict[str, Any]] = []

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        """Collect a batch."""
        self._parts.append(columns_of(pl_module, batch, outputs))

    def on_test_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        """Collect a batch, and its mirror image where asked."""
        self._parts.append(columns_of(pl_module, batch, outputs))
        if self.flip:
            mirrored = pl_module.predictions(batch | {key: batch[key].flip(-1) for key in PICTURES if key in batch})
            mean = {key: (outputs[key] + mirrored[key]) / 2 for key in FLIP_AVERAGED if key in outputs}
            self._flipped.append(columns_of(pl_module, batch, mean))

    def on_predict_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        """Collect a batch."""
        self._parts.append(columns_of(pl_module, batch, outputs))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Score the validation part, before checkpointing and early stopping look."""
        self._close("val", pl_module)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Score the held-out part."""
        self._close("test", pl_module)
        if self.flip:
            self.tables["test_flip"], self._flipped = gather(self._flipped), []

    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Keep the predictions; nothing is scored."""
        self.tables["predict"], self._parts = gather(self._parts), []

    def _close(self, stage: str, pl_module: Any) -> None:
        table, self._parts = gather(self._parts), []
        self.tables[stage] = table
        scores = metrics.flatten(metrics.score(table))
        # Every rank has the whole table and logs the same, whose mean over ranks it is.
        pl_module.log_dict({f"{stage}/{name}": value for name, value in scores.items()}, sync_dist=True)
