"""Whether labels and pictures of each sequence run together: `alignment`, on a store."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from datamodules.store import Flag
from experiments.examination.alignment import (
    COMMON_TOLERANCE,
    REACH,
    SURE,
    Alignment,
    Lag,
    Recording,
    describe,
    estimate,
    measure,
)
from experiments.examination.content import highest_value
from experiments.examination.findings import Case, Finding, fault, note, plural, seen

SUSPECT = 0.9  # probability from which on a sequence is noted
_FPS = 25.0  # where pictures carry no times
_LEAST = 1.5  # seconds of sequence that are worth looking at
_CODED = 0.9  # share of rows in which a column must be known to be used


class Timing(NamedTuple):
    """What the landmarks say about the timing of a store's labels.

    Attributes:
        names: Subject and sequence of each recording.
        rows: First row of each recording.
        fps: Frames a second.
        alignment: None where nothing could be said.
        why: Why nothing could.
    """

    names: list[str]
    rows: list[int]
    fps: float
    alignment: Alignment | None
    why: str = ""


def look(case: Case) -> Timing:
    """Estimate the lags of a store."""
    if all(end - start == 1 for start, end in case.clips):
        return Timing([], [], _FPS, None, "still images")
    if case.has(Flag.NO_LANDMARKS).all():
        return Timing([], [], _FPS, None, "no landmarks; prepare --faces detect finds some")
    fps = _frames_a_second(case)
    clips = [clip for clip in case.clips if _is_video(case, *clip, fps)]
    if not clips:
        return Timing([], [], fps, None, f"no sequence has {_LEAST:g} s without gaps; 12 s are usually enough")
    columns = [
        column for column in case.store.columns if (case.store.label(column) >= 0).mean() >= _CODED * _labelled(case)
    ]
    if not columns:
        return Timing([], [], fps, None, "no label is known in most frames")
    recordings = [_record(case, *clip, columns) for clip in clips]
    names = [" ".join(case.store.key(start)[1:3]) for start, _ in clips]
    alignment = estimate(recordings, fps)
    why = "" if alignment else "too little movement that the labels explain"
    return Timing(names, [start for start, _ in clips], fps, alignment, why)


def findings(timing: Timing) -> Iterator[Finding]:
    """The verdict on a `Timing`."""
    alignment, fps = timing.alignment, timing.fps
    if alignment is None:
        yield seen(f"not judged: {timing.why}")
        return
    common = alignment.common
    if common.off >= SURE:
        yield fault(
            f"all labels come {_words(common, fps)}" if common.unrelated < 0.5 else _UNRELATED,
            "compare the frame numbers of labels and pictures; some raw datasets have an option frame_offset",
        )
    elif common.low > 0 or common.high < 0:
        yield note(
            f"all labels come {_words(common, fps)}: coders' habits may explain up to {COMMON_TOLERANCE:g} s, but "
            "so would numbers of labels and pictures that begin differently"
        )
    judged = 0
    for name, row, lag in zip(timing.names, timing.rows, alignment.sequences, strict=True):
        judged += lag.high - lag.low <= fps
        others = " against the other sequences" if common.off >= SURE else ""
        if lag.unrelated >= max(SUSPECT, SURE if lag.off >= SURE else 0):
            what, remedy = f"{name}: {_UNRELATED} (sure to {percent(lag.off)})", _OTHER_FILE
        elif lag.high - lag.low > fps:
            lags = f"99 %: {_interval(lag)} frames; sure to {percent(lag.off)}"
            what, remedy = f"{name}: labels do not run with the landmarks, and no lag stands out ({lags})", _OTHER_FILE
        else:
            what, remedy = f"{name}: labels come {_words(lag, fps)}{others}", _SHIFTED
        if lag.off >= SURE:
            yield fault(what, remedy, [row])
        elif lag.off >= SUSPECT:
            yield note(f"perhaps: {what}", [row])
    yield seen(
        f"{plural(len(timing.names), 'sequence')} at {fps:.3g} fps, {judged} move enough to be judged alone; together "
        f"{_interval(common)} frames off (99 %); labels explain {alignment.fit.max():.0%} of unseen movement"
    )


_UNRELATED = f"labels do not follow the landmarks at any lag up to {REACH:g} s: they may belong to other pictures"
_OTHER_FILE = "compare the label file with the archive's: it may be another subject's, shifted, or cut in the middle"
_SHIFTED = "compare the label file with the archive's: rows at its beginning may be missing or doubled"


def _words(lag: Lag, fps: float) -> str:
    how = "late" if lag.lag < 0 else "early"
    frames = plural(abs(lag.lag), "frame")
    sure = f"; sure to {percent(lag.off)}" if lag.off >= SUSPECT else ""
    return f"{frames} ({abs(lag.lag) / fps:.2g} s) {how} (99 %: {_interval(lag)} frames{sure})"


def _interval(lag: Lag) -> str:
    """Lags as they are plotted: negative where labels are late."""
    return f"{lag.low:+d}" if lag.low == lag.high else f"{lag.low:+d} to {lag.high:+d}"


def percent(probability: float) -> str:
    """Without rounding to 100 %."""
    return "more than 99.99 %" if probability > 0.9999 else f"{100 * probability:.2f} %"


def _frames_a_second(case: Case) -> float:
    steps = np.diff(case.store.pts)[np.diff(case.store.frame) == 1]
    steps = steps[np.isfinite(steps) & (steps > 0)]
    return float(1 / np.median(steps)) if len(steps) else _FPS


def _labelled(case: Case) -> float:
    return float((~case.has(Flag.NO_LABELS)).mean())


def _is_video(case: Case, start: int, end: int, fps: float) -> bool:
    """Whether rows are long enough and mostly next to each other."""
    frames = case.store.frame
    return end - start >= _LEAST * fps and frames[end - 1] - frames[start] < 2 * (end - start)


def _record(case: Case, start: int, end: int, columns: list[str]) -> Recording:
    frames = case.store.frame[start:end] - case.store.frame[start]
    labels = np.full((frames[-1] + 1, len(columns)), -1)
    distances = np.full((frames[-1] + 1, 8), np.nan)
    labels[frames] = np.stack([case.store.label(column)[start:end] for column in columns], axis=1)
    distances[frames] = measure(np.asarray(case.landmarks[start:end]))
    highest = [highest_value(case, column) for column in columns]
    return Recording(distances, describe(labels, highest, [column == "expression" for column in columns]))
