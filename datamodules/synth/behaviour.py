"""The label process: which action units a subject shows at a time, how strongly, and what a coder writes down.

Time is cut into segments of about three seconds. Each has an apex level per AU, drawn from a Gaussian copula with the
published base rates; between segments every AU moves on its own onset or offset ramp. A coder then sees the activation
late or early and is sometimes one level off. Blinks, speech and gaze are unlabelled distractors.

The base rates and the signs of the correlations are published; the sizes of the correlations are invented, because no
numeric table exists. So are the dynamics.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from scipy.stats import norm

from datamodules.synth.streams import Purpose, stream, wander

SYNTH_AUS: tuple[int, ...] = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 24, 25, 26)
COLUMN = {au: k for k, au in enumerate(SYNTH_AUS)}

Rates = Literal["published", "balanced"]

# Share of frames (%) at levels 1..5: DISFA's counts over its 130,814 frames.
_DISFA_LEVELS = {
    1: (2272, 1749, 2809, 1393, 555),
    2: (1720, 934, 3505, 836, 369),
    4: (4661, 7636, 6586, 4328, 1383),
    5: (1579, 719, 293, 104, 34),
    6: (9157, 5986, 3599, 601, 141),
    9: (1659, 2035, 3045, 316, 77),
    12: (13943, 6869, 7233, 2577, 172),
    15: (5180, 1618, 1017, 47, 0),
    17: (6342, 4184, 2281, 112, 11),
    20: (1591, 1608, 1305, 28, 0),
    25: (9805, 13935, 15693, 5580, 1039),
    26: (13443, 7473, 3529, 314, 217),
}
_DISFA_FRAMES = 130_814
# DISFA does not code these: occurrence in BP4D (146,847 frames), levels split as in all of DISFA together.
_BP4D_OCCURRENCE = {7: 0.549, 10: 0.594, 14: 0.466, 23: 0.165, 24: 0.151}
_POSITIVE_LEVELS = np.sum(list(_DISFA_LEVELS.values()), axis=0) / np.sum(list(_DISFA_LEVELS.values()))
_BALANCED_LEVELS = np.array([0.15, 0.25, 0.30, 0.20, 0.10])

# Signs: Zhao et al., "Joint Patch and Multi-label Learning", CVPR 2015; upper face and mouth opening added from FACS.
_POSITIVE = {(1, 2): 0.7, (6, 7): 0.5, (6, 10): 0.4, (6, 12): 0.6, (7, 10): 0.4, (7, 12): 0.35, (10, 12): 0.4}
_POSITIVE |= {(17, 24): 0.4, (25, 26): 0.5, (4, 7): 0.3, (4, 9): 0.3, (1, 5): 0.3, (2, 5): 0.3, (15, 17): 0.4}
_POSITIVE |= {(12, 25): 0.3}
_NEGATIVE: tuple[tuple[int, int], ...] = (
    *((1, 6), (1, 7), (2, 6), (2, 7), (10, 17), (10, 23), (10, 24)),
    *((12, 15), (12, 17), (12, 23), (12, 24), (15, 23), (15, 24), (23, 24)),
)
# Lips cannot be pressed together and apart, nor pressed and stretched.
EXCLUSIVE: tuple[tuple[int, int], ...] = ((24, 25), (24, 26), (20, 24))

_SEGMENT = 3.0  # seconds between nominal boundaries; ramps (at most 1 s) of neighbouring boundaries never meet
_TENDENCY = 0.25  # share of the copula's variance that belongs to the subject, so that subjects differ in base rates
_JITTER = 0.12  # seconds by which a coder misplaces an onset or offset
_LEVEL_ERROR = 0.12  # probability that a coder is one level off, each direction half


def level_probabilities(rates: Rates) -> np.ndarray:
    """(17, 6) float64: probability of levels 0..5 per AU of `SYNTH_AUS`."""
    table = np.zeros((len(SYNTH_AUS), 6))
    for au, k in COLUMN.items():
        positive = (
            np.array(_DISFA_LEVELS[au]) / _DISFA_FRAMES
            if au in _DISFA_LEVELS
            else _POSITIVE_LEVELS * _BP4D_OCCURRENCE[au]
        )
        if rates == "balanced":
            # Half-way to 25 % on a log scale keeps the order of the published rates.
            positive = _BALANCED_LEVELS * np.clip(np.sqrt(positive.sum() * 0.25), 0.15, 0.40)
        table[k, 1:] = positive
    table[:, 0] = 1 - table.sum(axis=1)
    return table


@cache
def _mixing(independent: bool) -> np.ndarray:
    """(17, 17) float64 factor M with M @ M.T = the copula's correlation matrix."""
    correlation = np.eye(len(SYNTH_AUS))
    if not independent:
        pairs = dict.fromkeys(_NEGATIVE, -0.3) | dict.fromkeys(EXCLUSIVE, -0.6) | _POSITIVE
        for (a, b), strength in pairs.items():
            correlation[COLUMN[a], COLUMN[b]] = correlation[COLUMN[b], COLUMN[a]] = strength
    values, vectors = np.linalg.eigh(correlation)
    factor = vectors * np.sqrt(np.clip(values, 1e-6, None))  # nearest matrix without negative eigenvalues
    return factor / np.linalg.norm(factor, axis=1, keepdims=True)


def _exclude(level: np.ndarray) -> np.ndarray:
    """Take the weaker of two exclusive AUs away; continuous in time because the stronger fades by as much."""
    level = level.copy()
    for a, b in EXCLUSIVE:
        first, second = level[COLUMN[a]], level[COLUMN[b]]
        level[COLUMN[a]], level[COLUMN[b]] = max(first - second, 0.0), max(second - first, 0.0)
    return level


def _keep_stronger(level: np.ndarray) -> np.ndarray:
    level = level.copy()
    for a, b in EXCLUSIVE:
        level[COLUMN[a if level[COLUMN[a]] < level[COLUMN[b]] else b]] *= min(level[COLUMN[a]], level[COLUMN[b]]) == 0
    return level


@dataclass(frozen=True, slots=True)
class _Segment:
    """What one segment decides; all arrays (17,)."""

    start: np.ndarray  # seconds, with each AU's own lag
    apex: np.ndarray  # continuous level 0..5.5
    onset: np.ndarray  # seconds a rise takes
    offset: np.ndarray  # seconds a fall takes
    skew: np.ndarray  # left against right strength
    coder_delay: np.ndarray  # seconds
    coder_error: np.ndarray  # -1, 0, 1 levels
    speech: float  # 1 while the subject talks


@dataclass(frozen=True, slots=True)
class Distractors:
    """What moves in the face without being a label: blink 0..1, speech opening and pucker 0..1, gaze (2,)."""

    blink: float
    opening: float
    pucker: float
    gaze: np.ndarray


class Behaviour:
    """The label process of one subject, readable at any time.

    Args:
        subject: Number of the subject.
        seed: Seed of the dataset.
        rates: Base rates.
        independent: Draw AUs independently of each other (the exclusive pairs stay exclusive), for audits that ask
            what one AU shows without the company it keeps.
    """

    def __init__(self, subject: int, seed: int, rates: Rates, independent: bool = False) -> None:
        self._key = (seed, subject)
        self._probability = level_probabilities(rates)
        self._edges = norm.isf(
            self._probability[:, ::-1].cumsum(axis=1)[:, 4::-1].clip(1e-12, 1)
        )  # z above edge l-1: level >= l
        self._mixing = _mixing(independent)
        self._tendency = self._mixing @ stream(*self._key, Purpose.TENDENCY).standard_normal(len(SYNTH_AUS))
        # Without it, frames at multiples of the segment's length would all show ramps.
        self._phase = stream(*self._key, Purpose.TENDENCY, 1).random()
        self._segments: dict[int, _Segment] = {}

    def _index(self, time: float) -> int:
        """The segment whose nominal boundary is the last before ``time``."""
        return int(np.floor(time / _SEGMENT - self._phase))

    def _segment(self, index: int) -> _Segment:
        if index not in self._segments:
            self._segments[index] = self._draw(index)
            self._segments.pop(index - 8, None)
        return self._segments[index]

    def _draw(self, index: int) -> _Segment:
        n = len(SYNTH_AUS)
        rng = stream(*self._key, Purpose.SEGMENT, index)
        z = np.sqrt(_TENDENCY) * self._tendency + np.sqrt(1 - _TENDENCY) * (self._mixing @ rng.standard_normal(n))
        level = (z[:, None] > self._edges).sum(axis=1)
        apex = np.where(level > 0, level + rng.uniform(-0.45, 0.45, n), 0.0)
        # A tenth of the quiet AUs show a trace that no coder scores.
        apex += np.where((level == 0) & (rng.random(n) < 0.1), rng.uniform(0, 0.3, n), 0.0)
        start = (index + self._phase + rng.uniform(-0.15, 0.15)) * _SEGMENT + rng.uniform(-0.15, 0.15, n)
        onset, offset = rng.uniform(0.25, 0.7, n), rng.uniform(0.4, 1.0, n)
        skew = rng.normal(0, 0.1, n)
        speech = float(rng.random() < 0.15)
        coder = stream(*self._key, Purpose.CODER, index)
        delay = np.clip(coder.normal(0, _JITTER, n), -0.4, 0.4)
        # 0 becomes 1 as often as 1 becomes 0, so that coder errors leave the base rates alone.
        rise = _LEVEL_ERROR / 2 * np.where(level == 0, self._probability[:, 1] / self._probability[:, 0], 1.0)
        u = coder.random(n)
        error = np.where(u < rise, 1, np.where(u > 1 - _LEVEL_ERROR / 2, -1, 0))
        return _Segment(start, _keep_stronger(apex), onset, offset, skew, delay, error, speech)

    def _blend(self, time: float, index: int, delay: bool) -> tuple[np.ndarray, np.ndarray]:
        """How far each AU has moved into segment ``index`` at ``time``, 0..1, and its levels there and before."""
        before, here = self._segment(index - 1), self._segment(index)
        duration = np.where(here.apex > before.apex, here.onset, here.offset)
        start = here.start + (here.coder_delay if delay else 0.0)
        u = np.clip((time - start) / duration + 0.5, 0.0, 1.0)
        return u * u * (3 - 2 * u), here.apex - before.apex

    def activation(self, time: float, coder_delay: bool = False) -> np.ndarray:
        """(17,) float64 level 0..5.5 of each AU at ``time`` (seconds), as it is, or as late as the coder sees it."""
        index = self._index(time)
        level = self._segment(index - 1).apex.copy()
        for k in (index, index + 1):
            blend, step = self._blend(time, k, coder_delay)
            level += blend * step
        return _exclude(np.maximum(level, 0.0))  # sums of ramps may miss zero by rounding

    def coded(self, time: float, coder_noise: bool = True) -> np.ndarray:
        """(17,) int64 levels 0..5 that a coder writes down at ``time``."""
        level = np.floor(self.activation(time, coder_noise) + 0.5)
        if coder_noise:
            index = self._index(time)
            late = [self._blend(time, k, True)[0] > 0.5 for k in (index, index + 1)]
            errors = [self._segment(k).coder_error for k in (index - 1, index, index + 1)]
            level += np.where(late[1], errors[2], np.where(late[0], errors[1], errors[0]))
        return _keep_stronger(np.clip(level, 0, 5)).astype(np.int64)

    def skew(self, time: float) -> np.ndarray:
        """(17,) float64: by how much the left side is stronger than the right, of 1."""
        index = self._index(time)
        before, here = self._segment(index - 1).skew, self._segment(index).skew
        blend, _ = self._blend(time, index, False)
        return before + (here - before) * blend

    def distractors(self, time: float) -> Distractors:
        """Blink, speech and gaze at ``time``."""
        blink = 0.0
        for second in (int(np.floor(time)) - 1, int(np.floor(time))):
            rng = stream(*self._key, Purpose.BLINK, second)
            happens, moment, width = rng.random(3)
            if happens < 0.3:
                blink = max(blink, 1.3 - abs(time - second - moment) / (0.07 + 0.05 * width))
        index = self._index(time)
        talk = self._segment(index).speech * np.sin(np.pi * (time / _SEGMENT - self._phase - index)) ** 0.5
        mouth = wander(*self._key, Purpose.SPEECH, time, 0.12, 2)
        opening, pucker = talk * np.clip(0.25 + 0.25 * mouth, 0, 1)
        gaze = wander(*self._key, Purpose.GAZE, time, 0.9, 2)
        return Distractors(float(np.clip(blink, 0, 1)), float(opening), float(pucker), gaze)
