"""AlphaEdit and sequential MEMIT: recursive least squares, and steps that are taken back."""

import pytest
import torch
from torch import Tensor

from agents.editors.covariance import covariances, null_space
from agents.editors.least_squares import RecursiveLeastSquares

STEPS = 3  # in the fixture `environment`


def problem(n=5, d=12, out=7, batches=4):
    """S₀⁻¹, W, and batches of keys and values as rows."""
    root = torch.randn(d, d, dtype=torch.float64)
    return (
        root @ root.mT / d + 0.1 * torch.eye(d, dtype=torch.float64),
        torch.randn(out, d, dtype=torch.float64),
        [
            (torch.randn(n, d, dtype=torch.float64), torch.randn(n, out, dtype=torch.float64))
            for _ in range(batches)
        ],
    )


def stream(s0, weight, batches):
    """The solver and W after all batches."""
    solver = RecursiveLeastSquares(weight, s0)
    for keys, values in batches:
        weight = weight + solver.update(keys, values).matrix()
    assert torch.allclose(solver.w, weight, rtol=1e-10)
    return solver, weight


def close(one, other, tolerance):
    return float((one - other).norm() / other.norm()) < tolerance


@pytest.mark.parametrize("n", [1, 5, 20])
def test_recursive_steps_equal_the_dense_sequential_solve(n):
    prior, weight, batches = problem(n)
    solver, ours = stream(prior.inverse(), weight, batches)
    total = prior.clone()
    for keys, values in batches:
        total += keys.mT @ keys
        weight = weight + (values - keys @ weight.mT).mT @ keys @ total.inverse()
    assert close(ours, weight, 1e-10)
    assert close(solver.s, total.inverse(), 1e-10)


def test_the_stream_equals_the_joint_ridge_solution():
    prior, weight, batches = problem()
    keys, values = (torch.cat(parts) for parts in zip(*batches, strict=True))
    joint = (values.mT @ keys + weight @ prior) @ (keys.mT @ keys + prior).inverse()
    assert close(stream(prior.inverse(), weight, batches)[1], joint, 1e-10)


def test_alphaedit_equals_its_dense_equation_and_leaves_preserved_keys_alone():
    _, weight, batches = problem(n=3)
    preserved = torch.randn(6, 12, dtype=torch.float64)
    p, ridge, eye = (
        null_space(preserved.mT @ preserved, 1e-6),
        0.7,
        torch.eye(12, dtype=torch.float64),
    )
    ours = stream(p / ridge, weight, batches)[1]
    dense, seen = weight, torch.zeros(12, 12, dtype=torch.float64)
    for keys, values in batches:
        seen += keys.mT @ keys
        residuals = values - keys @ dense.mT
        dense = dense + residuals.mT @ keys @ p @ (seen @ p + ridge * eye).inverse()
    assert close(ours, dense, 1e-10)
    assert torch.allclose(preserved @ ours.mT, preserved @ weight.mT)


@pytest.mark.parametrize("n", [5, 20])
@pytest.mark.parametrize("removed", [(1,), (3,), (0, 2, 3)])
def test_removal_equals_a_replay_without_the_batches(n, removed):
    prior, weight, batches = problem(n)
    solver, edited = stream(prior.inverse(), weight, batches)
    keys, values = (torch.cat([batches[i][part] for i in removed]) for part in (0, 1))
    edited = edited + solver.remove(keys, values).matrix()
    replayed, without = stream(
        prior.inverse(), weight, [b for i, b in enumerate(batches) if i not in removed]
    )
    assert close(edited, without, 1e-6)
    assert close(solver.s, replayed.s, 1e-6)


def test_removal_of_unknown_keys_is_an_error():
    prior, weight, batches = problem()
    solver, _ = stream(prior.inverse(), weight, batches)
    with pytest.raises(ValueError, match="not among those"):
        solver.remove(100 * batches[0][0], batches[0][1])


@pytest.mark.parametrize("name", ["alphaedit", "memit_seq"])
def test_removed_steps_leave_what_the_other_steps_ask_for(
    env,
    process,
    name,
    editor,
):
    agent = editor(name)
    agent.edit(env)
    decoder = process.decoder
    batches = {step: agent._batches[step] for step in range(STEPS)}
    decoder.apply(*agent.remove([0, 2]))
    covered = list(covariances(process.task, agent._sites, agent.settings.tokens))
    for index, site in enumerate(agent._sites):
        base = process.task.decoder.base_weights[process.sites.index(site)].double()
        expected = stream(agent.prior(covered[index]), base, [batches[1][index]])[1]
        assert close(decoder.weights[process.sites.index(site)].double(), expected, 1e-5)
    with pytest.raises(ValueError, match="steps"):
        agent.remove(0)


@pytest.mark.parametrize("done", [1, 3, 4])
def test_a_solver_goes_on_from_its_state_to_the_bit(done):
    prior, weight, batches = problem(n=1)
    whole, _ = stream(prior.inverse(), weight, batches)
    begun, _ = stream(prior.inverse(), weight, batches[:done])
    resumed = RecursiveLeastSquares(weight, prior.inverse())
    resumed.load(begun.state())
    for keys, values in batches[done:]:
        resumed.update(keys, values)
    assert torch.equal(resumed.w, whole.w)
    assert torch.equal(resumed.s, whole.s)


def test_between_batches_only_factors_are_in_memory():
    solver = RecursiveLeastSquares(torch.randn(30, 40), torch.eye(40))
    for _ in range(8):
        solver.update(torch.randn(3, 40), torch.randn(3, 30))
        held = sum(one.numel() for one in vars(solver).values() if isinstance(one, Tensor))
        assert held <= 10 * (40 + 30 + 1)  # a quarter of d changes


@pytest.mark.parametrize("name", ["alphaedit", "memit_seq"])
def test_a_step_that_is_asked_for_again_is_solved_as_the_first_time(process, name, editor):
    agent = editor(name)
    agent.begin(process)
    for _ in range(2):
        torch.manual_seed(0)
        first = agent.entries(process)
        torch.manual_seed(0)
        again = agent.entries(process)
        for one, other in zip(first, again, strict=True):
            assert torch.equal(one.update.matrix(), other.update.matrix())
        process.advance(again)
    assert sorted(agent._batches) == [0, 1]
    assert_solved(agent, process.decoder)


@pytest.mark.parametrize("name", ["alphaedit", "memit_seq"])
def test_a_step_that_fails_half_way_is_as_if_it_had_not_been_asked_for(
    process, name, editor, monkeypatch
):
    agent = editor(name)
    agent.begin(process)
    process.advance(agent.entries(process))
    with monkeypatch.context() as patch:
        patch.setattr(agent._solvers[1], "update", cannot)
        with pytest.raises(ValueError, match="cannot"):
            agent.entries(process)
    assert list(agent._batches) == list(agent._places) == [0]
    assert_solved(agent, process.decoder)
    process.advance(agent.entries(process))
    assert_solved(agent, process.decoder)


@pytest.mark.parametrize("name", ["alphaedit", "memit_seq"])
def test_a_removal_that_fails_half_way_removes_nothing(env, process, name, editor, monkeypatch):
    agent = editor(name)
    agent.edit(env)
    with monkeypatch.context() as patch:
        patch.setattr(agent._solvers[1], "remove", cannot)
        with pytest.raises(ValueError, match="cannot"):
            agent.remove(1)
    assert sorted(agent._batches) == list(range(STEPS))
    assert_solved(agent, process.decoder)
    process.decoder.apply(*agent.remove(1))
    assert_solved(agent, process.decoder)


def cannot(*_):
    raise ValueError("these keys cannot be removed")


def assert_solved(agent, decoder):
    """Every solver's W is the decoder's."""
    for site, solver in zip(agent._sites, agent._solvers, strict=True):
        weight = decoder.weights[decoder.sites.index(site)].double()
        torch.testing.assert_close(solver.w, weight, rtol=1e-4, atol=1e-5)
