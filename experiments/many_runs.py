"""What only many runs together say: which parameter matters, and what holds on another dataset."""

import math
import re
from collections.abc import Sequence

from callbacks import figures
from experiments.analysis.importance import FOREST_FROM, Importance, distinct, importance
from experiments.comparison import LOWER_IS_BETTER, Pair, common, first_metric
from experiments.evaluation import over
from experiments.ledgers import Experiment
from experiments.sections import HEADLINES, Section, picture
from experiments.summary import PERCENT, TITLES, interval_text, number_text
from experiments.tables import Table

LISTED = 8  # values of a parameter; of more, only the best is named

# -------------------------------------------------------------------------------------------------------- importance


def importance_section(found: Sequence[Sequence[Pair]]) -> Section | None:
    """Which parameters the first headline metric depends on, in each group of runs that compare.

    Args:
        found: Of `comparison.groups`.
    """
    text: list[str] = []
    tables, drawn = [], []
    for group in found:
        metric = first_metric(group)
        if len(group) < 2 or metric is None or group[0][0].runs[0].dataset:
            continue
        where = f"{group[0][0].facts['dataset']}, {len(group)} settings"
        if any(evaluation.columns(metric) != group[0][1].columns(metric) for _, evaluation in group):
            text.append(f"{where}: not told, since the runs score different AUs.")
            continue
        trials = [(e, run, v.metrics[metric].single[run.fold, run.seed]) for e, v in group for run in e.runs]
        settings = [run.settings() for _, run, _ in trials]
        if lacking := [str(run.path) for (_, run, _), of in zip(trials, settings, strict=True) if of is None]:
            text.append(f"{where}: not told, since {lacking[0]} has no config.yaml.")
            continue
        columns = parameters([of or {} for of in settings])
        columns |= {"fold": [str(run.fold) for _, run, _ in trials], "seed": [str(run.seed) for _, run, _ in trials]}
        if any(math.isnan(score) for *_, score in trials):
            text.append(f"{where}: not told, since a trial has no defined {TITLES[metric]}.")
            continue
        result = importance(columns, [e.name for e, *_ in trials], [score for *_, score in trials])
        if result is None:
            text.append(
                f"{where}: too few to tell. It takes every combination of two parameters or more, or several folds or "
                f"seeds of every variant, the same of each, or {FOREST_FROM} settings or more."
            )
            continue
        caption = f"{where}, {len(trials)} trials: {_method(result)}"
        tables.append(_importance_table(result, metric, caption))
        unit = f"mean {TITLES[metric]}{HEADLINES[metric]}"
        scale = 100 if metric in PERCENT else 1
        figure = figures.importance(
            {name: {value: scale * mean for value, mean in of.items()} for name, of in result.means.items()},
            {name: scale * size for name, size in result.size.items()},
            unit + " in percent" * (metric in PERCENT),
            f"Parameters of {group[0][0].facts['dataset']}",
            ranges=result.explained is None,
        )
        drawn.append(picture(f"importance_{group[0][0].name}", caption, figure))
    if not tables and not text:
        return None
    about = (
        "A trial is one run of a fold and a seed. Fold and seed are listed as parameters: what depends less on a "
        "parameter than on them is hard to tell from noise. Parameters that always change together are one line."
    )
    return Section("What the score depends on", [about, *text], tables, drawn)


def _method(result: Importance) -> str:
    if result.explained is None:
        return "range of marginal means, each over a full grid of all others"
    honest = "" if result.explained > 0 else " It explains nothing: take no order from it."
    return (
        "increase of the mean absolute error of a random forest when the parameter is shuffled (permutation "
        f"importance, on settings that the forest has not seen; there it explains R² = {result.explained:.2f}).{honest}"
    )


def _importance_table(result: Importance, metric: str, caption: str) -> Table:
    rows = []
    for name, size in result.size.items():
        of = result.means[name]
        means = ", ".join(f"{value}: {number_text(metric, mean)}" for value, mean in of.items())
        if len(of) > LISTED:
            best = (min if metric in LOWER_IS_BETTER else max)(of, key=of.__getitem__)
            means = f"{len(of)} values, best {best}: {number_text(metric, of[best])}"
        rows.append([name, number_text(metric, size, digits=2 if metric in PERCENT else 4), means])
    unit = f"{TITLES[metric]} in percent" if metric in PERCENT else TITLES[metric]
    return Table(caption, ["parameter", f"importance, {unit}", f"mean {unit} by value"], rows, text=True)


def varied(experiments: Sequence[Experiment]) -> dict[str, dict[str, str]]:
    """Name of a run -> the parameters in which the runs differ; empty where one has no configuration."""
    settings = [experiment.runs[0].settings() for experiment in experiments]
    known = [of for of in settings if of is not None]
    if len(experiments) < 2 or len(known) < len(settings):
        return {experiment.name: {} for experiment in experiments}
    columns = distinct(parameters(known))
    return {e.name: {name: of[place] for name, of in columns.items()} for place, e in enumerate(experiments)}


def parameters(settings: Sequence[dict]) -> dict[str, list[str]]:
    """Dotted key -> its value in every trial as text, of what can change a score; folds and seeds are left out.

    `unset` where a class has no such key; paths count without folds and seeds.
    """
    from experiments.cli import UNHASHED_TRAINER, flatten  # imports every dataset

    left_out = {"seed_everything", "data.init_args.fold", "data.init_args.root", "data.init_args.num_workers"}
    flat = [dict(flatten(of)) for of in settings]
    columns = {}
    for key in dict.fromkeys(key for of in flat for key in of):
        top, _, rest = key.partition(".")
        if key in left_out or key.endswith(".seed") or (top == "run" and rest != "refit"):
            continue
        if top == "trainer" and rest.split(".")[0] in UNHASHED_TRAINER:
            continue
        values = (re.sub(r"fold\d+-seed\d+", "fold*", str(of.get(key, "unset"))) for of in flat)
        columns[key.replace(".init_args", "").replace("model.class_path", "model")] = [
            value.removeprefix("lightning_modules.").removeprefix("datamodules.") for value in values
        ]
    return columns


# ----------------------------------------------------------------------------------------------------- cross-dataset


MIXTURE = re.compile(r"mixture\((.+?)(?: -> (.+))?\)(?: on (.+))?")


def trained_and_tested(experiment: Experiment) -> tuple[str, str] | None:
    """Names of the datasets; None for a run on several, which is read dataset by dataset."""
    dataset, source = experiment.facts["dataset"], experiment.facts["trained_on"]
    own = MIXTURE.fullmatch(dataset)
    tested = (own[2] or own[3]) if own else dataset
    if tested is None or "+" in tested:
        return None
    if source is None and experiment.runs[0].result.get("checkpoint"):
        return "unknown", tested
    found = MIXTURE.fullmatch(source or dataset)
    return (found[1] if found else source or dataset), tested


def cross_dataset_section(pairs: Sequence[Pair]) -> Section | None:
    """Scores by training dataset (rows) and tested dataset (columns)."""
    placed = [(pair, where) for pair in pairs if (where := trained_and_tested(pair[0])) is not None]
    tables = []
    for metric in HEADLINES:
        cells = [(pair, where) for pair, where in placed if metric in pair[1].metrics]
        tested = sorted({to for _, (_, to) in cells})
        if all(source == to for _, (source, to) in cells) or not cells:
            continue
        shared = common([pair for pair, _ in cells], metric)
        rows: dict[tuple[str, str, int], dict[str, tuple[str, str]]] = {}
        for (experiment, evaluation), (source, to) in cells:
            model = experiment.facts["class"] or "unknown"
            names = shared or evaluation.columns(metric)[:-1]
            value = over(evaluation, metric, names)
            cell = f"{number_text(metric, value.value[-1])} {interval_text(metric, value.low[-1], value.high[-1])}"
            place = 0
            while to in rows.get((source, model, place), {}):
                place += 1
            name = experiment.name.removesuffix(f" on {to}")
            rows.setdefault((source, model, place), {})[to] = (f"{cell} *" if source == to else cell, name)
        lines = []
        for (source, model, _), of in sorted(rows.items()):
            of_row = ", ".join(dict.fromkeys(name for _, name in of.values()))
            lines.append([source, model, *(of[to][0] if to in of else "–" for to in tested), of_row])
        if shared:
            note = f"Over what all cells score: {', '.join(shared)}."
        else:
            note = "The cells share no AU or class: each is over its own, so that columns do not compare."
        caption = f"Mean {TITLES[metric]}{HEADLINES[metric]} with 95 % interval: trained on (rows), tested on (columns)"
        star = "*: held-out subjects of the dataset that trained."
        tables.append(Table(caption, ["trained on", "model", *tested, "runs"], lines, [note, star]))
    if not tables:
        return None
    text = ["Several runs of a model between the same two datasets have a row each."]
    return Section("Across datasets", text, tables)
