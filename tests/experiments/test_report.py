"""The written report: its numbers, its honesty, and that every format is well formed."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import DataError
from experiments.report import main, print_table, summarize, write_report
from experiments.summary import main_tables
from experiments.tables import Table, to_latex, to_markdown, to_text
from lightning_modules.common import metrics

Writer = Callable[..., Any]
DISFA = (1, 2, 4, 6, 9, 12, 25, 26)
AS_PUBLISHED = {"label_threshold": 1, "camera": "left", "frame_set": "all"}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, write_fold: Writer, random_ledger: Writer) -> Path:
    """`renet` and `resnet18` with three folds, `right` with one fold of another camera, `level` with intensities."""
    root = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    occurrence = re.compile(r"subject|sequence|frame|AU\d+_(true|prob)")
    for fold in (1, 2, 3):
        for name, skill in (("renet", 2.5), ("resnet18", 1.5)):
            full = random_ledger(fold, DISFA, skill=skill)
            ledger = {key: values for key, values in full.items() if occurrence.fullmatch(key)}
            extra = {"predictions_val": ledger} | ({"predictions_flip": ledger} if name == "renet" else {})
            relation = np.corrcoef(rng.normal(size=(8, 20))).tolist()
            facts = AS_PUBLISHED | {"model": {"relation": relation} if name == "renet" else {}}
            path = write_fold(root / name, fold, ledger, ledgers=extra, **facts)
            curves = {"epoch": [0, 1], "train/loss": [2.0, 1.0], "val/f1_mean": [0.1, 0.2]}
            pd.DataFrame(curves).to_csv(path / "metrics.csv", index=False)
        intensity = {key: values for key, values in full.items() if "_prob" not in key}
        write_fold(root / "level", fold, intensity, task="intensity")
    features = rng.normal(size=(30, 8, 4)).astype(np.float16)
    true = rng.integers(0, 2, (30, 8)).astype(np.int8)
    np.savez(root / "renet" / "fold1-seed0" / "features.npz", features=features, true=true, aus=np.array(DISFA))
    write_fold(root / "right", 1, ledger, **(AS_PUBLISHED | {"camera": "right", "select_on": "test"}))
    write_fold(root / "renet", 1, ledger, seed=1, done=False)
    return root


@pytest.fixture(scope="session")
def report(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of all four, with all protocols."""
    out = tmp_path_factory.mktemp("report")
    folders = [runs / name for name in ("renet", "resnet18", "right", "level")]
    protocols = ("strict", "paper", "pooled", "flip", "tuned", "break_even", "on_test")
    page = write_report(folders, out, protocols, resamples=200)
    assert page == out / "report.html"
    return out


def table_of(markdown: str, caption: str) -> pd.DataFrame:
    """The pipe table under a caption that starts so."""
    lines = markdown[markdown.index(f"**{caption}") :].split("\n\n")[1].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return pd.DataFrame(rows[2:], columns=rows[0]).set_index(rows[0][0])


# ------------------------------------------------------------------------------------------------------- the summary


def test_summary_is_plain_json_with_null_for_undefined(two_folds: Path) -> None:
    summary = json.loads(json.dumps(summarize(two_folds, resamples=50), allow_nan=False))
    f1 = summary["metrics"]["f1"]
    assert f1["folds"]["2"]["AU02"] is None
    assert f1["folds"]["2"]["AU01"] == pytest.approx(2 / 3)
    assert f1["fold_mean"]["AU04"]["value"] is None
    assert f1["fold_mean"]["mean"]["value"] == pytest.approx(0.7)
    assert f1["pooled"]["AU01"]["value"] == pytest.approx(3 / 4)
    assert f1["defined_folds"] == {"AU01": 2, "AU02": 1, "AU04": 0, "mean": 2}
    assert summary["metrics"]["all_positive_f1"]["fold_mean"]["AU01"]["value"] == pytest.approx(2 / 3)
    assert summary["facts"]["select_on"] == "val"


def test_golden_table(two_folds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(json.loads(json.dumps(summarize(two_folds, resamples=0))))
    table = """
tiny: F1 in percent at threshold 0.5 · disfa · initialisation: imagenet · selected on: val
AU    holdout-P1  holdout-P2  mean of folds  95 % interval  folds  pooled  ROC-AUC  prevalence  all-positive F1
---------------------------------------------------------------------------------------------------------------
AU01        80.0        66.7           73.3              –    2/2    75.0    0.750        50.0             66.7
AU02        66.7           –           66.7              –    1/2    66.7    0.750        28.6             80.0
AU04           –           –              –              –    0/2       –        –         0.0                –
---------------------------------------------------------------------------------------------------------------
mean        73.3        66.7           70.0              –    2/2    70.8    0.750        26.2             73.3
No interval: a fold has a single held-out subject, or no resamples were asked for.
Without positives in every fold, so outside the mean: AU04.
Defined in some folds only, mean over those: AU02 (1 of 2).
"""
    assert capsys.readouterr().out == table


def test_lost_resamples_and_unfinished_folds_are_told(tmp_path: Path, write_fold: Writer) -> None:
    ledger = {"subject": list("abc"), "AU01_true": [1, 0, 0], "AU01_prob": [0.9, 0.1, 0.1]}
    write_fold(tmp_path / "run", 1, ledger)
    write_fold(tmp_path / "run", 2, ledger, done=False)
    (table,) = main_tables(summarize(tmp_path / "run", resamples=100))
    notes = " ".join(table.notes)
    assert re.search(r"lost all positives: AU01 [23]\d\.", notes)
    assert "Unfinished and left out: fold2-seed0." in notes
    assert "training variance is not in it" in notes


def test_recalibration_is_reported_on_and_off(tmp_path: Path, write_fold: Writer) -> None:
    ledger = {"subject": list("ab"), "AU01_true": [1, 0], "AU01_prob": [0.9, 0.1]}
    for fold, f1 in ((1, 0.4), (2, 0.6)):
        write_fold(tmp_path / "run", fold, ledger, metrics_without_recalibration={"f1_mean": f1})
    (table,) = main_tables(summarize(tmp_path / "run", resamples=0))
    assert "Without recalibrated batch statistics: 50.0 (mean over folds and AUs)." in table.notes


# -------------------------------------------------------------------------------------------------------- the report


def test_differences_only_where_comparable(report: Path) -> None:
    text = (report / "report.md").read_text()
    where = "Yang and Yin, ACCV 2020, table 2, F1 on disfa"
    differences = table_of(text, f"{where}: difference of the mean")
    ours = float(table_of(text, f"{where}, percent").loc["renet", "mean"])
    assert float(differences.loc["RE-Net", "renet minus published"].split()[0]) == pytest.approx(ours - 55.0, abs=0.06)
    assert differences.loc["RE-Net", "right minus published"] == "not comparable (camera: left vs right; folds: 3 vs 1)"
    assert "label threshold: 2 vs 1" in differences.loc["SRERL", "renet minus published"]
    by_au = table_of(text, f"{where}: difference by AU")
    assert list(by_au.index) == [
        f"{run} minus {row}" for row in ("ResNet18", "RE-Net") for run in ("renet", "resnet18")
    ]
    other_aus = table_of(text, "Yang and Yin, ACCV 2020, table 5, ICC(3,1) on disfa**")
    assert other_aus.loc["level", "mean"] == "–"  # its mean is over other AUs than the column's
    published = table_of(text, "Yang and Yin, ACCV 2020, table 5, ICC(3,1) on disfa: difference of the mean")
    assert "AU set: 1 2 4 5 6 9 12 15 17 20 25 26 vs 1 2 4 6 9 12 25 26" in published.loc["RE-Net"].iloc[0]


def test_protocols_stand_side_by_side(report: Path) -> None:
    text = (report / "report.md").read_text()
    table = table_of(text, "Mean F1 over AUs, by protocol")
    assert table.loc["renet", "flip"] == table.loc["renet", "strict"]  # its flip ledger is the same
    assert table.loc["resnet18", "flip"] == "not available"
    assert table.loc["right", "strict"] == "not available"
    assert table.loc["right", "paper"] != "not available"
    assert float(table.loc["renet", "tuned"].split()[0]) >= float(table.loc["renet", "strict"].split()[0])
    at = {name: float(table.loc["resnet18", name].split()[0]) for name in ("strict", "tuned", "break_even", "on_test")}
    assert at["on_test"] >= max(at["strict"], at["tuned"], at["break_even"])
    assert [table.loc["right", name] for name in ("tuned", "break_even")] == ["not available"] * 2
    assert table.loc["right", "on_test"] != "not available"
    assert re.search(
        r"on_test: thresholds were chosen on the scored frames themselves: .*\(renet, resnet18, right\)", text
    )
    assert "level" not in table.index  # intensities have no threshold
    assert table.loc["renet", "pooled"] != table.loc["renet", "paper"]
    assert "--run.flip=true" in text
    assert "data.select_on=test" in text
    assert table.loc["right", "selected on"] == "test"
    assert table.loc["renet", "initialisation"] == "imagenet"


def test_runs_are_compared_by_subject(report: Path) -> None:
    text = (report / "report.md").read_text()
    table = table_of(text, "renet minus resnet18")
    assert table.loc["mean"].iloc[2] == "better"
    assert "right: compared with no other run; from renet it differs in camera, held-out subjects." in text


def test_a_lower_error_is_better(tmp_path: Path, write_fold: Writer, random_ledger: Writer) -> None:
    ledger = {key: values for key, values in random_ledger(1).items() if "prob" not in key}
    worse = {
        key: 5 - values if key.endswith("_level") else values for key, values in ledger.items() if "true" not in key
    }
    write_fold(tmp_path / "near", 1, ledger, task="intensity")
    write_fold(tmp_path / "far", 1, ledger | worse, task="intensity")
    text = write_report([tmp_path / "near", tmp_path / "far"], resamples=100).with_name("report.md").read_text()
    mean = table_of(text, "near minus far").loc["mean"].tolist()
    assert mean[3].startswith("-")  # MAE after ICC: value, interval, verdict each
    assert mean[5] == "better"


def test_a_stage_that_finds_landmarks_has_a_report(tmp_path: Path, write_fold: Writer) -> None:
    rng, means = np.random.default_rng(0), {}
    for name, worse in (("near", 0.0), ("far", 0.05)):
        ledger = {"subject": np.repeat(list("abcd"), 5), "nme": rng.uniform(0.02, 0.04, 20) + worse}
        means[name] = ledger["nme"].mean()
        path = write_fold(tmp_path / name, 1, ledger, task="landmarks", aus=[6])
        curves = {"epoch": [0, 1], "train/loss": [2.0, 1.0], "val/nme": [0.1, 0.05]}
        pd.DataFrame(curves).to_csv(path / "metrics.csv", index=False)
    page = write_report([tmp_path / "near", tmp_path / "far"], resamples=100)
    text = page.with_name("report.md").read_text()
    table = table_of(text, "near: mean error of the landmarks in percent")
    assert table.loc["error", "holdout-P1"] == f"{100 * means['near']:.1f}"
    assert table.loc["error", "frames with landmarks"] == "20"
    assert table_of(text, "near minus far").loc["mean"].iloc[2] == "better"
    assert "Mean landmark error, by protocol" in text
    drawn = {picture.name for picture in (page.parent / "figures").iterdir()}
    assert drawn == {"near_training.png", "far_training.png"}
    (printed,) = main_tables(summarize(tmp_path / "near", resamples=0))
    assert printed.caption.startswith("near: mean error of the landmarks")


def test_expressions_have_a_report(tmp_path: Path, write_fold: Writer, expression_ledger: Writer) -> None:
    """Five folds of Multi-PIE with its six classes, and one of CAER-S whose pictures are nobody's."""
    six = ("Neutral", "Smile", "Surprise", "Squint", "Disgust", "Scream")
    facts = {"task": "expression", "aus": [], "dataset": "multi_pie", "split": "facsuite"}
    for name, skill in (("good", 4), ("poor", 1)):
        for fold in range(1, 6):
            ledger = expression_ledger(fold, six, skill=skill)
            path = write_fold(tmp_path / name, fold, ledger, ledgers={"predictions_val": ledger}, **facts)
            pd.DataFrame({"epoch": [0], "train/loss": [1.0], "val/accuracy": [0.5]}).to_csv(path / "metrics.csv")
    protocols = ("strict", "pooled", "tuned")
    page = write_report([tmp_path / "good", tmp_path / "poor"], protocols=protocols, resamples=100)
    text = page.with_name("report.md").read_text()
    ledgers = [pd.DataFrame(expression_ledger(fold, six, skill=4)) for fold in range(1, 6)]
    accuracy = [metrics.score(ledger)["expression"]["accuracy"] for ledger in ledgers]
    row = table_of(text, "good: accuracy of expressions").loc["accuracy"]
    assert row["holdout-P2"] == f"{100 * accuracy[1]:.1f}"
    assert row["mean of folds"] == f"{100 * np.mean(accuracy):.1f}"
    majority = np.mean([metrics.trivial(ledger)["majority_accuracy"] for ledger in ledgers])
    assert row["majority class"] == f"{100 * majority:.1f}"
    classes = table_of(text, "good: F1 of expressions")
    assert list(classes.index) == [*six, "mean"]
    assert classes["frames"].iloc[:6].str.replace(",", "").astype(int).sum() == int(
        row["known frames"].replace(",", "")
    )
    assert "resamples of the held-out subjects" in text
    assert table_of(text, "good minus poor").loc["mean"].iloc[2] == "better"
    by_protocol = table_of(text, "Mean accuracy of expressions, by protocol")
    assert by_protocol.loc["good", "strict"].split()[0] == row["mean of folds"]
    assert by_protocol.loc["good", "tuned"] == "not available"
    published = table_of(text, "Wang et al., arXiv 2022, table 1, accuracy of expressions on multi_pie: difference")
    said = published.loc["TransferAU (stage one)", "good minus published"]
    assert said == "not comparable (split: unpublished vs facsuite)"
    drawn = {picture.name for picture in (page.parent / "figures").iterdir()}
    assert drawn == {f"{name}_{kind}.png" for name in ("good", "poor") for kind in ("confusion", "training")}


def test_pictures_are_called_pictures(tmp_path: Path, write_fold: Writer, expression_ledger: Writer) -> None:
    write_fold(tmp_path / "run", 1, expression_ledger(1, subjects=30, frames=1), task="expression", aus=[])
    tables = main_tables(summarize(tmp_path / "run", resamples=20))
    assert "resamples of the held-out images within folds" in " ".join(tables[0].notes)


def test_reconstructed_labels_are_no_detection(runs: Path, tmp_path: Path, write_fold: Writer) -> None:
    for fold in (1, 2, 3):
        table = pd.read_parquet(runs / "renet" / f"fold{fold}-seed0" / "predictions.parquet")
        write_fold(tmp_path / "vae", fold, table, **(AS_PUBLISHED | {"task": "labels"}))
    text = write_report([tmp_path / "vae"], protocols=["strict"], resamples=0).with_name("report.md").read_text()
    assert "ACCV" not in text  # no table of published numbers
    assert "nothing was detected" in text
    assert "published" not in set(pd.read_csv(tmp_path / "vae" / "report" / "report.csv")["protocol"])


def test_optimistic_selection_is_stamped(report: Path) -> None:
    text = (report / "report.md").read_text()
    assert re.search(r"\*\*right: F1 .*selected on: test\*\*", text)
    assert "these numbers are optimistic" in text


def test_csv_recomputes(report: Path) -> None:
    table = pd.read_csv(report / "report.csv")
    assert set(table["protocol"]) == {
        *("strict", "paper", "pooled", "flip", "tuned", "break_even", "on_test", "published")
    }
    chosen = table[(table["run"] == "renet") & (table["protocol"] == "strict") & (table["metric"] == "f1")]
    folds = chosen[chosen["scope"].str.startswith("holdout")].groupby("au")["value"].mean()
    means = chosen[chosen["scope"] == "fold_mean"].set_index("au")
    for au in (f"AU{number:02d}" for number in DISFA):
        assert means.loc[au, "value"] == pytest.approx(folds[au])
        assert means.loc[au, "low"] <= means.loc[au, "value"] <= means.loc[au, "high"]
    assert means.loc["mean", "value"] == pytest.approx(folds.drop("mean").mean())
    assert means["headline"].astype(bool).all()
    delta = table[(table["scope"] == "minus renet_t2_renet") & (table["run"] == "renet")].set_index("au")["value"]
    assert delta["mean"] == pytest.approx(means.loc["mean", "value"] - 0.55)
    assert not table[table["protocol"] == "published"]["run"].eq("right").any()


def test_page_is_self_contained(report: Path) -> None:
    page = (report / "report.html").read_text()

    class Links(HTMLParser):
        found: list[str] = []  # noqa: RUF012 (one parser a test)
        open: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            self.found += [value or "" for name, value in attributes if name in ("src", "href")]
            if tag not in ("meta", "img", "input"):
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    parser = Links()
    parser.feed(page)
    assert parser.open == []
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in parser.found)
    assert "http" not in page
    pictures = sum(link.startswith("data:") for link in parser.found)
    assert pictures == len(list((report / "figures").glob("*.png")))
    kinds = {path.stem.split("_", 1)[1] for path in (report / "figures").glob("*.png")}
    assert kinds == {
        *("prevalence", "precision_recall", "cooccurrence", "subjects"),
        *("training", "relation", "tsne", "intensity", "correlations"),
    }


def test_latex_is_balanced(report: Path) -> None:
    text = re.sub(r"(?<!\\)%.*", "", (report / "report.tex").read_text())
    for environment in ("table", "tabular"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") > 0
    braces = re.sub(r"\\[{}]", "", text)
    assert braces.count("{") == braces.count("}")
    for tabular in re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        for row in re.findall(r"^ *(.*) \\\\$", tabular[1], re.MULTILINE):
            assert len(re.findall(r"(?<!\\)&", row)) == len(tabular[0]) - 1
    assert not re.search(r"(?<!\\)[_#&](?! )", text)  # a bare & only ever stands between cells


def test_a_papers_table_has_ours_above_a_rule_and_says_what_compares(report: Path) -> None:
    text = (report / "tables" / "renet_table2_disfa_f1.tex").read_text()
    ours, published = text[text.index(r"\midrule") : text.index(r"\bottomrule")].split(r"\midrule")[1:]
    names = [line.split(" & ")[0].strip() for line in ours.splitlines() if "&" in line]
    assert names == ["renet", "resnet18", "right"]
    row = next(line for line in published.splitlines() if line.strip().startswith("RE-Net &"))
    printed = ["38.8", "31.1", "57.2", "50.1", "50.2", "75.5", "86.6", "50.6", "55.0"]
    assert [cell.strip() for cell in row.split("&")][1:10] == printed
    interval = table_of((report / "report.md").read_text(), "renet: F1").loc["mean", "95 % interval"]
    assert f"{{{interval}}}" in ours.splitlines()[1]
    assert "right: not comparable (camera: left vs right; folds: 3 vs 1) with" in text
    assert not re.search(r"^ *.*renet: not comparable \(camera", text, re.MULTILINE)
    assert {path.stem for path in (report / "tables").iterdir()} >= {"renet_table2_disfa_f1", "renet_table5_disfa_icc"}


def test_special_characters_are_escaped() -> None:
    table = Table("50 % & more", ["a_b", "x"], [["~", "[1, 2]"], ["mean", "1 ± 2"]], ["#1 {x}"])
    latex = to_latex(table)
    assert r"50 \% \& more" in latex
    assert r"a\_b & x \\" in latex
    assert r"\textasciitilde{} & {[1, 2]} \\" in latex
    assert r"1 $\pm$ 2" in latex
    numbers = to_latex(Table("a -> b", ["fold1-seed0", "p"], [["[-1.2, -.3]", "<.001"]]))
    assert r"\caption{a -$>$ b}" in numbers
    assert r"fold1-seed0 & p \\" in numbers
    assert r"{[$-$1.2, $-$.3]} & $<$.001 \\" in numbers
    assert to_markdown(Table("t", ["a"], [["x|y"]])).splitlines()[-1] == "| x\\|y |"
    assert to_text(table).splitlines()[1:3] == ["a_b        x", "------------"]


# ------------------------------------------------------------------------------------------------------- the command


def test_command_prints_table_and_path(two_folds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(two_folds), "--out", str(tmp_path / "out"), "--bootstrap", "20", "--protocols", "strict"]) == 0
    printed = capsys.readouterr().out
    assert "tiny: F1 in percent" in printed
    assert f"report: {tmp_path / 'out' / 'report.html'}" in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("report.html", "report.md", "report.csv", "report.tex", "figures", "tables")
    }


def test_report_is_written_into_the_run_by_default(two_folds: Path) -> None:
    assert write_report([two_folds], resamples=0) == two_folds / "report" / "report.html"
    write_report([two_folds], resamples=0)  # its own folder is not taken for a fold


def test_unknown_protocol_and_repeated_run_are_refused(two_folds: Path) -> None:
    with pytest.raises(DataError, match="unknown protocol: nope") as caught:
        write_report([two_folds], protocols=["nope"])
    assert "strict" in caught.value.remedy
    with pytest.raises(DataError, match="two run folders are named tiny"):
        write_report([two_folds, two_folds])
