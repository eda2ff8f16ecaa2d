"""Which rows belong to one agent: the settings in full say so, names are of what was typed."""

from benchmarks.report.labels import at_one_budget, by_label


def test_what_is_typed_and_what_is_tuned_is_one_agent(make_row):
    rows = [
        make_row("ft_l", 0, agent_config={"epsilon": 0.8}, settings={"epsilon": 0.8, "steps": 25}),
        make_row("ft_l", 1, agent_config={}, settings={"epsilon": 0.8, "steps": 25}),
    ]
    assert {label: len(own) for label, own in by_label(rows).items()} == {"ft_l": 2}
    assert at_one_budget(rows) == rows


def test_variants_are_named_by_what_was_typed(make_row):
    rows = [
        make_row("rledit", 0, agent_config={}, settings={"passes": 1, "sequences": 20}),
        make_row("rledit", 0, agent_config={"passes": 3}, settings={"passes": 3, "sequences": 12}),
    ]
    assert list(by_label(rows)) == ["rledit", "rledit (passes=3)"]


def test_a_default_that_changed_tells_old_rows_from_new_ones(make_row):
    rows = [
        make_row("ft_l", seed, agent_config={}, settings={"epsilon": epsilon, "steps": 25})
        for seed in range(2)
        for epsilon in (0.5, 0.8)
    ]
    assert {label: len(own) for label, own in by_label(rows).items()} == {
        "ft_l (epsilon=0.5)": 2,
        "ft_l (epsilon=0.8)": 2,
    }
