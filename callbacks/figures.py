"""Figures of a run: pure functions from arrays to a matplotlib Figure.

None of them touches pyplot or a global state, so they work without a display, in callbacks and in threads. Colours are
those of Okabe and Ito, which stay apart for colour-blind readers.
"""

import os
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from lightning_modules.common.metrics import average_precision, operating_points

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
CYCLE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)
DASHES = ("-", "--", ":", "-.")  # of more lines than colours
GREY = "#8A8A8A"

styled = mpl.rc_context(
    {
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.prop_cycle": cycler(color=CYCLE),
        "grid.color": "#E3E3E3",
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.6,
        "legend.frameon": False,
        "figure.constrained_layout.h_pad": 0.08,
        "figure.constrained_layout.w_pad": 0.08,
    }
)


@styled
def f1_against_prevalence(
    prevalence: Mapping[str, float],
    f1: Mapping[str, float],
    low: Mapping[str, float] | None = None,
    high: Mapping[str, float] | None = None,
) -> Figure:
    """F1 of every AU over its prevalence, with what calling every frame positive would score, 2p / (1 + p).

    Args:
        prevalence: `AU01` -> share of positive frames.
        f1: `AU01` -> F1; NaN is left out.
        low: `AU01` -> lower end of the interval.
        high: `AU01` -> upper end of the interval.
    """
    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    axes = figure.add_subplot()
    names = [name for name, value in f1.items() if np.isfinite(value)]
    x = np.array([prevalence[name] for name in names])
    y = np.array([f1[name] for name in names])
    limit = min(1.0, 1.15 * float(np.max(x, initial=0.1)))
    p = np.linspace(0, limit, 200)
    axes.plot(p, 2 * p / (1 + p), color=GREY, linestyle="--", label="all positive: 2p / (1 + p)")
    if low is not None and high is not None:
        bars = np.array([[f1[name] - low[name], high[name] - f1[name]] for name in names]).reshape(-1, 2)
        axes.errorbar(x, y, np.clip(bars.T, 0, None), fmt="none", ecolor=BLUE, elinewidth=1, alpha=0.5)
    axes.scatter(x, y, color=BLUE, s=28, zorder=3, label="F1 at 0.5, interval over subjects" if low else "F1")
    axes.set(xlabel="prevalence p", ylabel="F1", xlim=(0, limit), ylim=(0, 1), title="F1 against prevalence")
    axes.legend(loc="lower right")
    _name_points(axes, names, np.stack([x, y], axis=1), scale=(330 / limit, 240))
    return figure


@styled
def precision_recall(pairs: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> Figure:
    """Precision over recall, one panel an AU; the dashed line is the prevalence, the dot the threshold 0.5.

    Args:
        pairs: `AU01` -> known labels (n,) in {0, 1} and scores (n,).
    """
    figure, panels = _grid(list(pairs), width=2.1, height=2.0)
    for axes, (name, (true, prob)) in zip(panels, pairs.items(), strict=True):
        scores, tp, fp = operating_points(true, prob)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), title=name, xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        if tp.size == 0 or tp[-1] == 0:
            axes.text(0.5, 0.5, "no positives", ha="center", color=GREY)
            continue
        recall, precision = tp / tp[-1], tp / (tp + fp)
        axes.plot(np.append(0, recall), np.append(precision[0], precision), color=BLUE, drawstyle="steps-pre")
        axes.axhline(precision[-1], color=GREY, linestyle="--", linewidth=1)
        if (called := int(np.sum(scores >= 0.5))) > 0:
            axes.plot(recall[called - 1], precision[called - 1], "o", color=RED, markersize=5)
        axes.text(0.97, 0.95, f"AP {average_precision(true, prob):.2f}", ha="right", va="top", fontsize=8)
    figure.supxlabel("recall", fontsize=9)
    figure.supylabel("precision", fontsize=9)
    return figure


@styled
def cooccurrence(true: ArrayLike, called: ArrayLike, aus: Sequence[int]) -> Figure:
    """How often an AU (column) is present when another (row) is: in the labels, in the predictions, and the difference.

    Args:
        true: (n, A) in {-1, 0, 1}; -1 is unknown.
        called: (n, A) predicted presence.
        aus: The A action units.
    """
    true = np.asarray(true)
    called = np.asarray(called, dtype=bool)
    known = true >= 0
    labels = _conditional(true == 1, known)
    predictions = _conditional(called & known, known)
    names = [f"AU{au:02d}" for au in aus]
    figure = Figure(figsize=(2.2 + 3.0 * 3, 3.3), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, matrix, title in ((left, labels, "labels"), (middle, predictions, "predictions")):
        image = _matrix(axes, matrix, names, "Blues", 0, 1)
        axes.set_title(title)
    figure.colorbar(image, ax=[left, middle], shrink=0.85, label="P(column | row)")
    largest = max(0.1, float(np.nanmax(np.abs(predictions - labels), initial=0.1)))
    difference = _matrix(right, predictions - labels, names, "PuOr_r", -largest, largest)
    right.set_title("predictions - labels")
    figure.colorbar(difference, ax=right, shrink=0.85)
    return figure


@styled
def confusion(table: ArrayLike, names: Sequence[str]) -> Figure:
    """Confusion matrix in shares of the rows; a class that is never shown has a blank row.

    Args:
        table: (K, K) number of frames of the class of the row that were called the class of the column.
        names: The K classes.
    """
    table = np.asarray(table, np.float64)
    shown = table.sum(axis=1)
    side = 2.2 + 0.42 * len(names)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    shares = np.where(shown > 0, (table / np.maximum(shown, 1)[:, None]).T, np.nan).T
    image = _matrix(axes, shares, names, "Blues", 0, 1)
    axes.set_yticks(range(len(names)), [f"{name} ({n:,.0f})" for name, n in zip(names, shown, strict=True)], fontsize=8)
    axes.set(title="expressions", xlabel="called", ylabel="shown (frames)")
    figure.colorbar(image, ax=axes, shrink=0.85, label="share of the row")
    return figure


@styled
def correlations(labels: ArrayLike, predictions: ArrayLike, aus: Sequence[int], title: str = "predictions") -> Figure:
    """Correlation matrices of labels and of predictions, and their difference (Yang et al. 2023, Fig. 8).

    Args:
        labels: (A, A); NaN is left blank.
        predictions: (A, A).
        aus: The A action units.
        title: Of the middle panel.
    """
    labels, predictions = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
    names = [f"AU{au:02d}" for au in aus]
    side = 1.6 + 0.3 * len(names)
    figure = Figure(figsize=(3 * side + 1.4, side), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, matrix, name in zip(
        panels, (labels, predictions, predictions - labels), ("labels", title, "difference"), strict=True
    ):
        image = _matrix(axes, matrix, names, "PuOr_r", -1, 1, signed=True)
        axes.set_title(name)
    figure.colorbar(image, ax=panels, shrink=0.85, label="correlation")
    return figure


@styled
def timeline(frames: ArrayLike, true: ArrayLike, prob: Mapping[str, ArrayLike], names: Sequence[str]) -> Figure:
    """Probabilities along a sequence, one row an AU, over its labels (Yang et al. 2023, Fig. 10).

    Args:
        frames: (n,) numbers of the frames, ascending.
        true: (n, A) in {-1, 0, 1}; present is shaded red, unknown grey.
        prob: Run -> (n, A).
        names: Of the A AUs.
    """
    frames, true = np.asarray(frames), np.asarray(true)
    figure = Figure(figsize=(10.0, 0.9 + 0.62 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for place, (axes, name) in enumerate(zip(panels, names, strict=True)):
        for value, colour, label in ((1, RED, "label: present"), (-1, GREY, "label: unknown")):
            if np.any(true == value):
                edges = np.diff(np.concatenate([[0], true[:, place] == value, [0]]).astype(int))
                first, last = frames[np.flatnonzero(edges > 0)], frames[np.flatnonzero(edges < 0) - 1]
                spans = np.stack([first - 0.5, last - first + 1], 1)  # a single frame is as wide as a frame
                axes.broken_barh(spans, (0, 1), color=colour, alpha=0.22, linewidth=0, label=label)
        axes.axhline(0.5, color=GREY, linewidth=0.6, linestyle=":")
        for (run, values), colour in zip(prob.items(), (GREEN, BLUE, ORANGE, PURPLE, SKY) * 9, strict=False):
            axes.plot(frames, np.asarray(values)[:, place], color=colour, linewidth=1.1, label=run)
        axes.set(ylim=(-0.03, 1.03), yticks=(0, 1), xlim=(frames[0], frames[-1]))
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.grid(axis="y", visible=False)
    panels[-1].set_xlabel("frame")
    figure.supylabel("probability", fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    columns = min(len(labels), max(1, 120 // (max(map(len, labels)) + 6)))  # 120 letters and lines fill the width
    figure.legend(handles, labels, loc="outside upper right", ncols=columns)
    figure.set_figheight(figure.get_figheight() + 0.2 * (-(-len(labels) // columns) - 1))
    return figure


@styled
def errors_by_confidence(low: ArrayLike, high: ArrayLike, shares: Mapping[str, ArrayLike]) -> Figure:
    """Shares of wrong calls over the confidence of the landmarks, one point a bin of equally many frames.

    Args:
        low: (Q,) lowest confidence of each bin.
        high: (Q,) highest.
        shares: Label -> (Q,) shares, drawn over the middles of the bins.
    """
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    axes = figure.add_subplot()
    middle = (low + high) / 2
    for (label, values), colour in zip(shares.items(), (BLUE, RED, GREEN), strict=False):
        values = np.asarray(values, np.float64)
        axes.hlines(values, low, high, color=colour, alpha=0.35, linewidth=3)
        axes.plot(middle, values, "o-", color=colour, label=label)
    axes.set(xlabel="confidence of the landmarks", ylabel="share", title="Errors by confidence of the landmarks")
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


@styled
def risk_coverage(coverage: ArrayLike, risks: Mapping[str, tuple[ArrayLike, ArrayLike]], error: str) -> Figure:
    """Error of the frames that are kept when the most uncertain are set aside, one panel a prediction.

    Args:
        coverage: (Q,) shares of frames kept.
        risks: Title -> (Q,) risk by uncertainty, (Q,) by the error itself.
        error: What the error is.
    """
    coverage = np.asarray(coverage, np.float64)
    figure, panels = _grid(list(risks), width=2.1, height=2.0)
    for axes, (name, (risk, oracle)) in zip(panels, risks.items(), strict=True):
        risk = np.asarray(risk, np.float64)
        axes.axhline(risk[-1], color=GREY, linestyle="--", linewidth=1, label="set aside at random")
        axes.plot(coverage, risk, color=BLUE, label="by uncertainty")
        axes.plot(coverage, oracle, color=GREEN, linewidth=1, linestyle=":", label="by the error itself")
        axes.set(title=name, xlim=(0, 1), xticks=(0, 0.5, 1))
        axes.set_ylim(bottom=0)
    figure.supxlabel("share of frames kept", fontsize=9)
    figure.supylabel(error, fontsize=9)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


@styled
def pseudo_intensities(
    frames: ArrayLike, level: ArrayLike, pseudo: ArrayLike, sigma: ArrayLike | None, occluded: ArrayLike | None,
    names: Sequence[str],
) -> Figure:  # fmt: skip
    """Pseudo-intensity with its uncertainty along a video, one row an AU, over its labels.

    Args:
        frames: (n,) numbers of the frames, ascending.
        level: (n, A) labels, -1 unknown.
        pseudo: (n, A).
        sigma: (n, A), or None.
        occluded: (n,) 1 where the face is covered, or None.
        names: Of the A AUs.
    """
    frames, level, pseudo = np.asarray(frames), np.asarray(level, np.float64), np.asarray(pseudo, np.float64)
    figure = Figure(figsize=(10.0, 0.9 + 1.05 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for place, (axes, name) in enumerate(zip(panels, names, strict=True)):
        coded = axes.twinx()
        known = np.where(level[:, place] >= 0, level[:, place], np.nan)
        coded.fill_between(frames, known, step="mid", color=ORANGE, alpha=0.35, linewidth=0, label="label (right)")
        coded.set_ylim(0, max(1.0, float(np.nanmax(known, initial=0))) * 1.05)
        coded.grid(visible=False)
        coded.spines["right"].set_visible(True)
        axes.set_zorder(coded.get_zorder() + 1)
        axes.patch.set_visible(False)
        middle = pseudo[:, place]
        axes.plot(frames, middle, color=BLUE, linewidth=1.1, label="pseudo-intensity")
        if sigma is not None:
            spread = np.asarray(sigma, np.float64)[:, place]
            band = (middle - spread, middle + spread)
            axes.fill_between(frames, *band, color=SKY, alpha=0.4, linewidth=0, label="± sigma")
            reach = np.ptp(middle) or 1.0
            axes.set_ylim(middle.min() - reach, middle.max() + reach)  # one wild sigma would flatten the rest
        if occluded is not None and np.any(np.asarray(occluded) == 1):
            low, _ = axes.get_ylim()
            covered = frames[np.asarray(occluded) == 1]
            axes.plot(covered, np.full(len(covered), low), "|", color=RED, markersize=9, label="face covered")
        axes.set(xlim=(frames[0], frames[-1]))
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
    panels[-1].set_xlabel("frame")
    handles, labels = panels[0].get_legend_handles_labels()
    of_label = next(axes for axes in figure.axes if axes not in panels).get_legend_handles_labels()
    figure.legend([*handles, *of_label[0]], [*labels, *of_label[1]], loc="outside upper right", ncols=4)
    return figure


@styled
def face_sheet(rows: Mapping[str, tuple[ArrayLike, Sequence[str]]]) -> Figure:
    """Faces in rows, a caption above each.

    Args:
        rows: Name -> (N, S, S, 3) uint8 and N captions.
    """
    columns = max(len(captions) for _, captions in rows.values())
    figure = Figure(figsize=(1.2 + 1.3 * columns, 0.2 + 1.55 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for of_row, (name, (images, captions)) in zip(panels, rows.items(), strict=True):
        for axes in of_row:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.grid(visible=False)
        for axes, image, caption in zip(of_row, np.asarray(images), captions, strict=False):
            axes.imshow(image)
            axes.set_title(caption, fontsize=7, fontweight="normal")
        of_row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


@styled
def feature_maps(images: ArrayLike, maps: Mapping[str, ArrayLike]) -> Figure:
    """Pictures in the first row, below them one row of feature maps each (Yang et al. 2023, Figs. 6 and 9).

    Args:
        images: (N, S, S, 3) uint8.
        maps: Name of the row -> (N, S, S) from 0 to 1.
    """
    images = np.asarray(images)
    columns = len(images)
    figure = Figure(figsize=(1.7 + 1.5 * columns, 0.3 + 1.5 * (1 + len(maps))), layout="constrained")
    panels = figure.subplots(1 + len(maps), columns, squeeze=False)
    for row, (name, pictures) in enumerate({"picture": images, **maps}.items()):
        for axes, picture in zip(panels[row], np.asarray(pictures), strict=True):
            axes.imshow(picture, cmap="magma", vmin=0, vmax=1)  # colours leave RGB as it is
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.grid(visible=False)
        panels[row, 0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


@styled
def training_curves(runs: Mapping[str, pd.DataFrame], monitor: str) -> Figure:
    """Training loss and validation score by epoch, one line a run.

    Args:
        runs: Label -> `metrics.csv` as Lightning's CSVLogger writes it (rows of several kinds, empty cells NaN).
        monitor: Column of the validation score, such as `val/f1_mean`.
    """
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    panels = figure.subplots(1, 2)
    drawn = {}
    for axes, column in zip(panels, ("train/loss", monitor), strict=True):
        for number, (label, metrics) in enumerate(runs.items()):
            if column in metrics:
                by_epoch = metrics.groupby("epoch")[column].mean().dropna()
                style = {"color": CYCLE[number % len(CYCLE)], "linestyle": DASHES[number // len(CYCLE) % len(DASHES)]}
                (drawn[label],) = axes.plot(by_epoch.index, by_epoch.to_numpy(), marker=".", **style)
        axes.set(xlabel="epoch", title=column)
        axes.xaxis.get_major_locator().set_params(integer=True)
    if drawn:
        figure.legend(drawn.values(), drawn.keys(), loc="outside right upper", fontsize=8)
    return figure


@styled
def importance(
    means: Mapping[str, Mapping[str, float]], size: Mapping[str, float], score: str, title: str, ranges: bool
) -> Figure:
    """How much a score depends on the parameters of a sweep, the most important on top.

    Args:
        means: Parameter -> value -> mean score.
        size: Parameter -> importance, in the unit of the score.
        score: What the score is, and its unit.
        title: Of the figure.
        ranges: Draw the mean of every value, whose range the importance is; else bars.
    """
    figure = Figure(figsize=(8.4, 1.1 + 0.62 * len(size)), layout="constrained")
    axes = figure.add_subplot()
    rows = range(len(size))
    if ranges:
        for row, name in enumerate(size):
            points = means[name]
            ends = [*points.values()]
            axes.hlines(row, min(ends), max(ends), color=SKY, linewidth=5, alpha=0.6)
            axes.plot(ends, [row] * len(ends), "o", color=BLUE)
            in_order = sorted(points, key=points.__getitem__)
            shared = os.path.commonprefix(in_order if len(in_order) > 1 else [""])  # noqa: RUF071  # of letters
            shared = shared[: 1 + max(map(shared.rfind, "-_/ "))]
            for place, value in enumerate(in_order):  # neighbours are named on different sides
                name, side = _short(value.removeprefix(shared)), (0, 7 if place % 2 == 0 else -13)
                axes.annotate(name, (points[value], row), side, textcoords="offset points", ha="center", fontsize=7)
        axes.set_xlabel(f"{score}, of the trials with a value")
        axes.margins(x=0.12)
    else:
        axes.barh(rows, [*size.values()], color=BLUE, height=0.6)
        axes.set_xlabel(f"increase of the mean absolute error when shuffled; score: {score}")
        axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_yticks(rows, [_short(name, 44) for name in size])
    axes.set(title=title, ylim=(len(size) - 0.4, -0.6))
    axes.grid(axis="y", visible=False)
    return figure


def _short(text: str, limit: int = 18) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


@styled
def relation_matrix(relation: ArrayLike, aus: Sequence[int], title: str = "AU relation") -> Figure:
    """Relation matrix (A, A) with its row sums, the denominators of RE-Net's Eq. 5 (Yang & Yin 2020, Fig. 2)."""
    matrix = np.asarray(relation, dtype=np.float64)
    names = [f"AU{au:02d}" for au in aus]
    side = 1.6 + 0.42 * len(names)
    figure = Figure(figsize=(side + 1.9, side), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(len(names), 2.2))
    _matrix(left, matrix, names, "PuOr_r", -1, 1, signed=True)
    left.set_title(title)
    sums = matrix.sum(axis=1)
    right.barh(range(len(names)), sums, color=[RED if value < 0.1 else GREY for value in sums], height=0.7)
    right.set(title="row sum", ylim=(len(names) - 0.5, -0.5), yticks=[])
    right.set_xlim(min(0.0, 1.1 * float(sums.min())), 1.45 * float(sums.max()))
    right.grid(axis="y", visible=False)
    for row, value in enumerate(sums):
        right.text(max(value, 0), row, f" {value:.2f}", va="center", fontsize=8)
    return figure


@styled
def tsne(features: ArrayLike, true: ArrayLike, aus: Sequence[int], points: int = 400, seed: int = 0) -> Figure:
    """t-SNE of the features of single AUs, coloured by that AU's label (Yang & Yin 2020, Fig. 3).

    Args:
        features: (n, A, F) one feature an AU, or (n, 1, F) shared by all: then every panel has the same embedding.
        true: (n, A) in {-1, 0, 1}; unknown labels are drawn in light grey.
        aus: The A action units.
        points: At most so many frames are embedded, drawn by `seed`.
        seed: Of the draw and of t-SNE.
    """
    from sklearn.decomposition import PCA  # 0.5 s to import, and few callers draw this figure
    from sklearn.manifold import TSNE

    features, true = np.asarray(features, dtype=np.float32), np.asarray(true)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(features))[:points])
    features, true = features[chosen], true[chosen]
    names = [f"AU{au:02d}" for au in aus]
    figure, panels = _grid(names, width=2.6, height=2.7)
    for column, (axes, name) in enumerate(zip(panels, names, strict=True)):
        if column < features.shape[1]:
            of_au = features[:, column]
            if of_au.shape[1] > 50:
                of_au = PCA(min(50, *of_au.shape), random_state=seed).fit_transform(of_au)
            perplexity = min(30, max(1, (len(of_au) - 1) / 3))
            place = TSNE(2, perplexity=perplexity, init="pca", max_iter=500, random_state=seed).fit_transform(of_au)
        for value, colour, label in ((-1, "#DDDDDD", "unknown"), (0, BLUE, "absent"), (1, ORANGE, "present")):
            rows = true[:, column] == value
            if rows.any():
                axes.scatter(place[rows, 0], place[rows, 1], s=7, color=colour, label=label, alpha=0.75, linewidths=0)
        axes.set(title=name, xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, markerscale=2)
    return figure


@styled
def intensity_bars(icc: Mapping[str, float], mae: Mapping[str, float], all_zero_mae: Mapping[str, float]) -> Figure:
    """ICC(3,1) and MAE of every AU; the marks on the right are the MAE of always answering 0."""
    figure = Figure(figsize=(8.4, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    places = np.arange(len(icc))
    left.bar(places, list(icc.values()), color=BLUE, width=0.7)
    left.set(title="ICC(3,1), higher is better", ylim=(min(0, *icc.values(), 0) - 0.02, 1))
    right.bar(places, list(mae.values()), color=BLUE, width=0.7, label="run")
    right.plot(places, [all_zero_mae[name] for name in mae], "_", color=RED, markersize=16, label="all zero")
    right.set(title="MAE in levels, lower is better")
    right.legend(loc="upper left", bbox_to_anchor=(1, 1))
    for axes, names in ((left, icc), (right, mae)):
        axes.set_xticks(places, list(names), rotation=60)
        axes.grid(axis="x", visible=False)
    return figure


@styled
def distribution(
    folds: Mapping[str, Sequence[float]], subjects: Mapping[str, Sequence[float]], metric: str = "F1", seed: int = 0
) -> Figure:
    """Score of every AU by fold and by subject: how much the mean hides.

    Args:
        folds: `AU01` -> one value a fold; NaN is left out.
        subjects: `AU01` -> one value a subject; NaN (no positives) is left out.
        metric: Name for the axis.
        seed: Of the horizontal scatter.
    """
    figure = Figure(figsize=(max(5.0, 1.2 + 0.75 * len(folds)), 3.4), layout="constrained")
    axes = figure.add_subplot()
    rng = np.random.default_rng(seed)
    for place, name in enumerate(folds):
        for values, colour, size, label in ((subjects[name], SKY, 12, "subject"), (folds[name], RED, 36, "fold")):
            defined = np.array([value for value in values if np.isfinite(value)])
            spread = rng.uniform(-0.18, 0.18, defined.size) * (label == "subject")
            axes.scatter(place + spread, defined, s=size, color=colour, label=None if place else label, linewidths=0)
    axes.set_xticks(range(len(folds)), list(folds))
    axes.set(ylabel=metric, title=f"{metric} by fold and by subject")
    axes.set_ylim(-0.02, 1.02)
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _conditional(present: NDArray[np.bool_], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """P(column present | row present) over the frames where both are known; NaN where the row never is."""
    both = present.T.astype(np.float64) @ present
    row = present.T.astype(np.float64) @ known
    return np.where(row > 0, both / np.maximum(row, 1), np.nan)


def _name_points(axes: Axes, names: Sequence[str], points: NDArray[np.float64], scale: tuple[float, float]) -> None:
    """Write a name beside each point, on the first of four sides where it covers no other name or point.

    Args:
        axes: Where to write.
        names: One a point.
        points: (n, 2) in data units.
        scale: Points on paper per data unit, roughly, to judge overlap by.
    """
    paper = points * scale
    taken: list[NDArray[np.float64]] = []
    for name, point, place in zip(names, points, paper, strict=True):
        for offset in ((6, 4), (-30, 4), (6, -11), (-30, -11)):
            corner = place + offset
            clear = all(np.any(np.abs(corner - other) > (26, 9)) for other in taken)
            on_points = np.all((paper > corner - 4) & (paper < corner + np.array([30, 12])), axis=1)
            if clear and not on_points.any():
                break
        taken.append(corner)
        axes.annotate(name, tuple(point), xytext=offset, textcoords="offset points", fontsize=8)


def _grid(names: Sequence[str], width: float, height: float) -> tuple[Figure, list[Axes]]:
    """One panel a name, at most four in a row."""
    columns = min(4, max(1, len(names)))
    rows = max(1, -(-len(names) // columns))
    figure = Figure(figsize=(0.6 + width * columns, 0.6 + height * rows), layout="constrained")
    panels = [figure.add_subplot(rows, columns, place + 1) for place in range(len(names))]
    return figure, panels


def _matrix(
    axes: Axes,
    matrix: NDArray[np.float64],
    names: Sequence[str],
    cmap: str,
    low: float,
    high: float,
    signed: bool = False,
) -> mpl.image.AxesImage:
    """A heat map with the value written into every cell."""
    image = axes.imshow(matrix, cmap=cmap, vmin=low, vmax=high)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    size = 7 if len(names) <= 8 else 5.5
    for (row, column), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            share = abs(value) / max(abs(low), abs(high))
            rounded = round(float(value), 2) + 0.0  # no "-0.00"
            text = f"{rounded:+.2f}" if signed and row != column else f"{rounded:.2f}"
            text = text.replace("0.", ".") if abs(rounded) < 1 else text
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color="w" if share > 0.6 else "k")
    return image
