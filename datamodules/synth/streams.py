"""Random streams named by what they are for, so that nothing depends on call order or on who calls."""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream of random numbers decides; a new purpose gets a new number, so that old pictures stay."""

    IDENTITY = 1
    TEXTURE = 2
    TENDENCY = 3
    SEGMENT = 4
    CODER = 5
    BLINK = 6
    POSE = 7
    GAZE = 8
    SPEECH = 9
    SCENE = 10
    DRIFT = 11
    OCCLUSION = 12
    SENSOR = 13


def stream(seed: int, subject: int, purpose: Purpose, index: int = 0) -> np.random.Generator:
    """Generator for one decision: ``index`` is a frame, a segment or a knot in time (may be negative)."""
    # SeedSequence takes non-negative words only; knots before time zero are real.
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, subject, purpose, index + 2**20])))


def wander(seed: int, subject: int, purpose: Purpose, time: float, period: float, width: int) -> np.ndarray:
    """Smooth stationary noise with unit variance at any ``time``, without its past.

    A uniform cubic B-spline through independent normal knots, ``period`` seconds apart, scaled to unit variance.

    Returns:
        (width,) float64.
    """
    knot, u = divmod(time / period, 1.0)
    weights = np.array([(1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3])
    knots = np.stack([stream(seed, subject, purpose, int(knot) + k).standard_normal(width) for k in range(-1, 3)])
    return weights @ knots / np.linalg.norm(weights)
