"""The typed-in tables agree with their own printed means, with the paper's claims and with the text at hand."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.published import PublishedRow, differences, load_published, unstated

ROWS = load_published()
BY_ID = {row.id: row for row in ROWS}
FACTS = {
    "edition": "published",
    "aus": [1, 2, 4, 6, 9, 12, 25, 26],
    "label_threshold": 1,
    "camera": "left",
    "frame_set": "all",
    "folds": 3,
}


def test_ids_are_unique() -> None:
    assert len(BY_ID) == len(ROWS)


@pytest.mark.parametrize("row", [row for row in ROWS if row.values], ids=lambda row: row.id)
def test_values_average_to_the_printed_mean(row: PublishedRow) -> None:
    digits = 3 if row.metric == "f1" else 2  # of a fraction, as printed
    mean = np.mean(list(row.values.values()))
    # Cells and mean are both rounded: together at most one unit in the last place.
    assert mean == pytest.approx(row.mean if row.recomputed is None else row.recomputed, abs=1.01 * 10**-digits)
    if row.recomputed is not None:
        assert abs(mean - row.mean) > 10**-digits, "the printed mean is right: drop `recomputed`"


def test_claims_of_the_text() -> None:
    def gain(table: int) -> float:
        return BY_ID[f"renet_t{table}_renet"].mean - BY_ID[f"renet_t{table}_resnet18"].mean

    assert [round(100 * gain(table), 1) for table in (1, 2, 3)] == [5.9, 4.6, 4.0]
    assert round(100 * (BY_ID["renet_t7_learnable"].mean - BY_ID["renet_t7_resnet18"].mean), 1) == 4.1
    assert BY_ID["renet_t2_renet"].values["AU04"] == pytest.approx(0.572)
    assert BY_ID["renet_t5_mae_renet"].values["AU05"] == pytest.approx(0.02)


def test_rows_stand_in_the_paper(shared: Path) -> None:
    text = (shared / "papers" / "renet.txt").read_text()
    plain = re.sub(r"(\d\.\d+)\.", r"\1", re.sub(r"[\[\]*]|</?b>", "", text))
    for row in (row for row in ROWS if row.paper == "renet" and row.values):
        cells = [f"{100 * v:.1f}" if row.metric == "f1" else f"{v:.2f}" for v in [*row.values.values(), row.mean]]
        assert "\t".join(cells) in plain, row.id


def test_same_protocol_is_comparable() -> None:
    assert differences(BY_ID["renet_t2_renet"], FACTS) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"camera": "right"}, "camera: left vs right"),
        ({"label_threshold": 2}, "label threshold: 1 vs 2"),
        ({"frame_set": "jaanet"}, "frame set: all vs jaanet"),
        ({"frame_set": None}, "frame set: all vs unknown"),
        ({"folds": 1}, "folds: 3 vs 1"),
        ({"edition": "twin"}, "data: published vs twin"),
        ({"aus": [1, 2]}, "AU set: 1 2 4 6 9 12 25 26 vs 1 2"),
    ],
)
def test_every_differing_fact_is_named(change: dict, said: str) -> None:
    assert differences(BY_ID["renet_t2_renet"], FACTS | change) == [said]


def test_starred_rows_differ_in_the_threshold() -> None:
    starred = [row.method for row in ROWS if row.table == 2 and "label threshold: 2 vs 1" in differences(row, FACTS)]
    assert starred == ["JAA", "LP-Net", "SRERL"]


def test_what_the_source_does_not_state_is_named_but_does_not_block() -> None:
    row = replace(BY_ID["renet_t2_renet"], protocol=BY_ID["renet_t2_renet"].protocol | {"camera": None})
    assert differences(row, FACTS | {"camera": "right"}) == []
    assert unstated(row, FACTS | {"camera": "right"}) == ["camera"]
