"""Who a subject is: the neutral landmarks, colours, hair, skin and how strongly the face moves.

Face coordinates: x to the right of the picture, y down, origin between the eyes and the nose, one unit about 8 cm (the
pupils are 0.72 apart). Landmarks are the 68 of Multi-PIE (iBUG order).
"""

from dataclasses import dataclass

import numpy as np

from datamodules.synth.behaviour import SYNTH_AUS
from datamodules.synth.streams import Purpose, stream

MIRROR = np.array(
    [
        *(*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)),  # jaw, brows, nose
        *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),  # eyes
        *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65),  # lips
    ]
)

# The half with x <= 0 (the subject's right); the other half is its mirror image.
_HALF = {
    0: (-0.80, -0.22), 1: (-0.79, 0.00), 2: (-0.765, 0.20), 3: (-0.715, 0.40), 4: (-0.62, 0.60),
    5: (-0.49, 0.77), 6: (-0.33, 0.90), 7: (-0.165, 0.975), 8: (0.0, 1.0),
    17: (-0.635, -0.425), 18: (-0.545, -0.50), 19: (-0.425, -0.52), 20: (-0.30, -0.505), 21: (-0.175, -0.47),
    27: (0.0, -0.28), 28: (0.0, -0.14), 29: (0.0, 0.0), 30: (0.0, 0.12),
    31: (-0.14, 0.20), 32: (-0.07, 0.225), 33: (0.0, 0.24),
    36: (-0.52, -0.245), 37: (-0.42, -0.308), 38: (-0.30, -0.308), 39: (-0.20, -0.232),
    40: (-0.30, -0.193), 41: (-0.42, -0.196),
    48: (-0.285, 0.50), 49: (-0.18, 0.449), 50: (-0.07, 0.422), 51: (0.0, 0.436),
    57: (0.0, 0.620), 58: (-0.08, 0.612), 59: (-0.185, 0.574),
    60: (-0.255, 0.50), 61: (-0.08, 0.503), 62: (0.0, 0.508), 66: (0.0, 0.510), 67: (-0.08, 0.505),
}  # fmt: skip


def _template() -> np.ndarray:
    points = np.zeros((68, 2))
    for k, (x, y) in _HALF.items():
        points[k] = (x, y)
        points[MIRROR[k]] = (-x, y)
    return points


TEMPLATE = _template()
_JAW, _BROWS, _NOSE, _EYES, _MOUTH = np.split(np.arange(68), [17, 27, 36, 48])
_UPPER_LIP, _LOWER_LIP = np.array([49, 50, 51, 52, 53]), np.array([55, 56, 57, 58, 59])

# sRGB of six skin tones, light to dark, and what a subject's own tone lies between.
_TONES = (
    np.array([(244, 212, 190), (232, 190, 160), (214, 164, 128), (180, 126, 90), (134, 88, 60), (92, 60, 44)]) / 255
)
_HAIR = np.array([(28, 22, 20), (52, 36, 26), (92, 62, 38), (150, 112, 66), (130, 60, 34), (168, 164, 160)]) / 255
_IRIS = np.array([(58, 36, 22), (92, 60, 32), (96, 104, 70), (98, 124, 146)]) / 255


@dataclass(frozen=True, slots=True)
class Identity:
    """One subject.

    Attributes:
        landmarks: (68, 2) float64 neutral face, face coordinates.
        skin_tone: 1 (light) to 6 (dark).
        skin, lip, hair, brow, iris: (3,) sRGB in 0..1.
        depth: Relief of nose, brow ridge, cheeks, chin, eye sockets: (5,) factors about 1.
        brow_width: Half the height of the brows; brow_density: their opacity.
        hairline: y where the hair begins; hair_drop: y where it ends at the sides; hair_volume: beyond the skull (below
            1: bald).
        stubble: 0..1.
        wrinkle: How deeply the skin folds, about 1; lines: 0..1, lines that stay without expression.
        gain: (17,) how much of each AU shows, about 1.
        skew: (17,) lasting asymmetry, left against right.
        head: (3,) usual yaw, pitch, roll in degrees.
    """

    landmarks: np.ndarray
    skin_tone: int
    skin: np.ndarray
    lip: np.ndarray
    hair: np.ndarray
    brow: np.ndarray
    iris: np.ndarray
    depth: np.ndarray
    brow_width: float
    brow_density: float
    hairline: float
    hair_drop: float
    hair_volume: float
    stubble: float
    wrinkle: float
    lines: float
    gain: np.ndarray
    skew: np.ndarray
    head: np.ndarray


def _shape(rng: np.random.Generator) -> np.ndarray:
    """Neutral landmarks: independent changes of the parts' sizes and places, as faces differ."""
    p = TEMPLATE.copy()
    g = np.clip(rng.standard_normal(20), -2, 2)

    def scale(part: np.ndarray, x: float, y: float) -> None:
        centre = p[part].mean(axis=0)
        p[part] = centre + (p[part] - centre) * (x, y)

    for eye in (np.arange(36, 42), np.arange(42, 48)):
        scale(eye, 1 + 0.05 * g[0], 1 + 0.13 * g[1])
        p[eye, 0] += np.sign(p[eye, 0].mean()) * 0.018 * g[2]
        p[eye, 1] += 0.1 * g[3] * 0.15 * (np.abs(p[eye, 0]) - 0.36)
    p[_BROWS, 1] += 0.022 * g[4] + 0.05 * g[5] * (np.abs(p[_BROWS, 0]) - 0.4)
    p[_BROWS, 0] *= 1 + 0.03 * g[6]
    p[[18, 19, 20, 23, 24, 25], 1] += 0.012 * g[7]
    p[31:36, 0] *= 1 + 0.11 * g[8]
    p[_NOSE, 1] += 0.03 * g[9] * (p[_NOSE, 1] + 0.28) / 0.5
    p[_MOUTH, 0] *= 1 + 0.07 * g[10]
    p[_MOUTH, 1] += 0.02 * g[11]
    p[_UPPER_LIP, 1] += (p[_UPPER_LIP, 1] - p[48, 1]) * 0.22 * g[12]
    p[_LOWER_LIP, 1] += (p[_LOWER_LIP, 1] - p[48, 1]) * 0.18 * g[13]
    p[[48, 60, 54, 64], 1] += 0.008 * g[14]
    below = np.clip((p[_JAW, 1] + 0.22) / 1.22, 0, 1)
    p[_JAW, 0] *= 1 + 0.035 * g[15] + 0.05 * g[16] * np.sin(np.pi * below)
    p[_JAW, 1] += 0.05 * g[17] * below
    p += rng.normal(0, 0.004, p.shape)
    p[:, 0] *= 1 + 0.025 * g[18]
    p[:, 1] *= 1 + 0.025 * g[19]
    p[65:68, 1] = np.maximum(p[65:68, 1], p[[63, 62, 61], 1])  # closed lips touch and do not cross
    return p


def draw_identity(seed: int, subject: int) -> Identity:
    """The subject with this number in the dataset of this seed."""
    rng = stream(seed, subject, Purpose.IDENTITY)
    n = len(SYNTH_AUS)
    tone = rng.uniform(0, 5)
    low = int(tone)
    skin = _TONES[low] + (tone - low) * (_TONES[low + 1] - _TONES[low]) + rng.normal(0, 0.015, 3)
    lip = skin * (0.86, 0.62, 0.62) + rng.uniform(0, 0.1) * np.array([0.9, 0.1, 0.2])
    hair = _HAIR[rng.choice(6, p=(0.3, 0.25, 0.2, 0.1, 0.05, 0.1) if tone < 2.5 else (0.75, 0.2, 0, 0, 0, 0.05))]
    bald = rng.random() < 0.06
    hair = np.clip(hair + rng.normal(0, 0.02, 3), 0.02, 1)
    return Identity(
        landmarks=_shape(rng),
        skin_tone=round(tone) + 1,
        skin=np.clip(skin, 0.05, 1),
        lip=np.clip(lip, 0.05, 1),
        hair=hair,
        brow=0.8 * np.minimum(hair, 0.45) + 0.1 * skin,
        iris=_IRIS[rng.integers(4) if tone < 2 else rng.integers(2)],
        depth=np.clip(rng.normal(1, 0.18, 5), 0.5, 1.5),
        brow_width=rng.uniform(0.022, 0.042),
        brow_density=rng.uniform(0.6, 0.95),
        hairline=rng.uniform(-1.0, -0.76) if not bald else -1.6,
        hair_drop=rng.choice([-0.2, 0.55, 1.2], p=[0.55, 0.2, 0.25]) + rng.uniform(-0.12, 0.12),
        hair_volume=rng.uniform(1.02, 1.17) if not bald else 0.9,
        stubble=max(0.0, rng.uniform(-1.8, 0.9)),
        wrinkle=float(np.exp(rng.normal(0, 0.3))),
        lines=rng.uniform(0, 1) ** 2,
        gain=np.exp(rng.normal(0, 0.2) + rng.normal(0, 0.12, n)),
        skew=rng.normal(0, 0.12, n),
        head=rng.normal(0, (3.0, 3.0, 1.5)),
    )
