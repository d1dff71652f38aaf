"""The typed-in tables agree with their own printed means, with the paper's claims and with the text at hand."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.evaluation import evaluate
from experiments.ledgers import load_experiment
from experiments.published import PublishedRow, differences, load_published, unstated
from experiments.sections import facts_of, published_section, runs_section
from experiments.summary import summary_of
from experiments.tables import to_markdown

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
BP4D = FACTS | {"aus": list(BY_ID["renet_t1_renet"].aus), "label_threshold": None, "camera": None, "split": "3fold"}


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


def printed(text: str, number: str) -> dict[str, list[str]]:
    """A pipe table of AUNet: method -> its cells, the mean last, as they stand there but for markup."""
    lines = text[text.index(f"TABLE {number}:") :].split("\n\n")[1].splitlines()
    cells = [[re.sub(r"</?[bu]>|\[\d+\]", "", cell).strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = [row for row in cells if re.match(r"AU\d|Avg", row[0])]
    return {method: [row[place] for row in rows] for place, method in enumerate(cells[0]) if place}


AUNET = {3: "III", 4: "IV", 5: "V", 7: "VII", 8: "VIII", 9: "IX", 13: "XIII", 14: "XIV"}


def test_columns_of_aunet_stand_in_the_paper(shared: Path) -> None:
    text = (shared / "papers" / "aunet.txt").read_text()
    for number, roman in AUNET.items():
        columns = printed(text, roman)
        rows = {row.method: row for row in ROWS if (row.paper, row.table) == ("aunet", number) and row.values}
        assert rows.keys() == columns.keys()
        for method, cells in columns.items():
            typed = [f"{100 * value:.1f}" for value in [*rows[method].values.values(), rows[method].mean]]
            damaged = [cell for cell, value in zip(cells, typed, strict=True) if cell != value]
            assert damaged == (["4104"] if rows[method].id == "aunet_t14_resnet18" else []), rows[method].id
    assert "4104 and read as 41.4" in BY_ID["aunet_t14_resnet18"].notes
    for mean in ("61.5%", "65.0% vs. 65.5%", "| 64.5        |"):  # rows without cells
        assert mean in text


def test_means_that_aunet_misprints() -> None:
    wrong = {row.id: round(100 * row.recomputed, 1) for row in ROWS if row.paper == "aunet" and row.recomputed}
    assert wrong == {
        **{"aunet_t3_jaa": 62.7, "aunet_t7_aufan": 62.0, "aunet_t9_autdn": 37.6},
        **{"aunet_t13_drml": 47.7, "aunet_t13_jaa": 61.6, "aunet_t13_srerl": 62.9, "aunet_t14_drml": 26.1},
    }


def test_what_the_text_of_aunet_claims() -> None:
    def gain(table: int, of: str, over: str) -> float:
        return round(100 * (BY_ID[f"aunet_t{table}_{of}"].mean - BY_ID[f"aunet_t{table}_{over}"].mean), 1)

    assert [gain(table, "auvae", "aufan") for table in (7, 8, 9)] == [0.6, 3.1, 4.9]
    assert [gain(7, "aunet", "autdn"), gain(8, "aunet", "auvae"), gain(9, "aunet", "auvae")] == [0.6, 0.2, 2.5]
    assert gain(7, "autdn", "aufan") == 2.2
    # The text says 0.6 and 1.8 of the next two, and a row each says so.
    assert [gain(table, "autdn", "aufan") for table in (8, 9)] == [0.8, 1.7]
    assert all("the text says" in BY_ID[f"aunet_t{table}_autdn"].notes for table in (8, 9))
    assert gain(13, "aufan", "hmpps") == 0.4


def test_rows_quoted_by_two_papers_are_equal() -> None:
    def quoted(paper: str) -> dict[tuple[str, str], PublishedRow]:
        return {
            (r.dataset, r.source): r for r in ROWS if r.paper == paper and r.metric == "f1" and r.source and r.values
        }

    first, second = quoted("renet"), quoted("aunet")
    both = first.keys() & second.keys()
    assert {source for _, source in both} == {"Zhao et al. 2016", "Li et al. 2019"}
    for key in both - {("bp4d", "Zhao et al. 2016")}:  # there RE-Net has JPML and DRML
        assert first[key].values == second[key].values, key
        assert first[key].protocol["label_threshold"] == second[key].protocol["label_threshold"]


def test_aunet_compares_on_the_frames_that_it_kept() -> None:
    facts = BP4D | {"frame_set": "aunet"}
    assert differences(BY_ID["aunet_t13_aunet"], facts) == []
    assert differences(BY_ID["aunet_t13_aunet"], BP4D) == ["frame set: aunet vs all"]
    disfa = FACTS | {"split": "3fold", "label_threshold": 2, "frame_set": "jaanet"}
    assert differences(BY_ID["aunet_t14_aunet"], disfa) == []
    assert differences(BY_ID["aunet_t14_aunet"], disfa | {"label_threshold": 1}) == ["label threshold: 2 vs 1"]
    mixed = BP4D | {"folds": 1}
    assert differences(BY_ID["aunet_t7_aunet"], mixed) == ["split: aunet mixture vs 3fold"]


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
        ({"task": "labels"}, "seen: pictures vs labels"),
        ({"aus": [1, 2]}, "AU set: 1 2 4 6 9 12 25 26 vs 1 2"),
    ],
)
def test_every_differing_fact_is_named(change: dict, said: str) -> None:
    assert differences(BY_ID["renet_t2_renet"], FACTS | change) == [said]


def test_starred_rows_differ_in_the_threshold() -> None:
    table = [row for row in ROWS if (row.paper, row.table) == ("renet", 2)]
    starred = [row.method for row in table if "label threshold: 2 vs 1" in differences(row, FACTS)]
    assert starred == ["JAA", "LP-Net", "SRERL"]


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
    rows = [row for row in ROWS if (row.paper, row.table, row.metric) == ("renet", 4, "icc")]
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
    """Three folds on BP4D+ and one of a mixture that was tested on BP4D."""
    aus = BY_ID["renet_t3_renet"].aus
    for fold in (1, 2, 3):
        ledger = {k: v for k, v in random_ledger(fold, aus).items() if "level" not in k}
        write_fold(tmp_path / "plus", fold, ledger, dataset="bp4d_plus", split="facsuite", frame_set="all")
    write_fold(tmp_path / "cross", 1, ledger, dataset="mixture(disfa -> bp4d)", split="cross-dataset")
    pairs = [(run := load_experiment(tmp_path / name), evaluate(run, resamples=0)) for name in ("plus", "cross")]
    section = published_section(pairs)
    text = "\n".join([*section.text, *map(to_markdown, section.tables)])
    assert "not comparable (split: unpublished vs facsuite)" in text
    assert "table 3, F1 on bp4d_plus: difference by AU" not in text
    assert text.count("the fold lists were not published, and no others are in use.") == 1  # a table's note
    assert "cross: there are no published rows for mixture(disfa -> bp4d)." in text
    (facts,) = runs_section({pair[0].name: facts_of(summary_of(*pair)) for pair in pairs}).tables
    assert [row[facts.header.index("subject lists")] for row in facts.rows] == ["facsuite", "cross-dataset"]


def test_what_the_source_does_not_state_is_named_but_does_not_block() -> None:
    row = replace(BY_ID["renet_t2_renet"], protocol=BY_ID["renet_t2_renet"].protocol | {"camera": None})
    assert differences(row, FACTS | {"camera": "right"}) == []
    assert unstated(row, FACTS | {"camera": "right"}) == ["camera"]


def test_what_transfer_au_states(shared: Path) -> None:
    text = " ".join((shared / "papers" / "transfer_au.txt").read_text().split())
    rows = [row for row in ROWS if row.paper == "transfer_au"]
    said = [
        "the average accuracy is 0.94",
        "the validation set is 0.460 F1 score",
        "the best result for AU recognition is 0.47",
    ]
    assert all(sentence in text for sentence in said)
    assert [row.mean for row in rows] == [0.94, 0.460, 0.47]


def test_a_number_at_chosen_thresholds_is_no_number_at_one_half() -> None:
    half, chosen = BY_ID["transfer_au_t2_half"], BY_ID["transfer_au_t2_chosen"]
    facts = {"edition": "published", "aus": list(half.aus), "folds": 1, "split": "official abaw3", "threshold": 0.5}
    assert differences(half, facts) == []
    assert differences(chosen, facts) == ["threshold: chosen vs 0.5"]
    assert unstated(half, facts | {"frame_set": "all"}) == ["frame set"]


def test_expressions_compare_with_the_same_classes() -> None:
    row = BY_ID["transfer_au_t1"]
    facts = {
        "edition": "published",
        "aus": [],
        "folds": 5,
        "split": "unpublished",
        "expressions": list(row.expressions),
    }
    assert differences(row, facts) == []
    (said,) = differences(row, facts | {"expressions": ["Neutral", "Smile"]})
    assert said.startswith("expressions: Neutral Smile Surprise Squint Disgust Scream vs Neutral Smile")
