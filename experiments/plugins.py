"""What a run changes in Lightning: where it saves, who starts its processes, how they normalise together."""

import io
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import TorchCheckpointIO, TorchSyncBatchNorm
from pytorch_lightning.plugins.environments import LightningEnvironment, SLURMEnvironment
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher
from timm.layers import convert_sync_batchnorm
from torch.nn.modules.batchnorm import _BatchNorm

from experiments.cli import ConfigError
from lightning_modules.base import AUModule


def plugins(sync_batchnorm: bool) -> list[Any]:
    """Plugins of a Trainer.

    Args:
        sync_batchnorm: The Trainer's argument.
    """
    chosen: list[Any] = [WholeCheckpoints()]
    if SLURMEnvironment.detect():  # a requeued job goes on from last.ckpt; Lightning's own file would be of mid-epoch
        alone = os.environ.get("SLURM_NTASKS") == "1"  # it starts a process for each device itself then
        chosen.append(LightningEnvironment() if alone else SLURMEnvironment(auto_requeue=False))
    if sync_batchnorm:
        chosen.append(SynchronizedNorms())
    return chosen


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all; Lightning copies it there if the temporary folder is on another disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """See the base class."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        target = Path(path)
        temporary = target.with_name(f".{target.name}.part")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content.getbuffer())
                os.fsync(file.fileno())  # a node may die between the renaming and the writing
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


class SynchronizedNorms(TorchSyncBatchNorm):
    """``trainer.sync_batchnorm``, also for layers of our own; timm's keep the activation that torch would drop."""

    def apply(self, model: torch.nn.Module) -> torch.nn.Module:
        """Every batch normalisation sees the batches of all ranks from here on."""
        self.replaced = [
            (parent, name, child)
            for parent in model.modules()
            for name, child in parent.named_children()
            if isinstance(child, _BatchNorm)
        ]
        for parent, name, child in self.replaced:
            setattr(parent, name, convert_sync_batchnorm(child))
        self._tell(model, True)
        return model

    def revert(self, model: torch.nn.Module) -> torch.nn.Module:
        """As before, with what was learnt meanwhile."""
        for parent, name, child in self.replaced:
            child.load_state_dict(getattr(parent, name).state_dict())
            setattr(parent, name, child)
        self._tell(model, False)
        return model

    def _tell(self, model: torch.nn.Module, synchronized: bool) -> None:
        for module in model.modules():
            if hasattr(module, "synchronized"):
                vars(module)["synchronized"] = synchronized


def check_processes(trainer: pl.Trainer, sync_batchnorm: bool, model: AUModule) -> None:
    """Refuse several processes that would lose the predictions, or could not normalise together."""
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        what = "trainer.strategy: predictions of spawned or forked processes are lost with them"
        raise ConfigError(what, "set trainer.strategy=ddp")
    on_cpu = trainer.strategy.root_device.type == "cpu" and trainer.world_size > 1
    if sync_batchnorm and on_cpu and any(isinstance(module, _BatchNorm) for module in model.modules()):
        what = "trainer.sync_batchnorm: torch synchronises batch normalisation on GPUs alone"
        raise ConfigError(what, "leave it out, or train on GPUs")
