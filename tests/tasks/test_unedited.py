"""The accuracies of networks before any edit."""

import gymnasium as gym
import pytest
import torch

from agents import train
from editgym.tasks import make_task
from editgym.tasks.unedited import unedited_accuracies, unedited_lines
from editgym.tasks.unlearning.backdoor import TARGET, with_trigger


@pytest.mark.parametrize("arguments", [{"goals": [3, [0, 6]]}, {"forget_samples": 40}])
def test_they_are_those_of_all_reward_data(arguments):
    task = make_task("unlearning/digits", **arguments)
    last = len(task.goals) - 1
    found = unedited_accuracies(task, 0, last)
    model = task.networks[0].merged()
    with torch.no_grad():
        right = (model(task.pool.inputs).argmax(-1) == task.pool.labels).double()
    assert found == {
        f"{name}_accuracy": pytest.approx(float(right[rows].mean()))
        for name, rows in task.goals[last].members.items()
    }


def test_an_environment_has_those_of_its_episode():
    env = gym.make("editgym:ShiftWorld-v0", goals=[1, 2], networks=[0, 1]).unwrapped
    with pytest.raises(gym.error.ResetNeeded, match="call reset"):
        _ = env.unedited
    _, info = env.reset(seed=0, options={"network": 1, "goal": 1})
    assert set(info) == {"network", "goal"}
    before = env.unedited
    assert before == unedited_accuracies(env.task, 1, 1)
    env.step(env.action_space.sample())
    assert env.unedited == before


def test_a_task_with_a_score_of_its_own_says_what_is_right(tmp_path):
    env = gym.make("editgym:MaskWorld-v1", task="unlearning/backdoor").unwrapped
    env.reset(seed=0)
    found, splits = env.unedited, env.task.splits
    policy, model = splits.policy, env.task.networks[0].merged()
    marked = with_trigger(policy.inputs[policy.labels != TARGET])
    with torch.no_grad():
        clean = model(policy.inputs).argmax(-1) == policy.labels
        triggered = model(marked).argmax(-1) != TARGET
    assert found == {
        "clean_accuracy": pytest.approx(float(clean.double().mean())),
        "triggered_accuracy": pytest.approx(float(triggered.double().mean())),
    }
    arguments = ["--env", "MaskWorld-v1", "--agent", "no_edit", "--set", f"task={env.task.name}"]
    assert train.main([*arguments, "--out", str(tmp_path / "run")]) == 0


def test_of_many_networks_and_goals_the_first_are_told():
    task = make_task("unlearning/digits", goals=list(range(9)), networks=[0, 1])
    lines = unedited_lines(task)
    assert len(lines) == 9
    assert lines[0].startswith("unedited, on the reward data, network 0, forget 0: retain_accuracy")
    assert lines[-1] == "… and 10 more networks and goals"


def test_training_begins_by_telling_them(tmp_path, capsys):
    arguments = ["--env", "ShiftWorld-v0", "--agent", "no_edit", "--set", "forget_class=4"]
    assert train.main([*arguments, "--out", str(tmp_path / "run")]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    retain, forget = unedited_accuracies(make_task("unlearning/digits", forget_class=4)).values()
    assert first == (
        f"unedited, on the reward data, forget 4: retain_accuracy {retain:.2%},"
        f" forget_accuracy {forget:.2%}"
    )


def test_streams_have_none(tmp_path, capsys):
    arguments = ["--env", "LifelongLLMEdit-v1", "--agent", "no_edit"]
    assert train.main([*arguments, "--out", str(tmp_path / "run")]) == 0
    assert "unedited" not in capsys.readouterr().out
