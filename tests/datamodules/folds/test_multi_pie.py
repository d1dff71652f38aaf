from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def test_action_units_are_refused(multi_pie: Path, opened: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="AU06"):
        opened(MultiPIE, multi_pie, aus=[6])
