"""The typed-in tables agree with their own printed means, with the paper's claims and with the text at hand."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.published import PublishedRow, differences, load_published, unstated
from experiments.report import write_report

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


BP4D = FACTS | {"aus": list(BY_ID["renet_t1_renet"].aus), "label_threshold": None, "camera": None, "split": "3fold"}


def test_the_folds_of_bp4d_compare_and_those_of_fera_2015_do_not() -> None:
    assert differences(BY_ID["renet_t1_renet"], BP4D) == []
    assert unstated(BY_ID["renet_t1_renet"], BP4D) == ["frame set", "split"]
    assert differences(BY_ID["renet_t1_jaa"], BP4D) == ["frame set: jaanet vs all"]
    assert differences(BY_ID["renet_t1_jaa"], BP4D | {"frame_set": "jaanet"}) == []
    fera = BP4D | {"split": "fera2015", "folds": 1}
    assert differences(BY_ID["renet_t1_renet"], fera) == ["folds: 3 vs 1"]


def test_intensities_of_bp4d_compare_where_the_split_does() -> None:
    """VGP-AE, CCNN-IT, OR-CNN and 2DC trained and tested on the challenge's sets; RE-Net does not say."""
    facts = BP4D | {"aus": [6, 10, 12, 14, 17]}
    rows = [row for row in ROWS if row.table == 4 and row.metric == "icc"]
    apart = [row.method for row in rows if differences(row, facts)]
    assert apart == ["VGP-AE", "CCNN-IT", "OR-CNN", "2DC"]
    assert differences(BY_ID["renet_t4_mae_2dc"], facts) == ["split: fera2015 vs 3fold"]
    assert differences(BY_ID["renet_t4_mae_2dc"], facts | {"split": "fera2015", "folds": 1}) == []


def test_nothing_on_bp4d_plus_compares_since_its_folds_were_not_published() -> None:
    facts = BP4D | {"split": "facsuite"}
    for name in ("renet_t3_renet", "renet_t3_resnet18"):
        assert differences(BY_ID[name], facts) == ["split: unpublished vs facsuite"]


def test_the_report_says_why_there_is_no_difference(
    tmp_path: Path, write_fold: Callable[..., Path], random_ledger: Callable[..., dict[str, Any]]
) -> None:
    """Three folds on BP4D+ and one of a mixture that was tested on DISFA."""
    aus = BY_ID["renet_t3_renet"].aus
    for fold in (1, 2, 3):
        ledger = {k: v for k, v in random_ledger(fold, aus).items() if "level" not in k}
        write_fold(tmp_path / "plus", fold, ledger, dataset="bp4d_plus", split="facsuite", frame_set="all")
    write_fold(tmp_path / "cross", 1, ledger, dataset="mixture(bp4d -> disfa)", split="cross-dataset")
    text = write_report([tmp_path / "plus", tmp_path / "cross"], resamples=0).with_name("report.md").read_text()
    assert "not comparable (split: unpublished vs facsuite)" in text
    assert "table 3, F1 on bp4d_plus: difference by AU" not in text
    assert "cross: there are no published rows for mixture(bp4d -> disfa)." in text
    assert re.search(r"subject lists *\| *facsuite *\| *cross-dataset", text)


def test_what_the_source_does_not_state_is_named_but_does_not_block() -> None:
    row = replace(BY_ID["renet_t2_renet"], protocol=BY_ID["renet_t2_renet"].protocol | {"camera": None})
    assert differences(row, FACTS | {"camera": "right"}) == []
    assert unstated(row, FACTS | {"camera": "right"}) == ["camera"]
