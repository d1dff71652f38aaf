"""The doctor's page: one HTML file with verdicts, crops and their landmarks, prevalence and timing."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from datamodules.errors import DataError
from datamodules.store import Flag
from experiments.examination.alignment import DISTANCES, Alignment
from experiments.examination.findings import Case, Result, plural
from experiments.examination.timing import Timing, percent

CROPS, FLAGGED = 24, 8  # crops without a flag, and with each
#: Colours of Okabe & Ito that tell apart in every kind of colour vision.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000")

_SOFT, _INK, _LINE = "#8a94a0", "#1d2329", "#dfe3e8"
_OUTLINES = (  # points of the 68 in drawing order, and whether the line closes
    (range(17), False),
    (range(17, 22), False),
    (range(22, 27), False),
    (range(27, 31), False),
    (range(31, 36), False),
    (range(36, 42), True),
    (range(42, 48), True),
    (range(48, 60), True),
    (range(60, 68), True),
)


class Crop(NamedTuple):
    """One picture of the page.

    Attributes:
        name: Subject, sequence, frame.
        labels: What is coded in it.
        jpeg: Text of a data address.
        path: Outlines through the landmarks, as SVG.
        dots: Landmarks that are known.
    """

    name: str
    labels: str
    jpeg: str
    path: str
    dots: list[tuple[float, float]]


class Gallery(NamedTuple):
    """Crops that have something in common."""

    title: str
    text: str
    crops: list[Crop]


class Plot(NamedTuple):
    """A figure as SVG, with what it shows."""

    caption: str
    svg: str


def write_page(case: Case, results: Sequence[Result], timing: Timing, path: Path, seed: int = 0) -> None:
    """Write the page.

    Args:
        case: The store.
        results: Of its checks.
        timing: How labels and pictures run together.
        path: File to write.
        seed: Of the choice of crops.
    """
    template = Path(__file__).with_name("doctor.html.j2").read_text()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    plots = [prevalence(case)]
    if timing.alignment is not None:
        plots += [common_lag(timing.alignment, timing.fps), lags(timing, timing.alignment)]
    page = environment.from_string(template).render(
        title=f"{case.store.root.name}: {case.dataset}",
        facts=facts(case),
        results=results,
        faults=sum(len(result.faults) for result in results),
        galleries=galleries(case, results, np.random.default_rng(seed)),
        plots=plots,
        size=case.store.manifest["preset"]["size"],
    )
    path.write_text(page)


def facts(case: Case) -> dict[str, str]:
    """What the store is."""
    manifest = case.store.manifest
    preset, found = manifest["preset"], manifest["faces"]
    faces = ", ".join(str(found[key]) for key in ("source", "detector", "landmarks") if found.get(key))
    values = {
        "dataset": f"{case.dataset} {manifest['release']}".strip(),
        "edition": case.edition,
        "licence": manifest["licence"],
        "rows": f"{plural(len(case.store), 'frame')} of {plural(len(case.store.subjects), 'subject')}",
        "crops": f"{preset['name']} {preset['size']} px ({manifest['preprocessing']})",
        "faces": faces,
        "flags": ", ".join(f"{count:,} {name}" for name, count in manifest["counts"]["flags"].items() if count)
        or "none",
        "made with": ", ".join(f"{name} {version}" for name, version in manifest["created_with"].items()),
    }
    return {name: value for name, value in values.items() if value}


def galleries(case: Case, results: Sequence[Result], rng: np.random.Generator) -> list[Gallery]:
    """Random crops without a flag, with each flag, and of everything that a finding names."""
    store, picture = case.store, case.store.length > 0
    everywhere = int(np.bitwise_and.reduce(store.flags))  # all rows of a store of boxes lack landmarks
    groups: list[tuple[str, str, Sequence[int]]] = []
    groups.append(("No flag", "drawn at random", _draw(picture & (store.flags == everywhere), CROPS, rng)))
    for flag, text in (
        (Flag.NO_FACE, "cropped like the nearest frame in which a face was located"),
        (Flag.NO_LANDMARKS, "no landmark is known"),
        (Flag.OCCLUDED, "part of the face is known to be covered"),
        (Flag.NO_LABELS, "every label is unknown"),
    ):
        rows = picture & case.has(flag) & (not everywhere & flag)
        groups.append((flag.name or "", f"{text}: {plural(int(rows.sum()), 'row')}", _draw(rows, FLAGGED, rng)))
    for result in results:
        for finding in [*result.faults, *result.notes][:FLAGGED]:
            rows = [row for row in finding.rows if picture[row]]
            groups.append((f"{result.name}: {finding.kind}", finding.what, rows))
    return [Gallery(title, text, [_crop(case, row) for row in rows]) for title, text, rows in groups if len(rows)]


def _draw(rows: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    found = np.flatnonzero(rows)
    return sorted(rng.choice(found, min(count, len(found)), replace=False).tolist())


def _crop(case: Case, row: int) -> Crop:
    points = np.asarray(case.landmarks[row], np.float64) + 0.5  # SVG counts from the corner of the first pixel
    known = np.asarray(np.isfinite(points).all(axis=1))
    path = []
    for outline, closed in _OUTLINES:
        there = [points[k] for k in outline if known[k]]
        path.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in there) + "Z" * closed if len(there) > 1 else "")
    shown = []
    for column in case.store.columns:
        value = int(case.store.label(column)[row])
        if column == "expression" and value >= 0:
            shown.append(str(case.store.manifest["expressions"][value]))
        elif value > 0:
            shown.append(f"{int(column[2:4])}" + (f":{value}" if column.endswith("_intensity") else ""))
    return Crop(
        name=case.name(row),
        labels=" ".join(shown),
        jpeg=base64.b64encode(_bytes(case, row)).decode(),
        path="".join(path),
        dots=[(round(float(x), 1), round(float(y), 1)) for x, y in points[known]],
    )


def _bytes(case: Case, row: int) -> bytes:
    """Of a picture; empty where its shard is missing or cut, which a check tells."""
    try:
        return case.store.read_bytes(row)
    except (DataError, OSError):
        return b""


def prevalence(case: Case) -> Plot:
    """How often each label occurs: the parts, and the spread of subjects."""
    store = case.store
    series: list[tuple[str, np.ndarray]] = []
    for column in store.columns:
        values = store.label(column).astype(float)
        if column == "expression":
            for number, name in enumerate(store.manifest["expressions"]):
                series.append((name, np.where(values < 0, np.nan, np.equal(values, number))))
        else:
            least = case.known.least if column.endswith("_intensity") else 1
            name = column.replace("_intensity", f" ≥ {least}" if column.endswith("_intensity") else "")
            series.append((name, np.where(values < 0, np.nan, values >= least)))
    series = [(name, values) for name, values in series if np.isfinite(values).any()]
    never = [name for name, values in series if not np.nansum(values)]
    series = [(name, values) for name, values in series if name not in never]
    sides = sorted({str(side) for side in case.side}) if any(case.side) else []
    people = len(store.subjects) <= len(store) / 2
    figure = Figure(figsize=(9, 0.8 + 0.34 * max(len(series), 1)), layout="constrained")
    axes = figure.subplots()
    for k, (_, values) in enumerate(series):
        if people:
            each = _shares(values, store.subject_code, len(store.subjects))
            axes.plot(each, np.full(len(each), k), "|", color=_SOFT, alpha=0.6, markersize=9, zorder=1)
        for s, side in enumerate(sides):
            share = _shares(values, (case.side != side).astype(int), 1)
            axes.plot(
                share, k, "o", color=COLOURS[s % len(COLOURS)], markersize=6, zorder=3, label=side if not k else None
            )
        axes.plot(np.nanmean(values), k, "D", color=_INK, markersize=5, zorder=4, label=None if k else "all")
    if people:
        axes.plot([], [], "|", color=_SOFT, label="subjects")
    axes.set_yticks(range(len(series)), [name for name, _ in series])
    axes.set_ylim(len(series) - 0.5, -0.5)
    axes.set_xlim(left=-0.01)
    axes.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))
    axes.grid(axis="both", color=_LINE, linewidth=0.8)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    _plain(axes)
    caption = "Prevalence: share of the rows in which a label is known that show it" + (
        ", by subject" if people else ""
    )
    caption += ", and by part." if sides else "."
    return Plot(caption + (f" Never shown: {', '.join(never)}." if never else ""), _svg(figure))


def _shares(values: np.ndarray, code: np.ndarray, count: int) -> np.ndarray:
    """Mean of the known values of each group 0..count - 1, NaN where none is known."""
    known = np.isfinite(values) & (code < count)
    total = np.bincount(code[known], minlength=count).astype(float)
    total[total == 0] = np.nan
    return np.bincount(code[known], values[known], minlength=count) / total


def common_lag(alignment: Alignment, fps: float) -> Plot:
    """How well labels explain the landmarks' movement at each lag, and which distances they explain."""
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
    left.axvline(0, color=_LINE, linewidth=1.5)
    left.plot(alignment.lags, alignment.fit, color=COLOURS[0], linewidth=1.6)
    best = int(np.argmax(alignment.fit))
    peak, text = (
        (int(alignment.lags[best]), float(alignment.fit[best])),
        f"{alignment.lags[best]:+d}".replace("+0", "0"),
    )
    left.plot(*peak, "o", color=COLOURS[1])
    left.annotate(f"{text} frames", peak, (8, -4), textcoords="offset points", color=COLOURS[1])
    left.set_xlabel(f"lag of the labels in frames of 1/{fps:.3g} s: negative, late")
    left.set_ylabel("movement explained")
    left.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))
    order = np.argsort(alignment.explained)
    right.barh(np.arange(len(order)), alignment.explained[order].clip(min=0), color=COLOURS[0], height=0.6)
    right.set_yticks(np.arange(len(order)), [DISTANCES[k] for k in order])
    right.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))
    for axes in (left, right):
        axes.grid(color=_LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        _plain(axes)
    return Plot(
        "Timing of the dataset: how much of the landmarks' movement the labels explain in sequences that the model has "
        "not seen. Aligned labels peak at 0.",
        _svg(figure),
    )


def lags(timing: Timing, alignment: Alignment) -> Plot:
    """Most probable lag and 99 % interval of each sequence; many sequences are shown by the most suspicious."""
    most = 60
    order = sorted(range(len(timing.names)), key=lambda k: -alignment.sequences[k].off)[:most]
    order.sort(key=lambda k: timing.names[k])
    figure = Figure(figsize=(9, 0.9 + 0.19 * len(order)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=_LINE, linewidth=1.5)
    for y, k in enumerate(order):
        lag = alignment.sequences[k]
        colour = COLOURS[1] if lag.off >= 0.9 else COLOURS[0]
        axes.plot([lag.low, lag.high], [y, y], color=colour, linewidth=1.5, alpha=0.5, solid_capstyle="round")
        axes.plot(lag.lag, y, "o", color=colour, markersize=4)
        if lag.off >= 0.5:
            axes.annotate(
                f"off: {percent(lag.off)}", (lag.high, y), (5, -3), textcoords="offset points", fontsize=8, color=colour
            )
    axes.set_yticks(range(len(order)), [timing.names[k] for k in order], fontsize=8)
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.set_xlim(alignment.lags[0] - 1, alignment.lags[-1] + 1)
    axes.set_xlabel("lag of the labels in frames: negative, late")
    axes.grid(axis="x", color=_LINE, linewidth=0.8)
    _plain(axes)
    shown = "" if len(order) == len(timing.names) else f" ({most} of {len(timing.names)}, the most suspicious)"
    return Plot(
        f"Timing of each sequence{shown}: most probable lag, and the interval that holds it with 99 %. Wide intervals "
        "are sequences with little movement.",
        _svg(figure),
    )


def _plain(axes: Axes) -> None:
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "doctor", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
