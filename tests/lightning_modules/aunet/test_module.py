"""The stages as Lightning modules: what they load, refuse, train and leave alone. Tiny networks on spots of light."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader

from lightning_modules import AUNet, FaceAligner, LabelVAE
from lightning_modules.aunet.losses import consistency_loss
from lightning_modules.aunet.network import FAN, decode_landmarks
from lightning_modules.common.backbones import unit_range
from lightning_modules.common.errors import ModelError

pytestmark = pytest.mark.filterwarnings(  # Lightning's own; and FAN is in evaluation mode on purpose
    "ignore:.*LeafSpec", "ignore:.*does not have many workers", "ignore:Found .* in eval mode"
)

TINY: dict[str, Any] = {"width": 1 / 32, "depth": 2}
SLIM = 1 / 8  # of a ResNet: with the 4 channels of 1/16, torch 2.14 corrupts memory in the backward pass on a CPU
SIDE = 64


class Clips(pl.LightningDataModule):
    """Clips of noise with a bright square that says AU01, whose motion says AU12; landmarks around the square."""

    neighbours = 10
    repeated_neighbours = 0.1
    dataset = "disfa"

    def __init__(self, provenance: dict[str, Any], n: int = 12) -> None:
        super().__init__()
        self.provenance, self.coin = provenance, np.random.default_rng(0)
        self.aus = provenance["aus"]
        self.au = self.coin.integers(0, 2, (n, len(self.aus)))
        self.au[:2] = [[0], [1]]
        self.clip = self.coin.integers(0, 60, (n, 3, 3, SIDE, SIDE)).astype(np.uint8)
        self.clip[self.au[:, 0] == 1, :, :, 20:40, 20:40] += 150
        self.clip[self.au[:, -1] == 1, 2, :, 20:40, 20:40] += 40
        self.landmarks = self.coin.uniform(10, SIDE - 10, (n, 68, 2)).astype(np.float32)
        self.names = ["disfa"] * n
        self.rows_train = np.arange(n)

    def samples(self, train: bool = False) -> list[dict[str, Any]]:
        pictures = {"clip": self.clip} if self.neighbours else {"image": self.clip[:, 1]}
        arrays = {**pictures, "au": self.au, "landmarks": self.landmarks}
        return [
            {
                **{key: torch.from_numpy(np.array(value[i])) for key, value in arrays.items()},
                "index": i,
                "dataset": name,
            }
            for i, name in enumerate(self.names)
        ]

    def batch(self, n: int = 12) -> dict[str, Any]:
        return next(iter(DataLoader(self.samples(), n)))

    def train_labels(self, kind: str) -> np.ndarray:
        return self.au

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.samples(), 6)

    val_dataloader = test_dataloader = train_dataloader

    def state_dict(self) -> dict[str, Any]:
        return self.provenance


@pytest.fixture
def clips(provenance) -> Clips:
    return Clips(provenance())


def written(model: pl.LightningModule, path: Path, data: dict[str, Any]) -> str:
    """A checkpoint as Lightning writes it."""
    checkpoint: dict[str, Any] = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(checkpoint)
    torch.save({**checkpoint, "DISFA": data}, path)
    return str(path)


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Maker of checkpoints of the stages before AUNet: (data, class, arguments) -> file."""
    folder, made = tmp_path_factory.mktemp("stages"), []

    def make(data: dict[str, Any], of: type[pl.LightningModule], **arguments: Any) -> str:
        torch.manual_seed(len(made))
        model = of(data["aus"], **(TINY if of is FaceAligner else {}) | arguments)
        if isinstance(model, FaceAligner):  # statistics of a network that has seen something
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.running_var.uniform_(0.5, 2)
        made.append(written(model, folder / f"{len(made)}.ckpt", data))
        return made[-1]

    return make


@pytest.fixture
def small(stages, provenance) -> Callable[..., AUNet]:
    """AUNet on a tiny FAN, with a VAE."""

    def make(**arguments: Any) -> AUNet:
        data = provenance()
        defaults: dict[str, Any] = {"fan_checkpoint": None, "vae_checkpoint": None, **TINY, "lr": 3e-3}
        if "fan_checkpoint" not in arguments and arguments.get("backbone", "fan") == "fan":
            defaults["fan_checkpoint"] = stages(data, FaceAligner)
        if "vae_checkpoint" not in arguments:
            defaults["vae_checkpoint"] = stages(data, LabelVAE, latent=3)
        return AUNet(data["aus"], **defaults | arguments)

    return make


def fitted(model: pl.LightningModule, data: Clips, trainer: Callable[..., pl.Trainer], **arguments: Any) -> Any:
    model.check(data.state_dict())
    fit = trainer(**arguments)
    fit.fit(model, datamodule=data)
    return fit


# --- FaceAligner ------------------------------------------------------------------------------------------------------


def test_an_aligner_finds_the_landmarks_that_it_is_shown(clips, trainer):
    clips.neighbours = 0
    model = FaceAligner(clips.aus, **TINY, lr=1e-2, milestones=[100])
    spots = np.zeros((12, SIDE, SIDE))
    for spot, place in zip(spots, np.linspace(16, 48, 12).astype(int), strict=True):
        spot[place - 3 : place + 4, 29:36] = 250
    clips.clip[:, 1] = spots[:, None]
    clips.landmarks[:] = np.stack([np.full(12, 32.0), np.linspace(16, 48, 12).astype(int)], 1)[:, None]
    fitted(model, clips, trainer, max_epochs=30, log_every_n_steps=1)
    with torch.no_grad():
        predicted = model.eval().predictions(clips.batch())
    error = np.linalg.norm(predicted["landmarks_hat"].numpy() - clips.landmarks, axis=-1).mean()
    assert error < 3  # the spots are up to 16 pixels from their mean place
    assert predicted["confidence"].shape == (12,)
    assert 0.2 < predicted["confidence"].mean() <= 1


def test_statistics_stay_once_the_learning_rate_has_fallen(clips, trainer):
    seen = []

    class Recorder(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            state = pl_module.network.state_dict()
            for mark in ("running_mean", "running_var", "conv1.weight"):
                seen.append(torch.cat([value.flatten() for name, value in state.items() if name.endswith(mark)]))

    model = FaceAligner(clips.aus, **TINY, milestones=[2])
    assert model.settles_at == 2
    fitted(model, clips, trainer, max_epochs=4, callbacks=[Recorder()])
    first, second, third, fourth = zip(*[iter(seen)] * 3, strict=True)
    assert not any(torch.equal(*values) for values in zip(first, second, strict=True))
    assert [torch.equal(*values) for values in zip(second, third, strict=True)] == [True, True, False]
    assert [torch.equal(*values) for values in zip(third, fourth, strict=True)] == [True, True, False]


def test_predicted_landmarks_are_in_pixels_of_the_centre_frame(clips):
    model = FaceAligner(clips.aus, **TINY).eval()
    batch = clips.batch(3)
    with torch.no_grad():
        heatmaps = model.network(batch["clip"][:, 1] / 255).heatmaps
        predicted = model.predictions(batch)
    torch.testing.assert_close(predicted["landmarks_hat"], decode_landmarks(heatmaps)[0], atol=1e-2, rtol=0)
    expected = heatmaps.flatten(2).max(2).values.clamp(0, 1).mean(1)
    torch.testing.assert_close(predicted["confidence"], expected)


def test_an_aligner_without_landmarks_is_refused(clips, trainer):
    clips.landmarks[:] = np.nan
    with pytest.raises(ModelError, match="none of 12 training frames") as fault:
        fitted(FaceAligner(clips.aus, **TINY), clips, trainer)
    assert "--faces detect" in fault.value.remedy
    clips.landmarks[7, 3] = 20  # one point of one frame is something to learn
    fitted(FaceAligner(clips.aus, **TINY), clips, trainer, limit_train_batches=1)


# --- LabelVAE ---------------------------------------------------------------------------------------------------------


def test_a_vae_learns_which_labels_go_together(clips, trainer):
    clips.au = np.tile([[1, 1, 0, 0], [0, 0, 1, 1]], (6, 1))
    model = LabelVAE(clips.aus, latent=4, kld_weight=0.01, lr=2e-2)
    fitted(model, clips, trainer, max_epochs=100)
    predicted = model.eval().predictions(clips.batch())
    np.testing.assert_array_equal(predicted["au_prob"].detach().numpy() >= 0.5, clips.au)
    before = LabelVAE(clips.aus, latent=4).predictions(clips.batch())
    assert predicted["loss"].mean() < before["loss"].mean() / 2


def test_a_frame_with_an_unknown_label_enters_no_encoder(clips):
    model = LabelVAE(clips.aus, latent=2).eval()
    seen = []
    model.network.hidden.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    clips.au[[2, 5], [0, 3]] = -1
    batch = clips.batch()
    predicted = model.predictions(batch)
    model.losses(batch)
    assert [len(labels) for labels in seen] == [10, 10]
    assert all(labels.min() > -0.21 for labels in seen)
    assert predicted["loss"].isnan().nonzero().flatten().tolist() == [2, 5]
    prior = model.network.decode(torch.zeros(1, 2)).sigmoid()
    torch.testing.assert_close(predicted["au_prob"][[2, 5]], prior.expand(2, 4))


def test_a_frames_loss_is_eq_2():
    model = LabelVAE([1, 2], latent=1, kld_weight=0.5).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.network.mean.bias.fill_(2.0)
    loss = model.predictions({"au": torch.tensor([[1, 0]])})["loss"]
    # Two labels at probability 1/2; KL(N(2, 1) | N(0, 1)) = 2.
    assert loss.item() == pytest.approx(2 * np.log(2) + 0.5 * 2)


def test_a_vae_of_labels_never_coded_together_is_refused(clips, trainer):
    clips.au[:6, 0], clips.au[6:, 1] = -1, -1
    with pytest.raises(ModelError, match="known labels of all"):
        fitted(LabelVAE(clips.aus), clips, trainer)
    with pytest.raises(ModelError, match=r"model\.latent"):
        LabelVAE(clips.aus, latent=0).check(None)


# --- AUNet: what is trained -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "variant"),
    [
        ({"temporal": False, "vae_checkpoint": None}, "AU-FAN"),
        ({"temporal": False}, "AU-VAE"),
        ({"consistency_weight": 0.0}, "AU-TDN"),
        ({"fusion": "paper", "differences": "paper"}, "AUNet"),
    ],
)
def test_switches_give_the_papers_variants_and_fan_stays_frozen(small, clips, trainer, arguments, variant):
    model = small(**arguments)
    assert model.variant == variant
    source = torch.load(model.fan_checkpoint, weights_only=True)["state_dict"]
    fit = fitted(model, clips, trainer)
    fan = model.network.extractor.fan
    assert all(torch.equal(value, source[f"network.{name}"]) for name, value in fan.state_dict().items())
    model.train()
    assert not any(module.training for module in model.network.extractor.modules())
    logged = set(fit.callback_metrics)
    assert ("train/loss_consistency" in logged) == ("VAE" in variant or variant == "AUNet")
    predicted = model.eval().predictions(clips.batch())
    assert predicted["au_prob"].shape == (12, 4)
    sees_motion = not torch.equal(
        model.predictions(clips.batch() | {"clip": torch.from_numpy(clips.clip[:, ::-1].copy())})["au_prob"],
        predicted["au_prob"],
    )
    assert sees_motion == ("TDN" in variant or variant == "AUNet")


def test_losses_are_eq_1_and_eq_3(small, clips, trainer):
    model = small(consistency="paper", consistency_weight=2.0)
    fitted(model, clips, trainer, limit_train_batches=0)
    clips.au[4, 2] = -1
    batch = clips.batch()
    model.eval()
    with torch.no_grad():
        terms = model.losses(batch)
        logit = model.network(batch["clip"])[..., 0]
    rate = clips.train_labels("occurrence")
    inverse = 1 / np.array([(column == 1).sum() / (column >= 0).sum() for column in np.where(rate < 0, 0, rate).T])
    weight = model.au_weight.double().numpy()
    assert weight.sum() == pytest.approx(4)
    assert weight[[0, 1, 3]] / weight[0] == pytest.approx(inverse[[0, 1, 3]] / inverse[0])
    known = batch["au"] >= 0
    each = binary_cross_entropy_with_logits(logit, batch["au"].clamp(min=0).float(), reduction="none")
    expected = (each * torch.from_numpy(weight) * known).sum() / known.sum()
    assert terms["au"].item() == pytest.approx(expected.item(), rel=1e-5)
    vae, columns = model.vaes["disfa"]
    assert columns == [0, 1, 2, 3]
    distance = consistency_loss(vae, logit, batch["au"], "paper")
    assert terms["consistency"].item() == pytest.approx(2 * distance.item(), rel=1e-5)


def test_the_vae_is_the_checkpoints_and_stays_so(small, clips, trainer):
    model = small()
    fitted(model, clips, trainer)
    source = torch.load(model.vae_checkpoint, weights_only=True)["state_dict"]
    vae, _ = model.vaes["disfa"]
    assert all(torch.equal(value, source[f"network.{name}"]) for name, value in vae.state_dict().items())
    assert not any(parameter.requires_grad for parameter in vae.parameters())
    assert not any("vae" in name for name in model.state_dict())


def test_a_fit_that_goes_on_has_its_vae_and_its_own_weights(small, clips, trainer, tmp_path):
    first = small()
    fitted(first, clips, trainer).save_checkpoint(tmp_path / "last.ckpt")
    second = small(fan_checkpoint=first.fan_checkpoint, vae_checkpoint=first.vae_checkpoint)
    fit = trainer(max_epochs=1)
    fit.fit(second, datamodule=clips, ckpt_path=tmp_path / "last.ckpt")
    assert set(second.vaes) == {"disfa"}
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in second.state_dict().items())


def test_each_dataset_of_a_mixture_has_a_vae_of_its_own_labels(small, stages, provenance, clips, trainer):
    one = stages(provenance(aus=[1, 12]), LabelVAE, latent=2)
    other = stages(provenance(aus=[1, 2, 4, 12], dataset="bp4d"), LabelVAE, latent=3)
    clips.names[6:] = ["bp4d"] * 6
    clips.au[:6, 1:3] = -1
    clips.au[6, 1:3] = 1
    clips.provenance = provenance(member_aus={"disfa": [1, 12], "bp4d": [1, 2, 4, 12]}, dataset="mixture(disfa+bp4d)")
    model = small(vae_checkpoint={"disfa": one, "bp4d": other})
    fitted(model, clips, trainer, limit_train_batches=0)
    batch = clips.batch()
    batch["au"][8, 3] = -1  # not complete: the second VAE sees five frames
    model.eval()
    with torch.no_grad():
        got = model.losses(batch)["consistency"].item()
        logit = model.network(batch["clip"])[..., 0]
    rows = torch.tensor([6, 7, 9, 10, 11])
    first = consistency_loss(model.vaes["disfa"][0], logit[:6][:, [0, 3]], batch["au"][:6][:, [0, 3]], "paper")
    second = consistency_loss(model.vaes["bp4d"][0], logit[rows], batch["au"][rows], "paper")
    assert got == pytest.approx((6 * first.item() + 5 * second.item()) / 11, rel=1e-4)
    for files in ({"disfa": one}, one, {"disfa": one, "bp4d": other, "affwild2": one}, {"disfa": other, "bp4d": one}):
        with pytest.raises(ModelError, match=r"model\.vae_checkpoint"):
            small(vae_checkpoint=files).check(clips.state_dict())


def test_the_learning_rate_falls_by_0_3_after_epochs_4_and_8(small, clips, trainer):
    class Rates(pl.Callback):
        seen: list[float] = []  # noqa: RUF012

        def on_train_epoch_start(self, fit: pl.Trainer, model: Any) -> None:
            self.seen.append(fit.optimizers[0].param_groups[0]["lr"])

    model = small(temporal=False, lr=1e-4)
    fitted(model, clips, trainer, max_epochs=10, limit_train_batches=1, limit_val_batches=0, callbacks=[Rates()])
    assert Rates.seen == pytest.approx([1e-4] * 4 + [3e-5] * 4 + [9e-6] * 2)
    assert isinstance(model.configure_optimizers()["optimizer"], torch.optim.AdamW)
    trained = {id(p) for group in model.configure_optimizers()["optimizer"].param_groups for p in group["params"]}
    assert trained == {id(p) for p in model.network.head.parameters()}


def test_au_net_learns_from_pictures_and_from_motion(small, clips):
    model = small(vae_checkpoint=None, beta=0.9, lr=2e-2)
    model.network.load_state_dict(model._initial_weights())
    batch = clips.batch()
    optimizer = model.configure_optimizers()["optimizer"]
    model.train()
    losses = []
    for _ in range(40):
        loss = model.losses(batch)["au"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_confidence_is_that_of_the_current_frames_landmarks(small, clips):
    model = small(vae_checkpoint=None).eval()
    fan: FAN = model.network.extractor.fan
    batch = clips.batch(4)
    with torch.no_grad():
        peaks = fan(unit_range(batch["clip"][:, 1])).heatmaps.flatten(2).max(2).values
        torch.testing.assert_close(
            model.predictions(batch)["confidence"], peaks.clamp(0, 1).mean(1), rtol=1e-3, atol=1e-5
        )
        torch.testing.assert_close(
            model.predictions(batch)["au_prob"], model.network(batch["clip"])[..., 0].sigmoid(), rtol=1e-4, atol=1e-6
        )


# --- AUNet: timm backbones --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [True, False])
def test_a_resnet_in_fans_place_stays_frozen_if_asked(small, clips, trainer, frozen):
    model = small(backbone="resnet18", frozen=frozen, width=SLIM, vae_checkpoint=None)
    before = {name: value.clone() for name, value in model.network.extractor.state_dict().items()}
    fitted(model, clips, trainer)
    after = model.network.extractor.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items()) == frozen
    model.train()
    assert model.network.extractor.backbone.bn1.training != frozen
    assert "confidence" not in model.eval().predictions(clips.batch())


def test_maps_of_a_resnet_are_its_stages_at_the_first_ones_resolution(small):
    extractor = small(backbone="resnet18", width=SLIM, vae_checkpoint=None).network.extractor.eval()
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        maps = extractor(image)
        x = extractor.backbone.maxpool(extractor.backbone.act1(extractor.backbone.bn1(extractor.backbone.conv1(
            (image / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
            / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        ))))  # fmt: skip
        parts = []
        for stage in (
            extractor.backbone.layer1,
            extractor.backbone.layer2,
            extractor.backbone.layer3,
            extractor.backbone.layer4,
        ):
            x = stage(x)
            parts.append(x.repeat_interleave(16 // x.shape[-1], 2).repeat_interleave(16 // x.shape[-1], 3))
    torch.testing.assert_close(maps, torch.cat(parts, 1), rtol=1e-3, atol=1e-3)


def test_a_linear_head_is_the_plain_resnet(small):
    model = small(backbone="resnet18", head="linear", temporal=False, frozen=False, width=SLIM, vae_checkpoint=None)
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    model.eval()
    with torch.no_grad():
        pooled = model.network.extractor.backbone(model.network.extractor.normalize(image))
        expected = model.network.head.classifier(pooled)
        torch.testing.assert_close(model.network(image)[..., 0], expected, rtol=1e-4, atol=1e-5)
    full = AUNet([1, 2], backbone="resnet18", head="linear", temporal=False, frozen=False)
    assert sum(p.numel() for p in full.parameters()) == 11_176_512 + 2 * 513  # torchvision's without its classifier


# --- AUNet: where it starts -------------------------------------------------------------------------------------------


def test_a_start_from_another_run_maps_aus_by_number(small, clips, provenance, trainer, tmp_path):
    theirs = provenance(dataset="bp4d", aus=[12, 7, 1], train_persons=["bp4d/F1"], val_persons=[], test_persons=[])
    source = AUNet([12, 7, 1], **TINY)
    file = written(source, tmp_path / "bp4d.ckpt", theirs)
    model = small(backbone_checkpoint=file, fan_checkpoint=None, vae_checkpoint=None)
    fitted(model, clips, trainer, limit_train_batches=0)
    own, other = model.network.state_dict(), source.network.state_dict()
    rows = other["head.classifier.3.weight"]
    expected = torch.stack([rows[2], rows.mean(0), rows.mean(0), rows[0]])
    torch.testing.assert_close(own["head.classifier.3.weight"], expected)
    assert model.new_aus == [2, 4]
    assert all(torch.equal(own[name], other[name]) for name in own if "classifier.3" not in name)
    assert model.initialisation.startswith("checkpoint:")


def test_a_published_fan_is_taken_as_it_is(small, stages, provenance, clips, trainer, tmp_path):
    from lightning_modules.aunet.released import fan_keys

    torch.manual_seed(3)
    fan = FAN(**TINY)
    keys = fan_keys(fan)
    torch.save({keys[name]: value for name, value in fan.state_dict().items()}, tmp_path / "2dfan2.pth")
    model = small(fan_checkpoint=str(tmp_path / "2dfan2.pth"), temporal=False, vae_checkpoint=None)
    fitted(model, clips, trainer)
    assert all(torch.equal(v, model.network.extractor.fan.state_dict()[k]) for k, v in fan.state_dict().items())
    assert model.initialisation.startswith("published fan:")
    assert small().initialisation.startswith("fan:")


# --- AUNet: what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aus": [1, 2, 4]}, "knows the AUs"),
        ({"aus": [2, 1, 4, 12]}, "knows the AUs"),
        ({"fold": 2, "train_persons": ["disfa/S4"]}, "has seen subjects.*S4"),
        ({"dataset": "bp4d", "train_persons": ["bp4d/F1"]}, "labels of bp4d"),
    ],
)
def test_a_vae_of_another_fold_or_au_list_is_refused(small, stages, provenance, change, message):
    file = stages(provenance(**change), LabelVAE)
    with pytest.raises(ModelError, match=message) as fault:
        small(vae_checkpoint=file).check(provenance())
    assert fault.value.remedy


def test_a_file_of_another_stage_is_refused(small, stages, provenance):
    fan, vae = stages(provenance(), FaceAligner), stages(provenance(), LabelVAE)
    for arguments in ({"fan_checkpoint": vae}, {"vae_checkpoint": fan}, {"backbone_checkpoint": vae}):
        with pytest.raises(ModelError, match=r"\.ckpt: of (FaceAligner|LabelVAE), not of"):
            small(**arguments).check(provenance())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pool": "avg"}, r"model\.pool max: .* trained with avg"),
        ({"stacks": 1}, r"model\.stacks 2: .* trained with 1"),
        ({"width": 1 / 16}, r"model\.width"),
    ],
)
def test_a_fan_of_another_architecture_is_refused(small, stages, provenance, arguments, message):
    file = stages(provenance(), FaceAligner, **arguments)
    with pytest.raises(ModelError, match=message):
        small(fan_checkpoint=file).check(provenance())


def test_a_fan_that_has_seen_the_tested_or_other_crops_is_refused(small, stages, provenance):
    leaky = stages(provenance(train_persons=["disfa/S4"]), FaceAligner)
    with pytest.raises(ModelError, match="S4"):
        small(fan_checkpoint=leaky).check(provenance())
    other = stages(provenance(preprocessing="other"), FaceAligner)
    with pytest.raises(ModelError, match="crops other"):
        small(fan_checkpoint=other).check(provenance())
    model = small(fan_checkpoint=other, allow_crop_mismatch=True)
    model.check(provenance())
    assert model.initialisation.endswith("(other crop)")


def test_a_tensor_too_few_is_refused(small, stages, provenance, tmp_path):
    for of, key, argument in ((FaceAligner, "network.conv1.bias", "fan"), (LabelVAE, "network.mean.bias", "vae")):
        checkpoint = torch.load(stages(provenance(), of), weights_only=True)
        del checkpoint["state_dict"][key]
        torch.save(checkpoint, tmp_path / "short.ckpt")
        with pytest.raises(ModelError, match=f"1 tensors differ .* {key.removeprefix('network.')}"):
            small(**{f"{argument}_checkpoint": str(tmp_path / "short.ckpt")}).check(provenance())


@pytest.mark.parametrize(
    ("arguments", "data", "message"),
    [
        ({}, {"neighbours": 0}, "data.neighbours is 0"),
        ({}, {"repeated_neighbours": 1.0}, "no training frame has a neighbour"),
        ({"fan_checkpoint": None}, {}, "does not train its FAN"),
        ({}, {"au": np.tile([1, 0, 1, 1], (12, 1))}, "no AU02"),
    ],
)
def test_what_data_cannot_give_is_refused_before_training(small, clips, trainer, arguments, data, message):
    for name, value in data.items():
        setattr(clips, name, value)
    with pytest.raises(ModelError, match=message) as fault:
        fitted(small(**arguments), clips, trainer)
    assert fault.value.remedy


def test_long_reach_without_temporal_head_is_no_fault(small, clips, trainer):
    clips.repeated_neighbours = 1.0
    fitted(small(temporal=False), clips, trainer, limit_train_batches=1)


@pytest.mark.parametrize(
    "arguments",
    [
        {"head": "linear"},
        {"backbone": "resnet18", "head": "linear", "temporal": True},
        {"pretrained": True},
        {"frozen": False},
        {"backbone": "resnet18", "fan_checkpoint": "some.ckpt"},
        {"backbone": "vit_tiny_patch16_224"},
        {"width": 0.3},
        {"backbone": "resnet19"},
    ],
)
def test_arguments_that_contradict_each_other_are_refused_by_check(small, provenance, arguments):
    model = small(**{"vae_checkpoint": None} | arguments)
    with pytest.raises(ModelError, match=r"model\.") as fault:
        model.check(provenance())
    assert fault.value.remedy
