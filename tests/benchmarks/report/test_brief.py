"""What a terminal shows: tables of six columns within its width, each with a sentence that says no
more than the seeds allow."""

import re
from dataclasses import replace

import pytest

from benchmarks import leaderboard
from benchmarks.harness import runner
from benchmarks.report.aggregate import group_rows
from benchmarks.report.brief import WIDTH, brief, conclusion
from benchmarks.report.families import FAMILIES, Family
from benchmarks.results import ROWS_FILE, append_row
from benchmarks.suites.entry import Entry, Labelled

LAYERS = [f"model.layers.{i}.mlp.gate_proj" for i in range(9)]


def table(*rows, failed=0):
    """Title, head, lines and conclusion of the only table."""
    reading, text = brief(group_rows(rows), failed).split("\n\n")
    assert "95% interval" in reading
    title, head, *others = text.split("\n")
    lines = [line for line in others if line.startswith(("   ", "  —", "   —"))]
    return title, re.split("  +", head.strip()), lines, " ".join(others[len(lines) :])


@pytest.fixture
def agents(unlearning_row):
    """Rows of agents by their retain accuracy, with as much noise as a hundredth."""

    def made(seeds, **retained):
        access = {"retrain": "oracle"}
        return [
            unlearning_row(
                name,
                seed,
                retain=retain + (seed * 7 % 5) / 500 + len(name) * (seed % 3) / 1000,
                forget=0.0,
                measured={"access": access.get(name, "reward")},
            )
            for name, retain in retained.items()
            for seed in range(seeds)
        ]

    return made


def test_a_table_has_the_score_and_both_sides_of_the_trade_off(agents, make_row):
    title, head, lines, _ = table(*agents(10, ppo=0.9, random=0.5))
    assert title == "MaskWorld-v0 · unlearning/digits"
    assert head == [
        "rank",
        "agent",
        "n",
        "harmonic mean ↑",
        "retain accuracy ↑",
        "forget accuracy ↓",
    ]
    assert re.fullmatch(r" +1  ppo +10  0\.\d{3} \[0\.\d{3}, 0\.\d{3}\] +0\.90\d +0\.000", lines[0])
    assert re.match(r" +2  random +10 ", lines[1])
    knowledge = {"reliability": 0.9, "generalization": 0.8, "locality": 0.7, "harmonic_mean": 0.79}
    _, head, lines, _ = table(make_row(metrics=knowledge, env_id="LifelongLLMEdit-v1"))
    assert head[3:] == ["harmonic mean ↑", "reliability ↑", "locality ↑"]
    assert lines[0].split() == ["—", "random", "1", "0.790", "0.900", "0.700"]


def test_agents_that_do_not_do_a_task_are_said_with_the_reason(make_row):
    cannot = {"status": "unsupported", "error": "it edits streams of facts", "time": {}}
    rows = [
        make_row("ft_m", measured=cannot, metrics={}, env_id=env_id)
        for env_id in ("MaskWorld-v0", "ShiftWorld-v0")
    ]
    head, said = brief(group_rows(rows), 0).split("\n\n")
    assert head == "No cell is finished yet."
    titles = [group.title for group in group_rows(rows)]
    assert " ".join(said.split()) == (
        f"ft_m does not do {titles[0]}, {titles[1]}: it edits streams of facts"
    )


def test_metrics_of_no_family_are_shown_as_they_are(make_row):
    _, head, lines, said = table(make_row(metrics={f"own_{name}": 0.5 for name in "abcd"}))
    assert head == ["rank", "agent", "n", "own a", "own b", "own c"]
    assert lines[0].split() == ["—", "random", "1", "0.500", "0.500", "0.500"]
    assert said == "No family of metrics says what is best here: the page has all metrics."


@pytest.mark.parametrize(
    ("seeds", "retained", "said"),
    [
        (
            10,
            {"ppo": 0.9, "cmaes": 0.5, "random": 0.4},
            r"ppo has the highest harmonic mean, 0\.9\d\d \[0\.\d+, 0\.\d+\], and is significantly"
            r" better than 2 of 2 other agents\.",
        ),
        (
            10,
            {"ppo": 0.5, "sac": 0.5},
            r"ppo .*\] \(another reaches it\), and is .* than 0 of 1 other .*",
        ),
        (
            10,
            {"retrain": 0.9, "ppo": 0.8},
            r"retrain has .* than 1 of 1 other agents; of those that see rewards alone ppo has it,"
            r" 0\.8\d\d \[.*\]\.",
        ),
        (
            5,
            {"ppo": 0.9, "random": 0.5},
            r".*\]; with fewer than 10 seeds nobody is called better\.",
        ),
        (
            3,
            {"ppo": 0.9, "random": 0.5},
            r".*mean, 0\.\d+; 3 seeds are too few to call .* better\.",
        ),
        (1, {"ppo": 0.9, "random": 0.5}, r".*mean, 0\.\d+; 1 seed is too few to call .* better\."),
        (
            3,
            {"ppo": 0.9, "sac": 0.9, "td3": 0.9},
            r"ppo has .*, 0\.\d+ \(2 others reach it\); 3 .*",
        ),
        (
            3,
            {"ppo": 0.9, "no_edit": 0.9, "random": 0.4},
            r"No agent has a harmonic mean above that of no_edit, 0\.\d+\.",
        ),
        (3, {"no_edit": 0.9, "ppo": 0.8}, r"No agent has a .* above that of no_edit, 0\.\d+\."),
        (3, {"ppo": 0.9}, r"ppo has the highest harmonic mean, 0\.\d+: no other agent has one\."),
    ],
)
def test_the_conclusion_says_what_may_be_said(agents, seeds, retained, said):
    rows = agents(seeds, **retained)
    (group,) = group_rows(rows)
    assert re.fullmatch(said, conclusion(group))
    assert conclusion(group).count(". ") == 0, "one sentence"


def test_without_a_score_nobody_is_first(make_row):
    (group,) = group_rows([make_row(metrics={"retain_accuracy": 0.9})])
    assert conclusion(group) == "No agent has a score yet."


def test_nothing_is_wider_than_a_terminal(unlearning_row, make_row, monkeypatch):
    wide = {"size": 5e9, "another_" * 5: 1.0, "a_third_" * 5: 1.0}
    monkeypatch.setitem(
        FAMILIES,
        "wide",
        Family(
            "wide", dict.fromkeys(wide, "higher"), lambda m: m.get("size"), "size", tuple(wide)[:2]
        ),
    )
    rows = [
        *(
            unlearning_row(
                "stranger.package.with_a_long_name:AgentWithALongName",
                seed,
                retain=0.9,
                forget=0.0,
                agent_config={"sites": LAYERS[:count]},
                env_kwargs={"task": "unlearning/custom", "device": "cpu", "sites": LAYERS},
            )
            for seed in range(10)
            for count in (1, 2)
        ),
        *(
            make_row("a" * 90, seed, metrics={**wide, "size": 5e9 + seed * 1e9}, env_id="W-v0")
            for seed in range(5)
        ),
    ]
    text = brief(group_rows(rows), failed=12_345)
    assert max(map(len, text.split("\n"))) <= WIDTH == 100
    assert "Failed cells: 12345; the page says why." in " ".join(text.split())
    assert "a" * 15 + "…" in text
    assert text.count("5,000,000,000") == 0, "the mean of the middle seeds is another"
    assert "7,000,000,000 [" in text


def test_report_and_run_end_in_a_sentence_and_the_page(agents, tmp_path, capsys):
    for row in agents(3, ppo=0.9, random=0.5):
        append_row(tmp_path / ROWS_FILE, row)
    assert leaderboard.main(["report", str(tmp_path)]) == 0
    *_, said, empty, page = capsys.readouterr().out.rstrip("\n").split("\n")
    assert said.endswith("3 seeds are too few to call anybody better.")
    assert (empty, page) == ("", str((tmp_path / "index.html").resolve()))


def test_the_line_that_tells_how_far_a_run_is_fits_and_shows_the_last_score(
    tmp_path, unlearning_row, make_cell, monkeypatch, capsys
):
    monkeypatch.setattr(
        runner,
        "run_cell",
        lambda cell, *_: runner.Outcome(
            unlearning_row(cell.agent, cell.seed, retain=0.9, forget=0.0)
        ),
    )
    for name in ("ppo", "an.agent.of_a_stranger:" + "WithALongName" * 9):
        runner.run_cells([make_cell(name)], tmp_path)
        shown = re.split(r"[\r\n]", capsys.readouterr().err)
        assert max(map(len, shown)) <= 100
        assert any("1/1" in line and ", 0.900 MaskWorld-v0 · unlearning" in line for line in shown)


def test_where_nobody_reaches_anything_nobody_is_named(unlearning_row):
    rows = [
        unlearning_row(name, seed, retain=0.9, forget=1.0)
        for name in ("no_edit", "mine")
        for seed in range(3)
    ]
    (group,) = group_rows(rows)
    assert conclusion(group) == "No agent has a harmonic mean above 0."


def test_a_suites_short_title_is_the_heading(unlearning_row):
    (group,) = group_rows([unlearning_row("ppo", 0, retain=0.9, forget=0.0)])
    named = replace(group, label="digits, in short")
    assert "\ndigits, in short\n" in f"\n{brief([named], 0)}"


def test_configurations_are_called_as_the_suite_calls_them_and_told_apart(make_row):
    """Configurations that differ at the end of a long setting alone have lines of their own."""
    metrics = {"reliability": 0.9, "generalization": 0.8, "locality": 0.7, "harmonic_mean": 0.79}
    env = {"env_id": "LifelongLLMEdit-v1", "metrics": metrics}
    own = [{"sites": [*LAYERS, last]} for last in ("q", "k", "v")]
    rows = [
        make_row("ultraedit", seed, agent_config=own[seed], settings=own[seed], **env)
        for seed in range(3)
    ]
    entry = Entry(
        "LifelongLLMEdit-v1", rows[0]["task"], (Labelled("ultraedit", "by hand", own[0]),)
    )
    _, text = brief(group_rows(rows, lambda suite: (entry,)), 0).split("\n\n")
    names = [re.split("  +", line.strip())[1] for line in text.split("\n")[2:5]]
    assert "ultraedit (by hand)" in names
    assert len(set(names)) == 3
