"""Files that the harness reads back may be damaged in any way: each is an error of the project's
own that names the file and the place in it. (Answers of processes are in `test_processes`.)"""

import hashlib
import json
import os
import struct
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from benchmarks.harness import handed_in
from benchmarks.harness.learning import Files
from benchmarks.harness.measure import Here, run_cell
from benchmarks.harness.validation import record_differences
from benchmarks.report import details
from benchmarks.results import (
    Cell,
    ResultsError,
    records_file,
    records_lines,
    records_problem,
)
from editgym.envs.metering import MeterError, RewardMeter, count_reward_calls, record

ARGUMENTS = {"task": "unlearning/digits", "device": "cpu"}
CELL = Cell("damaged", "MaskWorld-v1", ARGUMENTS, "random_actions", {}, 0, 8)


def remove(file):
    file.unlink()


def folder(file):
    file.unlink()
    file.mkdir()


def link_out(file):
    """A link to the very same content, elsewhere."""
    elsewhere = Path(tempfile.mkdtemp()) / file.name
    file.rename(elsewhere)
    file.symlink_to(elsewhere)


def pipe(file):
    file.unlink()
    os.mkfifo(file)


def empty(file):
    file.write_bytes(b"")


def truncate(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2 + 1])


def binary(file):
    file.write_bytes(bytes(range(256)) * 2)


# --- the journal ----------------------------------------------------------------------------------


def described(change, tensors=lambda given: given):
    """A journal whose description, and tensors, are changed."""

    def damage(file):
        with safe_open(file, framework="np") as opened:
            content = json.loads(opened.metadata()["editgym"])
            own = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        content = change(content)
        text = content if isinstance(content, str) else json.dumps(content)
        save_file(tensors(own), file, {"editgym": text})

    return damage


def entry(**changes):
    return described(lambda content: {**content, "entries": [{**content["entries"][0], **changes}]})


def not_finite(number):
    def spoiled(tensors):
        ((name, tensor),) = tensors.items()
        tensor = tensor.copy()
        tensor.flat[3] = number
        return {name: tensor}

    return described(lambda content: content, spoiled)


HUGE = 100  # bytes that a journal may have in the test of one that is too large
JOURNALS = {
    "missing": (
        remove,
        r"HandedInError: .*journal.safetensors, is missing: a file of its own must",
    ),
    "a folder": (folder, r"HandedInError: .*journal.safetensors, is a folder"),
    "a link out": (link_out, r"HandedInError: .*journal.safetensors, is a link to another place"),
    "a pipe": (pipe, r"HandedInError: .*journal.safetensors, is no file but a pipe"),
    "huge": (lambda file: None, r"HandedInError: .*, has [0-9,]+ bytes, and may have 100"),
    "empty": (empty, r"JournalError: .*journal.safetensors is damaged or is not a safetensors"),
    "truncated": (truncate, r"JournalError: .*journal.safetensors is damaged or is not a safet"),
    "binary": (binary, r"JournalError: .*journal.safetensors is damaged or is not a safetensors"),
    "no description": (described(lambda _: "{no json"), "JournalError: .* not an editgym journal"),
    "no end of brackets": (described(lambda _: "[" * 99_999), "JournalError: .* not an editgym"),
    "a list": (described(lambda _: []), r"JournalError: .* has the journal format None"),
    "entries of another type": (
        described(lambda content: {**content, "entries": 7}),
        "JournalError: .*base_hash must be a text and entries a list, got str and int",
    ),
    "an entry of another type": (
        described(lambda content: {**content, "entries": [7]}),
        "JournalError: .*not a complete editgym journal: entry 0: TypeError",
    ),
    "a step of another type": (entry(step="x"), "JournalError: .*: entry 0: ValueError"),
    "an endless step": (entry(step=float("inf")), "JournalError: .*: entry 0: OverflowError"),
    "a bound of another type": (entry(bound=[1]), "JournalError: .*: entry 0: TypeError"),
    "an unknown kind": (entry(kind="spell"), "JournalError: entry 0 has the unknown kind 'spell'"),
    "no kind": (
        described(lambda content: {**content, "entries": [{}]}),
        "JournalError: .*: entry 0: lacks 'kind'",
    ),
    "no tensor": (
        described(lambda content: content, lambda _: {"x": np.zeros(1)}),
        r"JournalError: .*: entry 0: lacks '0\.d'",
    ),
    "not a number": (not_finite(np.nan), "ForbiddenEditError: step 0 .* number of size nan"),
    "an infinite number": (not_finite(np.inf), "ForbiddenEditError: step 0 .* number of size inf"),
}


class Damaging(Here):
    """Both halves of a cell, and damage between them."""

    def __init__(self, damage):
        self.damage = damage

    def learn_and_edit(self, cell, folder, kept=None):
        yield from super().learn_and_edit(cell, folder)
        self.damage(Files(folder).journal)


@pytest.mark.parametrize("name", JOURNALS)
def test_a_damaged_journal_fails_its_cell_and_is_named(monkeypatch, name):
    damage, message = JOURNALS[name]
    if name == "huge":
        monkeypatch.setattr(handed_in, "_half_of_memory", lambda: HUGE)
    row = run_cell(CELL, Damaging(damage)).row
    assert (row["status"], row["edit_file"]) == ("failed", None)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(row["error"])


def test_no_other_folder_of_the_harness_is_there_while_an_agent_is(tmp_path, monkeypatch):
    """What is evaluated lies where the agent never was: a pipe that it puts at a journal's place
    would hold up the harness for ever.
    """
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen, evaluated = [], []

    class Looking(Here):
        def learn_and_edit(self, cell, folder, kept=None):
            for stage in super().learn_and_edit(cell, folder):
                seen.append(list(tmp_path.glob("editgym-cell-*")))
                yield stage

        def evaluate(self, cell, journal, access):
            evaluated.append(journal.parent)
            return super().evaluate(cell, journal, access)

    assert run_cell(CELL, Looking()).row["status"] == "finished"
    assert {len(folders) for folders in seen} == {1}
    assert evaluated[0].parent == tmp_path
    assert evaluated[0] not in seen[-1]
    assert not list(tmp_path.glob("editgym-cell-*"))


# --- meters ---------------------------------------------------------------------------------------


def counts(calls, gradients):
    return lambda file: file.write_bytes(struct.pack("=QQ", calls, gradients))


def another_name(file):
    file.rename(file.with_name("a name"))


RIGHT = r"it must be a file of 16 bytes, two whole numbers"
METERS = {
    "a folder": (folder, f"is a folder, a pipe or a device: {RIGHT}"),
    "a link out": (link_out, f"is a link: {RIGHT}"),
    "a pipe": (pipe, f"is a folder, a pipe or a device: {RIGHT}"),
    "huge": (lambda file: os.truncate(file, 10**12), f"has 1,000,000,000,000 bytes: {RIGHT}"),
    "empty": (empty, f"has 0 bytes: {RIGHT}"),
    "truncated": (truncate, f"has 9 bytes: {RIGHT}"),
    "binary": (binary, f"has 512 bytes: {RIGHT}"),
    "more than can be": (counts(2**63, 0), "bytes 0–7, says 9,223,372,036,854,775,808 rewards"),
    "more gradients": (counts(2, 3), "bytes 8–15, says 3 rewards with a gradient, of 2 in all"),
    "another name": (another_name, "is nobody's: files are called PROCESS-RANDOM"),
}


def meter_of(tmp_path):
    """A meter as a process that was killed leaves it, and its file."""
    meter = tmp_path / "learning"
    meter.mkdir()
    file = meter / f"123-{'0' * 32}"
    counts(5, 1)(file)
    return meter, file


@pytest.mark.parametrize(("damage", "message"), METERS.values(), ids=METERS)
def test_a_damaged_meter_is_an_error_that_names_it(tmp_path, damage, message):
    meter, file = meter_of(tmp_path)
    assert (RewardMeter(meter).calls, RewardMeter(meter).gradients) == (5, 1)
    damage(file)
    with pytest.raises(MeterError, match=rf"the meter learning/(123-0{{32}}|a name).*{message}"):
        RewardMeter(meter).calls  # noqa: B018 - reading is what fails


def test_a_meter_without_its_folder_is_an_error_that_names_it(tmp_path):
    with pytest.raises(MeterError, match=r"the meter .*nowhere cannot be read \(No such file"):
        RewardMeter(tmp_path / "nowhere").calls  # noqa: B018
    (tmp_path / "file").write_text("")
    with pytest.raises(MeterError, match=r"cannot be read .*must be the folder that was made"):
        RewardMeter(tmp_path / "file").calls  # noqa: B018


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove, "cannot be read"),
        (counts(0, 0), "says 0 rewards, 0 with a gradient, but its process computed 7 and 3"),
        (counts(7, 7), "says 7 rewards, 7 with a gradient, but its process computed 7 and 3"),
        (truncate, "has 9 bytes"),
    ],
)
def test_who_has_counted_sees_that_its_count_was_changed(tmp_path, damage, message, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def count():
        with count_reward_calls():
            record(4)
            record(3, gradient=True)
            (file,) = tmp_path.glob("*/*")
            damage(file)

    with pytest.raises(MeterError, match=message):
        count()


@pytest.mark.parametrize("damage", [damage for damage, _ in METERS.values()], ids=METERS)
def test_a_cell_with_a_damaged_meter_fails_with_its_reason(damage):
    class Meddling(Damaging):
        def learn_and_edit(self, cell, folder, kept=None):
            yield from super().learn_and_edit(cell, folder)
            (folder / "learning" / f"123-{'0' * 32}").write_bytes(bytes(16))
            damage(folder / "learning" / f"123-{'0' * 32}")

    row = run_cell(CELL, Meddling(lambda _: None)).row
    assert row["status"] == "failed"
    assert row["error"].startswith("MeterError: the meter learning/")


# --- what the agent's process tells ---------------------------------------------------------------


class Telling(Here):
    """Both halves of a cell; some stages are told otherwise."""

    def __init__(self, change):
        self.change = change

    def learn_and_edit(self, cell, folder, kept=None):
        yield from self.change(list(super().learn_and_edit(cell, folder)))


@pytest.mark.parametrize("memory", ["much", None, True, -1, 2**63, 1.5, float("nan"), [7], {}])
def test_memory_that_is_no_number_of_bytes_fails_the_cell(memory):
    place = Telling(lambda stages: [*stages[:-1], (stages[-1][0], memory)])
    row = run_cell(CELL, place).row
    assert row["status"] == "failed"
    assert "ValueError: peak_memory_bytes must be 0 or more, a whole number below" in row["error"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stages: [], "ValueError: the agent's process ended before 'imported'"),
        (lambda stages: stages[:-1], "ValueError: the agent's process ended before 'handed in'"),
        (lambda stages: stages[1:], "is at 'made', and 'imported' is next"),
        (lambda stages: [*stages, stages[-1]], "is at 'handed in', and None is next"),
        (lambda stages: [*stages[:4], *stages[3:]], "is at 'learned', and 'ready' is next"),
        (
            lambda stages: [stages[0], ("made", ["reward"]), *stages[2:]],
            r"access must be one of reward, .*, got \['reward'\]",
        ),
    ],
)
def test_stages_that_are_not_those_that_there_are_fail_the_cell(change, message):
    row = run_cell(CELL, Telling(change)).row
    assert row["status"] == "failed"
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(row["error"])


def test_times_are_between_asking_and_being_told():
    seconds = {"imported": 0.2, "learned": 0.4, "ready": 0.2, "edited": 0.1}

    class Slow(Here):
        def learn_and_edit(self, cell, folder, kept=None):
            for name, value in super().learn_and_edit(cell, folder):
                time.sleep(seconds.get(name, 0))
                yield name, value

    taken = run_cell(CELL, Slow()).row["time"]
    assert taken["train_s"] > 0.4
    assert 0.1 < taken["edit_s"] < taken["train_s"]


# --- files of records -----------------------------------------------------------------------------


def line(text):
    """The third record in another form."""

    def damage(file):
        lines = file.read_bytes().split(b"\n")
        lines[2] = text if isinstance(text, bytes) else text.encode()
        file.write_bytes(b"\n".join(lines))

    return damage


def link_to(name):
    def damage(file):
        file.unlink()
        file.symlink_to(file.with_name(name or file.name))

    return damage


RECORDS = {
    "truncated": (truncate, ", line 3 is not JSON (from character"),
    "binary": (binary, ", line 1 is not JSON (from character 1 on)"),
    "not a number": (line('{"edit": NaN}'), ", line 3 is not JSON (NaN is no number of JSON)"),
    "infinite": (line('{"edit": 1e999}'), ", line 3 is not JSON (1e999 is beyond all numbers)"),
    "a list": (line("[1]"), ", line 3 is a list, no object"),
    "null": (line("null"), ", line 3 is null, no object"),
    "no end of brackets": (line("[" * 99_999), ", line 3 is not JSON (brackets within brackets"),
    "huge": (line(b'"' + b"x" * (17 * 2**20) + b'"'), ", line 3 has more than 16,777,216 bytes"),
    "a folder": (folder, " is a folder, a pipe, a device or a link to nothing"),
    "a pipe": (pipe, " is a folder, a pipe, a device or a link to nothing"),
    "a link out": (link_out, " leads out of "),
    "a link to nothing": (link_to("nowhere"), " is a folder, a pipe, a device or a link to"),
    "a link to itself": (link_to(""), " is a folder, a pipe, a device or a link to nothing"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_damaged_records_are_named_by_whoever_reads_them(tmp_path, make_row, name):
    damage, message = RECORDS[name]
    row = make_row(metrics={"reliability": 0.5})
    file = tmp_path / records_file(row["cell"])
    file.parent.mkdir()
    content = records_lines([{"edit": number, "prompt": "où ?"} for number in range(5)])
    file.write_bytes(content)
    row["records_sha256"] = hashlib.sha256(content).hexdigest()
    assert records_problem(row, tmp_path) is None
    damage(file)
    (problem,) = [
        found
        for found in (records_problem(row, tmp_path), *record_differences(file, [{}] * 5))
        if found is not None and message in found
    ]
    assert file.name in problem
    assert records_problem(row, tmp_path) is not None, "its SHA-256 differs, too"
    with pytest.raises(ResultsError, match=r"records/.*jsonl"):
        details._edits(tmp_path, [row["cell"]])
    file.unlink() if not file.is_dir() else file.rmdir()
    assert records_problem(row, tmp_path) is None, "they need not be here"
