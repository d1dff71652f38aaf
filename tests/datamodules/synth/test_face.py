import numpy as np
import pytest

from datamodules.synth.behaviour import SYNTH_AUS, Distractors
from datamodules.synth.expression import BULGES, MOTION, WRINKLES
from datamodules.synth.face import Face
from datamodules.synth.grid import curve
from datamodules.synth.identity import MIRROR, draw_identity

STILL = Distractors(blink=0.0, opening=0.0, pucker=0.0, gaze=np.zeros(2))


@pytest.fixture(scope="module")
def face() -> Face:
    return Face(draw_identity(0, 3), 0, 3, 128)


def strength(au: int, right: float = 1.0, left: float = 1.0) -> np.ndarray:
    table = np.zeros((2, len(SYNTH_AUS)))
    table[:, SYNTH_AUS.index(au)] = right, left
    return table


def test_curves_pass_through_their_points() -> None:
    points = np.array([(0, 0), (1, 2), (3, 1), (4, 4)], float)
    for closed in (False, True):
        distance = np.linalg.norm(curve(points, closed)[:, None] - points, axis=-1)
        np.testing.assert_allclose(distance.min(axis=0), 0, atol=1e-12)


def test_the_left_side_moves_as_the_mirrored_right() -> None:
    np.testing.assert_allclose(MOTION[1], MOTION[0][:, MIRROR] * (-1, 1))


def test_one_sided_action_leaves_the_other_side_alone(face: Face) -> None:
    moved = face.landmarks(strength(12, right=1.0, left=0.0), STILL) - face.landmarks(strength(12, 0, 0), STILL)
    assert np.abs(moved[48]).max() > 0.05  # the subject's right mouth corner, x < 0
    assert np.abs(moved[[54, 53, 64]]).max() == 0


@pytest.mark.parametrize(
    ("au", "landmarks", "direction"),
    [
        (1, (20, 21, 22, 23), (0, -1)),
        (2, (17, 18, 25, 26), (0, -1)),
        (4, (20, 21, 22, 23), (0, 1)),
        (5, (37, 38, 43, 44), (0, -1)),
        (7, (40, 41, 46, 47), (0, -1)),
        (9, (31, 32, 34, 35), (0, -1)),
        (10, (50, 51, 52), (0, -1)),
        (12, (48, 54), (0, -1)),
        (15, (48, 54), (0, 1)),
        (17, (57, 58, 56), (0, -1)),
        (20, (54,), (1, 0)),
        (24, (57,), (0, -1)),
        (25, (66,), (0, 1)),
        (26, (8, 57), (0, 1)),
    ],
)
def test_features_move_as_facs_says(
    face: Face, au: int, landmarks: tuple[int, ...], direction: tuple[int, int]
) -> None:
    moved = face.landmarks(strength(au), STILL) - face.landmarks(strength(au, 0, 0), STILL)
    assert (moved[list(landmarks)] @ direction > 0.02).all()


@pytest.mark.parametrize("au", [6, 14, 23])
def test_texture_aus_move_no_landmark(face: Face, au: int) -> None:
    moved = face.landmarks(strength(au), STILL) - face.landmarks(strength(au, 0, 0), STILL)
    assert np.abs(moved).max() < 1e-9
    assert any(row.au == au for row in (*BULGES, *WRINKLES))


def test_blinks_close_the_eyes_and_nothing_else(face: Face) -> None:
    rest = face.landmarks(strength(1, 0, 0), STILL)
    shut = face.landmarks(strength(1, 0, 0), Distractors(1.0, 0.0, 0.0, np.zeros(2)))
    np.testing.assert_allclose(shut[[37, 38, 43, 44], 1], rest[[41, 40, 47, 46], 1])
    np.testing.assert_array_equal(np.delete(shut, [37, 38, 43, 44], axis=0), np.delete(rest, [37, 38, 43, 44], axis=0))


def test_light_from_one_side_brightens_that_side(face: Face) -> None:
    quiet = strength(1, 0, 0)
    points = face.landmarks(quiet, STILL)
    cheek = slice(65, 75)
    for sign in (-1, 1):
        picture = face.draw(quiet, STILL, points, np.array([0.7 * sign, 0, 0.7]), 0.3)
        left, right = picture[cheek, 38:46, :3].mean(), picture[cheek, 82:90, :3].mean()
        assert sign * (right - left) > 0.02
