"""Fine-tuning of last layers and of sites."""

import gymnasium as gym
import pytest
import torch
import torch.nn.functional as F

from agents.catalogue import make_agent
from agents.debiasing import seen as debiasing
from agents.debiasing.fine_tuning import LastLayerFineTune
from agents.debiasing.last_layer import Head
from editgym.weights import EditableNetwork


def test_fine_tuning_the_last_layer_moves_it_to_the_word(two_directions):
    head, sets = two_directions
    assert head.accuracy(sets[1]) < 0.6
    agent = LastLayerFineTune(weightings=(3.0,), steps=300, learning_rate=0.05, check_every=100)
    candidates = [
        Head(*moved)
        for moved in agent.candidates(
            [head.weight, head.bias],
            lambda moved, weights: [
                weight * F.cross_entropy(Head(*moved).logits(part.x), part.y)
                for weight, part in zip(weights, sets, strict=True)
            ],
        )
    ]
    assert len(candidates) == 3
    assert candidates[-1].accuracy(sets[1]) > 0.99
    assert candidates[-1].accuracy(sets[0]) > 0.99


def test_fine_tuned_sites_follow_adam_through_the_whole_network():
    world = gym.make(
        "editgym:ShiftWorld-v0", task="debiasing/templates", sites=["fc2", "fc4"], rank=2
    ).unwrapped
    world.reset(seed=0)
    agent = make_agent(
        "site_fine_tune", weightings=[0.5], steps=3, check_every=3, learning_rate=0.01
    )
    network = world.network
    policy = world.task.labelled("policy")
    activations = [network.activations(part.inputs) for part in policy]
    (found,) = agent.candidates(
        [weight.unsqueeze(0) for weight in network.weights],
        lambda moved, weights: [
            weight * F.cross_entropy(network.candidate_logits(moved, seen)[0], part.labels)
            for weight, seen, part in zip(weights, activations, policy, strict=True)
        ],
    )
    model = world.network.merged()
    weights = [model.fc2.weight, model.fc4.weight]
    optimizer = torch.optim.Adam(weights, lr=0.01)
    for _ in range(3):
        general, unbiased = (F.cross_entropy(model(part.inputs), part.labels) for part in policy)
        optimizer.zero_grad()
        (general + 0.5 * unbiased).backward()
        optimizer.step()
    for own, weight, base in zip(found, weights, world.network.base_weights, strict=True):
        assert (weight - base).abs().max() > 4e-4
        torch.testing.assert_close(own[0], weight.detach(), rtol=0, atol=2e-5)


def test_sites_are_fine_tuned_on_a_few_samples_at_a_time_as_on_all(monkeypatch):
    env = gym.make(
        "editgym:ShiftWorld-v0", task="debiasing/templates", sites=["fc3", "fc4"], rank=2
    )

    def tuned():
        largest.clear()
        (entry,) = make_agent(
            "site_fine_tune", weightings=[0.5], steps=40, learning_rate=0.01
        ).edit(env)
        return entry.tensors

    largest, run = [], EditableNetwork.candidate_logits

    def watched(self, weights, seen):
        largest.append(len(seen[0]))
        return run(self, weights, seen)

    monkeypatch.setattr(EditableNetwork, "candidate_logits", watched)
    whole, samples = tuned(), max(largest)
    monkeypatch.setattr(debiasing, "_NUMBERS_IN_ONE_GRAPH", 64 * 1_000)  # fc3 has 64 inputs
    parts = tuned()
    assert samples > max(largest) == 1_000
    monkeypatch.setattr("editgym.weights.classifiers.network._MOST_HELD", 0)
    computed_anew = tuned()
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=0, atol=2e-4)
        torch.testing.assert_close(computed_anew[name], tensor, rtol=0, atol=2e-4)


def test_fine_tuned_sites_alone_change_and_lose_no_more_than_the_tolerance_on_validation():
    env = gym.make(
        "editgym:ShiftWorld-v0", task="debiasing/templates", sites=["fc3", "fc4"], rank=2
    )
    journal = make_agent("site_fine_tune", steps=200).edit(env)
    (entry,) = journal
    assert set(entry.tensors) == {"fc3.weight", "fc4.weight"}
    task, network = env.unwrapped.task, env.unwrapped.network

    def accuracies(one):
        return [
            float((one.logits(part.inputs).argmax(-1) == part.labels).double().mean())
            for part in task.labelled("validation")
        ]

    (general, unbiased), (general_before, unbiased_before) = (
        accuracies(network),
        accuracies(network.fresh()),
    )
    assert unbiased > unbiased_before
    assert general >= general_before - 0.01 - 1e-9


@pytest.mark.parametrize(("steps", "after"), [(3, [3]), (4, [4]), (10, [4, 8, 10]), (8, [4, 8])])
@pytest.mark.parametrize("name", ["site_fine_tune", "last_layer_fine_tune"])
def test_the_last_step_is_a_candidate_too(name, steps, after):
    agent = make_agent(name, steps=steps, check_every=4, weightings=[0.5, 1.0])
    made = []

    def losses(moved, weights):
        made.append(moved[0].detach().clone())
        return [moved[0].square().sum()]

    found = list(agent.candidates([torch.ones(2)], losses))
    assert len(found) == 2 * len(after)
    before = [made[step] for step in range(steps)]  # what the first descent has before each step
    for (candidate,), step in zip(found[: len(after)], after, strict=True):
        assert step == steps or torch.equal(candidate, before[step])
    assert not torch.equal(found[len(after) - 1][0], before[-1])


@pytest.mark.parametrize("name", ["site_fine_tune", "last_layer_fine_tune", "linear_frontier"])
def test_no_weighting_at_all_is_refused(name):
    with pytest.raises(ValueError, match=r"weightings must be a list .* at least one, got \[\]"):
        make_agent(name, weightings=[])


@pytest.mark.parametrize("name", ["site_fine_tune", "last_layer_fine_tune", "cda_reweight"])
def test_a_fine_tuning_that_diverges_is_said_and_nothing_is_edited(name, env):
    few = {} if name == "cda_reweight" else {"steps": 20, "weightings": [1.0]}
    agent = make_agent(name, learning_rate=1e37, **few)
    with pytest.warns(UserWarning, match=f"{name} has diverged .*not finite") as caught:
        journal = agent.edit(env)
    assert sum("has diverged" in str(one.message) for one in caught) == 1
    assert len(journal) == 0
    assert "no candidate within the tolerance is better than no edit" in agent.notes[0]
