"""Do labels and pictures run at the same time? Landmarks tell, for lips and brows move when action units do.

A label file that is shifted against its video looks healthy by every count. What gives it away is that the mouth opens
some frames before or after AU25 is coded. The lag is estimated so:

1. Landmarks become a few distances (`measure`), free of head position, size and roll, and labels become smooth ramps
   (`describe`), for a face needs half a second for what a coder writes down as a step. Of both, what counts is by how
   much they change within half a second: slow drift, pose and a person's proportions drop out.
2. A linear model says how the distances change when the labels do. A sequence is judged by the model of all other
   sequences, so that no sequence can fit the model to its own mistake. Labels fit where the model's expectation
   agrees with what the landmarks do; where they do so best is the common lag of the dataset.
3. Each second of a sequence votes: a probability over lags from how well its labels, moved by each lag, fit the
   landmarks. Frames of one movement are no independent evidence, so the log-likelihood is tempered, by the factor at
   which the votes of all seconds predict the common lag best. The vote is blurred by `JITTER`, since coders place
   onsets and offsets a little early or late, and mixed with a vote for nothing: one second in twenty is taken to
   mislead (speech, blinks, a movement that nobody coded). So a single event cannot convict a sequence; several that
   agree can.
4. The votes of a sequence are multiplied, with `PRIOR` on what is expected: that it runs with the others. The result is
   a probability for each lag, and one for "these labels belong to other pictures".

Measured on rendered subjects with coder noise and half a pixel of landmark noise (eyes 57 pixels apart), 27 a dataset,
20 fps, published base rates, three label files shifted: none of 13,000 honest sequences was called a fault. In clips of
6 s, 20 frames were found in a quarter and suspected in half of the cases; of 12 s, 12 frames in 61 %, 20 in 76 %; of
30 s, 8 frames in 42 %, 12 and more in 97 to 100 %, within a frame in the median. Labels of another subject: 11, 60 and
81 %. A whole dataset that was 4 frames off was a fault from 12 s on, one that was 2 frames off always a note.

Nothing here knows of stores or files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.ndimage

#: What `measure` returns, in words.
DISTANCES = (
    "mouth opening",
    "mouth width",
    "lip corner height",
    "inner brow height",
    "outer brow height",
    "brow distance",
    "upper lip height",
    "lower lip height",
)
REACH = 5.0  # seconds: larger lags are not looked for
TOLERANCE = 0.15  # seconds that a sequence may be off: coders differ by as much
COMMON_TOLERANCE = 0.1  # seconds that a whole dataset may be off
JITTER = 0.1  # seconds, standard deviation of where coders place an onset or offset
MISLEADING = 0.05  # share of votes that say nothing about the lag
PRIOR = 0.99  # probability, before looking, that a sequence runs with the others
SURE = 0.99  # probability from which on the doctor calls it a fault

_STABLE = (36, 39, 42, 45, 27, 28, 29, 30, 33)  # eye corners and nose: no action unit of the face's moves them much
_CHANGE = 0.25  # seconds before and after, between which change is measured
_RAMP = 0.4  # seconds that an onset takes
_VOTE = 1.0  # seconds of sequence that share a vote
_LEAST_VOTES = 20  # of all sequences together, below which nothing is said
_CLIP = 4.0  # standard deviations beyond which a change is a landmark that jumped
_RIDGES = (0.01, 0.1, 0.5, 2.0)
_CALIBRATION = 5000  # votes that are enough to find the temperature
_TEMPERATURES = np.geomspace(0.003, 0.2, 20)


class Recording(NamedTuple):
    """One sequence, a row for each frame number from its first to its last.

    Attributes:
        distances: (T, K) float64 from `measure`, NaN unknown.
        levels: (T, P) float64 from `describe`, NaN unknown.
    """

    distances: np.ndarray
    levels: np.ndarray


@dataclass(frozen=True, slots=True)
class Lag:
    """By how many frames labels precede the pictures they belong to; negative: they come late.

    Attributes:
        lag: Most probable lag, by the votes alone.
        low: Lower end of the interval that holds the lag with probability `SURE`, by the votes alone: wide where
            little moves.
        high: Upper end.
        off: Probability, with `PRIOR`, that labels and pictures do not run together: no lag that is tolerated fits.
        unrelated: Probability that no lag within `REACH` fits: the labels belong to other pictures.
    """

    lag: int
    low: int
    high: int
    off: float
    unrelated: float


@dataclass(frozen=True, slots=True)
class Alignment:
    """What the landmarks of a dataset say about the timing of its labels.

    Attributes:
        common: Lag of the dataset as a whole, against 0.
        sequences: Lag of each recording, in order, judged against the common one.
        lags: (D,) int, frames.
        fit: (D,) how much of the landmarks' change the labels explain at each lag in recordings that the model has not
            seen; at most 1.
        explained: (K,) the same at the common lag, for each of `DISTANCES`.
    """

    common: Lag
    sequences: list[Lag]
    lags: np.ndarray
    fit: np.ndarray
    explained: np.ndarray


def measure(landmarks: np.ndarray) -> np.ndarray:
    """Distances that action units change, in distances between the eyes.

    Every frame is brought to the sequence's mean by the similarity that fits eye corners and nose best, so that neither
    the crop nor a head that leans, comes closer or moves makes a difference.

    Args:
        landmarks: (T, 68, 2) in pixels of anything, NaN unknown. The inner lips may be unknown.

    Returns:
        (T, 8) float64, the `DISTANCES`, NaN where a point that it needs is unknown.
    """
    shape = np.full(landmarks.shape[:2], complex(np.nan, np.nan))
    points = landmarks[..., 0] + 1j * landmarks[..., 1].astype(np.float64)
    centred = points - points[:, _STABLE].mean(axis=1, keepdims=True)
    stable = centred[:, _STABLE]
    known = np.isfinite(stable).all(axis=1) & (np.abs(stable).sum(axis=1) > 0)
    if known.any():
        mean = stable[known][0]
        for _ in range(3):
            turn = (stable[known].conj() * mean).sum(axis=1) / np.square(np.abs(stable[known])).sum(axis=1)
            mean = (turn[:, None] * stable[known]).mean(axis=0)
            mean = mean / (mean[2:4].mean() - mean[:2].mean())  # eyes level, one unit apart
        turn = (stable[known].conj() * mean).sum(axis=1) / np.square(np.abs(stable[known])).sum(axis=1)
        shape[known] = turn[:, None] * centred[known]

    def height(*numbers: int) -> np.ndarray:
        return -shape[:, numbers].imag.mean(axis=1)

    opening = height(61, 62, 63) - height(65, 66, 67)
    eyes, nose = height(36, 39, 42, 45), height(33)
    return np.stack(
        [
            np.where(np.isfinite(opening), opening, height(50, 51, 52) - height(56, 57, 58)),
            shape[:, 54].real - shape[:, 48].real,
            height(48, 54) - height(51, 57),
            height(20, 21, 22, 23) - eyes,
            height(17, 18, 25, 26) - eyes,
            shape[:, 22].real - shape[:, 21].real,
            height(51) - nose,
            height(57) - nose,
        ],
        axis=1,
    )


def describe(labels: np.ndarray, highest: Sequence[int], nominal: Sequence[bool]) -> np.ndarray:
    """Labels as the linear model takes them: presence and level of each intensity, one column a class of nominal ones.

    Args:
        labels: (T, A) integers, -1 unknown. A column of a sequence that is unknown throughout says nothing.
        highest: Largest value that each column can have.
        nominal: Whether a column's values are names (expressions), not levels.

    Returns:
        (T, P) float64 in 0..1, NaN where a label of a column is unknown.
    """
    columns = []
    for values, top, named in zip(labels.T, highest, nominal, strict=True):
        known = np.where(values < 0, np.nan if (values >= 0).any() else 0.0, values)
        steps = range(1, top + 1) if named else (1,)
        columns += [np.where(np.isnan(known), np.nan, known == step if named else known >= step) for step in steps]
        if top > 1 and not named:
            columns.append(known / top)
    return np.stack(columns, axis=1)


def estimate(recordings: Sequence[Recording], fps: float) -> Alignment | None:
    """Timing of a dataset's labels and of each of its sequences.

    Args:
        recordings: All sequences, at least two of which must say something.
        fps: Frames a second.

    Returns:
        None where there is too little movement that labels explain to say anything.
    """
    reach = round(REACH * fps)
    lags = np.arange(-reach, reach + 1)
    changes = _standardise([_change(recording, fps) for recording in recordings])
    if changes is None:
        return None
    own = np.stack([_second_moments(y, x) for y, x in changes])
    cross = np.stack([_cross_moments(y, x, lags) for y, x in changes])
    power = np.stack([np.nansum(np.square(y), axis=0) for y, _ in changes])
    inverse, gain = max(
        (_gains(own, cross, ridge) for ridge in _RIDGES), key=lambda result: result[1].sum(axis=1).max()
    )
    explained, fit = gain / power.sum(axis=0), gain.sum(axis=1) / power.sum()
    best = int(np.argmax(fit))
    if fit[best] <= 0:
        return None
    noise = np.sqrt(np.clip(1 - explained[best], 0.05, 1))
    models = _models(inverse, cross[:, best])
    scores = [
        _scores(y / noise, x @ model / noise, reach, round(_VOTE * fps))
        for (y, x), model in zip(changes, models, strict=True)
    ]
    if sum(map(len, scores)) < _LEAST_VOTES:
        return None
    evidence = _evidence(scores, best, JITTER * fps)
    return Alignment(
        common=judge(evidence.sum(axis=0), lags, 0, COMMON_TOLERANCE * fps),
        sequences=[judge(one, lags, int(lags[best]), TOLERANCE * fps) for one in evidence],
        lags=lags,
        fit=fit,
        explained=explained[best],
    )


def judge(evidence: np.ndarray, lags: np.ndarray, expected: int, tolerance: float) -> Lag:
    """From votes to a verdict.

    Args:
        evidence: (D,) log of the product of votes, each against the uniform vote.
        lags: (D,) int.
        expected: The lag that is right.
        tolerance: By how much another one may differ from it.
    """
    right = np.abs(lags - expected) <= tolerance
    prior = np.where(right, PRIOR / max(right.sum(), 1), (1 - PRIOR) / 2 / max((~right).sum(), 1))
    weighed = _normalised(np.append(evidence + np.log(prior), np.log((1 - PRIOR) / 2)))
    unrelated = float(weighed[-1])
    alone = _normalised(evidence)
    order = np.argsort(-alone, kind="stable")
    inside = order[: 1 + int(np.searchsorted(np.cumsum(alone[order]), SURE))]
    return Lag(
        lag=int(lags[order[0]]),
        low=int(lags[inside.min()]),
        high=int(lags[inside.max()]),
        off=float(weighed[:-1][~right].sum()) + unrelated,
        unrelated=unrelated,
    )


def _normalised(log: np.ndarray) -> np.ndarray:
    """Probabilities of logs that miss a constant."""
    probability = np.exp(log - log.max())
    return probability / probability.sum()


def _change(recording: Recording, fps: float) -> tuple[np.ndarray, np.ndarray]:
    """Change of distances (T', K) and of smoothed levels (T', P) within twice `_CHANGE`, NaN unknown."""
    reach = round(_RAMP * fps / 2)  # an odd window: an even one would move the labels by half a frame
    window = np.hanning(2 * reach + 3)[1:-1]
    levels = np.pad(recording.levels, ((reach, reach), (0, 0)), mode="edge")
    smooth = np.stack([np.convolve(column, window / window.sum(), "valid") for column in levels.T], axis=1)
    half = max(1, round(_CHANGE * fps))
    return tuple(x[2 * half :] - x[: -2 * half] for x in (recording.distances, smooth))


def _standardise(changes: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Changes in standard deviations, without jumps and without levels that never change; None where nothing does."""
    if len(changes) < 2:
        return None
    distances, levels = (np.concatenate(parts) for parts in zip(*changes, strict=True))
    moving = np.nansum(np.abs(levels), axis=0) > 0
    known = np.isfinite(distances).sum(axis=0)
    if not moving.any() or not known.all():
        return None
    scale = np.sqrt(np.nansum(np.square(distances), axis=0) / known)
    if not scale.all():
        return None
    return [(np.clip(y / scale, -_CLIP, _CLIP), x[:, moving]) for y, x in changes]


def _second_moments(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(P, P) of the levels' changes, over frames with any distance."""
    rows = x[np.isfinite(y).any(axis=1) & np.isfinite(x).all(axis=1)]
    return rows.T @ rows


def _cross_moments(y: np.ndarray, x: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """(D, P, K) of levels at t with distances at t + lag."""
    y, x = (np.nan_to_num(values) for values in (y, np.where(np.isfinite(x).all(axis=1, keepdims=True), x, 0.0)))
    moments = np.zeros((len(lags), x.shape[1], y.shape[1]), np.float32)
    for moment, lag in zip(moments, lags.tolist(), strict=True):
        if abs(lag) < len(x):
            moment[:] = x[max(0, -lag) : len(x) - max(0, lag)].T @ y[max(0, lag) : len(y) - max(0, -lag)]
    return moments


def _gains(own: np.ndarray, cross: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """How well models of all sequences but one fit that one.

    Args:
        own: (S, P, P) second moments of each sequence's levels.
        cross: (S, D, P, K) their moments with its distances, by lag.
        ridge: Of the least squares, in units of the mean second moment: few sequences need more.

    Returns:
        (S, P, P) inverse of the others' second moments, of which the models are made, and (D, K) by how much the models
        lessen the sum of squares of all distances.
    """
    total = own.sum(axis=0)
    inverse = np.linalg.inv(total - own + ridge * np.trace(total) / len(total) * np.eye(len(total)))
    gain = np.empty((cross.shape[1], cross.shape[3]))
    for d in range(len(gain)):
        models = _models(inverse, cross[:, d])
        gain[d] = (2 * models * cross[:, d] - models * (own @ models)).sum(axis=(0, 1))
    return inverse, gain


def _models(inverse: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """(S, P, K) least-squares models, each of all sequences but one; ``cross`` (S, P, K) at one lag."""
    return inverse @ (cross.sum(axis=0, dtype=np.float64) - cross)


def _scores(y: np.ndarray, expected: np.ndarray, reach: int, size: int) -> np.ndarray:
    """(B, D) log-likelihood ratio of each lag against no movement, summed over pieces of about ``size`` frames.

    Args:
        y: (T, K) changes in units of their noise, NaN unknown.
        expected: (T, K) what the model expects of them, NaN unknown.
        reach: Largest lag.
        size: Frames a piece.
    """
    if not len(y):
        return np.zeros((0, 2 * reach + 1))
    expected = np.nan_to_num(expected)
    padded = np.pad(y, ((reach, reach), (0, 0)), constant_values=np.nan)
    later = np.lib.stride_tricks.sliding_window_view(np.nan_to_num(padded), 2 * reach + 1, axis=0)  # (T, K, D)
    known = np.lib.stride_tricks.sliding_window_view(np.isfinite(padded).astype(np.float64), 2 * reach + 1, axis=0)
    score = np.einsum("tkd,tk->td", later, expected) - np.einsum("tkd,tk->td", known, np.square(expected)) / 2
    starts = np.linspace(0, len(y), max(1, round(len(y) / size)), endpoint=False).astype(int)
    return np.add.reduceat(score, starts, axis=0)


def _evidence(scores: list[np.ndarray], best: int, jitter: float) -> np.ndarray:
    """(S, D) log of the product of each sequence's votes, tempered so that all votes predict lag ``best``."""
    every = np.concatenate(scores)
    some = every[:: 1 + len(every) // _CALIBRATION]
    likelihood = [_log_votes(some, temperature, jitter)[:, best].sum() for temperature in _TEMPERATURES]
    temperature = float(_TEMPERATURES[int(np.argmax(likelihood))])
    return np.stack([_log_votes(score, temperature, jitter).sum(axis=0) for score in scores])


def _log_votes(scores: np.ndarray, temperature: float, jitter: float) -> np.ndarray:
    """(B, D) scores -> log of the pieces' votes over lags, times D: 0 for a vote that says nothing."""
    if not len(scores):
        return scores
    share = np.exp(temperature * (scores - scores.max(axis=1, keepdims=True)))
    share /= share.sum(axis=1, keepdims=True)
    blurred = scipy.ndimage.gaussian_filter1d(share, jitter, axis=1, mode="nearest")
    blurred /= blurred.sum(axis=1, keepdims=True)
    return np.log((1 - MISLEADING) * blurred * scores.shape[1] + MISLEADING)
