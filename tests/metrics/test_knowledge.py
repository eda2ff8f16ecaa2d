import json
from dataclasses import replace

import pytest

from benchmarks.report.families import KNOWLEDGE, parse
from editgym.metrics.knowledge import (
    Asked,
    EditRecord,
    knowledge_metrics,
    normalized,
    retention_curve,
)


def record(edit, answer="Oslo", now="Oslo", **changes):
    """A record of one edit, target Oslo, of which nothing else was asked unless `changes` say
    so."""
    fields = {
        "rephrases": (),
        "portability": (),
        "near": (),
        "far": (),
        "same_subject": (),
        "tf_efficacy": 1.0,
        "tf_generalization": None,
        "tf_specificity": None,
        "locality_kl": None,
        **changes,
    }
    return EditRecord(edit, edit // 2, "Ada", "Ada lives in", "Oslo", now, answer, **fields)


def asked(before, after, expected=None):
    return Asked("?", expected, before, after)


def metrics(*records, first_k=100):
    return knowledge_metrics(
        records, perplexity_ratio=1.25, capability=None, sites_per_edit=3.0, first_k=first_k
    )


def test_keys_are_the_leaderboards():
    for found in (metrics(record(0)), metrics()):
        own = [key for key in found if parse(key).scorer is None]
        assert own == list(KNOWLEDGE.directions)
        others = {parse(key) for key in found} - {parse(key) for key in own}
        assert {key.scorer for key in others} == {"squad", "contains", "prefix"}
        assert {key.metric for key in others} < set(KNOWLEDGE.directions)


def test_a_record_with_no_questions_has_no_metrics_of_questions():
    known = {
        key: value
        for key, value in metrics(record(0)).items()
        if value is not None and parse(key).scorer is None
    }
    assert known == {
        "reliability": 1,
        "reliability_now": 1,
        "forgetting": 0,
        "perplexity_ratio": 1.25,
        "tf_efficacy": 1,
        "first_k_reliability": 1,
        "sites_per_edit": 3,
    }


def test_no_records_have_no_metrics_but_those_of_the_model():
    known = {key: value for key, value in metrics().items() if value is not None}
    assert known == {"perplexity_ratio": 1.25, "sites_per_edit": 3}


def test_numbers_of_the_model_are_passed_on():
    passed = knowledge_metrics([], perplexity_ratio=None, capability=0.75, sites_per_edit=None)
    assert (passed["perplexity_ratio"], passed["capability"], passed["sites_per_edit"]) == (
        None,
        0.75,
        None,
    )


def test_reliability_now_and_at_the_end():
    found = metrics(
        record(0, "Rome", "oslo."),
        record(1, "OSLO"),
        record(2, "Rome", "Rome"),
        record(3, " Oslo "),
    )
    assert (found["reliability"], found["reliability_now"], found["forgetting"]) == (
        0.5,
        0.75,
        0.25,
    )


def test_a_skipped_request_counts():
    found = metrics(
        record(0), record(1, "Rome", "Rome", skipped="its subject is not in its prompt")
    )
    assert found["reliability"] == found["reliability_now"] == 0.5


def test_first_k_are_the_first_of_the_stream_whatever_their_order():
    records = [record(3), record(1, "Rome"), record(0), record(2, "Rome")]
    assert metrics(*records, first_k=1)["first_k_reliability"] == 1
    assert metrics(*records, first_k=3)["first_k_reliability"] == pytest.approx(1 / 3)
    assert metrics(*records, first_k=9)["first_k_reliability"] == 0.5
    with pytest.raises(ValueError, match="first_k must be 1 or more, got 0"):
        metrics(*records, first_k=0)


@pytest.mark.parametrize(
    ("key", "field"), [("generalization", "rephrases"), ("portability", "portability")]
)
def test_a_request_counts_once_however_many_questions_it_has(key, field):
    right, wrong = asked(None, "Oslo", "oslo"), asked(None, "Rome", "oslo")
    found = metrics(
        record(0, **{field: (right,)}),
        record(1, **{field: (wrong, wrong, wrong, right)}),
        record(2),
    )
    assert found[key] == (1 + 0.25) / 2


def test_questions_without_an_expected_answer_or_without_an_answer_are_left_out():
    found = metrics(
        record(0, portability=(asked("a", "b"), asked("a", None, "b"), asked(None, "b", "b")))
    )
    assert found["portability"] == 1


def test_locality_is_what_stayed_the_same_right_or_wrong():
    first = record(
        0, near=(asked("Rome", "rome"), asked("Rome", "Oslo")), far=(asked("7", "7", "8"),)
    )
    second = record(1, near=(asked("Rome", "Paris"),))
    found = metrics(first, second)
    assert found["locality_near"] == (0.5 + 0) / 2
    assert found["locality_far"] == 1
    assert found["locality"] == pytest.approx((2 / 3 + 0) / 2)


def test_locality_truth_is_of_what_was_known():
    near = (
        asked("Rome", "Rome", "rome"),
        asked("Rome", "Oslo", "Rome"),
        asked("Rome", "Rome", "Paris"),
    )
    assert metrics(record(0, near=near, far=(asked("7", "7"),)))["locality_truth"] == 0.5
    never_known = (asked("Rome", "Paris", "Paris"), asked(None, "Paris", "Paris"))
    assert metrics(record(0, near=never_known))["locality_truth"] is None
    requests = record(0, near=near[:1]), record(1, far=near[1:2]), record(2, far=never_known)
    assert metrics(*requests)["locality_truth"] == 0.5


def test_leakage_is_more_than_was_there_before():
    leaking, always, gone = (
        asked("a cat", "In Oslo, Norway"),
        asked("oslo", "Oslo"),
        asked("Oslo!", "a cat"),
    )
    assert metrics(record(0, same_subject=(leaking, always)))["leakage"] == 0.5
    assert (
        metrics(record(0, same_subject=(leaking,)), record(1, same_subject=(gone,)))["leakage"] == 0
    )
    assert (
        metrics(record(0, same_subject=(leaking, always)), record(1, same_subject=(always,)))[
            "leakage"
        ]
        == 0.25
    )
    assert metrics(record(0, same_subject=(asked(None, "Oslo"),)))["leakage"] is None


def test_numbers_of_the_records_are_averaged_where_they_are():
    found = metrics(
        record(0, tf_efficacy=0.5, tf_generalization=0.2, tf_specificity=0.4, locality_kl=2.0),
        record(1, tf_efficacy=0.25, tf_specificity=0.6),
    )
    assert (found["tf_efficacy"], found["tf_generalization"], found["locality_kl"]) == (
        0.375,
        0.2,
        2.0,
    )
    assert found["tf_specificity"] == pytest.approx(0.5)


def test_harmonic_mean():
    right, wrong = asked("a", "Oslo", "Oslo"), asked("Oslo", "Rome", "Oslo")
    kept = asked("Rome", "Rome")
    whole = record(0, rephrases=(right,), near=(kept,))
    half = record(1, "Rome", rephrases=(right,), near=(kept,))
    assert metrics(whole)["harmonic_mean"] == 1
    assert metrics(whole, half)["harmonic_mean"] == pytest.approx(3 / (1 / 0.5 + 1 + 1))
    assert metrics(record(0, rephrases=(wrong,), near=(kept,)))["harmonic_mean"] == 0
    assert metrics(record(0, rephrases=(right,)))["harmonic_mean"] is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  New\n York \t", "new york"),
        ("Oslo.", "oslo"),
        ("“Oslo”.", "oslo"),
        ('"Oslo."', "oslo"),
        ("'Oslo'...", "oslo"),
        ("\u00a0« Oslo »", "oslo"),
        ("Ｏｓｌｏ！", "oslo"),
        ("oslo…", "oslo"),
        ("東京。", "東京"),
        ("ﬁne", "fine"),
        ("e\u0301tage", "étage"),
        ("C++", "c++"),
        ("50 %", "50 %"),
        ("3.5", "3.5"),
        ("St. Paul", "st. paul"),
        ("", ""),
        ("?", "?"),
    ],
)
def test_normalized(text, expected):
    assert normalized(text) == expected
    assert normalized(normalized(text)) == expected


def test_retention_by_age_from_the_end():
    records = [record(2), record(0, "Rome"), record(3), record(1, "Rome")]
    assert retention_curve(records) == [[0, 1], [1, 1], [2, 0], [3, 0]]
    assert retention_curve(records, points=2) == [[0.5, 1], [2.5, 0]]
    assert retention_curve(records, points=1) == [[1.5, 0.5]]
    assert retention_curve([]) == []
    assert retention_curve([replace(one, overwritten_by=4) for one in records]) == []
    with pytest.raises(ValueError, match="points must be 1 or more, got 0"):
        retention_curve(records, points=0)


def test_retention_of_a_long_stream_has_twenty_points_whatever_was_forgotten():
    streams = [
        [record(i, "Rome" if i < forgotten else "Oslo") for i in range(205)]
        for forgotten in (0, 100)
    ]
    curves = [retention_curve(records) for records in streams]
    assert [age for age, _ in curves[0]] == [age for age, _ in curves[1]]
    assert len(curves[0]) == 20
    assert curves[0][0] == [5, 1]
    assert curves[1][-1] == [199.5, 0]


def test_age_counts_edits_whose_record_is_missing():
    assert retention_curve([record(0), record(5)]) == [[0, 1], [5, 1]]


def test_a_record_is_a_line_of_json():
    row = record(7, near=(asked("a", None, "b"),), skipped="no").to_json()
    assert json.loads(json.dumps(row, allow_nan=False)) == {
        "edit": 7,
        "step": 3,
        "subject": "Ada",
        "prompt": "Ada lives in",
        "target": "Oslo",
        "answer_now": "Oslo",
        "answer": "Oslo",
        "rephrases": [],
        "portability": [],
        "far": [],
        "same_subject": [],
        "tf_efficacy": 1.0,
        "near": [{"prompt": "?", "expected": "b", "before": "a", "after": None, "aliases": []}],
        "tf_generalization": None,
        "tf_specificity": None,
        "locality_kl": None,
        "skipped": "no",
        "aliases": [],
        "overwritten_by": None,
    }


def test_edits_that_a_later_one_overwrites_count_right_away_alone():
    gone = {"overwritten_by": 2, "rephrases": (asked(None, "Rome", "Oslo"),), "tf_efficacy": 0.0}
    gone |= {"far": (asked("a", "b"),), "locality_kl": 9.0}
    stays = {"rephrases": (asked(None, "Oslo", "Oslo"),), "far": (asked("a", "a"),)}
    found = metrics(
        record(0, answer="Rome", now="Rome", **gone), record(1, **stays), record(2, **stays)
    )
    assert found["reliability_now"] == found["reliability_now_squad"] == pytest.approx(2 / 3)
    ones = ["reliability", "generalization", "locality", "harmonic_mean", "tf_efficacy"]
    assert [found[name] for name in (*ones, "first_k_reliability")] == [1.0] * 6
    assert (found["forgetting"], found["locality_kl"]) == (0.0, None)
    curve = [record(0, answer="Rome", overwritten_by=2), record(1), record(2)]
    assert retention_curve(curve) == [[0.0, 1.0], [1.0, 1.0]]


def test_the_first_hundred_are_the_first_unless_asked():
    records = [record(edit, "Oslo" if edit < 99 else "Rome") for edit in range(101)]
    found = knowledge_metrics(records, perplexity_ratio=1.0, capability=1.0, sites_per_edit=1.0)
    assert found["first_k_reliability"] == 0.99


@pytest.mark.parametrize("known", ["before", "after"])
def test_leakage_needs_both_answers(known):
    question = Asked("?", None, **{"before": None, "after": None, known: "Oslo"})
    assert metrics(record(0, same_subject=(question,)))["leakage"] is None


def test_one_point_is_enough_for_a_curve_and_one_edit_for_first_k():
    assert retention_curve([record(0)], points=1) == [[0, 1]]
    assert metrics(record(0), record(1, "Rome"), first_k=1)["first_k_reliability"] == 1
