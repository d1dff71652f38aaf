import numpy as np
import pytest

from datamodules.facs import AFFWILD2_EXPRESSIONS, MULTI_PIE_EXPRESSIONS
from datamodules.synth.behaviour import EXCLUSIVE, SYNTH_AUS
from datamodules.synth.emfacs import EMFACS, OTHERS, draw_levels

# Table II of the AUNet paper, typed from its text.
TABLE_II = """
Happiness: AU6+AU12, AU7+AU12
Anger: AU4+AU7, AU17+AU24, AU23
Fear: AU1+AU2+AU4
Sadness: AU1, AU1+AU4, AU6+AU15
Surprise: AU1+AU2+AU26
Disgust: AU9, AU10
"""


def test_the_table_is_the_papers() -> None:
    table = dict(line.split(": ") for line in TABLE_II.strip().splitlines())
    written = {
        name: ", ".join("+".join(f"AU{au}" for au in combination) for combination in combinations)
        for name, combinations in EMFACS.items()
        if name != "Neutral"
    }
    assert written == table


@pytest.mark.parametrize("expression", sorted({*AFFWILD2_EXPRESSIONS, *MULTI_PIE_EXPRESSIONS}))
def test_every_combination_of_every_class_is_drawn_and_can_be_rendered(expression: str) -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_levels(expression, rng) for _ in range(60)]
    combinations = (EMFACS | OTHERS)[expression]
    assert {tuple(levels) for levels in drawn} == set(combinations)
    for levels in drawn:
        assert set(levels) <= set(SYNTH_AUS)
        assert all(3 <= level <= 5 for level in levels.values())
        assert not any({a, b} <= set(levels) for a, b in EXCLUSIVE)
