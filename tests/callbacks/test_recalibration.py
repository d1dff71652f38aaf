from collections.abc import Iterable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from callbacks.recalibration import Recalibration


class Data(pl.LightningDataModule):
    def loader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.arange(6.0)), batch_size=2)

    train_dataloader = val_dataloader = test_dataloader = calibration_dataloader = loader


class Recorder(pl.LightningModule):
    """Notes when it is recalibrated, with what, and what had happened before."""

    recalibrate_batches = 2

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.log_of_calls: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.weight * batch[0].sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log_of_calls.append("step")

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)

    def recalibrate(self, batches: Iterable[Any]) -> None:
        self.log_of_calls.append([batch[0].tolist() for batch in batches])


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.*")
@pytest.mark.parametrize("enabled", [False, True])
def test_it_runs_before_validation_and_test_and_never_inside_a_fit(enabled: bool) -> None:
    callback, model = Recalibration(), Recorder()
    callback.enabled = enabled
    off = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
    quiet: dict[str, Any] = dict.fromkeys(off, False)
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=[callback], num_sanity_val_steps=0, **quiet)
    trainer.fit(model, Data())
    assert model.log_of_calls == ["step"] * 3
    for score in (trainer.validate, trainer.test):
        model.log_of_calls.clear()
        score(model, Data(), verbose=False)
        expected = [[[0.0, 1.0], [2.0, 3.0]]] if enabled else []
        assert model.log_of_calls == [*expected, *["step"] * 3]


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.*")
@pytest.mark.parametrize(("limit", "read"), [(1, 1), (5, 2), (0.5, 2)])
def test_a_try_with_few_batches_reads_no_more_of_them(limit: float, read: int) -> None:
    callback, model = Recalibration(), Recorder()
    callback.enabled = True
    trainer = pl.Trainer(accelerator="cpu", callbacks=[callback], logger=False, limit_train_batches=limit)
    trainer.test(model, Data(), verbose=False)
    assert model.log_of_calls[0] == [[0.0, 1.0], [2.0, 3.0]][:read]
