import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest

from datamodules import transforms
from datamodules.align import PRESETS, face_box, similarity, warp_points
from datamodules.facs import FLIP_68
from datamodules.transforms import (
    CropFlip,
    Frame,
    SourceCrop,
    aunet_photometric,
    compose,
    create_transform,
    flip,
    resize,
    source_matrix,
    uniforms,
)

BOX = np.array([250, 180, 390, 350], np.float32)  # of a face in the picture of `source`


def frame(image: np.ndarray, landmarks: np.ndarray) -> Frame:
    """A frame for transforms that do not look at the source picture."""
    return Frame(image, landmarks, np.full(4, np.nan, np.float32), np.full((2, 3), np.nan))


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
    for row in range(20):
        (moved,), landmarks = transform([frame(image, points)], (0, 0, row))
        inside = ((landmarks >= 0) & (landmarks <= 63)).all(axis=1)
        assert inside.sum() > 60
        x, y = landmarks[inside].astype(int).T
        assert (moved[y, x] == 255).all()
        assert moved.shape == (64, 64, 3)


def test_every_crop_is_equally_likely_and_half_are_flipped() -> None:
    transform = CropFlip(image_size=28, train=True)  # out of 32: offsets 0 to 4
    image = np.arange(32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8)
    points = np.zeros((68, 2), np.float32)  # all on the upper left pixel, as is the chin, which a flip leaves the chin
    seen: Counter[tuple[int, int, bool]] = Counter()
    for row in range(5000):
        (picture,), landmarks = transform([frame(image, points)], (7, row % 3, row))
        flipped = bool(landmarks[8, 0] > 20)
        x, y = int(landmarks[8, 0] - 27 if flipped else -landmarks[8, 0]), int(-landmarks[8, 1])
        expected = image[y : y + 28, x : x + 28]
        assert (picture == (expected[:, ::-1] if flipped else expected)).all()
        seen[x, y, flipped] += 1
    assert set(seen) == {(x, y, f) for x in range(5) for y in range(5) for f in (False, True)}
    chi_square = sum((count - 100) ** 2 / 100 for count in seen.values())
    assert chi_square < 85.4  # 49 degrees of freedom: 1 in 1000


def test_a_flip_exchanges_left_and_right() -> None:
    points = np.full((68, 2), np.nan, np.float32)
    points[36], points[45], points[8] = (10, 20), (50, 22), (30, 60)  # right and left outer eye corner, chin
    points[48] = (20, 44)
    picture = dotted(points, 64)
    (mirrored,), moved = flip([picture], points)
    np.testing.assert_array_equal(moved[36], [63 - 50, 22])
    np.testing.assert_array_equal(moved[45], [63 - 10, 20])
    np.testing.assert_array_equal(moved[8], [63 - 30, 60])
    np.testing.assert_array_equal(moved[54], [63 - 20, 44])
    assert np.isnan(moved[[48, 37, 44]]).all()
    np.testing.assert_array_equal(mirrored, picture[:, ::-1])


@pytest.mark.parametrize("name", ["renet", "aunet"])
def test_the_draw_depends_on_seed_epoch_and_row_alone(name: Any, points: np.ndarray) -> None:
    image = np.random.default_rng(1).integers(0, 255, (73, 73, 3), dtype=np.uint8)
    sample = [Frame(image, points, np.array([10, 10, 60, 60], np.float32), np.eye(2, 3))]
    one, other = create_transform(name, 64, train=True), create_transform(name, 64, train=True)
    draws = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)] * 3
    expected = {draw: one(sample, draw)[0][0].tobytes() for draw in draws[:4]}
    assert all(other(sample, draw)[0][0].tobytes() == expected[draw] for draw in reversed(draws))
    assert len(set(expected.values())) == 4
    assert len({one(sample, (0, epoch, 7))[0][0].tobytes() for epoch in range(12)}) > 6


def test_numbers_are_uniform_and_independent() -> None:
    drawn = np.array([uniforms((seed, epoch, row)) for seed in range(2) for epoch in range(10) for row in range(200)])
    assert drawn.shape == (4000, 8)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    deciles = np.stack([np.histogram(column, bins=10, range=(0, 1))[0] for column in drawn.T])
    assert ((deciles - 400) ** 2 / 400).sum(axis=1).max() < 27.9  # 9 degrees of freedom: 1 in 1000
    assert np.abs(np.corrcoef(drawn.T) - np.eye(8)).max() < 4 / math.sqrt(4000)
    assert len(np.unique(drawn)) == drawn.size


def test_evaluation_takes_the_centre(points: np.ndarray) -> None:
    image = dotted(points, 73)
    (cropped,), landmarks = CropFlip(64, train=False)([frame(image, points)], (0, 0, 0))
    np.testing.assert_array_equal(cropped, image[4:68, 4:68])
    np.testing.assert_array_equal(landmarks, points - 4)


@pytest.mark.parametrize("train", [False, True])
def test_a_clip_is_cut_and_flipped_as_one(train: bool, points: np.ndarray) -> None:
    image = np.random.default_rng(0).integers(10, 240, (73, 73, 3), dtype=np.uint8)
    unknown = np.full((68, 2), np.nan, np.float32)
    clip = [frame(image - 10, unknown), frame(image, points), frame(image + 10, unknown)]
    for row in range(8):
        (before, now, after), landmarks = CropFlip(64, train)(clip, (0, 0, row))
        alone, same = CropFlip(64, train)([clip[1]], (0, 0, row))
        np.testing.assert_array_equal(now, alone[0])
        np.testing.assert_array_equal(before + 10, now)
        np.testing.assert_array_equal(after - 10, now)
        np.testing.assert_array_equal(landmarks, same)


def test_colours_change_brightness_contrast_and_saturation_by_two_fifths_in_training_alone(points: np.ndarray) -> None:
    grey = np.full((64, 64, 3), 100, np.uint8)
    means = [
        create_transform("emotiram", 64, True)([frame(grey, points)], (0, 0, row))[0][0].mean() for row in range(99)
    ]
    assert 55 <= min(means) < 75
    assert 125 < max(means) <= 145
    clip = [frame(grey + 20 * i, points) for i in range(3)]
    pictures, _ = create_transform("megraph", 64, True)(clip, (0, 0, 1))
    assert len({np.round(picture.mean() / (100 + 20 * i), 1) for i, picture in enumerate(pictures)}) == 1
    for augment in ("megraph", "emotiram"):
        np.testing.assert_array_equal(
            create_transform(augment, 64, False)([frame(grey, points)], (0, 0, 0))[0][0], grey
        )


def test_emotiram_shows_the_whole_crop_and_megraph_a_part_of_it(points: np.ndarray) -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    (whole,), landmarks = create_transform("emotiram", 64, False)([frame(image, points)], (0, 0, 0))
    np.testing.assert_array_equal(whole, image)
    np.testing.assert_array_equal(landmarks, points)
    image = np.random.default_rng(0).integers(0, 255, (73, 73, 3), dtype=np.uint8)
    (part,), _ = create_transform("megraph", 64, False)([frame(image, points)], (0, 0, 0))
    np.testing.assert_array_equal(part, image[4:68, 4:68])
    _, moved = create_transform("emotiram", 64, True)([frame(image[:64, :64], points)], (0, 0, 5))
    np.testing.assert_array_equal(np.sort(moved[:, 1]), np.sort(points[:, 1]))  # flipped or not, never shifted


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
        compose(lambda: [A.ImageCompression(quality_lower=30)], 1)


# AUNet


def test_the_crop_is_that_of_the_release(shared: Path) -> None:
    """Its matrices, also where it turns: there ``rot`` is what the release multiplies by pi / 200."""
    cases = json.loads((shared / "golden" / "aunet_crop_matrices.json").read_text())
    assert len(cases) == 27
    for case in cases:
        degrees = math.degrees(case["rot"] * math.pi / 200)
        matrix = source_matrix(np.array(case["bbox"]), 256, case["aug_scale"], degrees=degrees)
        np.testing.assert_allclose(matrix, case["mat"], atol=3e-5, rtol=0)  # theirs is float32: 2e-5 at -130


def test_the_largest_turn_is_that_of_the_release() -> None:
    assert SourceCrop(256, train=True).degrees == pytest.approx(13.5)


def test_another_size_shows_the_same_square() -> None:
    large, small = (source_matrix(BOX, size, 1.1, (3, -2), 10) for size in (256, 64))
    corners = np.array([[-0.5, -0.5], [255.5, -0.5], [-0.5, 255.5]])
    there = warp_points(corners, cv2.invertAffineTransform(large))
    np.testing.assert_allclose(warp_points(there, small), [[-0.5, -0.5], [63.5, -0.5], [-0.5, 63.5]], atol=1e-4)


def source() -> np.ndarray:
    """(480, 640, 3) smooth picture, without symmetry, in which every place has a colour of its own."""
    y, x = np.mgrid[:480, :640].astype(float)
    waves = [128 + 90 * np.sin(x / 23 + y / 41 + k) * np.cos(y / 29 - x / 67 + 2 * k) for k in range(3)]
    return np.stack(waves, axis=-1).astype(np.uint8)


def face() -> np.ndarray:
    """(68, 2) float32 landmarks inside `BOX`, with eyes, nose and mouth about where a face has them."""
    x = np.random.default_rng(3).uniform(260, 380, 68)
    y = np.random.default_rng(4).uniform(190, 340, 68)
    points = np.stack([x, y], axis=1)
    points[36:42] += (290, 240) - points[36:42].mean(axis=0)
    points[42:48] += (350, 236) - points[42:48].mean(axis=0)
    points[[27, 33, 30, 48, 54]] = (320, 240), (321, 290), (322, 280), (298, 315), (345, 312)
    return points.astype(np.float32)


def stored(picture: np.ndarray, landmarks: np.ndarray, box: np.ndarray = BOX, turn: float = 0.0) -> Frame:
    """What a store keeps: the ``aunet`` crop, or a turned one twice as large as the face."""
    matrix = PRESETS["aunet"].matrix(None, box, picture.shape[:2], 448)
    if turn:
        matrix = source_matrix(box, 448, 2.0, degrees=turn)
    crop = cv2.warpAffine(picture, matrix, (448, 448))
    return Frame(crop, warp_points(landmarks, matrix), box, matrix)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference, without the black outside of a picture and its border."""
    inside = (one.min(axis=-1) > 0) & (other.min(axis=-1) > 0)
    assert inside.mean() > 0.8
    return float(np.abs(one.astype(int) - other)[inside].mean())


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training without what changes colours."""
    monkeypatch.setattr(transforms, "aunet_photometric", lambda pictures: compose(list, pictures))


@pytest.mark.parametrize("turn", [0.0, 20.0])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.usefixtures("plain")
def test_one_warp_of_the_stored_crop_is_a_warp_of_the_source(train: bool, turn: float) -> None:
    picture, landmarks = source(), face()
    sample = stored(picture, landmarks, turn=turn)
    for row in range(8 if train else 1):
        (cropped,), moved = SourceCrop(256, train)([sample], (0, 0, row))
        if flipped := train and np.linalg.det(similarity_or_mirror(landmarks, moved)[:, :2]) < 0:
            cropped, moved = cropped[:, ::-1], mirrored(moved, 256)
        matrix = similarity(landmarks.astype(float), moved.astype(float))
        np.testing.assert_allclose(warp_points(landmarks, matrix), moved, atol=1e-2)
        direct = cv2.warpAffine(picture, matrix, (256, 256))
        assert difference(cropped, direct) < 1.0, (row, flipped)
        if not train:
            np.testing.assert_allclose(matrix, source_matrix(BOX, 256), atol=1e-3)
            assert difference(cropped, cv2.warpAffine(picture, source_matrix(BOX, 256), (256, 256))) < 1.0
            assert difference(cropped[:, 2:], direct[:, :-2]) > 3.0  # the bound would notice two pixels


def mirrored(landmarks: np.ndarray, side: int) -> np.ndarray:
    return (landmarks * (-1, 1) + (side - 1, 0))[FLIP_68]


def similarity_or_mirror(landmarks: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Affine map of the points, those of a mirrored picture being in mirrored order."""
    design = np.column_stack([landmarks, np.ones(68)])
    fits = [np.linalg.lstsq(design, target, rcond=None) for target in (moved, moved[FLIP_68])]
    return min(fits, key=lambda fit: fit[1].sum())[0].T


@pytest.mark.usefixtures("plain")
def test_the_ranges_are_those_of_the_release() -> None:
    """Zoom, turn and shift read off the landmarks of 600 draws; the box has scale 310 / 260."""
    landmarks, transform = face(), SourceCrop(256, train=True)
    sample = stored(np.zeros((480, 640, 3), np.uint8), landmarks)
    scale = 310 / 260
    drawn = []
    for row in range(600):
        moved = transform([sample], (0, 1, row))[1]
        linear = similarity_or_mirror(landmarks, moved)
        if flipped := np.linalg.det(linear[:, :2]) < 0:
            moved = mirrored(moved, 256)
        matrix = similarity(landmarks.astype(float), moved.astype(float))
        zoom = 256 / (200 * scale) / math.hypot(*matrix[0, :2])
        turn = math.degrees(math.atan2(matrix[0, 1], matrix[0, 0]))
        shift = cv2.invertAffineTransform(matrix) @ (128, 128, 1) - (320, 265)
        np.testing.assert_allclose(shift, np.round(shift), atol=0.05)
        reach = int(10 * scale * zoom)
        assert -reach <= round(shift.min())
        assert round(shift.max()) <= reach - 1
        drawn.append([(zoom - 0.75) / 0.5, turn / 27 + 0.5, *((shift + reach + 0.5) / (2 * reach)), flipped])
    spread = np.array(drawn)
    quartiles = np.stack([np.histogram(column, bins=4, range=(0, 1))[0] for column in spread[:, :2].T])
    assert np.abs(quartiles - 150).max() < 45  # 4 standard deviations
    assert np.abs(spread.mean(axis=0) - 0.5).max() < 0.08
    assert spread[:, :4].min(axis=0).max() < 0.06
    assert spread[:, :4].max(axis=0).min() > 0.94
    assert np.abs(np.corrcoef(spread.T) - np.eye(5)).max() < 4 / math.sqrt(600)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.usefixtures("plain")
def test_neighbours_are_laid_on_the_middle_frame(train: bool) -> None:
    """A face that moved, turned and came closer is in the same place and of the same size again."""
    picture, landmarks = source(), face()
    moves = [source_matrix(BOX, 256, zoom, (dx, 5), turn) for zoom, dx, turn in ((1.2, 9, 12), (0.9, -14, -8))]
    back = cv2.invertAffineTransform(source_matrix(BOX, 256))
    clip = [stored(picture, landmarks)] * 3
    for i, move in zip((0, 2), moves, strict=True):
        there = back @ np.vstack([move, (0, 0, 1)])  # source to source
        moved = warp_points(landmarks, there)
        box = np.concatenate([moved.min(axis=0), moved.max(axis=0)]).astype(np.float32)
        clip[i] = stored(cv2.warpAffine(picture, there, (640, 480)), moved, box)
    alone, _ = SourceCrop(256, train)([clip[1]], (0, 0, 5))
    pictures, _ = SourceCrop(256, train)(clip, (0, 0, 5))
    np.testing.assert_array_equal(pictures[1], alone[0])
    for i in (0, 2):
        assert difference(pictures[i], pictures[1]) < 2.0
        assert difference(pictures[i][:, 2:], pictures[1][:, :-2]) > 3.0


@pytest.mark.parametrize("train", [False, True])
def test_what_cannot_be_laid_on_repeats_the_middle_frame(train: bool) -> None:
    landmarks = face()
    middle, other = stored(source(), landmarks), stored(255 - source(), landmarks)
    nowhere = landmarks.copy()
    nowhere[54] = np.nan
    (before, now, after), _ = SourceCrop(64, train)([other, middle, stored(255 - source(), nowhere)], (0, 0, 1))
    np.testing.assert_array_equal(after, now)
    assert (before != now).any()
    unknown = stored(source(), nowhere)
    (before, now, after), moved = SourceCrop(64, train)([other, unknown, other], (0, 0, 1))
    np.testing.assert_array_equal(before, now)
    np.testing.assert_array_equal(after, now)
    assert np.isnan(moved).all(axis=1).sum() == 1


def test_aligned_is_the_crop_of_evaluation_or_its_mirror_image() -> None:
    clip = [stored(255 - source(), face()), stored(source(), face()), stored(source() // 2, face())]
    expected, landmarks = create_transform("aunet", 64, train=False)(clip, (0, 0, 0))
    flipped = 0
    for row in range(20):
        pictures, moved = create_transform("aligned", 64, train=True)(clip, (0, 0, row))
        if mirror := not np.array_equal(pictures[1], expected[1]):
            pictures, moved = [picture[:, ::-1] for picture in pictures], mirrored(moved, 64)
        np.testing.assert_array_equal(pictures, expected)
        np.testing.assert_allclose(moved, landmarks, atol=1e-4)
        flipped += mirror
    assert 3 <= flipped <= 17  # p = 0.5: 1 in 2000 outside
    seen, _ = create_transform("aligned", 64, train=False)(clip, (0, 0, 0))
    np.testing.assert_array_equal(seen, expected)


def test_without_a_box_that_of_the_landmarks_or_the_stored_crop_is_taken() -> None:
    landmarks = face()
    sample = stored(source(), landmarks)
    (expected,), _ = SourceCrop(64, train=False)([sample], (0, 0, 0))
    no_box = np.full(4, np.nan, np.float32)
    blind = sample._replace(box=no_box, landmarks=np.full((68, 2), np.nan, np.float32))
    (cropped,), moved = SourceCrop(64, train=False)([blind], (0, 0, 0))
    assert np.abs(cropped.astype(int) - expected).max() <= 1  # the store's crop lies around the box
    assert np.isnan(moved).all()
    (cropped,), _ = SourceCrop(64, train=False)([sample._replace(box=no_box)], (0, 0, 0))
    (own,), _ = SourceCrop(64, train=False)([sample._replace(box=face_box(landmarks))], (0, 0, 0))
    assert np.abs(cropped.astype(int) - own).max() <= 1
    assert difference(cropped, expected) > 3.0


def test_pixels_change_as_in_the_release() -> None:
    """Ranges as the library resolved them: it ignores what it does not know."""
    blur, colour, compression, holes = aunet_photometric(3).transforms
    assert (blur.p, blur.blur_limit) == (0.5, (3, 7))
    assert (colour.p, colour.hue) == (1.0, (0, 0))
    assert colour.brightness == colour.contrast == colour.saturation == (0.7, 1.3)
    assert (compression.p, compression.quality_range, compression.compression_type) == (0.5, (30, 100), "jpeg")
    assert (holes.p, holes.num_holes_range, holes.fill) == (0.5, (1, 8), 0)
    assert holes.hole_height_range == holes.hole_width_range == (0.03125, 0.125)


def test_compression_and_dropout_happen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library does to the pixels, not what it was asked: older arguments are ignored without an error."""
    changes: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for kind in (A.ImageCompression, A.CoarseDropout):
        apply = kind.apply

        def keep(self: Any, img: np.ndarray, *words: Any, apply: Any = apply, **values: Any) -> np.ndarray:
            before = img.copy()
            changed = apply(self, img, *words, **values)
            changes.setdefault(type(self).__name__, []).append((before, changed.copy()))
            return changed

        monkeypatch.setattr(kind, "apply", keep)
    transform, sample, draws = SourceCrop(256, train=True), stored(source(), face()), 60
    for row in range(draws):
        transform([sample], (0, 0, row))
    assert all(draws / 4 < len(of) < 3 * draws / 4 for of in changes.values())  # p = 0.5: 3.9 standard deviations
    assert len(changes) == 2
    noise = [np.abs(before.astype(int) - after).mean() for before, after in changes["ImageCompression"]]
    assert max(noise) > 1 > min(noise)  # quality 99 to 100, as from arguments that are ignored, gives 0.5
    number = []
    for before, after in changes["CoarseDropout"]:
        gone = (before != after).any(axis=-1)
        assert (after[gone] == 0).all()
        assert 0 < gone.sum() <= 8 * 32**2
        number.append(cv2.connectedComponents(gone.astype(np.uint8))[0] - 1)
    assert max(number) > 4  # 1 to 8 holes; from arguments that are ignored, 1 or 2


def test_the_frames_of_a_clip_change_colour_alike() -> None:
    sample = stored(source(), face())
    twin = sample._replace(image=sample.image.copy())
    transform = SourceCrop(64, train=True)
    seen = set()
    for row in range(12):
        (before, now, after), _ = transform([twin, sample, twin], (0, 0, row))
        assert np.abs(before.astype(int) - now).max() <= 3  # laid on by its points: rounding, before all the rest
        np.testing.assert_array_equal(before, after)
        seen.add(now.tobytes())
    assert len(seen) == 12


class Mark(A.ImageOnlyTransform):
    """Puts a bright pixel into a column of the picture, in half of the draws."""

    def __init__(self, column: int) -> None:
        super().__init__(p=0.5)
        self.column = column

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        img = img.copy()
        img[0, self.column] = 255
        return img


def test_pixel_changes_are_drawn_independently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms, "aunet_photometric", lambda n: compose(lambda: [Mark(0), Mark(1), Mark(2)], n))
    transform = SourceCrop(8, train=True)
    sample = stored(np.zeros((480, 640, 3), np.uint8), face())
    seen = Counter()
    for row in range(800):
        (picture,), _ = transform([sample], (0, 0, row))
        marks = picture[0, :, 0] | picture[0, ::-1, 0]  # flipped or not
        seen[tuple(marks[:3] > 0)] += 1
    assert len(seen) == 8
    assert sum((count - 100) ** 2 / 100 for count in seen.values()) < 24.3  # 7 degrees of freedom: 1 in 1000
