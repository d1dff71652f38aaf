"""Keeps features of some test frames for the t-SNE figure of the report."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch


class Features(pl.Callback):
    """Writes ``features.npz``: per-AU features of the first test frames that a seeded coin picks.

    Args:
        path: File to write.
        share: Probability that a frame is kept.
        limit: Highest number of frames kept.
    """

    def __init__(self, path: Path, share: float, limit: int = 1500) -> None:
        self.path, self.share, self.limit = path, share, limit
        self._kept: list[dict[str, np.ndarray]] = []

    def on_test_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Forget an earlier test."""
        self._kept, self._left = [], self.limit
        self._coin = np.random.default_rng(0)

    def on_test_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        """Keep the features of some frames of the batch (rank 0's share of the test)."""
        picked = np.flatnonzero(self._coin.random(len(batch["index"])) < self.share)[: self._left]
        if trainer.is_global_zero and len(picked):
            self._left -= len(picked)
            with torch.no_grad():
                pictures = {key: batch[key][torch.from_numpy(picked)] for key in ("image", "clip") if key in batch}
                features = pl_module.features(pictures)
            self._kept.append(
                {
                    "features": features.float().cpu().numpy().astype(np.float16),
                    "index": batch["index"].cpu().numpy()[picked],
                    "true": batch["au"].cpu().numpy()[picked].astype(np.int8),
                }
            )

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Write the file whole or not at all."""
        if trainer.is_global_zero and self._kept:
            arrays: dict[str, Any] = {n: np.concatenate([kept[n] for kept in self._kept]) for n in self._kept[0]}
            temporary = self.path.with_name(f".{self.path.name}")
            np.savez_compressed(temporary, aus=np.array(pl_module.aus), **arrays)
            temporary.replace(self.path)
