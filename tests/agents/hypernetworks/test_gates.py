"""Gates: which sites they choose, how probable a choice is, and what they learn."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from agents.hypernetworks.gates import HiEditPolicy, log_probability
from agents.hypernetworks.network import Hypernetwork
from agents.hypernetworks.settings import Learning
from editgym.weights.language.capture import Capture

LEARNED = ["straight_through", "sampled", "static"]


@pytest.mark.parametrize(
    ("scores", "count", "chosen"),
    [
        ([3.0, -1.0, 2.0, 1.0], 2, [1, 0, 1, 0]),
        ([3.0, -1.0, -2.0, -0.5], 2, [1, 0, 0, 0]),
        ([-3.0, -1.0, -2.0, -4.0], 3, [0, 1, 0, 0]),
        ([3.0, 1.0, 2.0, -1.0], 4, [1, 1, 1, 0]),
    ],
)
def test_an_adaptive_gate_leaves_out_what_is_worth_less_than_nothing(scores, count, chosen):
    policy = HiEditPolicy(
        Hypernetwork([(3, 3)] * 4), 1, "straight_through", count, True, 0.1, 1e-2, 0
    )
    assert policy._best(torch.tensor(scores)).tolist() == chosen
    policy.adaptive = False
    assert policy._best(torch.tensor(scores)).sum() == count


def test_an_adaptive_gate_learns_with_the_sites_that_it_edits_with_and_pays_for():
    """A site is tried as often as its sigmoid says, which the cost is of; a gate that knows nothing
    edits all."""
    policy = HiEditPolicy(Hypernetwork([(3, 3)] * 4), 1, "straight_through", 4, True, 1.0, 1e-2, 0)
    policy._scored = lambda capture: torch.tensor([0.0, 1.0, -1.0, 2.0])
    tried = torch.stack([policy._gate(None, explore=True)[0] for _ in range(4_000)]).mean(0)
    torch.testing.assert_close(
        tried, torch.tensor([0.0, 1.0, -1.0, 2.0]).sigmoid(), rtol=0, atol=0.03
    )
    assert float(policy._gate(None, explore=True)[1]) == pytest.approx(float(tried.sum()), abs=0.06)
    policy._scored = lambda capture: torch.zeros(4)
    assert policy._gate(None, explore=False)[0].tolist() == [1.0] * 4


def test_probabilities_of_ordered_subsets_sum_to_one():
    scores = torch.tensor([0.5, -1.0, 2.0, 0.0, 0.3])
    for count in (1, 2, 3, 5):
        orders = torch.tensor(list(itertools.permutations(range(5), count)))
        assert float(log_probability(scores, orders).exp().sum()) == pytest.approx(1, abs=1e-5)
    shares = scores.softmax(0)
    expected = shares[2] * shares[0] / (1 - shares[2])
    assert float(log_probability(scores, torch.tensor([[2, 0]])).exp()) == pytest.approx(
        float(expected)
    )


def test_a_gate_that_is_sure_gives_finite_probabilities():
    scores = torch.tensor([60.0, 0.0, 0.0], requires_grad=True)
    found = log_probability(scores, torch.tensor([[0, 1], [1, 0]]))
    assert found.tolist() == pytest.approx([-0.6931, -60.0], abs=1e-3)
    found.sum().backward()
    assert torch.isfinite(scores.grad).all()


class OneUseful:
    """Batches on which the update of one site alone is rewarded, and every other one's costs."""

    def __init__(self, useful, sites=4):
        self.sites = tuple(SimpleNamespace(name=f"s{i}", shape=(3, 4)) for i in range(sites))
        self.device, self.step_size, self.horizon, self.useful = torch.device("cpu"), 0.1, 5, useful
        self.generator = torch.Generator().manual_seed(0)
        self.draw()

    def draw(self):
        self.capture = Capture(
            [torch.randn(6, 4, generator=self.generator) for _ in self.sites],
            [torch.randn(6, 3, generator=self.generator) for _ in self.sites],
            0.0,
        )

    def worth(self, updates):
        """How much of its own raw update each site got, (..., sites), counted for the useful one
        and against others."""
        shares = torch.stack(
            [
                (u.matrix() * raw).sum((-2, -1)) / raw.square().sum()
                for u, raw in zip(updates, self.raw, strict=True)
            ],
            dim=-1,
        )
        return shares @ torch.tensor(
            [1.0 if i == self.useful else -1 / 3 for i in range(len(updates))]
        )

    def differentiable_step(self, updates):
        return SimpleNamespace(reward=self.worth(updates))

    def candidate_rewards(self, updates):
        return self.worth(updates)


@pytest.mark.parametrize("gate", LEARNED)
@pytest.mark.parametrize("useful", [2])
def test_a_learned_gate_finds_the_one_site_that_is_useful(gate, useful):
    process = OneUseful(useful)
    network = Hypernetwork([site.shape for site in process.sites], step_size=0.1)
    policy = HiEditPolicy(network, 1, gate, 1, False, 0.0, 0.05, seed=0)
    optimizer = torch.optim.Adam(policy.groups(Learning(learning_rate=0.0, step_learning_rate=0.0)))
    for _ in range(100):
        network.observe(process.capture.keys, process.capture.gradients)
        with torch.no_grad():
            process.raw = [
                u.matrix() for u in network(process.capture.keys, process.capture.gradients)
            ]
        policy.losses(process).backward()
        optimizer.step()
        optimizer.zero_grad()
        process.draw()
    for _ in range(5):
        assert [entry.site for entry in policy.entries(process)] == [f"s{useful}"]
        process.draw()
