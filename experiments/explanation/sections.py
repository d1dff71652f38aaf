"""The parts of explain.py's page."""

from collections.abc import Sequence

import numpy as np

from callbacks import emotion_figures
from datamodules.facs import au_name
from datamodules.synth.emfacs import EMFACS
from experiments.explanation import numbers
from experiments.explanation.numbers import Calls, Estimate
from experiments.explanation.runs import AFTER, BEFORE, EmotionRun
from experiments.published import load_published
from experiments.sections import Section, picture
from experiments.summary import interval_text, number_text
from experiments.tables import Table
from lightning_modules.common.metrics import expression_names

HAPPINESS, SMILE = "Happiness", (6, 12)
PICTURES = 8
STRONG = 3 * 255.0  # height of a heat-map that gets the strongest colour: intensity 3


def forgetting_section(runs: Sequence[EmotionRun], resamples: int, seed: int) -> Section:
    """Table II: AUs before and after learning emotions, on the held-out subjects of the AU stage."""
    aus = runs[0].aus
    shown = [au for au in SMILE if au in aus]
    names = [au_name(au) for au in shown]
    header = ["body", "F1", *(f"F1 {name}" for name in names), "F1 minus before"]
    header += ["accuracy", *(f"accuracy {name}" for name in names)]
    rows: list[list[str]] = []
    places, known = [], set()

    def add(title: str, scores: tuple[Estimate, Estimate], gain: Estimate | None = None) -> None:
        f1, accuracy = scores
        change = "–" if gain is None else _last(gain, signed=True)
        rows.append([title, _last(f1), *_of(f1, aus, shown), change, _last(accuracy), *_of(accuracy, aus, shown)])

    for run in (run for run in runs if run.aus == aus):
        subjects = run.ledger("aus", BEFORE)["subject"].astype(str).tolist()
        found = {when: run.calls("aus", when) for when in (BEFORE, AFTER)}
        scores = {when: numbers.au_scores(calls, subjects, resamples, seed) for when, calls in found.items()}
        if (source := run.run.result["initialisation"]) not in known:
            known.add(source)
            add(f"before ({source})", scores[BEFORE])
            facts = run.au_stage[1].state_dict()
            frames = f"{len(set(subjects))} subjects, {len(subjects)} frames"
            places.append(f"{facts['dataset']} ({facts['edition']}), holdout-P{facts['fold']}, {frames}")
            for title, always in (("always present", True), ("always absent", False)):
                trivial = Calls(found[BEFORE].score, np.full(found[BEFORE].called.shape, always), found[BEFORE].true)
                add(title, numbers.au_scores(trivial, subjects, resamples, seed))
        add(f"after: {run.name}", scores[AFTER], scores[AFTER][0].minus(scores[BEFORE][0]))
    blank = ["–"] * len(shown)
    rows += [
        [f"paper: {row.method}", number_text("f1", row.mean), *blank, "–", "–", *blank]
        for row in load_published()
        if (row.paper, row.table, row.metric) == ("emotiram_fau", 2, "f1")
    ]
    notes = [
        f"Scored on {'; '.join(places)}; means over {', '.join(au_name(au) for au in aus)}.",
        "Intervals: bootstrap over subjects, paired in the difference; the variance of training is not in them.",
    ]
    table = Table("Scores of AUs before and after learning emotions, in percent", header, rows, notes)
    return Section("Forgetting (Table II)", tables=[table])


def happiness_section(runs: Sequence[EmotionRun], resamples: int, seed: int) -> Section:
    """Table III: AU6 and AU12 on pictures of happiness."""
    title = "AU6 and AU12 on happiness (Table III)"
    able = [run for run in runs if {*SMILE} <= {*run.aus} and HAPPINESS in run.model.expressions]
    if not able:
        return Section(title, [f"Left out: no body knows both {' and '.join(map(au_name, SMILE))}."])
    rows = []
    for run, when in _once(able):
        label = run.ledger("emotions", when)["expression_true"].to_numpy()
        called = run.calls("emotions", when).called[:, [run.aus.index(au) for au in SMILE]]
        happy = label == list(run.model.expressions).index(HAPPINESS)
        there = numbers.joint_calls(called[happy], resamples, seed)
        elsewhere = numbers.joint_calls(called[(label >= 0) & ~happy], resamples, seed)
        cells = [_cell(there, 0), _cell(there, 1), *(number_text("accuracy", x) for x in there.value[2:])]
        rows.append([f"{when}: {run.name}", *cells, _cell(elsewhere, 0), _cell(elsewhere, 1)])
    published = [row for row in load_published() if (row.paper, row.table) == ("emotiram_fau", 3)]
    for method in dict.fromkeys(row.method for row in published):
        means = {row.metric: row.mean for row in published if row.method == method}
        both, either = (number_text("accuracy", means[f"happiness_{part}"]) for part in ("both", "either"))
        rows.append([f"paper: {method}", both, either, *["–"] * 4])
    header = ["body", "both", "either", *map(au_name, SMILE), "both, other emotions", "either, other emotions"]
    notes = [
        "Shares of pictures in percent, 95 % intervals over pictures. A body that calls both everywhere scores 100, so "
        "that the last two columns tell what the first two are worth."
    ]
    return Section(title, tables=[Table(f"AUs called on held-out pictures of {HAPPINESS}", header, rows, notes)])


def profile_section(runs: Sequence[EmotionRun], resamples: int, seed: int) -> Section:
    """Which AUs are called on which emotion, against EMFACS."""
    aus, rows, pictures = runs[0].aus, [], []
    for run in runs:
        expressions, names = list(run.model.expressions), [au_name(au) for au in run.aus]
        expected = numbers.expected_aus(EMFACS, expressions, run.aus)
        profiles = {}
        for when in (BEFORE, AFTER):
            label = run.ledger("emotions", when)["expression_true"].to_numpy()
            called = run.calls("emotions", when).called
            profiles[when] = numbers.profile(called, label, len(expressions))
        figure = emotion_figures.activation_profiles(profiles, expected, expressions, names)
        caption = (
            f"{run.name}: share of held-out pictures of an expression (row) on which an AU (column) is called. Framed: "
            "AUs of a combination that shows the expression (EMFACS)."
        )
        pictures.append(picture(f"profile {run.name}", caption, figure))
    for run, when in _once([run for run in runs if run.aus == aus]):
        label = run.ledger("emotions", when)["expression_true"].to_numpy()
        expected = numbers.expected_aus(EMFACS, list(run.model.expressions), aus)
        estimate = numbers.agreement(run.calls("emotions", when).called, label, expected, resamples, seed)
        values = [number_text("accuracy", value) for value in estimate.value[:-1]]
        rows.append([f"{when}: {run.name}", _cell(estimate, -1), *values])
    notes = [
        "Share of calls on pictures of expressions that the AU belongs to (EMFACS), less that on the others, in "
        "percent; 0: AUs say nothing about emotions. 95 % intervals over pictures."
    ]
    caption = "How much oftener an AU is called on the emotions that it shows"
    table = Table(caption, ["body", "mean", *map(au_name, aus)], rows, notes)
    return Section("AUs by emotion, against EMFACS", tables=[table], pictures=pictures)


def picture_section(runs: Sequence[EmotionRun], faces: bool) -> Section:
    """Figures 3 and 4: pictures, AUs and emotions; and heat-maps laid over them."""
    text, pictures = [], []
    for run in runs:
        if not (faces or run.rendered):
            text.append(f"{run.name}: no pictures, since they show people; --faces where the licence allows it.")
            continue
        expressions, names = list(run.model.expressions), [au_name(au) for au in run.aus]
        ledger = run.ledger("emotions", AFTER)
        columns = [f"expression_{name}_prob" for name in expression_names(ledger.columns)]
        prob, label = ledger[columns].to_numpy(np.float64), ledger["expression_true"].to_numpy()
        wanted = expressions.index(HAPPINESS) if HAPPINESS in expressions else 0
        rows = numbers.examples(prob, label, wanted, PICTURES)
        images = run.images(ledger.iloc[rows])
        pixels = images.permute(0, 2, 3, 1).numpy()
        figure = emotion_figures.answer_panels(
            pixels,
            {when: run.calls("emotions", when).score[rows] for when in (BEFORE, AFTER)},
            prob[rows],
            [expressions[label[row]] for row in rows],
            names,
            expressions,
            threshold=0.5 if run.model.body == "megraph" else run.threshold - 0.5,
        )
        caption = (
            f"{run.name}: AUs before and after learning emotions, and the emotion. The surest right and wrong answers "
            f"to {expressions[wanted]}, then the surest answer to each other expression."
        )
        pictures.append(picture(f"panels {run.name}", caption, figure))
        maps = {when: found for when in (BEFORE, AFTER) if (found := run.maps(images, when)) is not None}
        if maps:
            figure = emotion_figures.heatmap_overlays(pixels, maps, names, STRONG)
            caption = f"{run.name}: heat-maps of AUs over the same pictures; the strongest colour is intensity 3."
            pictures.append(picture(f"heatmaps {run.name}", caption, figure))
    return Section("Pictures (Figs. 3 and 4)", text, pictures=pictures)


def _once(runs: Sequence[EmotionRun]) -> list[tuple[EmotionRun, str]]:
    """Every run after learning emotions; before it, bodies of the same AU stage once."""
    found, known = [], set()
    for run in runs:
        if (source := run.run.result["initialisation"]) not in known:
            known.add(source)
            found.append((run, BEFORE))
        found.append((run, AFTER))
    return found


def _cell(estimate: Estimate, place: int, signed: bool = False) -> str:
    """One of the numbers in percent, with its interval."""
    low, high = estimate.interval()
    value = number_text("accuracy", float(estimate.value[place]), signed)
    return f"{value} {interval_text('accuracy', low[place], high[place], signed)}"


def _last(estimate: Estimate, signed: bool = False) -> str:
    return _cell(estimate, -1, signed)


def _of(estimate: Estimate, aus: Sequence[int], shown: Sequence[int]) -> list[str]:
    return [number_text("accuracy", float(estimate.value[aus.index(au)])) for au in shown]
