from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.caer_s import CAERS
from datamodules.facs import EXPRESSIONS

CLASSES = {"Anger": 1, "Fear": 3}
NUMBER = {"train": 10, "test": 9}  # pictures of each class


def pictures(record: Callable[..., Any], **same: int) -> list[Any]:
    """Ten pictures of each class to train, nine to test, all different but for those with a seed in ``same``."""
    return [
        record(f"{folder}/{name}/{i:04d}", "still", 0, {"expression": k}, folder, same.get(f"{folder}_{name}_{i}"))
        for folder, number in NUMBER.items()
        for name, k in CLASSES.items()
        for i in range(1, number + 1)
    ]


@pytest.fixture(scope="module")
def caer_s(store: Callable[..., Path], record: Callable[..., Any]) -> Path:
    return store("caer_s", pictures(record), expressions=EXPRESSIONS)


def counts(names: set[str]) -> Counter[str]:
    return Counter(name.rpartition("/")[0] for name in names)


def test_a_third_of_each_class_of_the_test_folder_validates(
    caer_s: Path, opened: Callable[..., Any], sides: Callable[..., Any]
) -> None:
    data = opened(CAERS, caer_s)
    seen = sides(data)
    assert counts(seen["train"]) == {"train/Anger": 10, "train/Fear": 10}
    assert counts(seen["val"]) == {"test/Anger": 3, "test/Fear": 3}
    assert counts(seen["test"]) == {"test/Anger": 6, "test/Fear": 6}
    assert not seen["val"] & seen["test"]
    assert data.left_out == {}
    assert data.state_dict()["split"] == "70/10/20"
    assert sides(opened(CAERS, caer_s, seed=1)) == seen  # runs of all seeds are tested on the same pictures


def test_all_of_the_test_folder_is_held_out(
    caer_s: Path, opened: Callable[..., Any], sides: Callable[..., Any]
) -> None:
    data = opened(CAERS, caer_s, protocol="train_val", val_subjects=0.2)
    seen = sides(data)
    assert counts(seen["train"]) == {"train/Anger": 8, "train/Fear": 8}
    assert counts(seen["val"]) == {"train/Anger": 2, "train/Fear": 2}
    assert counts(seen["test"]) == {"test/Anger": 9, "test/Fear": 9}
    assert data.state_dict()["split"] == "train_val"
    assert set(opened(CAERS, caer_s, protocol="train_val", val_subjects=0.2, seed=1).subjects_val) != seen["val"]


@pytest.mark.parametrize(("protocol", "trained"), [("70/10/20", 26), ("train_val", 20)])
def test_without_validation_its_pictures_train(
    caer_s: Path, opened: Callable[..., Any], protocol: str, trained: int
) -> None:
    """What a refit does: everything trains that is not tested. In 70/10/20 the third is not needed apart then."""
    data = opened(CAERS, caer_s, protocol=protocol, val_subjects=0)
    assert data.subjects_val == []
    assert len(data.subjects_train) == trained


def test_identical_pictures_are_on_one_side(
    store: Callable[..., Path], record: Callable[..., Any], opened: Callable[..., Any]
) -> None:
    """Three of train are one test picture; all of test/Fear are one picture; two of train are alike."""
    same = {"test_Anger_1": 1, "train_Anger_1": 1, "train_Fear_2": 1, "train_Fear_3": 1}
    same |= {f"test_Fear_{i}": 2 for i in range(1, 10)} | {"train_Anger_8": 3, "train_Anger_9": 3}
    root = store("caer_s", pictures(record, **same), expressions=EXPRESSIONS)
    for seed in range(4):
        data = opened(CAERS, root, seed=seed)
        gone = {"train/Anger/0001", "train/Fear/0002", "train/Fear/0003"}
        assert not gone & {*data.subjects_train, *data.subjects_val}
        assert {"train/Anger/0008", "train/Anger/0009"} <= set(data.subjects_train)
        assert counts(data.subjects_val) == {"test/Anger": 3}
        assert counts(data.subjects_test) == {"test/Anger": 6, "test/Fear": 6}
        assert len(data.subjects_train) == 17
        where = "validation ones" if "test/Anger/0001" in data.subjects_val else "held-out ones"
        of = {reason.rpartition("identical to ")[2]: n for reason, n in data.left_out.items()}
        assert sum(of.values()) == 6
        assert of[where] >= 3
        digests = {
            side: set(data.store.digest[rows].tolist())
            for side, rows in (("train", data.rows_train), ("val", data.rows_val), ("test", data.rows_test))
        }
        assert sum(map(len, digests.values())) == len(set.union(*digests.values()))
