"""The candidates in torch, compared with a naive one that loops over candidates and gathers
by hand."""

import pytest
import torch
import torch.nn.functional as F

from editgym.envs.worlds import sampling
from editgym.envs.worlds.candidates import Candidates
from editgym.envs.worlds.reward import RewardSettings, Scorer
from editgym.tasks import make_task
from editgym.weights import ActionLayout, Mask, Shift

KEYS = (11, 2**61 + 5, 7)
OPERATORS = {"mask": Mask(), "shift": Shift(0.05)}
GATHERED, WEIGHED = (
    64,
    1024,
)  # batch sizes: twice 64 is less than the pool of digits, twice 1,024 is more


@pytest.fixture
def candidates():
    """`candidates(...)` of digits, K = 3, seeded with KEYS and reset."""

    def make(
        operator="mask",
        count=3,
        batch_size=WEIGHED,
        signal="probability",
        shared_batch=False,
        rank=4,
        device="cpu",
        **arguments,
    ):
        task = make_task("unlearning/digits", device=device, **arguments)
        layout = ActionLayout(tuple(site.shape for site in task.networks[0].sites), rank)
        rewards = RewardSettings(
            task.rewards.alpha, task.rewards.beta, signal, batch_size, shared_batch, 0.0
        )
        made = Candidates(Scorer(task, rewards), OPERATORS[operator], layout, count)
        made.seed(KEYS[:count])
        made.reset()
        return made

    return make


def random_actions(candidates, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(candidates.count, candidates.layout.size, generator=generator) - 1


# --- the naive reference --------------------------------------------------------------------------


def digits_forward(state, x):
    """SmallConvNet, written out."""
    x = F.max_pool2d(
        F.conv2d(x, state["conv1.weight"], state["conv1.bias"], padding=1).clamp_min(0), 2
    )
    x = F.max_pool2d(
        F.conv2d(x, state["conv2.weight"], state["conv2.bias"], padding=1).clamp_min(0), 2
    )
    x = F.linear(x.flatten(1), state["fc1.weight"], state["fc1.bias"]).clamp_min(0)
    x = F.linear(x, state["fc2.weight"], state["fc2.bias"]).clamp_min(0)
    return F.linear(x, state["fc3.weight"], state["fc3.bias"])


def naive_edit(weight, action, candidates):
    rows, columns = weight.shape
    if candidates.layout.rank == "full":
        d = action.view(rows, columns).clamp(-1, 1)
    else:
        rank = candidates.layout.rank
        a, b = action[: rows * rank].view(rows, rank), action[rows * rank :].view(rank, columns)
        d = (a @ b / rank**0.5).clamp(-1, 1)
    return weight * (1 + d).clamp(0, 1) if candidates.operator == Mask() else weight + 0.05 * d


def naive_scores(state, data, signal):
    logits = digits_forward(state, data.inputs)
    correct = (logits.argmax(-1) == data.labels).float().mean()
    probability = logits.softmax(-1)[torch.arange(len(data)), data.labels].mean()
    return (probability if signal == "probability" else correct), correct


def naive_step(candidates, weights, action, i, step):
    """Candidate i's edited weight, terms and accuracies, from its own state dict and its own drawn
    images."""
    task, settings = candidates.scorer.task, candidates.scorer.rewards
    state = task.networks[int(candidates.network_index[i])].state_dict()
    edited = state | {"fc2.weight": naive_edit(weights[i], action, candidates)}
    goal = task.goals[int(candidates.goal_index[i])]
    key = KEYS[0] if settings.shared_batch else KEYS[i]
    scores, after, before = {}, {}, {}
    for number, name in enumerate(task.set_names):
        members = goal.members[name]
        drawn = sampling.indices(
            torch.tensor([key]), step, 2 + number, settings.batch_size, torch.tensor([len(members)])
        )[0]
        data = task.pool[members[drawn]]
        scores[name], after[name] = naive_scores(edited, data, settings.signal)
        before[name] = naive_scores(state, data, "accuracy")[1]
    utility = scores["retain"]
    edit = (
        scores["forget"] if "unseen" not in scores else -(scores["forget"] - scores["unseen"]).abs()
    )
    return (
        edited["fc2.weight"],
        settings.alpha * utility + settings.beta * edit,
        utility,
        edit,
        after,
        before,
    )


def assert_equals_naive(candidates, steps=2):
    for step in range(steps):
        weights, actions = candidates.weights[0].clone(), random_actions(candidates, seed=step)
        outcome = candidates.step(actions)
        for i in range(candidates.count):
            edited, reward, utility, edit, after, before = naive_step(
                candidates, weights, actions[i], i, step
            )
            torch.testing.assert_close(candidates.weights[0][i], edited, atol=1e-6, rtol=0)
            for got, expected in (
                (outcome.reward, reward),
                (outcome.utility, utility),
                (outcome.edit, edit),
            ):
                torch.testing.assert_close(got[i], expected, atol=1e-5, rtol=0)
            for name in candidates.scorer.task.set_names:
                torch.testing.assert_close(
                    outcome.accuracy[name][i], after[name], atol=1e-5, rtol=0
                )
                torch.testing.assert_close(
                    outcome.accuracy_before[name][i], before[name], atol=1e-5, rtol=0
                )


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("signal", ["probability", "accuracy"])
@pytest.mark.parametrize(("batch_size", "weighed"), [(GATHERED, False), (WEIGHED, True)])
@pytest.mark.parametrize("count", [1, 3])
def test_step_equals_the_naive_one(candidates, operator, signal, batch_size, weighed, count):
    made = candidates(operator, count, batch_size, signal)
    assert (len(made.scorer.task.pool) <= 2 * batch_size) is weighed
    assert made.scorer._weigh_pool is weighed
    assert_equals_naive(made)


@pytest.mark.parametrize("shared_batch", [False, True])
@pytest.mark.parametrize("batch_size", [GATHERED, WEIGHED])
def test_candidates_on_several_networks_and_goals_equal_the_naive_ones(
    candidates, batch_size, shared_batch
):
    made = candidates(
        batch_size=batch_size, networks=[0, 1, 2], goals=[7, [1, 4], 0], shared_batch=shared_batch
    )
    made.draws.network_index = torch.tensor([2, 0, 2])
    made.draws.goal_index = torch.tensor([1, 2, 0])
    made.weights = [torch.stack([made.scorer.task.networks[i].base_weights[0] for i in (2, 0, 2)])]
    assert_equals_naive(made)


@pytest.mark.parametrize("batch_size", [GATHERED, WEIGHED])
@pytest.mark.parametrize("count", [2, 3])
def test_candidates_on_several_networks_share_the_batch_of_one_goal(candidates, batch_size, count):
    made = candidates(count=count, batch_size=batch_size, networks=[0, 1, 2], shared_batch=True)
    networks = [2, 0, 2][:count]
    made.draws.network_index = torch.tensor(networks)
    made.weights = [torch.stack([made.scorer.task.networks[i].base_weights[0] for i in networks])]
    assert [tuple(rows.shape) for rows in made.scorer.draws(count).batch()] == [(1, batch_size)] * 2
    assert_equals_naive(made)


@pytest.mark.parametrize("batch_size", [GATHERED, WEIGHED])
@pytest.mark.parametrize(
    "arguments", [{"forget_samples": 60}, {"rank": "full"}, {"rank": 1}, {"shared_batch": True}]
)
def test_variants_equal_the_naive_step(candidates, batch_size, arguments):
    assert_equals_naive(candidates(batch_size=batch_size, **arguments))


def test_several_sites_are_edited_in_order(candidates):
    made = candidates(sites=["fc3", "conv2"])
    layers = [(10, 32), (32, 144)]
    assert [tuple(weight.shape) for weight in made.weights] == [(3, *shape) for shape in layers]
    actions = torch.zeros(3, made.layout.size)
    split = 4 * (10 + 32)
    actions[1, split:] = 1.0  # conv2 of candidate 1 alone
    actions[1, split : split + 4 * 32] = -1.0
    made.step(actions)
    base = made.scorer.task.networks[0].base_weights
    for i in range(3):
        assert torch.equal(made.weights[0][i], base[0])
        assert torch.equal(made.weights[1][i], torch.zeros_like(base[1]) if i == 1 else base[1])


# --- streams --------------------------------------------------------------------------------------


def test_every_step_draws_a_fresh_batch_and_seeding_starts_anew(candidates):
    made = candidates(batch_size=GATHERED)
    nothing = torch.zeros(3, made.layout.size)
    first = [made.step(nothing).reward for _ in range(3)]
    assert len({tuple(reward.tolist()) for reward in first}) == 3
    made.reset()
    assert not torch.equal(made.step(nothing).reward, first[0]), (
        "a new episode does not repeat the last one's batches"
    )
    made.seed(KEYS)
    made.reset()
    assert torch.equal(made.step(nothing).reward, first[0])


def test_networks_and_goals_are_drawn_per_candidate_and_episode(candidates):
    made = candidates(networks=[0, 1, 2], goals=[7, 1, [2, 3], 0])
    drawn = []
    for _ in range(60):
        made.reset()
        drawn.append(torch.stack([made.network_index, made.goal_index]))
        for i, index in enumerate(made.network_index.tolist()):
            assert torch.equal(made.weights[0][i], made.scorer.task.networks[index].base_weights[0])
    networks, goals = torch.stack(drawn).unbind(1)  # each (episodes, candidates)
    assert sorted(networks.unique().tolist()) == [0, 1, 2]
    assert sorted(goals.unique().tolist()) == [0, 1, 2, 3]
    assert not torch.equal(networks[:, 0], networks[:, 1])
    assert (
        float(torch.corrcoef(torch.stack([networks.flatten(), goals.flatten()]).double())[0, 1])
        < 0.3
    )
    assert networks.flatten().bincount().min() > 40


def test_network_and_goal_may_be_given(candidates):
    made = candidates(networks=[0, 1], goals=[7, 1])
    made.reset(network=1, goal=0)
    assert (made.network_index.tolist(), made.goal_index.tolist()) == ([1, 1, 1], [0, 0, 0])
    assert torch.equal(made.draws.features, made.scorer.task.goals[0].features.expand(3, -1))


def test_reset_never_writes_to_the_base(candidates):
    made = candidates()
    before = made.scorer.task.networks[0].base_weights[0].clone()
    for _ in range(3):
        made.step(random_actions(made))
    made.reset()
    assert torch.equal(made.weights[0], before.expand(3, -1, -1))
    assert torch.equal(made.scorer.task.networks[0].base_weights[0], before)


def test_shared_batch_gives_equal_candidates_equal_rewards(candidates):
    def rewards(shared_batch, batch_size):
        made = candidates(batch_size=batch_size, shared_batch=shared_batch)
        return made.step(random_actions(made)[:1].expand(3, -1)).reward

    for batch_size in (GATHERED, WEIGHED):
        shared, own = rewards(True, batch_size), rewards(False, batch_size)
        torch.testing.assert_close(shared, shared[:1].expand(3), atol=1e-6, rtol=0)
        assert len(set(own.tolist())) == 3
        torch.testing.assert_close(shared[0], own[0], atol=1e-6, rtol=0)


# --- gradients ------------------------------------------------------------------------------------


def smooth_actions(candidates):
    """Away from every clip: A in [0.2, 0.5], B in [−0.5, −0.2], so that each D is between −0.5 and
    −0.08."""
    generator = torch.Generator().manual_seed(1)
    actions = 0.2 + 0.3 * torch.rand(candidates.count, candidates.layout.size, generator=generator)
    actions[:, 32 * 4 :] *= -1
    return actions


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("batch_size", [GATHERED, WEIGHED])
def test_gradient_equals_finite_differences(candidates, operator, batch_size):
    made = candidates(operator, batch_size=batch_size)

    def rewards(actions):
        made.seed(KEYS)
        made.reset()
        return made.step(actions).reward

    actions = smooth_actions(made).requires_grad_()
    made.seed(KEYS)
    made.reset()
    made.step(actions, differentiable=True).reward.sum().backward()
    for direction in (actions.grad, torch.randn(actions.shape)):
        unit = direction / direction.norm(dim=1, keepdim=True)
        step = 0.02
        with torch.no_grad():
            numeric = (rewards(actions + step * unit) - rewards(actions - step * unit)) / (2 * step)
        torch.testing.assert_close((actions.grad * unit).sum(1), numeric, rtol=0.05, atol=2e-3)
    assert actions.grad.norm(dim=1).min() > 0.01


@pytest.mark.parametrize("operator", OPERATORS)
def test_gradient_leaves_the_zero_action(candidates, operator):
    """Where every episode starts the mask's box ends; the gradient from below must get through."""
    made = candidates(operator, rank="full")
    actions = torch.zeros(3, made.layout.size, requires_grad=True)
    made.step(actions, differentiable=True).reward.sum().backward()
    assert actions.grad.norm() > 0.01


def test_differentiable_step_gives_the_same_numbers(candidates):
    plain, tracked = candidates(), candidates()
    actions = random_actions(plain)
    expected, got = (
        plain.step(actions),
        tracked.step(actions.clone().requires_grad_(), differentiable=True),
    )
    torch.testing.assert_close(got.reward, expected.reward, atol=1e-6, rtol=0)
    assert torch.equal(tracked.weights[0], plain.weights[0])
    assert not expected.reward.requires_grad


def test_state_after_a_differentiable_step_is_detached(candidates):
    made = candidates()
    actions = random_actions(made).requires_grad_()
    for _ in range(2):
        reward = made.step(actions, differentiable=True).reward.sum()
        assert not made.weights[0].requires_grad
        reward.backward()


def test_accuracy_has_no_gradient(candidates):
    made = candidates(signal="accuracy")
    with pytest.raises(ValueError, match='use signal="probability"'):
        made.step(random_actions(made), differentiable=True)


# --- devices --------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("batch_size", [GATHERED, WEIGHED])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"networks": [0, 1], "goals": [7, 3]},
        {"shared_batch": True},
        {"forget_samples": 60},
        {"sites": ["conv2", "fc2"]},
    ],
)
@pytest.mark.parametrize("operator", OPERATORS)
def test_cpu_and_gpu_agree_on_rewards(candidates, operator, batch_size, arguments):
    cpu, gpu = (
        candidates(operator, batch_size=batch_size, device=device, **arguments)
        for device in ("cpu", "cuda")
    )
    for step in range(3):
        actions = random_actions(cpu, seed=step)
        expected, got = cpu.step(actions), gpu.step(actions.cuda())
        assert got.reward.is_cuda
        torch.testing.assert_close(got.reward.cpu(), expected.reward, atol=1e-4, rtol=0)
        torch.testing.assert_close(gpu.weights[0].cpu(), cpu.weights[0], atol=1e-5, rtol=0)
    assert torch.equal(gpu.network_index.cpu(), cpu.network_index)
    assert torch.equal(gpu.goal_index.cpu(), cpu.goal_index)
