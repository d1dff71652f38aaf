from pathlib import Path

import numpy as np
import pytest
import scipy.io

from datamodules.facs import DISFA_12
from datamodules.raw.disfa import POINTS_66
from datamodules.synth.identity import TEMPLATE
from experiments.examination import alignment
from experiments.examination.alignment import DISTANCES, Alignment, Lag, Recording, describe, estimate, judge, measure

Subjects = list[tuple[np.ndarray, np.ndarray]]


def face() -> np.ndarray:
    """(68, 2) with eye corners one unit apart at height 0, nose base at -0.5."""
    points = np.array(TEMPLATE, float)
    points[[36, 39, 42, 45]] = (-0.6, 0), (-0.4, 0), (0.4, 0), (0.6, 0)
    points[27:31] = [(0, -0.1 * k) for k in range(4)]
    points[33] = 0, -0.5
    points[[48, 54]] = (-0.3, -0.75), (0.3, -0.75)
    points[[50, 51, 52]], points[[56, 57, 58]] = (0, -0.7), (0, -1.0)
    points[[61, 62, 63]], points[[65, 66, 67]] = (0, -0.8), (0, -0.9)
    points[[20, 21, 22, 23]] = (-0.3, 0.25), (-0.2, 0.25), (0.25, 0.25), (0.3, 0.25)
    points[[17, 18, 25, 26]] = (0, 0.2)
    return points * (1, -1)  # pictures count downwards


def test_distances_in_distances_between_the_eyes() -> None:
    expected = {
        "mouth opening": 0.1,
        "mouth width": 0.6,
        "lip corner height": 0.1,  # -0.75 against -0.85, the middle of the lips
        "inner brow height": 0.25,
        "outer brow height": 0.2,
        "brow distance": 0.45,
        "upper lip height": -0.2,
        "lower lip height": -0.5,
    }
    np.testing.assert_allclose(measure(face()[None])[0], [expected[name] for name in DISTANCES], atol=1e-12)


def test_distances_do_not_depend_on_where_the_head_is() -> None:
    rng = np.random.default_rng(0)
    still = face()
    points = still[:, 0] + 1j * still[:, 1]
    moved = points * (rng.uniform(50, 150, 20) * np.exp(1j * rng.uniform(-0.5, 0.5, 20)))[:, None]
    moved += rng.uniform(0, 300, (20, 1)) + 1j * rng.uniform(0, 300, (20, 1))
    landmarks = np.stack([moved.real, moved.imag], axis=-1).astype(np.float32)
    np.testing.assert_allclose(measure(landmarks), np.tile(measure(still[None]), (20, 1)), atol=1e-4)


def test_the_outer_lips_stand_in_for_unknown_inner_ones() -> None:
    landmarks = np.stack([face(), face()])
    landmarks[1, 60:68] = np.nan
    opening = measure(landmarks)[:, 0]
    np.testing.assert_allclose(opening, [0.1, 0.3], atol=1e-12)


def test_frames_whose_stable_points_are_unknown_have_no_distances() -> None:
    landmarks = np.stack([face(), face(), np.full((68, 2), np.nan)])
    landmarks[0, 36] = np.nan
    known = np.isfinite(measure(landmarks))
    assert known.all(axis=1).tolist() == [False, True, False]
    assert not known[[0, 2]].any()


def test_levels_become_presence_and_level_and_names_classes() -> None:
    labels = np.array([[0, 1, 2], [4, -1, 0], [5, 0, -1]])
    described = describe(labels, [5, 1, 2], [False, False, True])
    nan = np.nan
    np.testing.assert_array_equal(described, [[0, 0, 1, 0, 1], [1, 0.8, nan, 0, 0], [1, 1, 0, nan, nan]])


def test_a_column_that_is_never_known_says_nothing() -> None:
    np.testing.assert_array_equal(describe(np.array([[-1], [-1]]), [1], [False]), [[0], [0]])


def test_without_evidence_the_prior_stands() -> None:
    lags = np.arange(-10, 11)
    lag = judge(np.zeros(21), lags, 0, 3)
    assert lag.off == pytest.approx(0.01)
    assert lag.unrelated == pytest.approx(0.005)
    assert lag.high - lag.low >= 19  # 99 % of 21 equal lags


def test_evidence_against_prior_by_bayes_rule() -> None:
    lags = np.arange(-10, 11)
    evidence = np.zeros(21)
    evidence[lags == 8] = np.log(1000)
    lag = judge(evidence, lags, 0, 3)
    wrong = 0.005 / 14  # of each of the 14 lags beyond the tolerance
    whole = 0.99 + 13 * wrong + 1000 * wrong + 0.005
    assert lag.lag == 8
    assert lag.off == pytest.approx((1013 * wrong + 0.005) / whole)
    assert judge(np.full(21, -50.0), lags, 0, 3).unrelated == pytest.approx(1, abs=1e-12)


def test_one_vote_is_bounded_and_an_empty_one_says_nothing() -> None:
    scores = np.zeros((2, 21))
    scores[1, 4] = 1e6
    votes = alignment._log_votes(scores, temperature=0.1, jitter=0.01)
    np.testing.assert_allclose(votes[0], 0, atol=1e-12)
    assert votes[1, 4] == pytest.approx(np.log(0.95 * 21 + 0.05))
    np.testing.assert_allclose(np.delete(votes[1], 4), np.log(0.05), atol=1e-9)


def steps(seed: int) -> np.ndarray:
    """(600,) one occurrence label, on or off for a second each."""
    return np.repeat(np.random.default_rng(seed).random(30) < 0.5, 20).astype(float)


def recording(seed: int, lag: int = 0, labels: int | None = None) -> Recording:
    """300 frames in which all distances follow a label in ramps of half a second; it comes ``lag`` early."""
    ramp = np.convolve(steps(seed), np.ones(9) / 9, "same")[100:400]
    noise = np.random.default_rng((seed, 1)).normal(0, 0.05, (300, len(DISTANCES)))
    label = steps(seed if labels is None else labels)[100 + lag : 400 + lag]
    return Recording(ramp[:, None] + noise, label[:, None])


@pytest.mark.parametrize("lag", [-14, 0, 30])
def test_a_common_lag_is_found_to_the_frame(lag: int) -> None:
    found = estimate([recording(seed, lag) for seed in range(6)], fps=20)
    assert found is not None
    assert found.lags[np.argmax(found.fit)] == lag
    assert found.common.low <= lag <= found.common.high <= found.common.low + 2
    assert (found.common.off > 0.999) == (lag != 0)
    assert all(one.off < 0.01 for one in found.sequences)  # they agree with each other
    assert found.explained.min() > 0.7


def test_labels_of_other_pictures_fit_nowhere() -> None:
    found = estimate([recording(seed, labels=99 if seed == 3 else None) for seed in range(8)], fps=20)
    assert found is not None
    assert found.sequences[3].unrelated > 0.99
    assert max(one.off for k, one in enumerate(found.sequences) if k != 3) < 0.05


def test_nothing_is_said_without_movement_labels_or_company() -> None:
    moving = [recording(seed) for seed in range(3)]
    still = Recording(np.zeros((300, len(DISTANCES))), np.zeros((300, 1)))
    assert estimate(moving[:1], 20) is None
    assert estimate([still, still], 20) is None
    assert estimate([Recording(r.distances, np.zeros((300, 1))) for r in moving], 20) is None
    assert estimate([Recording(np.full((300, len(DISTANCES)), np.nan), r.levels) for r in moving], 20) is None
    assert estimate([Recording(r.distances[:8], r.levels[:8]) for r in moving], 20) is None


def look(subjects: Subjects, shift: dict[int, int]) -> Alignment:
    """Alignment of rendered subjects; the labels of some come ``shift`` frames late (positive) or early."""
    recordings = []
    for k, (landmarks, levels) in enumerate(subjects):
        late = shift.get(k, 0)
        first, last = max(0, late), min(0, late) + len(levels)
        levels = levels[first - late : last - late]
        described = describe(levels, [5] * levels.shape[1], [False] * levels.shape[1])
        recordings.append(Recording(measure(landmarks[first:last]), described))
    found = estimate(recordings, fps=20)
    assert found is not None
    return found


def test_honest_labels_with_coder_noise_are_no_fault(subjects: Subjects) -> None:
    found = look(subjects, {})
    assert abs(found.common.lag) <= 1
    assert found.common.off < 0.01
    assert max(lag.off for lag in found.sequences) < 0.5


@pytest.mark.parametrize("late", [20, -30])
def test_a_shifted_subject_is_found(subjects: Subjects, late: int) -> None:
    found = look(subjects, {5: late, 7: late})
    for k, lag in enumerate(found.sequences):
        if k in (5, 7):
            assert lag.off > 0.99
            assert abs(lag.lag + late) <= 3
            assert lag.low <= -late <= lag.high
        else:
            assert lag.off < 0.9


def test_a_subject_who_keeps_still_is_not_judged(subjects: Subjects) -> None:
    changes = [int((np.diff(levels, axis=0) != 0).sum()) for _, levels in subjects]
    assert changes[2] == min(changes) == 1
    found = look(subjects, {2: 20}).sequences[2]
    assert found.high - found.low > 100
    assert found.off < 0.1


def test_a_dataset_that_is_shifted_as_a_whole_is_found(subjects: Subjects) -> None:
    found = look(subjects, dict.fromkeys(range(len(subjects)), 10))
    assert found.common.off > 0.99
    assert -12 <= found.common.low <= -10 <= found.common.high <= -8
    assert max(lag.off for lag in found.sequences) < 0.9


def test_gaps_are_bridged(subjects: Subjects) -> None:
    holes = [(landmarks.copy(), levels.copy()) for landmarks, levels in subjects]
    for k, (landmarks, levels) in enumerate(holes):
        landmarks[20 * k + 30 : 20 * k + 60] = np.nan
        landmarks[::7] = np.nan
        levels[100:130, k] = -1
    found = look(holes, {4: 25})
    assert found.sequences[4].off == max(lag.off for lag in found.sequences) > 0.9
    assert abs(found.sequences[4].lag + 25) <= 3


@pytest.fixture(scope="module")
def ict(shared: Path) -> Subjects:
    """Videos that no one here wrote: landmarks and labels of ten subjects."""
    root = shared / "data" / "disfa_ict"
    found = []
    for folder in sorted((root / "ActionUnit_Labels").iterdir())[:8]:
        levels = [np.loadtxt(folder / f"{folder.name}_au{au}.txt", int, delimiter=",")[:, 1] for au in DISFA_12]
        files = sorted((root / "Landmark_Points" / folder.name / "tmp_frame_lm").iterdir())[: len(levels[0])]
        landmarks = np.full((len(files), 68, 2), np.nan)
        landmarks[:, POINTS_66] = [scipy.io.loadmat(file)["pts"] for file in files]
        found.append((landmarks, np.stack(levels, axis=1)))
    return found


def test_videos_from_elsewhere(ict: Subjects) -> None:
    honest = look(ict, {})
    assert honest.common.off < 0.01
    assert max(lag.off for lag in honest.sequences) < 0.1
    shifted = look(ict, {1: 12, 6: -24})
    for k, lag in enumerate(shifted.sequences):
        assert (lag.off > 0.99) == (k in (1, 6))
    assert isinstance(shifted.sequences[1], Lag)
    assert abs(shifted.sequences[1].lag + 12) <= 2
    assert abs(shifted.sequences[6].lag - 24) <= 2
