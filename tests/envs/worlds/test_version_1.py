"""What version 1 of the worlds does otherwise: actions, rewards, observations and manners in which
an agent learns as its library has it."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import ClipReward, NormalizeReward
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import VecNormalize

from editgym.envs.sb3 import monitored
from editgym.envs.worlds.common import MOST_FULL, chosen_rank

GIB = 2**30
NEW = ("MaskWorld-v1", "ShiftWorld-v1")


@pytest.fixture(params=NEW)
def world(request):
    """The id of each of the two worlds, in version 1."""
    return request.param


# --- action ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rank", "shapes", "own", "chosen"),
    [
        ("auto", [(32, 128)], 4, "full"),  # 4,096 numbers
        ("auto", [(32, 128), (1, 1)], 4, 4),
        ("auto", [(64, 65)], "full", 4),
        ("auto", [(2, 3000)], "full", 2),  # no more columns than the smallest side
        (None, [(32, 128)], 4, 4),
        (None, [(64, 65)], "full", "full"),
        (7, [(32, 128)], 4, 7),
        ("full", [(64, 65)], 4, "full"),
    ],
)
def test_rank_is_full_up_to_a_size_unless_it_is_given(rank, shapes, own, chosen):
    assert MOST_FULL == 4_096
    assert chosen_rank(rank, shapes, own) == chosen


def test_zero_action_is_no_edit_and_no_saddle_point_of_factors(make, world):
    env = make(world, rank=4)
    env.reset(seed=0)
    action = torch.zeros(env.action_space.shape, requires_grad=True)
    scores = env.differentiable_step(action)
    assert float(scores.reward.detach()) == 0
    assert all(
        torch.equal(now, base)
        for now, base in zip(env.weights, env.network.base_weights, strict=True)
    )
    scores.reward.sum().backward()
    a, b = action.grad.split([4 * 32, 4 * 128])
    assert (a == 0).all()
    assert b.norm() > 1e-4
    saddle = make(world, rank=4, origin="zero")
    saddle.reset(seed=0)
    still = torch.zeros(env.action_space.shape, requires_grad=True)
    saddle.differentiable_step(still).reward.sum().backward()
    assert (still.grad == 0).all()


@pytest.mark.parametrize("rank", [4, "full"])
def test_finite_actions_are_clipped_and_the_journal_has_what_was_applied(make, world, rank):
    env, twin = make(world, rank=rank), make(world, rank=rank, out_of_range="error")
    wild = np.random.default_rng(0).normal(0, 2, env.action_space.shape)
    wild[0] = 1e300  # too large for float32
    for each in (env, twin):
        each.reset(seed=0)
    with pytest.raises(ValueError, match=r"must be in \[-1, 1\]"):
        twin.step(wild.clip(-3, 3))
    seen, expected = env.step(wild), twin.step(wild.clip(-1, 1).astype(np.float32))
    assert seen[1] == expected[1]
    (applied,), (asked,) = env.journal, twin.journal
    assert torch.equal(applied.update.matrix(), asked.update.matrix())


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_an_error_also_where_actions_are_clipped(make, world, number):
    env = make(world)
    env.reset(seed=0)
    action = np.zeros(env.action_space.shape, np.float32)
    action[5] = number
    with pytest.raises(ValueError, match="values that are not finite"):
        env.step(action)
    assert len(env.journal) == 0


def test_clipped_candidates_are_what_clipped_single_environments_are(make, world):
    envs = gym.make_vec(world, num_envs=2)
    envs.reset(seed=3)
    wild = np.random.default_rng(1).normal(0, 2, envs.action_space.shape)
    rewards = envs.step(wild)[1]
    for i, action in enumerate(wild):
        env = make(world)
        env.reset(seed=3 + i)
        assert env.step(action)[1] == pytest.approx(rewards[i], abs=1e-6)


def test_gradient_of_a_clipped_action_is_that_within_the_box(make, world):
    env = make(world)
    env.reset(seed=0)
    action = torch.full(env.action_space.shape, -0.1)
    action[7] = -1.5
    action.requires_grad_()
    env.differentiable_step(action).reward.sum().backward()
    assert action.grad[7] == 0
    assert action.grad.norm() > 0


# --- reward ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"signal": "accuracy"},
        {"probe_weight": 0.5},
        {"forget_samples": 30},  # minus a distance: not linear in accuracies
        {"goals": [3, 5], "batch_size": 64},
    ],
)
def test_rewards_of_an_episode_add_up_to_the_gain_over_no_edit(make, actions, arguments):
    env = make("ShiftWorld-v1", episode_length=3, **arguments)
    absolute = make(
        "ShiftWorld-v1", reward="absolute", shift_limit=0.05, episode_length=1, **arguments
    )
    drawn = actions(env.action_space, 3)
    env.reset(seed=0, options={"goal": 0})
    rewards = [env.step(action)[1] for action in drawn]
    nothing, summed = np.zeros_like(drawn[0]), drawn.sum(0)

    def value(action):
        """V on the same batch, edits being sums in ShiftWorld."""
        large = make(
            "ShiftWorld-v1", reward="absolute", shift_limit=0.15, episode_length=1, **arguments
        )
        large.reset(seed=0, options={"goal": 0})
        return large.step(action)[1]

    absolute.reset(seed=0, options={"goal": 0})
    assert absolute.step(nothing)[1] == pytest.approx(value(nothing))
    assert sum(rewards) == pytest.approx(value(summed / 3) - value(nothing), abs=2e-5)


@pytest.mark.parametrize("number", [1, 3])
def test_no_edit_is_worth_nothing_whatever_came_before(world, actions, number):
    env = gym.make_vec(world, num_envs=number, episode_length=3, goals=[3, 5])
    env.reset(seed=0)
    nothing = np.zeros(env.action_space.shape, np.float32)
    assert (env.step(nothing)[1] == 0).all()
    assert (env.step(actions(env.action_space)[0])[1] != 0).all()
    if world == "ShiftWorld-v1":  # MaskWorld's zero is no edit either, of the weights as they are
        assert (env.step(nothing)[1] == 0).all()


@pytest.mark.parametrize("kind", ["single", "vector"])
def test_normalised_rewards_survive_the_clip_and_the_first_version_s_do_not(world, kind):
    def clipped(env_id):
        """The share of a random policy's normalised rewards that the usual ±10 cuts."""
        random = np.random.default_rng(0)
        if kind == "vector":
            envs = VecNormalize(monitored(gym.make_vec(env_id, num_envs=16)))
            envs.reset()
            size = (16, *envs.action_space.shape)
            rewards = [envs.step(random.uniform(-1, 1, size))[1] for _ in range(12)]
        else:
            env = ClipReward(NormalizeReward(gym.make(env_id)), -10, 10)
            rewards = []
            for _ in range(100):
                env.reset()
                rewards.append(env.step(random.uniform(-1, 1, env.action_space.shape))[1])
        return np.mean(np.abs(rewards) >= 10)

    assert clipped(world) <= 0.5
    assert clipped(world.replace("v1", "v0")) >= 0.9


# --- observation ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ({}, 1),
        ({"episode_length": 2}, 4_096),
        ({"networks": [0, 1]}, 4_096),
        ({"goals": [3, 5]}, 10),
        ({"goals": [3, 5], "episode_length": 2}, 4_106),
        ({"observe_task": True}, 10),
        ({"observe_parameters": ["fc3.bias"]}, 10),
        ({"observe": "weights"}, 4_096),
        ({"observe": "weights", "goals": [3, 5]}, 4_096),
    ],
)
def test_what_can_differ_is_observed(make, world, arguments, size):
    env = make(world, **arguments)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.shape == observation.shape == (size,)
    assert observation in env.observation_space
    envs = gym.make_vec(world, num_envs=2, **arguments)
    assert np.array_equal(envs.reset(seed=0)[0][0], observation)
    if size == 1:
        assert observation.tolist() == [1]


def test_goal_alone_is_observed_where_it_alone_differs(make, world):
    env = make(world, goals=[3, 5])
    for goal, forgotten in enumerate([3, 5]):
        observation, _ = env.reset(options={"goal": goal})
        assert observation.argmax() == forgotten
        assert observation.sum() == 1


def test_sac_with_its_defaults_fits_into_24_gib(world):
    # `np.zeros` takes memory when it is written to: what is counted is what the buffer would fill.
    model = SAC("MlpPolicy", gym.make(world), device="cpu")
    buffer = model.replay_buffer
    arrays = [value for value in vars(buffer).values() if isinstance(value, np.ndarray)]
    assert buffer.buffer_size == 1_000_000
    weights = sum(p.numel() * p.element_size() for p in model.policy.parameters())
    # Adam's two moments and a gradient for each weight.
    assert sum(array.nbytes for array in arrays) + 4 * weights < 24 * GIB


# --- manners --------------------------------------------------------------------------------------


def test_reset_tells_of_the_batch_that_is_scored_next(make, world, actions):
    env = make(world, episode_length=2, goals=[3, 5])
    _, begun = env.reset(seed=1, options={"goal": 1})
    assert (begun["network"], begun["goal"], begun["edit_step"]) == (0, 1, 0)
    assert begun["retain_accuracy"] == begun["retain_accuracy_before"] > 0.9
    for action in actions(env.action_space, 2):
        info = env.step(action)[4]
        assert info.keys() == begun.keys()
        for key in ("network", "goal", "retain_accuracy_before", "forget_accuracy_before"):
            assert info[key] == pytest.approx(begun[key])


def test_first_version_keeps_its_keys_and_can_have_the_new_ones(make, world):
    old = make(world.replace("v1", "v0"))
    assert list(old.reset(seed=0)[1]) == ["network", "goal"]
    asked = make(world.replace("v1", "v0"), uniform_info=True, out_of_range="clip")
    _, begun = asked.reset(seed=0)
    _, _, _, _, info = asked.step(np.full(asked.action_space.shape, 2.0))
    assert begun.keys() == info.keys()


@pytest.mark.parametrize("name", ["origin", "reward", "observe", "out_of_range", "uniform_info"])
def test_unknown_choice_is_an_error_that_names_the_argument(make, world, name):
    with pytest.raises(ValueError, match=f"{name} must be .*, got 'maybe'"):
        make(world, **{name: "maybe"})
