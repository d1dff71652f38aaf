"""Tables, intervals and pictures of finished runs, from their ledgers alone.

    python experiments/report.py runs/renet_disfa [runs/resnet18_disfa ...] [--out DIR] [--protocols strict,paper,flip]
    python experiments/report.py runs                                             # of all runs in a folder

Writes `report.html` (one file, opens from disk; search, filter and sort), `report.md`, `report.csv` (every number,
tidy), `report.tex` (booktabs; the papers' tables, ours beside the published rows, also alone in `tables/`), `figures/`.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from datamodules.errors import DataError
from experiments.analysis.sections import analysis_sections
from experiments.comparison import comparison_section, groups, leaderboard_section, leaderboards
from experiments.evaluation import Evaluation, evaluate, one_half
from experiments.files import write_whole
from experiments.ledgers import Experiment, load_all
from experiments.many_runs import cross_dataset_section, importance_section, varied
from experiments.pages import write_pages
from experiments.protocols import PROTOCOLS, Protocol
from experiments.published import differences, load_published
from experiments.sections import (
    Reading,
    Section,
    facts_of,
    pictures,
    protocol_section,
    published_section,
    runs_section,
)
from experiments.summary import further_tables, main_tables, print_table, summarize, summary_of
from experiments.tables import PREAMBLE, to_latex, to_text
from experiments.terminal import exit_with

DEFAULT_PROTOCOLS = ("strict", "paper", "pooled")
NUMBERS = ["value", "low", "high", "lost", "seed_sd"]
TITLE_RUNS = 4  # of more, the title gives the number
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
    show: bool = False,
) -> Path:
    """Write the report of one or several runs; of one that was tested on several datasets, also for each of them.

    Args:
        run_dirs: Folders `runs/<name>`, or folders of such folders.
        out: Where to write; default is `report` in the first of them.
        protocols: Names of `PROTOCOLS`.
        resamples: Bootstrap resamples; 0 = no intervals.
        seed: Of the resampling.
        show: Also print the tables of the run, or of several runs the leaderboards.

    Returns:
        Path of `report.html`.

    Raises:
        DataError: An unknown protocol, nothing finished to report, or a file that is damaged or of a newer version.
    """
    if unknown := [name for name in protocols if name not in PROTOCOLS]:
        raise DataError(f"unknown protocol: {', '.join(unknown)}", f"choose from {', '.join(PROTOCOLS)}")
    whole, left_out = load_all([Path(path) for path in run_dirs])
    experiments = [experiment for run in whole for experiment in (run, *run.parts())]
    out = Path(out) if out is not None else Path(run_dirs[0]) / "report"
    with tqdm(total=len(experiments) * (len(protocols) + 2) + 2, desc="report", unit="step", leave=False) as steps:
        pairs, readings = [], []
        for experiment in experiments:
            steps.set_postfix_str(experiment.name)
            pairs.append((experiment, evaluate(experiment, resamples=resamples, seed=seed)))
            steps.update()
            for name in protocols:
                readings.append(_read(experiment, PROTOCOLS[name], pairs[-1][1], resamples, seed))
                steps.update()
        summaries = [summary_of(experiment, evaluation) for experiment, evaluation in pairs]
        parameters = varied(experiments)
        facts = {summary["name"]: facts_of(summary) | parameters[summary["name"]] for summary in summaries}
        steps.set_postfix_str("comparison")
        grouped = groups(pairs)
        compared = [leaderboard_section(grouped), importance_section(grouped), cross_dataset_section(pairs)]
        compared.append(comparison_section(grouped))
        sections = [runs_section(facts, left_out), *(part for part in compared if part), protocol_section(readings)]
        steps.update()
        for (experiment, evaluation), summary in zip(pairs, summaries, strict=True):
            steps.set_postfix_str(f"figures of {experiment.name}")
            tables = [*main_tables(summary), *further_tables(summary)]
            drawn = pictures(experiment, evaluation)
            sections.append(Section(experiment.name, tables=tables, pictures=drawn, run=experiment.name))
            steps.update()
        steps.set_postfix_str("analyses")
        sections += [published_section(pairs), *analysis_sections(pairs)]
        steps.update()
    _write(out, sections, _tidy(readings, pairs), facts)
    if show:
        for table in main_tables(summaries[0]) if len(pairs) == 1 else leaderboards(grouped):
            print(f"\n{to_text(table)}")
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


def _write(
    out: Path, sections: Sequence[Section], numbers: pd.DataFrame, runs: Mapping[str, Mapping[str, str]]
) -> None:
    title = "Report: " + ", ".join(runs) if len(runs) <= TITLE_RUNS else f"Report of {len(runs)} runs"
    intro = ["Made from the prediction ledgers alone. Undefined values are shown as – and stay out of means."]
    write_pages(out, "report", title, intro, sections, runs)
    tables = [table for section in sections for table in section.tables]
    write_whole(out / "report.tex", "\n\n".join([PREAMBLE, *map(to_latex, tables)]) + "\n")
    for table in tables:
        if table.name:
            write_whole(out / "tables" / f"{table.name}.tex", f"{PREAMBLE}\n\n{to_latex(table)}\n")
    write_whole(out / "report.csv", numbers.to_csv(index=False))


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, print the main tables, write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNDIR", help="runs/renet_disfa, or all in runs")
    parser.add_argument("--out", type=Path, help="folder to write to (default: RUNDIR/report of the first run)")
    parser.add_argument(
        "--protocols", default=",".join(DEFAULT_PROTOCOLS), help=f"comma-separated, from {', '.join(PROTOCOLS)}"
    )
    parser.add_argument("--bootstrap", type=int, default=1000, metavar="N", help="resamples; 0: no intervals")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling")
    options = parser.parse_args(arguments)
    protocols = options.protocols.split(",")
    page = write_report(options.runs, options.out, protocols, options.bootstrap, options.seed, show=True)
    print(f"\nreport: {page}")
    return 0


if __name__ == "__main__":
    exit_with(main, goes_on=False)
