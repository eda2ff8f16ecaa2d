"""Unlearning algorithms as agents: in worlds, by their names, with a seed."""

import gymnasium as gym
import pytest
import torch

from agents.catalogue import make_agent
from agents.protocol import Budget, Unsupported
from agents.unlearning.agent import NAMES, Unlearner


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("-site")])
def test_on_sites_alone_nothing_else_changes(name):
    env = gym.make("MaskWorld-v0", sites=["fc2", "conv2"])
    journal = make_agent(name).edit(env)
    (entry,) = journal
    assert set(entry.tensors) == {"fc2.weight", "conv2.weight"}


@pytest.mark.parametrize(
    "name", ["random_labels", "ssd", "salun", "scrub", "random_labels-site", "salun-site"]
)
def test_forgets_on_the_digits(name):
    env = gym.make("MaskWorld-v0", model_seed=3)
    make_agent(name).edit(env)
    task, network = env.unwrapped.task, env.unwrapped.network
    assert task.accuracies(network)["forget_accuracy"] <= 0.1
    assert task.accuracies(network)["retain_accuracy"] > 0.8


def test_seed_decides():
    edits = []
    for seed in (0, 0, 1):
        agent = make_agent("salun", epochs=1)
        agent.learn(gym.spec("MaskWorld-v0"), Budget(), seed=seed)
        (entry,) = agent.edit(gym.make("MaskWorld-v0"))
        edits.append(entry.tensors["fc2.weight"])
    assert torch.equal(edits[0], edits[1])
    assert not torch.equal(edits[0], edits[2])


def test_wrong_names_are_named():
    with pytest.raises(ValueError, match=r"there is no 'ssdd'.*ssd-site"):
        Unlearner("ssdd")
    with pytest.raises(
        ValueError, match=r"ssd: unknown setting 'beta'.*there are: alpha, dampening"
    ):
        make_agent("ssd", beta=0.5)


def test_another_kind_of_task_is_refused():
    with pytest.raises(Unsupported, match="not an unlearning task"):
        make_agent("ssd").learn(gym.spec("LifelongLLMEdit-v0"), Budget(), seed=0)
