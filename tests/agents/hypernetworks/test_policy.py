"""The policy of hypernetworks: its gradient through a real reward, and looking at a batch again."""

import pytest
import torch

from agents.editors.stream import stream_process
from agents.hypernetworks.network import Hypernetwork
from agents.hypernetworks.policy import HypernetworkPolicy
from editgym.weights import LowRankFactors, Shift, SiteEdit

RULES = ["malmen", "mend"]


@pytest.mark.parametrize("rule", RULES)
def test_gradients_of_the_policy_are_finite_differences_of_the_reward(make_process, rule):
    """Along the gradient of each kind of parameter, for there float32 has the most digits; within
    3%."""
    process, twin = (
        make_process(back_depth=2, norm_weight=0.01, locality_weight=2.0) for _ in range(2)
    )
    shapes = [site.shape for site in process.sites]
    network = Hypernetwork(shapes, rule=rule, step_size=0.05)
    with torch.no_grad():
        for parameter in network.networks.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    policy = HypernetworkPolicy(network, 1)
    for one in (process, twin):  # so that there is something to look back to
        generator = torch.Generator().manual_seed(3)
        one.step(
            [
                LowRankFactors(
                    0.05 * torch.randn(rows, 2, generator=generator),
                    torch.randn(2, columns, generator=generator),
                )
                for rows, columns in shapes
            ]
        )
    policy.losses(process).backward()
    capture = twin.capture
    checked = {
        name: parameter
        for name, parameter in network.named_parameters()
        if "." not in name or name.split(".")[2] in ("0", "3")
    }
    kinds = {name.rsplit(".", 1)[-1] for name in checked}
    assert kinds == {"a", "b", "bias", "scale", "shift", "steps", "log_ridges"}
    for name, parameter in checked.items():
        if rule == "mend" and name == "log_ridges":
            assert parameter.grad is None, "only malmen solves"
            continue
        gradient = parameter.grad
        size = 0.01 / float(gradient.square().sum())
        rewards = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * size * gradient
                updates = network(capture.keys, capture.gradients)
                rewards.append(
                    float(
                        twin.candidate_rewards(
                            [LowRankFactors(u.a[None], u.b[None]) for u in updates]
                        )
                    )
                )
                parameter -= sign * size * gradient
        # The gradient is of the loss, −r.
        assert (rewards[1] - rewards[0]) / 0.02 == pytest.approx(1, abs=0.03), name


def test_a_second_look_has_the_first_update_in_effect(trained, stream_env):
    agent, env = trained(step_size=0.1, sequences=0, passes=2), stream_env(split="test", horizon=1)
    once = trained(step_size=0.1, sequences=0)
    process = stream_process(env)
    agent.begin(process)
    once.begin(process)
    first = [entry.update for entry in once.entries(process)]
    twin = process.decoder.fresh()
    twin.apply(
        *[
            SiteEdit(site.name, Shift(), update)
            for site, update in zip(process.sites, first, strict=True)
        ]
    )
    again = twin.capture(process.prompts)
    expected = once.policy.network(again.keys, again.gradients)
    found = [entry.update for entry in agent.entries(process)]
    for total, one, two in zip(found, first, expected, strict=True):
        torch.testing.assert_close(
            total.matrix(), one.matrix() + two.matrix().detach(), rtol=1e-4, atol=1e-6
        )
        assert two.matrix().norm() > 0.05 * one.matrix().norm()
        assert total.a.shape[1] == 2 * one.a.shape[1]
    assert agent.policy.network.keys[0].count == len(process.capture.keys[0]), (
        "a batch is counted once"
    )
    assert not process.decoder.journal.entries


def test_a_second_look_learns_through_both_updates(trained, make_process):
    agent, process = trained(step_size=0.1, sequences=0, passes=2), make_process()
    agent.policy.losses(process).backward()
    both = agent.policy.network.steps.grad.clone()
    agent.policy.network.steps.grad = None
    agent.policy.passes = 1
    agent.policy.losses(make_process()).backward()
    assert (both - agent.policy.network.steps.grad).abs().max() > 1e-3


def test_no_system_larger_than_the_batchs_tokens_is_solved_in_a_training_step(
    make_process, trained, monkeypatch
):
    agent, process = trained(sequences=0), make_process()
    tokens, solved = len(process.capture.keys[0]), []
    solve = torch.linalg.solve_ex
    monkeypatch.setattr(
        torch.linalg, "solve_ex", lambda a, b: (solved.append(len(a)), solve(a, b))[1]
    )
    for name in ("inv", "pinv", "lstsq", "cholesky", "svd", "eigh", "qr"):
        monkeypatch.setattr(torch.linalg, name, lambda *_, name=name, **__: pytest.fail(name))
    agent.policy.losses(process).backward()
    assert set(solved) == {tokens}
    assert tokens < min(process.sites[0].shape)


@pytest.mark.parametrize("name", ["rledit", "hiedit"])
def test_statistics_take_in_new_requests_and_updates_are_of_rehearsed_ones_too(
    name, trained, make_process
):
    agent = trained(name, sequences=0, step_size=0.1, env={"rehearse": 3})
    process = make_process(rehearse=3)
    process.advance([])
    agent.begin(process)
    edits = agent.entries(process)
    tokens, new = len(process.capture.keys[0]), len(process.capture.new.keys[0])
    assert tokens > new
    assert agent.policy.network.keys[0].count == new
    assert {edit.update.a.shape[1] for edit in edits} == {tokens}
