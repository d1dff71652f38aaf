"""What the ledgers of one run name say, as plain values, and the tables that print it."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.evaluation import Evaluation, evaluate
from experiments.ledgers import Experiment, load_experiment
from experiments.tables import Table, to_text
from lightning_modules.common.metrics import to_json

PERCENT = {
    *("f1", "accuracy", "prevalence", "all_positive_f1", "all_negative_accuracy", "nme"),
    *("expression_accuracy", "expression_f1", "expression_recall", "majority_accuracy"),
}
TITLES = {
    "f1": "F1",
    "accuracy": "accuracy",
    "auc": "ROC-AUC",
    "ap": "average precision",
    "icc": "ICC(3,1)",
    "mae": "MAE",
    "mse": "MSE",
    "pcc": "PCC",
    "abaw2": "ABAW2 metric",
    "rank": "rank correlation",
    "nme": "landmark error",
    "expression_accuracy": "accuracy of expressions",
    "expression_f1": "F1 of expressions",
    "expression_recall": "recall of expressions",
}


def summarize(run_dir: Path, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Everything that the ledgers of `runs/<name>` say at threshold 0.5, as plain JSON values (null = undefined).

    Returns:
        `name`, the facts of the runs, and `Evaluation.to_dict`: per metric fold values, mean of folds and pooled.

    Raises:
        DataError: Nothing finished is there, or a file is missing or damaged.
    """
    experiment = load_experiment(Path(run_dir))
    return summary_of(experiment, evaluate(experiment, resamples=resamples, seed=seed))


def summary_of(experiment: Experiment, evaluation: Evaluation) -> dict[str, Any]:
    """The summary of an evaluation at threshold 0.5."""
    raw: list[dict[str, Any]] = [run.result.get("metrics_without_recalibration") or {} for run in experiment.runs]
    return to_json(
        {
            "name": experiment.name,
            "facts": experiment.facts,
            "seeds": {fold: [run.seed for run in experiment.runs if run.fold == fold] for fold in experiment.folds},
            "incomplete": experiment.incomplete,
            "without_recalibration": {
                metric: float(np.mean([scores[metric] for scores in raw]))
                for metric in ("f1_mean", "icc_mean")
                if all(scores.get(metric) is not None for scores in raw)
            },
            **evaluation.to_dict(),
        }
    )


def print_table(summary: Mapping[str, Any]) -> None:
    """Print the per-AU tables of a summary."""
    for table in main_tables(summary):
        print(f"\n{to_text(table)}")


def main_tables(summary: Mapping[str, Any]) -> list[Table]:
    """The tables of a summary: by AU F1 and what stands beside it, or ICC and MAE; accuracy and F1 of expressions."""
    metrics = summary["metrics"]
    tables = []
    if "f1" in metrics:
        tables.append(_f1_table(summary))
    if "icc" in metrics:
        tables.append(_icc_table(summary))
    if "rank" in metrics:
        tables.append(_rank_table(summary))
    if "nme" in metrics:
        tables.append(_landmark_table(summary))
    if "expression_accuracy" in metrics:
        tables += [_accuracy_table(summary), _class_table(summary)]
    return tables


def further_tables(summary: Mapping[str, Any]) -> list[Table]:
    """The metrics that the main tables leave out."""
    chosen = [metric for metric in ("auc", "ap", "accuracy", "abaw2", "mse", "pcc") if metric in summary["metrics"]]
    if not chosen:
        return []
    header = ["AU"]
    for metric in chosen:
        header += [TITLES[metric]] + ["95 % interval"] * (metric != "ap")
    if "all_negative_accuracy" in summary["metrics"]:
        header.append("all-negative accuracy")
    header += ["frames with the AU", "known frames"]
    rows = []
    for name in _names(summary, chosen[0]):
        row = [name]
        for metric in chosen:
            row.append(_value(summary, metric, name))
            row += [_interval(summary, metric, name)] * (metric != "ap")
        if "all_negative_accuracy" in summary["metrics"]:
            row.append(_value(summary, "all_negative_accuracy", name))
        row += [f"{summary[count][name]:,}" if name in summary[count] else "" for count in ("positives", "known")]
        rows.append(row)
    return [Table(f"{summary['name']}: further metrics, mean of folds", header, rows)]


def _f1_table(summary: Mapping[str, Any]) -> Table:
    header = ["AU", *_fold_heads(summary), "mean of folds", "95 % interval", "folds", "pooled", "ROC-AUC", "prevalence"]
    rows = []
    for name in _names(summary, "f1"):
        rows.append(
            [
                name,
                *_fold_values(summary, "f1", name),
                _value(summary, "f1", name),
                _interval(summary, "f1", name),
                f"{summary['metrics']['f1']['defined_folds'][name]}/{len(summary['folds'])}",
                _value(summary, "f1", name, "pooled"),
                _value(summary, "auc", name),
                number_text("prevalence", summary["prevalence"][name]),
                _value(summary, "all_positive_f1", name),
            ]
        )
    return Table(
        f"{summary['name']}: F1 in percent at threshold 0.5{_stamp(summary)}",
        [*header, "all-positive F1"],
        rows,
        _notes(summary, "f1"),
    )


def _icc_table(summary: Mapping[str, Any]) -> Table:
    header = ["AU", *_fold_heads(summary), "pooled ICC", "95 % interval", "mean of folds", "MAE", "95 % interval"]
    rows = [
        [
            name,
            *_fold_values(summary, "icc", name),
            _value(summary, "icc", name, "pooled"),
            _interval(summary, "icc", name),
            _value(summary, "icc", name, "fold_mean"),
            _value(summary, "mae", name),
            _interval(summary, "mae", name),
            _value(summary, "all_zero_mae", name),
        ]
        for name in _names(summary, "icc")
    ]
    return Table(
        f"{summary['name']}: ICC(3,1) and MAE{_stamp(summary)}",
        [*header, "all-zero MAE"],
        rows,
        _notes(summary, "icc"),
    )


def _rank_table(summary: Mapping[str, Any]) -> Table:
    header = ["AU", *_fold_heads(summary), "mean of folds", "95 % interval", "frames with the AU", "known frames"]
    rows = [
        [
            name,
            *_fold_values(summary, "rank", name),
            _value(summary, "rank", name),
            _interval(summary, "rank", name),
            *(f"{summary[count][name]:,}" if name in summary[count] else "" for count in ("positives", "known")),
        ]
        for name in _names(summary, "rank")
    ]
    title = "rank correlation of pseudo-intensity and label, mean over videos in which the label changes"
    return Table(f"{summary['name']}: {title}{_stamp(summary)}", header, rows, _notes(summary, "rank"))


def _landmark_table(summary: Mapping[str, Any]) -> Table:
    header = ["", *_fold_heads(summary), "mean of folds", "95 % interval", "pooled", "frames with landmarks"]
    row = [
        "error",
        *_fold_values(summary, "nme", "mean"),
        _value(summary, "nme", "mean"),
        _interval(summary, "nme", "mean"),
        _value(summary, "nme", "mean", "pooled"),
        f"{summary['known']['landmarks']:,}",
    ]
    title = "mean error of the landmarks in percent of the distance of the outer eye corners"
    return Table(f"{summary['name']}: {title}{_stamp(summary)}", header, [row], _notes(summary, "nme"))


def _accuracy_table(summary: Mapping[str, Any]) -> Table:
    metric, name = "expression_accuracy", "expressions"
    header = ["", *_fold_heads(summary), "mean of folds", "95 % interval", "pooled", "majority class", "known frames"]
    row = [
        "accuracy",
        *_fold_values(summary, metric, name),
        _value(summary, metric, name),
        _interval(summary, metric, name),
        _value(summary, metric, name, "pooled"),
        _value(summary, "majority_accuracy", name),
        f"{sum(summary['class_frames'].values()):,}",
    ]
    caption = f"{summary['name']}: accuracy of expressions in percent{_stamp(summary)}"
    notes = [
        *_notes(summary, metric),
        "Majority class: share of the most frequent expression, the best constant answer.",
    ]
    return Table(caption, header, [row], notes)


def _class_table(summary: Mapping[str, Any]) -> Table:
    f1, recall = "expression_f1", "expression_recall"
    header = ["class", *_fold_heads(summary), "mean of folds", "95 % interval", "folds", "pooled"]
    rows = [
        [
            name,
            *_fold_values(summary, f1, name),
            _value(summary, f1, name),
            _interval(summary, f1, name),
            f"{summary['metrics'][f1]['defined_folds'][name]}/{len(summary['folds'])}",
            _value(summary, f1, name, "pooled"),
            _value(summary, recall, name),
            _interval(summary, recall, name),
            f"{summary['class_frames'][name]:,}" if name in summary["class_frames"] else "",
        ]
        for name in _names(summary, f1)
    ]
    caption = f"{summary['name']}: F1 of expressions in percent, classes and their mean (macro F1){_stamp(summary)}"
    return Table(caption, [*header, "recall", "95 % interval", "frames"], rows, _notes(summary, f1))


def _notes(summary: Mapping[str, Any], metric: str) -> list[str]:
    scores = summary["metrics"][metric]
    notes = []
    facts = summary["facts"]
    resampled = summary["bootstrap"]["resamples"]
    if resampled:
        notes.append(
            f"Interval: {resampled} resamples of the held-out {summary['bootstrap']['unit']} (seed "
            f"{summary['bootstrap']['seed']}). It holds the networks fixed: training variance is not in it."
        )
    else:
        notes.append("No interval: a fold has a single held-out subject, or no resamples were asked for.")
    if several := [fold for fold, seeds in summary["seeds"].items() if len(seeds) > 1]:
        spread = scores["fold_mean"]["mean"]["seed_sd"]
        numbers = ", ".join(f"P{fold}: {len(summary['seeds'][fold])}" for fold in several)
        overall = "" if spread is None else f"; of the mean of folds it is {number_text(metric, spread)}"
        notes.append(f"Fold values are means over seeds ({numbers}) ± their standard deviation{overall}.")
    names = _names(summary, metric)
    undefined = [name for name in names if scores["defined_folds"][name] == 0]
    partly = [
        f"{name} ({scores['defined_folds'][name]} of {len(summary['folds'])})"
        for name in names[:-1]
        if 0 < scores["defined_folds"][name] < len(summary["folds"])
    ]
    if undefined:
        notes.append(f"Without positives in every fold, so outside the mean: {', '.join(undefined)}.")
    if partly:
        notes.append(f"Defined in some folds only, mean over those: {', '.join(partly)}.")
    lost = scores[scores["headline"]]
    if counts := [f"{name} {lost[name]['lost']}" for name in names[:-1] if lost[name]["lost"]]:
        notes.append(f"Resamples in which a fold lost all positives: {', '.join(counts)}.")
    if facts["select_on"] == "test":
        notes.append("The epoch was chosen on the scored fold: these numbers are optimistic.")
    for name, value in summary["without_recalibration"].items():
        if name == f"{metric}_mean":
            notes.append(
                f"Without recalibrated batch statistics: {number_text(metric, value)} (mean over folds and AUs)."
            )
    if facts["task"] == "labels":
        notes.append("Labels reconstructed from themselves: no picture was looked at, and nothing was detected.")
    if summary["incomplete"]:
        notes.append(f"Unfinished and left out: {', '.join(summary['incomplete'])}.")
    return notes


def _stamp(summary: Mapping[str, Any]) -> str:
    facts = summary["facts"]
    edition = f" ({facts['edition']})" if facts["edition"] not in (None, "published") else ""
    return (
        f" · {facts['dataset']}{edition} · initialisation: {facts['initialisation'] or 'unknown'}"
        f" · selected on: {facts['select_on'] or 'unknown'}"
    )


def _names(summary: Mapping[str, Any], metric: str) -> list[str]:
    return list(summary["metrics"][metric]["fold_mean"])


def _fold_heads(summary: Mapping[str, Any]) -> list[str]:
    return [f"holdout-P{fold}" for fold in summary["folds"]]


def _fold_values(summary: Mapping[str, Any], metric: str, name: str) -> list[str]:
    scores = summary["metrics"][metric]
    cells = []
    for fold in map(str, summary["folds"]):
        spread = scores["fold_sd"][fold][name]
        cells.append(
            number_text(metric, scores["folds"][fold][name]) + (f" ± {number_text(metric, spread)}" if spread else "")
        )
    return cells


def _value(summary: Mapping[str, Any], metric: str, name: str, aggregation: str | None = None) -> str:
    scores = summary["metrics"][metric]
    return number_text(metric, scores[aggregation or scores["headline"]][name]["value"])


def _interval(summary: Mapping[str, Any], metric: str, name: str) -> str:
    scores = summary["metrics"][metric]
    cell = scores[scores["headline"]][name]
    return interval_text(metric, cell["low"], cell["high"])


def number_text(metric: str, value: float | None, signed: bool = False, digits: int | None = None) -> str:
    """A number as the field prints it: percent with one decimal, or a fraction with three."""
    if value is None or math.isnan(value):
        return "–"
    scale, places = (100, 1) if metric in PERCENT else (1, 3)
    return f"{scale * value:{'+' if signed else ''}.{places if digits is None else digits}f}"


def interval_text(metric: str, low: float | None, high: float | None, signed: bool = False) -> str:
    """`[low, high]` in the unit of `number_text`."""
    if low is None or high is None or math.isnan(low):
        return "–"
    return f"[{number_text(metric, low, signed)}, {number_text(metric, high, signed)}]"


def p_text(p: float) -> str:
    """Three decimals, or that it is below them."""
    if math.isnan(p):
        return "–"
    return "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")
