"""The table of metrics that the command line prints."""

from agents.report import before_after


def test_metrics_without_a_value_are_not_shown():
    shown = before_after({"a": None, "b": 0.5, "c_before": 0.25, "c": None, "d_before": None})
    assert [line.split() for line in shown.split("\n")[1:]] == [["b", "0.5000"], ["c", "0.2500"]]


def test_there_is_no_column_of_before_where_nothing_was_measured_then():
    shown = before_after({"a": 1.0, "b": 0.5, "b_before": None})
    assert [line.split() for line in shown.split("\n")] == [
        ["after"],
        ["a", "1.0000"],
        ["b", "0.5000"],
    ]


def test_a_long_name_widens_the_column():
    long = "few_image_relearning_recovered"
    lines = before_after({"a": 1.0, "a_before": 0.5, long: 0.25}).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2] == f"{long} {'':10}    0.2500"


def test_another_scorer_is_heard_where_it_says_something_else():
    shown = before_after(
        {
            "reliability": 0.5,
            "reliability_exact": 0.5,
            "reliability_prefix": 0.75,
            "reliability@chat": 0.25,
            "reliability_exact@chat": 0.25,
            "worst_exact": 0.5,
        }
    )
    assert [line.split()[0] for line in shown.split("\n")[1:]] == [
        "reliability",
        "reliability_prefix",
        "reliability@chat",
        "worst_exact",
    ]
