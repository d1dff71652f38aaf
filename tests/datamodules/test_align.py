import dataclasses

import numpy as np
import pytest

from datamodules.align import PRESETS, similarity, warp_image, warp_points


def turn(angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


def blob(side: int, x: float, y: float, width: float = 3.0) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side]
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * width**2))


def face(side: int = 200) -> np.ndarray:
    landmarks = np.random.default_rng(0).uniform(60, 140, (68, 2))
    preset = PRESETS["renet"]
    landmarks[list(preset.points)] = np.asarray(preset.template) * side
    return landmarks


def test_known_similarity_is_recovered() -> None:
    source = np.random.default_rng(1).normal(size=(9, 2))
    truth = turn(0.4, 1.7, (12.0, -5.0))
    np.testing.assert_allclose(similarity(source, warp_points(source, truth)), truth, atol=1e-5)


def test_mirrored_points_are_never_matched_by_a_reflection() -> None:
    source = np.random.default_rng(2).normal(size=(9, 2))
    matrix = similarity(source, source * (-1, 1))
    assert np.linalg.det(matrix[:, :2]) > 0


def test_fit_is_the_least_squares_one() -> None:
    generator = np.random.default_rng(3)
    source, target = generator.normal(size=(9, 2)), generator.normal(size=(9, 2))
    # The same problem as a linear one in (a, b, tx, ty) with x' = a x - b y + tx, y' = b x + a y + ty.
    x, y, one, zero = source[:, 0], source[:, 1], np.ones(9), np.zeros(9)
    design = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, tx, ty = np.linalg.lstsq(design, target.T.ravel(), rcond=None)[0]
    np.testing.assert_allclose(similarity(source, target), [[a, -b, tx], [b, a, ty]], atol=1e-12)


@pytest.mark.parametrize("size", [64, 256])
def test_eyes_lie_where_the_template_says(size: int) -> None:
    preset = PRESETS["renet"]
    landmarks = warp_points(face(), turn(-0.3, 2.1, (40.0, 9.0)))
    matrix = preset.matrix(landmarks, size)
    assert matrix is not None
    moved = warp_points(landmarks, matrix)
    np.testing.assert_allclose(
        moved[36] + 0.5, (size * 0.28, size * 0.275), atol=1e-3
    )  # 44 of 200 mm left of the middle
    np.testing.assert_allclose(moved[45] + 0.5, (size * 0.72, size * 0.275), atol=1e-3)


@pytest.mark.parametrize("scale", [1.3, 0.9, 0.3])
def test_pixels_and_landmarks_move_together(scale: float) -> None:
    """Fails when the pixel-centre convention is broken, which shifts shrunk images by up to a pixel."""
    matrix = turn(0.2, scale, (10.0, 4.0))
    image = np.repeat((255 * blob(200, 90.0, 70.0, 6.0))[..., None], 3, axis=2).astype(np.uint8)
    crop = warp_image(image, matrix, 160)[..., 0].astype(float)
    rows, columns = np.mgrid[:160, :160]
    centre = np.array([(columns * crop).sum(), (rows * crop).sum()]) / crop.sum()
    np.testing.assert_allclose(centre, warp_points(np.array([[90.0, 70.0]]), matrix)[0], atol=0.05)


def test_shrinking_averages_instead_of_aliasing() -> None:
    stripes = np.repeat(np.tile(np.array([0, 255], np.uint8), (240, 120))[..., None], 3, axis=2)
    crop = warp_image(stripes, turn(0, 0.25, (0.0, 0.0)), 60)
    assert np.abs(crop[2:-2, 2:-2].astype(float) - 127.5).max() < 3


def test_faces_without_the_needed_points_have_no_crop() -> None:
    preset = PRESETS["renet"]
    landmarks = face()
    landmarks[45] = np.nan
    assert preset.matrix(landmarks, 256) is None
    assert preset.matrix(np.full((68, 2), 50.0), 256) is None


def test_hash_follows_geometry_not_resolution() -> None:
    preset = PRESETS["renet"]
    assert dataclasses.replace(preset, size=128, source="elsewhere").hash == preset.hash
    moved = (*preset.template[:-1], (0.5, 0.5))
    assert dataclasses.replace(preset, template=moved).hash != preset.hash
