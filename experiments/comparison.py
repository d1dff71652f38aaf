"""Which runs compare, who leads, and by how much: paired over subjects."""

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from experiments.analysis import significance
from experiments.evaluation import Comparison, Evaluation, compare, over
from experiments.ledgers import Experiment
from experiments.sections import HEADLINES, Section
from experiments.summary import PERCENT, TITLES, interval_text, number_text, p_text
from experiments.tables import Table

LOWER_IS_BETTER = {"mae", "mse", "nme"}
PAIRED = ("dataset", "edition", "task", "label_threshold", "camera", "frame_set")  # equal, or runs are not compared
COMPARED = ("f1", "auc", "icc", "mae", "rank", "nme", "expression_accuracy", "expression_f1", "expression_recall")
EVERY_PAIR = 4  # runs; of more, only the leader is set against each of the others by AU
ALPHA = 0.05

Pair = tuple[Experiment, Evaluation]


def unpaired(first: Pair, second: Pair) -> list[str]:
    """In what two runs differ that must be equal where they are compared frame by frame or subject by subject."""
    (one, a), (other, b) = first, second
    differing = [fact.replace("_", " ") for fact in PAIRED if one.facts[fact] != other.facts[fact]]
    return differing + ["held-out subjects"] * (a.subjects != b.subjects)


def groups(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Runs that compare with each other, the best of each group first, by the first headline metric that all have."""
    found: list[list[Pair]] = []
    for pair in pairs:
        group = next((group for group in found if not unpaired(group[0], pair)), None)
        if group is None:
            found.append([pair])
        else:
            group.append(pair)
    return [ranked(group, metric) if (metric := first_metric(group)) else group for group in found]


def pairings(group: Sequence[Pair]) -> list[tuple[Pair, Pair]]:
    """Every two runs of a small group, the better one first; of a large one the leader and each of the others."""
    chosen = itertools.combinations(group, 2)
    return [pair for pair in chosen if len(group) <= EVERY_PAIR or pair[0] is group[0]]


def common(group: Sequence[Pair], metric: str) -> list[str]:
    """AUs or classes for which all runs of a group have a metric."""
    columns = [evaluation.columns(metric)[:-1] for _, evaluation in group if metric in evaluation.metrics]
    shared = set.intersection(*map(set, columns)) if len(columns) == len(group) else set()
    return [name for name in columns[0] if name in shared] if shared else []


def ranked(group: Sequence[Pair], metric: str) -> list[Pair]:
    """The best first, by the mean over what all runs have in common; undefined means last."""
    names, sign = common(group, metric), 1 if metric in LOWER_IS_BETTER else -1

    def place(pair: Pair) -> float:
        value = sign * float(over(pair[1], metric, names).value[-1])
        return math.inf if math.isnan(value) else value

    return sorted(group, key=place)


def first_metric(group: Sequence[Pair]) -> str | None:
    """The first headline metric that all runs of a group have for some AU or class."""
    return next((metric for metric in HEADLINES if common(group, metric)), None)


# ------------------------------------------------------------------------------------------------------- leaderboard


def leaderboard_section(found: Sequence[Sequence[Pair]]) -> Section | None:
    """Runs in order of each headline metric, and which of them the data cannot tell from the leader.

    Args:
        found: Of `groups`.
    """
    tables = []
    for group, metric in _contests(found):
        tables.append(_leaderboard(group, metric))
        if len(group) > 2:
            tables.append(_differences(group, metric))
    text = [
        "Runs are compared where dataset, edition, task, labels, frames and held-out subjects agree. The difference to "
        "the leader is paired: both runs are scored on the same resampled subjects. p is that of the bootstrap over "
        "subjects within folds; log-loss adds Wilcoxon's signed-rank test over subjects, which needs no threshold. "
        "Both are corrected by Holm's rule for the number of runs that are set against the leader. Tie: corrected "
        f"bootstrap p of {ALPHA} or more, inside the noise. Training variance is not in p: the standard deviation over "
        "seeds shows it. Who leads was found on these very subjects, which flatters the lead.",
    ]
    lines = _why_alone(found)
    return Section("Leaderboard", (text if tables else []) + lines, tables) if tables or lines else None


def leaderboards(found: Sequence[Sequence[Pair]]) -> list[Table]:
    """Those of all groups and metrics."""
    return [_leaderboard(group, metric) for group, metric in _contests(found)]


def _contests(found: Sequence[Sequence[Pair]]) -> list[tuple[list[Pair], str]]:
    """Groups of several runs, in order of each headline metric that all have."""
    several = [group for group in found if len(group) > 1]
    return [(ranked(group, metric), metric) for group in several for metric in HEADLINES if common(group, metric)]


def _why_alone(found: Sequence[Sequence[Pair]]) -> list[str]:
    lines = []
    for pair in (group[0] for group in found if len(group) == 1):
        if pair[0].runs[0].dataset:
            continue  # nobody expects a dataset of a mixture to be compared with another
        others = [group[0] for group in found if group[0] is not pair and not group[0][0].runs[0].dataset]
        if others:
            nearest = min(others, key=lambda other: len(unpaired(pair, other)))
            why = ", ".join(unpaired(pair, nearest))
            lines.append(f"{pair[0].name}: compared with no other run; from {nearest[0].name} it differs in {why}.")
    return lines


def _leaderboard(group: Sequence[Pair], metric: str) -> Table:
    """One row a run, the best first."""
    names = common(group, metric)
    text, interval = partial(number_text, metric), partial(interval_text, metric)
    leader = group[0]
    behind = [compare(evaluation, leader[1], metric, names) for _, evaluation in group[1:]]
    p = significance.holm([float(significance.bootstrap_p(difference.draws)[-1]) for difference in behind])
    losses = _loss_p(group, names) if metric == "f1" else None
    header = ["run", "rank", TITLES[metric], "95 % interval", "sd over seeds", "minus leader", "95 % interval of it"]
    header += ["p, bootstrap", *(["p, log-loss"] if losses is not None else []), "verdict"]
    rows = []
    for place, (experiment, evaluation) in enumerate(group):
        own = over(evaluation, metric, names)
        cells = [experiment.name, str(place + 1), text(own.value[-1]), interval(own.low[-1], own.high[-1])]
        cells.append(text(own.seed_sd[-1]))
        if place == 0:
            cells += [*["–"] * (len(header) - len(cells) - 1), "leader"]
        else:
            of = behind[place - 1]
            cells += [text(of.value[-1], signed=True), interval(of.low[-1], of.high[-1], signed=True)]
            cells += [p_text(p[place - 1])] + ([p_text(losses[place - 1])] if losses is not None else [])
            cells.append("–" if math.isnan(p[place - 1]) else "tie" if p[place - 1] >= ALPHA else "worse")
        facts = experiment.facts
        cells += [str(facts["folds"]), " ".join(map(str, experiment.seeds))]
        rows.append([*cells, facts["initialisation"] or "unknown", facts["select_on"] or "unknown"])
    header += ["folds", "seeds", "initialisation", "selected on"]
    return Table(_caption(group, metric), header, rows, _limits(group, metric, names))


def _caption(group: Sequence[Pair], metric: str) -> str:
    facts = group[0][0].facts
    unit = " in percent" if metric in PERCENT else ""
    return f"Leaderboard of {facts['dataset']}: mean {TITLES[metric]}{HEADLINES[metric]}{unit}"


def _limits(group: Sequence[Pair], metric: str, names: Sequence[str]) -> list[str]:
    notes = []
    resamples = group[0][1].resamples
    if any(len(evaluation.columns(metric)) != len(names) + 1 for _, evaluation in group):
        notes.append(f"Over what all of these runs score: {', '.join(names)}.")
    if not resamples:
        notes.append("No intervals and no p: a fold has a single held-out subject, or no resamples were asked for.")
    elif (floor := 2 * (len(group) - 1) / (resamples + 1)) >= ALPHA:
        needed = math.ceil(2 * (len(group) - 1) / ALPHA)
        notes.append(
            f"With {resamples} resamples a corrected p cannot fall below {p_text(floor)}: every run ties. "
            f"--bootstrap {needed * 2} can tell them apart."
        )
    return notes


def _loss_p(group: Sequence[Pair], names: Sequence[str]) -> list[float] | None:
    """Holm's p of the log-loss against the leader; None where frames are not the same."""
    frames = {experiment.frames for experiment, _ in group}
    if len(frames) > 1 or None in frames:
        return None
    first = group[0][0]
    found = [significance.wilcoxon_over_subjects(*losses(first, other, names)).p[-1] for other, _ in group[1:]]
    return significance.holm(found).tolist()


def losses(first: Experiment, second: Experiment, names: Sequence[str]) -> list[np.ndarray]:
    """Of both, (S, A + 1) mean log-loss of every subject by AU and over AUs; the same subjects in the same order."""
    tables = (experiment.subject_losses[list(names)] for experiment in (first, second))
    return [table.assign(mean=table.mean(axis=1)).to_numpy() for table in tables]


def _differences(group: Sequence[Pair], metric: str) -> Table:
    """Paired differences of the means of every two runs."""
    names = common(group, metric)
    rows = []
    for place, (one, a) in enumerate(group):
        cells = [one.name, str(place + 1)]
        for other, b in group:
            if one is other:
                cells.append("")
                continue
            found = compare(a, b, metric, names)
            tie = " tie" * bool(found.ties[-1])
            cells.append(number_text(metric, found.value[-1], signed=True) + tie)
        rows.append(cells)
    note = "Row minus the run whose rank heads the column. Tie: the 95 % interval of the paired difference includes 0."
    caption = f"{_caption(group, metric)}, every two runs"
    return Table(caption, ["run", "rank", *(f"minus {place}" for place in range(1, len(group) + 1))], rows, [note])


# -------------------------------------------------------------------------------------------------------- AU by AU


def comparison_section(found: Sequence[Sequence[Pair]]) -> Section | None:
    """Paired differences by AU or class.

    Args:
        found: Of `groups`.
    """
    tables = []
    for (first, a), (second, b) in itertools.chain.from_iterable(map(pairings, found)):
        by_columns: dict[tuple[str, ...], dict[str, Comparison]] = {}
        for metric in COMPARED:
            if metric in a.metrics and metric in b.metrics:
                difference = compare(a, b, metric)
                by_columns.setdefault(tuple(difference.names), {})[metric] = difference
        title = f"{first.name} minus {second.name}"
        tables += [_comparison(title, names, of) for names, of in by_columns.items()]
    if not tables:
        return None
    text = [
        "Paired by subject: both runs are scored on the same resampled subjects. A tie is a difference whose 95 % "
        "interval includes 0. Training variance is not in the interval; several seeds show it. Where more than "
        f"{EVERY_PAIR} runs compare, the leader is set against each of the others."
    ]
    return Section("Comparison of the runs", text, tables)


def _comparison(title: str, names: Sequence[str], found: Mapping[str, Comparison]) -> Table:
    header = ["class" if {"expression_f1"} & found.keys() else "AU"]
    for metric in found:
        header += [TITLES[metric], "95 % interval", "verdict"]
    rows = []
    for row, name in enumerate(names):
        cells = [name]
        for metric, difference in found.items():
            better = (difference.value[row] > 0) != (metric in LOWER_IS_BETTER)
            verdict = "better" if better else "worse"
            if math.isnan(difference.low[row]):
                verdict = "–"
            elif difference.ties[row]:
                verdict = "tie"
            cells += [
                number_text(metric, difference.value[row], signed=True),
                interval_text(metric, difference.low[row], difference.high[row], signed=True),
                verdict,
            ]
        rows.append(cells)
    return Table(title, header, rows)
