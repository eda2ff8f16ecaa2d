"""Few-image relearning as a reward term: its value by hand, its gradient, and where it has none."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from editgym.envs.worlds.relearning import FEW_IMAGES, RATES, SOFTNESS, FewImageRelearning
from editgym.tasks import make_task
from editgym.weights import DenseUpdate, EditableNetwork, Shift, SiteEdit, find_sites

SITES = ["fc2"]


@pytest.fixture(scope="module")
def task():
    return make_task("unlearning/digits", goals=[3, 7], sites=SITES)


def by_hand(task, matrix, goal):
    """L by SGD on a copy of the network."""
    network, (site,) = task.networks[0], task.networks[0].sites
    rows = {}
    for name in ("retain", "forget"):
        members = task.goals[goal].members[name]
        rows[name] = members[
            torch.randperm(len(members), generator=torch.Generator().manual_seed(0))
        ]
    few = task.pool[rows["forget"][:FEW_IMAGES]]
    judged = task.pool[torch.cat([rows["retain"][:32], rows["forget"][FEW_IMAGES:][:32]])]
    (forgotten,) = task.goals[goal].features.nonzero().flatten().tolist()
    levels = [0.0]
    for rate in RATES:
        model = network.merged().requires_grad_(True)
        with torch.no_grad():
            model.get_parameter(site.parameter).copy_(site.to_stored(matrix))
        optimizer = torch.optim.SGD(model.parameters(), rate)
        F.cross_entropy(model(few.inputs), few.labels).backward()
        optimizer.step()
        logits = model(judged.inputs).detach().double().numpy()
        margins = logits[:, forgotten] - np.delete(logits, forgotten, axis=1).max(axis=1)
        pairs = margins[32:, None] - margins[None, :32]
        order = 1 / (1 + np.exp(-pairs / (SOFTNESS * margins.std(ddof=1))))
        levels.append(2 * order.mean() - 1)
    return max(levels)


def test_it_is_what_a_step_of_sgd_gives_back(task):
    term, (base,) = FewImageRelearning(task), task.networks[0].base_weights
    noise = 0.2 * torch.randn(3, *base.shape, generator=torch.Generator().manual_seed(0))
    matrices, goals = torch.cat([base.unsqueeze(0), base + noise]), torch.tensor([0, 1, 0, 1])
    with torch.no_grad():
        found = term(0, [matrices], goals)
    expected = [by_hand(task, matrices[k], int(goals[k])) for k in range(4)]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    assert found[0] > 0.8  # nothing was forgotten


def test_its_gradient_is_that_of_small_differences(task):
    term, (base,) = FewImageRelearning(task), task.networks[0].base_weights
    random = torch.Generator().manual_seed(1)
    start = base + 0.3 * torch.randn(base.shape, generator=random)
    matrix = start.clone().requires_grad_()
    value = term(0, [matrix.unsqueeze(0)], torch.tensor([1]))
    assert 0 < value.item() < 1
    value.sum().backward()
    direction = matrix.grad / matrix.grad.norm()
    with torch.no_grad():
        ends = [
            term(0, [(start + side * 2e-3 * direction).unsqueeze(0)], torch.tensor([1])).item()
            for side in (1, -1)
        ]
    assert (ends[0] - ends[1]) / 4e-3 == pytest.approx(matrix.grad.norm().item(), rel=0.1)


def test_reward_is_less_by_the_weight_times_it():
    arguments = {"sites": SITES, "goals": [3, 7], "networks": [0, 1]}
    plain, watched = (
        gym.make_vec("ShiftWorld-v0", num_envs=3, relearn_weight=weight, **arguments)
        for weight in (0.0, 2.0)
    )
    for env in (plain, watched):
        env.reset(seed=0)
    action = np.random.default_rng(0).uniform(-1, 1, plain.action_space.shape).astype(np.float32)
    network, goal = plain.candidates.network_index, plain.candidates.goal_index
    rewards = [env.step(action)[1] for env in (plain, watched)]
    term = FewImageRelearning(plain.task)
    updates = plain.layout.unpack(torch.from_numpy(action))
    for i in range(3):
        base = plain.task.networks[int(network[i])].base_weights[0]
        edited = plain.candidates.operator.edited(base, updates[0].candidate(i))
        with torch.no_grad():
            expected = term(int(network[i]), [edited.unsqueeze(0)], goal[i : i + 1]).item()
        assert rewards[0][i] - rewards[1][i] == pytest.approx(2 * expected, abs=1e-4)


def test_no_edit_has_no_improvement_and_a_step_has_a_gradient():
    env = gym.make("ShiftWorld-v1", relearn_weight=1.0, probe_weight=1.0, sites=SITES)
    env.reset(seed=0)
    assert env.step(np.zeros(env.action_space.shape, np.float32))[1] == 0
    env.reset(seed=0)
    action = torch.full(env.action_space.shape, 0.2, requires_grad=True)
    env.unwrapped.differentiable_step(action).reward[0].backward()
    assert action.grad.isfinite().all()
    assert action.grad.abs().sum() > 0


@pytest.mark.parametrize("less", [0.1, 2.0])
def test_a_class_is_no_better_hidden_by_a_logit_that_is_very_small(less):
    task = make_task("unlearning/digits", forget_class=7, sites=["fc3"])
    network, term = task.networks[0], FewImageRelearning(task)
    (base,) = network.base_weights
    hidden = base.clone()
    hidden[7] -= less  # features are positive: the class loses against every other
    network.apply(SiteEdit("fc3", Shift(), DenseUpdate(hidden - base)))
    right = network.merged()(task.splits.test.inputs).argmax(-1) == 7
    network.reset()
    assert not right.any()
    assert term(0, [hidden.unsqueeze(0)], torch.tensor([0])).item() > 0.6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "debiasing/templates"}, "relearn_weight: there is no class to relearn"),
        ({"forget_samples": 40}, "relearn_weight: there is no class to relearn"),
    ],
)
def test_where_there_is_nothing_to_relearn_it_says_so(arguments, message):
    with pytest.raises(ValueError, match=message):
        gym.make("ShiftWorld-v1", relearn_weight=1.0, **arguments)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), "much"])
def test_weight_is_checked(weight):
    with pytest.raises(ValueError, match="relearn_weight must be 0 or more"):
        gym.make("MaskWorld-v1", relearn_weight=weight)


class _Tied(torch.nn.Module):
    """Two layers of one matrix, and a head for training alone."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(64, 32), torch.nn.Linear(32, 32)
        self.third, self.last = torch.nn.Linear(32, 32), torch.nn.Linear(32, 10)
        self.third.weight = self.second.weight
        self.unused = torch.nn.Linear(32, 5)

    def forward(self, x):
        for layer in (self.first, self.second, self.third):
            x = layer(x.flatten(1)).relu()
        return self.last(x)


def _tied(task, site):
    """The task with such a network, which can be edited at one site."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _Tied()
    network = EditableNetwork(model.eval(), find_sites(model, [site]), task.pool.inputs[:4])
    return replace(task, networks=(network,))


def test_an_edit_under_a_tied_matrix_second_name_is_seen(task):
    found = []
    for site in ("second", "third"):
        own = _tied(task, site)
        (base,) = own.networks[0].base_weights
        with torch.no_grad():
            term = FewImageRelearning(own)
            found.append(term(0, [torch.stack([base, 0 * base])], torch.tensor([0, 0])))
    assert torch.equal(*found)
    assert found[0][0] != found[0][1]


def test_a_head_that_no_logit_depends_on_stays_as_it_is(task):
    own = _tied(task, "second")
    matrix = own.networks[0].base_weights[0].clone().unsqueeze(0).requires_grad_()
    FewImageRelearning(own)(0, [matrix], torch.tensor([1])).sum().backward()
    assert matrix.grad.isfinite().all()
