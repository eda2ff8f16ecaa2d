import io
import json
import os
import re
import sys
from pathlib import Path

import pytest

from benchmarks import leaderboard
from benchmarks.report.aggregate import group_rows, metric_value
from benchmarks.report.brief import brief
from benchmarks.report.estimates import BOOTSTRAP_SEED
from benchmarks.report.strata import Strata
from benchmarks.report.tables import duration, group_tables, number, slugs
from benchmarks.report.write import write_report
from benchmarks.results import ROWS_FILE, append_row, row_hash
from benchmarks.suites.cells import SUITES, cells, entries_of
from benchmarks.suites.worlds import ALL_UNLEARNING_AGENTS
from editgym.checks import as_json

WORLDS = ("MaskWorld-v0", "ShiftWorld-v0")


def write(folder, rows):
    for row in rows:
        append_row(folder / ROWS_FILE, row)


def standings(rows):
    (group,) = group_rows(rows)
    return {standing.agent: standing for standing in group.standings}


@pytest.fixture(scope="module")
def rows(unlearning_row, make_row):
    """Two worlds; a good, a middling and a failing agent, and one that does one of the worlds
    only."""
    rows = []
    for env_id in WORLDS:
        for seed in range(3):
            rows += [
                unlearning_row("ppo", seed, retain=0.93 + seed / 100, forget=0.0, env_id=env_id),
                unlearning_row("random", seed, retain=0.80 + seed / 100, forget=0.5, env_id=env_id),
                make_row(
                    "cmaes",
                    seed,
                    env_id=env_id,
                    measured={"status": "failed", "error": "ValueError: <b>a</b> | b", "time": {}},
                ),
            ]
    unsupported = {
        "status": "unsupported",
        "access": "oracle",
        "error": "no such network",
        "time": {},
    }
    return [
        *rows,
        unlearning_row("retrain", 0, retain=0.95, forget=0.0),
        make_row("retrain", 0, env_id=WORLDS[1], measured=unsupported),
    ]


@pytest.fixture(scope="module")
def report(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write(folder, rows)
    return write_report(folder)


@pytest.fixture(scope="module")
def text(report):
    """What `LEADERBOARD.md` says."""
    return (report.page.parent / "LEADERBOARD.md").read_text()


def test_files(report, text):
    folder = report.page.parent
    assert report.page.name == "index.html"
    assert report.failed == 6
    names = {file.name for file in (folder / "plots").iterdir()}
    world = "quick-maskworld-v0-unlearning-digits"
    assert {
        f"{world}-intervals.svg",
        f"{world}-trade-off.svg",
        "quick-all-unlearning-tasks-profile.svg",
    } <= names
    assert all(image in names for image in re.findall(r"\(plots/(.*?)\)", text))


def test_json_is_strict_and_complete(report):
    text = (report.page.parent / "leaderboard.json").read_text()
    board = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert board["bootstrap"]["seed"] == BOOTSTRAP_SEED
    assert [group["title"] for group in board["groups"]] == [
        "All unlearning tasks",
        *(f"{world} · unlearning/digits" for world in WORLDS),
    ]
    ppo = next(agent for agent in board["groups"][1]["agents"] if agent["agent"] == "ppo")
    assert (ppo["n"], ppo["provisional"], ppo["reward_calls"], ppo["rank"]) == (3, True, 100, None)
    estimate = ppo["metrics"]["retain_accuracy"]
    assert estimate["iqm"] == pytest.approx(0.94)
    assert (estimate["low"], estimate["high"]) == (None, None), "three seeds tell no interval"
    assert (estimate["n"], estimate["rank"]) == (3, None)
    assert len(board["failed"]) == 6


def test_markdown_tables_have_equal_rows(text):
    for block in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE):
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(columns) == 1
    assert "(provisional)" in text
    assert "How to read this" in text
    assert r"ValueError: \<b>a\</b> \| b" in text


def test_report_is_reproducible(report):
    def files():
        return {file: file.read_bytes() for file in report.page.parent.rglob("*") if file.is_file()}

    before = files()
    write_report(report.page.parent)
    assert files() == before


def test_an_interrupted_report_leaves_the_one_before(report, rows, monkeypatch, tmp_path):
    """The page comes last: it never shows figures that are not there."""
    write(tmp_path, rows)
    before = write_report(tmp_path).page.read_text()
    replace, done = os.replace, []

    def interrupted(source, target):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_report(tmp_path)
    assert (tmp_path / "index.html").read_text() == before
    assert {file.parent.name for file in map(Path, done)} == {"plots"}
    assert not list(tmp_path.rglob("*.partial"))


def test_without_rows_there_is_no_report(tmp_path):
    with pytest.raises(FileNotFoundError, match="run a suite"):
        write_report(tmp_path)


def test_only_failures_still_make_a_report(make_row, tmp_path):
    write(
        tmp_path, [make_row(measured={"status": "failed", "error": "ValueError: no", "time": {}})]
    )
    report = write_report(tmp_path)
    text = (tmp_path / "LEADERBOARD.md").read_text()
    assert "No cell of this table is finished yet" in text
    assert "ValueError: no" in text
    assert report.brief == "No cell is finished yet. Failed cells: 1; the page says why."


def test_score_is_a_harmonic_mean(unlearning_row, make_row):
    row = unlearning_row(retain=0.9, forget=0.0)  # drop 0.9
    assert metric_value(row, "harmonic_mean", "unlearning") == pytest.approx(0.9)
    assert metric_value(unlearning_row(retain=0.9, forget=0.95), "harmonic_mean", "unlearning") == 0
    assert metric_value(make_row(), "harmonic_mean", "unlearning") is None
    biased = make_row(metrics={"general_accuracy": 0.8, "unbiased_accuracy": 0.4})
    assert metric_value(biased, "harmonic_mean", "debiasing") == pytest.approx(2 * 0.8 * 0.4 / 1.2)
    assert (
        metric_value(make_row(metrics={"harmonic_mean": 0.3}), "harmonic_mean", "knowledge") == 0.3
    )


def test_pooled_group_has_all_strata_and_only_complete_agents(rows):
    pooled, *single = group_rows(rows)
    assert len(pooled.strata) == len(single) == 2
    assert {standing.agent for standing in pooled.standings} == {"ppo", "random"}
    assert set(pooled.left_out) == {"cmaes", "retrain"}
    assert pooled.standings[0].metrics["retain_accuracy"].iqm == pytest.approx(0.94)


def test_agents_of_a_whole_suite_are_pooled(unlearning_row):
    """Entries that compare few agents keep nobody out of the table over all tasks."""
    rows = [
        unlearning_row(
            cell.agent,
            cell.seed,
            cell.task,
            retain=0.9,
            forget=0.0,
            suite=cell.suite,
            env_id=cell.env_id,
            env_kwargs=cell.env_kwargs,
            agent_config=cell.agent_config,
            settings=cell.settings,
            reward_calls=cell.reward_calls,
        )
        for cell in cells(
            SUITES["worlds"], tasks=["unlearning/digits", "unlearning/mnist"], seeds=2
        )
    ]
    pooled = group_rows(rows, entries_of)[0]
    assert pooled.strata == tuple(
        f"{world} · unlearning/{data}" for data in ("digits", "mnist") for world in WORLDS
    )
    assert {standing.agent for standing in pooled.standings} == set(ALL_UNLEARNING_AGENTS)
    assert pooled.left_out == ("rledit",)


def test_agents_are_sorted_by_score_and_ranked_from_ten_seeds_on(unlearning_row, make_row):
    rows = [
        unlearning_row(name, seed, retain=retain + seed / 100, forget=0.0)
        for name, retain in (("ppo", 0.7), ("cmaes", 0.6))
        for seed in range(10)
    ]
    rows += [unlearning_row("random", seed, retain=0.85, forget=0.0) for seed in range(9)]
    rows.append(make_row("retrain", 0, measured={"status": "failed", "error": "no", "time": {}}))
    (group,) = group_rows(rows)
    assert [(standing.agent, standing.rank) for standing in group.standings] == [
        ("random", None),
        ("ppo", 1),
        ("cmaes", 2),
        ("retrain", None),
    ]
    table = brief([group], 0)
    assert re.search(r"— +random +9 +0\.\d+ \[", table)
    assert re.search(r"1 +ppo +10 +0\.\d+ \[", table)


def test_seeds_that_are_missing_are_counted_where_they_are_missing(unlearning_row, make_row):
    rows = [unlearning_row("ppo", seed, retain=0.9, forget=0.0) for seed in range(5)]
    rows.append(make_row("ppo", 5, measured={"status": "failed", "error": "no"}))
    ppo = standings(rows)["ppo"]
    assert (ppo.n, ppo.failed, ppo.provisional) == (5, 1, False)


def test_namesakes_of_another_budget_are_told_apart(unlearning_row):
    rows = [
        unlearning_row("ppo", seed, retain=0.9, forget=0.0, reward_calls=calls)
        for seed in range(2)
        for calls in (10, 20)
    ]
    assert set(standings(rows)) == {"ppo (reward_calls=10)", "ppo (reward_calls=20)"}


@pytest.mark.parametrize(
    ("forget", "steps", "probe", "shallow"),
    [
        (0.0, 5, 0.1, True),
        (0.0, 50, 0.1, False),
        (0.0, 50, 0.88, True),
        (0.8, 0, 0.9, False),
    ],
)
def test_shallow_forgetting_is_flagged(unlearning_row, forget, steps, probe, shallow):
    metrics = {"relearn_steps": steps, "probe_accuracy": probe, "probe_accuracy_before": 0.9}
    rows = [
        unlearning_row("ppo", seed, retain=0.9, forget=forget, metrics=metrics) for seed in range(2)
    ]
    assert standings(rows)["ppo"].shallow is shallow
    notes = " ".join(group_tables(group_rows(rows))[0].notes)
    assert ("looks forgotten" in notes) is shallow


def test_numbers_and_durations():
    assert [number(value) for value in (0.0, 0.5, 1e-5)] == ["0.000", "0.500", "1.0e-05"]
    assert [number(value) for value in (12.34, 1234.5)] == ["12.3", "1,234"]
    assert number(3.0, like=25.0) == "3.0"
    assert [number(value, like=1e-4) for value in (0.0, 8e-5, 1e-3)] == [
        "0.000",
        "8.0e-05",
        "1.0e-03",
    ]
    assert [number(value) for value in (9.3e-18, -9.3e-18)] == [
        "0.000",
        "0.000",
    ], "means of numbers that cancel"
    assert [duration(value) for value in (0.0123, 3.0, 600.0, 9000.0)] == [
        "12.3 ms",
        "3 s",
        "10 min",
        "2.5 h",
    ]


def test_a_row_of_another_budget_or_device_takes_nobody_out_of_the_pooled_table(unlearning_row):
    def row(agent, seed, world, **changes):
        return unlearning_row(
            agent, seed, retain=0.9 + seed / 100, forget=0.0, env_id=world, **changes
        )

    rows = [
        row(agent, seed, world, reward_calls=100)
        for world in WORLDS
        for agent in ("ppo", "cmaes")
        for seed in range(3)
    ]
    rows.append(row("ppo", 0, WORLDS[0], reward_calls=7))
    rows.append(
        row(
            "cmaes",
            0,
            WORLDS[0],
            reward_calls=100,
            env_kwargs={**rows[0]["env_kwargs"], "device": "cuda"},
        )
    )
    pooled, first, second = group_rows(rows)
    assert ({standing.agent: standing.n for standing in pooled.standings}, pooled.left_out) == (
        {"ppo": 3, "cmaes": 3},
        (),
    )
    assert {standing.agent for standing in second.standings} == {"ppo", "cmaes"}
    assert len(first.standings) == 4, "the table of one environment tells them apart"


def test_the_budget_of_an_agent_that_spends_none_is_not_in_its_name(unlearning_row):
    rows = [
        unlearning_row(
            "no_edit",
            seed,
            retain=0.9,
            forget=0.9,
            reward_calls=calls,
            measured={"reward_calls": 0},
        )
        for seed in range(3)
        for calls in (10, 20)
    ]
    ((name, standing),) = standings(rows).items()
    assert (name, standing.n) == ("no_edit", 3)


def test_figures_of_long_arguments_have_names_that_a_file_can_have(tmp_path):
    name = "Worlds: ShiftWorld-v0 / a"
    assert slugs([name]) == {name: "worlds-shiftworld-v0-a"}
    one, other = slugs(f"worlds {'x' * 300} {end}" for end in "ab").values()
    assert one != other
    for name in (one, other):
        (tmp_path / f"{name}-intervals.svg.12345.partial").touch()


def test_figures_of_titles_that_differ_in_a_sign_are_files_of_their_own():
    names = slugs(["deep alpha=1", "deep alpha=-1", "deep alpha=2"])
    assert len(set(names.values())) == 3
    assert names["deep alpha=2"] == "deep-alpha-2"


@pytest.mark.parametrize("suite", sorted(SUITES))
def test_rows_of_a_suite_are_in_the_strata_of_its_entries(suite, make_row):
    """Or what a suite does not pool would be pooled, and would lose its short names."""
    entries = SUITES[suite].entries
    division = Strata(entries)
    for entry in entries:
        seeded = {} if entry.seed_kwarg is None else {entry.seed_kwarg: 3}
        for name, config, along in entry.chosen(None):
            kwargs = {"task": entry.task, **seeded, "device": "cpu", **entry.env_kwargs, **along}
            row = make_row(
                name, 3, env_id=entry.env_id, agent_config=dict(config), env_kwargs=as_json(kwargs)
            )
            assert division.of(row) == division.of_entry(entry)


def test_a_network_that_was_typed_has_a_table_of_its_own(unlearning_row):
    """`--set unlearning/digits.model_seed=0` gives every seed one network."""
    seeded = [unlearning_row("random", seed, retain=0.5, forget=0.5) for seed in range(5)]
    typed = [
        unlearning_row(
            "random",
            seed,
            retain=0.95,
            forget=0.1,
            env_kwargs={"task": "unlearning/digits", "model_seed": 0, "device": "cpu"},
        )
        for seed in range(1, 5)
    ]
    titles = {group.title: group.standings[0].n for group in group_rows([*seeded, *typed])}
    own = "MaskWorld-v0 · unlearning/digits"
    assert titles.items() >= {own: 5, f"{own} · model_seed=0": 4}.items()


def test_a_row_without_what_later_versions_added_is_reported(tmp_path, unlearning_row):
    row = unlearning_row("ppo", 0, retain=0.9, forget=0.1)
    row = {key: value for key, value in row.items() if key not in ("git", "peak_memory_bytes")}
    write(tmp_path, [{**row, "row_sha256": row_hash(row)}])
    assert write_report(tmp_path).page.is_file()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "500 ms"), (0.9996, "1 s"), (7300, "2.03 h"), (3.6e6, "1,000 h")]
)
def test_durations_have_a_unit_that_suits_them(seconds, text):
    assert duration(seconds) == text


def test_a_terminal_without_arrows_is_told_all_the_same(tmp_path, unlearning_row, monkeypatch):
    write(tmp_path, [unlearning_row("ppo", 0, retain=0.9, forget=0.1)])
    printed = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, encoding="latin-1"))
    assert leaderboard.main(["report", str(tmp_path)]) == 0
    sys.stdout.flush()
    assert "retain accuracy \\u2191" in printed.getvalue().decode("latin-1")


def test_a_report_imports_what_names_metrics_and_nothing_that_is_mentioned(
    tmp_path, monkeypatch, make_row
):
    for name in ("own_suite", "own_task", "own_env", "own_agent", "mentioned"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / name)!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    arguments = {"task": "own_task:build", "x": {"y": ["mentioned:a"]}, "device": "cpu"}
    row = make_row(
        "own_agent:Agent",
        metrics={"speed": 1.0},
        suite="own_suite:SUITE",
        env_id="own_env:Mine-v0",
        env_kwargs=arguments,
        settings={"reward": "mentioned:b"},
    )
    append_row(tmp_path / ROWS_FILE, row)
    write_report(tmp_path)
    ran = {name for name in ("own_suite", "own_task", "own_env") if (tmp_path / name).exists()}
    assert ran == {"own_suite", "own_task", "own_env"}
    assert not any((tmp_path / name).exists() for name in ("own_agent", "mentioned"))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("[first](https://x.org)", r"\[first\](https\://x.org)"),
        ("![](HTTPS://x.org/a.png)", r"!\[\](HTTPS\://x.org/a.png)"),
        ("www.x.org", r"www\.x.org"),
        ("**best** `x` _y_ a_b ~z~", r"\*\*best\*\* \`x\` \_y\_ a_b \~z\~"),
        ("# best", r"\# best"),
        ("<b>", r"\<b>"),
    ],
)
def test_names_of_strangers_mean_nothing_in_markdown(tmp_path, unlearning_row, name, shown):
    for seed in range(5):
        append_row(tmp_path / ROWS_FILE, unlearning_row(name, seed, retain=0.9, forget=0.1))
    write_report(tmp_path)
    text = (tmp_path / "LEADERBOARD.md").read_text()
    assert f"| — | {shown} | reward |" in text
    assert "0.900 [0.900, 0.900]" in text
