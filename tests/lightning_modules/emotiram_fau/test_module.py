"""Training of the AU stages, of emotions on them, and what is handed over."""

import copy
import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from lightning_modules.common.backbones import create_backbone
from lightning_modules.common.errors import ModelError
from lightning_modules.common.weights import load_for_evaluation
from lightning_modules.emotiram_fau import EmotiRAMFace, EmotiRAMFAU, HeatmapFAU, MEGraphAU
from lightning_modules.emotiram_fau.losses import edge_loss, weighted_asymmetric_loss
from lightning_modules.emotiram_fau.megraph_network import MEGraph
from lightning_modules.emotiram_fau.released import megraph_keys

pytestmark = pytest.mark.filterwarnings(  # Lightning's own
    "ignore:.*LeafSpec", "ignore:.*does not have many workers", r"ignore:Found .* module\(s\) in eval mode"
)
NAMES = ["Neutral", "Anger", "Happiness", "Surprise"]
SMALL = {"backbone": "resnet10t", "width": 0.125}


def heatmap(aus, **arguments):
    return HeatmapFAU(aus, **{"image_size": 32, **SMALL, **arguments})


def megraph(aus, **arguments):
    return MEGraphAU(aus, **{**SMALL, "neighbors": 2, **arguments})


def emotiram(aus, body, **arguments):
    settings = {"image_size": 32, **SMALL, "hidden": [16], "neighbors": 2, **arguments}
    return EmotiRAMFAU(NAMES, body, list(aus), list(aus), **settings)


def falls(model, batch, steps=25, lr=3e-3):
    """The loss on one batch before and after some steps."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr)
    before = sum(model.losses(batch).values()).item()
    for _ in range(steps):
        optimizer.zero_grad()
        sum(model.losses(batch).values()).backward()
        optimizer.step()
    return before, sum(model.losses(batch).values()).item()


@pytest.fixture
def stages(aus, faces, trainer, tmp_path):
    """Trained stages on AUs: name -> (model in evaluation, checkpoint)."""

    def train(name):
        model = {"heatmap": heatmap, "anfl": megraph, "mefl": megraph}[name](
            aus, lr=1e-2, **({} if name == "heatmap" else {"stage": name})
        )
        fit = trainer()
        fit.fit(model, datamodule=faces)
        path = str(tmp_path / f"{name}.ckpt")
        fit.save_checkpoint(path)
        return model.eval(), path

    return train


class TestHeatmapFAU:
    def test_training_lowers_the_maps_error(self, aus, faces):
        before, after = falls(heatmap(aus), faces.batch(16), lr=3e-2)
        assert after < 0.8 * before

    def test_unknown_intensities_get_no_gradient(self, aus, faces):
        model, batch = heatmap(aus).eval(), faces.batch()
        batch["intensity"][:] = torch.tensor([2, -1, -1, 0])
        model.losses(batch)["heatmap"].backward()
        gradient = model.network.net.final.weight.grad.flatten(1).abs().sum(1)
        assert (gradient > 0).tolist() == [True, True, False, False, False, False, True, True]

    def test_predictions_are_levels_and_heights(self, aus, faces):
        found = heatmap(aus).eval().predictions(faces.batch())
        assert {name: (tuple(value.shape), value.dtype) for name, value in found.items()} == {
            "level": ((8, 4), torch.int64),
            "expected": ((8, 4), torch.float32),
        }

    def test_data_that_teach_nothing_are_refused(self, aus, faces, trainer):
        faces.landmarks[:] = np.nan
        with pytest.raises(ModelError, match="HeatmapFAU learns from landmarks"):
            trainer().fit(heatmap(aus), datamodule=faces)
        faces.landmarks[:] = 5
        faces.au[:] = -1
        with pytest.raises(ModelError, match="learns intensities, and disfa has none"):
            trainer().fit(heatmap(aus), datamodule=faces)

    def test_bad_settings_are_refused(self, provenance, faces, trainer):
        with pytest.raises(ModelError, match=r"no points are known for \[28\]"):
            heatmap([1, 28]).check(None)
        with pytest.raises(ModelError, match="image_size 48") as fault:
            heatmap([1], image_size=48).check(None)
        assert "data.image_size" in fault.value.remedy
        with pytest.raises(ModelError, match="is no ResNet"):
            heatmap([1], backbone="convnext_atto", width=1.0).check(None)
        with pytest.raises(ModelError, match="images of the data have 32 pixels"):
            trainer().fit(heatmap([1, 2, 4, 12], image_size=64), datamodule=faces)

    def test_maps_of_aus_are_taken_by_number(self, aus, stages):
        source, path = stages("heatmap")
        model = heatmap([12, 6, 2], backbone_checkpoint=path)
        weight = model._initial_weights()["net.final.weight"]
        theirs = source.network.net.final.weight
        torch.testing.assert_close(weight[:2], theirs[6:8])
        torch.testing.assert_close(weight[4:], theirs[2:4])
        torch.testing.assert_close(weight[2:4], theirs.unflatten(0, (4, 2)).mean(0))
        assert model.new_aus == [6]

    def test_another_run_scores_the_aus_it_knows(self, aus, faces, stages):
        source, path = stages("heatmap")
        model = heatmap([12, 1])
        load_for_evaluation(model, path)
        batch = faces.batch()
        torch.testing.assert_close(
            model.eval().predictions(batch)["expected"], source.predictions(batch)["expected"][:, [3, 0]]
        )


class TestMEGraphAU:
    @pytest.mark.parametrize("stage", ["anfl", "mefl"])
    def test_training_lowers_the_loss(self, aus, faces, stage):
        before, after = falls(megraph(aus, stage=stage), faces.batch(16))
        assert after < 0.9 * before

    def test_the_losses_are_weighted_by_the_training_labels(self, aus, faces, trainer):
        model = megraph(aus, edge_weight=0.5)
        trainer(limit_train_batches=0, limit_val_batches=0).fit(model, datamodule=faces)
        rates = [(column[column >= 0] == 1).mean() for column in faces.au.T]
        expected = np.array([1 / rate for rate in rates])
        np.testing.assert_allclose(model.au_weight, expected / expected.mean(), rtol=1e-6)
        model.eval()
        batch = faces.batch()
        similarity, edge = model.network(batch["image"], with_edges=True)
        terms = model.losses(batch)
        torch.testing.assert_close(terms["au"], weighted_asymmetric_loss(similarity, batch["au"], model.au_weight))
        torch.testing.assert_close(terms["edge"], 0.5 * edge_loss(edge, batch["au"]))
        assert set(megraph(aus, stage="anfl").losses(batch)) == {"au"}

    def test_an_au_that_training_never_shows_is_refused(self, aus, faces, trainer):
        faces.au[:, 2] = 0
        with pytest.raises(ModelError, match="no AU04"):
            trainer().fit(megraph(aus), datamodule=faces)

    def test_the_second_stage_takes_all_of_the_first_but_its_graph(self, stages, aus, trainer, faces):
        first, path = stages("anfl")
        torch.manual_seed(1)
        model = megraph(aus, backbone_checkpoint=path)
        fresh = copy.deepcopy(model.network.state_dict())
        trainer(limit_train_batches=0, limit_val_batches=0).fit(model, datamodule=faces)
        theirs = first.network.state_dict()
        taken = {name for name, tensor in model.network.state_dict().items() if not torch.equal(tensor, fresh[name])}
        assert {name for name in taken if "num_batches" not in name} <= set(theirs)
        for name, tensor in model.network.state_dict().items():
            if name.startswith(("net.edges.", "net.layers.", "net.edge_classifier.")):
                assert torch.equal(tensor, fresh[name]), name
            else:
                assert torch.equal(tensor, theirs[name]), name
        assert not {name for name in theirs if name.startswith("net.graph.")} & set(model.network.state_dict())

    def test_sources_that_do_not_fit_are_refused(self, stages, aus, provenance):
        _, path = stages("mefl")
        with pytest.raises(ModelError, match="of the stage mefl, which follows anfl"):
            megraph(aus, stage="anfl", backbone_checkpoint=path).check(None)
        with pytest.raises(ModelError, match=r"knows the AUs \[1, 2, 4, 12\], model.aus is \[1, 2, 4\]") as fault:
            megraph([1, 2, 4], backbone_checkpoint=path).check(None)
        assert fault.value.remedy == "set model.aus=[1, 2, 4, 12]"
        with pytest.raises(ModelError, match="neighbors 0"):
            megraph(aus, neighbors=0).check(None)

    def test_the_learning_rate_follows_half_a_cosine_to_nothing(self, aus, faces, trainer):
        model, rates = megraph(aus, lr=0.01), []
        model.on_train_batch_end = lambda *_: rates.append(model.optimizers().param_groups[0]["lr"])
        trainer(max_epochs=2, limit_val_batches=0).fit(model, datamodule=faces)
        assert rates == pytest.approx([0.01 * (1 + math.cos(math.pi * step / 4)) / 2 for step in (1, 2, 3, 4)])


class TestEmotiRAMFAU:
    @pytest.mark.parametrize("body", ["heatmap", "megraph"])
    def test_training_recognises_faces(self, aus, faces, body):
        before, after = falls(emotiram(aus, body), faces.batch(16), steps=40)
        assert after < 0.6 * before

    def test_the_loss_is_over_known_expressions_and_predictions_are_both(self, aus, faces):
        model, batch = emotiram(aus, "megraph").eval(), faces.batch(16)
        assert (batch["expression"] < 0).any()
        _, logit = model.network(batch["image"])
        torch.testing.assert_close(
            model.losses(batch)["expression"], cross_entropy(logit, batch["expression"], ignore_index=-1)
        )
        found = model.predictions(batch)
        torch.testing.assert_close(found["expression_prob"], logit.softmax(1))
        torch.testing.assert_close(found["au_prob"], model.network.body(batch["image"]))
        assert set(emotiram(aus, "heatmap").predictions(batch)) == {"expression_prob", "level", "expected"}

    @pytest.mark.parametrize(("name", "body"), [("heatmap", "heatmap"), ("mefl", "megraph"), ("anfl", "megraph")])
    def test_the_body_comes_from_the_au_stage(self, stages, aus, faces, trainer, provenance, name, body):
        source, path = stages(name)
        stage = {} if name == "heatmap" else {"stage": name}
        model = emotiram(aus, body, backbone_checkpoint=path, frozen=True, **stage)
        model.check(None)
        assert model.initialisation == f"au:{hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]}"
        trainer(limit_val_batches=0).fit(model, datamodule=faces)
        for key, tensor in source.network.state_dict().items():
            assert torch.equal(tensor, model.network.body.state_dict()[key]), key
        batch = faces.batch()
        key = "expected" if name == "heatmap" else "au_prob"
        torch.testing.assert_close(model.eval().predictions(batch)[key], source.predictions(batch)[key])

    def test_fine_tuning_changes_the_body_and_another_run_goes_on_from_all_of_it(
        self, stages, aus, faces, trainer, tmp_path
    ):
        source, path = stages("heatmap")
        model = emotiram(aus, "heatmap", backbone_checkpoint=path, lr=1e-2)
        fit = trainer(limit_val_batches=0)
        fit.fit(model, datamodule=faces)
        weight = model.network.body.net.final.weight
        assert not torch.equal(weight, source.network.net.final.weight)
        fit.save_checkpoint(tmp_path / "emotion.ckpt")
        after = emotiram(aus, "heatmap", backbone_checkpoint=str(tmp_path / "emotion.ckpt"))
        after.check(None)
        assert after.initialisation.startswith("checkpoint:")
        weights = after._initial_weights()
        assert all(torch.equal(weights[name], tensor) for name, tensor in model.network.state_dict().items())

    def test_published_weights_are_a_body_too(self, aus, tmp_path, monkeypatch, provenance):
        net = MEGraph(create_backbone("resnet10t", 0.125), 4, "mefl")
        keys = megraph_keys(net)
        state = {f"module.{keys[name]}": tensor for name, tensor in net.state_dict().items()}
        torch.save({"epoch": 3, "state_dict": state}, tmp_path / "published.pth")
        path = str(tmp_path / "published.pth")
        from lightning_modules.emotiram_fau import released

        small = lambda name: create_backbone("resnet10t", 0.125)  # noqa: E731
        monkeypatch.setattr(released, "create_backbone", small)
        model = emotiram(aus, "megraph", backbone_checkpoint=path)
        model.check(provenance(expressions=NAMES))
        assert model.initialisation.startswith("published au:")
        assert torch.equal(model._initial_weights()["body.net.centres"], net.centres)
        with pytest.raises(ModelError, match=r"knows 4 AUs, model.body_aus is \[1, 2\]"):
            emotiram([1, 2], "megraph", backbone_checkpoint=path).check(None)

    def test_an_au_loss_holds_the_body_to_what_it_was(self, stages, aus, faces, trainer):
        source, path = stages("mefl")
        batch, moved = faces.batch(16), {}
        for weight in (0.0, 300.0):
            torch.manual_seed(0)
            model = emotiram(aus, "megraph", backbone_checkpoint=path, au_loss_weight=weight)
            trainer(limit_train_batches=0, limit_val_batches=0).fit(model, datamodule=faces)
            assert set(model.losses(batch)) == ({"expression", "au"} if weight else {"expression"})
            falls(model, batch)
            moved[weight] = (model.network.body(batch["image"]) - source.network(batch["image"])).square().mean().item()
        assert moved[300.0] < 0.2 * moved[0.0]

    def test_the_teacher_is_the_au_stage_also_in_a_fit_that_goes_on(self, stages, aus, faces, trainer, tmp_path):
        source, path = stages("mefl")
        model = emotiram(aus, "megraph", backbone_checkpoint=path, au_loss_weight=1.0, lr=1e-2)
        fit = trainer(limit_val_batches=0)
        fit.fit(model, datamodule=faces)
        fit.save_checkpoint(tmp_path / "last.ckpt")
        assert not any("teacher" in name for name in model.state_dict())
        again = emotiram(aus, "megraph", backbone_checkpoint=path, au_loss_weight=1.0, lr=1e-2)
        trainer(limit_val_batches=0, max_epochs=2).fit(again, datamodule=faces, ckpt_path=tmp_path / "last.ckpt")
        for name, tensor in again.teacher[0].state_dict().items():
            assert torch.equal(tensor, source.network.state_dict()[name]), name
        batch = faces.batch()
        moved = again.eval().network.body(batch["image"]) - source.network(batch["image"])
        torch.testing.assert_close(again.losses(batch)["au"], moved.square().mean())
        assert moved.abs().max() > 0

    def test_parameters_learn_at_two_rates(self, aus):
        model = emotiram(aus, "heatmap", lr=1e-3, head_lr_factor=5.0)
        rates = {id(p): g.get("lr", 1e-3) for g in model.parameter_groups() for p in g["params"]}
        assert {rates[id(p)] for p in model.network.head.parameters()} == {5e-3}
        assert {rates[id(p)] for p in model.network.body.parameters()} == {1e-3}
        frozen = emotiram(aus, "heatmap", frozen=True)
        assert {id(p) for g in frozen.parameter_groups() for p in g["params"]} == {
            id(p) for p in frozen.network.head.parameters()
        }
        assert frozen.facts()["trained_parameters"] == sum(p.numel() for p in frozen.network.head.parameters())

    def test_sources_and_settings_that_do_not_fit_are_refused(self, stages, aus, provenance):
        _, path = stages("mefl")
        for arguments, message, remedy in (
            ({"body": "heatmap"}, "of MEGraphAU, not of HeatmapFAU", "HeatmapFAU"),
            ({"body": "megraph", "stage": "anfl"}, "of the stage mefl", "model.stage=mefl"),
        ):
            with pytest.raises(ModelError, match=message) as fault:
                emotiram(aus, backbone_checkpoint=path, **arguments).check(None)
            assert remedy in fault.value.remedy
        with pytest.raises(ModelError, match=r"knows the AUs \[1, 2, 4, 12\], model.body_aus is \[1, 2\]"):
            emotiram([1, 2], "megraph", backbone_checkpoint=path).check(None)
        with pytest.raises(ModelError, match="a frozen body forgets nothing"):
            emotiram(aus, "megraph", backbone_checkpoint=path, frozen=True, au_loss_weight=1.0).check(None)
        with pytest.raises(ModelError, match="no AU network to be true to"):
            emotiram(aus, "megraph", au_loss_weight=1.0).check(None)
        with pytest.raises(ModelError, match="body_aus"):
            emotiram([1, 1], "megraph").check(None)
        with pytest.raises(ModelError, match=r"backbone: .* is no ResNet"):
            emotiram(aus, "megraph", backbone="convnext_atto", width=1.0).check(None)
        with pytest.raises(ModelError, match="not the classes of disfa"):
            emotiram(aus, "megraph").check(provenance(expressions=["Neutral", "Smile"]))

    def test_a_source_that_has_seen_the_tested_is_refused(self, aus, faces, trainer, tmp_path, provenance, monkeypatch):
        """CAER-S tests no person of BP4D or DISFA; expressions of another dataset may."""
        model = megraph(aus)
        fit = trainer(limit_val_batches=0)
        fit.fit(model, datamodule=faces)
        fit.save_checkpoint(tmp_path / "au.ckpt")
        emotion = emotiram(aus, "megraph", backbone_checkpoint=str(tmp_path / "au.ckpt"))
        with pytest.raises(ModelError, match="has seen subjects that this run validates or tests on: disfa/S1"):
            emotion.check(provenance(expressions=NAMES, test_persons=["disfa/S1"]))
        with pytest.raises(ModelError, match="trained on crops"):
            emotion.check(provenance(expressions=NAMES, preprocessing="other"))
        emotion.check(provenance(expressions=NAMES))


class TestEmotiRAMFace:
    def test_training_recognises_faces(self, aus, faces):
        before, after = falls(EmotiRAMFace(NAMES, list(aus), width=0.25, dropout=0.0), faces.batch(16))
        assert after < 0.5 * before

    def test_losses_predictions_and_optimiser(self, aus, faces, trainer):
        model, batch = EmotiRAMFace(NAMES, list(aus), width=0.125), faces.batch(16)
        trainer().fit(model, datamodule=faces)
        model.eval()
        logit = model.network(batch["image"])
        torch.testing.assert_close(
            model.losses(batch)["expression"], cross_entropy(logit, batch["expression"], ignore_index=-1)
        )
        torch.testing.assert_close(model.predictions(batch)["expression_prob"], logit.softmax(1))
        assert model.features(batch).shape == (16, 32)
        assert model.optimizers().param_groups[0]["nesterov"]
