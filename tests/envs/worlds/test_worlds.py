"""Transitions, rewards and arguments of MaskWorld and ShiftWorld, by numbers worked out by hand."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from editgym.tasks import make_task
from editgym.weights import Mask, Shift


def constant_action(env, a, b):
    """A all `a`, B all `b`, for every site."""
    parts = []
    for rows, columns in env.layout.shapes:
        parts += [np.full(rows * env.layout.rank, a), np.full(env.layout.rank * columns, b)]
    return np.concatenate(parts).astype(np.float32)


def base(env):
    return env.task.networks[0].base_weights[0].numpy()


# --- transition -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "kept"),
    [
        (0.5, -0.5, 0.5),  # D = 4 · (−0.25) / √4 = −0.5
        (1.0, -0.25, 0.5),
        (1.0, -1.0, 0.0),  # D = −2, clipped to −1
        (0.5, 0.5, 1.0),  # D = 0.5: a mask above one is one
        (0.0, 1.0, 1.0),
    ],
)
def test_mask_world_scales_the_weights(make, a, b, kept):
    env = make("MaskWorld-v0")
    env.reset(seed=0)
    env.step(constant_action(env, a, b))
    np.testing.assert_allclose(env.network.weights[0].numpy(), kept * base(env), rtol=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "added"),
    [(0.5, -0.5, -0.025), (0.5, 0.5, 0.025), (1.0, 1.0, 0.05), (-1.0, 1.0, -0.05), (0.0, 1.0, 0.0)],
)
def test_shift_world_adds_to_the_weights(make, a, b, added):
    env = make("ShiftWorld-v0")
    env.reset(seed=0)
    env.step(constant_action(env, a, b))
    np.testing.assert_allclose(env.network.weights[0].numpy() - base(env), added, atol=1e-7)


def test_shift_limit_is_the_most_that_a_step_adds(make):
    env = make("ShiftWorld-v0", shift_limit=0.5)
    env.reset(seed=0)
    env.step(constant_action(env, 1, 1))
    np.testing.assert_allclose(env.network.weights[0].numpy() - base(env), 0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("world", "expected"),
    [("MaskWorld-v0", lambda w: w * 0.5**4), ("ShiftWorld-v0", lambda w: w - 4 * 0.025)],
)
def test_edits_compound_within_an_episode_of_four(make, world, expected):
    env = make(world, episode_length=4)
    env.reset(seed=0)
    for _ in range(4):
        env.step(constant_action(env, 0.5, -0.5))
    np.testing.assert_allclose(env.network.weights[0].numpy(), expected(base(env)), atol=1e-6)
    env.reset()
    assert np.array_equal(env.network.weights[0].numpy(), base(env))


def test_with_full_rank_the_action_is_the_update(make, actions):
    env = make("ShiftWorld-v0", rank="full")
    assert env.action_space.shape == (32 * 128,)
    env.reset(seed=0)
    (action,) = actions(env.action_space)
    env.step(action)
    np.testing.assert_allclose(
        env.network.weights[0].numpy(), base(env) + 0.05 * action.reshape(32, 128), atol=1e-6
    )


@pytest.fixture
def edits(world, monkeypatch):
    """The shapes of all matrices that the world's operator has edited, a list that grows."""
    operator, seen = {"MaskWorld-v0": Mask, "ShiftWorld-v0": Shift}[world], []
    edited = operator.edited

    def counting(self, weight, update):
        seen.append(tuple(weight.shape))
        return edited(self, weight, update)

    monkeypatch.setattr(operator, "edited", counting)
    return seen


SITES = {"sites": ["conv2", "fc3"], "rank": 3}
SHAPES = [(32, 144), (10, 32)]


def test_a_step_makes_one_edit_of_every_site(make, world, actions, edits):
    env = make(world, episode_length=3, **SITES)
    env.reset(seed=0)
    for steps, action in enumerate(actions(env.action_space, 3), start=1):
        env.step(action)
        assert edits == SHAPES * steps
    env.reset()
    assert edits == SHAPES * 3


def test_a_differentiable_step_makes_one_edit_of_every_site(make, world, actions, edits):
    env = make(world, episode_length=3, **SITES)
    env.reset(seed=0)
    for steps, action in enumerate(actions(env.action_space, 3), start=1):
        env.differentiable_step(torch.from_numpy(action).requires_grad_()).reward[0].backward()
        assert edits == SHAPES * steps


def test_a_vector_step_edits_all_candidates_at_once(world, actions, edits):
    env = gym.make_vec(world, num_envs=3, episode_length=3, **SITES)
    env.reset(seed=0)
    for steps, action in enumerate(actions(env.action_space, 3), start=1):
        env.step(action)
        assert edits == [(3, *shape) for shape in SHAPES] * steps


def test_network_and_candidate_hold_the_same_weights_bitwise(make, world, actions):
    env, vector = (
        make(world, episode_length=4, **SITES),
        gym.make_vec(world, num_envs=1, episode_length=4, **SITES),
    )
    env.reset(seed=0)
    vector.reset(seed=0)
    for action in actions(env.action_space, 3):
        env.step(action)
        vector.step(action[None])
        for own, stepped in zip(env.network.weights, vector.candidates.weights, strict=True):
            assert torch.equal(own, stepped[0])


def test_an_interrupted_step_leaves_the_weights_as_they_were(make, world, actions, monkeypatch):
    env, whole = make(world, episode_length=3), make(world, episode_length=3)
    first, second = actions(env.action_space, 2)
    for one in (env, whole):
        one.reset(seed=0)
        one.step(first)
    before = env.network.state_dict()

    def interrupted(self, scores):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(env.task), "utility", interrupted)
        with pytest.raises(KeyboardInterrupt):
            env.step(second)
    assert all(torch.equal(t, before[name]) for name, t in env.network.state_dict().items())
    assert env.journal.steps == 1
    again, expected = env.step(second), whole.step(second)
    assert again[1] == expected[1], "it is scored on the batch that it would have been scored on"
    assert again[4] == expected[4]


def test_a_changed_action_changes_no_journal(make, world, actions):
    """An optimiser changes its action in place between steps."""
    env = make(world, episode_length=2)
    env.reset(seed=0)
    action = torch.from_numpy(actions(env.action_space)[0])
    env.differentiable_step(action)
    before = env.network.weights[0].clone()
    action.zero_()
    twin = env.network.fresh()
    twin.replay(env.journal)
    assert torch.equal(twin.weights[0], before)


@pytest.mark.parametrize("sites", [["fc2"], ["fc3", "conv1"]])
@pytest.mark.parametrize("rank", [1, 4])
def test_spaces_follow_sites_and_rank(make, world, sites, rank):
    env = make(world, sites=sites, rank=rank)
    shapes = [{"fc2": (32, 128), "fc3": (10, 32), "conv1": (16, 9)}[site] for site in sites]
    assert env.action_space.shape == (sum(rank * (rows + columns) for rows, columns in shapes),)
    assert env.observation_space.shape == (sum(rows * columns for rows, columns in shapes),)
    assert (env.action_space.low.min(), env.action_space.high.max()) == (-1, 1)
    assert env.action_space.dtype == env.observation_space.dtype == np.float32


# --- observation ----------------------------------------------------------------------------------


def test_observation_is_the_current_weights_in_the_order_of_sites(make, world, actions):
    env = make(world, sites=["fc3", "conv1"])
    seen = [env.reset(seed=0)[0], env.step(actions(env.action_space)[0])[0]]
    for observation, weights in zip(
        seen, (env.task.networks[0].base_weights, env.network.weights), strict=True
    ):
        assert np.array_equal(
            observation, np.concatenate([weight.numpy().ravel() for weight in weights])
        )


def test_observation_is_clipped_to_its_bound(make, world):
    env = make(world, observation_bound=0.01)
    observation = env.reset(seed=0)[0]
    assert np.array_equal(observation, np.clip(base(env).ravel(), -0.01, 0.01))
    assert (env.observation_space.high.max(), env.observation_space.low.min()) == (
        np.float32(0.01),
        -np.float32(0.01),
    )


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ({"max_raw_observation": 4096}, 4096),
        ({"max_raw_observation": 4095}, 1024),
        ({"max_raw_observation": 10, "projection_size": 7}, 7),
        ({"max_raw_observation": 10, "projection_size": 7, "observe_task": True}, 17),
    ],
)
def test_more_weights_than_may_be_shown_are_projected(make, world, arguments, size):
    env = make(world, **arguments)
    observation = env.reset(seed=0)[0]
    assert env.observation_space.shape == observation.shape == (size,)
    assert env.observation_space.contains(observation)


def test_task_is_observed_when_asked_for(make, world):
    env = make(world, goals=[7, [1, 4]], observe_task=True)
    assert env.observation_space.shape == (4096 + 10,)
    for goal, classes in enumerate(([7], [1, 4])):
        observation, info = env.reset(options={"goal": goal})
        assert info["goal"] == goal
        assert np.flatnonzero(observation[4096:]).tolist() == classes
        assert env.step(np.zeros(env.action_space.shape, np.float32))[0][4096:].sum() == len(
            classes
        )


# --- reward ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "alpha", "beta"),
    [
        ({}, 3, -2),
        ({"forget_samples": 50}, 3, 2),
        ({"alpha": 10, "beta": 0.5}, 10, 0.5),
        ({"alpha": 0, "beta": 0}, 0, 0),
    ],
)
def test_reward_is_alpha_utility_plus_beta_edit(make, world, actions, arguments, alpha, beta):
    env = make(world, **arguments)
    env.reset(seed=0)
    _, reward, _, _, info = env.step(actions(env.action_space)[0])
    assert reward == pytest.approx(alpha * info["utility"] + beta * info["edit"], abs=1e-6)


def test_accuracy_signal_scores_what_is_predicted(make, world, actions):
    env = make(world, signal="accuracy")
    env.reset(seed=0)
    info = env.step(actions(env.action_space)[0])[4]
    assert (info["utility"], info["edit"]) == (info["retain_accuracy"], info["forget_accuracy"])


def test_network_that_says_one_class_alone_scores_by_hand(make):
    """With all of fc3 masked the logits are its bias: one class for all images, forgotten or
    not."""
    env = make("MaskWorld-v0", sites=["fc3"], signal="accuracy", forget_class=0, batch_size=4096)
    bias = env.task.networks[0].state_dict()["fc3.bias"]
    said = int(bias.argmax())
    env.reset(seed=0)
    _, reward, _, _, info = env.step(constant_action(env, 1, -1))
    retained = env.task.pool.labels[env.task.goals[0].members["retain"]]
    share = float((retained == said).double().mean())
    assert info["forget_accuracy"] == (said == 0)
    assert info["retain_accuracy"] == pytest.approx(share, abs=0.03)
    assert reward == pytest.approx(3 * info["retain_accuracy"] - 2 * (said == 0), abs=1e-6)


def test_probability_signal_is_the_mean_probability_of_the_right_class(make):
    env = make("MaskWorld-v0", sites=["fc3"], forget_class=0, batch_size=100)
    probabilities = env.task.networks[0].state_dict()["fc3.bias"].softmax(0)
    env.reset(seed=0)
    info = env.step(constant_action(env, 1, -1))[4]
    assert info["edit"] == pytest.approx(float(probabilities[0]), abs=1e-6)
    assert info["utility"] == pytest.approx(float(probabilities[1:].mean()), abs=0.01)


def test_info_of_random_samples_has_the_unseen_set(make, world, actions):
    env = make(world, forget_samples=50)
    env.reset(seed=0)
    info = env.step(actions(env.action_space)[0])[4]
    assert {
        "unseen_accuracy",
        "unseen_accuracy_before",
        "forget_accuracy",
        "retain_accuracy",
    } < info.keys()
    assert info["edit"] <= 0


def test_batch_before_and_after_is_the_same(make, world):
    env = make(world, batch_size=32)
    env.reset(seed=0)
    info = env.step(np.zeros(env.action_space.shape, np.float32))[4]
    assert info["retain_accuracy"] == info["retain_accuracy_before"]
    assert info["retain_accuracy"] * 32 == pytest.approx(round(info["retain_accuracy"] * 32))


# --- several networks and goals -------------------------------------------------------------------


def test_an_episode_draws_one_of_the_networks_and_goals(make, world):
    env = make(world, networks=[0, 3], goals=[7, 1, 2])
    drawn = set()
    for seed in range(40):
        _, info = env.reset(seed=seed)
        drawn.add((info["network"], info["goal"]))
        assert torch.equal(
            env.network.weights[0], env.task.networks[info["network"]].base_weights[0]
        )
        assert (
            env.network.base_hash
            == make_task("unlearning/digits", model_seed=[0, 3][info["network"]])
            .networks[0]
            .base_hash
        )
    assert drawn == {(network, goal) for network in (0, 1) for goal in (0, 1, 2)}


def test_options_name_network_and_goal(make, world):
    env = make(world, networks=[0, 3], goals=[7, 1, 2])
    for network, goal in ((1, 2), (0, 0), (1, 0)):
        info = env.reset(seed=0, options={"network": network, "goal": goal})[1]
        assert info == {"network": network, "goal": goal}
        assert env.journal.base_hash == env.task.networks[network].base_hash


@pytest.mark.parametrize("env_id", ["ShiftWorld-v0", "ShiftWorld-v1"])
def test_a_reset_takes_back_what_another_one_told(make, env_id):
    env = make(env_id, networks=[0, 3], goals=[7, 1, 2])
    told = {"network": 1, "goal": 2}
    info = env.reset(options=told)[1]
    for kind in (type(info["goal"]), np.int64, np.float32):
        again = env.reset(options={name: kind(info[name]) for name in told})[1]
        assert {name: again[name] for name in told} == told


def test_a_refused_reset_changes_nothing(make, world, actions):
    refused, plain = (make(world, episode_length=3, goals=[7, 1]) for _ in range(2))
    first, second = actions(plain.action_space, 2)
    for env in (refused, plain):
        env.reset(seed=0)
        env.step(first)
    for seed, options in ((5, {"goal": 2}), (5, {"goals": 0}), (-1, {})):
        with pytest.raises((ValueError, gym.error.Error)):
            refused.reset(seed=seed, options=options)
    assert refused.step(second)[1] == plain.step(second)[1]
    assert refused.np_random_seed == plain.np_random_seed
    new = refused.reset()[1], plain.reset()[1]
    assert new[0] == new[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"networks": 0}, '"network" and "goal"'),
        ({"network": 2}, "network must be a whole number from 0 to 1, got 2"),
        ({"goal": -1}, "goal must be a whole number from 0 to 0"),
    ],
)
def test_unknown_option_is_an_error(make, world, options, message):
    with pytest.raises(ValueError, match=message):
        make(world, networks=[0, 3]).reset(options=options)


def test_evaluate_reports_on_the_goal_of_the_episode(make, world, actions):
    env = make(world, goals=[7, 3])
    for goal in (1, 0):
        env.reset(seed=0, options={"goal": goal})
        env.step(actions(env.action_space)[0])
        evaluation = env.evaluate(env.journal)
        assert evaluation.metrics == env.task.evaluate(env.journal, goal)
        assert (dict(evaluation.curves), list(evaluation.records)) == ({}, [])
    assert env.task.evaluate(env.journal, 0) != env.task.evaluate(env.journal, 1)


def test_evaluate_before_reset_is_an_error(make, world):
    env = make(world)
    with pytest.raises(gym.error.ResetNeeded, match="before evaluate"):
        env.evaluate(env.journal)


# --- differentiable step --------------------------------------------------------------------------


def test_differentiable_step_moves_the_episode_on_as_step_does(make, world, actions):
    env, twin = (make(world, episode_length=2, render_mode="ansi") for _ in range(2))
    drawn = actions(env.action_space, 2)
    for each in (env, twin):
        each.reset(seed=0)
    for action in drawn:
        tensor = torch.from_numpy(action).requires_grad_()
        outcome = env.differentiable_step(tensor)
        outcome.reward[0].backward()
        assert tensor.grad.abs().sum() > 0
        assert float(outcome.reward[0].detach()) == pytest.approx(twin.step(action)[1], abs=1e-6)
        assert torch.equal(env.network.weights[0], twin.network.weights[0])
        assert not env.network.weights[0].requires_grad
    assert (len(env.journal), env.journal.steps) == (2, 2)
    assert env.render() == twin.render()
    with pytest.raises(gym.error.ResetNeeded):
        env.differentiable_step(torch.from_numpy(drawn[0]))


@pytest.mark.parametrize("bad", [lambda a: a * torch.nan, lambda a: a[:-1], lambda a: a + 3])
def test_differentiable_step_refuses_bad_actions(make, world, actions, bad):
    env = make(world)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action"):
        env.differentiable_step(bad(torch.from_numpy(actions(env.action_space)[0])))
    assert len(env.journal) == 0


# --- bad arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "unlearning/imagenet"}, "task: there is no 'unlearning/imagenet'"),
        ({"sites": ["fc9"]}, "sites: 'fc9' matches none"),
        ({"forget_class": 10}, "forget_class: 10"),
        ({"goals": [3, 12]}, "goals: 12"),
        ({"device": "cuda:77"}, "device: 'cuda:77' is not there"),
        ({"device": "abacus"}, "device: 'abacus' is not a device"),
        ({"rank": 0}, "rank must be"),
        ({"rank": 33}, "from 1 to 32"),
        ({"rank": "half"}, "rank must be"),
        ({"signal": "loss"}, 'signal must be "probability" or "accuracy", got \'loss\''),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
        ({"episode_length": 0}, "episode_length must be 1 or more"),
        ({"observation_bound": 0}, "observation_bound must be greater than 0"),
        ({"projection_size": 0}, "projection_size must be 1 or more"),
        ({"max_raw_observation": -1}, "max_raw_observation must be 0 or more, a whole number"),
        ({"max_raw_observation": None}, "max_raw_observation must be 0 or more"),
        ({"observe_task": "no"}, "observe_task must be True or False, got 'no'"),
        ({"forget_samples": 10**6}, "forget_samples must be from 1 to"),
        ({"learning_rate": 1}, "takes no argument 'learning_rate'"),
        ({"networks": []}, "networks: .. must be"),
    ],
)
@pytest.mark.parametrize("vector", [False, True])
def test_bad_argument_is_named_in_the_error(make, world, arguments, message, vector):
    with pytest.raises(ValueError, match=message):
        (
            gym.make_vec(f"editgym:{world}", num_envs=2, **arguments)
            if vector
            else make(world, **arguments)
        )


@pytest.mark.parametrize("limit", [0, -1, "1", True, None, np.nan, np.float32("inf")])
def test_shift_limit_must_be_positive(make, limit):
    with pytest.raises(ValueError, match="shift_limit must be greater than 0"):
        make("ShiftWorld-v0", shift_limit=limit)


def test_whether_batches_are_shared_is_true_or_false(world):
    with pytest.raises(ValueError, match="shared_batch must be True or False, got 'no'"):
        gym.make_vec(world, num_envs=2, shared_batch="no")


def test_a_step_goes_on_from_where_an_undo_left_the_network(make, world, actions):
    undone, plain = (make(world, episode_length=3) for _ in range(2))
    first, second = actions(plain.action_space, 2)
    for env in (undone, plain):
        env.reset(seed=0)
    undone.step(first)
    undone.network.undo()
    seen, *_ = undone.step(second)
    alone, *_ = plain.step(second)
    np.testing.assert_array_equal(seen, alone)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"epsiode_length": 2},
            "no argument 'epsiode_length'.*environment itself takes alpha, .*episode_length",
        ),
        ({"episode_length": 1.5}, "episode_length must be 1 or more, a whole number, got 1.5"),
        ({"batch_size": "x"}, "batch_size must be 1 or more"),
        ({"alpha": float("nan")}, "alpha must be a finite number"),
        ({"sites": "fc2"}, "sites must be a list"),
        ({"sites": 3}, "sites must be a list"),
        ({"forget_class": 3.5}, "forget_class: 3.5"),
        ({"goals": 3}, "goals must be a list"),
        ({"networks": 3}, "networks: 3"),
        ({"device": None}, "device: None"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(make, world, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(world, **arguments)


@pytest.mark.parametrize(
    "options", [{"goal": 0.5}, {"network": None}, {"goal": -1}, {"goal": True}, {"colour": 0}]
)
def test_options_that_name_nothing_are_refused(make, world, options):
    with pytest.raises(ValueError, match="options: "):
        make(world).reset(options=options)


# --- what is handed in ----------------------------------------------------------------------------


@pytest.mark.parametrize("out_of_range", ["clip", "error"])
@pytest.mark.parametrize(
    ("action", "message"),
    [
        ({}, r"action must be an array of numbers of shape \(\d+,\), got a dict that is none"),
        ("abc", "got a str that is none"),
        ([[1.0], [1.0, 2.0]], "got a list that is none"),
        (None, "action"),
        (torch.zeros(320, requires_grad=True), "got a tensor with gradients, which step"),
    ],
)
def test_what_is_no_action_is_named(make, out_of_range, action, message):
    env = make("ShiftWorld-v1", out_of_range=out_of_range)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(action)
    assert not len(env.journal)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64, torch.int64])
def test_an_action_may_be_a_tensor_of_any_type(make, kind):
    env = make("ShiftWorld-v1")
    env.reset(seed=0)
    env.step(torch.ones(env.action_space.shape).to(kind))
    assert torch.allclose(env.weights[0], env.task.networks[0].base_weights[0] + 0.05)


@pytest.mark.parametrize("options", [["goal"], "goal", 3, [("goal", 0)]])
def test_options_are_by_name(make, options):
    many = gym.make_vec("editgym:ShiftWorld-v1", num_envs=2)
    for env in (make("ShiftWorld-v1"), many):
        with pytest.raises(ValueError, match="options must be a dict such as"):
            env.reset(options=options)


# --- what is shared -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MaskWorld-v1", "ShiftWorld-v1"])
@pytest.mark.parametrize("episode_length", [1, 2])
def test_what_weights_hands_out_is_no_other_environment_s(make, actions, name, episode_length):
    env, other = (make(name, episode_length=episode_length) for _ in range(2))
    for one in (env, other):
        one.reset(seed=0)
    before = [weight.clone() for weight in other.weights]
    for weight in env.weights:
        weight.zero_()
    assert all(map(torch.equal, other.weights, before))
    assert all(map(torch.equal, env.weights, before))
    env.step(actions(env.action_space)[0])
    now = [weight.clone() for weight in env.weights]
    env.weights[0].zero_()
    assert all(map(torch.equal, env.weights, now))
    env.reset()


@pytest.mark.parametrize("arguments", [{}, {"task": "unlearning/backdoor"}])
def test_inference_mode_leaves_nothing_behind_that_gradients_cannot_pass(make, actions, arguments):
    unlearns = not arguments
    weights = {"probe_weight": 0.5, "relearn_weight": 0.5, "sites": ["fc2"]} if unlearns else {}
    # Another seed than any other test's: the task is built in inference mode.
    arguments = {**arguments, "model_seed": 9, "episode_length": 2, **weights}
    with torch.inference_mode():
        env = make("ShiftWorld-v1", **arguments)
        many = gym.make_vec("editgym:ShiftWorld-v1", num_envs=2, **arguments)
        drawn = actions(many.action_space)[0]
        for one, action in ((env, drawn[0]), (many, drawn)):
            one.reset(seed=0)
            one.step(action)
        env.cost_gradient(env.weights)
        env.evaluate(env.journal)
    action = torch.full(env.action_space.shape, 0.1, requires_grad=True)
    env.differentiable_step(action).reward.sum().backward()
    assert action.grad.isfinite().all()
    leaf = torch.full(many.action_space.shape, 0.1, requires_grad=True)
    many.candidates.step(leaf, differentiable=True).reward.sum().backward()
    assert leaf.grad.isfinite().all()
    other = make("ShiftWorld-v1", **arguments)
    other.reset(seed=0)
    with torch.inference_mode():
        inside = torch.full(env.action_space.shape, 0.1).clone().requires_grad_()
        assert float(other.differentiable_step(inside).reward.detach()) != 0
