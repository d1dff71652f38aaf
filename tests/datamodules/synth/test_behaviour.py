import numpy as np
import pytest

from datamodules.synth.behaviour import EXCLUSIVE, SYNTH_AUS, Behaviour, Rates

# DISFA: level counts over 130,814 frames; BP4D occurrence for the AUs that DISFA lacks. Typed from the tables, in %.
PUBLISHED = {1: 6.71, 2: 5.63, 4: 18.80, 5: 2.09, 6: 14.89, 7: 54.9, 9: 5.45, 10: 59.4, 12: 23.54, 14: 46.6, 15: 6.01}
PUBLISHED |= {17: 9.88, 20: 3.46, 23: 16.5, 24: 15.1, 25: 35.20, 26: 19.09}
SUBJECTS, MOMENTS = 500, 8


def sample(rates: Rates, coder_noise: bool = True, independent: bool = False) -> np.ndarray:
    """(n, 17) coded levels, ten seconds apart."""
    people = [Behaviour(subject, 3, rates, independent) for subject in range(SUBJECTS)]
    return np.array([b.coded(10.0 * k, coder_noise) for b in people for k in range(MOMENTS)])


@pytest.fixture(scope="module")
def published() -> np.ndarray:
    return sample("published")


@pytest.fixture(scope="module")
def balanced() -> np.ndarray:
    return sample("balanced")


def test_base_rates_are_the_published_ones(published: np.ndarray) -> None:
    rate = 100 * (published >= 1).mean(axis=0)
    expected = np.array([PUBLISHED[au] for au in SYNTH_AUS])
    # Subjects differ in their tendencies, so 500 of them leave about an eighth of relative error on rare AUs.
    np.testing.assert_allclose(rate, expected, rtol=0.15, atol=1.5)


def test_higher_levels_follow_disfa(published: np.ndarray) -> None:
    share = {au: 100 * (published[:, SYNTH_AUS.index(au)] >= 2).mean() for au in (4, 12, 25)}
    assert share == pytest.approx({4: 15.24, 12: 12.88, 25: 27.71}, rel=0.2)


def test_balanced_rates_leave_no_au_rare(balanced: np.ndarray) -> None:
    rate = (balanced >= 1).mean(axis=0)
    assert rate.min() > 0.10
    assert rate.max() < 0.45


def test_levels_are_whole_and_reach_from_0_to_5(balanced: np.ndarray) -> None:
    assert np.issubdtype(balanced.dtype, np.integer)
    assert set(np.unique(balanced)) == {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize(("a", "b"), EXCLUSIVE)
def test_exclusive_pairs_never_co_occur(balanced: np.ndarray, a: int, b: int) -> None:
    first, second = balanced[:, SYNTH_AUS.index(a)], balanced[:, SYNTH_AUS.index(b)]
    assert first.any()
    assert second.any()
    assert not (first * second).any()


def test_exclusive_pairs_are_never_shown_together_between_two_segments() -> None:
    person = Behaviour(1, 0, "balanced")
    shown = np.array([person.activation(k / 20) for k in range(4000)])
    for a, b in EXCLUSIVE:
        assert np.minimum(shown[:, SYNTH_AUS.index(a)], shown[:, SYNTH_AUS.index(b)]).max() == 0


def test_co_occurrence_has_the_published_signs(balanced: np.ndarray) -> None:
    correlation = np.corrcoef((balanced >= 1).T)

    def r(a: int, b: int) -> float:
        return correlation[SYNTH_AUS.index(a), SYNTH_AUS.index(b)]

    assert min(r(*pair) for pair in ((1, 2), (6, 7), (6, 10), (7, 10), (6, 12), (7, 12), (10, 12), (17, 24))) > 0.08
    assert max(r(*pair) for pair in ((1, 6), (1, 7), (2, 6), (2, 7), (10, 23), (12, 15), (12, 24), (23, 24))) < -0.02


def test_independent_aus_are_uncorrelated_but_for_the_exclusive_pairs() -> None:
    correlation = np.corrcoef((sample("balanced", independent=True) >= 1).T)
    keep = np.ones_like(correlation, dtype=bool)
    np.fill_diagonal(keep, False)
    for a, b in EXCLUSIVE:
        keep[SYNTH_AUS.index(a), SYNTH_AUS.index(b)] = keep[SYNTH_AUS.index(b), SYNTH_AUS.index(a)] = False
    assert np.abs(correlation[keep]).max() < 0.12


def test_coder_noise_changes_labels_but_not_the_base_rates(balanced: np.ndarray) -> None:
    clean = sample("balanced", coder_noise=False)
    assert 0.01 < (clean != balanced).mean() < 0.15
    np.testing.assert_allclose((balanced >= 1).mean(axis=0), (clean >= 1).mean(axis=0), atol=0.02)


def test_a_moment_does_not_depend_on_what_was_asked_before() -> None:
    times = np.linspace(0, 60, 40)
    forwards, backwards = Behaviour(5, 7, "balanced"), Behaviour(5, 7, "balanced")
    ahead = [forwards.coded(t) for t in times]
    back = [backwards.coded(t) for t in times[::-1]][::-1]
    np.testing.assert_array_equal(ahead, back)


def test_actions_rise_gradually_and_faster_than_they_fall() -> None:
    people = [Behaviour(subject, 0, "balanced") for subject in range(6)]
    level = np.array([[person.activation(k / 20) for k in range(1200)] for person in people])
    step = np.diff(level, axis=1)
    assert np.abs(step).max() < 2.5  # a level-5 onset takes at least five frames
    assert step[step > 0.05].mean() > 1.2 * -step[step < -0.05].mean()


def test_blinks_close_the_eyes_for_some_of_the_time() -> None:
    person = Behaviour(2, 0, "published")
    blink = np.array([person.distractors(k / 20).blink for k in range(2000)])
    assert blink.max() == 1
    assert 0.02 < (blink > 0.5).mean() < 0.2
