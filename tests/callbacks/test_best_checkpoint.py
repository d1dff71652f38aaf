"""Which epoch's checkpoint stays."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel

from callbacks.best_checkpoint import BestCheckpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.*")
ERRORS = [0.1, 0.5, 0.4, 0.3, 0.35]


class Scored(BoringModel):
    """Logs a prescribed validation score in each epoch."""

    def __init__(self, settles_at: int, scores: list[float]) -> None:
        super().__init__()
        self.settles_at, self.scores = settles_at, scores

    def on_validation_epoch_end(self) -> None:
        self.log("val/score", torch.tensor(self.scores[self.current_epoch]))


def fit(folder, settles_at, scores, mode, epochs=5, resume=None):
    best = BestCheckpoint(folder, "best", monitor="val/score", mode=mode, save_on_train_epoch_end=True,
                          enable_version_counter=False)  # fmt: skip
    last = pl.callbacks.ModelCheckpoint(folder, "last", save_on_train_epoch_end=True, enable_version_counter=False)
    trainer = pl.Trainer(
        max_epochs=epochs, limit_train_batches=1, limit_val_batches=1, num_sanity_val_steps=0, accelerator="cpu",
        logger=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[best, last],
    )  # fmt: skip
    trainer.fit(Scored(settles_at, scores), ckpt_path=resume)
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    return torch.load(folder / "best.ckpt", weights_only=True)["epoch"]


@pytest.mark.parametrize(("settles_at", "epoch"), [(0, 0), (1, 3), (2, 3), (4, 4), (5, 0)])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_no_epoch_before_the_model_settles_is_chosen_if_it_gets_there(tmp_path, settles_at, epoch, mode):
    scores = ERRORS if mode == "min" else [-error for error in ERRORS]
    assert fit(tmp_path, settles_at, scores, mode) == epoch


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_an_interrupted_training_chooses_as_if_it_had_gone_through(tmp_path):
    assert fit(tmp_path, 2, ERRORS, "min", epochs=2) == 0
    assert fit(tmp_path, 2, ERRORS, "min", epochs=3, resume=tmp_path / "last.ckpt") == 2
    assert fit(tmp_path, 2, ERRORS, "min", resume=tmp_path / "last.ckpt") == 3
