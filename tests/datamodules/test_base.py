from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.disfa import DISFA
from datamodules.errors import DataError
from datamodules.store_module import missing_neighbours

PARTS = {1: {"SN002", "SN010"}, 2: {"SN013", "SN018", "SN011"}, 3: {"SN003", "SN029"}}


def module(root: Path, fold: int = 1, **settings: Any) -> DISFA:
    settings = {"image_size": 32, "batch_size": 4, "num_workers": 0, "val_subjects": 1, "aus": [1, 2, 4]} | settings
    data = DISFA(str(root), fold, **settings)
    data.check()
    data.setup()
    return data


@pytest.mark.parametrize("fold", [0, 1, 2, 3])
def test_nobody_is_on_two_sides(tiny_disfa: Path, fold: int) -> None:
    data = module(tiny_disfa, fold)
    train, val, test = set(data.subjects_train), set(data.subjects_val), set(data.subjects_test)
    assert test == PARTS.get(fold, set())
    assert len(val) == 1
    assert train | val | test == set.union(*PARTS.values())
    assert len(train) + len(val) + len(test) == 7
    loaders = {"train": data.train_dataloader(), "val": data.val_dataloader(), "test": data.test_dataloader()}
    seen = {name: {s for batch in loader for s in batch["subject"]} for name, loader in loaders.items()}
    assert seen == {"train": train, "val": val, "test": test}


def test_the_batch_contract(tiny_disfa: Path) -> None:
    data = module(tiny_disfa, fold=3)
    batch = next(iter(data.test_dataloader()))
    b = len(batch["index"])
    expected = {
        "image": ((b, 3, 32, 32), torch.uint8),
        "landmarks": ((b, 68, 2), torch.float32),
        "au": ((b, 3), torch.int64),
        "intensity": ((b, 3), torch.int64),
        "index": ((b,), torch.int64),
        "frame": ((b,), torch.int64),
        "occluded": ((b,), torch.int64),
    }
    assert {k: (tuple(v.shape), v.dtype) for k, v in batch.items() if torch.is_tensor(v)} == expected
    assert set(batch) - set(expected) == {"dataset", "subject", "sequence"}
    assert torch.isnan(batch["landmarks"][:, 60]).all()
    assert batch["dataset"] == ["disfa"] * b
    assert batch["sequence"] == ["left"] * b


@pytest.mark.parametrize(("threshold", "positive"), [(1, [0, 1, 1, 1, 1, 1, 0]), (2, [0, 0, 1, 1, 1, 1, 0])])
def test_occurrence_comes_from_the_threshold(tiny_disfa: Path, threshold: int, positive: list[int]) -> None:
    data = module(tiny_disfa, fold=0, val_subjects=0, label_threshold=threshold)
    labels = {}
    for batch in data.predict_dataloader():
        for subject, frame, au in zip(batch["subject"], batch["frame"].tolist(), batch["au"].tolist(), strict=True):
            labels[subject, frame] = au
    by_subject = dict(zip(("SN002", "SN010", "SN013", "SN018", "SN011", "SN003", "SN029"), positive, strict=True))
    for (subject, frame), (au01, au02, au04) in labels.items():
        assert au01 == (by_subject[subject] if frame % 2 == 0 else 0), (subject, frame)
        assert au02 == -1
        assert au04 == (threshold <= 1)


def test_a_frame_without_an_image_is_counted_and_left_out(tiny_disfa: Path) -> None:
    data = module(tiny_disfa, fold=3)
    assert data.unreadable == 1
    seen = [(s, f) for b in data.test_dataloader() for s, f in zip(b["subject"], b["frame"].tolist(), strict=True)]
    assert len(seen) == 11
    assert ("SN003", 0) not in seen


def test_statistics_are_those_of_the_training_part(tiny_disfa: Path) -> None:
    data = module(tiny_disfa, fold=1)
    labels = data.train_labels("intensity")
    number = {"SN002": 0, "SN010": 1, "SN013": 2, "SN018": 3, "SN011": 4, "SN003": 5, "SN029": 0}
    frames = {s: [f for f in range(6) if (s, f) != ("SN003", 0)] for s in data.subjects_train}
    expected = sorted(number[s] * (f % 2 == 0) for s in data.subjects_train for f in frames[s])
    assert sorted(labels[:, 0].tolist()) == expected
    held_out = data.rows_test
    data.labels["au"][held_out] = 1 - data.labels["au"][held_out]
    data.labels["intensity"][held_out] = 5
    assert sorted(data.train_labels("intensity")[:, 0].tolist()) == expected


def test_selecting_on_the_test_is_stamped(tiny_disfa: Path) -> None:
    data = module(tiny_disfa, fold=2, select_on="test")
    assert {s for b in data.val_dataloader() for s in b["subject"]} == set(data.subjects_val)
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"), global_rank=0, world_size=1)
    assert {s for b in data.val_dataloader() for s in b["subject"]} == PARTS[2]
    assert data.state_dict()["select_on"] == "test"


def test_duplicates_and_stride(tiny_disfa: Path) -> None:
    plain = module(tiny_disfa, fold=1, label_threshold=1)
    double = module(tiny_disfa, fold=1, label_threshold=1, duplicate_aus=[1])
    positive = (plain.train_labels("occurrence")[:, 0] == 1).sum()
    assert len(double.rows_train) == len(plain.rows_train) + positive
    assert len(double.rows_val) == len(plain.rows_val)
    strided = module(tiny_disfa, fold=1, train_stride=3)
    assert {int(f) for f in strided.store.frame[strided.rows_train]} == {0, 3}
    assert len(strided.rows_test) == len(plain.rows_test)


def test_augmentation_differs_between_epochs_and_workers_change_nothing(tiny_disfa: Path) -> None:
    def epoch(workers: int, number: int) -> dict[int, bytes]:
        loader = module(tiny_disfa, num_workers=workers, image_size=48).train_dataloader()
        loader.sampler.set_epoch(number)
        return {int(i): im.numpy().tobytes() for b in loader for i, im in zip(b["index"], b["image"], strict=True)}

    first, second = epoch(0, 0), epoch(0, 1)
    common = first.keys() & second.keys()
    assert sum(first[i] != second[i] for i in common) > len(common) / 2
    assert epoch(2, 1) == second


def test_calibration_is_seeded_and_plain(tiny_disfa: Path) -> None:
    data = module(tiny_disfa)
    first = [batch["index"] for batch in data.calibration_dataloader()]
    again = [batch["index"] for batch in module(tiny_disfa).calibration_dataloader()]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert sorted(torch.cat(first).tolist()) == sorted(data.rows_train.tolist())
    assert torch.cat(first).tolist() != sorted(data.rows_train.tolist())


def test_a_share_of_the_subjects_validates(tiny_disfa: Path) -> None:
    assert len(module(tiny_disfa, 0, val_subjects=0.3).subjects_val) == 2  # of seven
    assert len(module(tiny_disfa, 0, val_subjects=0.01).subjects_val) == 1


def test_clips_and_the_share_of_neighbours_that_are_missing(tiny_disfa: Path) -> None:
    """Six frames a subject: 0 and 5 lack a neighbour. SN003 has no picture of frame 0: 1 and 5 of its five do."""
    data = module(tiny_disfa, 1, neighbours=1, val_subjects=0)
    assert data.repeated_neighbours == pytest.approx((4 * 2 + 2) / (4 * 12 + 10))
    batch = next(iter(data.test_dataloader()))
    assert (batch["clip"].shape, batch["clip"].dtype) == ((4, 3, 3, 32, 32), torch.uint8)
    assert "image" not in batch
    first, second = batch["clip"][:2]
    assert torch.equal(first[0], first[1])  # frame 0 repeats itself
    assert torch.equal(first[2], second[1])
    far = module(tiny_disfa, 1, neighbours=9)
    assert far.repeated_neighbours == 1.0
    assert module(tiny_disfa).repeated_neighbours is None


def test_frames_of_another_sequence_are_no_neighbours() -> None:
    """Sequences end at 4 and begin at 5, as if they went on; rows 0 and 1 are one frame apart, 1 and 2 two."""
    store = SimpleNamespace(
        clip_code=np.array([0, 0, 0, 1, 2]),
        frame=np.array([1, 2, 4, 5, 6]),
        length=np.array([9, 9, 9, 9, 0]),
    )
    missing = [missing_neighbours(store, np.array([row]), 1) for row in range(5)]
    assert missing == [0.5, 0.5, 1, 1, 1]
    assert missing_neighbours(store, np.array([0, 2]), 3) == 0.5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fold": 4}, "data.fold=4"),
        ({"aus": [1, 1]}, "data.aus"),
        ({"aus": [1, 7]}, "AU07"),
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"val_subjects": -1}, "data.val_subjects=-1"),
        ({"fold": 0, "select_on": "test"}, "select_on=test"),
        ({"val_subjects": 5}, "val_subjects=5"),
        ({"duplicate_aus": [12]}, "duplicate_aus"),
        ({"aus": []}, "data.aus"),
        ({"neighbours": -1}, "data.neighbours=-1"),
        ({"augment": "aunet"}, "preset renet"),
        ({"root": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_work_is_refused(tiny_disfa: Path, settings: dict[str, Any], words: str) -> None:
    root = settings.pop("root", tiny_disfa)
    with pytest.raises(DataError, match=words) as refused:
        module(root, **settings)
    assert refused.value.remedy


def test_a_checkpoint_of_another_fold_is_refused(tiny_disfa: Path) -> None:
    one, two = module(tiny_disfa, fold=1), module(tiny_disfa, fold=2)
    one.load_state_dict(one.state_dict())
    with pytest.raises(DataError, match="fold=1"):
        two.load_state_dict(one.state_dict())


def test_the_state_is_plain(tiny_disfa: Path, tmp_path: Path) -> None:
    state = module(tiny_disfa).state_dict()
    torch.save(state, tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == state
    assert state["camera"] == "left"
    assert state["label_threshold"] == 2
    assert state["split"] == "3fold"
    assert state["test_persons"] == ["disfa/SN002", "disfa/SN010"]
    assert len(state["train_persons"]) + len(state["val_persons"]) == 5


def test_expressions_that_nobody_labelled_are_not_balanced(tiny_disfa: Path) -> None:
    with pytest.raises(DataError, match="disfa has no expressions"):
        module(tiny_disfa, balanced_expressions=True)
    assert module(tiny_disfa).expressions_without_val_frames == []
