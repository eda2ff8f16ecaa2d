"""Unlearning algorithms as agents: in worlds, by their names, with a seed."""

from dataclasses import dataclass

import gymnasium as gym
import pytest
import torch

from agents.catalogue import make_agent
from agents.configured import Settings, setting
from agents.edit import with_settings
from agents.protocol import Budget, Unsupported
from agents.unlearning.agent import NAMES, Unlearner, UnlearningAlgorithm
from editgym.checks import whole
from envs_registry import environment_spec


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


@dataclass(frozen=True, kw_only=True)
class OwnSettings(Settings):
    epochs: int = setting(1, whole(1))


class Own(UnlearningAlgorithm):
    """An algorithm of one's own, which notes its seed."""

    name, settings_type = "own", OwnSettings

    def forget(self, model, sets):
        self.notes = (f"seed {sets.seed}, {self.settings.epochs} epochs",)


@pytest.mark.parametrize(("given", "seed"), [({}, 5), ({"seed": 7}, 7), ({"seed": 0}, 0)])
def test_an_algorithm_of_one_s_own_keeps_its_seed(given, seed, tmp_path):
    agent = make_agent(f"{__name__}:Own", epochs=2, **given)
    agent.learn(gym.spec("MaskWorld-v0"), Budget(), seed=5)
    agent.save(tmp_path)
    loaded = Own.load(tmp_path)
    other = with_settings(f"{__name__}:Own", loaded, {"epochs": 3}, "--set")
    for one, epochs in ((agent, 2), (loaded, 2), (other, 3)):
        one.edit(gym.make("MaskWorld-v0"))
        assert one.notes == (f"seed {seed}, {epochs} epochs",)
        assert one.resolved(None).as_dict() == {"epochs": epochs}


@pytest.mark.parametrize(
    ("name", "env_id", "kwargs"),
    [
        ("salun", "MaskWorld-v0", {}),
        ("loc_ft_bf", "LifelongLLMEdit-v0", {}),
        ("cda_reweight", "ShiftWorld-v0", {"task": "debiasing/templates"}),
    ],
)
def test_a_seed_that_was_given_goes_before_learn_s(name, env_id, kwargs, tmp_path):
    spec = environment_spec(env_id, kwargs)
    for given, kept in (({}, 1), ({"seed": 7}, 7)):
        agent = make_agent(name, **given)
        agent.learn(spec, Budget(), seed=0)
        agent.learn(spec, Budget(), seed=1)
        agent.save(tmp_path)
        assert agent.config["seed"] == type(agent).load(tmp_path).config["seed"] == kept


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
