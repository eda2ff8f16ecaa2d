import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from editgym.metrics.fairness import (
    auc,
    bnsp_auc,
    bpsn_auc,
    equalized_odds_gap,
    fairness_metrics,
    flip_rate,
    fned,
    fped,
    power_mean,
    subgroup_auc,
    worst_group_accuracy,
)

# Identity a: one of two harmless texts flagged, no toxic one missed. b: none flagged, one of two
# missed.
LABELS = [0, 0, 1, 1, 0, 0, 1, 1]
PREDICTED = [1, 0, 1, 1, 0, 0, 0, 1]
IDENTITIES = list("aaaabbbb")


def test_error_rates_by_hand():
    assert fped(LABELS, PREDICTED, IDENTITIES) == pytest.approx(abs(1 / 4 - 1 / 2) + abs(1 / 4 - 0))
    assert fned(LABELS, PREDICTED, IDENTITIES) == pytest.approx(abs(1 / 4 - 0) + abs(1 / 4 - 1 / 2))
    assert equalized_odds_gap(LABELS, PREDICTED, IDENTITIES) == pytest.approx(0.5)
    assert worst_group_accuracy(LABELS, PREDICTED, IDENTITIES) == pytest.approx(0.5)


def test_the_worst_group_may_be_of_either_label():
    assert worst_group_accuracy([0, 1, 1], [0, 1, 0], list("aaa")) == 0.5
    assert worst_group_accuracy([1, 0, 0], [1, 0, 1], list("aaa")) == 0.5


def test_gap_is_the_larger_of_the_two():
    assert equalized_odds_gap([0, 0, 1, 1], [1, 0, 1, 1], list("abab")) == 1
    assert equalized_odds_gap([0, 0, 1, 1], [0, 0, 1, 0], list("abab")) == 1
    assert equalized_odds_gap([0, 0, 1, 1], [0, 0, 1, 1], list("abab")) == 0


def test_flip_rate_counts_pairs_of_one_template():
    # Template 0: predictions 1, 0, 0 -> 2 of 3 pairs differ. Template 1: 1, 1 -> 0 of 1. Template 2
    # has no pair.
    assert flip_rate([1, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 2]) == pytest.approx(2 / 4)
    assert flip_rate([1, 0], ["x", "y"]) is None
    assert flip_rate([1, 0], ["a", "a\0"]) is None, "NumPy takes these texts for one"
    assert flip_rate([1, 0, 1], ["a" * 10**7, "b", "b"]) == 1


def test_auc_of_ties_and_missing_labels():
    assert auc([0, 1, 1, 0], [1, 1, 2, 0]) == pytest.approx(3.5 / 4)
    assert auc([1, 1], [0, 1]) is None


def test_aucs_by_hand():
    # a raises every score by 2, so harmless texts about a outscore toxic ones about b.
    labels, terms = [0, 1, 0, 1], list("aabb")
    scores = [2, 3, 0, 1]
    assert subgroup_auc(labels, scores, terms) == 1
    # a: toxic b (1) against harmless a (2): 0. b: toxic a (3) against harmless b (0): 1. The worst
    # one counts.
    assert bpsn_auc(labels, scores, terms) == 0
    # a: toxic a (3) against harmless b (0): 1. b: toxic b (1) against harmless a (2): 0.
    assert bnsp_auc(labels, scores, terms) == 0


def test_power_mean_leans_to_the_worst():
    assert power_mean([0.5, 0.5]) == pytest.approx(0.5)
    assert power_mean([0.5, 1.0]) == pytest.approx(((0.5**-5 + 1) / 2) ** -0.2)
    assert power_mean([1, 3], power=1) == 2
    assert power_mean([0, 1]) == 0
    assert power_mean([0, 2], power=1) == 1


@pytest.fixture
def sample():
    random = np.random.default_rng(0)
    n = 400
    labels, identities = random.integers(0, 2, n), random.integers(0, 4, n)
    scores = np.round(labels + 0.4 * (identities == 2) + random.normal(size=n), 1) - 0.5
    return labels, scores, identities, random.integers(0, 50, n)


def test_aucs_are_scikit_learns(sample):
    labels, scores, identities, _ = sample
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    chosen = {
        subgroup_auc: lambda own, toxic: own,
        bpsn_auc: lambda own, toxic: (own & ~toxic) | (~own & toxic),
        bnsp_auc: lambda own, toxic: (own & toxic) | (~own & ~toxic),
    }
    for metric, rows in chosen.items():
        areas = [
            roc_auc_score(labels[own], scores[own])
            for term in range(4)
            if len(own := rows(identities == term, labels == 1).nonzero()[0])
        ]
        assert metric(labels, scores, identities) == pytest.approx(
            np.mean(np.array(areas) ** -5.0) ** -0.2
        )


def test_rates_are_fairlearns(sample):
    metrics = pytest.importorskip("fairlearn.metrics")
    labels, scores, identities, _ = sample
    predicted = (scores > 0).astype(int)
    given = {"y_true": labels, "y_pred": predicted}
    assert equalized_odds_gap(labels, predicted, identities) == pytest.approx(
        metrics.equalized_odds_difference(
            **given, sensitive_features=identities, method="between_groups"
        )
    )
    for metric, rate in ((fped, metrics.false_positive_rate), (fned, metrics.false_negative_rate)):
        frame = metrics.MetricFrame(metrics=rate, **given, sensitive_features=identities)
        assert metric(labels, predicted, identities) == pytest.approx(
            (frame.by_group - frame.overall).abs().sum()
        )
    groups = metrics.MetricFrame(
        metrics=lambda y_true, y_pred: (y_true == y_pred).mean(),
        **given,
        sensitive_features=2 * identities + labels,
    )
    assert worst_group_accuracy(labels, predicted, identities) == pytest.approx(groups.group_min())


def test_all_of_them_by_the_leaderboards_keys(sample):
    from benchmarks.report.families import DEBIASING

    values = fairness_metrics(*sample)
    assert {*values, "general_accuracy", "unbiased_accuracy"} == {
        key for key in DEBIASING.directions if not key.endswith("_before")
    }
    assert all(value >= 0 for value in values.values())
    assert values["fped"] == fped(sample[0], (sample[1] > 0).astype(int), sample[2])


def test_what_has_no_samples_is_left_out_and_nothing_is_none():
    assert fped([1, 1], [1, 0], list("ab")) is None
    assert fned([1, 1, 0], [1, 0, 0], list("abc")) == pytest.approx(1.0)
    assert worst_group_accuracy([], [], []) is None
    assert equalized_odds_gap([], [], []) is None
    assert subgroup_auc([1, 1, 0], [1, 2, 0], list("aab")) is None


@pytest.mark.parametrize("labels", [[0, 0], [1, 1], []])
def test_one_label_alone_has_no_area(labels):
    assert auc(labels, np.arange(len(labels))) is None


def test_a_power_mean_of_zero_is_zero_without_a_division():
    with np.errstate(all="raise"):
        assert power_mean([0, 1]) == 0
        assert power_mean([0.0, 0.0]) == 0
        assert power_mean([0, 1], power=-1) == 0
        assert power_mean([0, 4], power=0.5) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_have_no_place_in_an_order(bad):
    labels, scores, terms = [0, 1, 1, 0], [0.1, bad, 0.3, bad], ["a", "a", "b", "b"]
    for measure in (
        lambda: auc(labels, scores),
        lambda: subgroup_auc(labels, scores, terms),
        lambda: fairness_metrics(labels, scores, terms, [0, 0, 1, 1]),
    ):
        with pytest.raises(ValueError, match=r"scores must be finite; [12] of \d are not, the fir"):
            measure()


def test_a_text_counts_for_each_of_its_identities(sample):
    labels, scores, _, templates = sample
    random = np.random.default_rng(1)
    about = random.random((len(labels), 3)) < (0.5, 0.2, 0.4)
    terms = [tuple(np.array(list("abc"))[own]) for own in about]
    predicted = (scores > 0).astype(int)
    rates = {
        label: [(predicted != labels)[own & (labels == label)].mean() for own in about.T]
        for label in (0, 1)
    }
    for metric, label in ((fped, 0), (fned, 1)):
        overall = (predicted != labels)[labels == label].mean()
        assert metric(labels, predicted, terms) == pytest.approx(
            np.abs(overall - np.array(rates[label])).sum()
        )
    assert equalized_odds_gap(labels, predicted, terms) == pytest.approx(
        max(np.ptp(rates[0]), np.ptp(rates[1]))
    )
    assert worst_group_accuracy(labels, predicted, terms) == pytest.approx(
        1 - max(*rates[0], *rates[1])
    )
    areas = [
        roc_auc_score(labels[rows], scores[rows])
        for own in about.T
        for rows in ((own & (labels == 0)) | (~own & (labels == 1)),)
    ]
    assert bpsn_auc(labels, scores, terms) == pytest.approx(power_mean(areas))
    assert fairness_metrics(labels, scores, terms, templates) == fairness_metrics(
        labels, scores, [set(own) for own in terms], templates
    )


def test_names_alone_and_in_tuples_are_the_same(sample):
    labels, scores, identities, templates = sample
    names = [f"n{own}" for own in identities]
    tuples = [(name,) if i % 2 else name for i, name in enumerate(names)]
    assert fairness_metrics(labels, scores, names, templates) == fairness_metrics(
        labels, scores, tuples, templates
    )


@pytest.mark.parametrize("identities", [["a"] * 4, [("a",)] * 4, [()] * 4])
def test_one_identity_or_none_leaves_nothing_to_compare(identities):
    labels, scores = [0, 1, 0, 1], [1.0, 1.0, -1.0, -1.0]
    values = fairness_metrics(labels, scores, identities, list("wxyz"))
    compared = ("fped", "fned", "equalized_odds_gap", "flip_rate", "bpsn_auc", "bnsp_auc")
    assert [values[name] for name in compared] == [None] * 6
    assert values["worst_group_accuracy"] == (None if identities == [()] * 4 else 0.5)


def test_an_identity_is_compared_with_texts_about_nobody():
    labels, predicted, terms = [0, 0, 0, 0], [1, 0, 0, 0], [("a",), ("a",), (), ()]
    assert fped(labels, predicted, terms) == pytest.approx(0.25)
    assert equalized_odds_gap(labels, predicted, terms) is None


def test_a_label_that_one_identity_alone_has_is_no_gap():
    assert equalized_odds_gap([0, 0, 1], [1, 0, 0], list("aba")) == 1
    assert equalized_odds_gap([0, 1, 1], [0, 1, 0], list("aab")) == 1
    assert equalized_odds_gap([0, 1], [0, 1], list("ab")) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fped([0, 0, 1], [0, 1, 1], ["a", None, "b"]), "got NoneType and str; a text abou"),
        (lambda: fped([0, 0, 1], [0, 1, 1], [None] * 3), "identities must be texts, .* NoneType"),
        (lambda: fped([0, 0, 1], [0, 1, 1], ["a", ("a", "b"), 3]), "got Number and str"),
        (lambda: fned([0, 0, 1], [0, 1, 1], ["a", 0.5, "b"]), "got Number and str"),
        (lambda: fped([0, 0, 1], [0, 1, 1], ["a", "b"]), "got 3 labels, 3 predictions, 2 identiti"),
        (lambda: fped([0, 0], [0, 1, 1], ["a", "b"]), "got 2 labels, 3 predictions, 2 identities"),
        (lambda: bpsn_auc([0, 1], [0.1], ["a", "b"]), "got 2 labels, 1 scores, 2 identities"),
        (lambda: flip_rate([0, 1, 1], ["a", "a"]), "got 3 predictions, 2 templates"),
        (lambda: auc([0, 1, 1], [0.1, 0.2]), "got 3 labels, 2 scores"),
        (lambda: auc(["0", "1"], [0.1, 0.2]), "labels must be 0 or 1, got .*'0'.* at 0"),
        (lambda: auc([0, 2], [0.1, 0.2]), "labels must be 0 or 1, got .*2.* at 1"),
        (lambda: flip_rate([0.5, 1], ["a", "a"]), "predictions must be 0 or 1, got .*0.5.* at 0"),
        (lambda: fped([0, 1], [0, np.nan], ["a", "b"]), "predictions must be 0 or 1"),
    ],
)
def test_what_cannot_be_measured_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_identities_may_be_numbers_or_of_numpy():
    numbers = [0, np.int64(0), 1.0, True]
    assert fped([0] * 4, [1, 0, 0, 0], numbers) == fped([0] * 4, [1, 0, 0, 0], list("aabb"))
    assert fped([0] * 4, [1, 0, 0, 0], np.array(list("aabb"))) == pytest.approx(0.5)


def test_the_power_mean_at_zero_is_the_geometric_mean():
    assert power_mean([0.5, 0.6], 0) == pytest.approx((0.5 * 0.6) ** 0.5)
    assert power_mean([0.5, 0.6], 0) == pytest.approx(power_mean([0.5, 0.6], 1e-6), abs=1e-6)
    assert power_mean([0.0, 0.6], 0) == 0
