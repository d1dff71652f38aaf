"""Tables, intervals and pictures of finished runs, from their ledgers alone.

    python experiments/report.py runs/renet_disfa [runs/resnet18_disfa ...] [--out DIR] [--protocols strict,paper,flip]

Writes `report.html` (one file, opens from disk), `report.md`, `report.csv` (every number, tidy), `report.tex`
(booktabs) and `figures/*.png`.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from datamodules.errors import DataError
from experiments.analysis.sections import analysis_sections
from experiments.evaluation import Evaluation, evaluate, one_half
from experiments.ledgers import Experiment, load_experiment
from experiments.pages import write_pages
from experiments.protocols import PROTOCOLS, Protocol
from experiments.published import differences, load_published
from experiments.sections import (
    Reading,
    Section,
    comparison_section,
    pictures,
    protocol_section,
    published_section,
    runs_section,
)
from experiments.summary import further_tables, main_tables, print_table, summarize, summary_of
from experiments.tables import to_latex
from experiments.terminal import exit_with

DEFAULT_PROTOCOLS = ("strict", "paper", "pooled")
NUMBERS = ["value", "low", "high", "lost", "seed_sd"]
COLUMNS = ["run", "protocol", "metric", "au", "scope", *NUMBERS, "folds", "headline"]

__all__ = ["print_table", "summarize", "write_report"]


def _tidy(readings: Sequence[Reading], pairs: Sequence[tuple[Experiment, Evaluation]]) -> pd.DataFrame:
    """Every number, one a row: fold values, both aggregates, and the differences to comparable published rows."""
    rows: list[dict[str, Any]] = []
    for reading in readings:
        if (evaluation := reading.evaluation) is None:
            continue
        tuned = reading.protocol.thresholds is not one_half
        for metric, scores in evaluation.metrics.items():
            key = {
                "run": reading.experiment.name,
                "protocol": reading.protocol.name,
                "metric": f"{metric}_tuned" if tuned and metric in ("f1", "accuracy") else metric,
            }
            defined = np.isfinite(scores.folds).sum(axis=0)
            for column, name in enumerate(evaluation.columns(metric)):
                for fold, values, spread in zip(evaluation.folds, scores.folds, scores.fold_sd, strict=True):
                    rows.append(
                        key
                        | {"au": name, "scope": f"holdout-P{fold}", "value": values[column], "seed_sd": spread[column]}
                    )
                for scope in ("fold_mean", "pooled"):
                    part = getattr(scores, scope)
                    numbers = {number: getattr(part, number)[column] for number in NUMBERS}
                    rows.append(
                        key
                        | {"au": name, "scope": scope, "folds": defined[column], **numbers}
                        | {"headline": part is evaluation.headline(metric, reading.protocol.aggregation)}
                    )
    for experiment, evaluation in pairs:
        for row in load_published():
            facts = experiment.facts | evaluation.reading
            if row.dataset != facts["dataset"] or row.metric not in evaluation.metrics or differences(row, facts):
                continue
            aggregate = evaluation.headline(row.metric)
            values = dict(zip(evaluation.columns(row.metric), aggregate.value, strict=True))
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
    return pd.DataFrame(rows, columns=COLUMNS)


def write_report(
    run_dirs: Sequence[Path],
    out: Path | None = None,
    protocols: Sequence[str] = DEFAULT_PROTOCOLS,
    resamples: int = 1000,
    seed: int = 0,
) -> Path:
    """Write the report of one or several runs; of one that was tested on several datasets, also for each of them.

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
    whole = [load_experiment(Path(path)) for path in run_dirs]
    experiments = [experiment for run in whole for experiment in (run, *run.parts())]
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
        summaries = [summary_of(experiment, evaluation) for experiment, evaluation in pairs]
        sections = [runs_section(summaries), protocol_section(readings)]
        for summary in summaries:
            sections.append(Section(summary["name"], tables=[*main_tables(summary), *further_tables(summary)]))
        if len(pairs) > 1:
            sections.append(comparison_section(pairs))
        sections.append(published_section(pairs))
        sections += analysis_sections(pairs)
        for experiment, evaluation in pairs:
            sections.append(Section(f"Figures: {experiment.name}", pictures=pictures(experiment, evaluation)))
            steps.update()
    _write(out, sections, _tidy(readings, pairs))
    return out / "report.html"


def _read(experiment: Experiment, protocol: Protocol, plain: Evaluation, resamples: int, seed: int) -> Reading:
    if reason := protocol.refuse(experiment):
        return Reading(experiment, protocol, None, f"not available: {reason}")
    chosen = protocol.choose(experiment)
    if protocol.ledger == "predictions" and protocol.thresholds is one_half and chosen is experiment:
        evaluation = plain  # another view of the same scores
    else:
        evaluation = evaluate(chosen, protocol.ledger, protocol.thresholds, resamples, seed)
    return Reading(experiment, protocol, evaluation, protocol.remark(experiment) or "")


def _write(out: Path, sections: Sequence[Section], numbers: pd.DataFrame) -> None:
    title = "Report: " + ", ".join(numbers["run"].unique())
    intro = ["Made from the prediction ledgers alone. Undefined values are shown as – and stay out of means."]
    write_pages(out, "report", title, intro, sections)
    latex = ["% needs \\usepackage{booktabs}", *(to_latex(table) for section in sections for table in section.tables)]
    (out / "report.tex").write_text("\n\n".join(latex) + "\n")
    numbers.to_csv(out / "report.csv", index=False)


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
    page = write_report(options.runs, options.out, options.protocols.split(","), options.bootstrap, options.seed)
    for path in options.runs:
        print_table(summarize(path, options.bootstrap, options.seed))
    print(f"\nreport: {page}")
    return 0


if __name__ == "__main__":
    exit_with(main)
