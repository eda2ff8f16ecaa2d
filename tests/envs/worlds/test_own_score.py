"""A task's own score: what a sample is worth, by steps, candidates, gradients and evaluation."""

import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from editgym.metrics.classification import right_class
from editgym.tasks import make_task
from editgym.tasks.protocol import score_of

sys.path.insert(0, str(Path(__file__).parent))
from own_goals import Segmentation, regression

TASKS = ["own_goals:regression", "own_goals:multi_label", "own_goals:segmentation"]


@pytest.fixture(params=TASKS, ids=lambda path: path.partition(":")[2])
def path(request):
    """The import path of each task."""
    return request.param


def drawn(env):
    """The rows of the pool that the next step of an environment that was just reset draws."""
    return [rows[0] for rows in env._draws.batch()]


@pytest.mark.parametrize("signal", ["probability", "accuracy"])
@pytest.mark.parametrize("batch_size", [8, 64], ids=["drawn", "whole pool"])
def test_a_step_is_worth_what_the_task_says(make, world, path, signal, batch_size, actions):
    env = make(world, task=path, signal=signal, batch_size=batch_size)
    env.reset(seed=0)
    rows = drawn(env)
    action = actions(env.action_space)[0]
    _, reward, _, _, info = env.step(action)
    model, task = env.network.merged(), env.task
    terms = {}
    for name, members in zip(task.set_names, rows, strict=True):
        data = task.pool[members]
        with torch.no_grad():
            worth, correct = task.score(model(data.inputs), data.labels)
            before = task.score(task.networks[0].merged()(data.inputs), data.labels)[1]
        terms[name] = (worth if signal == "probability" else correct).mean()
        assert info[f"{name}_accuracy"] == pytest.approx(float(correct.mean()), abs=1e-6)
        assert info[f"{name}_accuracy_before"] == pytest.approx(float(before.mean()), abs=1e-6)
    assert reward == pytest.approx(float(terms["kept"] - 0.5 * terms["changed"]), abs=1e-5)


def test_candidates_go_through_what_single_environments_do(make, world, path, actions):
    many = gym.make_vec(f"editgym:{world}", num_envs=3, task=path)
    many.reset(seed=5)
    chosen = actions(many.single_action_space, 3)
    rewards = many.step(chosen)[1]
    for i, action in enumerate(chosen):
        env = make(world, task=path)
        env.reset(seed=5 + i)
        assert env.step(action)[1] == pytest.approx(rewards[i], abs=1e-6)


def test_gradients_are_those_of_the_worth(make, world, path, actions):
    env = make(world, task=path)
    env.reset(seed=0)
    weights = [weight.clone() for weight in env.weights]
    found = env.cost_gradient(weights)
    task = env.task
    leaf = weights[0].clone().requires_grad_()
    site = env.sites[0]
    model = task.networks[0].merged()
    outputs = torch.func.functional_call(
        model,
        {site.parameter: leaf.view(model.get_parameter(site.parameter).shape)},
        (task.pool.inputs,),
    )
    worth = task.score(outputs, task.pool.labels)[0]
    cost = -(worth[:10].mean() - 0.5 * worth[10:].mean())
    assert found.cost == pytest.approx(float(cost.detach()), abs=1e-5)
    (expected,) = torch.autograd.grad(cost, leaf)
    torch.testing.assert_close(found.gradients[0], expected, rtol=1e-3, atol=1e-5)


def test_a_differentiable_step_follows_the_worth(make, path, actions):
    env = make("ShiftWorld-v0", task=path)
    env.reset(seed=0)
    action = torch.from_numpy(actions(env.action_space)[0]).requires_grad_()
    reward = env.differentiable_step(action).reward[0]
    (gradient,) = torch.autograd.grad(reward, action)
    assert gradient.abs().max() > 0
    twin = make("ShiftWorld-v0", task=path)
    twin.reset(seed=0)
    assert twin.step(action.detach().numpy())[1] == pytest.approx(float(reward.detach()), abs=1e-6)


def test_evaluation_uses_it(make, path):
    env = make("MaskWorld-v0", task=path)
    env.reset(seed=0)
    task = env.task
    outputs = task.networks[0].logits(task.pool.inputs)
    expected = float(task.score(outputs, task.pool.labels)[1].double().mean())
    assert env.evaluate(env.journal).metrics == {"own_accuracy": pytest.approx(expected)}


def test_a_score_of_another_form_is_an_error(make, actions):
    env = make("MaskWorld-v0", task="own_goals:segmentation", kind="pixels")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"own/score: score must return worth and correctness"):
        env.step(actions(env.action_space)[0])
    task = make_task("own_goals:segmentation", kind="pixels")
    with pytest.raises(ValueError, match=r"of shape \(20,\) .*got \[\(20, 5, 5\), \(20, 5, 5\)\]"):
        score_of(task)(task.networks[0].logits(task.pool.inputs), task.pool.labels)


def test_a_worth_without_a_correctness_is_an_error():
    task = regression()
    outputs, labels = task.networks[0].logits(task.pool.inputs), task.pool.labels
    for score in (lambda own, _: own.squeeze(-1), lambda own, _: own.mean(), lambda *_: (1.0, 0.0)):
        task.score = score
        with pytest.raises(ValueError, match="score must return worth and correctness"):
            score_of(task)(outputs, labels)


def test_without_one_it_is_the_probability_of_the_right_class():
    assert score_of(make_task("unlearning/digits")) is right_class
    assert score_of(make_task("debiasing/templates")) is right_class


def test_one_sample_is_one_number_however_many_candidates_there_are():
    task = regression()
    outputs, labels = torch.randn(5, 4, 20, 1), task.pool.labels.expand(5, 4, 20)
    worth, correct = score_of(task)(outputs, labels)
    assert worth.shape == correct.shape == (5, 4, 20)
    assert torch.equal(worth[2, 1], task.score(outputs[2, 1], task.pool.labels)[0])


def test_classes_have_no_probe_where_labels_are_none(make):
    for path in TASKS:
        with pytest.raises(ValueError, match="probe_weight: there is no class to probe for"):
            make("ShiftWorld-v0", task=path, probe_weight=1.0)
    with pytest.raises(ValueError, match="such as debiasing/templates, name no classes"):
        make("ShiftWorld-v0", task="debiasing/templates", probe_weight=1.0)


def test_accuracies_of_unlearning_are_those_of_its_score():
    task = make_task("unlearning/digits")

    class Lenient(type(task)):
        """The second guess counts half."""

        def score(self, logits, labels):
            worth, right = right_class(logits, labels)
            second = logits.topk(2, -1).indices[..., 1] == labels
            return worth, right + 0.5 * second

    lenient = Lenient(task.name, task.networks, task.splits, task.n_classes, task.forget)
    test = task.splits.test
    top = task.networks[0].logits(test.inputs).topk(2, -1).indices == test.labels[:, None]
    expected = np.mean(top[:, 0].numpy() + 0.5 * top[:, 1].numpy())
    found = lenient.accuracies(lenient.networks[0])["test_accuracy"]
    assert found == pytest.approx(expected)
    assert found > task.accuracies(task.networks[0])["test_accuracy"]


def test_a_share_of_pixels_is_a_correctness():
    task = make_task("own_goals:segmentation")
    assert isinstance(task, Segmentation)
    correct = task.score(task.networks[0].logits(task.pool.inputs), task.pool.labels)[1]
    assert ((correct > 0) & (correct < 1)).any()


@pytest.mark.parametrize("signal", ["probability", "accuracy"])
@pytest.mark.parametrize("batch_size", [8, 64], ids=["drawn", "whole pool"])
def test_correctness_may_be_true_or_false_and_worth_of_another_type(make, signal, batch_size):
    rewards = []
    for kind in ("plain", "wide"):
        path = f"own_goals:{'regression' if kind == 'plain' else 'wide_regression'}"
        env = make("ShiftWorld-v1", task=path, signal=signal, batch_size=batch_size)
        env.reset(seed=0)
        rewards.append(env.step(np.full(env.action_space.shape, 0.3))[1])
        assert env.evaluate(env.journal).metrics["own_accuracy"] >= 0
    assert rewards[0] == pytest.approx(rewards[1], abs=1e-6)


@pytest.mark.parametrize("episode_length", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_networks_of_every_precision_are_edited_and_rewarded(make, kind, episode_length):
    arguments = {
        "task": "own_goals:digits_in",
        "kind": kind,
        "episode_length": episode_length,
        "probe_weight": 0.5,
        "relearn_weight": 0.5,
    }
    env = make("ShiftWorld-v1", **arguments)
    many = gym.make_vec("editgym:ShiftWorld-v1", num_envs=3, **arguments)
    env.reset(seed=0)
    many.reset(seed=0)
    action = np.random.default_rng(0).uniform(-1, 1, many.action_space.shape)
    reward, rewards = env.step(action[0])[1], many.step(action)[1]
    assert reward == pytest.approx(rewards[0], abs=1e-2)  # one by one, and side by side
    assert env.weights[0].dtype == getattr(torch, kind)
    assert env.evaluate(env.journal).metrics["retain_accuracy"] > 0.5
    env.reset(seed=0)
    leaf = torch.full(env.action_space.shape, 0.1, requires_grad=True)
    env.differentiable_step(leaf).reward.sum().backward()
    assert leaf.grad.isfinite().all()
    assert leaf.grad.abs().sum() > 0
    assert all(one.isfinite().all() for one in env.cost_gradient(env.weights).gradients)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_a_sketch_shows_weights_of_every_precision(make, kind):
    env = make(
        "ShiftWorld-v1",
        task="own_goals:digits_in",
        kind=kind,
        observe="weights",
        max_raw_observation=0,
    )
    assert env.observation_space.contains(env.reset(seed=0)[0])


@pytest.mark.parametrize(
    ("lacks", "message"),
    [
        ("samples", "the goal 'forget 2' of unlearning/digits has no samples in its reward set"),
        ("set", "the goal 'forget 2' of unlearning/digits has no members 'forget'"),
        ("rows", r"the goal 'forget 2' of unlearning/digits has the row \d+ in its reward set 'f"),
        ("goals", "unlearning/digits has no goals; an episode needs one at least"),
        ("networks", "unlearning/digits has no networks; an episode needs one at least"),
    ],
)
def test_a_task_that_no_episode_or_batch_can_be_drawn_of_is_refused(make, lacks, message):
    with pytest.raises(ValueError, match=message):
        make("ShiftWorld-v1", task="own_goals:no_samples", lacks=lacks)
