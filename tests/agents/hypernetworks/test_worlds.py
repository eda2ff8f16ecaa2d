"""ShiftWorld as a stream: keys and gradients of its reward, actions in its box, and what learns
there."""

from dataclasses import replace

import gymnasium as gym
import pytest
import torch
from torch.func import functional_call

from agents.hypernetworks.worlds import WorldStream, _as_product
from editgym.envs.protocol import open_world
from editgym.envs.worlds import gradient as cost_gradient
from editgym.tasks import protocol
from editgym.weights import EditableNetwork, LowRankFactors, Shift, SiteEdit
from editgym.weights.closed_form import UltraEdit

LINEAR, CONV = ["fc2"], ["conv2"]


def world(**arguments):
    return gym.make("ShiftWorld-v0", **arguments)


def begun(seed=0, **arguments):
    stream = WorldStream(world(**arguments))
    stream.reset(seed)
    return stream


def base_weights(stream):
    return open_world(stream._env).network.base_weights


def drawn(stream, size=0.01, seed=0, rank=None):
    """Updates that stay within the box."""
    generator = torch.Generator().manual_seed(seed)
    rank = stream._world.layout.rank if rank is None else rank
    return [
        LowRankFactors(
            size * torch.randn(rows, rank, generator=generator),
            size * torch.randn(rank, columns, generator=generator),
        )
        for rows, columns in (site.shape for site in stream.sites)
    ]


def cost_gradients(stream):
    """Of minus the reward by every site's matrix, by autograd through the network's own forward
    pass."""
    env = open_world(stream._env)
    task, settings = env.task, env.task.rewards
    goal = task.goals[0]
    tensors = {name: value.clone() for name, value in env.network.state_dict().items()}
    for site in stream.sites:
        tensors[site.parameter].requires_grad_()
    scores = {}
    for name in task.set_names:
        rows = goal.members[name][:512]
        logits = functional_call(env.network.base, tensors, (task.pool.inputs[rows],))
        scores[name] = logits.softmax(-1)[torch.arange(len(rows)), task.pool.labels[rows]].mean()
    cost = -(settings.alpha * task.utility(scores) + settings.beta * task.edit(scores))
    found = torch.autograd.grad(cost, [tensors[site.parameter] for site in stream.sites])
    return float(cost.detach()), [
        site.to_matrix(one) for site, one in zip(stream.sites, found, strict=True)
    ]


def truncated(matrix, rank):
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


@pytest.mark.parametrize("rank", [1, 4, "full"])
@pytest.mark.parametrize("sites", [LINEAR, CONV, ["conv2", "fc2", "fc3"]])
def test_keys_and_gradients_are_the_rewards_gradient_to_the_rank(sites, rank):
    stream = begun(sites=sites, rank=rank, episode_length=2)
    for step in range(2):
        cost, gradients = cost_gradients(stream)
        capture = stream.capture
        assert capture.loss == pytest.approx(cost, abs=1e-4)
        tokens = 4 if rank == "full" else rank
        for site, keys, rows, gradient in zip(
            stream.sites, capture.keys, capture.gradients, gradients, strict=True
        ):
            assert (keys.shape, rows.shape) == ((tokens, site.shape[1]), (tokens, site.shape[0]))
            assert gradient.abs().max() > 0
            expected = truncated(gradient, tokens)
            torch.testing.assert_close(
                rows.mT @ keys, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())
            )
        if step == 0:
            stream.differentiable_step(drawn(stream, 0.05, rank=tokens))


def test_what_is_captured_after_an_update_is_captured_once_it_is_applied():
    stream, twin = (begun(sites=["conv2", "fc2"], episode_length=2) for _ in range(2))
    before, after = stream.capture, stream.captured_after(drawn(stream, 0.05))
    assert stream.over is False
    twin.differentiable_step(drawn(twin, 0.05))
    for index in range(2):
        expected = twin.capture.gradients[index].mT @ twin.capture.keys[index]
        found = after.gradients[index].mT @ after.keys[index]
        torch.testing.assert_close(
            found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
        )
        old = before.gradients[index].mT @ before.keys[index]
        assert (found - old).norm() > 1e-3 * old.norm()
    assert all(map(torch.equal, stream._world.weights, base_weights(stream)))


def test_what_no_edit_changes_is_computed_once_per_goal(monkeypatch):
    asked = []
    activations = EditableNetwork.activations
    monkeypatch.setattr(
        EditableNetwork,
        "activations",
        lambda self, inputs: asked.append(len(inputs)) or activations(self, inputs),
    )
    stream = begun(sites=["fc2"], episode_length=3, goals=[3, 8])
    captured = []
    for goal in (0, 0, 1):
        stream._env.reset(options={"goal": goal})
        stream._seen = None
        captured.append(stream.capture)
        stream.captured_after(drawn(stream))
    assert len(asked) == 2
    assert torch.equal(captured[0].gradients[0], captured[1].gradients[0])
    assert not torch.equal(captured[0].gradients[0], captured[2].gradients[0])


def test_the_gradient_has_the_rewards_probe_term():
    """Alone in the reward, it is the same on every batch."""
    stream = begun(
        sites=["fc1", "fc2"], rank="full", shift_limit=1.0, alpha=0.0, beta=0.0, probe_weight=3.0
    )
    action = torch.zeros(stream._world.layout.size, requires_grad=True)
    capture = stream.capture
    reward = stream._world.differentiable_step(action).reward[0]
    assert capture.loss == pytest.approx(-float(reward.detach()), abs=1e-5)
    (gradient,) = torch.autograd.grad(-reward, action)
    for keys, rows, own in zip(
        capture.keys, capture.gradients, stream._world.layout.unpack(gradient), strict=True
    ):
        expected = truncated(own.d, 4)
        assert expected.abs().max() > 0
        torch.testing.assert_close(
            rows.mT @ keys, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())
        )


def test_the_samples_of_a_large_set_are_drawn_from_all_of_it_and_always_the_same(monkeypatch):
    seen, right_class = [], protocol.right_class
    monkeypatch.setattr(
        protocol,
        "right_class",
        lambda logits, labels: seen.append(labels) or right_class(logits, labels),
    )

    def labels(samples=None):
        """Labels of what a gradient is taken from, and the two sets' own, sorted by class."""
        stream = begun()
        task = open_world(stream._env).task
        (goal,) = task.goals
        by_class = {
            name: rows[task.pool.labels[rows].argsort(stable=True)]
            for name, rows in goal.members.items()
        }
        own = {name: task.pool.labels[rows] for name, rows in by_class.items()}
        with monkeypatch.context() as patch:
            patch.setattr(cost_gradient, "_SAMPLES", samples or len(own["retain"]))
            patch.setattr(task, "goals", (replace(goal, members=by_class),))
            stream.capture  # noqa: B018 - it takes the gradient
        return seen.pop(), own

    (first, own), (second, _) = labels(90), labels(90)
    assert len(first) == 90 + len(own["forget"])
    assert torch.equal(first, second)
    counts = first[:90].bincount(minlength=10)
    assert counts[7] == 0
    assert sorted(counts.tolist())[1] >= 4
    everything, own = labels()
    assert torch.equal(everything[: len(own["retain"])], own["retain"])


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (4, 4)])
def test_a_matrix_is_the_product_of_its_factors_by_the_smaller_dimension(shape):
    matrix = torch.randn(shape)
    product = _as_product(matrix)
    assert product.a.shape[1] == min(shape)
    assert torch.equal(product.matrix(), matrix)


@pytest.mark.parametrize("rank", [4, "full"])
def test_an_action_is_the_update_where_it_fits_into_the_box_and_in_the_box_where_not(rank):
    for scale, fits in ((0.03, True), (100.0, False)):
        stream = begun(rank=rank)
        updates = drawn(stream, scale, rank=4)
        action = stream._action(updates)
        assert float(action.abs().max()) <= 1
        assert stream._env.action_space.contains(action.numpy())
        stream.differentiable_step(updates)
        moved = [
            now - base
            for now, base in zip(stream._world.weights, base_weights(stream), strict=True)
        ]
        for update, change in zip(updates, moved, strict=True):
            assert change.abs().max() <= 0.05 + 1e-6
            if fits:
                torch.testing.assert_close(change, update.matrix(), rtol=1e-3, atol=1e-6)
            else:
                assert change.abs().max() == pytest.approx(0.05, rel=1e-3)


def test_a_step_has_the_gradient_of_the_environments_own():
    """By finite differences along it, on the same batch."""
    stream = begun(batch_size=400)
    updates = [
        LowRankFactors(u.a.requires_grad_(), u.b.requires_grad_()) for u in drawn(stream, 0.1)
    ]
    leaves = [part for update in updates for part in (update.a, update.b)]
    gradients = torch.autograd.grad(stream.differentiable_step(updates).reward, leaves)
    assert stream.over
    size, rewards = 0.003 / float(sum(g.square().sum() for g in gradients)), []
    for sign in (1, -1):
        twin = begun(batch_size=400)
        moved = [
            (leaf + sign * size * g).detach() for leaf, g in zip(leaves, gradients, strict=True)
        ]
        rewards.append(
            float(
                twin.differentiable_step(
                    [LowRankFactors(a, b) for a, b in zip(moved[::2], moved[1::2], strict=True)]
                ).reward
            )
        )
    assert (rewards[0] - rewards[1]) / 0.006 == pytest.approx(1, abs=0.1)


def test_entries_are_applied_as_an_action_and_other_sites_are_left_alone():
    stream, twin = (begun(sites=["fc2", "fc3"], episode_length=2) for _ in range(2))
    updates = drawn(stream)
    stream.advance([SiteEdit("fc2", Shift(), updates[0])])
    zero = LowRankFactors(torch.zeros_like(updates[1].a), torch.zeros_like(updates[1].b))
    twin.differentiable_step([updates[0], zero])
    assert all(map(torch.equal, stream._world.weights, twin._world.weights))
    assert torch.equal(stream._world.weights[1], base_weights(stream)[1])
    assert not stream.over
    stream.advance([])
    assert stream.over
    assert stream._world.journal.steps == 2
    stream.reset(1)
    assert not stream.over
    assert not stream._world.journal.entries


def test_the_identity_networks_first_update_stays_well_within_the_box():
    stream = begun()
    keys, gradients = stream.capture.keys[0], stream.capture.gradients[0]
    update = UltraEdit(stream.sites[0].shape).update(keys, gradients, stream.step_size)
    assert float(update.matrix().abs().max()) < 0.05


@pytest.mark.parametrize(("most", "steps"), [(1, 1), (2, 2), (9, 3), (None, 3)])
def test_an_episode_ends_where_the_environment_truncates_it(most, steps):
    stream = begun(episode_length=3, max_episode_steps=most)
    assert stream.horizon == steps
    while not stream.over:
        stream.advance([])
    assert stream._steps == steps
