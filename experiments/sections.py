"""The parts of the report: facts, protocols, published numbers, figures."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from callbacks import figures
from experiments.evaluation import Evaluation
from experiments.ledgers import Experiment
from experiments.protocols import PROTOCOLS, Protocol
from experiments.published import PublishedRow, differences, load_published, unstated
from experiments.summary import PERCENT, TITLES, interval_text, number_text
from experiments.tables import Table
from lightning_modules.common.metrics import class_confusion, known_choices, known_pairs

HEADLINES = {
    **dict.fromkeys(("f1", "icc", "mae", "rank"), " over AUs"),
    **{"nme": "", "expression_accuracy": "", "expression_f1": " over classes"},
}
MONITORS = {
    **{"f1": "val/f1_mean", "icc": "val/icc_mean", "rank": "val/loss", "nme": "val/nme"},
    "expression_accuracy": "val/accuracy",
}
DPI = 130  # of the pictures
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
    """A part of the report; `run` names the one that all of it is about."""

    title: str
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    run: str = ""


@dataclass(frozen=True)
class Reading:
    """An experiment read under a protocol: its evaluation, or why there is none."""

    experiment: Experiment
    protocol: Protocol
    evaluation: Evaluation | None
    remark: str


def runs_section(rows: Mapping[str, Mapping[str, str]], left_out: Sequence[str] = ()) -> Section:
    """The facts behind the numbers: a row for each run, and a line for what all have in common.

    Args:
        rows: Name of a run -> its facts.
        left_out: Names of run folders that have nothing finished.
    """
    every = {fact: [of[fact] for of in rows.values()] for fact in next(iter(rows.values()))}
    known = {fact: values for fact, values in every.items() if any(values)}
    differing = [fact for fact, values in known.items() if len(set(values)) > 1]
    shared = [f"{fact}: {values[0]}" for fact, values in known.items() if fact not in differing]
    text = [f"In all runs: {'; '.join(shared)}."] if len(rows) > 1 and shared else []
    text += [f"Nothing finished, and left out: {', '.join(left_out)}."] if left_out else []
    shown = differing if len(rows) > 1 else list(known)
    cells = [[name, *(of[fact] or "–" for fact in shown)] for name, of in rows.items()]
    return Section("Runs", text, [Table("What was run", ["run", *shown], cells, text=True)])


def facts_of(summary: Mapping[str, Any]) -> dict[str, str]:
    """What a reader asks of a run, as text; empty where it does not apply."""
    facts = summary["facts"]
    seeds = (f"P{fold} ({', '.join(map(str, numbers))})" for fold, numbers in summary["seeds"].items())
    found = {
        "dataset": facts["dataset"],
        "edition": facts["edition"],
        "task": facts["task"],
        "AUs": " ".join(map(str, summary["aus"])),
        "expressions": " ".join(summary["expressions"]),
        "positive from intensity": facts["label_threshold"],
        "camera": facts["camera"],
        "frame set": facts["frame_set"],
        "subject lists": facts["split"],
        "model": facts["class"],
        "backbone": facts["backbone"],
        "parameters": facts["n_params"],
        "initialisation": facts["initialisation"],
        "weights of a run on": facts["trained_on"],
        "selected on": facts["select_on"],
        "finished folds (seeds)": ", ".join(seeds),
        "unfinished": ", ".join(summary["incomplete"]),
        "held-out subjects": " + ".join(map(str, summary["subjects"].values())),
        "held-out frames": " + ".join(f"{n:,}" for n in summary["frames"].values()),
        "precision": facts["precision"],
        "commit": facts["commit"],
        "licence of the data": facts["licence"],
    }
    return {fact: "" if value is None else str(value) for fact, value in found.items()}


def protocol_section(readings: Sequence[Reading]) -> Section:
    """One table a headline metric: runs by protocols."""
    names = list(dict.fromkeys(reading.protocol.name for reading in readings))
    by_run: dict[str, list[Reading]] = {}
    for reading in readings:
        by_run.setdefault(reading.experiment.name, []).append(reading)
    tables = []
    for metric, over in HEADLINES.items():
        rows = []
        for run, of_run in by_run.items():
            cells = [_protocol_cell(reading, metric) for reading in of_run]
            if any(cells):
                facts = of_run[0].experiment.facts
                start = [facts["initialisation"] or "unknown", facts["select_on"] or "unknown"]
                rows.append([run, *start, *(cell or "not available" for cell in cells)])
        if rows:
            header = ["run", "initialisation", "selected on", *names]
            tables.append(Table(f"Mean {TITLES[metric]}{over}, by protocol, with 95 % interval", header, rows))
    remarks: dict[str, list[str]] = {}
    for reading in readings:
        if reading.remark:
            remarks.setdefault(f"{reading.protocol.name}: {reading.remark}", []).append(reading.experiment.name)
    text = [f"{name}: {PROTOCOLS[name].text}" for name in names]
    return Section("Protocols", text + [f"{remark} ({', '.join(runs)})." for remark, runs in remarks.items()], tables)


def _protocol_cell(reading: Reading, metric: str) -> str | None:
    if reading.evaluation is None or metric not in reading.evaluation.metrics:
        return None
    found = reading.evaluation.headline(metric, reading.protocol.aggregation)
    return f"{number_text(metric, found.value[-1])} {interval_text(metric, found.low[-1], found.high[-1])}"


def published_section(pairs: Sequence[tuple[Experiment, Evaluation]]) -> Section:
    """The runs beside the published rows of their dataset, with differences where they are comparable."""
    pairs = [pair for pair in pairs if pair[0].facts["task"] != "labels"]  # reconstructed, not detected
    by_table: dict[tuple[str, int, str], list[PublishedRow]] = {}
    for row in load_published():
        by_table.setdefault((row.paper, row.table, row.metric), []).append(row)
    datasets = {rows[0].dataset for rows in by_table.values()}
    tested = {experiment.name: experiment.facts["dataset"] for experiment, _ in pairs}
    alone = [f"{name}: there are no published rows for {of}." for name, of in tested.items() if of not in datasets]
    tables = []
    for rows in by_table.values():
        first = rows[0]
        ours = [(e, v) for e, v in pairs if e.facts["dataset"] == first.dataset and first.metric in v.metrics]
        if ours:
            where = f"{first.citation}, table {first.table}, {TITLES[first.metric]} on {first.dataset}"
            means = _mean_differences(where, rows, ours)
            tables += [_values(where, rows, ours, means), means, _differences(where, rows, ours)]
    if not tables:
        return Section("Beside published numbers", alone or ["There are no published rows for these scores."])
    text = [
        "A difference is printed only where a run agrees with every fact that the publication states; otherwise the "
        "differing facts are named, as published vs run. No published row has an interval, or says on which data "
        "its epoch was chosen."
    ]
    return Section("Beside published numbers", text + alone, [table for table in tables if table.rows])


def _values(
    where: str, rows: Sequence[PublishedRow], ours: Sequence[tuple[Experiment, Evaluation]], differences: Table
) -> Table:
    """All values, the runs first; with what keeps them from being compared, since this table goes into papers."""
    metric, aus = rows[0].metric, rows[0].aus
    names = [*(f"AU{au:02d}" for au in aus), "mean"]
    labels = set(aus or rows[0].expressions)
    lines, notes = [], []
    for experiment, evaluation in ours:
        values = dict(zip(evaluation.columns(metric), evaluation.headline(metric).value, strict=True))
        if set(evaluation.aus if aus else evaluation.expressions) != labels:
            del values["mean"]  # it is over other AUs or classes than the column's
        facts = [experiment.facts["initialisation"] or "unknown", experiment.facts["select_on"] or "unknown"]
        found, interval = evaluation.headline(metric), "–"
        if "mean" in values:
            interval = interval_text(metric, found.low[-1], found.high[-1])
        lines.append(
            [experiment.name, *(_published_text(metric, values.get(name)) for name in names), interval, *facts]
        )
    doubts: dict[str, list[str]] = {}
    for column, (experiment, _) in enumerate(ours, 1):
        why: dict[str, list[str]] = {}
        for line in differences.rows:
            if line[column].startswith("not comparable"):
                why.setdefault(line[column], []).append(line[0])
        for text, methods in why.items():
            doubts.setdefault(f"{text} with {', '.join(methods)}", []).append(experiment.name)
    notes += [f"{', '.join(names)}: {text}." for text, names in doubts.items()]
    for row in rows:
        printed: dict[str, float | None] = {**row.values, "mean": row.mean}
        cells = (_published_text(metric, printed.get(name)) for name in names)
        lines.append([row.method, *cells, "–", "not stated", "not stated"])
        if row.recomputed is not None:
            recomputed = _published_text(metric, row.recomputed)
            notes.append(f"{row.method}: the printed values average {recomputed}, not the printed mean.")
    for note in dict.fromkeys(row.notes for row in rows if row.notes):
        notes.append(f"{note} ({', '.join(row.method for row in rows if row.notes == note)}).")
    notes += [f"{note}." for note in dict.fromkeys(row.table_notes for row in rows) if note]
    unit = ", percent" if metric in PERCENT else ""
    header = ["method", *names, "95 % interval", "initialisation", "selected on"]
    first = rows[0]
    tested = re.sub(r"[^\w+]+", "-", first.dataset).strip("-")
    name = f"{first.paper}_table{first.table}_{tested}_{metric}"
    return Table(f"{where}{unit}", header, lines, notes, name=name, rule=len(ours))


def _mean_differences(where: str, rows: Sequence[PublishedRow], ours: Sequence[tuple[Experiment, Evaluation]]) -> Table:
    """Run minus published mean, or why not."""
    lines = []
    unknown: dict[str, list[str]] = {}
    for row in rows:
        cells = []
        for experiment, evaluation in ours:
            facts = experiment.facts | evaluation.reading
            found = evaluation.headline(row.metric)
            if differing := differences(row, facts):
                cells.append(f"not comparable ({'; '.join(differing)})")
            elif row.mean is None:
                cells.append("–")
            else:
                inside = " (inside the run's interval)" if found.low[-1] <= row.mean <= found.high[-1] else ""
                cells.append(_published_text(row.metric, found.value[-1] - row.mean, signed=True) + inside)
                for fact in unstated(row, facts):
                    unknown.setdefault(fact, []).append(row.method)
        lines.append([row.method, *cells])
    notes = [f"{fact}: not stated for {', '.join(dict.fromkeys(methods))}." for fact, methods in unknown.items()]
    header = ["method", *(f"{experiment.name} minus published" for experiment, _ in ours)]
    return Table(f"{where}: difference of the mean", header, lines, notes, text=True)


def _differences(where: str, rows: Sequence[PublishedRow], ours: Sequence[tuple[Experiment, Evaluation]]) -> Table:
    """Per AU, run minus the paper's own rows (`report.csv` has all)."""
    lines = []
    for row in rows:
        for experiment, evaluation in ours:
            if row.source or not row.values or differences(row, experiment.facts | evaluation.reading):
                continue
            values = dict(zip(evaluation.columns(row.metric), evaluation.headline(row.metric).value, strict=True))
            delta = (values[name] - published for name, published in row.values.items())
            cells = [_published_text(row.metric, value, signed=True) for value in delta]
            lines.append([f"{experiment.name} minus {row.method}", *cells])
    return Table(f"{where}: difference by AU", ["pair", *(f"AU{au:02d}" for au in rows[0].aus)], lines)


def _published_text(metric: str, value: float | None, signed: bool = False) -> str:
    """With the digits that papers print: percent with one, fractions with two."""
    return number_text(metric, value, signed, digits=1 if metric in PERCENT else 2)


# ------------------------------------------------------------------------------------------------------- the pictures


def pictures(experiment: Experiment, evaluation: Evaluation) -> list[Picture]:
    """The figures of one experiment; those whose data it lacks are left out."""
    first, ledger = experiment.runs[0], experiment.held_out
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
        caption = "How often the AU of the column is present when that of the row is. Blank: the row never is."
        found.append(("cooccurrence", caption, figures.cooccurrence(true, prob >= 0.5, aus)))
        by_fold = dict(zip(names, evaluation.metrics["f1"].folds.T.tolist(), strict=False))
        by_subject = dict(zip(names, evaluation.subject_f1.T.tolist(), strict=True))
        caption = "F1 of single folds and of single held-out subjects that show the AU."
        found.append(("subjects", caption, figures.distribution(by_fold, by_subject)))
    if "icc" in evaluation.metrics:
        values = [column(evaluation.headline(metric).value) for metric in ("icc", "mae", "all_zero_mae")]
        caption = "Pooled ICC(3,1), and MAE beside that of always answering 0."
        found.append(("intensity", caption, figures.intensity_bars(*values)))
    if "expression_f1" in evaluation.metrics:
        classes = evaluation.expressions
        counts = class_confusion(*known_choices(ledger, classes), len(classes))
        caption = "Which expressions (rows) are taken for which (columns), in shares of the frames of the row."
        found.append(("confusion", caption, figures.confusion(counts, classes)))
    curves = {run.path.name: table for run in experiment.runs if (table := run.curves()) is not None}
    if curves:
        monitor = next(MONITORS[metric] for metric in MONITORS if metric in evaluation.metrics)
        found.append(("training", "Training loss and validation score.", figures.training_curves(curves, monitor)))
    model = first.result.get("model") or {}
    if "relation" in model:
        title = f"AU relation: {model.get('relation_kind', 'unknown kind')}, holdout-P{first.fold}"
        figure = figures.relation_matrix(model["relation"], first.result["aus"], title)
        found.append(("relation", "Relation matrix and its row sums, the denominators of RE-Net's Eq. 5.", figure))
    features = first.arrays("features")
    if features is not None and len(features["features"]) > 10:
        found.append(
            (
                "tsne",
                f"t-SNE of the features of held-out frames (holdout-P{first.fold}), by AU. As in RE-Net's Fig. 3.",
                _tsne(features),
            )
        )
    return [picture(f"{experiment.name}_{name}", caption, figure) for name, caption, figure in found]


def _tsne(arrays: Mapping[str, np.ndarray]) -> Figure:
    """Four AUs: those of the paper where there are, then the most frequent."""
    aus, true, features = arrays["aus"].tolist(), arrays["true"], arrays["features"]
    frequent = np.argsort(-(true == 1).sum(axis=0), kind="stable").tolist()
    order = sorted(range(len(aus)), key=lambda i: (aus[i] not in TSNE_AUS, frequent.index(i)))
    chosen = sorted(order[:4])
    return figures.tsne(
        features[:, chosen] if features.shape[1] > 1 else features, true[:, chosen], [aus[i] for i in chosen]
    )


def picture(name: str, caption: str, figure: Figure) -> Picture:
    """A figure drawn as PNG."""
    if (engine := figure.get_layout_engine()) is not None:
        figure.set_dpi(DPI)
        engine.execute(figure)
        figure.set_layout_engine(None)  # savefig would lay out and draw twice more, which takes most of the time
    buffer = BytesIO()
    # Without the version of matplotlib in it, equal figures are equal files.
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return Picture(name.replace(" ", "_"), caption, buffer.getvalue())
