"""Training of both stages, and what is handed from one to the other."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from lightning_modules import BaselineAU, ExpressionClassifier, TransferAU
from lightning_modules.common.errors import ModelError
from lightning_modules.common.weights import load_for_evaluation

pytestmark = pytest.mark.filterwarnings(  # Lightning's own
    "ignore:.*LeafSpec", "ignore:.*does not have many workers", r"ignore:Found .* module\(s\) in eval mode"
)
NAMES = ["Neutral", "Smile", "Surprise", "Scream"]
SMALL = {"backbone": "resnet10t", "width": 0.25}  # narrower ones meet a fault of torch 2.14 on CPUs


def small(aus, **arguments):
    return TransferAU(aus, **{**SMALL, "hidden": [16, 8], **arguments})


@pytest.fixture
def expression(aus, data, trainer, tmp_path):
    """A trained ExpressionClassifier and its checkpoint."""
    model, fit = ExpressionClassifier(NAMES, aus, **SMALL, lr=1e-2), trainer()
    fit.fit(model, datamodule=data)
    fit.save_checkpoint(tmp_path / "expression.ckpt")
    return model.eval(), str(tmp_path / "expression.ckpt")


class TestExpressionClassifier:
    def test_the_loss_is_torchs_over_the_known_frames(self, aus, data):
        model, batch = ExpressionClassifier(NAMES, aus, **SMALL).eval(), data.batch(16)
        logit, label = model.network(batch["image"]), batch["expression"]
        assert (label < 0).any()
        torch.testing.assert_close(model.losses(batch)["expression"], cross_entropy(logit, label, ignore_index=-1))
        torch.testing.assert_close(model.predictions(batch)["expression_prob"], logit.softmax(1))

    def test_classes_weigh_the_same_if_asked(self, aus, data, trainer):
        model = ExpressionClassifier(NAMES, aus, **SMALL, weigh_classes=True)
        trainer(limit_train_batches=0, limit_val_batches=0).fit(model, datamodule=data)
        counts = np.bincount(data.expression[data.expression >= 0], minlength=4)
        weight = torch.tensor(counts.sum() / 4 / counts, dtype=torch.float32)
        torch.testing.assert_close(model.class_weight, weight)
        model.eval()
        batch = data.batch(16)
        expected = cross_entropy(model.network(batch["image"]), batch["expression"], weight, ignore_index=-1)
        torch.testing.assert_close(model.losses(batch)["expression"], expected)

    def test_training_recognises_faces(self, aus, data):
        model = ExpressionClassifier(NAMES, aus, **SMALL, lr=3e-3)
        batch, optimizer = data.batch(16), model.configure_optimizers()
        before = model.losses(batch)["expression"].item()
        for _ in range(20):
            optimizer.zero_grad()
            model.losses(batch)["expression"].backward()
            optimizer.step()
        assert model.losses(batch)["expression"].item() < 0.5 * before

    def test_a_class_that_no_training_frame_shows_is_named(self, aus, data, trainer):
        data.expression[data.expression == 3] = -1
        model = ExpressionClassifier(NAMES, aus, **SMALL, weigh_classes=True)
        with pytest.warns(UserWarning, match="no training frame shows Scream"):
            trainer(limit_train_batches=1).fit(model, datamodule=data)
        facts = model.facts()
        assert facts["never_shown"] == ["Scream"]
        assert facts["class_weight"]["Scream"] == 0
        assert np.isfinite(list(facts["class_weight"].values())).all()
        data.expression[:] = -1
        with pytest.raises(ModelError, match="no training frame has a known expression"):
            trainer().fit(ExpressionClassifier(NAMES, aus, **SMALL), datamodule=data)

    @pytest.mark.parametrize("names", [[], ["Neutral"], ["Neutral", "Smile", "Smile"]])
    def test_class_lists_that_are_none_are_refused(self, names):
        with pytest.raises(ModelError, match=r"model\.expressions"):
            ExpressionClassifier(names, **SMALL).check(None)

    def test_class_lists_without_a_class_of_the_data_are_refused(self, provenance):
        model = ExpressionClassifier(NAMES[:3], **SMALL)
        with pytest.raises(ModelError, match="are not the classes") as fault:
            model.check(provenance(aus=[], expressions=NAMES))
        assert fault.value.remedy == "set model.expressions=[Neutral, Smile, Surprise, Scream]"

    def test_it_starts_from_another_of_the_same_classes(self, expression):
        source, path = expression
        model = ExpressionClassifier(NAMES, **SMALL, backbone_checkpoint=path)
        model.check(None)
        model.network.load_state_dict(model._initial_weights())
        torch.testing.assert_close(model.network.state_dict(), source.network.state_dict())
        for names in (NAMES[::-1], NAMES[:3]):
            with pytest.raises(ModelError, match="knows Neutral, Smile, Surprise, Scream, not"):
                ExpressionClassifier(names, **SMALL, backbone_checkpoint=path).check(None)


class TestTransferAU:
    def test_the_backbone_and_nothing_else_comes_from_the_expressions(self, aus, data, trainer, expression):
        source, path = expression
        model = small(aus, backbone_checkpoint=path)
        drawn = {name: value.clone() for name, value in model.network.state_dict().items()}
        trainer(limit_train_batches=0, limit_val_batches=0).fit(model, datamodule=data)
        theirs = source.network.state_dict()
        for name, value in model.network.state_dict().items():
            assert torch.equal(value, (theirs if name.startswith("backbone.") else drawn)[name]), name
        assert any(not torch.equal(drawn[name], theirs[name]) for name in theirs if name.startswith("backbone."))

    def test_initialisation_says_what_the_expressions_started_from(self, aus, expression, provenance):
        digest = hashlib.sha256(Path(expression[1]).read_bytes()).hexdigest()[:12]
        model = small(aus, backbone_checkpoint=expression[1])
        model.check(provenance())
        assert model.initialisation == f"expression:{digest} (from none)"
        assert small(aus).initialisation == "none"
        assert small(aus, pretrained=True).initialisation == "imagenet"

    def test_other_backbones_are_refused_by_their_tensors(self, aus, expression):
        with pytest.raises(ModelError, match=r"tensors differ, as backbone\."):
            small(aus, backbone="resnet18", backbone_checkpoint=expression[1]).check(None)
        with pytest.raises(ModelError, match=r"backbone\.conv1\.0\.weight is .* there, .* here"):
            small(aus, width=0.5, backbone_checkpoint=expression[1]).check(None)

    def test_people_who_taught_expressions_are_not_tested(self, aus, expression, provenance):
        model = small(aus, backbone_checkpoint=expression[1])
        with pytest.raises(ModelError, match="has seen subjects"):
            model.check(provenance(test_persons=["disfa/S1"]))
        with pytest.raises(ModelError, match="trained on crops"):
            model.check(provenance(preprocessing="ba9876543210"))

    def test_only_expressions_or_itself_are_a_source(self, aus, data, trainer, tmp_path):
        path = str(tmp_path / "source.ckpt")
        fit = trainer(limit_train_batches=0, limit_val_batches=0)
        fit.fit(BaselineAU(aus, **SMALL), datamodule=data)
        fit.save_checkpoint(path)
        with pytest.raises(ModelError, match="of BaselineAU, not of ExpressionClassifier"):
            small(aus, backbone_checkpoint=path).check(None)
        first, fit = small(aus), trainer(limit_train_batches=0, limit_val_batches=0)
        fit.fit(first, datamodule=data)
        fit.save_checkpoint(path)
        second = small([12, 9], backbone_checkpoint=path)
        second.check(None)
        mapped, weight = second._initial_weights(), first.network.head.weight
        torch.testing.assert_close(mapped["head.weight"], torch.stack([weight[3], weight.mean(0)]))
        assert second.initialisation.startswith("checkpoint:")
        load_for_evaluation(other := small([12, 2]), path)
        image = data.batch()["image"]
        prob = first.eval().predictions({"image": image})["au_prob"][:, [3, 1]]
        torch.testing.assert_close(other.eval().predictions({"image": image})["au_prob"], prob)

    def test_the_head_learns_ten_times_as_fast(self, aus):
        model = small(aus, lr=1e-3, weight_decay=0.1)
        optimizer = model.configure_optimizers()
        rate = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
        network = model.network
        assert rate.keys() == {id(parameter) for parameter in model.parameters()}
        assert {rate[id(p)][0] for p in network.backbone.parameters()} == {1e-3}
        assert {rate[id(p)][0] for p in [*network.hidden.parameters(), *network.head.parameters()]} == {1e-2}
        assert rate[id(network.hidden[0][0].weight)][1] == 0.1
        assert rate[id(network.hidden[0][0].bias)][1] == 0

    def test_a_frozen_backbone_is_left_out_of_the_optimiser_and_unchanged(self, aus, data, trainer):
        model = small(aus, frozen=True, lr=1e-2)
        before = {name: value.clone() for name, value in model.network.state_dict().items()}
        trainer(max_epochs=2).fit(model, datamodule=data)
        changed = {name for name, value in model.network.state_dict().items() if not torch.equal(before[name], value)}
        assert changed == {name for name in before if name.startswith(("hidden.", "head."))}
        assert model.facts()["trained_parameters"] == sum(before[name].numel() for name in changed)

    def test_positives_weigh_as_negatives_if_asked(self, aus, data, trainer):
        model = small(aus, weigh_positives=True)
        trainer(limit_train_batches=0, limit_val_batches=0).fit(model, datamodule=data)
        weight = torch.tensor((data.au == 0).sum(0) / (data.au == 1).sum(0), dtype=torch.float32)
        torch.testing.assert_close(model.positive_weight, weight)
        batch, model = data.batch(16), model.eval()
        logit, label = model.network(batch["image"])[..., 0], batch["au"]
        raw = binary_cross_entropy_with_logits(logit, label.float(), pos_weight=weight, reduction="none")
        torch.testing.assert_close(model.losses(batch)["au"], raw[label >= 0].mean())
        plain = small(aus).eval()
        plain.network.load_state_dict(model.network.state_dict())
        raw = binary_cross_entropy_with_logits(logit, label.float(), reduction="none")
        torch.testing.assert_close(plain.losses(batch)["au"], raw[label >= 0].mean())

    def test_training_recognises_faces(self, aus, data):
        model = small(aus, lr=1e-3, dropout=0.0)
        batch, optimizer = data.batch(8), model.configure_optimizers()
        before = model.losses(batch)["au"].item()
        for _ in range(30):
            optimizer.zero_grad()
            model.losses(batch)["au"].backward()
            optimizer.step()
        assert model.losses(batch)["au"].item() < 0.5 * before

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"lr": 0.0}, r"model\.lr=0\.0: the perceptron would not learn"),
            ({"head_lr_factor": 0.0, "frozen": True}, r"model\.head_lr_factor=0\.0: the perceptron would not learn"),
            ({"lr": float("nan")}, r"model\.lr=nan"),
            ({"hidden": [16, 0]}, r"model\.hidden=\[16, 0\]"),
            ({"dropout": 1.0}, r"model\.dropout=1\.0"),
            ({"backbone": "resnet51"}, "resnet51"),
        ],
    )
    def test_what_could_learn_nothing_is_refused_at_the_check(self, aus, arguments, said):
        model = small(aus, **arguments)
        with pytest.raises(ModelError, match=said) as fault:
            model.check(None)
        assert fault.value.remedy
