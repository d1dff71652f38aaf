import albumentations as A
import numpy as np
import pytest

from datamodules.transforms import CropFlip, FaceFlip, compose, resize


def dotted(points: np.ndarray, side: int) -> np.ndarray:
    """A black image with a bright pixel on every point."""
    image = np.zeros((side, side, 3), np.uint8)
    for x, y in np.round(points[~np.isnan(points[:, 0])]).astype(int):
        image[y, x] = 255
    return image


@pytest.fixture
def points() -> np.ndarray:
    """68 different points on whole pixels of a 73 px image, away from its border."""
    cells = np.random.default_rng(0).choice(50 * 50, size=68, replace=False)
    return np.stack([12 + cells % 50, 12 + cells // 50], axis=1).astype(np.float32)


def test_landmarks_stay_on_their_pixels(points: np.ndarray) -> None:
    transform = CropFlip(image_size=64, train=True)
    image = dotted(points, 73)
    flips = 0
    for row in range(20):
        moved, landmarks = transform(image, points, (0, 0, row))
        inside = ((landmarks >= 0) & (landmarks <= 63)).all(axis=1)
        assert inside.sum() > 60
        x, y = landmarks[inside].astype(int).T
        assert (moved[y, x] == 255).all()
        flips += bool(landmarks[0, 0] > landmarks[16, 0]) != bool(points[0, 0] > points[16, 0])
    assert moved.shape == (64, 64, 3)


def test_a_flip_exchanges_left_and_right() -> None:
    points = np.full((68, 2), np.nan, np.float32)
    points[36], points[45], points[8] = (10, 20), (50, 22), (30, 60)  # right and left outer eye corner, chin
    points[48] = (20, 44)
    flip = compose(lambda: [FaceFlip(p=1.0)])
    moved = np.asarray(flip(image=np.zeros((64, 64, 3), np.uint8), keypoints=points)["keypoints"])
    np.testing.assert_array_equal(moved[36], [63 - 50, 22])
    np.testing.assert_array_equal(moved[45], [63 - 10, 20])
    np.testing.assert_array_equal(moved[8], [63 - 30, 60])
    np.testing.assert_array_equal(moved[54], [63 - 20, 44])
    assert np.isnan(moved[[48, 37, 44]]).all()


def test_the_draw_depends_on_seed_epoch_and_row_alone(points: np.ndarray) -> None:
    image = np.random.default_rng(1).integers(0, 255, (73, 73, 3), dtype=np.uint8)
    one, other = CropFlip(64, train=True), CropFlip(64, train=True)
    draws = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)] * 3
    expected = {draw: one(image, points, draw)[0].tobytes() for draw in draws[:4]}
    assert all(other(image, points, draw)[0].tobytes() == expected[draw] for draw in reversed(draws))
    assert len({one(image, points, (0, epoch, 7))[0].tobytes() for epoch in range(12)}) > 6


def test_evaluation_takes_the_centre(points: np.ndarray) -> None:
    image = dotted(points, 73)
    cropped, landmarks = CropFlip(64, train=False)(image, points, (0, 0, 0))
    np.testing.assert_array_equal(cropped, image[4:68, 4:68])
    np.testing.assert_array_equal(landmarks, points - 4)


def test_resizing_keeps_pixel_centres() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    image[8:12, 20:24] = 255  # its centre is (21.5, 9.5)
    landmarks = np.array([[21.5, 9.5]], np.float32)
    small, moved = resize(image, landmarks, 10)
    y, x = np.argwhere(small[..., 0] == small.max())[0]
    np.testing.assert_allclose(moved, [[x, y]], atol=1e-6)
    back, again = resize(small, moved, 40)
    assert back.shape == image.shape
    np.testing.assert_allclose(again, landmarks, atol=1e-5)


def test_a_misspelt_argument_is_an_error() -> None:
    with pytest.raises(TypeError, match="quality_lower"):
        compose(lambda: [A.ImageCompression(quality_lower=30)])
