"""Tests of significance against SciPy and against cases worked out by hand."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import log_loss as sk_log_loss

from experiments.analysis.significance import (
    bootstrap_p,
    frame_t_test,
    holm,
    log_loss,
    subject_means,
    wilcoxon_over_subjects,
)

RNG = np.random.default_rng(0)


def test_log_loss_is_scikit_learn_s_and_finite() -> None:
    true, prob = np.array([1, 0, 1, -1]), np.array([0.9, 0.2, 0.4, 0.5])
    loss = log_loss(true, prob)
    assert np.nanmean(loss) == pytest.approx(sk_log_loss(true[:3], prob[:3]))
    assert np.isnan(loss).tolist() == [False, False, False, True]
    assert log_loss([1, 0], [0.0, 1.0]) == pytest.approx([np.log(1e6)] * 2)


def test_frame_t_test_is_scipy_s() -> None:
    first, second = RNG.random((300, 3)), RNG.random((300, 3)) + 0.02
    known = RNG.random((300, 3)) < 0.8
    found = frame_t_test(first, second, known)
    for a in range(3):
        expected = stats.ttest_rel(first[known[:, a], a], second[known[:, a], a])
        assert (found.statistic[a], found.p[a]) == pytest.approx((expected.statistic, expected.pvalue))
    everything = stats.ttest_rel(first[known], second[known])
    assert (found.statistic[3], found.p[3]) == pytest.approx((everything.statistic, everything.pvalue))


def test_frame_t_test_of_nothing_to_test() -> None:
    first = np.array([[0.1, 0.2], [0.3, 0.4]])
    found = frame_t_test(first, first, np.array([[1, 1], [1, 0]], bool))
    assert np.isnan(found.p).all()


def test_the_printed_p_values_need_more_samples_than_frames() -> None:
    """Table XII: t = -26.94 and p = 7.62e-160, both rounded. What the docstring and the report say of it."""
    frames, frames_and_aus = 146_847, 146_847 * 12
    for t, p in ((26.78, 6.33e-158), (26.94, 7.62e-160), (26.40, 1.51e-153)):
        assert 2 * stats.t.sf(t + 0.005, frames - 1) > p * 1.001
        assert 2 * stats.t.sf(t + 0.005, frames_and_aus - 1) < p < 2 * stats.t.sf(t - 0.005, frames_and_aus - 1)


def test_subject_means_by_hand() -> None:
    values = np.array([[1, 2], [3, np.nan], [5, np.nan], [7, np.nan]])
    assert subject_means(values, [0, 0, 1, 1]).tolist()[0] == [2, 2, 2]
    second = subject_means(values, [0, 0, 1, 1])[1]
    assert second[[0, 2]].tolist() == [6, 6]
    assert np.isnan(second[1])


def test_wilcoxon_by_hand() -> None:
    """Five subjects, all better: of 2^5 sign patterns, this one and its mirror image are as extreme: p = 2 / 32."""
    first = np.array([[1.0], [2.0], [3.0], [4.0], [5.0]])
    found = wilcoxon_over_subjects(first, first * 1.5)
    assert (found.statistic[0], found.p[0]) == (-1.5, 2 / 32)


def test_wilcoxon_leaves_out_whom_it_cannot_pair() -> None:
    first, second = RNG.random((12, 3)), RNG.random((12, 3))
    second[:3, 0] = np.nan
    second[:, 1] = first[:, 1]
    second[:, 2] = np.nan
    found = wilcoxon_over_subjects(first, second)
    assert found.p[0] == pytest.approx(stats.wilcoxon(first[3:, 0], second[3:, 0]).pvalue)
    assert found.p[1] == 1
    assert np.isnan(found.p[2])


def test_holm_by_hand() -> None:
    """Sorted .01 .02 .03 .04 times 4 3 2 1 is .04 .06 .06 .04, of which none may fall below the one before."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, np.nan, 0.9]) == pytest.approx([1, np.nan, 1], nan_ok=True)
    assert holm([]).size == 0


def test_bootstrap_p_by_hand() -> None:
    draws = np.array([[1.0, -1, 0, np.nan], [2, 1, 0, np.nan], [3, 1, 0, np.nan]])
    # Of three draws none, one and all are on the other side of 0; one more is counted on both.
    assert bootstrap_p(draws) == pytest.approx([2 / 4, 1, 1, np.nan], nan_ok=True)
    assert np.isnan(bootstrap_p(np.zeros((0, 2)))).all()
