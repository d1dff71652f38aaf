"""What W&B is shown of finished folds: scores, tables and figures from their ledgers; faces only if asked to."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from callbacks.tracking import tracker
from callbacks.wandb_mirror import WandbMirror
from experiments.analysis.sections import face_pictures
from experiments.cli import flatten
from experiments.evaluation import BY_CLASS, WHOLE, Evaluation, evaluate
from experiments.files import write_whole
from experiments.ledgers import Experiment, FoldRun, load_experiment
from experiments.published import differences, load_published
from experiments.sections import Picture, pictures, published_section
from experiments.summary import summary_of
from lightning_modules.common import metrics

WORST = 20  # failures of each AU
# What result.json says of scores, and what is too long for a column of a table of runs.
NO_CONFIG = ("metrics", "metrics_without_recalibration", "trivial", "threshold", "model", "sizes", "seconds", "epochs")
FILES = ("result.json", "config.yaml", "metrics.csv", "predictions.parquet", "predictions_val.parquet")


def identity(name: str, model: str, data: str, fold: int, seed: int, evaluated: bool) -> dict[str, Any]:
    """Under which name, group, type and tags W&B finds a fold."""
    kind = "eval" if evaluated else "sweep-trial" if os.environ.get("WANDB_SWEEP_ID") else "fold"
    return {"name": f"{name}-f{fold}-s{seed}", "group": name, "job_type": kind, "tags": [model, data]}


def finish_fold(mirror: WandbMirror, folder: Path, fold: int, seed: int, artifacts: bool, faces: bool) -> None:
    """Show a finished fold, and end its run.

    Args:
        mirror: Of the run.
        folder: Run folder.
        fold: Its fold.
        seed: Its seed.
        artifacts: Whether ledgers and the best checkpoint are sent.
        faces: Whether the figures with faces are sent.
    """
    result = json.loads((folder / "result.json").read_text())
    on = "test" if fold else "val"
    scores = {f"{on}/{name}": value for name, value in metrics.flatten(result.get("metrics", {})).items()}
    hours = result["seconds"] * result["world_size"] / 3600
    summary = scores | {"best_epoch": result["epochs"], "seconds": result["seconds"]}
    summary |= {"n_frames": result.get("n_frames")} | ({} if result["device"] == "cpu" else {"gpu_hours": hours})
    config = dict(flatten({key: value for key, value in result.items() if key not in NO_CONFIG}))
    shown: dict[str, Any] = {"tables": {}, "figures": {}}
    if fold and (folder / "predictions.parquet").exists():
        run = FoldRun(folder, fold, seed, result)
        experiment = Experiment(result["name"], folder.parent, (run,), ())
        evaluation = evaluate(experiment, resamples=0)
        drawn = [*pictures(experiment, evaluation), *(face_pictures(experiment) if faces else [])]
        shown = {"tables": tables(experiment, evaluation), "figures": figures(experiment.name, drawn)}
    files = [folder / name for name in FILES if (folder / name).exists()] if artifacts else []
    if artifacts and result["scored_checkpoint"]:
        files.append(folder / result["scored_checkpoint"]["file"])
    mirror.finish(config, summary, files=files, **shown)


def show_experiment(path: Path, kind: str, mode: str) -> None:
    """Show the folds and seeds of an experiment as one run, unless it is shown as it is now.

    Args:
        path: Folder ``runs/<name>``.
        kind: ``run.tracker``.
        mode: ``run.wandb``.
    """
    if kind != "wandb":
        return
    experiment = load_experiment(path)
    evaluation = evaluate(experiment)
    text = json.dumps(summary_of(experiment, evaluation), indent=1)
    sent = path / "wandb" / "sent.json"
    if sent.exists() and sent.read_text() == text:
        return
    name, facts = experiment.name, experiment.facts
    tags = [str(facts["class"]), str(facts["dataset"])]
    settings = {"name": name, "group": name, "job_type": "aggregate", "tags": tags, "config": {}}
    for mirror in tracker(kind, mode, path, **settings):
        assert isinstance(mirror, WandbMirror)
        all_tables = tables(experiment, evaluation)
        for number, table in enumerate(published_section([(experiment, evaluation)]).tables):
            all_tables[f"published_{number}"] = pd.DataFrame(table.rows, columns=table.header)
        summary = {"folds": len(experiment.folds), "seeds": len(experiment.seeds)}
        drawn = figures(name, pictures(experiment, evaluation))
        mirror.finish(facts, summary | means(evaluation), all_tables, drawn)
        write_whole(sent, text)


def means(evaluation: Evaluation) -> dict[str, float]:
    """The mean over AUs (or classes) of every metric over folds, its spread over them, its interval, and pooled."""
    found: dict[str, Any] = {}
    for metric, scores in evaluation.metrics.items():
        best = evaluation.headline(metric)
        found |= {
            f"test/{metric}_mean": best.value[-1],
            f"test/{metric}_mean_fold_sd": np.std(scores.folds[:, -1], ddof=1) if len(scores.folds) > 1 else np.nan,
            f"test/{metric}_mean_low": best.low[-1] if evaluation.resamples else np.nan,
            f"test/{metric}_mean_high": best.high[-1] if evaluation.resamples else np.nan,
            f"test/{metric}_mean_pooled": scores.pooled.value[-1],
        }
    return {name: float(value) for name, value in found.items() if np.isfinite(value)}


def tables(experiment: Experiment, evaluation: Evaluation) -> dict[str, pd.DataFrame]:
    """By name: ``per_au``, ``per_subject``, ``failures``, ``per_class``; those for which there is something."""
    names = evaluation.names[:-1]
    found = {
        "per_au": per_au(experiment, evaluation),
        "per_subject": pd.DataFrame(evaluation.subject_f1, columns=names[: evaluation.subject_f1.shape[1]]),
        "failures": failures(experiment.held_out),
        "per_class": pd.DataFrame({"expression": evaluation.expressions, "frames": evaluation.class_frames}),
    }
    if len(found["per_subject"]):
        subjects = [(fold, subject) for fold, of_fold in evaluation.subjects.items() for subject in of_fold]
        found["per_subject"].insert(0, "mean", metrics.mean_defined(evaluation.subject_f1))
        found["per_subject"].insert(0, "subject", [subject for _, subject in subjects])
        found["per_subject"].insert(0, "fold", [fold for fold, _ in subjects])
    for metric in BY_CLASS:
        if metric in evaluation.metrics:
            found["per_class"][metric.removeprefix("expression_")] = evaluation.headline(metric).value[:-1]
    return {name: table for name, table in found.items() if len(table)}


def per_au(experiment: Experiment, evaluation: Evaluation) -> pd.DataFrame:
    """An AU a row: prevalence, what was called at 0.5, every metric, tuned threshold, published values with deltas."""
    ledger = experiment.held_out
    columns: dict[str, Any] = {
        "AU": evaluation.names[:-1],
        "n": evaluation.known,
        "positives": evaluation.positives,
        "prevalence": evaluation.prevalence,
    }
    if "f1" in evaluation.metrics:
        called = [metrics.known_pairs(ledger, f"{au}_true", f"{au}_prob") for au in columns["AU"]]
        tp, fp, fn, tn = np.array([metrics.confusion(true, prob) for true, prob in called], dtype=float).T
        with np.errstate(invalid="ignore"):
            columns |= {"tp": tp, "fp": fp, "fn": fn, "tn": tn, "precision": tp / (tp + fp), "recall": tp / (tp + fn)}
    for metric in evaluation.metrics.keys() - {*BY_CLASS, *WHOLE}:
        score = evaluation.headline(metric)
        columns[metric] = score.value[:-1]
        if evaluation.resamples and metric in ("f1", "icc"):
            columns |= {f"{metric}_low": score.low[:-1], f"{metric}_high": score.high[:-1]}
    only = experiment.runs[0].result if len(experiment.runs) == 1 else {}
    for name, values in (
        ("threshold", only.get("threshold")),
        ("f1_tuned", only.get("metrics", {}).get("f1_tuned")),
    ):
        if values:
            columns[name] = [values.get(au) for au in columns["AU"]]
    table = pd.DataFrame(columns)
    facts = experiment.facts | evaluation.reading
    for row in load_published():
        if row.dataset == facts["dataset"] and row.metric in table and row.values and not differences(row, facts):
            table[row.id] = [row.values.get(au, np.nan) for au in table["AU"]]
            table[f"minus {row.id}"] = table[row.metric] - table[row.id]
    return table


def failures(ledger: pd.DataFrame) -> pd.DataFrame:
    """The frames in which occurrence of an AU was called wrongly with the greatest confidence."""
    parts = []
    for au in metrics.occurrence_aus(ledger.columns):
        true, prob = ledger[f"AU{au:02d}_true"], ledger[f"AU{au:02d}_prob"].astype(float)
        error = (prob - true).abs()[(true >= 0) & ((prob >= 0.5) != (true == 1))].nlargest(WORST)
        key = ledger.loc[error.index, ["subject", "sequence", "frame"]]
        parts.append(key.assign(AU=f"AU{au:02d}", prob=prob[error.index], label=true[error.index]))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def figures(experiment: str, drawn: Sequence[Picture]) -> dict[str, tuple[bytes, str]]:
    """PNG and caption by name, without the name of the experiment."""
    return {picture.name.removeprefix(f"{experiment}_"): (picture.png, picture.caption) for picture in drawn}
