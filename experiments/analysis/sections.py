"""Parts of the report beyond scores. Each appears where the ledgers at hand allow it."""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from callbacks import figures
from experiments.analysis import significance
from experiments.analysis.complexity import complexity_table
from experiments.analysis.correlation import correlation, dependency_f1, matrix_distance
from experiments.analysis.failures import CONFIDENCE, error_by_confidence, worst_frames
from experiments.analysis.timelines import RULE, change_rates, choose_stretch
from experiments.analysis.uncertainty import COVERAGES, judge
from experiments.comparison import PAIRED, Pair, common, groups, losses, pairings
from experiments.evaluation import compare
from experiments.ledgers import KEY, Experiment
from experiments.sections import Picture, Section, picture
from experiments.summary import interval_text, number_text, p_text
from experiments.tables import Table
from lightning_modules.common.metrics import Floats, mean_defined, truth_of

SHOWN = 5  # lines that the eye can follow in one panel: the best runs


def analysis_sections(pairs: Sequence[Pair]) -> list[Section]:
    """All of them that have something to show, for runs that predict occurrence."""
    occurrence = [(experiment, evaluation) for experiment, evaluation in pairs if "f1" in evaluation.metrics]
    found = [
        significance_section(occurrence),
        dependency_section(occurrence),
        timeline_section(occurrence),
        failure_section(occurrence),
        uncertainty_section(pairs),
        feature_map_section([experiment for experiment, _ in pairs]),
        complexity_section([experiment for experiment, _ in pairs]),
    ]
    return [section for section in found if section is not None]


def labels(ledger: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """(n, A) labels of the AUs named, -1 unknown."""
    return ledger[[f"{name}_true" for name in names]].to_numpy(np.int64)


def probabilities(ledger: pd.DataFrame, names: Sequence[str]) -> Floats:
    """(n, A) of the AUs named."""
    return ledger[[f"{name}_prob" for name in names]].to_numpy(np.float64)


# ------------------------------------------------------------------------------------------------------ significance


def significance_section(pairs: Sequence[Pair]) -> Section | None:
    """Paired tests of every two runs on the same frames, by AU."""
    tables = []
    for first, second in itertools.chain.from_iterable(map(pairings, groups(pairs))):
        if set(first[1].aus) & set(second[1].aus) and same_frames(first[0], second[0]):
            tables.append(_tests(first, second))
    if not tables:
        return None
    text = [
        significance.ADVICE,
        "F1: difference of the means of folds, its interval, and p of the bootstrap over subjects within folds. "
        "Log-loss: median over subjects of the difference of their means (below 0, the first run is better), and p of "
        "Wilcoxon's signed-rank test over subjects, which needs no threshold; with n subjects it cannot fall below 2 "
        "/ 2^n. Both p are corrected for the number of AUs by Holm's rule; the row of the mean is a test of its own. "
        "Frames: t and p of the paired t-test of the predictions over frames, as in AUNet, not corrected. Seeds are "
        "averaged, but for the frames, which are those of the first seed of each fold. p holds the networks fixed, as "
        "the intervals do.",
    ]
    return Section("Significance", text, tables)


def same_frames(first: Experiment, second: Experiment) -> bool:
    """Whether both hold out the same frames, and name them."""
    return first.frames is not None and first.frames == second.frames


def _tests(first: Pair, second: Pair) -> Table:
    (ours, a), (theirs, b) = first, second
    one, other = ours.held_out, theirs.held_out
    found = compare(a, b, "f1")
    aus = found.names[:-1]
    known = (labels(one, aus) >= 0) & (labels(other, aus) >= 0)
    frames = significance.frame_t_test(probabilities(one, aus), probabilities(other, aus), known)
    loss = significance.wilcoxon_over_subjects(*losses(ours, theirs, aus))
    p_f1, p_loss = (
        np.append(significance.holm(p[:-1]), p[-1]) for p in (significance.bootstrap_p(found.draws), loss.p)
    )
    header = ["AU", "F1", "95 % interval", "p, bootstrap", "log-loss", "p, Wilcoxon", "t over frames", "p, t"]
    rows = [
        [
            name,
            number_text("f1", found.value[row], signed=True),
            interval_text("f1", found.low[row], found.high[row], signed=True),
            p_text(p_f1[row]),
            number_text("log_loss", loss.statistic[row], signed=True),
            p_text(p_loss[row]),
            f"{frames.statistic[row]:+.1f}" if np.isfinite(frames.statistic[row]) else "–",
            p_text(frames.p[row]),
        ]
        for row, name in enumerate(found.names)
    ]
    people = sum(len(names) for names in a.subjects.values())
    note = f"{people} subjects, {len(one):,} frames. In the row of the mean, t is over all frames of all AUs at once."
    return Table(f"{ours.name} minus {theirs.name}: paired tests", header, rows, [note])


# ------------------------------------------------------------------------------------------------------ dependencies


def dependency_section(pairs: Sequence[Pair]) -> Section | None:
    """How faithfully the runs repeat which AUs go together."""
    rows, drawn = [], []
    for experiment, evaluation in pairs:
        names = evaluation.names[:-1]
        if len(names) < 2:
            continue
        true, called = labels(experiment.held_out, names), probabilities(experiment.held_out, names) >= 0.5
        of_labels, of_calls = correlation(true, true >= 0), correlation(called, true >= 0)
        dependency = dependency_f1(true, called)
        distance = matrix_distance(of_calls, of_labels)
        shares = (dependency.f1, mean_defined(dependency.precision.ravel()), mean_defined(dependency.recall.ravel()))
        cells = [number_text("distance", distance), *(number_text("f1", float(share)) for share in shares)]
        rows.append([experiment.name, *cells])
        caption = (
            f"{experiment.name}: correlations of labels and of calls at 0.5, and their difference, whose Frobenius "
            f"norm over {len(names)} AUs is {distance:.3f}. As in AUNet's Fig. 8."
        )
        figure = figures.correlations(of_labels, of_calls, evaluation.aus, "calls")
        drawn.append(picture(f"{experiment.name}_correlations", caption, figure))
    if not rows:
        return None
    text = [
        "Distance: Frobenius norm of the correlations of the calls minus those of the labels, divided by the number "
        "of AUs; lower is better. Each pair of AUs counts over the frames where both labels are known; an AU that is "
        "always or never called correlates with nothing.",
        "Dependency F1 is our reading of AUNet's Table X, which refers to the action-conditional scores of Tirupattur "
        "et al., CVPR 2021: precision and recall of one AU over the frames that show another, averaged over all "
        "ordered pairs that occur together; F1 is the harmonic mean of the two averages. Held-out frames of all folds "
        "together.",
    ]
    header = ["run", "distance", "dependency F1", "precision", "recall"]
    return Section("Dependencies between AUs", text, [Table("Faithfulness to the labels", header, rows)], drawn)


# --------------------------------------------------------------------------------------------------------- timelines


def timeline_section(pairs: Sequence[Pair]) -> Section | None:
    """Probabilities of all runs of the same frames along one stretch, and how often calls change."""
    by_frames: dict[tuple[str, str], list[Pair]] = {}
    for group in groups(pairs):
        for experiment, evaluation in group:
            if experiment.frames is not None:
                of = (group[0][0].name, experiment.frames)
                by_frames.setdefault(of, []).append((experiment, evaluation))
    tables, drawn = [], []
    for group in by_frames.values():
        ledger, names = group[0][0].held_out, common(group, "f1")
        if not names:
            continue
        true = labels(ledger, names)
        if (stretch := choose_stretch(ledger, true)) is None:
            continue
        prob = {experiment.name: probabilities(experiment.held_out, names) for experiment, _ in group[:SHOWN]}
        dataset = group[0][0].facts["dataset"]
        start = ledger.iloc[stretch[0]]
        where = f"{start['subject']}, {start['sequence']} of {dataset}"
        caption = f"Probabilities over labels of {where}: {RULE}. As in AUNet's Fig. 10."
        along = {run: values[stretch] for run, values in prob.items()}
        figure = figures.timeline(ledger["frame"].to_numpy()[stretch], true[stretch], along, names)
        drawn.append(picture(f"timeline_{group[0][0].name}", caption, figure))
        rates = [change_rates(ledger, true, true >= 0)]
        rates += [change_rates(ledger, values >= 0.5, true >= 0) for values in prob.values()]
        rows = [[name, *(number_text("rate", of[place], digits=1) for of in rates)] for place, name in enumerate(names)]
        rows.append(["mean", *(number_text("rate", float(mean_defined(of)), digits=1) for of in rates)])
        title = f"{dataset}: changes per 1000 frames of sequences of 60 frames or more"
        tables.append(Table(title, ["AU", "labels", *prob], rows))
    if not drawn:
        return None
    text = [
        "How continuous predictions are: calls at 0.5 that change more often than the labels flicker, and calls that "
        "change less often miss short events or are late. "
        f"Of runs that compare, the best {SHOWN} are drawn."
    ]
    return Section("Timelines", text, tables, drawn)


# ---------------------------------------------------------------------------------------------------------- failures


def failure_section(pairs: Sequence[Pair]) -> Section | None:
    """Errors by confidence of the landmarks, and the worst frames."""
    tables, drawn = [], []
    for experiment, evaluation in pairs:
        ledger, names = experiment.held_out, evaluation.names[:-1]
        if CONFIDENCE not in ledger or ledger[CONFIDENCE].isna().all():
            continue
        true, prob = labels(ledger, names), probabilities(ledger, names)
        confidence = ledger[CONFIDENCE].to_numpy(np.float64)
        bins = error_by_confidence(confidence, true, prob)
        rows = [
            [f"{low:.3f} to {high:.3f}", f"{n:,}", *(number_text("f1", share) for share in shares), f"{loss:.3f}"]
            for n, low, high, *shares, loss in zip(
                *(bins.frames, bins.low, bins.high, bins.error, bins.missed, bins.loss), strict=True
            )
        ]
        header = ["confidence", "frames", "wrong calls, percent", "missed positives, percent", "log-loss"]
        tables.append(Table(f"{experiment.name}: errors by confidence of the landmarks", header, rows))
        tables.append(_worst(experiment, names, true, prob, confidence))
        shares = {"wrong calls": bins.error, "missed positives": bins.missed}
        caption = f"{experiment.name}: errors by confidence of the landmarks; bins hold equally many frames."
        figure = figures.errors_by_confidence(bins.low, bins.high, shares)
        drawn.append(picture(f"{experiment.name}_confidence", caption, figure))
    if not tables:
        return None
    text = [
        "Does AU detection fail where the face alignment is unsure, as in AUNet's Fig. 7? Confidence is the column "
        "landmark_confidence of the ledger: how sure the alignment network is of its landmarks. Worst frames: highest "
        "mean log-loss over AUs, at most one a sequence."
    ]
    return Section("Failure cases", text, tables, drawn)


def _worst(experiment: Experiment, names: Sequence[str], true: np.ndarray, prob: Floats, confidence: Floats) -> Table:
    ledger = experiment.held_out
    key = [name for name in KEY if name in ledger]
    group = ledger[key[:-1] if key[-1] == "frame" else key].astype(str).agg("/".join, axis=1)
    ranks = pd.Series(confidence).rank(pct=True).to_numpy()
    rows = []
    for row in worst_frames(true, prob, group.to_numpy()):
        missed = [name for a, name in enumerate(names) if true[row, a] == 1 and prob[row, a] < 0.5]
        false = [name for a, name in enumerate(names) if true[row, a] == 0 and prob[row, a] >= 0.5]
        loss = np.nanmean(significance.log_loss(true[row], prob[row]))
        cells = [
            f"{confidence[row]:.3f}",
            number_text("f1", ranks[row]),
            f"{loss:.2f}",
            " ".join(missed),
            " ".join(false),
        ]
        rows.append([", ".join(str(ledger[name].iloc[row]) for name in key), *(cell or "–" for cell in cells)])
    header = [", ".join(key), "confidence", "percentile of it", "log-loss", "missed", "called by mistake"]
    return Table(f"{experiment.name}: worst frames", header, rows, text=True)


# ------------------------------------------------------------------------------------------------------- uncertainty


def uncertainty_section(pairs: Sequence[Pair]) -> Section | None:
    """Pseudo-intensities along a video, and what their uncertainty is worth."""
    tables, drawn = [], []
    for experiment, evaluation in pairs:
        ledger, names = experiment.held_out, evaluation.names[:-1]
        if not names or f"{names[0]}_pseudo" not in ledger:
            continue
        drawn += _pseudo_pictures(experiment, ledger, names)
        if f"{names[0]}_sigma" not in ledger:
            continue
        # Each fold has networks, and so a scale of sigma, of its own.
        by_fold = [[judge(run.ledger(), au) for au in evaluation.aus] for run in experiment.runs]
        risks = {
            name: tuple(np.mean([getattr(of[a], part) for of in by_fold], axis=0) for part in ("risk", "oracle"))
            for a, name in enumerate(names)
        }
        kind = _kind_of_error(ledger, names[0])
        caption = f"{experiment.name}: {kind} of the frames that are kept when the most uncertain are set aside."
        drawn.append(picture(f"{experiment.name}_risk", caption, figures.risk_coverage(COVERAGES, risks, kind)))
        half = int(np.argmin(np.abs(COVERAGES - 0.5)))
        table = [
            [mean_defined([of[a].covered for of in by_fold]), risks[name][0][-1], risks[name][0][half],
             mean_defined([of[a].trapped for of in by_fold])]
            for a, name in enumerate(names)
        ]  # fmt: skip
        table.append(list(mean_defined(np.array(table, np.float64), axis=0)))
        rows = [
            [name, *(number_text("auc", float(value)) for value in values)]
            for name, values in zip([*names, "mean"], table, strict=True)
        ]
        header = ["AU", "ROC-AUC for covered faces", f"{kind}, all frames", "the surer half", "share of the way"]
        title = f"{experiment.name}: what sigma is worth, mean over folds and seeds"
        tables.append(Table(title, header, rows))
    if not drawn:
        return None
    text = [
        "Does sigma know which faces are covered (ROC-AUC; only rendered data say which are), and do errors fall when "
        "the frames with the highest sigma are set aside? Share of the way: how far the error falls towards what "
        "setting aside the worst frames themselves would give, averaged over shares kept; 0 is no better than chance."
    ]
    return Section("Pseudo-intensity and uncertainty", text, tables, drawn)


def _kind_of_error(ledger: pd.DataFrame, name: str) -> str:
    if f"{name}_level" in ledger:
        return "mean absolute error"
    return "share of wrong calls" if f"{name}_prob" in ledger else "share of frames in the wrong order"


def _pseudo_pictures(experiment: Experiment, ledger: pd.DataFrame, names: Sequence[str]) -> list[Picture]:
    drawn = []
    level = ledger[[truth_of(ledger.columns, int(name[2:])) for name in names]].to_numpy(np.int64)
    if (stretch := choose_stretch(ledger, np.sign(level))) is not None:
        part = ledger.iloc[stretch]
        pseudo = part[[f"{name}_pseudo" for name in names]].to_numpy(np.float64)
        has = f"{names[0]}_sigma" in part
        spread = part[[f"{name}_sigma" for name in names]].to_numpy(np.float64) if has else None
        covered = part["occluded"].to_numpy() if "occluded" in part else None
        frames = part["frame"].to_numpy()
        figure = figures.pseudo_intensities(frames, level[stretch], pseudo, spread, covered, names)
        start = part.iloc[0]
        caption = f"{experiment.name}: pseudo-intensity over labels of {start['subject']}, {start['sequence']}: {RULE}."
        drawn.append(picture(f"{experiment.name}_pseudo", caption, figure))
    return drawn + uncertain_faces(experiment)


def uncertain_faces(experiment: Experiment) -> list[Picture]:
    """The frames that the first run is most and least sure of, if it kept them."""
    if (kept := experiment.runs[0].arrays("uncertain_frames")) is None:
        return []
    ends = list(dict.fromkeys(name.rpartition(" ")[0] for name in kept))
    rows = {end.replace(" ", "\n"): (kept[f"{end} images"], kept[f"{end} frames"].tolist()) for end in ends}
    caption = f"{experiment.name}: frames with the highest and the lowest sigma, one of each video."
    return [picture(f"{experiment.name}_uncertain", caption, figures.face_sheet(rows))]


def face_pictures(experiment: Experiment) -> list[Picture]:
    """The figures that show faces, of the first run; none where it did not keep any."""
    maps = feature_map_section([experiment])
    return uncertain_faces(experiment) + (maps.pictures if maps else [])


# ------------------------------------------------------------------------------------------------------ feature maps


def feature_map_section(experiments: Sequence[Experiment]) -> Section | None:
    """Feature maps of the runs that kept them; runs that kept the same frames share a figure."""
    groups: dict[tuple[str, ...], list[tuple[Experiment, dict[str, np.ndarray]]]] = {}
    for experiment in experiments:
        if (arrays := experiment.runs[0].arrays("feature_maps")) is not None:
            key = (*(str(experiment.facts[fact]) for fact in PAIRED), *arrays["frames"].tolist())
            groups.setdefault(key, []).append((experiment, arrays))
    drawn = []
    for group in groups.values():
        maps = {
            f"{experiment.name}\n{name}": values.astype(np.float64)
            for experiment, arrays in group
            for name, values in arrays.items()
            if name not in ("images", "frames")
        }
        first, kept = group[0]
        caption = (
            "Mean magnitude of feature maps over channels, each from its least to its greatest. As in AUNet's Figs. 6 "
            f"and 9. Frames of {first.facts['dataset']}: {'; '.join(kept['frames'].tolist())}."
        )
        figure = figures.feature_maps(kept["images"], maps)
        drawn.append(picture(f"{first.name}_feature_maps", caption, figure))
    return Section("Feature maps", pictures=drawn) if drawn else None


# -------------------------------------------------------------------------------------------------------- complexity


def complexity_section(experiments: Sequence[Experiment]) -> Section | None:
    """Parameters and multiply-accumulates of the networks of whole runs."""
    whole = [experiment.runs[0] for experiment in experiments if experiment.runs[0].dataset is None]
    sizes = {run.path.parent.name: run.result["sizes"] for run in whole if run.result.get("sizes")}
    return Section("Size of the networks", tables=[complexity_table(sizes)]) if sizes else None
