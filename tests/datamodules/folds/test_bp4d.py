from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.bp4d import BP4D
from datamodules.bp4d_plus import BP4DPlus
from datamodules.errors import DataError
from datamodules.facs import BP4D_5, BP4D_12

# One or two of each part, of either sex, odd and even.
PARTS = {1: {"F001", "M004"}, 2: {"F003", "M010"}, 3: {"F004", "M003"}}
LABELS = {f"AU{au:02d}": 0 for au in BP4D_12} | {f"AU{au:02d}_intensity": 0 for au in BP4D_5}


@pytest.fixture(scope="module")
def bp4d(store: Callable[..., Path], record: Callable[..., Any]) -> Path:
    """Two frames a subject; in the first AU06 is coded 9 for occurrence and 3 for intensity, AU12 1 and 2."""
    first = LABELS | {"AU06": -1, "AU06_intensity": 3, "AU12": 1, "AU12_intensity": 2}
    subjects = sorted(set.union(*PARTS.values()))
    return store(
        "bp4d", [record(s, "T1", frame, first if frame == 7 else LABELS) for s in subjects for frame in (7, 8)]
    )


@pytest.mark.parametrize("fold", [0, 1, 2, 3])
def test_fold_k_holds_out_part_k(bp4d: Path, opened: Callable[..., Any], sides: Callable[..., Any], fold: int) -> None:
    data = opened(BP4D, bp4d, fold)
    seen = sides(data)
    assert seen["test"] == set(data.subjects_test) == PARTS.get(fold, set())
    assert len(seen["val"]) == 1
    assert seen["train"] | seen["val"] | seen["test"] == set.union(*PARTS.values())
    assert sum(map(len, seen.values())) == 6
    assert data.state_dict()["split"] == "3fold"


def test_fera2015_trains_on_odd_numbers_and_tests_on_even_ones(bp4d: Path, opened: Callable[..., Any]) -> None:
    data = opened(BP4D, bp4d, split="fera2015")
    assert data.subjects_test == ["F004", "M004", "M010"]
    assert sorted(data.subjects_train + data.subjects_val) == ["F001", "F003", "M003"]
    assert (data.n_folds, data.state_dict()["split"]) == (1, "fera2015")
    with pytest.raises(DataError, match="fold 1 alone") as refused:
        opened(BP4D, bp4d, 2, split="fera2015")
    assert "--fold 1," in refused.value.remedy


def test_occurrence_is_the_coders_and_not_made_of_intensity(bp4d: Path, opened: Callable[..., Any]) -> None:
    data = opened(BP4D, bp4d, aus=[6, 12, 23], label_threshold=5)
    au, level = data.train_labels("occurrence"), data.train_labels("intensity")
    assert {tuple(row) for row in au.tolist()} == {(-1, 1, 0), (0, 0, 0)}
    assert {tuple(row) for row in level.tolist()} == {(3, 2, -1), (0, 0, -1)}
    assert data.state_dict()["label_threshold"] is None  # no label depends on it


def test_the_frame_sets_of_published_code_are_left_out_and_counted(
    store: Callable[..., Path], record: Callable[..., Any], opened: Callable[..., Any]
) -> None:
    """JAA-Net lacks F021 T3 223-227, AU-Net 220-222 too; T4 has them all."""
    frames = [("T3", f) for f in range(219, 229)] + [("T4", 223)]
    records = [record("F021", task, frame, LABELS) for task, frame in frames]
    root = store("bp4d", [*records, record("F001", labels=LABELS), record("F002", labels=LABELS)])
    found = {}
    for frame_set in ("all", "jaanet", "aunet"):
        data = opened(BP4D, root, 3, frame_set=frame_set)
        rows = data.rows_test
        found[frame_set] = [int(f) for f in data.store.frame[rows]]
        assert data.state_dict()["frame_set"] == frame_set
        assert sum(data.left_out.values()) == 11 - len(rows)
    assert found["all"] == [*range(219, 229), 223]
    assert found["jaanet"] == [219, 220, 221, 222, 228, 223]
    assert found["aunet"] == [219, 228, 223]
    assert len(data.rows_all) == 13  # predictions are made for every frame


def test_a_subject_outside_the_lists_is_refused(
    store: Callable[..., Path], record: Callable[..., Any], opened: Callable[..., Any]
) -> None:
    root = store("bp4d", [record(s, labels=LABELS) for s in ("F001", "F003", "F024")])
    with pytest.raises(DataError, match="without a fold: F024"):
        opened(BP4D, root)


def test_bp4d_plus_has_other_people_and_says_that_its_folds_are_ours(
    store: Callable[..., Path], record: Callable[..., Any], opened: Callable[..., Any], bp4d: Path
) -> None:
    root = store("bp4d_plus", [record(s, labels=LABELS) for s in ("F001", "F002", "F082", "M002", "M058")])
    data = opened(BP4DPlus, root, 1)
    state = data.state_dict()
    assert state["test_persons"] == ["bp4d_plus/F002", "bp4d_plus/M002"]
    assert state["split"] == "facsuite"
    with pytest.raises(DataError, match="BP4D"):
        opened(BP4DPlus, bp4d)
