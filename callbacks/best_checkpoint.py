"""The checkpoint of the epoch that validation chooses."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor


class BestCheckpoint(ModelCheckpoint):
    """ModelCheckpoint that drops what came before the model settles, see ``AUModule.settles_at``.

    A training that ends before it settles keeps its best epoch, as it would without.
    """

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        """Whether this epoch's score replaces the best one."""
        better = super().check_monitor_top_k(trainer, current)  # on every rank: it asks them all
        return better or (current is not None and trainer.current_epoch == trainer.lightning_module.settles_at)
