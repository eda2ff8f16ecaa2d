"""Import paths among arguments and settings: their modules are imported first, and told apart."""

import hashlib
import sys

import pytest

from benchmarks.harness.fingerprints import fingerprints
from benchmarks.harness.measure import run_cell
from benchmarks.harness.strangers import import_strangers, module_hashes
from benchmarks.results import Cell
from editgym.weights import EditJournal

# The environment is registered by a module that nothing names but one of its arguments.
ORACLE = """
import gymnasium as gym


class Mentioned(gym.Env):
    def __init__(self, task, oracle):
        raise RuntimeError("made")


gym.register("Mentioned-v0", entry_point=Mentioned)
answer = 7
"""
TEXTS = {
    "sentence": "Note: a colon",
    "url": "http://example.org:80/x",
    "drive": "C:\\data\\x.csv",
    "device": "cuda:0",
    "layers": "model.layers.3:down_proj",
    "looks_like_one": "no_such_module_anywhere:name",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Modules that nobody has imported yet."""
    (tmp_path / "mentioned_oracle.py").write_text(ORACLE)
    (tmp_path / "mentioned_reward.py").write_text("class Reward:\n    pass\n")
    (tmp_path / "mentioned_broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("mentioned_oracle", "mentioned_reward", "mentioned_broken"):
        sys.modules.pop(name, None)


def cell(**changes):
    fields = {
        "env_kwargs": {
            "task": "mine",
            "oracle": {"kinds": [{"path": "mentioned_oracle:answer"}]},
            **TEXTS,
        },
        "agent_config": {},
        "settings": {"rewards": {"second": ["mentioned_reward:Reward"]}},
        **changes,
    }
    return Cell(suite="own", env_id="Mentioned-v0", agent="no_edit", seed=0, **fields)


def test_paths_are_found_however_deep_and_other_texts_are_none():
    assert cell().strangers == (
        "mentioned_oracle:answer",
        "no_such_module_anywhere:name",
        "mentioned_reward:Reward",
    )


def test_what_was_typed_counts_as_well_as_the_settings_in_full():
    typed = cell(agent_config={"reward": "mentioned_reward:Reward"}, settings={})
    assert "mentioned_reward:Reward" in typed.strangers


def test_modules_of_mentioned_paths_are_hashed(folder):
    hashes = module_hashes(cell())
    assert hashes == {
        name: hashlib.sha256((folder / f"{name}.py").read_bytes()).hexdigest()
        for name in ("mentioned_oracle", "mentioned_reward")
    }
    (folder / "mentioned_reward.py").write_text("class Reward:\n    better = True\n")
    changed = module_hashes(cell())
    assert changed["mentioned_reward"] != hashes["mentioned_reward"]
    assert changed["mentioned_oracle"] == hashes["mentioned_oracle"]


def test_modules_of_mentioned_paths_are_imported_before_anything_is_made(folder):
    named = cell(env_kwargs={"task": "mine", "oracle": "mentioned_oracle:answer"})
    row = run_cell(named).row
    assert row["error"] == "RuntimeError: made"
    assert set(row["modules"]) == {"mentioned_oracle", "mentioned_reward"}


def test_a_mentioned_module_that_is_broken_is_left_to_who_takes_it(folder):
    import_strangers(cell(env_kwargs={"task": "mine", "text": "mentioned_broken:name"}))
    with pytest.raises(ZeroDivisionError):
        import_strangers(cell(env_kwargs={"task": "mentioned_broken:task"}))


def test_files_are_fingerprinted_however_deep(tmp_path, empty_data_folder):
    empty_data_folder.mkdir()
    (empty_data_folder / "deep.csv").write_text("a")
    given = {"model_kwargs": {"files": ["deep.csv", "x" * 5_000]}}
    found = fingerprints(_NoEnv(), given, EditJournal("base"))
    assert found["files"] == {"deep.csv": hashlib.sha256(b"a").hexdigest()}


class _NoEnv:
    """An environment that shows nothing."""

    unwrapped = None
