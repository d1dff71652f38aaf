"""Facts of the Facial Action Coding System (Ekman, Friesen & Hager 2002) and of the datasets coded with it.

Landmarks are numbered 0..67 as in the iBUG 300-W scheme (Sagonas et al. 2013), left and right as seen in the image:
0-16 jaw, 17-26 brows, 27-35 nose, 36-47 eyes, 48-59 outer lips, 60-67 inner lips.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class ActionUnit:
    """One action unit.

    Attributes:
        number: Number in FACS.
        name: Name in FACS.
        muscles: What contracts (or relaxes).
        landmarks: Points of the 68 that it moves; those of a unit that shows mostly in texture move little.
    """

    number: int
    name: str
    muscles: str
    landmarks: tuple[int, ...]


_BROW_INNER = (20, 21, 22, 23)
_BROW_OUTER = (17, 18, 19, 24, 25, 26)
_BROWS = tuple(range(17, 27))
_UPPER_LIDS = (37, 38, 43, 44)
_LOWER_LIDS = (40, 41, 46, 47)
_LIP_CORNERS = (48, 54, 60, 64)
_UPPER_LIP = (49, 50, 51, 52, 53, 61, 62, 63)
_LOWER_LIP = (55, 56, 57, 58, 59, 65, 66, 67)
_LIPS = tuple(range(48, 68))
_CHIN = (6, 7, 8, 9, 10)

ACTION_UNITS: dict[int, ActionUnit] = {
    unit.number: unit
    for unit in (
        ActionUnit(1, "Inner Brow Raiser", "frontalis, pars medialis", _BROW_INNER),
        ActionUnit(2, "Outer Brow Raiser", "frontalis, pars lateralis", _BROW_OUTER),
        ActionUnit(4, "Brow Lowerer", "corrugator supercilii, depressor supercilii, procerus", _BROWS),
        ActionUnit(5, "Upper Lid Raiser", "levator palpebrae superioris", _UPPER_LIDS),
        ActionUnit(6, "Cheek Raiser", "orbicularis oculi, pars orbitalis", _LOWER_LIDS),
        ActionUnit(7, "Lid Tightener", "orbicularis oculi, pars palpebralis", _UPPER_LIDS + _LOWER_LIDS),
        ActionUnit(9, "Nose Wrinkler", "levator labii superioris alaeque nasi", (31, 32, 34, 35, 49, 50, 52, 53)),
        ActionUnit(10, "Upper Lip Raiser", "levator labii superioris", _UPPER_LIP),
        ActionUnit(11, "Nasolabial Deepener", "zygomaticus minor", (49, 53)),
        ActionUnit(12, "Lip Corner Puller", "zygomaticus major", _LIP_CORNERS),
        ActionUnit(13, "Sharp Lip Puller", "levator anguli oris", _LIP_CORNERS),
        ActionUnit(14, "Dimpler", "buccinator", _LIP_CORNERS),
        ActionUnit(15, "Lip Corner Depressor", "depressor anguli oris", _LIP_CORNERS),
        ActionUnit(16, "Lower Lip Depressor", "depressor labii inferioris", _LOWER_LIP),
        ActionUnit(17, "Chin Raiser", "mentalis", _LOWER_LIP + _CHIN),
        ActionUnit(18, "Lip Pucker", "incisivii labii superioris and inferioris", _LIPS),
        ActionUnit(20, "Lip Stretcher", "risorius with platysma", _LIP_CORNERS),
        ActionUnit(22, "Lip Funneler", "orbicularis oris", _LIPS),
        ActionUnit(23, "Lip Tightener", "orbicularis oris", _LIPS),
        ActionUnit(24, "Lip Pressor", "orbicularis oris", _LIPS),
        ActionUnit(25, "Lips Part", "depressor labii inferioris, or relaxed mentalis or orbicularis oris", _LIPS),
        ActionUnit(26, "Jaw Drop", "relaxed masseter, temporalis and internal pterygoid", _LOWER_LIP + _CHIN),
        ActionUnit(27, "Mouth Stretch", "pterygoids, digastric", _LIPS + _CHIN),
        ActionUnit(28, "Lip Suck", "orbicularis oris", _LIPS),
    )
}

# Action units that datasets code and papers score.
BP4D_12 = [1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24]  # occurrence: the 12 of every BP4D table
BP4D_5 = [6, 10, 12, 14, 17]  # intensity, BP4D and BP4D+
DISFA_8 = [1, 2, 4, 6, 9, 12, 25, 26]  # RE-Net, JAA-Net, AUNet, ME-GraphAU
DISFA_12 = [1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26]  # intensity: all that DISFA and DISFA+ code
AFFWILD2_12 = [1, 2, 4, 6, 7, 10, 12, 15, 23, 24, 25, 26]  # ABAW2 and later
AFFWILD2_8 = [1, 2, 4, 6, 12, 15, 20, 25]  # ABAW1

EXPRESSIONS = ("Neutral", "Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise")
AFFWILD2_EXPRESSIONS = (*EXPRESSIONS, "Other")  # ABAW3 and later
MULTI_PIE_EXPRESSIONS = ("Neutral", "Smile", "Surprise", "Squint", "Disgust", "Scream")

LANDMARKS = 68
#: ``points[FLIP_68]`` puts left and right in their places again after a mirror image.
FLIP_68: np.ndarray = np.array(
    [
        *range(16, -1, -1),
        *range(26, 16, -1),
        *(27, 28, 29, 30, 35, 34, 33, 32, 31),
        *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
        *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),
        *(64, 63, 62, 61, 60, 67, 66, 65),
    ]
)
FLIP_68.setflags(write=False)


def au_name(number: int) -> str:
    """Name of an action unit in text and columns: 6 -> ``AU06``."""
    return f"AU{number:02d}"


def au_number(column: str) -> int | None:
    """Action unit that a label column describes (6 for ``AU06`` and ``AU06_intensity``), None for other columns."""
    name, digits = column[:2], column[2:].partition("_")[0]
    return int(digits) if name == "AU" and digits.isdigit() else None
