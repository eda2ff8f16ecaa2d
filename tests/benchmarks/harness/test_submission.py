"""A submission holds all that somebody else needs to check it, or it is not packed."""

import hashlib
import json
import zipfile

import pytest

from benchmarks import leaderboard
from benchmarks.results import ROWS_FILE, append_row, records_file, row_hash
from benchmarks.results.disclosure import DISCLOSURE_FILE, QUESTIONS, form, read_disclosure
from benchmarks.results.marks import MARKS_FILE

ANSWERS = "".join(f'{key} = "about {key}"\n' for key in QUESTIONS)


@pytest.fixture
def disclosed(stream_results):
    folder, rows = stream_results
    (folder / DISCLOSURE_FILE).write_text(ANSWERS)
    return folder, rows


def submit(folder, archive):
    return leaderboard.main(["submit", str(folder), "--out", str(archive)])


def test_rows_journals_records_and_disclosure_are_packed_with_their_hashes(
    disclosed, tmp_path, capsys
):
    folder, rows = disclosed
    (folder / "index.html").write_text("drawn again by whoever wants it")
    archive = tmp_path / "mine.zip"
    assert submit(folder, archive) == 0
    printed = capsys.readouterr().out
    assert printed == (
        f"3 rows, 0 of them verified by somebody else, in 9 files: {archive}\n"
        f"SHA-256 {hashlib.sha256(archive.read_bytes()).hexdigest()}\n"
    )
    with zipfile.ZipFile(archive) as packed:
        contents = {name: packed.read(name) for name in packed.namelist()}
        packed.extractall(tmp_path / "theirs")
    sums = contents.pop("SHA256SUMS").decode().splitlines()
    journals = {row["edit_file"] for row in rows}
    records = {records_file(row["cell"]) for row in rows}
    assert set(contents) == {ROWS_FILE, DISCLOSURE_FILE} | journals | records
    assert dict(reversed(line.split("  ")) for line in sums) == {
        name: hashlib.sha256(content).hexdigest() for name, content in contents.items()
    }
    for name, content in contents.items():
        assert (folder / name).read_bytes() == content
    theirs = ["validate", str(tmp_path / "theirs"), "--all", "--rerun", "1", "--verifier", "Ada"]
    assert leaderboard.main(theirs) == 0
    assert "3 of 3 rows reproduced\n1 rows marked" in capsys.readouterr().out


def test_the_same_results_make_the_same_archive_and_marks_come_along(disclosed, tmp_path, capsys):
    folder, _ = disclosed
    archives = [tmp_path / "one.zip", tmp_path / "other.zip"]
    assert [submit(folder, archive) for archive in archives] == [0, 0]
    assert archives[0].read_bytes() == archives[1].read_bytes()
    marked = ["validate", str(folder), "--all", "--rerun", "2", "--verifier", "Ada"]
    assert leaderboard.main(marked) == 0
    capsys.readouterr()
    assert submit(folder, archives[0]) == 0
    assert "3 rows, 2 of them verified by somebody else" in capsys.readouterr().out
    with zipfile.ZipFile(archives[0]) as packed:
        assert packed.read(MARKS_FILE) == (folder / MARKS_FILE).read_bytes()


def test_an_archive_is_named_as_what_it_is(stream_results, tmp_path, capsys):
    folder, _ = stream_results
    assert submit(folder, tmp_path / "mine.tar") == 2
    assert f"--out: {tmp_path / 'mine.tar'} must end in .zip" in capsys.readouterr().err
    assert not (folder / DISCLOSURE_FILE).exists()


def test_a_form_is_written_where_there_is_no_disclosure(stream_results, tmp_path, capsys):
    folder, _ = stream_results
    archive = tmp_path / "mine.zip"
    assert submit(folder, archive) == 2
    assert f"{folder / DISCLOSURE_FILE} was missing: a form is there now" in capsys.readouterr().err
    assert (folder / DISCLOSURE_FILE).read_text() == form()
    assert submit(folder, archive) == 2
    error = capsys.readouterr().err
    assert "submitter has no answer. Who submits" in error
    assert 'Write submitter = "…"; "none" is one' in error
    assert not archive.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ANSWERS.replace('"about limits"', '"  "'), "limits has no answer"),
        (ANSWERS.replace('"about limits"', "3"), "limits has no answer"),
        (ANSWERS.replace("limits", "limit"), "limit is no question; there are submitter"),
        (ANSWERS + "half a li", "is no TOML"),
    ],
)
def test_a_disclosure_that_is_not_filled_in_is_refused(tmp_path, text, message):
    file = tmp_path / DISCLOSURE_FILE
    file.write_text(ANSWERS)
    assert list(read_disclosure(file)) == list(QUESTIONS)
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_disclosure(file)


def rewritten(folder, rows):
    """A row with a better result, hashed again as its writer could."""
    row = {**rows[0], "metrics": {**rows[0]["metrics"], "reliability": 0.75}}
    (folder / ROWS_FILE).unlink()
    for one in ({**row, "row_sha256": row_hash(row)}, *rows[1:]):
        append_row(folder / ROWS_FILE, one)


def edited(folder, rows):
    append_row(folder / ROWS_FILE, {**rows[0], "access": "data"})


def without_records(folder, rows):
    (folder / records_file(rows[1]["cell"])).unlink()


def without_journal(folder, rows):
    (folder / rows[1]["edit_file"]).unlink()


def other_records(folder, rows):
    (folder / records_file(rows[1]["cell"])).write_text("{}\n")


def with_a_made_up_mark(folder, rows):
    (folder / MARKS_FILE).write_text(json.dumps({"by": "everybody"}) + "\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rewritten, "1 of 3 rows are not reproduced"),
        (edited, "the row is not the one that was written"),
        (without_records, "is missing"),
        (without_journal, "is missing"),
        (other_records, "is not the file that was measured"),
        (with_a_made_up_mark, "a mark is an object on one line with cell"),
    ],
)
def test_what_does_not_hold_is_not_packed(disclosed, tmp_path, capsys, change, message):
    folder, rows = disclosed
    change(folder, rows)
    assert submit(folder, tmp_path / "mine.zip") == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.zip*"))


def test_there_must_be_rows(tmp_path, capsys):
    assert submit(tmp_path / "nothing", tmp_path / "mine.zip") == 2
    assert "no rows in" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()
