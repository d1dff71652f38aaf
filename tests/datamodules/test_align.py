import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from datamodules.align import PRESETS, Square, Template, face_box, five_points, similarity, warp_image, warp_points
from datamodules.synth.identity import TEMPLATE


def turn(angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


def blob(side: int, x: float, y: float, width: float = 3.0) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side]
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * width**2))


def face() -> np.ndarray:
    """The mean face with eye centres 72 pixels apart, around (150, 150)."""
    return 150 + 100 * TEMPLATE


def fitted(landmarks: np.ndarray, preset: str, size: int) -> np.ndarray:
    matrix = PRESETS[preset].matrix(landmarks, None, None, size)
    assert matrix is not None
    return warp_points(landmarks, matrix)


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
def test_renet_puts_farkas_eyes_where_the_template_says(size: int) -> None:
    millimetres = np.random.default_rng(0).uniform(-60, 60, (68, 2))
    millimetres[[36, 39, 42, 45]] = [(-44, 0), (-16, 0), (16, 0), (44, 0)]
    millimetres[[27, 28, 29, 30, 33]] = [(0, -6), (0, 6), (0, 18), (0, 29), (0, 44)]
    moved = fitted(warp_points(millimetres, turn(-0.3, 2.1, (40.0, 9.0))), "renet", size)
    # Outer canthi 44 of 200 mm left and right of the middle, 55 below the upper edge.
    np.testing.assert_allclose(moved[[36, 45]] + 0.5, size * np.array([(0.28, 0.275), (0.72, 0.275)]), atol=1e-3)
    np.testing.assert_allclose(moved[33] + 0.5, (size * 0.5, size * 99 / 200), atol=1e-3)


def test_megraph_puts_the_eye_centres_on_the_pixels_of_its_sample() -> None:
    landmarks = warp_points(face(), turn(0.25, 1.4, (-30.0, 12.0)))
    moved = fitted(landmarks, "megraph", 256)
    centres = [np.mean(moved[36:42], axis=0), np.mean(moved[42:48], axis=0)]
    np.testing.assert_allclose(centres, [(82, 70), (180, 70)], atol=1e-3)
    landmarks[60] = np.nan
    np.testing.assert_array_equal(fitted(landmarks, "megraph", 256)[:60], moved[:60])
    landmarks[40] = np.nan  # half an eye has no centre
    assert PRESETS["megraph"].matrix(landmarks, None, None, 256) is None


def test_pairwise_brings_the_mean_face_to_the_middle_at_80_of_200() -> None:
    moved = fitted(warp_points(face(), turn(-0.2, 0.8, (5.0, 60.0))), "pairwise", 224)
    left, right = moved[36:42].mean(axis=0), moved[42:48].mean(axis=0)
    np.testing.assert_allclose(right - left, (0.4 * 224, 0), atol=1e-3)
    top, bottom = moved[17:27, 1].min() + 0.5, 224 - (moved[8, 1] + 0.5)
    assert top == pytest.approx(bottom, abs=1e-3)  # brows as far from the upper edge as the chin from the lower
    assert moved[:, 0].min() > 5
    assert moved[:, 0].max() < 218


def test_pairwise_fits_the_points_that_are_known() -> None:
    landmarks = warp_points(face(), turn(-0.2, 0.8, (5.0, 60.0)))
    whole = fitted(landmarks, "pairwise", 224)
    landmarks[40:] = np.nan
    np.testing.assert_allclose(fitted(landmarks, "pairwise", 224)[:40], whole[:40], atol=1e-3)
    landmarks[39] = np.nan
    assert PRESETS["pairwise"].matrix(landmarks, None, None, 224) is None


def test_aunet_is_the_released_crop_but_for_half_a_pixel() -> None:
    """The release puts the edge of the square on the centre of the first crop pixel, we on the edge of that pixel."""
    golden = Path(__file__).parents[3] / "shared" / "golden" / "aunet_crop_matrices.json"
    if not golden.exists():
        pytest.skip("the reference data (../shared) is not beside this checkout")
    geometry = PRESETS["aunet"].geometry
    assert isinstance(geometry, Square)
    tight = dataclasses.replace(PRESETS["aunet"], geometry=dataclasses.replace(geometry, margin=1.0))
    cases = [case for case in json.loads(golden.read_text()) if case["rot"] == 0 and case["aug_scale"] == 1.0]
    assert len(cases) >= 3
    for case in cases:
        matrix = tight.matrix(None, np.array(case["bbox"], float), None, 256)
        assert matrix is not None
        expected = np.array(case["mat"]) - [[0, 0, 0.5], [0, 0, 0.5]]
        np.testing.assert_allclose(matrix, expected, rtol=1e-6, atol=1e-5)  # the release computes in float32


def test_aunet_store_holds_every_augmented_square() -> None:
    """Corners of the 256-pixel square at scale 1.25, +-15 degrees, shifted by 10 of its 200 units either way."""
    box = np.array([40.0, 20.0, 140.0, 160.0])
    matrix = PRESETS["aunet"].matrix(None, box, None, 448)
    assert matrix is not None
    side, centre = 1.25 * 200 * (100 + 140) / 260, np.array([90.0, 90.0])
    for angle in np.deg2rad([-15, 0, 15]):
        rotation = turn(angle, 1.0, (0.0, 0.0))[:, :2]
        for dx, dy in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            corners = np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)]) * side / 2 @ rotation.T
            moved = warp_points(centre + corners + 0.05 * side * np.array([dx, dy]), matrix)
            assert moved.min() > -0.5
            assert moved.max() < 447.5


def test_box_presets_follow_the_box_and_nothing_else() -> None:
    box = np.array([10.0, 20.0, 40.0, 80.0], np.float32)
    matrix = PRESETS["emotiram"].matrix(face(), box, (100, 100), 96)
    assert matrix is not None
    corners = warp_points(box.reshape(2, 2), matrix)
    np.testing.assert_allclose(corners, [(-0.5, -0.5), (95.5, 95.5)], atol=1e-4)  # stretched, edge to edge
    for nothing in (None, np.full(4, np.nan), np.array([10.0, 20.0, 10.2, 80.0])):
        assert PRESETS["emotiram"].matrix(face(), nothing, (100, 100), 96) is None
        assert PRESETS["aunet"].matrix(face(), nothing, (100, 100), 448) is None


def test_delivered_pictures_stay_as_they_are() -> None:
    image = np.random.default_rng(0).integers(0, 255, (112, 112, 3), np.uint8)
    matrix = PRESETS["delivered"].matrix(None, None, (112, 112), 112)
    assert matrix is not None
    np.testing.assert_array_equal(warp_image(image, matrix, 112), image)
    matrix = PRESETS["delivered"].matrix(None, None, (50, 100), 25)
    np.testing.assert_allclose(matrix, [[0.25, 0, -0.375], [0, 0.5, -0.25]])
    assert PRESETS["delivered"].matrix(face(), None, None, 112) is None


@pytest.mark.parametrize("scale", [1.3, 0.9, 0.3])
def test_pixels_and_landmarks_move_together(scale: float) -> None:
    """Fails when the pixel-centre convention is broken, which shifts shrunk images by up to a pixel."""
    matrix = turn(0.2, scale, (10.0, 4.0))
    image = np.repeat((255 * blob(200, 90.0, 70.0, 6.0))[..., None], 3, axis=2).astype(np.uint8)
    crop = warp_image(image, matrix, 160)[..., 0].astype(float)
    rows, columns = np.mgrid[:160, :160]
    centre = np.array([(columns * crop).sum(), (rows * crop).sum()]) / crop.sum()
    np.testing.assert_allclose(centre, warp_points(np.array([[90.0, 70.0]]), matrix)[0], atol=0.05)


def test_stretched_pixels_and_landmarks_move_together() -> None:
    """One axis shrinks threefold, the other grows."""
    matrix = np.array([[0.3, 0.0, 1.0], [0.0, 1.2, 3.0]])
    image = np.repeat((255 * blob(120, 80.0, 50.0, 8.0))[..., None], 3, axis=2).astype(np.uint8)
    crop = warp_image(image, matrix, 120)[..., 0].astype(float)
    rows, columns = np.mgrid[:120, :120]
    centre = np.array([(columns * crop).sum(), (rows * crop).sum()]) / crop.sum()
    np.testing.assert_allclose(centre, (25.0, 63.0), atol=0.05)


@pytest.mark.parametrize(("x", "y"), [(0.25, 0.25), (0.25, 1.0), (1.0, 0.25)])
def test_shrinking_averages_instead_of_aliasing(x: float, y: float) -> None:
    stripes = np.repeat(np.tile(np.array([0, 255], np.uint8), (240, 120))[..., None], 3, axis=2)
    image = stripes if x < 1 else stripes.transpose(1, 0, 2).copy()
    crop = warp_image(image, np.array([[x, 0, 0], [0, y, 0]]), 60)
    assert np.abs(crop[2:-2, 2:-2].astype(float) - 127.5).max() < 3


def test_faces_without_the_needed_points_have_no_crop() -> None:
    landmarks = face()
    landmarks[45] = np.nan
    assert PRESETS["renet"].matrix(landmarks, None, None, 256) is None
    assert PRESETS["renet"].matrix(np.full((68, 2), 50.0), None, None, 256) is None
    assert PRESETS["renet"].matrix(None, np.array([0.0, 0, 9, 9]), (10, 10), 256) is None


@pytest.mark.parametrize("name", PRESETS)
def test_hash_follows_name_version_and_geometry(name: str) -> None:
    preset = PRESETS[name]
    assert dataclasses.replace(preset, size=128, source="elsewhere").hash == preset.hash
    assert dataclasses.replace(preset, version=99).hash != preset.hash
    assert dataclasses.replace(preset, name="other").hash != preset.hash


def test_hash_follows_every_number() -> None:
    preset = PRESETS["renet"]
    assert isinstance(preset.geometry, Template)
    moved = dataclasses.replace(preset.geometry, at=(*preset.geometry.at[:-1], (100.0, 99.1)))
    assert dataclasses.replace(preset, geometry=moved).hash != preset.hash
    assert len({other.hash for other in PRESETS.values()}) == len(PRESETS)


def test_face_box_holds_forehead_chin_and_cheeks() -> None:
    landmarks = face()
    landmarks[[60, 64]] = np.nan
    x1, y1, x2, y2 = face_box(landmarks)
    # The mean face reaches from x = -0.8 to 0.8 and down to 1.0; its nose from -0.28 to 0.24: 1.4 * 0.52 above that.
    np.testing.assert_allclose((x1, y1, x2, y2), (70, 150 - 100 * (0.28 + 1.4 * 0.52), 230, 250), atol=1e-3)
    assert np.isnan(face_box(np.full((68, 2), np.nan))).all()


def test_face_box_follows_a_leaning_head() -> None:
    """The forehead of a head lying on its side is beside it, not above it."""
    lying = warp_points(face(), turn(np.pi / 2, 1.0, (300.0, 0.0)))  # clockwise: up becomes right
    x1, y1, x2, y2 = face_box(lying)
    np.testing.assert_allclose((x1, y1, x2, y2), (50, 70, 150 + 100 * 1.008, 230), atol=1e-3)


def test_five_points_are_eyes_nose_and_mouth() -> None:
    landmarks = np.stack([np.arange(68.0), 2 * np.arange(68.0)], axis=1)
    np.testing.assert_array_equal(five_points(landmarks)[:, 0], [38.5, 44.5, 30, 48, 54])
    np.testing.assert_array_equal(five_points(landmarks)[:, 1], [77, 89, 60, 96, 108])
