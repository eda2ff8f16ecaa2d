"""A row that somebody else ran again carries a mark, and a mark that does not hold is refused."""

import hashlib
import json

import pytest

from benchmarks import leaderboard
from benchmarks.report.aggregate import group_rows
from benchmarks.report.standings import VERIFIED
from benchmarks.results import ROWS_FILE, append_row, canonical_json, read_rows, row_hash
from benchmarks.results.agreement import CUDA_TOLERANCE, rerun_differences
from benchmarks.results.disclosure import DISCLOSURE_FILE
from benchmarks.results.marks import MARKS_FILE, Mark, add_marks, check_verifier, read_marks

ADA = "Ada Lovelace <ada@example.org>"


def lines(folder):
    return [json.loads(line) for line in (folder / MARKS_FILE).read_text().splitlines()]


@pytest.fixture
def marked(stream_results, capsys):
    """A folder whose rows somebody else reproduced, and the rows."""
    folder, rows = stream_results
    arguments = ["validate", str(folder), "--all", "--rerun", "3", "--verifier", ADA]
    assert leaderboard.main(arguments) == 0
    assert "3 rows marked as verified" in capsys.readouterr().out
    return folder, rows


def test_a_mark_says_who_when_and_with_which_versions_beside_the_rows(stream_results, capsys):
    folder, rows = stream_results
    before = (folder / ROWS_FILE).read_bytes()
    arguments = ["--all", "--rerun", "2", "--seed", "1", "--verifier", ADA]
    assert leaderboard.main(["validate", str(folder), *arguments]) == 0
    assert "2 rows marked as verified" in capsys.readouterr().out
    assert (folder / ROWS_FILE).read_bytes() == before
    found = read_marks(folder, rows)
    assert found.refused == ()
    assert len(found.of) == 2
    for row in rows:
        for mark in found.of.get(row["row_sha256"], ()):
            assert (mark.cell, mark.by) == (row["cell"], ADA)
            assert mark.when.endswith("+00:00")
            assert mark.rerun["versions"] == row["versions"]
            assert mark.rerun["metrics"] == row["metrics"]
            assert mark.rerun["time"] != row["time"]


def test_the_report_shows_marks(marked, capsys):
    folder, _ = marked
    assert leaderboard.main(["report", str(folder)]) == 0
    text = (folder / "LEADERBOARD.md").read_text()
    assert "3 verified" in text
    assert f"got the same rows: {ADA.replace('<', chr(92) + '<')}, 20" in text
    board = json.loads((folder / "leaderboard.json").read_text())
    assert board["groups"][0]["agents"][0]["verified"] == 3
    (folder / MARKS_FILE).unlink()
    assert leaderboard.main(["report", str(folder)]) == 0
    assert "verified" not in (folder / "LEADERBOARD.md").read_text()


def test_over_several_tasks_a_seed_counts_that_was_run_again_in_all_of_them(make_row):
    worlds = ("MaskWorld-v0", "ShiftWorld-v0")
    rows = [
        {
            **make_row(seed=seed, env_id=world, metrics={"retain_accuracy": 0.9}),
            VERIFIED: [ADA] if seed == 0 or (seed == 1 and world == worlds[0]) else [],
        }
        for seed in range(3)
        for world in worlds
    ]
    pooled, *single = group_rows(rows)
    assert pooled.standings[0].verified == 1
    assert [group.standings[0].verified for group in single] == [2, 1]


def test_a_row_that_is_not_reproduced_gets_no_mark(stream_results, capsys):
    folder, rows = stream_results
    liar = {**rows[0], "access": "data"}
    (folder / ROWS_FILE).unlink()
    for row in ({**liar, "row_sha256": row_hash(liar)}, *rows[1:]):
        append_row(folder / ROWS_FILE, row)
    arguments = ["validate", str(folder), "--all", "--rerun", "3", "--verifier", ADA]
    assert leaderboard.main(arguments) == 1
    assert "2 rows marked as verified" in capsys.readouterr().out
    assert rows[0]["cell"] not in {mark["cell"] for mark in lines(folder)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--all", "--verifier", ADA], "only rows that were run again are marked: give --rerun K"),
        (["--rerun", "1", "--verifier", "  "], "verifier must be a name, and how to ask"),
        (["--rerun", "1", "--verifier", "grace HOPPER"], "'grace HOPPER' submitted these rows"),
    ],
)
def test_who_cannot_mark_rows_is_told_before_any_work(
    stream_results, capsys, monkeypatch, arguments, message
):
    folder, _ = stream_results
    (folder / DISCLOSURE_FILE).write_text('submitter = "Grace Hopper <grace@example.org>"\n')
    monkeypatch.setattr(
        "benchmarks.harness.validation.validate_row", lambda *_: pytest.fail("worked already")
    )
    assert leaderboard.main(["validate", str(folder), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (folder / MARKS_FILE).exists()


def sealed(mark, **changes):
    """A mark that was changed and hashed again."""
    content = {key: value for key, value in {**mark, **changes}.items() if key != "mark_sha256"}
    return {**content, "mark_sha256": hashlib.sha256(canonical_json(content).encode()).hexdigest()}


def remeasured(row, **changes):
    row = {**row, **changes}
    return {**row, "row_sha256": row_hash(row)}


def row_changed(folder, mark, rows):
    """Another row takes the place of the one that was marked."""
    append_row(folder / ROWS_FILE, remeasured(rows[0], time={**rows[0]["time"], "edit_s": 9.0}))
    return mark


def row_deleted(folder, mark, rows):
    text = (folder / ROWS_FILE).read_text().splitlines(keepends=True)
    (folder / ROWS_FILE).write_text("".join(text[1:]))
    return mark


def submitters(folder, mark, rows):
    (folder / DISCLOSURE_FILE).write_text('submitter = "ada  lovelace"\n')
    return mark


def without(content, name):
    return {key: value for key, value in content.items() if key != name}


def better(rerun):
    return {**rerun["metrics"], "reliability": rerun["metrics"]["reliability"] + 0.5}


FORGERIES = {
    "another's name": (lambda f, m, r: {**m, "by": "Somebody"}, "not the one that was written"),
    "no hash": (lambda f, m, r: {**m, "mark_sha256": None}, "not the one that was written"),
    "the row itself": (lambda f, m, r: sealed(m, rerun=r[0]), "is the row itself, not another run"),
    "another cell's run": (
        lambda f, m, r: sealed(m, rerun=remeasured(r[1], time=m["rerun"]["time"])),
        "is of another cell",
    ),
    "a run with other metrics": (
        lambda f, m, r: sealed(m, rerun=remeasured(m["rerun"], metrics=better(m["rerun"]))),
        "does not reproduce the row: reliability: recorded",
    ),
    "a run that was changed": (
        lambda f, m, r: sealed(m, rerun={**m["rerun"], "peak_memory_bytes": 1}),
        "of the run that it holds: the row is not the one that was written",
    ),
    "no row": (
        lambda f, m, r: sealed(m, rerun={}),
        "rerun, the run that it holds, has schema None, but this version reads schema 2",
    ),
    "a run without curves": (
        lambda f, m, r: sealed(m, rerun=without(m["rerun"], "curves")),
        "rerun, the run that it holds, lacks a field of its schema, 'curves': run the row's cell",
    ),
    "a run with another metric": (
        lambda f, m, r: sealed(m, rerun=remeasured(m["rerun"], metrics={"reliability": "x"})),
        'it holds, is not as it was written (metrics.reliability is "x", and must be a finite',
    ),
    "a row that was changed": (row_changed, "was changed or measured anew after it was marked"),
    "a row that is gone": (row_deleted, "which has no row here"),
    "the submitter's own": (submitters, "who submitted the rows"),
}


@pytest.mark.parametrize(("forge", "message"), FORGERIES.values(), ids=FORGERIES)
def test_a_mark_that_does_not_hold_is_refused(tmp_path, make_row, forge, message):
    rows = [make_row(seed=seed, metrics={"reliability": 0.25}) for seed in range(2)]
    for row in rows:
        append_row(tmp_path / ROWS_FILE, row)
    rerun = remeasured(rows[0], time={**rows[0]["time"], "edit_s": 0.5})
    add_marks(tmp_path, [Mark.of(rows[0], rerun, ADA)])
    assert read_marks(tmp_path, rows).refused == ()
    (mark,) = lines(tmp_path)
    (tmp_path / MARKS_FILE).write_text(json.dumps(forge(tmp_path, mark, rows)) + "\n")
    found = read_marks(tmp_path, read_rows(tmp_path / ROWS_FILE))
    assert found.of == {}
    (problem,) = found.refused
    assert problem.startswith(f"{tmp_path / MARKS_FILE}, line 1: ")
    assert message in problem


A_MARK = (
    "a mark is an object on one line with cell, row_sha256, by, when, rerun and mark_sha256, as"
)
DAMAGES = {
    "binary": (lambda m: bytes(range(1, 10)), f"it is not JSON (from character 1 on); {A_MARK}"),
    "another encoding": (
        lambda m: json.dumps(m, ensure_ascii=False).encode("latin-1").replace(b"Ada", b"\xc4da"),
        "it is not JSON (from byte",
    ),
    "truncated": (lambda m: json.dumps(m).encode()[:100], "it is not JSON (from character"),
    "no end of brackets": (lambda m: b"[" * 99_999, "brackets within brackets have no end"),
    "an empty line": (lambda m: b"", "it is not JSON (from character 1 on)"),
    "not a number": (lambda m: json.dumps({**m, "x": float("nan")}).encode(), "NaN is no number"),
    "an endless number": (lambda m: b"9" * 10_000, "a number has more digits than anybody reads"),
    "a list": (lambda m: [m], f"it is a list; {A_MARK}"),
    "null": (lambda m: None, f"it is null; {A_MARK}"),
    "an object": (lambda m: {"cell": m["cell"]}, "it lacks row_sha256, by, when, rerun, mark_sha"),
    "no rerun": (lambda m: without(m, "rerun"), f"it lacks rerun; {A_MARK}"),
    "a cell of another type": (
        lambda m: sealed(m, cell=[m["cell"]]),
        "and must be the name of a cell, 64 hexadecimal digits",
    ),
    "a short cell": (lambda m: sealed(m, cell="12ab"), 'cell is "12ab", and must be the name of a'),
    "no SHA-256": (
        lambda m: sealed(m, row_sha256=None),
        "row_sha256 is null, and must be the row_sha256 of a row, 64 hexadecimal digits",
    ),
    "a number for a name": (
        lambda m: sealed(m, by=7),
        "by is 7, and must be a name, and how to ask: 'Ada Lovelace <ada@example.org>'",
    ),
    "no name": (lambda m: sealed(m, by=" <a@b.org>"), 'by is " <a@b.org>", and must be a name'),
    "no time": (
        lambda m: sealed(m, when="yesterday"),
        'when is "yesterday", and must be a time in UTC, such as 2026-01-31T09:30:00+00:00',
    ),
    "a time of another type": (lambda m: sealed(m, when=[1]), "when is [1], and must be a time in"),
    "a time of some place": (lambda m: sealed(m, when="2026-01-31T09:30:00"), "must be a time in"),
    "a run of another type": (
        lambda m: sealed(m, rerun="x" * 1000),
        f'rerun is a text, "{"x" * 79}…, and must be an object, the row of the new run',
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_mark_is_named_in_words_with_file_line_and_what_is_right(
    tmp_path, make_row, damage, message
):
    rows = [make_row(seed=seed, metrics={"reliability": 0.25}) for seed in range(2)]
    rerun = remeasured(rows[0], time={**rows[0]["time"], "edit_s": 0.5})
    add_marks(tmp_path, [Mark.of(rows[0], rerun, ADA)])
    (mark,) = lines(tmp_path)
    damaged = damage(mark)
    line = damaged if isinstance(damaged, bytes) else json.dumps(damaged).encode()
    (tmp_path / MARKS_FILE).write_bytes(json.dumps(mark).encode() + b"\n" + line + b"\n")
    found = read_marks(tmp_path, rows)
    assert len(found.of[rows[0]["row_sha256"]]) == 1, "the other line is read"
    (problem,) = found.refused
    assert problem.startswith(f"{tmp_path / MARKS_FILE}, line 2: ")
    assert message in problem
    for python in ("Error", "NoneType", "dict", "Expecting", "isoformat", "Traceback", "codec"):
        assert python not in problem


def test_every_command_says_that_a_mark_is_refused(marked, tmp_path, capsys):
    folder, _ = marked
    written = lines(folder)
    written[0]["by"] = "Somebody"
    (folder / MARKS_FILE).write_text("".join(json.dumps(mark) + "\n" for mark in written))
    message = "line 1: the mark is not the one that was written"
    assert leaderboard.main(["validate", str(folder), "--all"]) == 1
    printed = capsys.readouterr().out
    assert f"DIFFERS  mark of verification, {folder / MARKS_FILE}, {message}" in printed
    assert "3 of 3 rows reproduced" in printed
    assert leaderboard.main(["report", str(folder)]) == 1
    assert message in capsys.readouterr().err
    assert "2 verified" in (folder / "LEADERBOARD.md").read_text()
    for command in (["ship", str(folder)], ["merge", str(folder), "--out"]):
        assert leaderboard.main([*command, str(tmp_path / "to")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("command", ["ship", "merge"])
def test_marks_go_along_with_their_rows(marked, tmp_path, command, capsys):
    folder, rows = marked
    to = tmp_path / "to"
    out = [str(to)] if command == "ship" else ["--out", str(to)]
    for _ in range(2):
        assert leaderboard.main([command, str(folder), *out]) == 0
        assert {mark["cell"] for mark in lines(to)} == {row["cell"] for row in rows}
        assert len(lines(to)) == 3
        assert read_marks(to, rows).refused == ()


def test_a_mark_stays_with_the_row_that_it_is_of(marked, stream_results, tmp_path):
    folder, rows = marked
    first = tmp_path / "first"
    append = remeasured(rows[0], time={**rows[0]["time"], "edit_s": 9.0})
    assert leaderboard.main(["ship", str(folder), str(first)]) == 0
    (first / MARKS_FILE).unlink()
    (first / ROWS_FILE).unlink()
    append_row(first / ROWS_FILE, append)
    assert leaderboard.main(["merge", str(first), str(folder), "--out", str(tmp_path / "to")]) == 0
    assert {mark["cell"] for mark in lines(tmp_path / "to")} == {row["cell"] for row in rows[1:]}


def test_on_a_gpu_a_run_may_differ_by_rounding(make_row):
    environment = {"task": "unlearning/digits", "model_seed": 0, "device": "cuda"}
    row, near, far = (
        make_row(metrics={"retain_accuracy": value}, env_kwargs=environment)
        for value in (0.5, 0.5 + CUDA_TOLERANCE / 2, 0.5 + 2 * CUDA_TOLERANCE)
    )
    assert rerun_differences(row, near) == ()
    assert len(rerun_differences(row, far)) == 1
    last_bits = {"edit_sha256": "0" * 64, "edit_bytes": 7, "curves": {"retention": [[0, 1.0]]}}
    edited = {**row, "edit_sha256": "1" * 64, "edit_bytes": 8}
    assert rerun_differences(edited, {**near, **last_bits}) == ()
    for field, other in {
        "access": "data",
        "reward_calls": 99,
        "budget": {"reward_calls": 101},
        "settings": {"rank": 2},
        "fingerprints": {"model": "0" * 64},
        "edit_sha256": None,
        "records_sha256": "0" * 64,
    }.items():
        (problem,) = rerun_differences(edited, {**edited, **near, **last_bits, field: other})
        assert problem.startswith(f"run again, its {field} is {other!r}, recorded ")
    here, there = make_row(metrics={"a": 0.5}), make_row(metrics={"a": 0.5 + 1e-12})
    assert len(rerun_differences(here, there)) == 1


@pytest.mark.parametrize(
    ("submitter", "verifier", "refused"),
    [
        ("Ada Lovelace, University of London", ADA, True),
        ("Ada Lovelace (London)", "ada lovelace, Paris <a@b.org>", True),
        ("Ada", "Ada, London", True),
        ("Lovelace, Ada", "Lovelace, Byron", False),
        ("Ada Lovelace, University of London", "Grace Hopper, University of London", False),
    ],
)
def test_a_submitter_is_known_with_and_without_the_affiliation(
    tmp_path, submitter, verifier, refused
):
    (tmp_path / DISCLOSURE_FILE).write_text(f'submitter = "{submitter}"')
    if refused:
        with pytest.raises(ValueError, match="submitted these rows"):
            check_verifier(tmp_path, verifier)
    else:
        check_verifier(tmp_path, verifier)


def test_an_address_alone_is_no_name(tmp_path):
    with pytest.raises(ValueError, match=r"verifier must be a name.*got ' <a@b.org>'"):
        check_verifier(tmp_path, " <a@b.org>")


@pytest.mark.parametrize("name", ["rerun", "seed"])
def test_a_negative_number_is_refused_by_its_name(tmp_path, name, capsys):
    assert leaderboard.main(["validate", str(tmp_path), f"--{name}", "-3"]) == 2
    assert f"{name} must be 0 or more, got -3" in capsys.readouterr().err
