"""Correlations against NumPy and pandas, dependency F1 against scikit-learn, both against cases worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from experiments.analysis.correlation import correlation, dependency_f1, matrix_distance

RNG = np.random.default_rng(0)


def test_correlation_of_complete_columns_is_numpy_s() -> None:
    values = RNG.random((200, 4)) + RNG.random((200, 1)) + 100
    assert correlation(values, np.ones((200, 4), bool)) == pytest.approx(np.corrcoef(values.T))


def test_unknown_labels_leave_their_pairs_alone() -> None:
    """pandas takes every pair over the rows where both are there, too."""
    values = (RNG.random((300, 5)) < RNG.uniform(0.2, 0.6, 5)).astype(int)
    known = RNG.random((300, 5)) < 0.7
    expected = pd.DataFrame(np.where(known, values, np.nan)).corr().to_numpy()
    assert correlation(np.where(known, values, -1), known) == pytest.approx(expected)


def test_constant_columns_correlate_with_nothing() -> None:
    values = np.array([[1, 0, 0.1], [0, 0, 0.1], [1, 0, 0.1], [1, 0, 0.1]])
    assert correlation(values, np.ones((4, 3), bool)).tolist() == np.eye(3).tolist()


def test_columns_never_known_together_have_no_correlation() -> None:
    values = np.array([[1, 0], [0, 0], [0, 1], [0, 0]])
    known = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], bool)
    matrix = correlation(values, known)
    assert np.isnan(matrix).tolist() == [[False, True], [True, False]]
    assert matrix_distance(matrix, np.eye(2)) == 0


def test_distance_is_the_root_mean_square_of_the_entries() -> None:
    labels, predicted = np.eye(3), np.eye(3) + np.array([[0, 0.3, 0], [0.3, 0, -0.4], [0, -0.4, 0]])
    assert matrix_distance(predicted, labels) == pytest.approx(np.sqrt(2 * (0.09 + 0.16)) / 3)
    assert matrix_distance(labels, labels) == 0


def test_dependency_f1_by_hand() -> None:
    """AU 0 and AU 1 are shown together in two frames, AU 2 never with another.

    Where AU 1 is shown and AU 0 known (rows 0-2), AU 0 is shown in 0 and 1, called in 0 and 2: precision 1/2, recall
    1/2. Where AU 0 is shown (rows 0, 1, 3), AU 1 is shown in 0 and 1, called in 0 alone: precision 1, recall 1/2.
    """
    true = np.array([[1, 1, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1], [-1, 1, 0]])
    called = np.array([[1, 1, 1], [0, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 0, 0]], bool)
    found = dependency_f1(true, called)
    assert (found.precision[0, 1], found.recall[0, 1]) == (1 / 2, 1 / 2)
    assert (found.precision[1, 0], found.recall[1, 0]) == (1, 1 / 2)
    assert np.isfinite(found.precision).sum() == 2
    assert found.f1 == pytest.approx(2 * 0.75 * 0.5 / 1.25)


def test_dependency_f1_is_scikit_learn_s_on_the_frames_of_the_other() -> None:
    true, called = RNG.random((400, 4)) < 0.4, RNG.random((400, 4)) < 0.5
    found = dependency_f1(true.astype(int), called)
    for i in range(4):
        for j in range(4):
            if i != j:
                rows = true[:, j]
                assert found.precision[i, j] == pytest.approx(sk.precision_score(true[rows, i], called[rows, i]))
                assert found.recall[i, j] == pytest.approx(sk.recall_score(true[rows, i], called[rows, i]))


def test_dependency_f1_without_a_call_or_a_pair() -> None:
    true = np.array([[1, 1], [0, 0]])
    assert dependency_f1(true, np.zeros((2, 2), bool)).f1 == 0
    assert np.isnan(dependency_f1(np.array([[1, 0], [0, 1]]), np.ones((2, 2), bool)).f1)
