"""Chosen metrics of chosen rows, as a table."""

import pytest

from benchmarks.results import ROWS_FILE, append_row
from benchmarks.studies.choosing import chosen
from benchmarks.studies.columns import Shown, main, table
from benchmarks.studies.paired import agents_table
from benchmarks.suites.cells import SUITES

PARTS = ("reliability", "generalization", "locality", "harmonic_mean")


@pytest.fixture
def rows(make_row):
    """Five seeds of an editor at two lengths, and two seeds of another one."""

    def row(agent, seed, value, horizon=20, steps=25, **env):
        return make_row(
            agent,
            seed,
            env_kwargs={"task": "knowledge/factworld", "horizon": horizon, **env},
            agent_config={"steps": steps},
            settings={"steps": steps},
            # An early row names the metrics of other families too.
            metrics={**dict.fromkeys(PARTS, value), "retain_accuracy": None, "fped": None},
        )

    return [
        *(row("ft_l", seed, 0.5 + 0.01 * seed) for seed in range(5)),
        *(row("ft_l", seed, 0.3, horizon=100) for seed in range(5)),
        *(row("rome", seed, 0.7) for seed in range(2)),
        row("rome", 0, 0.9, rehearse=30),
    ]


def cells(text):
    return [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]


def test_agents_are_lines_and_the_best_comes_first(rows):
    found = chosen(rows, {"horizon": 20, "rehearse": None})
    lines = cells(table(found, [Shown.of("H=score"), Shown.of("locality%")]))
    assert [line[:2] for line in lines] == [["`rome`", "2"], ["`ft_l`", "5"]]
    # Fewer than five seeds have no interval.
    assert lines[0][2:] == ["0.700", "70.00"]
    assert lines[1][2].startswith("0.520 [0.5")
    assert lines[1][3].startswith("52.00 [5")


def test_arguments_of_the_environment_that_differ_are_told_or_have_columns(rows):
    shown = [Shown.of("reliability")]
    told = table(chosen(rows, {"agent": "ft_l"}), shown)
    assert "`ft_l`, horizon=20" in told
    assert "`ft_l`, horizon=100" in told
    lines = cells(table(chosen(rows, {"agent": "ft_l"}), shown, ["horizon"]))
    assert [line[:3] for line in lines] == [["20", "`ft_l`", "5"], ["100", "`ft_l`", "5"]]


def test_orders_of_one_stream_are_the_seeds_of_a_line(make_row):
    def row(agent, seed, value):
        env_kwargs = {"task": "knowledge/counterfact", "horizon": 100, "order": seed}
        metrics = dict.fromkeys(PARTS, value)
        return make_row(agent, seed, env_kwargs=env_kwargs, metrics=metrics, suite="smollm2")

    given = [row("ft_m", seed, 0.1 * seed) for seed in range(3)]
    given += [row("grace", seed, 0.1 * seed + 0.05) for seed in range(3)]
    assert [line[:2] for line in cells(table(given, [Shown.of("H=score")]))] == [
        ["`grace`", "3"],
        ["`ft_m`", "3"],
    ]
    (line,) = cells(agents_table(given, "ft_m", "grace"))
    assert line[2] == "3"
    assert float(line[4].split()[0]) == pytest.approx(0.05)


def test_a_list_means_any_of_its_members_and_null_that_there_is_none(rows):
    assert len(chosen(rows, {"seed": [0, 1], "horizon": 20})) == 5
    assert len(chosen(rows, {"rehearse": 30})) == 1
    assert len(chosen(rows, {"rehearse": None, "steps": 25})) == 12


def test_means_are_means(rows):
    found = chosen(rows, {"agent": "ft_l", "horizon": 20})
    shown = [Shown.of("reliability%")]
    assert cells(table(found, shown, mean=True))[0][2].startswith("52.00 [50.")
    found[0]["metrics"]["reliability"] = 0.0  # an interquartile mean hardly sees it
    assert cells(table(found, shown, mean=True))[0][2].startswith("42.00 [")
    assert cells(table(found, shown))[0][2].startswith("52.00 [")


def test_lines_are_set_against_one_of_them_seed_by_seed(rows, make_row):
    found = chosen(rows, {"agent": "ft_l", "horizon": 20})
    found += [
        make_row(
            "ft_m",
            seed,
            env_kwargs={"task": "knowledge/factworld", "horizon": 20},
            metrics=dict.fromkeys(PARTS, 0.3 + 0.01 * seed),
        )
        for seed in range(4)
    ]
    shown = [Shown.of("H=score"), Shown.of("locality")]
    text = table(found, shown, mean=True, against={"agent": "ft_l"})
    assert text.splitlines()[0].endswith("| locality | Δ H |")
    # Of the five seeds the four are compared that both have; fewer than five have no interval.
    assert [line[-1] for line in cells(text)] == ["—", "-0.200 (-0.200 to -0.200)"]
    text = table(found, shown, mean=True, against={"agent": "ft_m"})
    assert next(line[-1] for line in cells(text)) == "+0.200 (+0.200 to +0.200)"
    percent = table(found, [Shown.of("locality%")], mean=True, against={"agent": "ft_l"})
    assert cells(percent)[1][-1] == "-20.00 (-20.00 to -20.00)"
    for against in ({"horizon": 20}, {"agent": "rome"}):
        with pytest.raises(ValueError, match=r"--against: must say which line it is, and fits"):
            table(found, shown, against=against)


def test_from_five_seeds_on_a_difference_has_an_interval(rows, make_row):
    found = chosen(rows, {"agent": "ft_l", "horizon": 20})
    found += [
        make_row(
            "ft_m",
            seed,
            env_kwargs={"task": "knowledge/factworld", "horizon": 20},
            metrics=dict.fromkeys(PARTS, 0.4),
        )
        for seed in range(5)
    ]
    text = table(found, [Shown.of("H=score")], mean=True, against={"agent": "ft_l"})
    assert cells(text)[1][-1].startswith("-0.120 [-0.13")


def test_a_change_is_from_before_the_edit_and_lines_are_sorted_as_they_are_shown(unlearning_row):
    def group(agent, retained):
        return [
            unlearning_row(agent, seed, retain=value, forget=0.0)
            for seed, value in enumerate(retained)
        ]

    # The interquartile mean of the first is larger, the mean of the second.
    rows = [*group("one", (0.9, 0.9, 0.9, 0.1)), *group("two", (0.8, 0.8, 0.8, 0.8))]
    for row in rows:
        row["metrics"]["retain_accuracy_before"] = 1.0
    shown = [Shown.of("retain_accuracy%"), Shown.of("change=Δretain_accuracy%")]
    assert [line[0] for line in cells(table(rows, shown))] == ["`one`", "`two`"]
    lines = cells(table(rows, shown, mean=True))
    assert lines == [["`two`", "4", "80.00", "-20.00"], ["`one`", "4", "70.00", "-30.00"]]


def test_costs_stand_without_an_interval(rows):
    found = chosen(rows, {"agent": "ft_l", "horizon": 20})
    for row in found:
        row["time"]["train_s"], row["reward_calls"] = 12.4, 20_480
    shown = [Shown.of("reliability"), Shown.of("reward_calls"), Shown.of("s=train_s")]
    assert cells(table(found, shown))[0][3:] == ["20,480", "12"]


def test_lists_of_settings_are_told_by_how_many_they_hold_and_mappings_by_what(rows, make_row):
    def sited(sites, **inner):
        settings = {"sites": sites, "train": inner}
        return make_row(
            "ft_l",
            0,
            env_kwargs={"task": "knowledge/factworld"},
            agent_config=settings,
            settings=settings,
            metrics=dict.fromkeys(PARTS, 0.5),
        )

    rows = [sited(["layers.[12].a", "layers.[3].b"], depth=1, form="x"), sited(["c"], depth=2)]
    text = table(rows, [Shown.of("locality")])
    assert "`ft_l`, sites=2, train=(depth=1, form=x) |" in text
    assert "`ft_l`, sites=1, train=(depth=2) |" in text


def test_a_line_has_the_short_name_that_its_suite_gives_it(make_row):
    found, by_chance = [
        one for one in SUITES["smollm2"].entries[0].labelled if "look, sites" in one.label
    ]
    rows = [
        make_row(
            one.agent,
            0,
            suite="smollm2",
            env_kwargs={"task": "knowledge/counterfact", **one.along},
            agent_config=one.config,
            settings=one.config,
            metrics=dict.fromkeys(PARTS, score),
        )
        for one, score in ((found, 0.5), (by_chance, 0.4))
    ]
    first = [line[0] for line in cells(table(rows, [Shown.of("score")]))]
    assert first == [
        "`ultraedit`, one look, sites found by rewards",
        "`ultraedit`, one look, sites by chance",
    ]
    rows = [{**row, "suite": "elsewhere"} for row in rows]
    assert all("sites=5" in line[0] for line in cells(table(rows, [Shown.of("score")])))


def test_what_is_not_there_is_said(rows, tmp_path, capsys):
    for row in rows:
        append_row(tmp_path / ROWS_FILE, row)
    folder = str(tmp_path)
    assert main([folder, "--show", "reliability", "--where", "horizon=20"]) == 0
    assert "| `ft_l`" in capsys.readouterr().out
    assert main([folder, "--show", "reliabilty"]) == 2
    assert "no row has the metric reliabilty" in capsys.readouterr().err
    assert main([folder, "--show", "reliability", "--where", "horizon=7"]) == 2
    assert "no finished row is as --where says" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([folder, "--show", "reliability", "--where", "horizon"])
    assert "write NAME=VALUE, got 'horizon'" in capsys.readouterr().err


def test_rows_of_several_tasks_are_no_line(make_row):
    def row(task, seed, **env):
        return make_row("ppo", seed, env_kwargs={"task": task, **env}, metrics={"reliability": 1.0})

    shown = [Shown.of("reliability")]
    two = [row(task, 0) for task in ("unlearning/digits", "unlearning/mnist")]
    with pytest.raises(ValueError, match=r"--by: ppo has several rows of seed 0 .* in task: name"):
        table(two, shown)
    assert len(cells(table(two, shown, ["task"]))) == 2
    networks = [row("unlearning/digits", 0, model_seed=seed) for seed in (0, 1)]
    with pytest.raises(ValueError, match="which differ in the networks that they edit"):
        table(networks, shown)
