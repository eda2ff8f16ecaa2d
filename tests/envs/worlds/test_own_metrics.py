"""Metrics of one's own join an evaluation under their function's name."""

import json
import sys
from pathlib import Path

import gymnasium as gym
import pytest

sys.path.insert(0, str(Path(__file__).parent))

OWN = "own_goals:regression"


@pytest.fixture
def evaluated(make, actions):
    """`evaluated(*metrics)`: the environment after one edit, and its evaluation's metrics."""

    def run(*metrics, task=OWN):
        env = make("ShiftWorld-v0", task=task, metrics=list(metrics))
        env.reset(seed=0)
        env.step(actions(env.action_space)[0])
        return env, env.evaluate(env.journal).metrics

    return run


def test_own_metrics_join_the_tasks(evaluated):
    env, metrics = evaluated("own_goals:right_share", "own_goals:wrecks")
    assert list(metrics) == ["own_accuracy", "right_share", "wrecks"]
    assert metrics["right_share"] == metrics["own_accuracy"]
    assert metrics["wrecks"] is None
    assert len(env.journal) == 1, "a metric that changes its network changes a copy"


def test_every_metric_has_a_network_of_its_own(evaluated):
    metrics = evaluated("own_goals:wrecks", "own_goals:right_share")[1]
    assert metrics["right_share"] == metrics["own_accuracy"]


def test_they_are_a_part_of_the_spec_and_vectors_take_them():
    env = gym.make("editgym:MaskWorld-v0", metrics=["own_goals:right_share"])
    assert json.loads(env.spec.to_json())["kwargs"]["metrics"] == ["own_goals:right_share"]
    many = gym.make_vec("editgym:MaskWorld-v0", num_envs=2, metrics=["own_goals:right_share"])
    many.reset(seed=0)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (
            "own_goals:right_share",
            r"metrics must be a list such as \[\"package.module:function\"\]",
        ),
        ([3], "metrics: 3 is no import path: write package.module:function"),
        (["own_goals:nothing"], "metrics: cannot import 'own_goals:nothing'"),
        (["nowhere:metric"], "metrics: cannot import the module 'nowhere'"),
        (["math:pi"], r"'math:pi' must be a function .*`def pi\(network, task, goal\)`"),
        (["own_goals:of_the_network_alone"], "must be a function of the edited network, the task"),
        (
            ["own_goals:right_share", "own_goals:right_share"],
            "is the second function called 'right_share'",
        ),
    ],
)
def test_what_is_no_metric_is_refused_when_the_environment_is_made(make, world, metrics, message):
    with pytest.raises(ValueError, match=message):
        make(world, metrics=metrics)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("own_accuracy", "own/score has a metric 'own_accuracy' of its own"),
        ("not_a_number", "not_a_number must return a finite number, .* got nan"),
        ("a_tensor", r"a_tensor must return a finite number, .* got tensor\(1.\)"),
    ],
)
def test_what_cannot_stand_in_a_row_is_an_error(evaluated, metric, message):
    with pytest.raises(ValueError, match=message):
        evaluated(f"own_goals:{metric}")
