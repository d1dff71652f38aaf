import cv2
import numpy as np
import pytest

from datamodules.synth.face import Face
from datamodules.synth.identity import draw_identity
from datamodules.synth.scene import Camera, backdrop, rotation


@pytest.fixture(scope="module")
def face() -> Face:
    return Face(draw_identity(0, 1), 0, 1, 256)


def test_frontal_pose_turns_nothing() -> None:
    np.testing.assert_allclose(rotation(np.zeros(3)), np.eye(3))


@pytest.mark.parametrize(("pose", "nose"), [((20, 0, 0), (1, 0)), ((0, 20, 0), (0, -1)), ((-20, 0, 0), (-1, 0))])
def test_the_nose_goes_where_pose_says(pose: tuple[float, float, float], nose: tuple[int, int]) -> None:
    # x to the right of the picture, y down, z towards the viewer.
    moved = rotation(np.array(pose)) @ (0, 0, 1)
    np.testing.assert_allclose(moved[:2], np.sin(np.radians(20)) * np.array(nose), atol=1e-12)


def test_positive_roll_is_clockwise() -> None:
    top = rotation(np.array([0, 0, 90.0])) @ (0, -1, 0)
    np.testing.assert_allclose(top[:2], (1, 0), atol=1e-12)


@pytest.mark.parametrize("pose", [(0, 0, 0), (25, 0, 0), (-15, 12, 8), (35, -10, -15)])
def test_landmarks_lie_where_the_picture_shows_them(face: Face, pose: tuple[float, float, float]) -> None:
    """The picture is made by the inverse map: through it, a landmark's pixel shows the landmark's face coordinates."""
    camera = Camera(face, rotation(np.array(pose, float)), 60.0, np.array([100.0, 104.0]))
    points = face.identity.landmarks[17:]  # far ends of the jaw turn out of sight
    columns, rows = np.meshgrid(face.grid.x, face.grid.y)
    seen = camera.take(np.dstack([columns, rows]), (slice(0, 200), slice(0, 200)))
    u, v = camera.project(points).astype(np.float32).T
    found = cv2.remap(seen, u[None], v[None], cv2.INTER_LINEAR)[0]
    np.testing.assert_allclose(found, points, atol=0.005)  # 0.3 pixels


def test_a_window_shows_what_the_whole_picture_shows_there(face: Face) -> None:
    camera = Camera(face, rotation(np.array([20.0, 5, 0])), 60.0, np.array([100.0, 104.0]))
    columns, rows = np.meshgrid(face.grid.x, face.grid.y)
    whole, window = (slice(0, 200), slice(0, 300)), (slice(60, 120), slice(30, 150))
    picture = np.dstack([columns, rows])
    np.testing.assert_array_equal(camera.take(picture, window), camera.take(picture, whole)[window])


def test_a_backdrop_is_a_wall_with_things_before_it() -> None:
    wall = backdrop(np.random.default_rng(1), 60, 100)
    assert wall.shape == (60, 100, 3)
    assert wall.dtype == np.float32
    assert 0 < wall.min() <= wall.max() <= 1
    edges = [np.abs(np.diff(backdrop(np.random.default_rng(1), 60, 100, n), axis=1)).max() for n in (0, 4)]
    assert edges[1] > 4 * edges[0]
