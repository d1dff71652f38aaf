import numpy as np
import pytest

from datamodules.synth.clips import SYNTH_AUS, Clip, Sitter, SynthFrame, group, render_clip

UPPER = {1, 2, 4, 5, 7}  # act above the nose's base
LOWER = {14, 15, 17, 20, 23, 24, 25, 26}  # act below the eyes


def test_a_frame_depends_on_its_number_alone() -> None:
    at_once = list(render_clip(4, 3, seed=2, size=64, stride=50))
    clip = Clip(4, seed=2, size=64)
    for index in (100, 0, 50):
        alone, together = clip.frame(index), at_once[index // 50]
        np.testing.assert_array_equal(alone.image, together.image)
        np.testing.assert_array_equal(alone.landmarks, together.landmarks)
        assert alone.intensity == together.intensity


def test_seed_and_subject_make_another_clip() -> None:
    first = next(render_clip(1, 1, seed=0, size=64)).image.astype(int)
    assert np.abs(first - next(render_clip(2, 1, seed=0, size=64)).image).mean() > 5
    assert np.abs(first - next(render_clip(1, 1, seed=1, size=64)).image).mean() > 5


def test_labels_leave_the_picture_alone() -> None:
    noisy, clean = next(render_clip(1, 1, size=64)), next(render_clip(1, 1, size=64, coder_noise=False))
    np.testing.assert_array_equal(noisy.image, clean.image)


@pytest.mark.parametrize("size", [48, 64, 128, 200])
def test_frames_have_the_promised_types(size: int) -> None:
    frame = Clip(1, size=size).frame(7)
    assert frame.image.shape == (size, size, 3)
    assert frame.image.dtype == np.uint8
    assert frame.landmarks.shape == (68, 2)
    assert frame.landmarks.dtype == np.float32
    assert tuple(frame.intensity) == SYNTH_AUS
    assert all(level in range(6) for level in frame.intensity.values())
    assert (np.abs(frame.landmarks / size - 0.5) < 0.6).all()


def test_landmarks_mean_the_same_at_every_size() -> None:
    small, large = Clip(3, size=64).frame(40).landmarks, Clip(3, size=256).frame(40).landmarks
    # (0, 0) is a pixel's centre, so sizes differ by (x + 0.5) * 4 - 0.5.
    np.testing.assert_allclose((small + 0.5) * 4 - 0.5, large, atol=0.5)


@pytest.mark.parametrize("subject", [1, 2, 3, 6])
def test_pupils_and_lips_are_found_at_their_landmarks(subject: int) -> None:
    frame = Clip(subject, size=256).still({26: 5.0, 25: 5.0})
    grey, p = frame.image.mean(axis=-1), frame.landmarks
    for eye in (p[36:42], p[42:48]):
        x, y = np.round(eye.mean(axis=0)).astype(int)
        around = grey[y - 2 : y + 3, x - 20 : x + 21].mean(axis=0)
        assert abs(int(around[8:33].argmin()) - 12) <= 4  # the pupil is the darkest spot between the corners
    mouth = grey[round(float(p[62, 1])) - 1 : round(float(p[66, 1])) + 2, round(float(p[62, 0]))]
    below = grey[round(float(p[57, 1])) + 8, round(float(p[57, 0]))]
    assert mouth.max() - mouth.min() > 25  # teeth and the dark behind them
    assert mouth.min() < below


@pytest.fixture(scope="module")
def portraits() -> dict[int, list[SynthFrame]]:
    """AU (0: none) -> the portraits of three subjects."""
    clips = [Clip(subject, size=128) for subject in (2, 5, 14)]
    return {au: [clip.still({au: 5.0}) for clip in clips] for au in (0, *SYNTH_AUS)}


@pytest.mark.parametrize("au", SYNTH_AUS)
def test_every_au_changes_its_region_and_no_other(portraits: dict[int, list[SynthFrame]], au: int) -> None:
    for rest, acting in zip(portraits[0], portraits[au], strict=True):
        changed = np.abs(rest.image.astype(int) - acting.image).max(axis=-1)
        eyes, nose = rest.landmarks[36:48, 1].max(), rest.landmarks[33, 1]
        x_low, x_high = rest.landmarks[:, 0].min() - 4, rest.landmarks[:, 0].max() + 4
        assert (changed > 25).sum() > 15
        assert changed[:, : int(x_low)].max(initial=0) <= 8
        assert changed[:, int(x_high) + 1 :].max(initial=0) <= 8
        if au in UPPER:
            assert changed[int(nose) + 3 :].max() <= 8
        if au in LOWER:
            assert changed[: int(eyes) - 1].max() <= 8


@pytest.mark.parametrize("au", [6, 14, 23])
def test_texture_aus_show_in_the_skin_only(portraits: dict[int, list[SynthFrame]], au: int) -> None:
    for rest, acting in zip(portraits[0], portraits[au], strict=True):
        assert np.abs(rest.landmarks - acting.landmarks).max() < 0.05


def test_stronger_levels_show_more(portraits: dict[int, list[SynthFrame]]) -> None:
    clip = Clip(2, size=128)
    rest = portraits[0][0].image.astype(float)
    for au in SYNTH_AUS:
        change = [np.abs(clip.still({au: level}).image - rest).sum() for level in (1.0, 3.0, 5.0)]
        assert change[0] < change[1] < change[2]


def test_occlusion_is_rare_flagged_and_hides_part_of_the_face() -> None:
    flags = [frame.occluded for subject in range(1, 31) for frame in render_clip(subject, 8, size=32, stride=200)]
    assert 0.01 < np.mean(flags) < 0.15


def test_a_still_without_wishes_is_the_portrait() -> None:
    clip = Clip(3, size=64)
    np.testing.assert_array_equal(clip.still({6: 4.0}).image, clip.still({6: 4.0}).image)
    assert (clip.still({}, index=1).image != clip.still({}).image).any()  # other noise


def test_a_still_lies_where_and_on_what_it_is_told() -> None:
    clip = Clip(2, size=96)
    white = np.full((120, 200, 3), 0.9, np.float32)
    frame = clip.still({12: 4.0}, background=white, centre=(60, 50))
    moved = clip.still({12: 4.0}, background=white, centre=(120, 65))
    assert frame.image.shape == (120, 200, 3)
    np.testing.assert_allclose(moved.landmarks - frame.landmarks, np.broadcast_to((60, 15), (68, 2)), atol=1e-3)
    # The same pixels, but for noise and lens, as far as the head reaches; the wall is as bright on both sides.
    head, other = frame.image[5:95, 20:100].astype(float), moved.image[20:110, 80:160].astype(float)
    assert np.abs(head - other).mean() < 6
    assert frame.image[10:30, 150:190].mean() > 200
    x, y = np.round(frame.landmarks[30]).astype(int)
    assert frame.image[y, x].mean() < 200
    np.testing.assert_allclose(
        clip.still({12: 4.0}, background=white).landmarks - frame.landmarks,
        np.broadcast_to((99.5 - 60, 59.5 - 50), (68, 2)),
        atol=1e-3,
    )


@pytest.mark.parametrize("yaw", [-45, -30, 30, 45])
def test_a_still_turns_to_the_side_that_yaw_says(yaw: int) -> None:
    clip = Clip(5, size=96)
    front, turned = clip.still({}).landmarks, clip.still({}, pose=(yaw, 0, 0)).landmarks
    inner = slice(36, 48)
    # The nose leads towards the side of the picture, the distance of the outer eye corners shrinks by the cosine.
    lead = (turned[30, 0] - turned[inner, 0].mean()) - (front[30, 0] - front[inner, 0].mean())
    assert np.sign(lead) == np.sign(yaw)
    width = (turned[45, 0] - turned[36, 0]) / (front[45, 0] - front[36, 0])
    assert width == pytest.approx(np.cos(np.radians(yaw)), abs=0.12)
    np.testing.assert_allclose(turned[[27, 33], 1], front[[27, 33], 1], atol=1.0)


def test_light_comes_from_the_side_that_azimuth_says() -> None:
    clip = Clip(4, size=96)
    for azimuth, brighter in ((-1.2, 0), (1.2, 1)):
        frame = clip.still({}, light=(azimuth, 0.0, 1.0, 0.15))
        p = np.round(frame.landmarks).astype(int)
        cheeks = [
            frame.image[p[30, 1] - 3 : p[30, 1] + 4, x - 3 : x + 4].mean()
            for x in ((p[2, 0] + p[31, 0]) // 2, (p[14, 0] + p[35, 0]) // 2)
        ]
        assert cheeks[brighter] > 1.5 * cheeks[1 - brighter]


def test_a_group_shows_everyone_at_their_place() -> None:
    small, large = Clip(2, size=48, factor=2), Clip(5, size=96, factor=2)
    empty = np.full((100, 180, 3), 0.3, np.float32)
    sitters = [Sitter(small, {}, (0, 0, 0), (30, 40)), Sitter(large, {26: 4.0}, (10, 0, 0), (120, 50))]
    image, points = group(sitters, empty)
    assert image.shape == (100, 180, 3)
    alone = large.still({26: 4.0}, pose=(10, 0, 0), background=empty, centre=(120, 50))
    np.testing.assert_array_equal(points[1], alone.landmarks)
    np.testing.assert_array_equal(points[0], small.still({}, background=empty, centre=(30, 40)).landmarks)
    np.testing.assert_array_equal(image[:, 100:], alone.image[:, 100:])
    x, y = np.round(points[0][36:48].mean(axis=0)).astype(int)
    assert (
        np.abs(image[y - 8 : y + 8, x - 8 : x + 8].astype(int) - alone.image[y - 8 : y + 8, x - 8 : x + 8]).mean() > 20
    )
    with pytest.raises(ValueError, match="factor"):
        group([Sitter(Clip(2, size=48, factor=1), {}, (0, 0, 0), (30, 40)), sitters[1]], empty)
