"""Best of several trials, as Saito et al. report: each action unit takes the seed that scores best on validation."""

from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import pandas as pd

from callbacks.ledger import KEY
from experiments.ledgers import Experiment, FoldRun
from lightning_modules.common.metrics import intensity_aus, occurrence_aus, score


@dataclass(frozen=True)
class ComposedRun(FoldRun):
    """A fold whose predictions of each AU are those of one of its seeds; `sources` says of which."""

    sources: dict[int, FoldRun] = field(default_factory=dict)

    def ledger(self, name: str = "predictions") -> pd.DataFrame:
        """See FoldRun."""
        table = _in_order(super().ledger(name))
        for au, run in self.sources.items():
            other = _in_order(run.ledger(name))
            columns = [column for column in map(str, table) if column.startswith(f"AU{au:02d}_")]
            table[columns] = other[columns].to_numpy()
        return table


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    key = [name for name in KEY if name in table]
    return table.sort_values(key, kind="stable").reset_index(drop=True)


def trial_scores(runs: list[FoldRun]) -> dict[int, list[float]]:
    """AU -> score of each run on its validation subjects: F1 at 0.5, or ICC(3,1) of intensities; NaN undefined."""
    ledgers = [run.ledger("predictions_val") for run in runs]
    aus, metric = occurrence_aus(ledgers[0].columns), "f1"
    if not aus:
        aus, metric = intensity_aus(ledgers[0].columns), "icc"
    scores = [score(cast(dict, ledger))[metric] for ledger in ledgers]
    return {au: [of[f"AU{au:02d}"] for of in scores] for au in aus}


def best_trials(experiment: Experiment) -> Experiment:
    """The experiment with one composed run a fold; where no seed has a defined score, that of the first counts."""
    composed = []
    for fold in experiment.folds:
        runs = [run for run in experiment.runs if run.fold == fold]
        first = runs[0]
        scores = {au: np.nan_to_num(of, nan=-np.inf) for au, of in trial_scores(runs).items()}
        sources = {au: runs[int(np.argmax(of))] for au, of in scores.items()}
        composed.append(ComposedRun(first.path, fold, first.seed, first.result, first.dataset, sources))
    return replace(experiment, runs=tuple(composed))
