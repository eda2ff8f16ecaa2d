"""Who is called better than whom, and how often falsely."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control, ttest_1samp

from benchmarks.report.comparisons import (
    FALSE_CALLS,
    against,
    holm,
    improvement,
    paired_test,
    ranks,
)


def one_task(scores):
    return {("task", "environment"): dict(enumerate(scores))}


# --- one pair -------------------------------------------------------------------------------------


def test_the_test_of_one_task_is_students():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 12))
    found = paired_test(one_task(a), one_task(b))
    expected = ttest_1samp(a - b, 0)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.mean == pytest.approx(np.mean(a - b))
    assert paired_test(one_task(b), one_task(a)).p == pytest.approx(found.p)


def test_the_environments_of_a_task_are_one_observation():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 10))
    once = paired_test(one_task(a), one_task(b))
    twice = paired_test(
        *({("task", world): dict(enumerate(own)) for world in ("mask", "shift")} for own in (a, b))
    )
    assert twice == once


def test_of_several_tasks_the_mean_is_tested_with_welchs_degrees():
    rng = np.random.default_rng(2)
    first, second = rng.normal(0.4, 1, size=10), rng.normal(0.4, 3, size=20)
    zero = [one_task(np.zeros(10)), {("other", "environment"): dict.fromkeys(range(20), 0.0)}]
    runs = {**one_task(first), ("other", "environment"): dict(enumerate(second))}
    found = paired_test(runs, {**zero[0], **zero[1]})
    parts = np.var(first, ddof=1) / 10, np.var(second, ddof=1) / 20
    t = (first.mean() + second.mean()) / np.sqrt(sum(parts))
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 9 + parts[1] ** 2 / 19)
    draws = np.random.default_rng(3).standard_t(freedom, size=400_000)
    assert found.p == pytest.approx(np.mean(np.abs(draws) >= abs(t)), abs=0.005)


def test_differences_that_are_all_the_same_have_no_doubt():
    level = np.arange(10) / 10
    assert paired_test(one_task(level + 0.1), one_task(level)).p == 0
    assert paired_test(one_task(level), one_task(level)).p == 1
    assert paired_test(one_task(level + 1e-16), one_task(level)).p == 1


def test_the_largest_numbers_that_a_row_may_hold_are_compared():
    a, b = np.random.default_rng(0).normal(size=(2, 12))
    large = paired_test(one_task(1e100 * a), one_task(1e100 * b))
    assert large.p == pytest.approx(paired_test(one_task(a), one_task(b)).p)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e3, 1e9, 1e12])
def test_what_is_the_same_difference_depends_on_the_size_of_the_scores(scale):
    """A millionth of a millionth of a score is a difference; what rounding makes of it is none."""
    rng = np.random.default_rng(0)
    level = scale * (1 + rng.random(30))
    for share in (0.1, 1e-6, 1e-12):
        assert paired_test(one_task(level + share * scale), one_task(level)).p == 0
    noise = scale * 1e-11 * rng.normal(size=30)
    assert 0.01 < paired_test(one_task(level + noise - noise.mean() / 2), one_task(level)).p < 1
    assert paired_test(one_task(level * (1 + 1e-16)), one_task(level)).p == 1


def test_a_task_of_large_scores_hides_no_doubt_about_another():
    """The differences of the large scores are all the same; the others' are what is uncertain."""
    rng = np.random.default_rng(1)
    small, large = rng.normal(0, 1e-3, size=12), 1e9 * (1 + rng.random(12))
    zero, plenty = ("other", "environment"), ("plenty", "environment")
    runs = {zero: dict(enumerate(small)), plenty: dict(enumerate(large))}
    others = {zero: dict.fromkeys(range(12), 0.0), plenty: dict(enumerate(large))}
    found = paired_test(runs, others)
    alone = paired_test({zero: runs[zero]}, {zero: others[zero]})
    assert found.p == pytest.approx(alone.p)
    assert found.mean == pytest.approx(alone.mean / 2)
    assert 0 < found.p < 1


def test_below_ten_common_seeds_nothing_is_tested():
    nine = one_task(np.arange(9.0))
    assert paired_test(nine, one_task(np.zeros(30))) is None
    assert ranks({"a": nine, "b": one_task(np.zeros(9))}, "higher") == {}
    assert paired_test({("task", "environment"): {99: 1.0}}, nine) is None
    assert paired_test({("another", "environment"): {0: 1.0}}, nine) is None


# --- many pairs -----------------------------------------------------------------------------------


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    rng = np.random.default_rng(4)
    p = rng.uniform(size=50) ** 3
    assert all(
        ours >= theirs for ours, theirs in zip(holm(p), false_discovery_control(p), strict=True)
    )


def test_pairing_sees_what_overlapping_intervals_hide():
    # what a seed's network contributes to every agent
    network = np.random.default_rng(0).normal(scale=10, size=10)
    placed = ranks({"worse": one_task(network), "better": one_task(network + 0.1)}, "higher")
    assert (placed["better"].rank, placed["worse"].rank) == (1, 2)
    assert placed["worse"].beaten_by == ("better",)


def test_ties_share_a_rank_and_the_next_rank_counts_all_that_are_better():
    noise = np.random.default_rng(1).normal(scale=0.01, size=(2, 10))
    agents = {
        "a": one_task(0.9 + noise[0]),
        "b": one_task(0.9 + noise[1]),
        "c": one_task([0.5] * 10),
    }
    assert [place.rank for place in ranks(agents, "higher").values()] == [1, 1, 3]
    assert [place.rank for place in ranks(agents, "lower").values()] == [2, 2, 1]


def test_an_agent_with_few_seeds_has_no_rank_among_agents_that_have():
    many = np.random.default_rng(2).normal(size=10)
    agents = {"good": one_task(many + 9), "lucky": one_task([99.0]), "poor": one_task(many)}
    placed = ranks(agents, "higher")
    assert {name: place.rank for name, place in placed.items()} == {"good": 1, "poor": 2}


def test_more_agents_make_a_call_harder():
    rng = np.random.default_rng(5)
    pair = {"a": one_task(rng.normal(1.1, 1, 10)), "b": one_task(rng.normal(0, 1, 10))}
    crowd = {f"other {i}": one_task(rng.normal(0.5, 1, 10)) for i in range(18)}
    assert ranks(pair, "higher")["b"].beaten_by == ("a",)
    assert "a" not in ranks({**pair, **crowd}, "higher")["b"].beaten_by


# --- beside one agent -----------------------------------------------------------------------------


def test_improvement_by_hand():
    a, b = one_task([1.0, 2.0, 3.0]), one_task([2.0, 2.0])
    assert improvement(a, b, "higher") == pytest.approx((0 + 0.5 + 1) / 3)
    assert improvement(a, b, "lower") == pytest.approx(0.5)
    assert improvement(one_task([5.0]), one_task([1.0]), "higher") == 1
    assert improvement(one_task([5.0]), one_task([1.0]), "lower") == 0


def test_beside_one_agent_only_comparisons_with_it_count():
    rng = np.random.default_rng(6)
    base = rng.normal(size=10)
    agents = {"base": one_task(base), "better": one_task(base + rng.normal(1, 0.5, size=10))}
    agents |= {f"other {i}": one_task(rng.normal(size=10)) for i in range(10)}
    found = against(agents, "base", "higher")
    assert "base" not in found
    assert len(found) == 11
    better = found["better"]
    assert better.apart
    assert better.p == pytest.approx(11 * paired_test(agents["better"], agents["base"]).p)
    assert better.difference.low > 0
    assert better.better > 0.6
    few = against({"base": one_task(base[:6]), "few": one_task(base[:6] + 1)}, "base", "higher")
    assert (few["few"].p, few["few"].apart, few["few"].difference.sign) == (None, False, 1)


# --- how often falsely ----------------------------------------------------------------------------

AGENTS, TABLES = 20, 100


def table(rng, seeds, lead=0.0):
    """Scores of equal agents, of which the second may be ahead, in standard deviations."""
    shared = rng.normal(scale=2, size=seeds)
    scores = shared + rng.normal(size=(AGENTS, seeds))
    scores[1] += lead
    return {f"agent {i}": one_task(own) for i, own in enumerate(scores)}


@pytest.mark.parametrize("seeds", [10, 20])
def test_equal_agents_are_called_apart_in_at_most_six_percent_of_tables(seeds):
    rng = np.random.default_rng(seeds)
    false = sum(
        any(place.beaten_by for place in ranks(table(rng, seeds), "higher").values())
        for _ in range(TABLES)
    )
    assert false / TABLES <= 0.06


def test_an_agent_one_standard_deviation_ahead_is_found_beside_a_chosen_one():
    rng = np.random.default_rng(7)
    tables = [table(rng, 20, lead=1.0) for _ in range(TABLES)]
    found = [against(one, "agent 0", "higher") for one in tables]
    assert sum(one["agent 1"].apart for one in found) / TABLES >= 0.35
    equal = [[other.apart for name, other in one.items() if name != "agent 1"] for one in found]
    assert sum(map(any, equal)) / TABLES <= 0.06
    assert FALSE_CALLS == 0.05
