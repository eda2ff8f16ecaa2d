"""Every environment fulfils its contracts, through any wrappers; an error names what is missing."""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import editgym.envs.protocol as contracts
from editgym.envs import metering
from editgym.envs.protocol import (
    Unsupported,
    candidate_env,
    edit_env,
    gradient_env,
    gradient_world,
    is_stream,
    open_env,
    open_world,
    stream_env,
)
from editgym.weights import ActionLayout, EditJournal
from envs_registry import ENVIRONMENTS

EVERY = (edit_env, gradient_env, open_env)
OF_WORLDS = (gradient_world, open_world)
OF_STREAMS = (candidate_env, stream_env)
SMALL_STREAM = {"horizon": 2, "edits_per_step": 2, "back_depth": 1}


@dataclass(frozen=True)
class Offer:
    """An environment's arguments, what it offers beside what every one does, and what it does
    not."""

    arguments: dict[str, Any]
    also: tuple
    lacks: tuple
    choices: dict[str, int]


WORLD = Offer(
    {"episode_length": 2, "goals": [1, [2, 3], 4]},
    OF_WORLDS,
    OF_STREAMS,
    {"network": 1, "goal": 3},
)
OFFERS = {
    "MaskWorld-v0": WORLD,
    "ShiftWorld-v0": WORLD,
    "MaskWorld-v1": WORLD,
    "ShiftWorld-v1": WORLD,
    "LifelongLLMEdit-v0": Offer(SMALL_STREAM, OF_STREAMS, OF_WORLDS, {}),
    "LifelongLLMEdit-v1": Offer(SMALL_STREAM, OF_STREAMS, OF_WORLDS, {}),
}  # a new one needs a row

of_every_environment = pytest.mark.parametrize("env_id", [row.id for row in ENVIRONMENTS])


def made(env_id, **arguments):
    """An environment within two more wrappers than `gym.make` puts around it."""
    env = gym.make(f"editgym:{env_id}", **{**OFFERS[env_id].arguments, **arguments})
    return gym.wrappers.RecordEpisodeStatistics(gym.wrappers.FlattenObservation(env))


def members(contract):
    return set(contracts.members(contract))


@of_every_environment
def test_what_is_offered_is_the_environment_beneath_all_wrappers(env_id):
    env = made(env_id)
    for offered in (*EVERY, *OFFERS[env_id].also):
        assert offered(env) is env.unwrapped
    assert is_stream(env) == (OFFERS[env_id].also is OF_STREAMS)


@of_every_environment
def test_an_error_names_the_contract_and_what_the_environment_lacks(env_id):
    env = made(env_id)
    for offered in OFFERS[env_id].lacks:
        contract = getattr(contracts, offered.__annotations__["return"])
        with pytest.raises(Unsupported, match=f"is no {contract.__name__}: it lacks ") as caught:
            offered(env)
        lacking = {name for name in members(contract) if not hasattr(env.unwrapped, name)}
        named = str(caught.value).split("it lacks ")[1].removesuffix(" (editgym.envs.protocol)")
        meant = "worlds, such as MaskWorld-v1" if is_stream(env) else "streams of facts, such as Li"
        assert str(caught.value).startswith(f"it works on {meant}")
        assert lacking
        assert set(named.split(", ")) == lacking


@of_every_environment
def test_the_parts_are_what_the_contract_says(env_id):
    env = made(env_id)
    _, info = env.reset(seed=0)
    edited = edit_env(env)
    assert isinstance(edited.layout, ActionLayout)
    assert isinstance(edited.journal, EditJournal)
    assert edited.action_space.shape == env.action_space.shape
    assert edited.episode_length == 2
    assert edited.choices == OFFERS[env_id].choices
    for name, number in edited.choices.items():
        assert 0 <= info[name] < number
        assert env.reset(options={name: number - 1})[1][name] == number - 1
    assert open_env(env).network.base_hash == edited.journal.base_hash
    over = False
    while not over:
        over = env.step(env.action_space.sample())[2]
    assert edited.journal.steps == edited.episode_length
    assert edited.evaluate(edited.journal).metrics


@of_every_environment
def test_the_differentiable_step_has_a_gradient_to_the_action(env_id):
    env = made(env_id)
    env.reset(seed=0)
    drawn = np.random.default_rng(0).uniform(-0.5, 0.5, env.action_space.shape)
    action = torch.tensor(drawn, dtype=torch.float32, requires_grad=True)
    gradient_env(env).differentiable_step(action).reward.sum().backward()
    assert action.grad.any()
    assert len(edit_env(env).journal) > 0


class Half(gym.Env):
    """An environment of somebody's that has a part of the contract."""

    observation_space = action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    layout = ActionLayout(((2, 2),), 1)
    journal = EditJournal("half")


def test_an_environment_of_ones_own_is_told_what_it_lacks():
    with pytest.raises(Unsupported, match="EditEnv: it lacks episode_length, choices, evaluate "):
        edit_env(Half())
    whole = type(
        "Whole", (Half,), {"episode_length": 1, "choices": {}, "evaluate": lambda *_: None}
    )()
    assert edit_env(whole) is whole
    with pytest.raises(Unsupported, match="OpenEnv: it lacks task, network "):
        open_env(whole)
    assert not is_stream(whole)


# --- a world's reward by its weights --------------------------------------------------------------


@pytest.fixture
def begun(world):
    env = made(world, goals=[3, 7], networks=[0, 1], probe_weight=0.5)
    env.reset(seed=0, options={"network": 1, "goal": 1})
    return env


def test_the_cost_is_minus_the_reward_of_the_episodes_network_and_goal(begun):
    offered, task = gradient_world(begun), open_world(begun).task
    rewards = task.rewards
    scores = {}
    for name in task.set_names:
        rows = task.goals[1].members[name]
        if len(rows) > 512:
            drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
            rows = rows[drawn[:512]]
        logits = task.networks[1].logits(task.pool.inputs[rows])
        own = logits.softmax(-1).gather(1, task.pool.labels[rows].unsqueeze(1))
        scores[name] = own.mean().reshape(1)
    found = offered.cost_gradient(offered.weights)
    plain = float(rewards.alpha * task.utility(scores) + rewards.beta * task.edit(scores))
    probed = found.cost + plain  # 0.5 · P, of features that tell the class
    assert 0.4 < probed <= 0.5
    assert [g.shape for g in found.gradients] == [w.shape for w in offered.weights]


def test_the_gradient_is_the_costs_slope(begun):
    offered = gradient_world(begun)
    found = offered.cost_gradient(offered.weights)
    (gradient,) = found.gradients
    step = 1e-3 * gradient / gradient.norm()
    ends = [offered.cost_gradient([offered.weights[0] + sign * step]).cost for sign in (1, -1)]
    assert (ends[0] - ends[1]) / 2e-3 == pytest.approx(float(gradient.norm()), rel=0.05)


def test_a_gradient_counts_one_reward_call_and_applies_nothing(begun):
    offered = gradient_world(begun)
    before = [weight.clone() for weight in offered.weights]
    with metering.count_reward_calls() as meter:
        first, second = (offered.cost_gradient(offered.weights) for _ in range(2))
    assert meter.calls == 2
    assert len(edit_env(begun).journal) == 0
    assert all(torch.equal(a, b) for a, b in zip(before, offered.weights, strict=True))
    assert first.cost == second.cost, "the sample is always the same"
    assert all(torch.equal(a, b) for a, b in zip(first.gradients, second.gradients, strict=True))


def test_there_is_no_gradient_before_the_goal_is_drawn(world):
    env = made(world)
    offered = gradient_world(env)
    with pytest.raises(gym.error.ResetNeeded, match=r"call reset\(\)"):
        offered.cost_gradient(offered.weights)


def test_a_streams_candidates_are_scored_as_their_steps_are(tiny_lm):
    env = made("LifelongLLMEdit-v0", model=tiny_lm)
    env.reset(seed=0)
    offered = candidate_env(env)
    actions = np.stack([offered.training_free_action(), 0.5 * offered.training_free_action()])
    with metering.count_reward_calls() as meter:
        rewards = offered.candidate_rewards(actions)
    assert meter.calls == 2
    assert len(offered.journal) == 0
    for action, reward in zip(actions, rewards.tolist(), strict=True):
        env.reset(seed=0)
        assert env.step(action)[1] == pytest.approx(reward, rel=1e-4)
