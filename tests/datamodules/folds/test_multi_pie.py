from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.facs import MULTI_PIE_EXPRESSIONS
from datamodules.multi_pie import MultiPIE
from datamodules.splits import load_folds

FOLDS = load_folds("multi_pie")
PEOPLE = {k: set(FOLDS[k][:2]) for k in FOLDS}  # two of each part; tests/datamodules/test_splits.py checks the lists


@pytest.fixture(scope="module")
def multi_pie(store: Callable[..., Path], record: Callable[..., Any]) -> Path:
    """Everybody neutral and smiling; the first of each part also screams."""
    records = []
    for k in FOLDS:
        for number, subject in enumerate(FOLDS[k][:2]):
            shown = {"01_01_05_1_07": 0, "01_02_05_1_07": 1} | ({"04_03_05_1_07": 5} if number == 0 else {})
            records += [record(subject, scene, 0, {"expression": value}) for scene, value in shown.items()]
    return store("multi_pie", records, expressions=MULTI_PIE_EXPRESSIONS)


@pytest.mark.parametrize("fold", [0, 1, 2, 3, 4, 5])
def test_fold_k_holds_out_part_k(
    multi_pie: Path, opened: Callable[..., Any], sides: Callable[..., Any], fold: int
) -> None:
    data = opened(MultiPIE, multi_pie, fold)
    seen = sides(data)
    assert seen["test"] == PEOPLE.get(fold, set())
    assert sum(map(len, seen.values())) == len(set.union(*seen.values())) == 10
    assert data.state_dict()["split"] == "facsuite"


@pytest.mark.parametrize("seed", range(6))
def test_every_expression_is_validated_and_trained(multi_pie: Path, opened: Callable[..., Any], seed: int) -> None:
    data = opened(MultiPIE, multi_pie, seed=seed)
    for rows in (data.rows_train, data.rows_val):
        assert set(data.labels["expression"][rows].tolist()) == {0, 1, 5}


def test_one_recording_of_each_expression(
    store: Callable[..., Path], record: Callable[..., Any], opened: Callable[..., Any]
) -> None:
    """The first that the person has, in all its cameras; a person without the first session has a later one."""
    scenes = {
        FOLDS[1][0]: [("01_01_05_1_07", 0), ("02_01_05_1_07", 0), ("02_01_14_0_07", 0), ("02_02_05_1_07", 2)],
        FOLDS[2][0]: [("04_01_05_1_07", 0), ("04_01_14_0_07", 0), ("04_02_05_1_07", 0), ("04_03_05_1_07", 5)],
    }
    records = [record(who, scene, 0, {"expression": k}) for who, of in scenes.items() for scene, k in of]
    root = store("multi_pie", records, expressions=MULTI_PIE_EXPRESSIONS)
    everything = opened(MultiPIE, root, val_subjects=0)
    assert (len(everything.rows_test), len(everything.rows_train), everything.state_dict()["frame_set"]) == (
        4,
        4,
        "all",
    )
    data = opened(MultiPIE, root, val_subjects=0, frame_set="one_recording")
    kept = {store_row(data, row) for row in (*data.rows_train, *data.rows_test)}
    assert kept == {
        *((FOLDS[1][0], scene) for scene in ("01_01_05_1_07", "02_02_05_1_07")),
        *((FOLDS[2][0], scene) for scene in ("04_01_05_1_07", "04_01_14_0_07", "04_03_05_1_07")),
    }
    assert data.left_out == {"of a person's further recordings of an expression": 3}
    assert data.state_dict()["frame_set"] == "one_recording"


def store_row(data: MultiPIE, row: int) -> tuple[str, str]:
    store = data.opened
    return store.subjects[store.subject_code[row]], store.sequences[store.sequence_code[row]]


def test_balanced_training_takes_expressions_equally_often(multi_pie: Path, opened: Callable[..., Any]) -> None:
    plain = opened(MultiPIE, multi_pie)
    data = opened(MultiPIE, multi_pie, balanced_expressions=True)
    label = data.labels["expression"]
    epoch = [row for _, row in data.train_sampler(0, 1)]
    assert np.bincount(label[epoch])[[0, 1, 5]].tolist() == [len(epoch) // 3] * 3
    assert len(epoch) == len(plain.rows_train) // 3 * 3
    assert len(set(np.bincount(label[[row for _, row in plain.train_sampler(0, 1)]])[[0, 1, 5]])) > 1
    assert set(epoch) <= set(data.rows_train)
    assert data.expressions_without_val_frames == ["Surprise", "Squint", "Disgust"]


def test_action_units_are_refused(multi_pie: Path, opened: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="AU06"):
        opened(MultiPIE, multi_pie, aus=[6])
