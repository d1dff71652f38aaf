"""Figures of emotions and the action units behind them: pure functions from arrays to a matplotlib Figure."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from callbacks.figures import BLUE, GREEN, GREY, ORANGE, RED, styled
from lightning_modules.common.metrics import Floats


@styled
def activation_profiles(
    profiles: Mapping[str, Floats], expected: NDArray[np.bool_], expressions: Sequence[str], aus: Sequence[str]
) -> Figure:
    """Share of the pictures of each expression (row) on which each AU (column) is called, one panel a network.

    Args:
        profiles: Title -> (K, A).
        expected: (K, A) AUs that belong to the expression, which get a frame.
        expressions: K names.
        aus: A names.
    """
    figure = Figure(
        figsize=(1.6 + (0.6 + 0.34 * len(aus)) * len(profiles), 1.6 + 0.32 * len(expressions)), layout="constrained"
    )
    panels = np.atleast_1d(figure.subplots(1, len(profiles), sharey=True))
    for axes, (title, values) in zip(panels, profiles.items(), strict=True):
        image = axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set(title=title, xticks=range(len(aus)), yticks=range(len(expressions)), yticklabels=expressions)
        axes.set_xticklabels(aus, rotation=90)
        axes.grid(visible=False)
        for row, column in zip(*np.nonzero(expected), strict=True):
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=ORANGE, linewidth=1.8))
    figure.colorbar(image, ax=list(panels), label="share of pictures on which the AU is called", shrink=0.9)
    return figure


@styled
def answer_panels(
    images: NDArray[np.uint8],
    scores: Mapping[str, Floats],
    expression_prob: Floats,
    true: Sequence[str],
    aus: Sequence[str],
    expressions: Sequence[str],
    threshold: float,
) -> Figure:
    """Pictures with what a network says of them: scores of AUs before and after learning emotions, and the emotion.

    Args:
        images: (n, S, S, 3).
        scores: Title -> (n, A).
        expression_prob: (n, K).
        true: n names.
        aus: A names.
        expressions: K names.
        threshold: Score from which an AU is called.
    """
    figure = Figure(figsize=(10.5, 2.1 * len(images)), layout="constrained")
    panels = np.atleast_2d(figure.subplots(len(images), 3, width_ratios=(1, 2.2, 1.5)))
    top = max(float(np.max(values)) for values in scores.values())
    for i, (picture, au_axes, emotion_axes) in enumerate(panels):
        _show(picture, images[i], f"labelled {true[i]}")
        width = 0.8 / len(scores)
        for j, (title, values) in enumerate(scores.items()):
            au_axes.bar(
                np.arange(len(aus)) + width * (j + 0.5) - 0.4, values[i], width, label=title, color=(GREY, BLUE)[j % 2]
            )
        au_axes.axhline(threshold, color=RED, linewidth=1, linestyle="--")
        au_axes.set(xticks=range(len(aus)), xticklabels=aus, ylim=(min(0, float(values.min())), 1.05 * top))
        au_axes.tick_params(axis="x", labelrotation=90)
        answer = int(expression_prob[i].argmax())
        right = expressions[answer] == true[i]
        colours = [(GREEN if right else RED) if k == answer else GREY for k in range(len(expressions))]
        emotion_axes.barh(range(len(expressions)), expression_prob[i], color=colours)
        emotion_axes.set(yticks=range(len(expressions)), yticklabels=expressions, xlim=(0, 1))
        emotion_axes.invert_yaxis()
        if i == 0:
            au_axes.set_title("AUs; dashed: called from here")
            au_axes.legend(loc="upper right", fontsize=7)
            emotion_axes.set_title("emotion")
    return figure


@styled
def heatmap_overlays(images: NDArray[np.uint8], maps: Mapping[str, Floats], aus: Sequence[str], top: float) -> Figure:
    """Heat-maps of every AU laid over pictures, a row a picture and network.

    Args:
        images: (n, S, S, 3).
        maps: Title -> (n, A, h, w), the higher of an AU's two maps.
        aus: A names.
        top: Value of the strongest colour.
    """
    rows = len(images) * len(maps)
    figure = Figure(figsize=(1.1 * (len(aus) + 1), 1.15 * rows + 0.3), layout="constrained")
    panels = np.atleast_2d(figure.subplots(rows, len(aus) + 1))
    side = images.shape[1]
    for i, image in enumerate(images):
        for j, (title, values) in enumerate(maps.items()):
            line = panels[i * len(maps) + j]
            _show(line[0], image, "")
            line[0].set_ylabel(title, fontsize=7)
            for a, axes in enumerate(line[1:]):
                _show(axes, image, aus[a] if i == j == 0 else "")
                strength = np.clip(values[i, a] / top, 0, 1)
                axes.imshow(
                    strength,
                    cmap="inferno",
                    vmin=0,
                    vmax=1,
                    alpha=0.15 + 0.7 * strength,
                    extent=(-0.5, side - 0.5, side - 0.5, -0.5),
                )
    return figure


def _show(axes: Axes, image: NDArray[np.uint8], title: str) -> None:
    axes.imshow(image)
    axes.set(title=title, xticks=[], yticks=[])
    axes.grid(visible=False)
