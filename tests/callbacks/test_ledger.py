from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch.utils.data import DataLoader

from callbacks.ledger import Ledger, gather, ledger_columns, write_parquet
from datamodules.sampling import EvalSampler
from lightning_modules.common import metrics
from lightning_modules.common.errors import ModelError

AUS = [6, 12]
N = 37  # divides by no batch size or number of processes used here
RANDOM = np.random.default_rng(5)
TRUE = RANDOM.integers(-1, 2, (N, 2))
PROB = RANDOM.random((N, 2)).astype(np.float32)
NAMES = ["Neutral", "Fear", "Scream"]
EXPRESSION = RANDOM.integers(-1, 3, N)
EXPRESSION_PROB = RANDOM.dirichlet(np.ones(3), N).astype(np.float32)


class Frames(torch.utils.data.Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> dict[str, Any]:
        key = {"dataset": "d", "subject": f"S{i // 10}", "sequence": "s", "frame": i}
        labels = {"au": torch.from_numpy(TRUE[i]), "expression": torch.tensor(EXPRESSION[i])}
        return {"image": torch.tensor([[[i, 255 - i]]]), "index": i, **labels, **key}


class Data(pl.LightningDataModule):
    def loader(self) -> DataLoader[dict[str, Any]]:
        rank = self.trainer.global_rank, self.trainer.world_size
        return DataLoader(Frames(), batch_size=4, sampler=EvalSampler(np.arange(N), *rank))

    val_dataloader = test_dataloader = predict_dataloader = loader


class Known(pl.LightningModule):
    """Predicts PROB of the frame that the image names; its mirror image is another probability."""

    aus = predicted_aus = AUS
    expressions = NAMES

    def predictions(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        left, right = batch["image"][:, 0, 0, 0], batch["image"][:, 0, 0, 1]
        frame, mirrored = torch.minimum(left, right), (left > right)[:, None]
        au, expression = torch.from_numpy(PROB)[frame], torch.from_numpy(EXPRESSION_PROB)[frame]
        return {
            "au_prob": torch.where(mirrored, au / 2, au),
            "expression_prob": torch.where(mirrored, expression.flip(-1), expression),
        }

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, torch.Tensor]:
        return self.predictions(batch)

    validation_step = predict_step = test_step


class Written(Ledger):
    """Leaves the table of rank 0 in a file, because forked processes take their memory with them."""

    def __init__(self, path: Path) -> None:
        super().__init__(flip=True)
        self.path = path

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            write_parquet(self.tables["test"], self.path)


def trainer(ledger: Ledger, **settings: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return pl.Trainer(callbacks=[ledger], use_distributed_sampler=False, **quiet, **settings)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.*")
class TestEvaluation:
    def test_a_table_holds_every_frame_once_and_is_scored_as_scikit_learn_does(self) -> None:
        ledger = Ledger()
        scored = trainer(ledger)
        scored.test(Known(), Data(), verbose=False)
        table = ledger.tables["test"]
        assert table["frame"].tolist() == list(range(N))
        np.testing.assert_array_equal(table[["AU06_true", "AU12_true"]], TRUE)
        np.testing.assert_array_equal(table[["AU06_prob", "AU12_prob"]], PROB)
        for i, au in enumerate(AUS):
            known = TRUE[:, i] >= 0
            expected = f1_score(TRUE[known, i], PROB[known, i] >= 0.5)
            assert float(scored.callback_metrics[f"test/f1/AU{au:02d}"]) == pytest.approx(expected, abs=1e-6)
        np.testing.assert_array_equal(table["expression_true"], EXPRESSION)
        np.testing.assert_array_equal(table[[f"expression_{name}_prob" for name in NAMES]], EXPRESSION_PROB)
        known, choice = EXPRESSION >= 0, EXPRESSION_PROB.argmax(1)
        logged = {name: float(value) for name, value in scored.callback_metrics.items()}
        assert logged["test/accuracy"] == pytest.approx(accuracy_score(EXPRESSION[known], choice[known]), abs=1e-6)
        macro = f1_score(EXPRESSION[known], choice[known], average="macro")
        assert logged["test/expression/f1_mean"] == pytest.approx(macro, abs=1e-6)

    def test_two_processes_leave_the_table_of_one(self, tmp_path: Path) -> None:
        one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
        trainer(Written(one)).test(Known(), Data(), verbose=False)
        if torch.cuda.is_available():
            pytest.skip("ddp_fork cannot follow a CUDA context")
        trainer(Written(two), devices=2, strategy="ddp_fork").test(Known(), Data(), verbose=False)
        pd.testing.assert_frame_equal(pd.read_parquet(one), pd.read_parquet(two))

    def test_flip_averages_an_image_and_its_mirror_image(self) -> None:
        ledger = Ledger(flip=True)
        trainer(ledger).test(Known(), Data(), verbose=False)
        np.testing.assert_allclose(ledger.tables["test_flip"][["AU06_prob", "AU12_prob"]], PROB * 0.75, rtol=1e-6)
        mean = (EXPRESSION_PROB + EXPRESSION_PROB[:, ::-1]) / 2
        columns = [f"expression_{name}_prob" for name in NAMES]
        np.testing.assert_allclose(ledger.tables["test_flip"][columns], mean, rtol=1e-6)
        np.testing.assert_allclose(ledger.tables["test"][["AU06_prob", "AU12_prob"]], PROB)


def test_intensity_columns_stand_beside_their_labels() -> None:
    batch = {"index": torch.tensor([3, 1]), "dataset": ["d", "d"], "subject": ["a", "b"], "sequence": ["s", "s"]}
    batch |= {"frame": torch.tensor([0, 9]), "intensity": torch.tensor([[5], [-1]])}
    predictions = {"level": torch.tensor([[4], [0]]), "expected": torch.tensor([[3.5], [0.25]])}
    table = gather([ledger_columns(batch, predictions, [17])])
    assert table.to_dict("list") == {
        "dataset": ["d", "d"],
        "subject": ["b", "a"],
        "sequence": ["s", "s"],
        "frame": [9, 0],
        "AU17_true_level": [-1, 5],
        "AU17_level": [0, 4],
        "AU17_expected": [0.25, 3.5],
    }


def test_aus_that_the_data_do_not_label_stand_without_labels() -> None:
    batch = {"index": torch.tensor([0]), "dataset": ["d"], "subject": ["a"], "sequence": ["s"]}
    batch |= {"frame": torch.tensor([0]), "au": torch.tensor([[1, 0]])}
    predictions = {"au_prob": torch.tensor([[0.5, 0.25]])}
    table = gather([ledger_columns(batch, predictions, [6, 1], predicted_aus=[1, 12])])
    assert table.drop(columns=["dataset", "subject", "sequence", "frame"]).to_dict("list") == {
        "AU01_true": [0],
        "AU01_prob": [0.5],
        "AU12_prob": [0.25],
    }
    assert metrics.occurrence_aus(table.columns) == [1]


def test_a_clip_is_mirrored_as_an_image_is() -> None:
    class Clips(Known):
        """The middle frame of a clip is the image; its others must be mirrored too."""

        def predictions(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
            clip = batch["clip"]
            assert torch.equal(clip[:, 0], clip[:, 2])
            assert torch.equal(clip[:, 0], 255 - clip[:, 1])
            return super().predictions({"image": clip[:, 1]})

    batch: dict[str, Any] = dict(Frames()[7])
    batch = {key: value[None] if torch.is_tensor(value) else [value] for key, value in batch.items()}
    batch |= {"frame": torch.tensor([7]), "index": torch.tensor([7])}
    image = batch.pop("image")
    batch["clip"] = torch.stack([255 - image, image, 255 - image], 1)
    ledger, model = Ledger(flip=True), Clips()
    ledger.on_test_batch_end(None, model, model.predictions(batch), batch)
    assert ledger._parts[0]["AU12_prob"] == PROB[7, 1]
    np.testing.assert_allclose(ledger._flipped[0]["AU12_prob"], PROB[7, 1] * 0.75)


def test_stages_without_aus_leave_one_number_a_frame() -> None:
    """Every known point is off by 3 and 4 pixels, outer eye corners are 50 apart; frame 1 has not both."""
    landmarks = torch.zeros(3, 68, 2)
    landmarks[:, 45] = torch.tensor([30.0, 40.0])
    landmarks[0, 5] = torch.nan
    landmarks[1, 36] = torch.nan
    predicted = landmarks.nan_to_num(1e6) + torch.tensor([3.0, 4.0])
    predicted[2, 10] = torch.nan
    batch = {"index": torch.tensor([0, 1, 2]), "dataset": ["d"] * 3, "subject": ["a"] * 3, "sequence": ["s"] * 3}
    batch |= {"frame": torch.arange(3), "landmarks": landmarks}
    predictions = {"landmarks_hat": predicted, "confidence": torch.tensor([0.5, 0.25, 1.0])}
    table = gather([ledger_columns(batch, predictions | {"loss": torch.tensor([1.0, torch.nan, 4.0])}, AUS)])
    assert set(table) == {"dataset", "subject", "sequence", "frame", "nme", "landmark_confidence", "loss"}
    np.testing.assert_allclose(table["nme"], [0.1, np.nan, np.inf])
    assert table["landmark_confidence"].tolist() == [0.5, 0.25, 1]
    scores = metrics.score(table[:2])
    assert (scores["nme"], scores["loss"]) == (pytest.approx(0.1), 1)
    assert metrics.score(table[["loss"]])["loss"] == 2.5
    assert metrics.flatten(metrics.score(table[["loss"]])) == {"loss": 2.5}
    assert np.isnan(metrics.score(table[1:2])["nme"])
    with pytest.raises(ModelError, match="nme of 1 of 3 frames is infinite"):
        metrics.score(table)


def test_pseudo_intensities_stand_beside_every_label_that_there_is() -> None:
    batch = {
        "index": torch.arange(3),
        **{"dataset": ["d"] * 3, "subject": ["s"] * 3, "sequence": ["q"] * 3, "frame": torch.arange(3)},
        "au": torch.tensor([[0], [1], [-1]]),
        "intensity": torch.tensor([[0], [4], [-1]]),
        "occluded": torch.tensor([0, 1, 0]),
    }
    said = {"pseudo": torch.tensor([[-3.0], [2.5], [0.0]]), "sigma": torch.tensor([[0.1], [7.0], [1.0]])}
    table = gather([ledger_columns(batch, said, [6])])
    assert table["AU06_pseudo"].tolist() == [-3.0, 2.5, 0.0]
    assert table["AU06_sigma"].tolist() == pytest.approx([0.1, 7.0, 1.0])
    assert table["AU06_true"].tolist() == [0, 1, -1]
    assert table["AU06_true_level"].tolist() == [0, 4, -1]
    assert table["occluded"].tolist() == [0, 1, 0]
    unknown = {"intensity": torch.full((3, 1), -1), "occluded": torch.full((3,), -1)}
    assert not {"AU06_true_level", "occluded"} & set(gather([ledger_columns(batch | unknown, said, [6])]))


def test_pairs_are_scored_by_their_own_columns() -> None:
    names = {name: ["a", "b"] for name in ("dataset", "subject", "sequence")}
    batch = {"index": torch.arange(2), "frame": torch.arange(2)} | names
    said = {"loss": torch.tensor([1.0, 3.0]), "order": torch.tensor([1.0, 0.5])}
    table = gather([ledger_columns(batch, said, [6])])
    assert metrics.flatten(metrics.score(table)) == {"loss": 2.0, "order": 0.75}
