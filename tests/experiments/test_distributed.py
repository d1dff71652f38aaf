"""Two processes against one with twice the batch; forked, which is quick and which only a test may do."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from timm.layers import BatchNormAct2d
from torch import nn

from callbacks.ledger import Ledger, write_parquet
from callbacks.tracking import EpochRows, MetricsCSV
from datamodules.synth_facs import SynthFACS
from experiments.cli import ConfigError, SuiteCLI, normalise
from experiments.plugins import SynchronizedNorms, check_processes
from lightning_modules import BaselineAU, RENet

AUS = [1, 12, 25]
SYNTH = "synth:synth_facs?subjects=21&frames=3&size=64&stride=60&rates=balanced"
forks = pytest.mark.skipif(torch.cuda.is_available(), reason="forking a process that has CUDA open fails")
quiet = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec", "ignore:.*does not have many workers", "ignore:.*fork", "ignore:.*barrier", "ignore:.*logging"
)


class KeepLedger(pl.Callback):
    """Writes the last validation's ledger, which a forked process would take with it."""

    def __init__(self, ledger: Ledger, path: Path) -> None:
        self.ledger, self.path = ledger, path

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            write_parquet(self.ledger.tables["val"], self.path)


def fit(folder: Path, model: pl.LightningModule, processes: int, synchronized: bool = True) -> tuple[Any, Any]:
    """Curve and validation ledger of three epochs of 16 frames a step."""
    folder.mkdir()
    csv, ledger = MetricsCSV(folder / "metrics.csv"), Ledger()
    settings: dict[str, Any] = {"devices": 1}
    if processes > 1:
        strategy = DDPStrategy(start_method="fork", timeout=timedelta(seconds=90), process_group_backend="gloo")
        settings = {"devices": processes, "strategy": strategy}
        settings |= {"plugins": [SynchronizedNorms()], "sync_batchnorm": True} if synchronized else {}
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=csv,
        callbacks=[ledger, EpochRows(csv), KeepLedger(ledger, folder / "val.parquet")],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=1,
        **settings,
    )
    size = {"image_size": 32, "batch_size": 16 // processes, "num_workers": 0}
    trainer.fit(model, SynthFACS(root=SYNTH, aus=AUS, label_threshold=1, val_subjects=3, **size))
    return pd.read_csv(folder / "metrics.csv"), pd.read_parquet(folder / "val.parquet")


@forks
@quiet
@pytest.mark.parametrize(
    "model",
    [
        lambda: RENet(AUS, width=0.125, lr=1e-3),
        lambda: RENet(AUS, width=0.125, lr=1e-3, strategy="joint", relation="learnable"),
        lambda: BaselineAU(AUS, backbone="convnext_atto", lr=1e-3),  # normalises by sample: nothing to synchronise
    ],
)
def test_two_processes_learn_what_one_with_twice_the_batch_does(model: Any, tmp_path: Path) -> None:
    results = []
    for processes in (1, 2):
        pl.seed_everything(0, verbose=False)
        results.append(fit(tmp_path / str(processes), model(), processes))
    (curve, ledger), (curve_of_two, ledger_of_two) = results
    assert curve["train/loss"].iloc[-1] < curve["train/loss"].iloc[0]
    pd.testing.assert_frame_equal(curve, curve_of_two, rtol=2e-3)
    pd.testing.assert_frame_equal(ledger, ledger_of_two, atol=2e-3)


@forks
@quiet
def test_without_synchronised_norms_they_learn_something_else(tmp_path: Path) -> None:
    curves = []
    for processes in (1, 2):
        pl.seed_everything(0, verbose=False)
        model = RENet(AUS, width=0.125, lr=1e-3)
        curves.append(fit(tmp_path / str(processes), model, processes, synchronized=False)[0])
    assert (curves[0]["train/loss"] - curves[1]["train/loss"]).abs().max() > 0.02


def test_synchronised_norms_keep_their_activation_and_give_back_what_they_learnt() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)).eval()
    with torch.no_grad():
        network[1].bias.fill_(-0.3)
    image = torch.randn(8, 3, 5, 5)
    expected, plugin, before = network(image), SynchronizedNorms(), [type(layer) for layer in network]
    plugin.apply(network)
    assert all(isinstance(network[i], nn.SyncBatchNorm) for i in (1, 3))
    torch.testing.assert_close(network(image), expected)
    network.train()(image)
    learnt = network.eval()(image)
    plugin.revert(network)
    assert [type(layer) for layer in network] == before
    torch.testing.assert_close(network(image), learnt)
    assert not torch.allclose(learnt, expected)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--trainer.strategy=ddp_spawn"], "spawned or forked"),
        (["--trainer.strategy=ddp", "--trainer.sync_batchnorm=true"], "GPUs alone"),
    ],
)
def test_processes_that_cannot_work_together_are_refused(words: list[str], named: str) -> None:
    cli = SuiteCLI(normalise(["--config", "resnet10t_synthetic.yaml", "--trainer.accelerator=cpu", *words]))
    model, _ = cli.build()
    trainer = cli.make_trainer(devices=2, logger=False)
    with pytest.raises(ConfigError, match=named) as refused:
        check_processes(trainer, cli.config.trainer.sync_batchnorm, model)
    assert refused.value.remedy
