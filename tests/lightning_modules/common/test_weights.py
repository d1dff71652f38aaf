import hashlib
from pathlib import Path

import pytest
import torch

from lightning_modules import BaselineAU, RENet
from lightning_modules.common.errors import ModelError
from lightning_modules.common.weights import check_evaluation, check_leakage, load_for_evaluation, map_weights

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers")  # Lightning's own


@pytest.fixture
def source(aus, data, trainer, tmp_path):
    """A trained RENet and its checkpoint."""
    model, fit = RENet(aus, width=0.125, lr=1e-2), trainer()
    fit.fit(model, datamodule=data)
    fit.save_checkpoint(tmp_path / "source.ckpt")
    return model.eval(), str(tmp_path / "source.ckpt")


def test_rows_are_mapped_by_au_number_and_new_ones_are_the_mean():
    own = {"conv": torch.zeros(3), "gamma": torch.zeros(3, 2), "omega": torch.zeros(3, 3)}
    source = {"conv": torch.ones(3), "gamma": torch.tensor([[1.0, 2], [3, 4]]), "omega": torch.ones(2, 2)}
    mapped = map_weights(own, source, [6, 5, 4], [4, 6], {"gamma"}, {"omega"})
    assert mapped["conv"].tolist() == [1, 1, 1]
    assert mapped["gamma"].tolist() == [[3, 4], [2, 3], [1, 2]]
    assert mapped["omega"] is own["omega"]


@pytest.mark.parametrize("source", [{}, {"conv": torch.zeros(2)}, {"conv": torch.zeros(3), "more": torch.zeros(1)}])
def test_differing_names_and_shapes_are_refused(source):
    with pytest.raises(ModelError, match="backbone_checkpoint"):
        map_weights({"conv": torch.zeros(3)}, source, [1], [1], set())


@pytest.mark.parametrize("head", ["shared", "per_au"])
def test_a_run_starts_from_the_rows_of_its_aus(aus, data, trainer, tmp_path, head):
    fit = trainer()
    first = RENet(aus, width=0.125, head=head, lr=1e-2)
    fit.fit(first, datamodule=data)
    fit.save_checkpoint(tmp_path / "source.ckpt")
    data.au = data.au[:, [3, 0, 1]]
    second = RENet([12, 1, 9], width=0.125, head=head, backbone_checkpoint=str(tmp_path / "source.ckpt"), lr=0)
    trainer(limit_train_batches=0).fit(second, datamodule=data)
    norm, source = second.network.norms[5], first.network.norms[5]
    torch.testing.assert_close(norm.weight, torch.stack([source.weight[3], source.weight[0], source.weight.mean(0)]))
    torch.testing.assert_close(norm.running_var[:2], source.running_var[[3, 0]])
    torch.testing.assert_close(second.network.stem.weight, first.network.stem.weight)
    assert torch.equal(second.network.head.weight[0], first.network.head.weight[3 if head == "per_au" else 0])
    assert second.facts()["newly_initialised_aus"] == [9]


def test_initialisation_carries_the_hash_of_the_source(aus, source):
    assert RENet(aus).initialisation == "none"
    assert RENet(aus, pretrained=True).initialisation == "imagenet"
    model = RENet(aus, width=0.125, backbone_checkpoint=source[1])
    model.check(None)
    digest = hashlib.sha256(Path(source[1]).read_bytes()).hexdigest()
    assert model.initialisation == f"checkpoint:{digest[:12]}"


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({}, False),
        ({"test_persons": ["disfa/S2"]}, True),
        ({"val_persons": ["disfa/S3"], "test_persons": []}, False),
        ({"train_persons": ["disfa/S4"], "val_persons": ["disfa/S1"]}, True),
        ({"test_persons": ["synth_facs/S2"]}, False),
    ],
)
def test_a_source_that_saw_held_out_persons_is_refused(provenance, changes, refused):
    checkpoint = {"epoch": 3, "TheirData": provenance(val_persons=[])}
    if refused:
        with pytest.raises(ModelError, match="has seen subjects"):
            check_leakage(checkpoint, provenance(**changes), "x.ckpt")
    else:
        check_leakage(checkpoint, provenance(**changes), "x.ckpt")


def test_stages_of_one_fold_share_their_validation_subjects(provenance):
    check_leakage({"D": provenance()}, provenance(), "x.ckpt")


def test_subjects_that_chose_the_epoch_of_the_source_count_as_seen(provenance):
    source = {"D": provenance(select_on="test")}
    with pytest.raises(ModelError, match="S4"):
        check_leakage(source, provenance(), "x.ckpt")
    check_leakage(source, provenance(select_on="test"), "x.ckpt")


def test_validation_subjects_of_the_source_count_as_seen(provenance):
    with pytest.raises(ModelError, match="S3"):
        check_leakage({"D": provenance()}, provenance(val_persons=[], test_persons=["disfa/S3"]), "x.ckpt")


def test_people_are_told_apart_across_datasets(provenance):
    """BP4D and BP4D+ have names in common; DISFA and DISFA+ have persons in common; a mixture has both."""
    one = provenance(dataset="bp4d", train_persons=["bp4d/F001"], val_persons=[], test_persons=[])
    plus = provenance(dataset="bp4d_plus", train_persons=[], val_persons=[], test_persons=["bp4d_plus/F001"])
    check_leakage({"D": one}, plus, "x.ckpt")
    mixture = provenance(train_persons=["bp4d_plus/F001", "disfa/S1"], val_persons=[], test_persons=[])
    with pytest.raises(ModelError, match="bp4d_plus/F001"):
        check_leakage({"D": mixture}, plus, "x.ckpt")
    check_leakage({"D": mixture}, one, "x.ckpt")


def test_many_leaked_persons_are_counted(provenance):
    everybody = [f"caer_s/train/Anger/{i:04d}" for i in range(500)]
    source = provenance(train_persons=everybody, val_persons=[])
    with pytest.raises(ModelError, match="Anger/0009 and 490 more") as caught:
        check_leakage({"D": source}, provenance(test_persons=everybody), "x.ckpt")
    assert len(str(caught.value)) < 500


def test_a_source_without_provenance_is_refused(provenance):
    with pytest.raises(ModelError, match="whom it has seen"):
        check_leakage({"state_dict": {}}, provenance(), "x.ckpt")


def test_check_refuses_leakage_before_a_trainer_exists(aus, source, provenance):
    model = RENet(aus, width=0.125, backbone_checkpoint=source[1])
    model.check(provenance(val_persons=[]))
    with pytest.raises(ModelError, match="S1"):
        model.check(provenance(test_persons=["disfa/S1"]))


def test_other_crops_are_refused_unless_allowed_and_then_stamped(aus, source, provenance):
    other = provenance(val_persons=[], preprocessing="ba9876543210")
    with pytest.raises(ModelError, match=r"0123456789ab.*ba9876543210") as caught:
        RENet(aus, width=0.125, backbone_checkpoint=source[1]).check(other)
    assert "allow_crop_mismatch" in caught.value.remedy
    with pytest.raises(ModelError, match="trained on crops"):
        check_evaluation(source[1], aus, other)
    check_evaluation(source[1], aus, other, allow_crop_mismatch=True)
    allowed = RENet(aus, width=0.125, backbone_checkpoint=source[1], allow_crop_mismatch=True)
    allowed.check(other)
    assert allowed.initialisation.endswith("(other crop)")


def test_broken_missing_and_foreign_files_are_user_errors(aus, source, tmp_path):
    broken, foreign = tmp_path / "broken.ckpt", tmp_path / "foreign.ckpt"
    broken.write_bytes(b"PK not a checkpoint")
    torch.save({"state_dict": {}}, foreign)
    for path in (tmp_path / "none.ckpt", broken, foreign):
        with pytest.raises(ModelError, match=path.name) as caught:
            RENet(aus, backbone_checkpoint=str(path)).check(None)
        assert caught.value.remedy
    with pytest.raises(ModelError, match="of RENet, not of BaselineAU"):
        BaselineAU(aus, backbone_checkpoint=source[1]).check(None)


def test_a_source_of_another_width_is_refused(aus, source):
    with pytest.raises(ModelError, match=r"there, .* here"):
        RENet(aus, width=0.25, backbone_checkpoint=source[1]).check(None)


def test_evaluation_picks_aus_and_keeps_the_relatives_that_they_are_mixed_from(aus, data, source):
    trained, path = source
    model = RENet([12, 2], width=0.125).eval()
    load_for_evaluation(model, path)
    batch = data.batch()
    with torch.no_grad():
        expected = trained.eval().predictions(batch)["au_prob"][:, [3, 1]]
        torch.testing.assert_close(model.eval().predictions(batch)["au_prob"], expected)
        assert model.features(batch).shape[1] == 2


def test_evaluation_of_unknown_aus_or_another_task_is_refused(source, provenance):
    check_evaluation(source[1], [2, 12], provenance(val_persons=[]))
    with pytest.raises(ModelError, match=r"knows no AU \[9\]") as caught:
        check_evaluation(source[1], [9, 1], provenance(val_persons=[]))
    assert "[1]" in caught.value.remedy
    with pytest.raises(ModelError, match="predicts occurrence"):
        load_for_evaluation(RENet([1], task="intensity"), source[1])
