import pytest
import torch

from lightning_modules import BaselineAU
from lightning_modules.common.errors import ModelError

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers")  # Lightning's own


def test_the_resnet_is_timms_with_a_linear_layer_per_au(aus, data):
    model = BaselineAU(aus, width=0.125).eval()
    batch = data.batch()
    feature = model.network.backbone(model.network.normalize(batch["image"]))
    expected = (feature @ model.network.head.weight[:, :, 0].T + model.network.head.bias[:, 0]).sigmoid()
    torch.testing.assert_close(model.predictions(batch)["au_prob"], expected)
    torch.testing.assert_close(model.features(batch), feature[:, None])


@pytest.mark.parametrize("task", ["occurrence", "intensity"])
def test_training_recognises_eight_faces(aus, data, task):
    model = BaselineAU(aus, width=0.125, task=task, lr=3e-3)
    batch, optimizer = data.batch(8), model.configure_optimizers()
    before = model.losses(batch)["au"].item()
    for _ in range(20):
        optimizer.zero_grad()
        model.losses(batch)["au"].backward()
        optimizer.step()
    assert model.losses(batch)["au"].item() < 0.5 * before


def test_a_fit_starts_from_the_file_given(aus, data, trainer, tmp_path):
    source = BaselineAU(aus, backbone="resnet10t").network.backbone
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    model = BaselineAU(aus, backbone="resnet10t", pretrained=str(tmp_path / "weights.pth"))
    assert model.initialisation.startswith("weights:")
    stem = model.network.backbone.conv1[0].weight
    assert not torch.equal(stem, source.conv1[0].weight)  # nothing is read before a fit
    trainer(limit_train_batches=0, limit_val_batches=0).fit(model, datamodule=data)
    torch.testing.assert_close(stem, source.conv1[0].weight)


def test_heads_are_handed_over_by_au_number(aus, data, trainer, tmp_path):
    first, fit = BaselineAU(aus, width=0.125), trainer()
    fit.fit(first, datamodule=data)
    fit.save_checkpoint(tmp_path / "source.ckpt")
    second = BaselineAU([12, 9], width=0.125, backbone_checkpoint=str(tmp_path / "source.ckpt"))
    data.au = data.au[:, :2]
    trainer(limit_train_batches=0, limit_val_batches=0).fit(second, datamodule=data)
    weight = first.network.head.weight
    torch.testing.assert_close(second.network.head.weight, torch.stack([weight[3], weight.mean(0)]))
    torch.testing.assert_close(second.network.backbone.state_dict(), first.network.backbone.state_dict())


def test_missing_weights_are_a_user_error_at_the_check(aus):
    model = BaselineAU(aus, pretrained="nowhere.pth")
    with pytest.raises(ModelError, match=r"nowhere\.pth"):
        model.check(None)


def test_any_timm_model_serves(aus, data):
    model = BaselineAU(aus, backbone="mobilenetv3_small_050")
    model.check(None)
    assert model.eval().predictions(data.batch())["au_prob"].shape == (8, 4)
