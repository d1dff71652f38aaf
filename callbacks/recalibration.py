"""Re-estimates running statistics from training images before the final validation and test."""

import math
from itertools import islice
from typing import Any

import pytorch_lightning as pl


class Recalibration(pl.Callback):
    """Calls ``recalibrate`` of the model on training batches, once the checkpoint is loaded.

    Every rank reads the same batches, so that all end with the same statistics; no more of them than
    ``trainer.limit_train_batches``, where that is a number of batches.

    Attributes:
        enabled: Off while a run scores the network as trained.
    """

    def __init__(self) -> None:
        self.enabled = False

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Before a validation of its own; never inside a fit, where statistics are those of training."""
        if trainer.state.fn == "validate":
            self._run(trainer, pl_module)

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """Before the test."""
        self._run(trainer, pl_module)

    def _run(self, trainer: Any, pl_module: Any) -> None:
        if self.enabled:
            limit = trainer.limit_train_batches if isinstance(trainer.limit_train_batches, int) else math.inf
            count = int(min(pl_module.recalibrate_batches, limit))
            batches = islice(trainer.datamodule.calibration_dataloader(), count)
            pl_module.recalibrate(pl_module.transfer_batch_to_device(b, pl_module.device, 0) for b in batches)
