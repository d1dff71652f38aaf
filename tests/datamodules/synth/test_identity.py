import numpy as np

from datamodules.synth.identity import MIRROR, TEMPLATE, draw_identity


def test_mirror_exchanges_the_sides_of_the_68_landmarks() -> None:
    np.testing.assert_array_equal(MIRROR[MIRROR], np.arange(68))
    known = {
        0: 16,
        8: 8,
        17: 26,
        21: 22,
        30: 30,
        31: 35,
        36: 45,
        37: 44,
        41: 46,
        39: 42,
        48: 54,
        57: 57,
        60: 64,
        67: 65,
    }
    assert {left: int(MIRROR[left]) for left in known} == known
    np.testing.assert_allclose(TEMPLATE[MIRROR], TEMPLATE * (-1, 1))


def test_subjects_differ_and_are_drawn_alike_again() -> None:
    first, second = draw_identity(0, 1), draw_identity(0, 2)
    assert np.abs(first.landmarks - second.landmarks).max() > 0.02
    np.testing.assert_array_equal(first.landmarks, draw_identity(0, 1).landmarks)
    assert np.abs(first.landmarks - draw_identity(1, 1).landmarks).max() > 0.02


def test_faces_are_in_order_whoever_it_is() -> None:
    for subject in range(200):
        p = draw_identity(0, subject).landmarks
        brows, eyes, nose, lips, chin = p[17:27, 1].max(), p[36:48, 1].mean(), p[33, 1], p[62, 1], p[8, 1]
        assert brows < eyes < nose < lips < chin
        assert (np.diff(p[:9, 1]) > 0).all()  # the jaw runs from one ear down to the chin
        assert (np.diff(p[8:17, 1]) < 0).all()  # and up to the other
        assert (p[65:68, 1] >= p[[63, 62, 61], 1]).all()  # closed lips do not cross


def test_all_six_skin_tones_occur() -> None:
    assert {draw_identity(0, subject).skin_tone for subject in range(100)} == {1, 2, 3, 4, 5, 6}
