"""Which action units show an expression, for twins of datasets that label expressions.

`EMFACS` is Table II of the AUNet paper, adapted there from EMFACS (Friesen & Ekman 1983). `OTHERS` are expressions that
datasets label and the table lacks; their combinations are this file's own choice.
"""

import numpy as np

EMFACS: dict[str, tuple[tuple[int, ...], ...]] = {
    "Neutral": ((),),
    "Anger": ((4, 7), (17, 24), (23,)),
    "Disgust": ((9,), (10,)),
    "Fear": ((1, 2, 4),),
    "Happiness": ((6, 12), (7, 12)),
    "Sadness": ((1,), (1, 4), (6, 15)),
    "Surprise": ((1, 2, 26),),
}
OTHERS: dict[str, tuple[tuple[int, ...], ...]] = {
    "Smile": EMFACS["Happiness"],  # Multi-PIE
    "Squint": ((6, 7),),  # Multi-PIE
    "Scream": ((4, 7, 25, 26),),  # Multi-PIE
    "Other": ((14,), (2, 5), (20, 25)),  # Aff-Wild2 since ABAW3: anything else
}


def draw_levels(
    expression: str, rng: np.random.Generator, weakest: float = 3.0, strongest: float = 5.0
) -> dict[int, float]:
    """One of the expression's combinations, each AU at a level between the two given (of 0..5).

    Args:
        expression: Key of `EMFACS` or `OTHERS`.
        rng: Decides.
        weakest: Lowest level drawn.
        strongest: Highest.

    Returns:
        AU to level; empty for a neutral face.
    """
    choices = (EMFACS | OTHERS)[expression]
    combination = choices[rng.integers(len(choices))]
    return {au: float(rng.uniform(weakest, strongest)) for au in combination}
