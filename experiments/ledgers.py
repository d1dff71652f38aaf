"""Finished runs as they lie on disk: `runs/<name>/fold<k>-seed<s>/` with `result.json` and ledgers."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from datamodules.errors import DataError
from experiments.analysis.significance import log_loss, subject_means
from lightning_modules.common.metrics import occurrence_aus

FORMAT = 1  # of a run folder, as its config.yaml says; to be raised when an older version would misread a newer one
KEY = ["dataset", "subject", "sequence", "frame"]
# What a table's number depends on: one value for all folds, or the folds are not one experiment.
FACTS = (
    "dataset",
    "edition",
    "split",
    "task",
    "aus",
    "expressions",
    "label_threshold",
    "camera",
    "frame_set",
    "select_on",
)
# What a reader wants beside the number; may differ from fold to fold (each fold may start from its own checkpoint).
REMARKS = ("class", "backbone", "initialisation", "n_params", "precision", "licence", "commit", "trained_on")


FINISH = "finish it: the command that started it goes on from its last checkpoint"


@dataclass(frozen=True)
class FoldRun:
    """One finished fold: `path` is its folder, `result` the content of its `result.json`.

    With `dataset`, only the frames of that dataset count, and only the AUs that it labels.
    """

    path: Path
    fold: int
    seed: int
    result: dict[str, Any]
    dataset: str | None = None

    def check(self) -> None:
        """Look at what is read later, without reading it whole.

        Raises:
            DataError: The folder was written by a newer version, or a ledger is damaged.
        """
        config = self.path / "config.yaml"
        written = re.search(r"^# format: (\d+)$", config.read_text(), re.MULTILINE) if config.exists() else None
        if written and int(written[1]) > FORMAT:
            raise DataError(
                f"{self.path} was written by a newer version (format {written[1]}; this one knows {FORMAT})",
                "update this checkout, or leave this run out",
            )
        for path in self.path.glob("predictions*.parquet"):
            try:
                names = pq.read_schema(path).names
            except (OSError, pa.ArrowException) as error:
                raise _damaged(path, f"not a readable ledger ({str(error).splitlines()[0]})") from error
            if "subject" not in names:
                raise _damaged(path, "no column `subject`")

    def settings(self) -> dict[str, Any] | None:
        """Its resolved configuration, if it lies there.

        Raises:
            DataError: It is no YAML.
        """
        path = self.path / "config.yaml"
        try:
            return yaml.safe_load(path.read_text()) if path.exists() else None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise _damaged(path, f"no YAML ({str(error).splitlines()[0]})") from error

    def ledger(self, name: str = "predictions") -> pd.DataFrame:
        """One of its ledgers: `predictions`, `predictions_val`, `predictions_flip`.

        Raises:
            DataError: The file is missing, unreadable or without a `subject` column.
        """
        path = self.path / f"{name}.parquet"
        if not path.exists():
            raise DataError(f"{path}: no such ledger", f"run this fold again, or remove {self.path} to leave it out")
        try:
            ledger = pd.read_parquet(path)
        except (OSError, ValueError) as error:  # pyarrow's errors are subclasses
            raise _damaged(path, f"not a readable ledger ({str(error).splitlines()[0]})") from error
        return ledger if self.dataset is None else _labelled(ledger[ledger["dataset"] == self.dataset])

    def has(self, name: str) -> bool:
        """Whether the ledger `name` exists."""
        return (self.path / f"{name}.parquet").exists()

    def curves(self) -> pd.DataFrame | None:
        """`metrics.csv` of the training, if there is one."""
        path = self.path / "metrics.csv"
        return pd.read_csv(path) if path.exists() and self.dataset is None else None

    def arrays(self, name: str) -> dict[str, np.ndarray] | None:
        """`NAME.npz`, if there is one.

        `features`: features (n, A or 1, F), true (n, A), aus (A,). `feature_maps`: images (N, S, S, 3) uint8, frames
        (N,) their names, and maps (N, S, S) by name.
        """
        path = self.path / f"{name}.npz"
        if not path.exists() or self.dataset is not None:
            return None
        with np.load(path) as arrays:
            return dict(arrays)


def persons(ledger: pd.DataFrame) -> pd.Series:
    """Who is in each row, `dataset/subject`: two datasets of a mixture may call different people by the same name."""
    subject = ledger["subject"].astype(str)
    return ledger["dataset"].astype(str) + "/" + subject if "dataset" in ledger else subject


@dataclass(frozen=True)
class Experiment:
    """All folds and seeds of one run name; `incomplete` are folders without `DONE`."""

    name: str
    path: Path
    runs: tuple[FoldRun, ...]
    incomplete: tuple[str, ...]

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Facts shared by all folds, `folds` (how many are finished), and the remarks, joined where they differ."""
        shared = {fact: self.runs[0].result.get(fact) for fact in FACTS}
        for remark in REMARKS:
            values = (run.result.get(remark) for run in self.runs)
            shared[remark] = "; ".join(dict.fromkeys(str(value) for value in values if value is not None)) or None
        return shared | {"folds": len(self.folds)}

    @cached_property
    def held_out(self) -> pd.DataFrame:
        """All held-out frames once, in the order of their names: the ledgers of the first seed of every fold."""
        first = [next(run for run in self.runs if run.fold == fold) for fold in self.folds]
        table = pd.concat([run.ledger() for run in first], ignore_index=True)
        return table.sort_values([name for name in KEY if name in table], kind="stable", ignore_index=True)

    @cached_property
    def frames(self) -> str | None:
        """A digest of which frames are held out; None where the ledger does not name them."""
        if not {*KEY[1:]} <= {*self.held_out}:
            return None
        hashes = pd.util.hash_pandas_object(self.held_out[KEY[1:]].astype(str), index=False)
        return hashlib.sha256(hashes.to_numpy().tobytes()).hexdigest()

    @cached_property
    def subject_losses(self) -> pd.DataFrame:
        """Mean log-loss by subject, over frames and seeds, one column an AU; NaN where a subject has no label of it."""
        names = [f"AU{au:02d}" for au in occurrence_aus(self.held_out.columns)]
        true, prob = ([f"{name}_{kind}" for name in names] for kind in ("true", "prob"))
        table = pd.concat([run.ledger() for run in self.runs], ignore_index=True)
        code, who = pd.factorize(persons(table), sort=True)
        means = subject_means(log_loss(table[true], table[prob]), np.asarray(code))
        return pd.DataFrame(means[:, :-1], index=who, columns=names)

    def parts(self) -> list["Experiment"]:
        """An experiment for each tested dataset, of a run that was tested on several; else nothing.

        `mixture(a+b)` becomes `mixture(a+b) on a`, and `mixture(a -> b+c)` becomes `mixture(a -> b)`.
        """
        if "dataset" not in self.held_out or self.held_out["dataset"].nunique() < 2:
            return []
        trained, arrow, _ = self.facts["dataset"].partition(" -> ")
        found = []
        for name in sorted(self.held_out["dataset"].unique()):
            result = {"dataset": f"{trained}{arrow}{name})" if arrow else f"{trained} on {name}", "model": {}}
            runs = (replace(run, dataset=name, result=run.result | result) for run in self.runs)
            found.append(Experiment(f"{self.name} on {name}", self.path, tuple(runs), self.incomplete))
        return found

    @property
    def folds(self) -> list[int]:
        """Folds with at least one finished seed, ascending."""
        return sorted({run.fold for run in self.runs})

    @property
    def seeds(self) -> list[int]:
        """Seeds with at least one finished fold, ascending."""
        return sorted({run.seed for run in self.runs})


class NothingFinished(DataError):
    """A folder in which no fold with held-out subjects is finished."""


def load_all(paths: Sequence[Path]) -> tuple[list[Experiment], list[str]]:
    """The experiments of folders `runs/<name>`, and of all of them below folders such as `runs`.

    Returns:
        The experiments, and the names of those below a folder that have nothing finished.

    Raises:
        DataError: As `load_experiment`; nothing is finished below a folder, or two experiments have the same name.
    """
    found: list[Experiment] = []
    unfinished: list[str] = []
    for path in paths:
        inside = sorted({fold.parent for fold in path.glob("*/fold*-seed*")})
        if not inside or any(path.glob("fold*-seed*")):
            found.append(load_experiment(path))
            continue
        before = len(found)
        for folder in inside:
            try:
                found.append(load_experiment(folder))
            except NothingFinished:
                unfinished.append(folder.name)
        if len(found) == before:
            raise NothingFinished(f"{path}: no finished fold with held-out subjects in any of its runs", FINISH)
    names = [experiment.name for experiment in found]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise DataError(f"two run folders are named {repeated[0]}", "give each run once, or rename one folder")
    return found, unfinished


def load_experiment(path: Path) -> Experiment:
    """Read `runs/<name>`.

    Raises:
        DataError: Nothing finished is there, a file is missing, damaged or of a newer version, or the folds are not of
            one experiment.
    """
    if re.fullmatch(r"fold\d+-seed\d+", path.name) and (path / "result.json").exists():
        raise DataError(f"{path} is a single fold", f"give the folder above it: {path.parent}")
    folders = sorted(path.glob("fold*-seed*"), key=lambda folder: [int(n) for n in re.findall(r"\d+", folder.name)])
    if not folders:
        raise DataError(f"{path}: no fold<k>-seed<s> folder", "give the folder of a run name, such as runs/renet_disfa")
    runs, incomplete = [], []
    for folder in folders:
        found = re.fullmatch(r"fold(\d+)-seed(\d+)", folder.name)
        if found is None:
            raise DataError(f"{folder}: not of the form fold<k>-seed<s>", "rename or remove it")
        if not (folder / "DONE").exists():
            incomplete.append(folder.name)
        elif int(found[1]) > 0:  # fold 0 trains on everybody: it has nothing to score
            runs.append(FoldRun(folder, int(found[1]), int(found[2]), read_result(folder / "result.json")))
    if not runs:
        raise NothingFinished(
            f"{path}: no finished fold with held-out subjects"
            + (f" (unfinished: {', '.join(incomplete)})" * bool(incomplete)),
            FINISH,
        )
    for run in runs:
        run.check()
    _check_agreement(runs)
    return Experiment(path.resolve().name, path, tuple(runs), tuple(incomplete))


def _labelled(ledger: pd.DataFrame) -> pd.DataFrame:
    """Without the columns of AUs, and of expressions, of which no label is known."""
    truths = [column for column in ledger if re.fullmatch(r"(AU\d+|expression)_true(_level)?", str(column))]
    unknown = {str(column).split("_")[0] for column in truths if not (ledger[column] >= 0).any()}
    return ledger[[column for column in ledger if str(column).split("_")[0] not in unknown]].reset_index(drop=True)


def read_result(path: Path) -> dict[str, Any]:
    """Content of a ``result.json``; raises `DataError` where it is missing or damaged."""
    try:
        result = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _damaged(path, f"not readable ({str(error).splitlines()[0]})") from error
    if missing := {"dataset", "aus"} - result.keys():
        raise _damaged(path, f"no {', '.join(sorted(missing))}")
    return result


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path}: {what}", f"remove {path.parent} and run this fold again")


def _check_agreement(runs: Sequence[FoldRun]) -> None:
    first = runs[0]
    for run in runs[1:]:
        for fact in FACTS:
            if run.result.get(fact) != first.result.get(fact):
                raise DataError(
                    f"{run.path.name} and {first.path.name} of {run.path.parent} differ in {fact}: "
                    f"{run.result.get(fact)} and {first.result.get(fact)}",
                    "give them different run names (run.name), one folder an experiment",
                )
