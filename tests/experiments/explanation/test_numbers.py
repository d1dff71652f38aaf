"""The numbers of explain.py against cases worked by hand, scikit-learn and the ledgers' own scores."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score

from experiments.explanation.numbers import (
    Calls,
    agreement,
    au_scores,
    bootstrap,
    calls,
    examples,
    expected_aus,
    joint_calls,
    profile,
)

AUS = [6, 12]


def test_similarities_are_called_from_one_half_and_levels_from_the_threshold() -> None:
    ledger = pd.DataFrame({"AU06_prob": [0.5, 0.49], "AU12_prob": [0.2, 0.9], "AU12_true": [0, -1]})
    found = calls(ledger, AUS, threshold=2)
    assert found.called.tolist() == [[True, False], [False, True]]
    assert found.true.tolist() == [[-1, 0], [-1, -1]]
    levels = {"AU06_level": [1, 2], "AU06_expected": [1.4, 1.6], "AU12_level": [5, 0], "AU12_expected": [5.2, -0.1]}
    found = calls(pd.DataFrame(levels | {"AU06_true_level": [2, -1], "AU12_true_level": [1, 3]}), AUS, threshold=2)
    assert found.called.tolist() == [[False, True], [True, False]]
    assert found.true.tolist() == [[1, 0], [-1, 1]]
    assert found.score.tolist() == [[1.4, 5.2], [1.6, -0.1]]


def test_scores_of_aus_are_scikit_learns() -> None:
    coin = np.random.default_rng(0)
    true, called = coin.integers(-1, 2, (60, 3)), coin.random((60, 3)) < 0.4
    f1, accuracy = au_scores(Calls(called * 1.0, called, true), [f"S{i % 7}" for i in range(60)], 50)
    for a in range(3):
        known = true[:, a] >= 0
        assert f1.value[a] == pytest.approx(f1_score(true[known, a], called[known, a]))
        assert accuracy.value[a] == pytest.approx(accuracy_score(true[known, a], called[known, a]))
    assert f1.value[3] == pytest.approx(f1.value[:3].mean())
    low, high = f1.interval()
    assert (low < f1.value).all()
    assert (f1.value < high).all()


def test_f1_without_positives_is_undefined_and_in_no_mean() -> None:
    true = np.array([[0, 1], [0, 0]])
    f1, accuracy = au_scores(Calls(true * 1.0, np.array([[True, True], [False, True]]), true), ["a", "b"], 10)
    assert np.isnan(f1.value[0])
    assert f1.value[1] == f1.value[2] == pytest.approx(2 / 3)
    assert accuracy.value.tolist() == [0.5, 0.5, 0.5]


def test_draws_are_those_of_a_loop_over_resampled_subjects() -> None:
    values = np.array([[1.0, 0], [2, 5], [4, 1]])
    found = bootstrap(values, lambda total: total / 3, 400, seed=3)
    weights = np.random.default_rng(3).multinomial(3, [1 / 3] * 3, 400)
    expected = [np.repeat(values, row, axis=0).mean(0) for row in weights]
    np.testing.assert_allclose(found.draws, expected)
    np.testing.assert_allclose(found.value, values.mean(0))
    np.testing.assert_allclose(found.interval()[0], np.percentile(expected, 2.5, axis=0))
    gain = found.minus(bootstrap(values - 1, lambda total: total / 3, 400, seed=3))
    np.testing.assert_allclose(gain.draws, 1)  # paired


def test_both_and_either_count_pictures() -> None:
    called = np.array([[1, 1], [1, 0], [0, 1], [0, 0], [0, 1]], bool)
    assert joint_calls(called, 10).value.tolist() == pytest.approx([0.2, 0.8, 0.4, 0.6])


def test_profiles_are_shares_by_expression() -> None:
    called = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], bool)
    shares = profile(called, [0, 0, 1, -1], 3)
    np.testing.assert_array_equal(shares, [[1, 0.5], [0, 0], [np.nan, np.nan]])


def test_an_au_belongs_to_an_expression_that_one_combination_shows_with_it() -> None:
    combinations = {"Happiness": ((6, 12), (7, 12)), "Neutral": ((),)}
    expected = expected_aus(combinations, ["Neutral", "Happiness", "Other"], [6, 7, 9])
    assert expected.tolist() == [[False] * 3, [True, True, False], [False] * 3]


def test_agreement_is_a_difference_of_shares() -> None:
    called = np.array([[1, 1], [0, 1], [1, 1], [0, 0], [1, 0]], bool)
    expected = np.array([[True, False], [False, False]])
    found = agreement(called, [0, 0, 1, 1, -1], expected, 10)
    assert found.value[0] == pytest.approx(1 / 2 - 1 / 2)
    assert np.isnan(found.value[1])  # an AU of no expression
    assert found.value[2] == found.value[0]
    perfect = agreement(expected[[0, 0, 1, 1]], [0, 0, 1, 1], expected, 10)
    assert perfect.value[0] == 1


def test_examples_are_the_surest_right_and_wrong_answers() -> None:
    prob = np.array([[0.1, 0.9], [0.4, 0.6], [0.8, 0.2], [0.3, 0.7], [0.95, 0.05]])
    assert examples(prob, [1, 1, 1, 0, 0], wanted=1, number=8) == [0, 1, 2, 4]
    assert examples(prob, [1, 1, 1, 0, 0], wanted=1, number=2) == [0, 1]
