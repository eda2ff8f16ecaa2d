import numpy as np
import pytest
from scipy.stats import binom, trim_mean

from benchmarks.report import estimates as statistics
from benchmarks.report.estimates import (
    bootstrap,
    interquartile_mean,
    iqm_interval,
    paired_difference,
    performance_profile,
)


def one_task(scores):
    return tasks(scores)


def tasks(*scores):
    """Every array of scores is of a task of its own."""
    return {
        (f"task {index}", "environment"): dict(enumerate(own)) for index, own in enumerate(scores)
    }


@pytest.mark.parametrize("n", range(1, 30))
def test_interquartile_mean_is_scipys_trimmed_mean(n):
    scores = np.random.default_rng(n).normal(size=(4, n))
    np.testing.assert_allclose(
        interquartile_mean(scores), trim_mean(scores, 0.25, axis=-1), rtol=1e-12
    )


def test_interquartile_mean_by_hand():
    assert interquartile_mean([0, 1, 2, 3, 4, 5, 6, 100]) == 3.5  # 2, 3, 4, 5
    assert interquartile_mean([7, 1, 4]) == 4  # nothing to trim


def test_stratified_bootstrap_draws_each_stratum_from_itself():
    drawn = bootstrap(tasks([0.0, 1.0, 2.0], [10.0, 11.0]))
    assert drawn.shape == (statistics.BOOTSTRAP_SAMPLES, 5)
    assert set(np.unique(drawn[:, :3])) == {0, 1, 2}
    assert set(np.unique(drawn[:, 3:])) == {10, 11}


def test_interval_is_that_of_a_plain_loop():
    strata = [
        np.random.default_rng(0).normal(size=6),
        np.random.default_rng(1).normal(loc=3, size=6),
    ]
    rng = np.random.default_rng(5)
    resampled = [
        trim_mean(
            np.concatenate([rng.choice(stratum, size=stratum.size) for stratum in strata]), 0.25
        )
        for _ in range(5_000)
    ]
    interval = iqm_interval(tasks(*strata))
    assert interval.estimate == pytest.approx(trim_mean(np.concatenate(strata), 0.25))
    assert [interval.low, interval.high] == pytest.approx(
        np.percentile(resampled, [2.5, 97.5]), abs=0.05
    )
    assert interval.n == 6


def test_a_task_that_is_counted_in_two_environments_is_no_more_certain():
    scores = dict(enumerate(np.random.default_rng(2).normal(size=10)))
    once = iqm_interval({("digits", "mask"): scores})
    twice = iqm_interval({("digits", "mask"): scores, ("digits", "shift"): scores})
    independent = iqm_interval({("digits", "mask"): scores, ("mnist", "mask"): scores})
    assert twice.estimate == pytest.approx(independent.estimate)
    assert independent.high - independent.low < 0.85 * (twice.high - twice.low)
    assert 0.9 < (twice.high - twice.low) / (once.high - once.low) < 1.2, (
        "the quartiles of 20 are not those of 10"
    )


def test_seeds_of_a_task_are_drawn_with_all_their_scores():
    runs = {
        ("digits", "mask"): {0: 1.0, 1: 2.0, 2: 3.0},
        ("digits", "shift"): {1: 20.0, 2: 30.0, 3: 40.0},
    }
    masked, shifted = np.split(np.nan_to_num(bootstrap(runs), nan=-1), 2, axis=1)
    assert set(zip(masked.flat, shifted.flat, strict=True)) == {(1, -1), (2, 20), (3, 30), (-1, 40)}


def test_interquartile_mean_leaves_out_what_there_is_not():
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(50, 9))
    scores[rng.random(scores.shape) < 0.4] = np.nan
    scores[:, 4] = 1.0
    expected = [trim_mean(row[~np.isnan(row)], 0.25) for row in scores]
    np.testing.assert_allclose(interquartile_mean(scores), expected, rtol=1e-12)


def test_an_interval_leaves_out_a_fortieth_at_each_end():
    scores = np.random.default_rng(4).normal(size=9)
    interval = iqm_interval(one_task(scores))
    expected = np.quantile(interquartile_mean(bootstrap(one_task(scores))), [0.025, 0.975])
    assert [interval.low, interval.high] == pytest.approx(expected, rel=1e-12)


def test_intervals_begin_at_five_seeds():
    few, enough = one_task([0.0, 1.0, 0.0, 1.0]), one_task([0.0, 1.0, 0.0, 1.0, 0.5])
    assert iqm_interval(few) == statistics.Interval(0.5, None, None, 4)
    interval = iqm_interval(enough)
    assert (interval.estimate, interval.low, interval.high, interval.n) == (0.5, 0.0, 1.0, 5)
    assert iqm_interval({**enough, ("another", "environment"): {0: 1.0}}).low is None


def test_the_bootstrap_is_five_thousand_draws_of_one_seed():
    scores = np.array([0.1, 0.5, 0.2, 0.9])
    expected = scores[np.random.default_rng(0).integers(4, size=(5_000, 4))]
    np.testing.assert_array_equal(bootstrap(one_task(scores)), expected)


@pytest.mark.parametrize(
    ("low", "high", "sign"),
    [(0.1, 0.9, 1), (-0.9, -0.1, -1), (-0.1, 0.1, 0), (0.0, 1.0, 0), (-1.0, 0.0, 0)],
)
def test_an_interval_has_a_sign_where_it_leaves_zero_out(low, high, sign):
    assert statistics.Interval((low + high) / 2, low, high, 5).sign == sign


def test_estimates_cannot_be_changed():
    assert statistics.Interval.__dataclass_params__.frozen


def test_interval_is_reproducible():
    assert iqm_interval(one_task([0.1, 0.5, 0.2, 0.9])) == iqm_interval(
        one_task([0.1, 0.5, 0.2, 0.9])
    )


def test_a_single_score_has_no_interval():
    interval = iqm_interval(one_task([0.7]))
    assert (interval.estimate, interval.low, interval.high, interval.n, interval.sign) == (
        0.7,
        None,
        None,
        1,
        0,
    )


def test_empty_stratum_is_refused():
    with pytest.raises(ValueError, match="one score or more"):
        iqm_interval(tasks([0.5], []))
    with pytest.raises(ValueError, match="one score or more"):
        iqm_interval({})


def test_an_interval_counts_the_seeds_of_the_task_that_has_the_fewest():
    assert iqm_interval(tasks([0.1, 0.2, 0.3], [0.5, 0.6])).n == 2


def test_paired_difference_takes_the_shared_seeds():
    x, y = ("x", "environment"), ("y", "environment")
    a = {x: {seed: 1.0 + seed for seed in range(7)}, y: {0: 9.0}}
    b = {x: {seed: 0.5 + seed for seed in range(2, 7)}}
    b[x][6] = 0.0
    difference = paired_difference(a, b)
    assert difference is not None
    assert (difference.estimate, difference.n, difference.sign) == (0.5, 5, 1)
    assert paired_difference({y: {0: 1.0}}, b) is None


def test_performance_profile_by_hand():
    share, low, high = performance_profile(
        one_task([0.2, 0.4, 0.4, 0.8]), np.array([0.0, 0.2, 0.4, 0.9])
    )
    assert share.tolist() == [1, 0.75, 0.25, 0]
    assert np.all((low <= share) & (share <= high))


def test_band_of_two_scores_by_hand():
    # Resampled pairs are 0 0, 0 1, 1 0 and 1 1, a quarter each; nothing is above 1.
    share, low, high = performance_profile(one_task([0.0, 1.0]), np.array([0.0, 0.5, 1.0]))
    assert share.tolist() == [0.5, 0.5, 0.0]
    assert low.tolist() == [0.0, 0.0, 0.0]
    assert high.tolist() == [1.0, 1.0, 0.0]


def test_band_is_the_binomials_95_percent():
    _, low, high = performance_profile(one_task([0.0, 1.0] * 50), np.array([0.5]))
    expected = binom.ppf([0.025, 0.975], 100, 0.5) / 100
    assert [*low, *high] == pytest.approx(expected, abs=0.011)


def test_band_is_of_the_seeds_that_there_are():
    runs = {("task", "mask"): {0: 1.0, 1: 1.0}, ("task", "shift"): {1: 1.0}}
    _, low, high = performance_profile(runs, np.array([0.5]))
    assert (low.tolist(), high.tolist()) == ([1.0], [1.0])


def test_interquartile_mean_of_one_agents_scores_leaves_out_what_there_is_not():
    assert interquartile_mean([np.nan, 1.0, 2.0]) == 1.5
    assert interquartile_mean([[[5.0, 1.0, np.nan, 2.0, 3.0]]]).tolist() == [[2.5]]
