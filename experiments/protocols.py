"""Named ways to read the same ledgers. One run, several published habits, side by side.

A protocol says which ledger is read, at which thresholds, and how folds are put together. To add one, append a
`Protocol` to `PROTOCOLS`; `report.py --protocols` then knows its name.
"""

from collections.abc import Callable
from dataclasses import dataclass

from experiments.evaluation import (
    Aggregation,
    Thresholds,
    break_even_on_validation,
    one_half,
    tuned_on_test,
    tuned_on_validation,
)
from experiments.ledgers import Experiment
from experiments.trials import best_trials


def _nothing(_: Experiment) -> None:
    return None


def _all(experiment: Experiment) -> Experiment:
    return experiment


@dataclass(frozen=True)
class Protocol:
    """One way to a number.

    Attributes:
        name: As given on the command line.
        text: What it does, one sentence.
        aggregation: `fold_mean` or `pooled`; None = each metric's own (pooled for ICC, mean of folds for the others).
        ledger: Ledger that is read.
        thresholds: Decision thresholds of a fold.
        refuse: Why an experiment cannot be read so, with the remedy; None where it can.
        remark: What a reader must know about this experiment's number; None = nothing.
        choose: Which runs are read.
    """

    name: str
    text: str
    aggregation: Aggregation | None = None
    ledger: str = "predictions"
    thresholds: Thresholds = one_half
    refuse: Callable[[Experiment], str | None] = _nothing
    remark: Callable[[Experiment], str | None] = _nothing
    choose: Callable[[Experiment], Experiment] = _all


def _selected_on_test(experiment: Experiment) -> str | None:
    if experiment.facts["select_on"] == "val":
        return None
    return f"the epoch was chosen on: {experiment.facts['select_on']}; train with data.select_on=val"


def _selected_on_validation(experiment: Experiment) -> str | None:
    if experiment.facts["select_on"] == "test":
        return "the epoch was chosen on the scored fold, as in the papers: optimistic"
    return "the epoch was chosen on validation subjects; the papers' optimistic number needs data.select_on=test"


def _unflippable(experiment: Experiment) -> str | None:
    lacking = _without("predictions_flip", "run it again with --run.flip=true")(experiment)
    return _selected_on_test(experiment) or lacking


def _single_trial(experiment: Experiment) -> str | None:
    if any(sum(run.fold == fold for run in experiment.runs) < 2 for fold in experiment.folds):
        return "a fold has one seed; run it with --seed 0 to --seed 4"
    return _without("predictions_val", "run it again with data.select_on=val")(experiment)


def _trials(experiment: Experiment) -> str:
    counts = {sum(run.fold == fold for run in experiment.runs) for fold in experiment.folds}
    return f"best of {' or '.join(map(str, sorted(counts)))} trials: above the mean over seeds, which the tables give"


def _without(ledger: str, remedy: str) -> Callable[[Experiment], str | None]:
    def refuse(experiment: Experiment) -> str | None:
        lacking = [run.path.name for run in experiment.runs if not run.has(ledger)]
        return f"no {ledger}.parquet in {', '.join(lacking)}; {remedy}" if lacking else None

    return refuse


def _without_threshold(experiment: Experiment) -> str | None:
    task = experiment.facts["task"]
    return None if task == "occurrence" else f"{task} has no threshold"


def _untunable(experiment: Experiment) -> str | None:
    lacking = _without("predictions_val", "run it again with data.select_on=val")(experiment)
    return _without_threshold(experiment) or _selected_on_test(experiment) or lacking


def _chosen_on_test(experiment: Experiment) -> str | None:
    return "thresholds were chosen on the scored frames themselves: optimistic, no estimate for new subjects"


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="strict",
            text="Threshold 0.5, epoch chosen on validation subjects; mean of folds, ICC pooled.",
            refuse=_selected_on_test,
        ),
        Protocol(
            name="paper",
            text="As RE-Net's tables: threshold 0.5, mean of folds for every metric.",
            aggregation="fold_mean",
            remark=_selected_on_validation,
        ),
        Protocol(
            name="pooled",
            text="Threshold 0.5, all held-out frames of all folds scored together.",
            aggregation="pooled",
        ),
        Protocol(
            name="flip",
            text="As strict, on the mean of the predictions for the image and its mirror image.",
            ledger="predictions_flip",
            refuse=_unflippable,
        ),
        Protocol(
            name="tuned",
            text="As strict, at the thresholds with the best F1 on the fold's validation subjects (f1_tuned).",
            thresholds=tuned_on_validation,
            refuse=_untunable,
        ),
        Protocol(
            name="best_trial",
            text="As Saito et al.: for every AU the seed with the best score on the fold's validation subjects.",
            refuse=_single_trial,
            remark=_trials,
            choose=best_trials,
        ),
        Protocol(
            name="break_even",
            text="As strict, at the thresholds where precision and recall meet on the fold's validation subjects.",
            thresholds=break_even_on_validation,
            refuse=_untunable,
        ),
        Protocol(
            name="on_test",
            text="Mean of folds at the thresholds with the best F1 on the held-out frames that are scored.",
            thresholds=tuned_on_test,
            refuse=_without_threshold,
            remark=_chosen_on_test,
        ),
    )
}
