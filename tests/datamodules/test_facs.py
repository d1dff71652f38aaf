import numpy as np

from datamodules.facs import ACTION_UNITS, AFFWILD2_12, BP4D_12, DISFA_8, DISFA_12, FLIP_68, au_name, au_number

# JAA-Net publishes its 49 points (the 68 without jaw and inner mouth corners) and their mirror order, both from 1.
JAA_49 = [*range(17, 60), *range(61, 64), *range(65, 68)]
JAA_FLIP = (
    "10 9 8 7 6 5 4 3 2 1 11 12 13 14 19 18 17 16 15 29 28 27 26 31 30 23 22 21 20 25 24 "
    "38 37 36 35 34 33 32 43 42 41 40 39 46 45 44 49 48 47"
)


def test_names_are_zero_padded() -> None:
    assert au_name(6) == "AU06"
    assert au_name(12) == "AU12"
    assert (au_number("AU06_intensity"), au_number("AU12"), au_number("expression")) == (6, 12, None)


def test_mirror_order_agrees_with_the_published_49_points() -> None:
    published = [JAA_49[int(point) - 1] for point in JAA_FLIP.split()]
    np.testing.assert_array_equal(FLIP_68[JAA_49], published)


def test_mirror_order_is_its_own_inverse_and_fixes_the_midline() -> None:
    np.testing.assert_array_equal(FLIP_68[FLIP_68], np.arange(68))
    assert np.flatnonzero(np.arange(68) == FLIP_68).tolist() == [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]


def test_every_coded_action_unit_is_described() -> None:
    assert set(BP4D_12 + DISFA_12 + AFFWILD2_12) <= set(ACTION_UNITS)
    assert set(DISFA_8) <= set(DISFA_12)
