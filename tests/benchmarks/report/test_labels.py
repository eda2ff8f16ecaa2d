"""Which rows belong to one agent: the settings in full say so, names are of what was typed."""

import re

import pytest

from benchmarks.report.labels import (
    at_one_budget,
    by_label,
    fitting,
    short_name,
    shorter,
    told_apart,
)
from benchmarks.report.write import write_report
from benchmarks.results import ROWS_FILE, append_row
from benchmarks.suites.entry import Labelled


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


def test_arguments_that_go_along_with_agents_name_them_as_settings_do(make_row):
    common = {"env_kwargs": {"task": "knowledge/zsre", "horizon": 10}}
    rows = [
        make_row("ultraedit", seed, env_kwargs={**common["env_kwargs"], **own}, **settings)
        for seed in range(2)
        for own, settings in (
            ({"sites": ["a"]}, {"agent_config": {"passes": 1}, "settings": {"passes": 1}}),
            ({"sites": ["a"]}, {"agent_config": {}, "settings": {"passes": 6}}),
            (
                {"sites": ["a"], "rehearse": 30},
                {"agent_config": {}, "settings": {"passes": 6}},
            ),
        )
    ]
    along = {"sites", "rehearse"}
    assert {label: len(own) for label, own in by_label(rows, along=along).items()} == {
        "ultraedit (passes=1)": 2,
        "ultraedit": 2,
        "ultraedit (rehearse=30)": 2,
    }
    with_sites = [
        make_row("ft_l", 0, env_kwargs={"sites": [own]}, agent_config={}, settings={"site": None})
        for own in "ab"
    ]
    assert list(by_label(with_sites, along=along)) == ["ft_l (sites=['a'])", "ft_l (sites=['b'])"]


def test_the_short_name_is_of_all_arguments_that_go_along(make_row):
    labelled = [
        Labelled("ultraedit", "six looks", {}, {"sites": ["a"]}),
        Labelled("ultraedit", "rehearsed", {}, {"sites": ["a"], "rehearse": 30}),
    ]

    def named(agent="ultraedit", config=None, **env):
        return short_name([make_row(agent, 0, env_kwargs=env, agent_config=config or {})], labelled)

    assert named(sites=["a"], horizon=20) == "ultraedit (six looks)"
    assert named(sites=["a"], rehearse=30) == "ultraedit (rehearsed)"
    assert named(sites=["b"]) is None
    assert named(config={"passes": 2}, sites=["a"]) is None
    assert named("rome", sites=["a"]) is None
    assert short_name([], labelled) is None


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


def of_seed(make_row, status, agent="ppo", seed=0, **changes):
    return make_row(agent, seed, measured={"status": status, "error": "no"}, **changes)


@pytest.mark.parametrize(
    ("statuses", "kept"),
    [
        (("finished", "failed"), 0),
        (("failed", "finished"), 1),
        (("finished", "finished"), 1),
        (("failed", "failed"), 1),
        (("failed", "unsupported"), 1),
        (("unsupported", "failed"), 1),
        (("finished", "unsupported"), 0),
    ],
)
def test_of_a_seeds_rows_the_last_is_kept_a_finished_one_if_there_is_any(make_row, statuses, kept):
    rows = [of_seed(make_row, status) for status in statuses]
    (own,) = by_label(rows).values()
    assert own == [rows[kept]]
    assert own[0] is rows[kept]


def test_settings_that_are_null_are_not_in_a_name(make_row):
    rows = [
        make_row("rledit", 0, agent_config={"gate": gate}, settings={"gate": gate})
        for gate in (None, 0, False)
    ]
    assert list(by_label(rows)) == ["rledit", "rledit (gate=0)", "rledit (gate=False)"]


def test_a_budget_makes_a_difference_where_any_reward_is_asked_for(make_row):
    rows = [
        make_row("ppo", 0, reward_calls=10, measured={"reward_calls": 0}),
        make_row("ppo", 0, reward_calls=20, measured={"reward_calls": 20}),
    ]
    assert list(by_label(rows)) == ["ppo (reward_calls=10)", "ppo (reward_calls=20)"]
    assert list(by_label(rows, {"reward_calls"})) == ["ppo"]


def test_the_budget_that_most_rows_have_is_kept_agent_by_agent(make_row):
    rows = [
        make_row(agent, seed, reward_calls=calls)
        for agent, budgets in (("ppo", (10, 20, 20)), ("cmaes", (7, 7, 9)))
        for seed, calls in enumerate(budgets)
    ]
    assert at_one_budget(rows) == [rows[1], rows[2], rows[3], rows[4]]


def test_long_names_leave_out_lists_and_objects():
    assert shorter("ultraedit (sites=['a'])") == "ultraedit (sites=['a'])", "it is short"
    long = "edit_grpo (editor=ft_l, editor_config={'site': 'model.4', 'epsilon': 0.8})"
    assert shorter(long) == "edit_grpo (editor=ft_l, editor_config={…})"
    title = "ShiftWorld-v0 · debiasing/toxicity · limit=0.5 · sites=['fc2', 'fc3', 'fc4']"
    assert shorter(title) == "ShiftWorld-v0 · debiasing/toxicity · limit=0.5 · sites=[…]"
    globs = (
        "LifelongLLMEdit-v0 · horizon=20 · sites=['model.layers.[12].mlp', 'model.layers.[345]']"
    )
    assert shorter(globs) == "LifelongLLMEdit-v0 · horizon=20 · sites=[…]"
    glob = "LifelongLLMEdit-v0 · knowledge/zsre · site=model.layers.[12].mlp.down_proj"
    assert shorter(glob) == glob, "a pattern is no list"


def test_names_that_would_be_one_stay_in_full():
    assert told_apart({"a (x=[1, 2])": "a (x=[…])", "a (x=[3, 4])": "a (x=[…])", "b": "b"}) == {
        "a (x=[1, 2])": "a (x=[1, 2])",
        "a (x=[3, 4])": "a (x=[3, 4])",
        "b": "b",
    }


@pytest.mark.parametrize("longest", [8, 12, 24, 48])
def test_names_that_are_cut_stay_names_of_one(longest):
    sites = [f"ultraedit (sites=['layers.{a}', 'layers.{b}'])" for a in range(9) for b in range(9)]
    labels = ["one look", "one look, tuned", "one look, sites found by rewards"]
    names = ["ppo", "ppo (one)", *(f"ultraedit ({label})" for label in labels), *sites]
    short = fitting(names, longest)
    assert list(short) == names
    assert len(set(short.values())) == len(names)
    assert all(len(own) <= longest and own.startswith(name[:2]) for name, own in short.items())
    assert all(own == name for name, own in short.items() if len(name) <= longest)


def test_names_are_cut_where_they_are_alike():
    names = ["ultraedit (one look, sites found)", "ultraedit (one look, sites by chance)", "ppo"]
    assert list(fitting(names, 24).values()) == [
        "ultraedit (…sites found)",
        "ultraedit (…s by chance)",
        "ppo",
    ]
    assert fitting(names[:1], 24)[names[0]] == "ultraedit (one look, si…"


def test_settings_are_no_lines_and_no_columns_of_tables(make_row, tmp_path):
    """A text among settings, such as a prompt, may have lines; a stranger may put a table there."""
    forged = "x\n| 1 | best | reward | <script>\\|"
    for seed, config in enumerate(({"prompt": forged}, {"prompt": "y"})):
        metrics = {"retain_accuracy": 0.5, "forget_accuracy": 0.5, "a|b": 0.5}
        row = make_row("ppo", seed, metrics=metrics, agent_config=config, settings=config)
        append_row(tmp_path / ROWS_FILE, row)
    write_report(tmp_path)
    text = (tmp_path / "LEADERBOARD.md").read_text()
    assert r"ppo (prompt=x\\n\| 1 \| best \| reward \| \<script>\\\|)" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert not any(line.startswith("| 1 |") for line in tables)
    assert len({re.sub(r"\\.", "", line).count("|") for line in tables}) == 1
    assert "<script>" not in re.sub(r"\\.", "", text)


def test_values_that_are_printed_alike_are_shown_as_json(make_row):
    rows = [
        make_row("mine:A", 0, agent_config={"mode": mode}, settings={"mode": mode})
        for mode in (1, "1")
    ]
    assert list(by_label(rows)) == ["mine:A (mode=1)", 'mine:A (mode="1")']


def test_versions_of_a_strangers_module_are_lines_of_their_own(make_row):
    rows = [make_row("mine:A", seed) for seed in range(4)]
    for row, version in zip(rows, "aabb", strict=True):
        row["modules"] = {"mine": version * 64}
    assert {name: len(own) for name, own in by_label(rows).items()} == {
        "mine:A (SHA-256 of mine=aaaaaaaaaaaa)": 2,
        "mine:A (SHA-256 of mine=bbbbbbbbbbbb)": 2,
    }
    for row in rows:  # what every row names the commit of
        row |= {"agent": "agents.rl.general_editor:GeneralEditor"}
        row["modules"] = {"agents.rl.general_editor": row["modules"]["mine"]}
    assert len(by_label(rows)) == 1
