import pytest

from datamodules.synth_facs import SynthFACS

ROOT = "synth:synth_facs?subjects=7&frames=2&size=64&stride=60&rates=balanced"


@pytest.mark.parametrize(("fold", "held_out"), [(1, ["S0001", "S0004", "S0007"]), (3, ["S0003", "S0006"]), (0, [])])
def test_every_third_subject_is_held_out(fold: int, held_out: list[str]) -> None:
    data = SynthFACS(ROOT, fold, aus=[6, 14], image_size=32, val_subjects=1, num_workers=0, batch_size=4)
    data.check()
    data.prepare_data()
    data.setup()
    assert data.subjects_test == held_out
    assert len(data.subjects_train) + 1 + len(held_out) == 7
    assert len(data.rows_test) == 2 * len(held_out)
    batch = next(iter(data.val_dataloader()))
    assert set(batch["au"].flatten().tolist()) <= {0, 1}
    assert batch["landmarks"].isfinite().all()


def test_as_many_folds_as_asked() -> None:
    data = SynthFACS(ROOT, 5, aus=[6], n_folds=5, val_subjects=1, num_workers=0)
    data.check()
    data.setup()
    assert data.subjects_test == ["S0005"]
