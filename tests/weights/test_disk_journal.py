"""A journal in a folder: the content of one in memory, and what is left of it after a crash."""

from pathlib import Path

import pytest
import torch

from editgym.models.classifiers import SmallConvNet
from editgym.weights import (
    Codebook,
    DiskJournal,
    EditableNetwork,
    EditJournal,
    JournalError,
    Prepend,
    Skip,
    find_sites,
    fingerprint,
)
from editgym.weights.journal import disk_journal as module


@pytest.fixture
def entries(network, make_edit):
    """Two edits of one step, then one of every other kind: steps 0 to 5."""
    made = [
        make_edit(network, "low_rank_shift", 0, 0),
        make_edit(network, "low_rank_shift", 1, 0),
        make_edit(network, "dense_shift", 0, 1),
        make_edit(network, "low_rank_mask", 1, 2),
        make_edit(network, "replace_tensors", step=3),
        Codebook("fc2", torch.randn(2, 128), torch.randn(2, 32), torch.ones(2), 4),
        Prepend(("one", ""), 5),
    ]
    return made


def content(journal):
    """All of a journal, comparable."""
    rows = []
    for entry in journal:
        tensors = (
            dict(entry.tensors)
            if entry.kind == "replace_tensors"
            else (
                {"keys": entry.keys, "values": entry.values, "radii": entry.radii}
                if entry.kind == "codebook"
                else {}
                if entry.kind == "prepend"
                else {"d": entry.update.matrix()}
            )
        )
        rows.append(
            (
                entry.kind,
                entry.step,
                getattr(entry, "site", getattr(entry, "texts", None)),
                {name: tensor.tolist() for name, tensor in tensors.items()},
            )
        )
    return rows


def by_step(entries):
    return [[entry for entry in entries if entry.step == step] for step in range(6)]


@pytest.fixture
def both(network, entries, tmp_path):
    """The journal in memory and the one on disk, after the same appends."""
    memory, disk = (
        EditJournal(network.base_hash),
        DiskJournal(network.base_hash, tmp_path / "journal"),
    )
    for own in by_step(entries):
        memory.append(*own)
        disk.append(*own)
    return memory, disk


def test_it_holds_what_a_journal_in_memory_holds(both):
    memory, disk = both
    assert content(disk) == content(memory)
    assert (len(disk), disk.steps) == (7, 6)
    assert len(list(disk.folder.iterdir())) == 6, "a file per step"


def test_undo_and_rollback_are_those_of_a_journal_in_memory(both):
    memory, disk = both
    for act in (
        lambda journal: journal.undo(),
        lambda journal: journal.rollback(4),
        lambda journal: journal.rollback(1),
        lambda journal: journal.undo(),
    ):
        assert content(act(disk)) == content(act(memory))
        assert content(disk) == content(memory)
        assert content(DiskJournal(disk.base_hash, disk.folder)) == content(memory)
    assert not list(disk.folder.iterdir())
    with pytest.raises(IndexError, match="nothing to undo"):
        disk.undo()


def test_skips_are_undone_on_disk_with_the_edit_before_them(both):
    memory, disk = both
    for journal in both:
        journal.append(Skip(0, "too long", 5))
        journal.append(Skip(1, "too long", 6))
    assert list(DiskJournal(disk.base_hash, disk.folder))[7:] == list(memory)[7:]
    assert (disk.steps, len(disk)) == (6, 9)
    assert len(disk.undo()) == len(memory.undo()) == 3
    assert content(DiskJournal(disk.base_hash, disk.folder)) == content(memory)


def test_entries_without_a_step_are_numbered_as_in_memory(network, make_edit, tmp_path):
    memory, disk = EditJournal(network.base_hash), DiskJournal(network.base_hash, tmp_path)
    for journal in (memory, disk):
        torch.manual_seed(0)
        for _ in range(3):
            journal.append(
                make_edit(network, "low_rank_shift", 0, None),
                make_edit(network, "low_rank_shift", 1, None),
            )
    assert [entry.step for entry in disk] == [0, 0, 1, 1, 2, 2]
    assert content(disk) == content(memory)


def test_a_step_that_comes_in_two_parts_is_one_file(network, make_edit, tmp_path):
    disk = DiskJournal(network.base_hash, tmp_path)
    disk.append(make_edit(network, "low_rank_shift", 0, 0))
    disk.append(make_edit(network, "low_rank_shift", 0, 1))
    disk.append(make_edit(network, "low_rank_shift", 1, 1))
    assert [entry.step for entry in disk] == [0, 1, 1]
    assert len(list(tmp_path.iterdir())) == 2
    assert content(DiskJournal(network.base_hash, tmp_path)) == content(disk)
    assert [entry.site for entry in disk.undo()] == ["fc2", "fc3"]


def test_a_step_below_the_last_is_refused_as_in_memory_and_drops_nothing(both, network, make_edit):
    memory, disk = both
    files = {file: file.read_bytes() for file in disk.folder.iterdir()}
    for journal in both:
        with pytest.raises(ValueError, match="never go back, got step 0 after step 5"):
            journal.append(make_edit(network, step=0))
    assert content(disk) == content(memory)
    assert {file: file.read_bytes() for file in disk.folder.iterdir()} == files


def test_a_rollback_that_is_interrupted_leaves_the_first_steps(both, network, monkeypatch):
    memory, disk = both
    unlink, removed = Path.unlink, []

    def interrupted(file, **settings):
        if len(removed) == 2:
            raise KeyboardInterrupt
        removed.append(file)
        unlink(file, **settings)

    monkeypatch.setattr(Path, "unlink", interrupted)
    with pytest.raises(KeyboardInterrupt):
        disk.rollback(1)
    memory.rollback(4)
    assert content(disk) == content(memory)
    assert content(DiskJournal(network.base_hash, disk.folder)) == content(memory)


@pytest.mark.parametrize(
    "back", [lambda one: one.undo(), lambda one: one.rollback(1), lambda one: one.reset()]
)
def test_weights_follow_a_journal_that_is_interrupted_while_it_removes(
    back, network, make_edit, tmp_path, monkeypatch
):
    network.journal = DiskJournal(network.base_hash, tmp_path)
    for step in range(4):
        network.apply(make_edit(network, "low_rank_shift", 1, step))
    unlink, removed = Path.unlink, []

    def interrupted(file, **settings):
        unlink(file, **settings)
        removed.append(file)
        if len(removed) == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", interrupted)
        with pytest.raises(KeyboardInterrupt):
            back(network)
    there = network.fresh()
    there.replay(DiskJournal(network.base_hash, tmp_path))
    assert there.journal.steps == network.journal.steps == 3
    assert all(map(torch.equal, there.weights, network.weights))


def test_opened_again_it_is_the_same_and_goes_on(both, network, make_edit):
    memory, disk = both
    again = DiskJournal(network.base_hash, disk.folder)
    assert content(again) == content(memory)
    more = make_edit(network, "dense_mask", 0, None)
    memory.append(more)
    again.append(more)
    assert again.entries[-1].step == 6
    assert content(DiskJournal(network.base_hash, disk.folder)) == content(memory)


def test_it_is_saved_as_one_file_and_replays_like_any_other(network, make_edit, inputs, tmp_path):
    x = inputs("linear")
    disk = DiskJournal(network.base_hash, tmp_path / "journal")
    network.apply(
        *(
            make_edit(network, "low_rank_shift", site, step)
            for step in range(3)
            for site in range(2)
        )
    )
    disk.append(*network.journal)
    twin = network.fresh()
    twin.replay(EditJournal.load(disk.save(tmp_path / "all.safetensors")))
    assert torch.equal(twin.logits(x), network.logits(x))


def test_a_torn_file_of_a_crash_is_ignored(both, network):
    memory, disk = both
    (disk.folder / "00000006.safetensors.partial").write_bytes(b"torn")
    assert content(DiskJournal(network.base_hash, disk.folder)) == content(memory)


def test_a_damaged_step_is_an_error_that_names_the_file(both, network):
    _, disk = both
    file = disk.folder / "00000002.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(JournalError, match=r"00000002\.safetensors is damaged"):
        DiskJournal(network.base_hash, disk.folder)


def test_the_folder_of_another_network_is_an_error(both):
    _, disk = both
    torch.manual_seed(9)
    other = SmallConvNet(8).eval()
    with pytest.raises(
        JournalError, match=r"holds the journal of the network .* use another folder"
    ):
        DiskJournal(fingerprint(other), disk.folder)


def test_an_append_that_fails_leaves_journal_network_and_folder_as_they_were(
    network, make_edit, inputs, tmp_path, monkeypatch
):
    network.journal = disk = DiskJournal(network.base_hash, tmp_path)
    network.apply(make_edit(network, "low_rank_shift", 0, 0))
    before, x = content(disk), inputs("linear", 5)
    logits = network.logits(x)

    def disk_full(*args, **kwargs):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.EditJournal, "save", disk_full)
        for step in (0, 1):
            with pytest.raises(OSError, match="no space left"):
                network.apply(make_edit(network, "low_rank_shift", 1, step))
    assert content(disk) == before
    assert content(DiskJournal(network.base_hash, tmp_path)) == before
    assert torch.equal(network.logits(x), logits)
    network.apply(make_edit(network, "low_rank_shift", 1, 1))
    assert disk.steps == 2


@pytest.mark.parametrize("back", [lambda one: one.undo(), lambda one: one.reset()])
def test_an_interrupted_append_leaves_nothing(back, network, make_edit, tmp_path, monkeypatch):
    network.journal = DiskJournal(network.base_hash, tmp_path)
    network.apply(make_edit(network, "low_rank_shift", 0, 0))

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.DiskJournal, "_read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            network.apply(make_edit(network, "low_rank_shift", 1, 1))
    assert network.journal.steps == 1
    assert len(list(tmp_path.iterdir())) == 1
    back(network)
    assert not list(tmp_path.iterdir())


def test_a_network_of_another_base_does_not_replay_it(both, build, inputs):
    _, disk = both
    torch.manual_seed(9)
    model = SmallConvNet(8).eval()
    other = EditableNetwork(model, find_sites(model, ["fc2"]), inputs("linear", 4))
    with pytest.raises(JournalError, match="belongs to the network"):
        other.replay(disk)


def test_its_folder_is_made_however_deep(network, make_edit, tmp_path):
    disk = DiskJournal(network.base_hash, tmp_path / "runs" / "one" / "journal")
    disk.append(make_edit(network))
    assert len(list(disk.folder.iterdir())) == 1


def test_a_file_that_somebody_else_has_taken_away_is_no_hindrance(both):
    memory, disk = both
    (disk.folder / "00000005.safetensors").unlink()
    assert content(disk.undo()) == content(memory.undo())
    assert content(DiskJournal(disk.base_hash, disk.folder)) == content(memory)


def test_steps_of_one_append_have_their_own_files(network, entries, tmp_path):
    memory = EditJournal(network.base_hash, list(entries))
    disk = DiskJournal(network.base_hash, tmp_path)
    disk.append(*entries)
    assert content(disk) == content(memory)
    assert content(DiskJournal(network.base_hash, tmp_path)) == content(memory)
    sizes = [len(EditJournal.load(file)) for file in sorted(tmp_path.iterdir())]
    assert sizes == [2, 1, 1, 1, 1, 1]


def test_entries_without_a_step_are_numbered_on_disk_too(network, make_edit, tmp_path):
    disk = DiskJournal(network.base_hash, tmp_path)
    for _ in range(3):
        disk.append(make_edit(network, step=None))
    assert [entry.step for entry in disk] == [0, 1, 2]


def test_a_step_that_goes_back_is_refused_and_not_written(both):
    memory, disk = both
    with pytest.raises(ValueError, match="got step 4 after step 5"):
        disk.append(Prepend(("late",), 4))
    assert content(DiskJournal(disk.base_hash, disk.folder)) == content(disk) == content(memory)


def test_a_step_that_somebody_else_has_removed_is_missed(network, make_edit, tmp_path):
    journal = DiskJournal(fingerprint(network), tmp_path)
    journal.append(make_edit(network, "dense_shift", 0, 0))
    (file,) = tmp_path.iterdir()
    file.unlink()
    with pytest.raises(JournalError, match="does not hold step 0 any more"):
        journal.append(make_edit(network, "dense_shift", 0, 1))
    journal.rollback(0)
    journal.append(make_edit(network, "dense_shift", 0, 0))
    assert len(list(tmp_path.iterdir())) == 1


def test_an_append_that_fails_at_its_second_step_leaves_nothing_of_its_first(
    network, make_edit, inputs, tmp_path
):
    network.journal = disk = DiskJournal(network.base_hash, tmp_path)
    network.apply(make_edit(network, "low_rank_shift", 0, 0))
    before, logits = content(disk), network.logits(x := inputs("linear", 5))
    (tmp_path / "00000002.safetensors").mkdir()
    with pytest.raises(JournalError, match="holds step 2, which is not this journal's"):
        network.apply(
            *(make_edit(network, "low_rank_shift", site, step) for site in (0, 1) for step in (0,)),
            make_edit(network, "low_rank_shift", 1, 1),
            make_edit(network, "low_rank_shift", 1, 2),
        )
    assert content(disk) == before
    assert torch.equal(network.logits(x), logits)
    (tmp_path / "00000002.safetensors").rmdir()
    assert content(DiskJournal(network.base_hash, tmp_path)) == before


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_replay_that_fails_leaves_journal_network_and_folder_as_they_were(
    network, make_edit, inputs, tmp_path, monkeypatch, failing
):
    other = network.fresh()
    for step in range(3):
        other.apply(make_edit(other, "low_rank_shift", 1, step))
    network.journal = disk = DiskJournal(network.base_hash, tmp_path)
    for step in range(2):
        network.apply(make_edit(network, "low_rank_shift", 0, step))
    before, x = content(disk), inputs("linear", 5)
    logits, saved, save = network.logits(x), [], module.EditJournal.save

    def disk_full(*args, **kwargs):
        saved.append(args)
        if len(saved) == failing:
            raise OSError("no space left on device")
        return save(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module.EditJournal, "save", disk_full)
        with pytest.raises(OSError, match="no space left"):
            network.replay(other.journal)
    assert content(network.journal) == before
    assert content(DiskJournal(network.base_hash, tmp_path)) == before
    assert torch.equal(network.logits(x), logits)
    network.replay(other.journal)
    assert content(network.journal) == content(other.journal)


def test_where_not_even_the_former_entries_can_be_written_the_weights_are_the_journals(
    network, make_edit, inputs, tmp_path, monkeypatch
):
    other, x = network.fresh(), inputs("linear", 5)
    other.apply(make_edit(other))
    network.journal = DiskJournal(network.base_hash, tmp_path)
    network.apply(make_edit(network))

    def disk_full(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(module.EditJournal, "save", disk_full)
    with pytest.raises(OSError, match="no space left"):
        network.replay(other.journal)
    assert not network.journal.entries
    assert torch.equal(network.logits(x), network.fresh().logits(x))
