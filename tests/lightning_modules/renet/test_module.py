from datetime import timedelta

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy

from lightning_modules import RENet
from lightning_modules.common.errors import ModelError
from lightning_modules.renet.network import pairwise_pearson

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers")  # Lightning's own


@pytest.fixture
def small(aus):
    return lambda **arguments: RENet(**{"aus": aus, "width": 0.125, "lr": 3e-3, **arguments})


def test_the_relation_is_that_of_the_training_labels(small, data, trainer):
    model = small(lr=0.0)
    trainer().fit(model, datamodule=data)
    expected = pairwise_pearson(torch.from_numpy(data.au)).float()
    torch.testing.assert_close(model.network.relation.omega, expected)
    assert model.facts()["relation"] == expected.tolist()
    assert model.facts()["relation_row_sums"] == pytest.approx(expected.sum(1).tolist())


def test_intensity_correlates_levels_and_has_six_outputs(small, data, trainer):
    data.au[:8, 0] = 1
    model = small(task="intensity")
    trainer().fit(model, datamodule=data)
    expected = pairwise_pearson(torch.from_numpy(data.train_labels("intensity"))).float()
    torch.testing.assert_close(model.network.relation.omega, expected)
    predicted = model.eval().predictions(data.batch())
    assert predicted["level"].dtype == torch.int64
    assert predicted["expected"].shape == (8, 4)
    assert model.monitor == "val/icc_mean"


def test_weak_rows_are_told(small, data, trainer):
    data.au[:, 1] = 1 - data.au[:, 0].clip(0)  # AU02 mirrors AU01, so that their rows sum to nearly nothing
    data.au[:, 2:] = 1
    with pytest.warns(UserWarning, match=r"AU01.*AU02"):
        trainer().fit(small(), datamodule=data)


@pytest.mark.parametrize("relation", ["identity", "none"])
def test_ablations_take_no_relation(small, data, trainer, relation):
    model = small(relation=relation)
    trainer().fit(model, datamodule=data)
    assert torch.equal(model.network.relation.omega, torch.eye(4))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"strategy": "joint"},
        {"head": "per_au"},
        {"relation": "learnable"},
        {"relation": "identity"},
        {"relation": "none", "head": "per_au"},
        {"task": "intensity", "strategy": "joint"},
    ],
)
def test_training_recognises_eight_faces(small, data, arguments):
    model = small(**arguments)
    batch = data.batch(8)
    optimizer = model.configure_optimizers()
    model.network.train()

    def loss() -> float:
        with torch.no_grad():
            model.strategy, strategy = "joint", model.strategy
            value = model.losses(batch)["au"].item()
            model.strategy = strategy
        return value

    before = loss()
    for step in range(25 if model.strategy == "joint" else 100):
        model.step_seed = lambda step=step: step
        optimizer.zero_grad()
        model.losses(batch)["au"].backward()
        optimizer.step()
    assert loss() < 0.6 * before


def test_the_drawn_au_depends_on_seed_and_step_alone(small, monkeypatch):
    draws = []
    for seed in (0, 0, 1):
        model, drawn = small(seed=seed), []
        for step in range(200):
            monkeypatch.setattr(RENet, "global_step", step)
            torch.manual_seed(step + seed)  # other randomness has no say
            drawn.append(model.drawn_au())
        draws.append(drawn)
    assert draws[0] == draws[1] != draws[2]
    assert min(draws[0].count(au) for au in range(4)) > 30  # uniform: 50 each


def test_aus_without_training_labels_are_never_drawn_and_an_unknown_batch_costs_nothing(small, data, trainer):
    data.au[:, 1] = -1
    data.au[:8, 2] = -1
    model = small()
    trainer().fit(model, datamodule=data)
    assert model.trained == [0, 2, 3]
    model.drawn_au = lambda: 2
    loss = model.losses(data.batch(8))["au"]
    loss.backward()
    assert loss.item() == 0


@pytest.mark.filterwarnings("ignore:Relations of these AUs")
def test_an_unseen_au_leaves_no_trace_in_training(small, data, trainer):
    """Its labels may say anything, its rows stay as they began, and only second-order statistics of it are used."""

    def fit(labels):
        pl.seed_everything(0, verbose=False)
        model = small(unseen_aus=[4], strategy="joint")
        data.au[:, 2] = labels
        data.au[0, 2] = 1 - labels
        trainer(callbacks=[FixRelation()]).fit(model, datamodule=data)
        return model

    first, second = fit(0), fit(1)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert torch.equal(first.network.norms[3].weight[2], torch.ones_like(first.network.norms[3].weight[2]))
    norm, mix = first.network.norms[3], first.network.relation()[2]
    assert mix[2] == 0
    torch.testing.assert_close(norm.running_mean[2], (mix[:, None] * norm.running_mean).sum(0))


class FixRelation(pl.Callback):
    """One relation for both fits, since that of the labels differs."""

    def on_train_start(self, trainer, pl_module):
        pl_module.network.relation.omega.fill_(0.3).fill_diagonal_(1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"backbone": "resnet81"}, "resnet81"),
        ({"backbone": "efficientnet_b0", "width": 1.0}, "no ResNet"),
        ({"aus": [1, 1]}, "twice"),
        ({"unseen_aus": [9]}, r"\[9\]"),
        ({"unseen_aus": [1, 2, 4, 12]}, "every AU"),
        ({"unseen_aus": [1], "head": "per_au"}, "head"),
        ({"relation": "none"}, "same output"),
    ],
)
def test_check_names_the_fault_and_the_constructor_is_silent(small, arguments, words):
    model = small(**arguments)
    with pytest.raises(ModelError, match=words) as caught:
        model.check(None)
    assert caught.value.remedy


def test_a_checkpoint_restores_predictions_and_needs_no_labels(small, data, trainer, tmp_path):
    model, fit = small(head="per_au", unseen_aus=None, relation="learnable"), trainer()
    fit.fit(model, datamodule=data)
    fit.save_checkpoint(tmp_path / "a.ckpt")
    batch = data.batch()
    restored = RENet.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(restored.predictions(batch), model.eval().predictions(batch), atol=0, rtol=0)


def test_a_fixed_relation_is_restored_for_testing(small, data, trainer, tmp_path):
    model, fit = small(), trainer()
    fit.fit(model, datamodule=data)
    fit.save_checkpoint(tmp_path / "a.ckpt")
    fresh = small()
    data.train_labels = None  # testing asks for no labels
    trainer().test(fresh, datamodule=data, ckpt_path=tmp_path / "a.ckpt", verbose=False, weights_only=True)
    assert torch.equal(fresh.network.relation.omega, model.network.relation.omega)


@pytest.mark.parametrize("strategy", ["random", "joint"])
def test_a_resumed_fit_equals_an_undisturbed_one(small, data, trainer, tmp_path, strategy):
    pl.seed_everything(0, verbose=False)
    whole = small(strategy=strategy)
    trainer(max_epochs=3).fit(whole, datamodule=data)
    pl.seed_everything(0, verbose=False)
    begun, begin = small(strategy=strategy), trainer(max_epochs=1)
    begin.fit(begun, datamodule=data)
    begin.save_checkpoint(tmp_path / "a.ckpt")
    pl.seed_everything(7, verbose=False)
    resumed = small(strategy=strategy)
    trainer(max_epochs=3).fit(resumed, datamodule=data, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), atol=0, rtol=0)


def test_weight_decay_spares_rows_and_relation(small):
    model = small(relation="learnable", head="per_au", weight_decay=0.1)
    names = {id(parameter): name for name, parameter in model.network.named_parameters()}
    groups = model.configure_optimizers().param_groups
    decayed = {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {name for name, p in model.network.named_parameters() if p.ndim == 4} | {"head.weight"}


@pytest.mark.parametrize("strategy", ["random", "joint"])
def test_mixed_precision_fits(small, data, trainer, strategy):
    model = small(strategy=strategy)
    trainer(precision="bf16-mixed").fit(model, datamodule=data)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


class RanksAgree(pl.Callback):
    """Raises in the parent when two ranks hold different parameters or drew different AUs."""

    def on_train_start(self, trainer, pl_module):
        self.drawn = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.drawn.append(pl_module.drawn_au())

    def on_train_end(self, trainer, pl_module):
        mine = torch.cat([p.detach().flatten() for p in pl_module.parameters()] + [torch.tensor(self.drawn).float()])
        everyone = [torch.empty_like(mine) for _ in range(2)]
        torch.distributed.all_gather(everyone, mine)
        assert torch.equal(everyone[0], everyone[1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="forking a process that has CUDA open fails")
@pytest.mark.filterwarnings("ignore:.*find_unused_parameters", "ignore:.*fork", "ignore:.*barrier")
@pytest.mark.parametrize(
    "arguments",
    [{"head": "per_au"}, {"head": "per_au", "strategy": "joint"}, {"relation": "learnable"}, {"relation": "none"}],
)
def test_two_processes_draw_the_same_au_and_end_equal(small, data, trainer, arguments):
    data.au[::2, 0] = -1  # rank 0 reads the even rows: it never knows AU01
    strategy = DDPStrategy(start_method="fork", timeout=timedelta(seconds=40), process_group_backend="gloo")
    trainer(devices=2, strategy=strategy, max_epochs=3, callbacks=[RanksAgree()]).fit(
        small(**arguments), datamodule=data
    )
