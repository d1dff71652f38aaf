"""AUModule: what every paper's LightningModule shares. A paper adds losses and predictions; scoring lies elsewhere."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lightning_modules.common.errors import ModelError

NEEDS = {
    "frames": "leave data.pairs and data.pseudo out",
    "pairs": "set data.pairs.train=10000, as the paper",
    "features": "set data.pseudo.predictions to the folder of a ranker's run",
}


class AUModule(pl.LightningModule, ABC):
    """Base of all models: one optimised sum of named losses, and predictions that the ledger callback scores.

    Args:
        aus: FACS numbers of the action units, in the order of the label columns of the batch.
        seed: Seeds every draw of the training steps, together with the global step.

    Attributes:
        predicted_aus: AUs that are predicted, ``aus`` unless the network knows others than those that the data label.
        expressions: Names of the expression classes, in the order of the labels; none where expressions are not
            predicted.
        samples: What it is trained on: ``frames``, ``pairs`` or ``features`` (of pseudo-intensities).
        settles_at: Epoch, counted from 0, from which on it is trained as it will be used: where training gets there, no
            earlier one is chosen.
    """

    network: nn.Module
    expressions: Sequence[str] = ()
    samples: str = "frames"
    monitor: str = "val/f1_mean"
    monitor_mode: str = "max"
    settles_at: int = 0

    def __init__(self, aus: list[int], seed: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.aus = list(aus)
        self.predicted_aus = self.aus
        self.seed = seed

    @abstractmethod
    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Scalar loss terms, weights applied; their sum is optimised."""

    @abstractmethod
    def predictions(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """What the ledger stores.

        ``au_prob`` (B, A), or ``level`` and ``expected`` (B, A) for intensity, of ``predicted_aus``;
        ``expression_prob`` (B, K).
        """

    def check(self, data: dict[str, Any] | None) -> None:
        """Look for faults of arguments and files before a Trainer exists.

        Args:
            data: ``state_dict()`` of the DataModule; None when there is none.

        Raises:
            ModelError: With the remedy.
        """
        if not (self.aus or self.expressions) or len(set(self.aus)) < len(self.aus):
            raise ModelError(f"model.aus: {self.aus} is empty or names an AU twice", "list each AU number once")
        if data and (given := data.get("samples", "frames")) != self.samples:
            what = f"{type(self).__name__} is trained on {self.samples}, the data are {given}"
            raise ModelError(what, NEEDS[self.samples])
        if data and data["aus"] != self.aus:
            what = f"model.aus: {self.aus} are not the labels of the data, {data['aus']}"
            raise ModelError(what, "leave model.aus at ${data.init_args.aus}")
        if data and self.expressions and list(data["expressions"]) != list(self.expressions):
            what = f"model.expressions: {', '.join(self.expressions)} are not the classes of {data['dataset']}"
            labelled = f"set model.expressions=[{', '.join(data['expressions'])}]"
            raise ModelError(what, labelled if data["expressions"] else "take a dataset that labels expressions")

    @property
    def initialisation(self) -> str:
        """Where the first weights come from."""
        return "none"

    def facts(self) -> dict[str, Any]:
        """Plain JSON values that describe the trained model in result.json."""
        return {}

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Make the step's randomness a function of (seed, step, rank), so that a resumed run repeats it exactly.

        Batches whose gradients are accumulated belong to one step and must not repeat each other's draws.
        """
        part = batch_idx % self.trainer.accumulate_grad_batches
        torch.manual_seed(self.step_seed(1 + self.global_rank, part))

    def step_seed(self, *more: int) -> int:
        """A seed for this training step: equal on all ranks unless ``more`` (not 0) tells them apart."""
        return int(np.random.SeedSequence((self.seed, self.global_step, *more)).generate_state(1)[0])

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Sum of ``losses``; logs ``train/loss`` and, where there are several, ``train/loss_<term>``."""
        terms = self.losses(batch)
        total = torch.stack(list(terms.values())).sum()
        logged = {"train/loss": total} | {f"train/loss_{name}": term for name, term in terms.items() if len(terms) > 1}
        self.log_dict(logged, batch_size=len(batch["index"]), on_step=False, on_epoch=True, sync_dist=True)
        return total

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """``predictions``, detached; floating values in float32 whatever the precision."""
        values = {name: value.detach() for name, value in self.predictions(batch).items()}
        return {name: value.float() if value.is_floating_point() else value for name, value in values.items()}

    test_step = validation_step
    predict_step = validation_step

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write down whose weights these are, for runs that start from them."""
        own = {"class": type(self).__name__, "aus": self.aus, "initialisation": self.initialisation}
        checkpoint["model"] = own | {"expressions": list(self.expressions)}
