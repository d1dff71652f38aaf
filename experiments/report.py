"""Tables, intervals and pictures of finished runs, from their ledgers alone.

    python experiments/report.py runs/renet_disfa [runs/resnet18_disfa ...] [--out DIR] [--protocols strict,paper,flip]

Writes `report.html` (one file, opens from disk), `report.md`, `report.csv` (every number, tidy), `report.tex`
(booktabs) and `figures/*.png`.
"""

import argparse
import base64
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from callbacks import figures
from datamodules.errors import DataError
from experiments.evaluation import Evaluation, compare, evaluate
from experiments.ledgers import Experiment, load_experiment
from experiments.protocols import PROTOCOLS, Protocol
from experiments.published import PublishedRow, differences, load_published, unstated
from experiments.tables import Table, to_latex, to_markdown, to_text
from experiments.terminal import exit_with
from lightning_modules.common.metrics import known_pairs, to_json

DEFAULT_PROTOCOLS = ("strict", "paper", "pooled")
PERCENT = {"f1", "accuracy", "all_positive_f1", "all_negative_accuracy"}
TITLES = {
    "f1": "F1",
    "accuracy": "accuracy",
    "auc": "ROC-AUC",
    "ap": "average precision",
    "icc": "ICC(3,1)",
    "mae": "MAE",
    "mse": "MSE",
    "pcc": "PCC",
}
LOWER_IS_BETTER = {"mae", "mse"}
HEADLINES = ("f1", "icc", "mae")
PAIRED = ("dataset", "edition", "label_threshold", "camera", "frame_set")  # equal, or runs are not compared
COMPARED = ("f1", "auc", "icc", "mae")
TSNE_AUS = (4, 10, 12, 24)  # the ones of RE-Net's Fig. 3


@dataclass(frozen=True)
class Picture:
    """A figure with its file name (without ending) and caption."""

    name: str
    caption: str
    png: bytes

    @property
    def base64(self) -> str:
        """The image as the text of a data address."""
        return base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Section:
    """A part of the report."""

    title: str
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


# ------------------------------------------------------------------------------------------------------- one summary


def summarize(run_dir: Path, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Everything that the ledgers of `runs/<name>` say at threshold 0.5, as plain JSON values (null = undefined).

    Returns:
        `name`, the facts of the runs, and `Evaluation.to_dict`: per metric fold values, mean of folds and pooled.

    Raises:
        DataError: Nothing finished is there, or a file is missing or damaged.
    """
    experiment = load_experiment(Path(run_dir))
    return _summary(experiment, evaluate(experiment, resamples=resamples, seed=seed))


def _summary(experiment: Experiment, evaluation: Evaluation) -> dict[str, Any]:
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
    """The per-AU tables of a summary: F1 and what stands beside it, or ICC and MAE, and the further metrics."""
    metrics = summary["metrics"]
    tables = []
    if "f1" in metrics:
        tables.append(_f1_table(summary))
    if "icc" in metrics:
        tables.append(_icc_table(summary))
    return tables


def further_table(summary: Mapping[str, Any]) -> Table:
    """The metrics that the main tables leave out."""
    chosen = [metric for metric in ("auc", "ap", "accuracy", "mse", "pcc") if metric in summary["metrics"]]
    header = ["AU"]
    for metric in chosen:
        header += [TITLES[metric]] + ["95 % interval"] * (metric != "ap")
    if "all_negative_accuracy" in summary["metrics"]:
        header.append("all-negative accuracy")
    header += ["frames with the AU", "known frames"]
    rows = []
    for name in _names(summary):
        row = [name]
        for metric in chosen:
            row.append(_value(summary, metric, name))
            row += [_interval(summary, metric, name)] * (metric != "ap")
        if "all_negative_accuracy" in summary["metrics"]:
            row.append(_value(summary, "all_negative_accuracy", name))
        row += [f"{summary['positives'][name]:,}", f"{summary['known'][name]:,}"]
        rows.append(row)
    return Table(f"{summary['name']}: further metrics, mean of folds", header, rows)


def _f1_table(summary: Mapping[str, Any]) -> Table:
    header = ["AU", *_fold_heads(summary), "mean of folds", "95 % interval", "folds", "pooled", "ROC-AUC", "prevalence"]
    rows = []
    for name in _names(summary):
        share = summary["positives"][name] / max(1, summary["known"][name])
        rows.append(
            [
                name,
                *_fold_values(summary, "f1", name),
                _value(summary, "f1", name),
                _interval(summary, "f1", name),
                f"{summary['metrics']['f1']['defined_folds'][name]}/{len(summary['folds'])}",
                _value(summary, "f1", name, "pooled"),
                _value(summary, "auc", name),
                f"{100 * share:.1f}",
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
        for name in _names(summary)
    ]
    return Table(
        f"{summary['name']}: ICC(3,1) and MAE{_stamp(summary)}",
        [*header, "all-zero MAE"],
        rows,
        _notes(summary, "icc"),
    )


def _notes(summary: Mapping[str, Any], metric: str) -> list[str]:
    scores = summary["metrics"][metric]
    notes = []
    facts = summary["facts"]
    resampled = summary["bootstrap"]["resamples"]
    if resampled:
        notes.append(
            f"Interval: {resampled} resamples of the held-out subjects within folds (seed "
            f"{summary['bootstrap']['seed']}). It holds the networks fixed: training variance is not in it."
        )
    else:
        notes.append("No interval: a fold has a single held-out subject, or no resamples were asked for.")
    if several := [fold for fold, seeds in summary["seeds"].items() if len(seeds) > 1]:
        spread = scores["fold_mean"]["mean"]["seed_sd"]
        counts = ", ".join(f"P{fold}: {len(summary['seeds'][fold])}" for fold in several)
        overall = "" if spread is None else f"; of the mean of folds it is {_format(metric, spread)}"
        notes.append(f"Fold values are means over seeds ({counts}) ± their standard deviation{overall}.")
    undefined = [name for name in _names(summary) if scores["defined_folds"][name] == 0]
    partly = [
        f"{name} ({scores['defined_folds'][name]} of {len(summary['folds'])})"
        for name in _names(summary)[:-1]
        if 0 < scores["defined_folds"][name] < len(summary["folds"])
    ]
    if undefined:
        notes.append(f"Without positives in every fold, so outside the mean: {', '.join(undefined)}.")
    if partly:
        notes.append(f"Defined in some folds only, mean over those: {', '.join(partly)}.")
    lost = scores[scores["headline"]]
    if names := [f"{name} {lost[name]['lost']}" for name in _names(summary)[:-1] if lost[name]["lost"]]:
        notes.append(f"Resamples in which a fold lost all positives: {', '.join(names)}.")
    if facts["select_on"] == "test":
        notes.append("The epoch was chosen on the scored fold: these numbers are optimistic.")
    for name, value in summary["without_recalibration"].items():
        if name == f"{metric}_mean":
            notes.append(f"Without recalibrated batch statistics: {_format(metric, value)} (mean over folds and AUs).")
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


def _names(summary: Mapping[str, Any]) -> list[str]:
    return [*(f"AU{au:02d}" for au in summary["aus"]), "mean"]


def _fold_heads(summary: Mapping[str, Any]) -> list[str]:
    return [f"holdout-P{fold}" for fold in summary["folds"]]


def _fold_values(summary: Mapping[str, Any], metric: str, name: str) -> list[str]:
    scores = summary["metrics"][metric]
    cells = []
    for fold in map(str, summary["folds"]):
        spread = scores["fold_sd"][fold][name]
        cells.append(_format(metric, scores["folds"][fold][name]) + (f" ± {_format(metric, spread)}" if spread else ""))
    return cells


def _value(summary: Mapping[str, Any], metric: str, name: str, aggregation: str | None = None) -> str:
    scores = summary["metrics"][metric]
    return _format(metric, scores[aggregation or scores["headline"]][name]["value"])


def _interval(summary: Mapping[str, Any], metric: str, name: str) -> str:
    scores = summary["metrics"][metric]
    cell = scores[scores["headline"]][name]
    return _range(metric, cell["low"], cell["high"])


def _format(metric: str, value: float | None, signed: bool = False, digits: int | None = None) -> str:
    """A number as the field prints it: percent with one decimal, or a fraction with three."""
    if value is None or math.isnan(value):
        return "–"
    scale, places = (100, 1) if metric in PERCENT else (1, 3)
    return f"{scale * value:{'+' if signed else ''}.{places if digits is None else digits}f}"


def _range(metric: str, low: float | None, high: float | None, signed: bool = False) -> str:
    if low is None or high is None or math.isnan(low):
        return "–"
    return f"[{_format(metric, low, signed)}, {_format(metric, high, signed)}]"


# ------------------------------------------------------------------------------------------------------- the sections


@dataclass(frozen=True)
class _Reading:
    """An experiment read under a protocol: its evaluation, or why there is none."""

    experiment: Experiment
    protocol: Protocol
    evaluation: Evaluation | None
    remark: str


def _runs_section(summaries: Sequence[Mapping[str, Any]]) -> Section:
    """The facts behind the numbers, one column a run."""
    facts: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "dataset": lambda s: s["facts"]["dataset"],
        "edition": lambda s: s["facts"]["edition"],
        "task": lambda s: s["facts"]["task"],
        "AUs": lambda s: " ".join(map(str, s["aus"])),
        "positive from intensity": lambda s: s["facts"]["label_threshold"],
        "camera": lambda s: s["facts"]["camera"],
        "frame set": lambda s: s["facts"]["frame_set"],
        "model": lambda s: s["facts"]["class"],
        "backbone": lambda s: s["facts"]["backbone"],
        "parameters": lambda s: s["facts"]["n_params"],
        "initialisation": lambda s: s["facts"]["initialisation"],
        "selected on": lambda s: s["facts"]["select_on"],
        "finished folds (seeds)": lambda s: ", ".join(f"P{fold} ({_listed(ids)})" for fold, ids in s["seeds"].items()),
        "unfinished": lambda s: ", ".join(s["incomplete"]),
        "held-out subjects": lambda s: " + ".join(map(str, s["subjects"].values())),
        "held-out frames": lambda s: " + ".join(f"{n:,}" for n in s["frames"].values()),
        "precision": lambda s: s["facts"]["precision"],
        "commit": lambda s: s["facts"]["commit"],
        "licence of the data": lambda s: s["facts"]["licence"],
    }
    rows = []
    for fact, read in facts.items():
        values = [read(summary) for summary in summaries]
        if any(value not in (None, "") for value in values):
            rows.append([fact, *("–" if value in (None, "") else str(value) for value in values)])
    return Section("Runs", tables=[Table("What was run", ["fact", *(s["name"] for s in summaries)], rows)])


def _protocol_section(readings: Sequence[_Reading]) -> Section:
    """One table a headline metric: runs by protocols."""
    names = list(dict.fromkeys(reading.protocol.name for reading in readings))
    experiments = list({reading.experiment.name: reading.experiment for reading in readings}.values())
    by_key = {(reading.experiment.name, reading.protocol.name): reading for reading in readings}
    tables = []
    for metric in HEADLINES:
        rows = []
        for experiment in experiments:
            cells = []
            for name in names:
                reading = by_key[experiment.name, name]
                if reading.evaluation is None:
                    cells.append("not available")
                elif metric not in reading.evaluation.metrics:
                    break
                else:
                    found = reading.evaluation.headline(metric, reading.protocol.aggregation)
                    cells.append(f"{_format(metric, found.value[-1])} {_range(metric, found.low[-1], found.high[-1])}")
            facts = experiment.facts
            if len(cells) == len(names) and any(cell != "not available" for cell in cells):
                rows.append(
                    [experiment.name, facts["initialisation"] or "unknown", facts["select_on"] or "unknown", *cells]
                )
        if rows:
            header = ["run", "initialisation", "selected on", *names]
            tables.append(Table(f"Mean {TITLES[metric]} over AUs, by protocol, with 95 % interval", header, rows))
    text = [f"{name}: {PROTOCOLS[name].text}" for name in names]
    text += [f"{r.experiment.name}, {r.protocol.name}: {r.remark}." for r in readings if r.remark]
    return Section("Protocols", text, tables)


def _comparison_section(pairs: Sequence[tuple[Experiment, Evaluation]]) -> Section:
    """Paired differences of every two runs."""
    text = [
        "Paired by subject: both runs are scored on the same resampled subjects. A tie is a difference whose 95 % "
        "interval includes 0. Training variance is not in the interval; several seeds show it."
    ]
    tables = []
    for (first, a), (second, b) in itertools.combinations(pairs, 2):
        title = f"{first.name} minus {second.name}"
        differing = [fact.replace("_", " ") for fact in PAIRED if first.facts[fact] != second.facts[fact]]
        common = [metric for metric in COMPARED if metric in a.metrics and metric in b.metrics]
        if a.subjects != b.subjects:
            differing.append("held-out subjects")
        if differing or not common:
            text.append(f"{title}: not compared ({', '.join(differing) or 'different tasks'}).")
            continue
        found = {metric: compare(a, b, metric) for metric in common}
        header = ["AU"]
        for metric in common:
            header += [f"{TITLES[metric]}", "95 % interval", "verdict"]
        rows = []
        for row, name in enumerate(found[common[0]].names):
            cells = [name]
            for metric, difference in found.items():
                better = (difference.value[row] > 0) != (metric in LOWER_IS_BETTER)
                verdict = "better" if better else "worse"
                if math.isnan(difference.low[row]):
                    verdict = "–"
                elif difference.ties[row]:
                    verdict = "tie"
                cells += [
                    _format(metric, difference.value[row], signed=True),
                    _range(metric, difference.low[row], difference.high[row], signed=True),
                    verdict,
                ]
            rows.append(cells)
        tables.append(Table(title, header, rows))
    return Section("Comparison of the runs", text, tables)


def _published_section(pairs: Sequence[tuple[Experiment, Evaluation]]) -> Section:
    """The runs among the published rows of their dataset, with differences where they are comparable."""
    tables = []
    for metric in HEADLINES:
        ours = [(e, v) for e, v in pairs if metric in v.metrics]
        for rows in _published_tables(metric, {experiment.facts["dataset"] for experiment, _ in ours}):
            tables += _published_tables_of(rows, [(e, v) for e, v in ours if e.facts["dataset"] == rows[0].dataset])
    text = [
        "A difference is printed only where the facts agree that the publication states; otherwise those that differ "
        "are named, as published vs run. Published rows give no interval, and none says on which data its epoch was "
        "chosen."
    ]
    return Section("Beside published numbers", text if tables else ["No published rows for this dataset yet."], tables)


def _published_tables(metric: str, datasets: Iterable[str]) -> list[list[PublishedRow]]:
    """Published rows by table."""
    rows = [row for row in load_published() if row.metric == metric and row.dataset in datasets]
    by_table: dict[tuple[str, int], list[PublishedRow]] = {}
    for row in rows:
        by_table.setdefault((row.paper, row.table), []).append(row)
    return list(by_table.values())


def _published_tables_of(rows: Sequence[PublishedRow], ours: Sequence[tuple[Experiment, Evaluation]]) -> list[Table]:
    first = rows[0]
    metric, digits = first.metric, None if first.metric in PERCENT else 2
    names = [f"AU{au:02d}" for au in first.aus]
    lines, deltas, notes = [], [], []
    for experiment, evaluation in ours:
        aggregate = evaluation.headline(metric)
        values = dict(zip(evaluation.names, aggregate.value, strict=True))
        lines.append(
            [
                experiment.name,
                *(_format(metric, values.get(name), digits=digits) for name in [*names, "mean"]),
                experiment.facts["initialisation"] or "unknown",
                experiment.facts["select_on"] or "unknown",
                *(["–"] * len(ours)),
            ]
        )
    unknown: dict[str, list[str]] = {}
    for row in rows:
        verdicts = []
        for experiment, evaluation in ours:
            facts = experiment.facts | {"aus": evaluation.aus}
            if found := differences(row, facts):
                verdicts.append(f"not comparable ({'; '.join(found)})")
                continue
            for fact in unstated(row, facts):
                unknown.setdefault(fact, []).append(row.method)
            aggregate = evaluation.headline(metric)
            verdicts.append(_difference(row, aggregate.value[-1], aggregate.low[-1], aggregate.high[-1], digits))
            if row.values:
                values = dict(zip(evaluation.names, aggregate.value, strict=True))
                cells = [_format(metric, values[name] - row.values[name], True, digits) for name in names]
                mean = _format(metric, values["mean"] - row.mean, True, digits) if row.mean is not None else "–"
                deltas.append([f"{experiment.name} minus {row.method}", *cells, mean])
        printed = [*(row.values.get(name) for name in names), row.mean]
        cells = [_format(metric, value, digits=digits) for value in printed]
        lines.append([row.method, *cells, "not stated", "not stated", *verdicts])
        if row.recomputed is not None:
            mean = _format(metric, row.recomputed, digits=digits)
            notes.append(f"{row.method}: the printed values average {mean}, not the printed mean.")
        if row.notes:
            notes.append(f"{row.method}: {row.notes}.")
    for fact, methods in unknown.items():
        notes.append(f"The source does not state the {fact} of: {', '.join(dict.fromkeys(methods))}.")
    unit = " in percent" if metric in PERCENT else ""
    header = ["method", *names, "mean", "initialisation", "selected on"]
    source = f"{first.paper}, table {first.table}: {TITLES[metric]}{unit} on {first.dataset}"
    tables = [Table(source, [*header, *(f"mean of {e.name} minus published" for e, _ in ours)], lines, notes)]
    if deltas:
        tables.append(Table(f"Differences to {first.paper}, table {first.table}", ["pair", *names, "mean"], deltas))
    return tables


def _difference(row: PublishedRow, value: float, low: float, high: float, digits: int | None) -> str:
    if row.mean is None:
        return "–"
    cell = _format(row.metric, value - row.mean, signed=True, digits=digits)
    return f"{cell} (inside our interval)" if low <= row.mean <= high else cell


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


# ------------------------------------------------------------------------------------------------------- the pictures


def _pictures(experiment: Experiment, evaluation: Evaluation) -> list[Picture]:
    """The figures of one experiment; those whose data it lacks are left out."""
    first = [next(run for run in experiment.runs if run.fold == fold) for fold in experiment.folds]
    ledger = pd.concat([run.ledger() for run in first], ignore_index=True)
    names, aus = evaluation.names[:-1], evaluation.aus
    found: list[tuple[str, str, Figure]] = []

    def column(values: np.ndarray) -> dict[str, float]:
        return dict(zip(names, values.tolist(), strict=False))

    if "f1" in evaluation.metrics:
        f1 = evaluation.headline("f1")
        prevalence = column(evaluation.positives / np.maximum(evaluation.known, 1))
        limits = (column(f1.low), column(f1.high)) if evaluation.resamples else (None, None)
        figure = figures.f1_against_prevalence(prevalence, column(f1.value), *limits)
        found.append(("prevalence", "Mean F1 of the folds against prevalence.", figure))
        pairs = {name: known_pairs(ledger, f"{name}_true", f"{name}_prob") for name in names}
        caption = "Precision and recall over all held-out frames. Dot: threshold 0.5; dashed: prevalence."
        found.append(("precision_recall", caption, figures.precision_recall(pairs)))
        true = ledger[[f"{name}_true" for name in names]].to_numpy()
        prob = ledger[[f"{name}_prob" for name in names]].to_numpy(np.float64)
        caption = "How often the AU of the column is present when that of the row is."
        found.append(("cooccurrence", caption, figures.cooccurrence(true, prob >= 0.5, aus)))
        by_fold = dict(zip(names, evaluation.metrics["f1"].folds.T.tolist(), strict=False))
        by_subject = dict(zip(names, evaluation.subject_f1.T.tolist(), strict=True))
        caption = "F1 of single folds and of single held-out subjects that show the AU."
        found.append(("subjects", caption, figures.distribution(by_fold, by_subject)))
    if "icc" in evaluation.metrics:
        values = [column(evaluation.headline(metric).value) for metric in ("icc", "mae", "all_zero_mae")]
        caption = "Pooled ICC(3,1), and MAE beside that of always answering 0."
        found.append(("intensity", caption, figures.intensity_bars(*values)))
    curves = {run.path.name: table for run in experiment.runs if (table := run.curves()) is not None}
    if curves:
        monitor = "val/f1_mean" if "f1" in evaluation.metrics else "val/icc_mean"
        found.append(("training", "Training loss and validation score.", figures.training_curves(curves, monitor)))
    model = first[0].result.get("model") or {}
    if "relation" in model:
        title = f"AU relation, {model.get('relation_kind', '')} (fold {first[0].fold})"
        figure = figures.relation_matrix(model["relation"], first[0].result["aus"], title)
        found.append(("relation", "Relation matrix and its row sums, the denominators of RE-Net's Eq. 5.", figure))
    features = first[0].features()
    if features is not None and len(features["features"]) > 10:
        found.append(
            (
                "tsne",
                f"t-SNE of the features of held-out frames (fold {first[0].fold}), by AU. As in RE-Net's Fig. 3.",
                _tsne(features),
            )
        )
    return [Picture(f"{experiment.name}_{name}", caption, _png(figure)) for name, caption, figure in found]


def _tsne(arrays: Mapping[str, np.ndarray]) -> Figure:
    """Four AUs: those of the paper where there are, then the most frequent."""
    aus, true, features = arrays["aus"].tolist(), arrays["true"], arrays["features"]
    frequent = np.argsort(-(true == 1).sum(axis=0), kind="stable").tolist()
    order = sorted(range(len(aus)), key=lambda i: (aus[i] not in TSNE_AUS, frequent.index(i)))
    chosen = sorted(order[:4])
    return figures.tsne(
        features[:, chosen] if features.shape[1] > 1 else features, true[:, chosen], [aus[i] for i in chosen]
    )


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    # Without the version of matplotlib in it, equal figures are equal files.
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()


# -------------------------------------------------------------------------------------------------------- the numbers


def _tidy(readings: Sequence[_Reading], pairs: Sequence[tuple[Experiment, Evaluation]]) -> pd.DataFrame:
    """Every number, one a row: fold values, both aggregates, and the differences to comparable published rows."""
    rows: list[dict[str, Any]] = []
    for reading in readings:
        if (evaluation := reading.evaluation) is None:
            continue
        tuned = reading.protocol.name == "tuned"
        for metric, scores in evaluation.metrics.items():
            key = {
                "run": reading.experiment.name,
                "protocol": reading.protocol.name,
                "metric": f"{metric}_tuned" if tuned and metric in ("f1", "accuracy") else metric,
            }
            defined = np.isfinite(scores.folds).sum(axis=0)
            for column, name in enumerate(evaluation.names):
                for fold, values, spread in zip(evaluation.folds, scores.folds, scores.fold_sd, strict=True):
                    rows.append(
                        key
                        | {"au": name, "scope": f"holdout-P{fold}", "value": values[column], "seed_sd": spread[column]}
                    )
                for scope in ("fold_mean", "pooled"):
                    part = getattr(scores, scope)
                    fields = ("value", "low", "high", "lost", "seed_sd")
                    numbers = {field: getattr(part, field)[column] for field in fields}
                    rows.append(
                        key
                        | {"au": name, "scope": scope, "folds": defined[column], **numbers}
                        | {"headline": part is evaluation.headline(metric, reading.protocol.aggregation)}
                    )
    for experiment, evaluation in pairs:
        for row in load_published():
            facts = experiment.facts | {"aus": evaluation.aus}
            if row.dataset != facts["dataset"] or row.metric not in evaluation.metrics or differences(row, facts):
                continue
            aggregate = evaluation.headline(row.metric)
            values = dict(zip(evaluation.names, aggregate.value, strict=True))
            printed = row.values | ({"mean": row.mean} if row.mean is not None else {})
            rows += [
                {
                    "run": experiment.name,
                    "protocol": "published",
                    "metric": row.metric,
                    "au": name,
                    "scope": f"minus {row.id}",
                    "value": values[name] - published,
                }
                for name, published in printed.items()
            ]
    columns = [
        "run",
        "protocol",
        "metric",
        "au",
        "scope",
        "value",
        "low",
        "high",
        "lost",
        "folds",
        "seed_sd",
        "headline",
    ]
    return pd.DataFrame(rows).reindex(columns=columns)


def write_report(
    run_dirs: Sequence[Path],
    out: Path | None = None,
    protocols: Sequence[str] = DEFAULT_PROTOCOLS,
    resamples: int = 1000,
    seed: int = 0,
) -> Path:
    """Write the report of one or several runs.

    Args:
        run_dirs: Folders `runs/<name>`.
        out: Where to write; default is `report` in the first of them.
        protocols: Names of `PROTOCOLS`.
        resamples: Bootstrap resamples; 0 = no intervals.
        seed: Of the resampling.

    Returns:
        Path of `report.html`.

    Raises:
        DataError: An unknown protocol, nothing finished to report, or a damaged file.
    """
    if unknown := [name for name in protocols if name not in PROTOCOLS]:
        raise DataError(f"unknown protocol: {', '.join(unknown)}", f"choose from {', '.join(PROTOCOLS)}")
    experiments = [load_experiment(Path(path)) for path in run_dirs]
    if repeated := [name for name, of in itertools.groupby(sorted(e.name for e in experiments)) if len(list(of)) > 1]:
        raise DataError(f"two run folders are named {repeated[0]}", "give each run once, or rename one folder")
    out = Path(out) if out is not None else experiments[0].path / "report"
    steps = tqdm(total=len(experiments) * (len(protocols) + 2), desc="report", unit="step", leave=False)
    with steps:
        pairs, readings = [], []
        for experiment in experiments:
            pairs.append((experiment, evaluate(experiment, resamples=resamples, seed=seed)))
            steps.update()
            for name in protocols:
                readings.append(_read(experiment, PROTOCOLS[name], pairs[-1][1], resamples, seed))
                steps.update()
        summaries = [_summary(experiment, evaluation) for experiment, evaluation in pairs]
        sections = [_runs_section(summaries), _protocol_section(readings)]
        for summary in summaries:
            sections.append(Section(summary["name"], tables=[*main_tables(summary), further_table(summary)]))
        if len(pairs) > 1:
            sections.append(_comparison_section(pairs))
        sections.append(_published_section(pairs))
        for experiment, evaluation in pairs:
            sections.append(Section(f"Figures: {experiment.name}", pictures=_pictures(experiment, evaluation)))
            steps.update()
    _write(out, sections, _tidy(readings, pairs))
    return out / "report.html"


def _read(experiment: Experiment, protocol: Protocol, plain: Evaluation, resamples: int, seed: int) -> _Reading:
    if reason := protocol.refuse(experiment):
        return _Reading(experiment, protocol, None, f"not available: {reason}")
    remark = protocol.remark(experiment) or ""
    if (protocol.ledger, protocol.thresholds) == (PROTOCOLS["strict"].ledger, PROTOCOLS["strict"].thresholds):
        return _Reading(experiment, protocol, plain, remark)  # another view of the same scores
    if protocol.thresholds is not PROTOCOLS["strict"].thresholds and "f1" not in plain.metrics:
        return _Reading(experiment, protocol, None, "not available: intensities have no threshold")
    evaluation = evaluate(experiment, protocol.ledger, protocol.thresholds, resamples, seed)
    return _Reading(experiment, protocol, evaluation, remark)


def _write(out: Path, sections: Sequence[Section], numbers: pd.DataFrame) -> None:
    (out / "figures").mkdir(parents=True, exist_ok=True)
    title = "Report: " + ", ".join(numbers["run"].unique())
    intro = ["Made from the prediction ledgers alone. Undefined values are shown as – and stay out of means."]
    markdown = [f"# {title}", *intro]
    latex = ["% needs \\usepackage{booktabs}"]
    for section in sections:
        markdown += [f"## {section.title}", *section.text, *map(to_markdown, section.tables)]
        latex += map(to_latex, section.tables)
        for picture in section.pictures:
            (out / "figures" / f"{picture.name}.png").write_bytes(picture.png)
            markdown.append(f"![{picture.caption}](figures/{picture.name}.png)\n\n{picture.caption}")
    (out / "report.md").write_text("\n\n".join(markdown) + "\n")
    (out / "report.tex").write_text("\n\n".join(latex) + "\n")
    numbers.to_csv(out / "report.csv", index=False)
    template = Path(__file__).with_name("report.html.j2").read_text()
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(template)
    (out / "report.html").write_text(page.render(title=title, intro=intro, sections=sections))


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, print the main tables, write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNDIR", help="folder of a run name: runs/renet_disfa")
    parser.add_argument("--out", type=Path, help="folder to write to (default: RUNDIR/report of the first run)")
    parser.add_argument(
        "--protocols", default=",".join(DEFAULT_PROTOCOLS), help=f"comma-separated, from {', '.join(PROTOCOLS)}"
    )
    parser.add_argument("--bootstrap", type=int, default=1000, metavar="N", help="resamples; 0: no intervals")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling")
    options = parser.parse_args(arguments)
    for path in options.runs:
        print_table(summarize(path, options.bootstrap, options.seed))
    page = write_report(options.runs, options.out, options.protocols.split(","), options.bootstrap, options.seed)
    print(f"\nreport: {page}")
    return 0


if __name__ == "__main__":
    exit_with(main)
