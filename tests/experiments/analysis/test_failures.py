"""Errors by confidence and worst frames, worked out by hand."""

import numpy as np
import pytest

from experiments.analysis.failures import error_by_confidence, worst_frames


def test_errors_by_quantile_by_hand() -> None:
    confidence = np.array([0.9, 0.1, 0.8, 0.2, np.nan])
    true = np.array([[1, 0], [1, 1], [0, -1], [0, 1], [1, 1]])
    prob = np.array([[0.9, 0.1], [0.1, 0.1], [0.5, 0.0], [0.1, 0.9], [0.0, 0.0]])
    found = error_by_confidence(confidence, true, prob, bins=2)
    assert found.frames.tolist() == [2, 2]
    assert (found.low.tolist(), found.high.tolist()) == ([0.1, 0.8], [0.2, 0.9])
    # Low: of four labels two are wrong, both missed positives of three. High: of three one, a false alarm (0.5 calls).
    assert found.error.tolist() == [2 / 4, 1 / 3]
    assert found.missed.tolist() == [2 / 3, 0]
    assert found.loss == pytest.approx([-np.mean(np.log([0.1, 0.1, 0.9, 0.9])), -np.mean(np.log([0.9, 0.9, 0.5]))])


def test_equal_confidences_share_a_bin() -> None:
    found = error_by_confidence(np.full(6, 0.7), np.ones((6, 1), int), np.zeros((6, 1)))
    assert found.frames.tolist() == [6]
    assert error_by_confidence(np.full(2, np.nan), np.ones((2, 1), int), np.zeros((2, 1))).frames.size == 0


def test_without_positives_nothing_is_missed() -> None:
    found = error_by_confidence(np.array([0.1, 0.9]), np.array([[0], [1]]), np.array([[0.9], [0.9]]), bins=2)
    assert np.isnan(found.missed[0])
    assert found.missed[1] == 0


def test_worst_frames_are_one_a_sequence() -> None:
    true = np.array([[1, 1], [1, -1], [0, 0], [0, 0], [-1, -1]])
    prob = np.array([[0.1, 0.9], [0.05, 0.9], [0.4, 0.4], [0.1, 0.1], [0.0, 0.0]])
    # Mean losses: 1.20, 3.00 (one label), 0.51, 0.11, none.
    assert worst_frames(true, prob, list("aabbc")).tolist() == [1, 2]
    assert worst_frames(true, prob, list("abcde")).tolist() == [1, 0, 2, 3]
    assert worst_frames(true, prob, list("abcde"), count=2).tolist() == [1, 0]
