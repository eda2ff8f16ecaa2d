"""What lines open to, the commands that run them again, and the page that holds all of it."""

import json
import re

import pytest

from benchmarks.report.aggregate import group_rows
from benchmarks.report.commands import command
from benchmarks.report.details import details
from benchmarks.report.page import in_script
from benchmarks.report.write import write_report
from benchmarks.results import ROWS_FILE, append_row
from benchmarks.suites.entry import Entry, Labelled, Suite

ENTRY = Entry(
    "MaskWorld-v0",
    "unlearning/digits",
    (
        "random",
        Labelled("ppo", "long", {"rollout": 256}),
        Labelled("ppo", "wide", {"rollout": 64}, {"rank": 8}),
        ("cmaes", {}, {"rank": 8}),
    ),
    env_kwargs={"forget_class": [2, 5]},
    title="two classes",
)


def row_of(unlearning_row, agent, config=None, seed=0, **arguments):
    env_kwargs = {
        "task": "unlearning/digits",
        "model_seed": seed,
        "device": "cpu",
        "forget_class": [2, 5],
    }
    return unlearning_row(
        agent,
        seed,
        retain=0.9,
        forget=0.1 + seed / 100,
        agent_config=config or {},
        settings={"steps": 3, **(config or {})},
        env_kwargs={**env_kwargs, **arguments},
    )


def entries_of(suite):
    return (ENTRY,)


# --- short names ----------------------------------------------------------------------------------


def test_suites_give_short_names_to_configurations_and_titles_to_entries(unlearning_row):
    rows = [
        row_of(unlearning_row, "ppo", {"rollout": 256}, rank=None),
        row_of(unlearning_row, "ppo", {"rollout": 64}, rank=8),
        row_of(unlearning_row, "ppo", {"rollout": 7}, rank=None),
        row_of(unlearning_row, "random", rank=None),
    ]
    (group,) = group_rows(rows, entries_of)
    assert group.title == "MaskWorld-v0 · unlearning/digits · forget_class=[2, 5]"
    assert group.label == "MaskWorld-v0 · unlearning/digits · two classes"
    assert {standing.agent: standing.label for standing in group.standings} == {
        "ppo (rollout=256)": "ppo (long)",
        "ppo (rank=8, rollout=64)": "ppo (wide)",
        "ppo (rollout=7)": "ppo (rollout=7)",
        "random": "random",
    }


def test_without_a_suite_names_are_in_full(unlearning_row):
    (group,) = group_rows([row_of(unlearning_row, "ppo", {"rollout": 256})])
    assert group.label == group.title
    assert [standing.label for standing in group.standings] == ["ppo"]


def test_two_agents_never_share_a_short_name(unlearning_row):
    twice = Entry(
        ENTRY.env_id,
        ENTRY.task,
        (Labelled("ppo", "one", {"rollout": 1}), Labelled("ppo", "one", {"rollout": 2})),
        env_kwargs=ENTRY.env_kwargs,
    )
    rows = [row_of(unlearning_row, "ppo", {"rollout": number}) for number in (1, 2)]
    (group,) = group_rows(rows, lambda suite: (twice,))
    assert {standing.label for standing in group.standings} == {
        "ppo (rollout=1)",
        "ppo (rollout=2)",
    }


def test_a_labelled_agent_is_run_as_any(unlearning_row):
    from benchmarks.suites.cells import cells

    (cell,) = cells(Suite("toy", 1, (ENTRY,)), agents=["cmaes"])
    assert (cell.agent_config, cell.env_kwargs["rank"]) == ({}, 8)
    assert ENTRY.chosen(["ppo"]) == [
        ("ppo", {"rollout": 256}, {}),
        ("ppo", {"rollout": 64}, {"rank": 8}),
    ]


# --- commands -------------------------------------------------------------------------------------


def test_a_command_names_what_the_suite_does_not_have(unlearning_row):
    rows = [row_of(unlearning_row, "ppo", {"rollout": 7, "text": "a b"}, seed) for seed in range(3)]
    plain = (
        "python -m benchmarks.leaderboard run --suite quick --tasks unlearning/digits"
        " --envs MaskWorld-v0 --agents ppo --seeds 3"
    )
    assert command(rows, ()) == plain, "nothing is known of the suite"
    assert command(rows, (ENTRY,)) == f"{plain} --set ppo.rollout=7 --set 'ppo.text=\"a b\"'"
    own = [row_of(unlearning_row, "ppo", {"rollout": 256}, seed) for seed in range(3)]
    assert command(own, (ENTRY,)) == plain
    more = [row_of(unlearning_row, "random", seed=2, batch_size=64, device="cuda")]
    assert command(more, (ENTRY,)) == (
        plain.replace("ppo", "random") + " --device cuda --set unlearning/digits.batch_size=64"
    )


def test_a_command_names_what_was_typed_for_a_task_that_the_suite_does_not_have(unlearning_row):
    own = {"task": "unlearning/custom", "data": "mine.npz"}
    row = row_of(unlearning_row, "ppo", {"rollout": 7}, 0, **own)
    typed = command([row], (ENTRY,)).split(" --seeds 1 ")[1]
    assert typed == "--set ppo.rollout=7 --set 'unlearning/custom.data=\"mine.npz\"'"


# --- details --------------------------------------------------------------------------------------


def test_runs_share_texts_and_settings_are_told_by_seed_where_they_differ(unlearning_row, tmp_path):
    rows = [row_of(unlearning_row, "random", seed=seed) for seed in range(3)]
    found = details(group_rows(rows, entries_of), entries_of, tmp_path)
    ((line,),) = found["lines"]
    assert [run[0] for run in line["runs"]] == [0, 1, 2]
    assert [run[2] for run in line["runs"]] == [row["cell"] for row in rows]
    assert [run[3:5] for run in line["runs"]] == [[None, None]] * 3
    assert line["keys"][0] == "harmonic_mean"
    forget = line["keys"].index("forget_accuracy")
    assert [run[6][forget] for run in line["runs"]] == [0.1, 0.11, 0.12]
    ((_, place),) = line["settings"]
    settings = json.loads(found["texts"][place])
    assert settings["agent"] == {"steps": 3}
    assert settings["environment"]["model_seed"] == {"0": 0, "1": 1, "2": 2}
    assert settings["environment"]["forget_class"] == [2, 5]
    assert len(found["texts"]) == 3, "one stratum, one machine, one set of settings"


def test_the_first_edits_of_the_first_run_are_in_the_page_as_long_as_there_is_room(
    make_row, tmp_path, monkeypatch
):
    rows = [make_row("rledit", seed, metrics={"reliability": 1.0}) for seed in range(2)]
    (tmp_path / "records").mkdir()
    records = [
        {"edit": i, "prompt": "Who?", "target": "b", "answer_now": None, "answer": "c"}
        for i in range(30)
    ]
    for row in rows:
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / f"records/{row['cell']}.jsonl").write_text(lines)
    found = details(group_rows(rows), lambda suite: (), tmp_path)
    assert list(found["edits"]) == [rows[0]["cell"]]
    (edits,) = found["edits"].values()
    assert len(edits) == 20
    assert edits[4] == [4, "Who?", "b", None, "c", None]
    assert found["lines"][0][0]["runs"][1][4] == f"records/{rows[1]['cell']}.jsonl"
    monkeypatch.setattr("benchmarks.report.details._ROOM", 200)
    (edits,) = details(group_rows(rows), lambda suite: (), tmp_path)["edits"].values()
    assert 0 < len(edits) < 20
    assert len(json.dumps(edits)) <= 200


# --- the page -------------------------------------------------------------------------------------


@pytest.fixture
def page(unlearning_row, make_row, tmp_path):
    rows = [row_of(unlearning_row, "random", seed=seed) for seed in range(3)]
    rows.append(
        make_row("cmaes", measured={"status": "failed", "error": "<b>a</b> </script>", "time": {}})
    )
    for row in rows:
        append_row(tmp_path / ROWS_FILE, row)
    return write_report(tmp_path).page.read_text()


def block(page, name):
    """The JSON of one of the page's blocks of data."""
    (text,) = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', page)
    return json.loads(text)


def test_page_loads_nothing(page):
    own = re.sub(r'<script type="application/json".*?</script>', "", page)
    loads = re.findall(r"""(?:src|href)=["']([^"']*)|url\(([^)]*)\)|(@import)""", own)
    assert loads
    assert all(target.startswith(("data:", "#")) for target, _, _ in loads), loads
    for word in ("http://", "https://", "fetch(", "XMLHttpRequest", "import("):
        assert word not in page


def test_page_shows_failures_and_escapes_them(page):
    assert "Failed cells (1)" in page
    assert "&lt;b&gt;a&lt;/b&gt; &lt;/script&gt;" in page
    assert "<b>a</b>" not in page


def test_data_cannot_end_their_block():
    text = in_script({"</script><!--": "a<b"})
    assert "<" not in text
    assert json.loads(text) == {"</script><!--": "a<b"}


def test_page_holds_tables_with_six_columns_first(page):
    first, other = block(page, "data-tables")
    assert first["title"] == "MaskWorld-v0 · unlearning/digits · forget_class=[2, 5]"
    assert first["first"] == [
        *("agent", "access", "n", "harmonic_mean", "retain_accuracy", "forget_accuracy"),
    ]
    columns = {column["key"]: column for column in first["columns"]}
    assert columns["forget_accuracy"]["better"] == "lower"
    assert columns["edits_per_s"]["better"] == "higher"
    (line,) = first["lines"]
    place = list(columns).index("retain_accuracy")
    assert line[place][:2] == ["0.900", 0.9]
    assert line[list(columns).index("n")][3] == ["provisional"]
    assert other["lines"][0][1][3] == ["1 failed"]


def test_the_page_is_small(page):
    data = sum(
        len(json.dumps(block(page, name))) for name in ("data-tables", "data-plots", "data-details")
    )
    assert len(page) - data < 40_000
