"""Files and folders are written whole or not at all."""

import os
import threading

import pytest

from editgym.paths import renewed_folder, whole_file, whole_folder


def test_a_file_takes_its_place_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with whole_file(path) as partial:
        partial.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("stop", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_file_before(tmp_path, stop):
    path = tmp_path / "file.txt"
    path.write_text("before")

    def write():
        with whole_file(path) as partial:
            partial.write_text("half")
            raise stop

    with pytest.raises(type(stop)):
        write()
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def contents(folder):
    """Every entry by its path, files with their text."""
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("empty", [False, True])
def test_a_folder_takes_its_place_when_it_is_whole(tmp_path, empty):
    path = tmp_path / "new" / "folder"
    if empty:
        path.mkdir(parents=True)
    with whole_folder(path) as partial:
        (partial / "file.txt").write_text("one")
        assert not (path / "file.txt").exists()
    assert contents(path.parent) == {"folder": None, "folder/file.txt": "one"}


@pytest.mark.parametrize("stop", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("replace", [False, True])
def test_an_interrupted_write_leaves_the_folder_before(tmp_path, stop, replace):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file.txt").write_text("before")

    def write():
        with whole_folder(tmp_path / "folder", replace) as partial:
            (partial / "file.txt").write_text("half")
            raise stop

    with pytest.raises(type(stop)):
        write()
    assert contents(tmp_path) == {"folder": None, "folder/file.txt": "before"}


def test_a_folder_replaces_another_only_where_it_may(tmp_path):
    def write(replace, text):
        with whole_folder(tmp_path / "folder", replace) as partial:
            (partial / "file.txt").write_text(text)

    write(False, "one")
    with pytest.raises(OSError, match="not empty"):
        write(False, "two")
    assert contents(tmp_path) == {"folder": None, "folder/file.txt": "one"}
    write(True, "three")
    assert contents(tmp_path) == {"folder": None, "folder/file.txt": "three"}


def test_a_folder_that_cannot_be_replaced_is_put_back(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file.txt").write_text("before")
    rename = os.rename

    def failing(source, target):
        if str(source).endswith("new"):
            raise OSError("no")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="no"), whole_folder(tmp_path / "folder", replace=True):
        pass
    assert contents(tmp_path) == {"folder": None, "folder/file.txt": "before"}


def test_threads_may_write_one_file_at_a_time(tmp_path):
    path, failed = tmp_path / "file.txt", []

    def write(word):
        try:
            for _ in range(100):
                with whole_file(path) as partial:
                    partial.write_text(word * 1_000)
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(word,)) for word in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert path.read_text() in {word * 1_000 for word in "abc"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_what_else_lies_in_a_renewed_folder_stays(tmp_path):
    folder = tmp_path / "folder"
    (folder / "inside").mkdir(parents=True)
    for name in ("kept", "old", "stale.1", "inside/kept"):
        (folder / name).write_text("before")
    with renewed_folder(folder, ["stale.*"]) as partial:
        assert not list(partial.iterdir())
        (partial / "old").write_text("after")
        (partial / "new").write_text("after")
    found = {str(one.relative_to(folder)): one for one in folder.rglob("*") if one.is_file()}
    assert found.keys() == {"kept", "old", "new", "inside/kept"}
    assert {name for name, one in found.items() if one.read_text() == "after"} == {"old", "new"}
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]


def test_a_folder_whose_renewal_is_interrupted_is_as_it_was(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").write_text("before")

    def interrupted():
        with renewed_folder(folder) as partial:
            (partial / "old").write_text("after")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (folder / "old").read_text() == "before"
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]
    with pytest.raises(OSError, match="is no folder"), renewed_folder(folder / "old"):
        pass
    with renewed_folder(tmp_path / "deep" / "new") as partial:
        (partial / "file").touch()
    assert (tmp_path / "deep" / "new" / "file").is_file()
