import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from editgym.models.classifiers import SmallConvNet
from editgym.tasks.protocol import network_of
from editgym.weights import (
    DenseUpdate,
    EditableNetwork,
    EditJournal,
    JournalError,
    LowRankFactors,
    Mask,
    ReplaceTensors,
    Shift,
    SiteEdit,
    Skip,
    find_sites,
)

ENTRY_KINDS = ("low_rank_shift", "low_rank_mask", "dense_shift", "dense_mask", "replace_tensors")


@pytest.fixture
def journal(network, make_edit):
    """One entry of every kind, at steps 0 to 4, of `network`, which has them applied."""
    network.apply(*(make_edit(network, kind, step=step) for step, kind in enumerate(ENTRY_KINDS)))
    return network.journal


def test_entries_know_their_kind(journal):
    assert [entry.kind for entry in journal] == list(ENTRY_KINDS)


def test_saved_journal_is_read_back_exactly(journal, tmp_path):
    loaded = EditJournal.load(journal.save(tmp_path / "edits.safetensors"))
    assert loaded.base_hash == journal.base_hash
    assert [(entry.kind, entry.step) for entry in loaded] == [
        (entry.kind, entry.step) for entry in journal
    ]
    for before, after in zip(journal, loaded, strict=True):
        if isinstance(before, ReplaceTensors):
            assert list(after.tensors) == list(before.tensors)
            assert all(
                torch.equal(after.tensors[name], before.tensors[name]) for name in before.tensors
            )
        else:
            assert (after.site, after.operator) == (before.site, before.operator)
            assert type(after.update) is type(before.update)
            assert after.update.bound == before.update.bound
            assert torch.equal(after.update.matrix(), before.update.matrix())


def test_tensors_that_share_their_memory_are_saved_as_others_are(tmp_path):
    """Views of one tensor, overlapping or not, and one tensor in two entries."""
    all_ = torch.arange(24.0).reshape(4, 6)
    pairs = [(all_[:, :2], all_[:2, :3]), (all_[:, :2], all_[1:3, 2:5]), (all_, all_.mT)]
    journal = EditJournal(
        "base",
        [SiteEdit("fc", Shift(), LowRankFactors(a, b), step) for step, (a, b) in enumerate(pairs)],
    )
    loaded = EditJournal.load(journal.save(tmp_path / "edits.safetensors"))
    for entry, (a, b) in zip(loaded, pairs, strict=True):
        assert torch.equal(entry.update.a, a)
        assert torch.equal(entry.update.b, b)


def test_loaded_journal_gives_the_edited_networks_logits_exactly(
    network, journal, inputs, tmp_path
):
    x = inputs("linear", 33)
    replayed = network.fresh()
    replayed.replay(EditJournal.load(journal.save(tmp_path / "edits.safetensors")))
    assert torch.equal(replayed.logits(x), network.logits(x))


def test_empty_journal_is_saved_and_read_back(network, tmp_path):
    loaded = EditJournal.load(network.journal.save(tmp_path / "none.safetensors"))
    assert (len(loaded), loaded.base_hash) == (0, network.base_hash)


def test_journal_file_is_plain_safetensors_without_pickle(journal, tmp_path):
    path = journal.save(tmp_path / "edits.safetensors")
    assert torch.equal(load_file(path)["0.a"], journal.entries[0].update.a)
    with safe_open(str(path), framework="pt") as file:
        assert json.loads(file.metadata()["editgym"])["base_hash"] == journal.base_hash


def test_equal_journals_are_equal_files(journal, tmp_path):
    first, second = (
        journal.save(tmp_path / "1"),
        EditJournal.load(tmp_path / "1").save(tmp_path / "2"),
    )
    assert first.read_bytes() == second.read_bytes()


def test_save_that_fails_leaves_the_file_that_was_there(journal, tmp_path, monkeypatch):
    path = journal.save(tmp_path / "edits.safetensors")
    before = path.read_bytes()

    def disk_full(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("editgym.weights.tensor_file.save_file", disk_full)
    with pytest.raises(OSError, match="no space"):
        journal.save(path)
    assert path.read_bytes() == before


# --- undo and rollback ----------------------------------------------------------------------------


def test_undo_removes_all_entries_of_the_last_step():
    edits = [
        SiteEdit(name, Mask(), DenseUpdate(torch.ones(1, 1)), step)
        for name, step in (("a", 0), ("b", 0), ("a", 1), ("b", 1))
    ]
    journal = EditJournal("hash", list(edits))
    assert journal.steps == 2
    assert journal.undo() == edits[2:]
    assert (list(journal), journal.steps) == (edits[:2], 1)


@pytest.mark.parametrize("steps", [(0,), (1, 0), (2, 1), (-1,)])
def test_steps_never_go_back(network, make_edit, steps):
    network.apply(make_edit(network, step=0), make_edit(network, step=1))
    before, weights = list(network.journal), network.weights
    with pytest.raises(ValueError, match="steps begin at 0 and never go back"):
        network.apply(*(make_edit(network, step=step) for step in steps))
    assert list(network.journal) == before
    assert all(torch.equal(now, then) for now, then in zip(network.weights, weights, strict=True))
    with pytest.raises(ValueError, match="got step -1 after step 0"):
        EditJournal("hash").append(make_edit(network, step=-1))


def test_edits_without_a_step_are_numbered_and_undone_one_call_at_a_time():
    journal = EditJournal("hash")
    edit = SiteEdit("a", Shift(1.0), DenseUpdate(torch.ones(1, 1)))
    journal.append(edit)
    journal.append(edit, edit)
    assert [entry.step for entry in journal] == [0, 1, 1]
    assert len(journal.undo()) == 2
    assert len(journal.undo()) == 1


@pytest.mark.parametrize("step", range(7))
def test_rollback_keeps_the_entries_before_a_step(journal, step):
    entries = list(journal)
    assert journal.rollback(step) == entries[step:]
    assert list(journal) == entries[:step]


# --- requests that were left out ------------------------------------------------------------------


def test_skips_are_saved_and_change_nothing(network, journal, tmp_path):
    weights = network.weights
    network.apply(Skip(1, "too long", 4), Skip(0, "subject not in the prompt", 7))
    assert all(torch.equal(now, then) for now, then in zip(network.weights, weights, strict=True))
    loaded = EditJournal.load(network.journal.save(tmp_path / "edits.safetensors"))
    assert list(loaded)[5:] == [Skip(1, "too long", 4), Skip(0, "subject not in the prompt", 7)]
    assert loaded.entries[-1].kind == "skip"
    twin = network.fresh()
    twin.replay(loaded)
    assert all(torch.equal(now, then) for now, then in zip(twin.weights, weights, strict=True))
    assert list(twin.journal)[5:] == list(loaded)[5:]


def test_a_step_of_skips_alone_is_no_step(network, make_edit):
    network.apply(make_edit(network, step=0), Skip(0, "too long", 0))
    unedited, edits = network.base_weights, list(network.journal)
    network.apply(Skip(1, "too long", 1))
    assert (network.journal.steps, len(network.journal)) == (1, 3)
    assert network.rollback(1) == [Skip(1, "too long", 1)]
    network.apply(Skip(1, "too long", 1))
    assert network.undo() == [*edits, Skip(1, "too long", 1)]
    assert all(torch.equal(now, w) for now, w in zip(network.weights, unedited, strict=True))
    network.apply(Skip(0, "too long", 0))
    with pytest.raises(IndexError, match="nothing to undo"):
        network.undo()
    assert list(network.journal) == [Skip(0, "too long", 0)]


@pytest.mark.parametrize(("request_", "reason"), [(-1, "too long"), (0.5, "too long"), (0, "")])
def test_a_skip_says_which_request_and_why(request_, reason):
    with pytest.raises(ValueError, match=r"^(request|reason) must be"):
        Skip(request_, reason)


# --- files that are not what they should be -------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 4, 100, -1, -500])
def test_truncated_file_is_an_error(journal, tmp_path, keep):
    path = journal.save(tmp_path / "edits.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(JournalError, match="damaged"):
        EditJournal.load(path)


@pytest.mark.parametrize(
    "content", [b"step,reward\n0,1.5\n", b"PK\x03\x04" + bytes(50), bytes(range(256)) * 9]
)
def test_file_of_another_kind_is_an_error(tmp_path, content):
    path = tmp_path / "edits.safetensors"
    path.write_bytes(content)
    with pytest.raises(JournalError, match="not a safetensors file"):
        EditJournal.load(path)


def test_numpy_or_pickle_files_are_not_executed_but_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([print], dtype=object), allow_pickle=True)
    torch.save({"a": 1}, tmp_path / "a.pt")
    for name in ("a.npy", "a.pt"):
        with pytest.raises(JournalError):
            EditJournal.load(tmp_path / name)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"format": "pt"},
        {"editgym": "text"},
        {"editgym": "[]"},
        {"editgym": '"text"'},
        {"editgym": "{}"},
        {"editgym": '{"format": "editgym-journal-99", "base_hash": "hash", "entries": []}'},
    ],
)
def test_safetensors_that_hold_no_journal_are_an_error(tmp_path, metadata):
    save_file({"fc2.weight": torch.ones(2)}, tmp_path / "model.safetensors", metadata=metadata)
    with pytest.raises(JournalError, match=r"not an editgym journal|has the journal format"):
        EditJournal.load(tmp_path / "model.safetensors")


def row(**changes):
    return {
        "kind": "low_rank_shift",
        "step": 0,
        "site": "a",
        "bound": None,
        "limit": 1.0,
        "scale": 1.0,
    } | changes


@pytest.mark.parametrize(
    "entries",
    [
        5,
        None,
        "text",
        ["text"],
        [{}],
        [row(kind="dense_mask")],
        [row(kind="exec")],
        [row(step="one")],
        [row(limit=-1)],
        [row(), row()],
        [row(limit=None)],
        [{"kind": "skip", "step": 0, "request": -1, "reason": "too long"}],
        [{"kind": "skip", "step": 0, "request": 0}],
    ],
)
def test_journal_with_entries_missing_or_senseless_is_an_error(tmp_path, entries):
    content = {"format": "editgym-journal-1", "base_hash": "hash", "entries": entries}
    save_file(
        {"0.a": torch.ones(2, 1), "0.b": torch.ones(1, 2)},
        tmp_path / "edits.safetensors",
        metadata={"editgym": json.dumps(content)},
    )
    with pytest.raises(JournalError):
        EditJournal.load(tmp_path / "edits.safetensors")


@pytest.mark.parametrize("name", ["missing.safetensors", "."])
def test_missing_file_is_an_error(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="no journal at"):
        EditJournal.load(tmp_path / name)


def test_journal_of_another_network_is_refused_and_changes_nothing(network, journal, inputs):
    x = inputs("linear")
    torch.manual_seed(99)
    model = SmallConvNet(8)
    other = EditableNetwork(model, find_sites(model, ["fc2", "fc3"]), x)
    other.apply(SiteEdit("fc2", Mask(), DenseUpdate(torch.full((32, 128), -0.5))))
    before = other.logits(x)
    with pytest.raises(
        JournalError, match=f"belongs to the network {journal.base_hash[:12]}.*same task"
    ):
        other.replay(journal)
    assert torch.equal(other.logits(x), before)
    assert len(other.journal) == 1


def test_low_rank_updates_keep_their_factors(journal, tmp_path):
    loaded = EditJournal.load(journal.save(tmp_path / "edits.safetensors"))
    before, after = journal.entries[0].update, loaded.entries[0].update
    assert isinstance(after, LowRankFactors)
    assert after.scale == before.scale
    assert torch.equal(after.a, before.a)
    assert torch.equal(after.b, before.b)


def test_the_description_in_a_file_is_sorted(journal, tmp_path):
    """Equal journals are equal files, whatever order the code that wrote them has."""
    with safe_open(str(journal.save(tmp_path / "edits.safetensors")), framework="pt") as file:
        text = file.metadata()["editgym"]
    assert text == json.dumps(json.loads(text), sort_keys=True)


@pytest.mark.parametrize("nothing", [None, [], "edit.safetensors"])
def test_what_is_no_journal_is_refused_in_words(network, nothing):
    said = f"journal must be an EditJournal, .* got a {type(nothing).__name__}"
    with pytest.raises(TypeError, match=said):
        network.replay(nothing)
    with pytest.raises(TypeError, match=said):
        network_of((network,), nothing)


def test_a_stream_is_evaluated_by_a_journal_alone():
    env = gym.make("LifelongLLMEdit-v1", split="test", horizon=1, edits_per_step=1)
    env.reset(seed=0)
    with pytest.raises(TypeError, match=r"journal must be an EditJournal, .* got a NoneType"):
        env.unwrapped.evaluate(None)
