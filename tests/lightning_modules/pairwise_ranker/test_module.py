from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_modules import IntensityMapper, PairwiseRanker, UncertaintyRanker
from lightning_modules.base import AUModule
from lightning_modules.common.errors import ModelError

pytestmark = pytest.mark.filterwarnings(  # Lightning's own; the ranker is in eval mode on purpose
    "ignore:.*LeafSpec", "ignore:.*does not have many workers", "ignore:Found .* in eval mode"
)

AUS = [4, 12]
SMALL: dict[str, Any] = {"backbone": "resnet10t", "width": 0.125, "dropout": 0.0, "lr": 3e-3}


class PairData(pl.LightningDataModule):
    """Frames of 32 px whose left half is as bright as AU04, right half as AU12; black ones tell nothing."""

    def __init__(self, aus: list[int] = AUS, n: int = 24, black: float = 0.0) -> None:
        super().__init__()
        coin = np.random.default_rng(0)
        self.aus = aus
        self.level = coin.integers(0, 6, (n, 2, 2))  # of pairs, by AU and frame
        shown = self.level * (coin.random((n, 1, 2)) >= black)
        noise = coin.integers(0, 20, (n, 2, 2, 3, 32, 32))
        bright = np.zeros((n, 2, 2, 1, 32, 32), int)
        for a, columns in enumerate((slice(0, 16), slice(16, 32))):
            bright[:, a, :, :, :, columns] = 40 * shown[:, a, :, None, None, None]
        self.pair = torch.from_numpy((noise + bright).astype(np.uint8))
        self.order = torch.from_numpy(np.sign(self.level[..., 0] - self.level[..., 1]))

    def pairs(self) -> list[dict[str, Any]]:
        chosen = [[4, 12].index(au) for au in self.aus]
        return [
            {"pair": pair[chosen], "order": order[chosen], "index": i}
            for i, (pair, order) in enumerate(zip(self.pair, self.order, strict=True))
        ]

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.pairs(), 12)

    val_dataloader = train_dataloader

    def state_dict(self) -> dict[str, Any]:
        return provenance(aus=self.aus)


def provenance(**changes: Any) -> dict[str, Any]:
    return {
        **{"dataset": "disfa", "fold": 1, "aus": AUS, "samples": "pairs", "preprocessing": "0123456789ab"},
        **{"train_persons": ["disfa/S1"], "val_persons": ["disfa/S2"], "test_persons": ["disfa/S3"]},
        **changes,
    }


@pytest.fixture
def fit(trainer: Callable[..., pl.Trainer]) -> Callable[..., Any]:
    def run(model: AUModule, data: Any, epochs: int = 1) -> Any:
        trainer(max_epochs=epochs, limit_val_batches=0).fit(model, data)
        return model.eval()

    return run


@pytest.fixture
def save(trainer: Callable[..., pl.Trainer], tmp_path: Path) -> Callable[..., str]:
    """Train for a step and write a checkpoint with its provenance."""

    def run(model: AUModule, data: Any, name: str = "source") -> str:
        fitter = trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
        fitter.fit(model, data)
        path = tmp_path / f"{name}.ckpt"
        fitter.save_checkpoint(path)
        return str(path)

    return run


def state(model: AUModule) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.network.state_dict().items()}


@pytest.mark.parametrize("shared", [False, True])
def test_it_learns_the_order(fit: Callable[..., Any], shared: bool) -> None:
    data = PairData()
    model = fit(PairwiseRanker(AUS, shared=shared, **SMALL), data, epochs=14)
    batch = next(iter(DataLoader(data.pairs(), 24)))
    with torch.no_grad():
        found = model.predictions(batch)
        frames = model.predictions({"image": batch["pair"][:, 1, 0]})
    assert found["order"].nanmean() > 0.85
    assert frames["pseudo"].shape == (24, 2)


def test_a_network_is_the_same_whichever_others_stand_beside_it(fit: Callable[..., Any]) -> None:
    together, alone = fit(PairwiseRanker(AUS, **SMALL), PairData()), fit(PairwiseRanker([12], **SMALL), PairData([12]))
    for name, value in alone.network.state_dict().items():
        torch.testing.assert_close(together.network.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_no_pair_teaches_nothing(fit: Callable[..., Any]) -> None:
    model = PairwiseRanker(AUS, **SMALL)
    batch = next(iter(DataLoader(PairData().pairs(), 4)))
    batch["order"] = torch.zeros_like(batch["order"])
    assert model.losses(batch)["pairs"] == 0
    assert model.predictions(batch)["loss"].isnan().all()
    batch["order"][0, 1] = 1
    model.losses(batch)["pairs"].backward()
    moved = {name.split(".")[1] for name, p in model.network.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"AU12"}


def test_the_first_convolutions_stay_where_weights_are_given(save: Callable[..., str], fit: Callable[..., Any]) -> None:
    path = save(PairwiseRanker(AUS, **SMALL), PairData())
    model = PairwiseRanker(AUS, backbone_checkpoint=path, **SMALL)
    before = torch.load(path, weights_only=True)["state_dict"]
    fit(model, PairData())
    first, second, third = (f"networks.AU04.0.conv1.{i}.weight" for i in (0, 3, 6))
    after = state(model)
    assert torch.equal(after[first], before[f"network.{first}"])
    assert torch.equal(after[second], before[f"network.{second}"])
    assert not torch.equal(after[third], before[f"network.{third}"])
    fresh = PairwiseRanker(AUS, **SMALL)
    untrained = state(fresh)
    assert not torch.equal(state(fit(fresh, PairData()))[first], untrained[first])


def test_weights_of_another_run_are_matched_by_au(save: Callable[..., str], fit: Callable[..., Any]) -> None:
    path = save(PairwiseRanker(AUS, **SMALL), PairData())
    source = torch.load(path, weights_only=True)["state_dict"]
    model = PairwiseRanker([12, 6], backbone_checkpoint=path, **SMALL)
    model.check(provenance(aus=[12, 6]))
    mapped = model._initial_weights()
    assert mapped is not None
    assert torch.equal(mapped["networks.AU12.1.weight"], source["network.networks.AU12.1.weight"])
    assert torch.equal(mapped["networks.AU06.1.weight"], model.network.state_dict()["networks.AU06.1.weight"])
    assert model.new_aus == [6]


def test_the_ranker_does_not_change_while_uncertainty_is_trained(
    save: Callable[..., str], fit: Callable[..., Any]
) -> None:
    path = save(PairwiseRanker(AUS, **SMALL), PairData())
    source = torch.load(path, weights_only=True)["state_dict"]
    model = UncertaintyRanker(AUS, ranker_checkpoint=path, **SMALL)
    model.check(provenance())
    before = state(model)
    fit(model, PairData())
    for name, value in model.ranker.state_dict().items():  # statistics of batch norm too
        assert torch.equal(value, source[f"network.{name}"])
    assert any(not torch.equal(value, before[name]) for name, value in state(model).items())
    model.train()
    assert not model.ranker.training
    assert model.network.training


def test_uncertainty_rises_where_pictures_tell_nothing(fit: Callable[..., Any], save: Callable[..., str]) -> None:
    data = PairData(black=0.4, n=48)
    ranker = PairwiseRanker(AUS, **SMALL)
    path = save(fit(ranker, data, epochs=10), data)  # its statistics are fixed: in eval mode
    model = fit(UncertaintyRanker(AUS, ranker_checkpoint=path, **SMALL), data, epochs=10)
    frames = data.pair[:, 1, 0]
    black = frames[:, :, :, 16:].float().mean((1, 2, 3)) < 15
    with torch.no_grad():
        sigma = model.predictions({"image": frames})["sigma"][:, 1]
    assert sigma[black].log().mean() > sigma[~black].log().mean() + 0.2


def test_what_an_uncertainty_refuses(save: Callable[..., str]) -> None:
    path = save(PairwiseRanker(AUS, **SMALL), PairData())
    for arguments, data, said in (
        ({}, provenance(test_persons=["disfa/S1"]), "has seen subjects"),
        ({"width": 0.25}, provenance(), r"model.width=0.25: .* was trained with 0.125"),
        ({"shared": True}, provenance(), "model.shared=True"),
        ({"aus": [12]}, provenance(aus=[12]), r"ranks the AUs \[4, 12\]"),
        ({}, provenance(preprocessing="other"), "trained on crops"),
    ):
        model = UncertaintyRanker(**{"aus": AUS, "ranker_checkpoint": path, **SMALL, **arguments})
        with pytest.raises(ModelError, match=said):
            model.check(data)
    uncertain = save(UncertaintyRanker(AUS, ranker_checkpoint=path, **SMALL), PairData(), "uncertain")
    with pytest.raises(ModelError, match="of UncertaintyRanker, not of PairwiseRanker"):
        UncertaintyRanker(AUS, ranker_checkpoint=uncertain, **SMALL).check(provenance())
    with pytest.raises(ModelError, match="no such file"):
        UncertaintyRanker(AUS, ranker_checkpoint="nowhere.ckpt", **SMALL).check(provenance())


def test_without_a_ranker_there_is_no_uncertainty(trainer: Callable[..., pl.Trainer]) -> None:
    with pytest.raises(ModelError, match="none given"):
        trainer(limit_val_batches=0).fit(UncertaintyRanker(AUS, **SMALL), PairData())


def test_samples_of_another_kind_are_refused() -> None:
    with pytest.raises(ModelError, match="PairwiseRanker is trained on pairs, the data are frames"):
        PairwiseRanker(AUS, **SMALL).check(provenance(samples="frames"))
    with pytest.raises(ModelError, match=r"model\.backbone: timm knows no model"):
        PairwiseRanker(AUS, backbone="vgg17").check(None)


# ------------------------------------------------------------------------------------------------------------- mapping

WINDOW = 2


class FeatureData(pl.LightningDataModule):
    """The label of AU04 is told by confidences alone, that of AU12 by the pseudo-intensity alone."""

    def __init__(self, n: int = 64) -> None:
        super().__init__()
        coin = np.random.default_rng(1)
        self.label = coin.integers(0, 2, (n, 2))
        feature = coin.normal(size=(n, 2, 21 + 4 * WINDOW)) * 0.1
        feature[:, 0, -1] = self.label[:, 0]
        feature[:, 1, 0] = 4 * self.label[:, 1]
        feature[:, 1, 20 + 2 * WINDOW :] = 6 * coin.normal(size=(n, 1 + 2 * WINDOW))  # confidences that mislead
        self.feature = torch.from_numpy(feature.astype(np.float32))
        self.train_rows, self.val_rows = np.arange(n // 2), np.arange(n // 2, n)
        self.dataset = "disfa"

    def samples(self, rows: np.ndarray) -> list[dict[str, Any]]:
        label = torch.from_numpy(self.label)
        said = {"pseudo": self.feature[:, :, 0], "sigma": self.feature[:, :, 1].exp()}
        return [
            {"feature": self.feature[i], "au": label[i], "intensity": 5 * label[i], "index": int(i)}
            | {name: values[i] for name, values in said.items()}
            for i in rows
        ]

    def train_labels(self, kind: str) -> np.ndarray:
        return self.label[self.train_rows] * (5 if kind == "intensity" else 1)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.samples(self.train_rows), 16)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.samples(self.val_rows), 16)


def mapper(**arguments: Any) -> IntensityMapper:
    return IntensityMapper(AUS, **{"window": WINDOW, "hidden": 32, "dropout": 0.0, "lr": 5e-3, **arguments})


def test_it_maps_features_to_labels(fit: Callable[..., Any]) -> None:
    data = FeatureData()
    batch = next(iter(data.val_dataloader()))
    occurrence = fit(mapper(), data, epochs=25).predictions(batch)
    assert set(occurrence) == {"au_prob", "pseudo", "sigma"}
    assert occurrence["au_prob"].amin() >= 0
    assert occurrence["au_prob"].amax() <= 1
    assert ((occurrence["au_prob"][:, 0] >= 0.5) == batch["au"][:, 0]).float().mean() > 0.8
    intensity = fit(mapper(task="intensity"), data, epochs=1).predictions(batch)
    torch.testing.assert_close(intensity["level"], (intensity["expected"] + 0.5).floor().long())
    assert intensity["level"].amin() >= 0
    assert intensity["level"].amax() <= 5


def test_validation_chooses_for_each_au_whether_uncertainty_is_seen(
    fit: Callable[..., Any], trainer: Callable[..., pl.Trainer]
) -> None:
    data = FeatureData()
    model = mapper(uncertainty="per_au")
    fitter = trainer(max_epochs=25)
    fitter.fit(model, data)
    assert model.network.uses_sigma.tolist() == [True, False]
    assert model.facts()["uses_sigma"] == {"AU04": True, "AU12": False}
    label = data.label[data.val_rows]
    with torch.no_grad():
        said = [values.numpy() for values in model.eval().network.both(data.feature[data.val_rows])]
    errors = [np.abs(values - label).mean(0) for values in said]
    expected = np.minimum(*errors).mean()
    assert float(fitter.callback_metrics["val/loss"]) == pytest.approx(float(expected), rel=1e-4)


def test_what_a_mapper_refuses() -> None:
    given = provenance(samples="features", window=WINDOW, sigma=False)
    for arguments, data, said in (
        ({}, given, "data.pseudo.predictions have no sigma"),
        ({}, given | {"window": 300}, "the features are of 300 frames on each side"),
        ({"hidden": 0}, given, "model.hidden=0"),
        ({}, provenance(samples="frames"), "IntensityMapper is trained on features"),
    ):
        with pytest.raises(ModelError, match=said):
            mapper(**arguments).check(data)
    mapper(uncertainty="never").check(given)
    unlabelled = SimpleNamespace(dataset="affwild2", train_labels=lambda _: np.array([[-1, 0], [-1, 1]]))
    model = mapper(task="intensity")
    model._trainer = SimpleNamespace(datamodule=unlabelled)  # type: ignore[assignment]
    with pytest.raises(ModelError, match=r"no training frame of affwild2 has a label of the AUs \[4\]"):
        model.setup("fit")
