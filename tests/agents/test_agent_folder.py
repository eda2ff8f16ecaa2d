"""Which agent `agents.train` leaves in its folder, whatever ends it."""

import itertools
import json
import shutil
import sys
from pathlib import Path

import pytest

from agents import edit, train
from agents.black_box import NoEdit, _Search
from agents.checkpoints import TRAINING, AgentFolder
from agents.hypernetworks.learning import SequenceLearner
from agents.rl.budget import Progress

PPO = ["ppo", "--set", "agent.num_envs=8", "--set", "agent.n_steps=8", "--set"]
PPO += ["agent.batch_size=64", "--reward-calls", "128"]


def train_in_a_world(out, agent, *more):
    return train.main(["--env", "ShiftWorld-v1", "--out", str(out), "--agent", agent, *more])


def stop(*_):
    raise KeyboardInterrupt


# --- a kill at any moment -------------------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.fixture
def killed_after(monkeypatch):
    """`killed_after(count, work)`: do the work, and stop it dead after so many changes of the disk;
    returns whether it was stopped.
    """

    def run(count, work):
        left = itertools.count(count, -1)

        def dying(change):
            def changing(*args, **kwargs):
                if next(left) <= 0:
                    raise Killed
                return change(*args, **kwargs)

            return changing

        with monkeypatch.context() as patch:
            for owner, name in (
                *((Path, name) for name in ("mkdir", "rename", "replace", "unlink", "write_text")),
                (shutil, "rmtree"),
            ):
                patch.setattr(owner, name, dying(getattr(owner, name)))
            try:
                work()
            except Killed:
                return True
        return False

    return run


def is_whole(out):
    """Whose agent there is, by what it says itself and by what its file says."""
    config = json.loads((out / "config.json").read_text())
    says = (out / "agent" / "who").read_text() if (out / "agent" / "who").is_file() else None
    return says, config["agent"]


def has_trained(out, who, **more):
    place = AgentFolder(out)
    place.begin({"agent": who, **more})
    (place.agent / "who").write_text(who)
    place.settle(finished=True)


@pytest.mark.parametrize("end", ["finished", "stopped with something", "stopped with nothing"])
@pytest.mark.parametrize("second", ["other", "old"])
def test_an_agent_and_its_file_belong_together_after_a_kill_at_any_moment(
    tmp_path, killed_after, second, end
):
    def work():
        place = AgentFolder(out)
        place.begin({"agent": second})
        if end != "stopped with nothing":
            (place.agent / "who").write_text("again" if second == "old" else second)
        place.settle(finished=end == "finished")

    for count in itertools.count():
        out = tmp_path / str(count)
        out.mkdir()
        has_trained(out, "old")
        killed = killed_after(count, work)
        AgentFolder(out).recover()
        says, asked = is_whole(out)
        assert (says, asked) in {("old", "old"), ("again", "old"), ("other", "other")}
        assert not (out / "agent.replaced").exists()
        if not killed:
            break
    expected = {
        ("other", "finished"): ("other", "other"),
        ("other", "stopped with something"): ("other", "other"),
        ("other", "stopped with nothing"): ("old", "old"),
        ("old", "finished"): ("again", "old"),
        ("old", "stopped with something"): ("old", "old"),
        ("old", "stopped with nothing"): ("old", "old"),
    }
    assert (says, asked) == expected[second, end]
    assert count > 4


def test_what_an_earlier_version_trained_is_finished(tmp_path):
    has_trained(tmp_path, "old")
    (tmp_path / "config.json").write_text(json.dumps({"agent": "old"}))
    place = AgentFolder(tmp_path)
    place.begin({"agent": "old"})
    assert not place.settle()
    assert is_whole(tmp_path) == ("old", "old")


# --- one command, twice ---------------------------------------------------------------------------


def test_a_finished_agent_survives_the_same_command_interrupted(tmp_path, monkeypatch, capsys):
    assert train_in_a_world(tmp_path, *PPO) == 0
    files = [tmp_path / "config.json", tmp_path / "agent" / "model.zip"]
    before = [file.read_bytes() for file in files]
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "_on_rollout_end", stop)
        assert train_in_a_world(tmp_path, *PPO) == 130
    assert "the agent that was there before is back" in capsys.readouterr().err
    assert [file.read_bytes() for file in files] == before


def on_a_stream(tiny_lm, out, *more):
    stream = ["--set", f"model={tiny_lm}", "--set", "horizon=2", "--set", "edits_per_step=2"]
    arguments = ["--agent", "rledit", "--set", "agent.sequences=3", "--set"]
    arguments += ["agent.validate_every=0", *stream, "--out", str(out), *more]
    return train.main(["--env", "LifelongLLMEdit-v1", *arguments])


def test_an_interrupted_training_goes_on_with_another_time_limit_and_with_nothing_else(
    tiny_lm, tmp_path, monkeypatch, capsys
):
    run, begun = SequenceLearner._sequence, []

    def stopping(self, index):
        begun.append(index)
        if begun == [0, 1]:
            raise KeyboardInterrupt
        return run(self, index)

    monkeypatch.setattr(SequenceLearner, "_sequence", stopping)
    assert on_a_stream(tiny_lm, tmp_path) == 130
    assert (tmp_path / "agent" / TRAINING).is_file()
    assert on_a_stream(tiny_lm, tmp_path, "--seed", "4") == 2
    assert "another interrupted training: seed is 0 there and 4 here" in capsys.readouterr().err
    assert on_a_stream(tiny_lm, tmp_path, "--seconds", "9999") == 0
    assert begun == [0, 1, 1, 2]


def test_a_search_keeps_the_best_that_it_found(tmp_path, monkeypatch, capsys):
    affordable, asked = _Search.affordable, []

    def stopping(self):
        asked.append(self)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return affordable(self)

    monkeypatch.setattr(_Search, "affordable", stopping)
    assert train_in_a_world(tmp_path, "random", "--reward-calls", "1024") == 130
    assert "can be used" in capsys.readouterr().err
    assert edit.main([str(tmp_path), "--no-checks"]) == 0


def test_ctrl_c_before_anything_is_written_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "made_env", stop)
    assert train_in_a_world(tmp_path / "run", "no_edit") == 130
    assert capsys.readouterr().err.strip() == "stopped; nothing was trained"
    assert not (tmp_path / "run").exists()


# --- a stranger's ---------------------------------------------------------------------------------


@pytest.fixture
def strangers(tmp_path, monkeypatch):
    """A module with agents that save in ways of their own."""
    (tmp_path / "strangers.py").write_text(
        "from agents.black_box import NoEdit\n\n\n"
        "class Settings(NoEdit):\n"
        "    def save(self, folder):\n        (folder / 'settings.json').write_text('{}')\n\n\n"
        "class Nothing(NoEdit):\n    def save(self, folder):\n        pass\n\n\n"
        "class Checkpoint(NoEdit):\n"
        "    def learn(self, env_spec, budget, seed, out=None):\n"
        "        (out / 'checkpoint.json').write_text('{}')\n"
        "        raise KeyboardInterrupt\n\n\n"
        "class Search:\n"
        "    name, access, best = 'search', 'reward', None\n\n"
        "    def learn(self, env_spec, budget, seed, out=None):\n"
        "        self.best = 7\n        raise KeyboardInterrupt\n\n"
        "    def edit(self, env):\n        raise AssertionError\n\n"
        "    def save(self, folder):\n        (folder / 'best').write_text(str(self.best))\n\n"
        "    @classmethod\n    def load(cls, folder):\n        return cls()\n\n\n"
        "class Keeper(Search):\n    saves_the_best_yet = True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "strangers"
    sys.modules.pop("strangers", None)


@pytest.mark.parametrize(("name", "files"), [("Settings", ["settings.json"]), ("Nothing", [])])
def test_what_a_stranger_saves_is_whole_whatever_it_is_called(strangers, tmp_path, name, files):
    out = tmp_path / "run"
    assert train_in_a_world(out, f"{strangers}:{name}") == 0
    assert [file.name for file in (out / "agent").iterdir()] == files
    assert json.loads((out / "config.json").read_text())["finished"] is True


def test_a_strangers_checkpoint_is_there_for_the_same_command(strangers, tmp_path, capsys):
    out = tmp_path / "run"
    for _ in range(2):
        assert train_in_a_world(out, f"{strangers}:Checkpoint") == 130
        assert (out / "agent" / "checkpoint.json").is_file()
    assert "the same command hands it that folder again" in capsys.readouterr().err


def test_the_best_that_a_strangers_search_has_found_is_saved_if_it_says_so(strangers, tmp_path):
    assert train_in_a_world(tmp_path / "no", f"{strangers}:Search") == 130
    assert not (tmp_path / "no").exists()
    assert train_in_a_world(tmp_path / "yes", f"{strangers}:Keeper") == 130
    assert (tmp_path / "yes" / "agent" / "best").read_text() == "7"


def test_no_edit_is_trained_anew_where_it_was(tmp_path):
    for _ in range(2):
        assert train_in_a_world(tmp_path, NoEdit.name) == 0
    assert sorted(one.name for one in tmp_path.iterdir()) == ["agent", "config.json"]
