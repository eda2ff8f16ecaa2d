"""The hypernetwork against its formulas in float64, its units, and its state."""

import pytest
import torch

from agents.hypernetworks.network import Hypernetwork
from agents.hypernetworks.rledit import HypernetworkPolicy
from editgym.weights.closed_form import RunningStandardization, UltraEdit

SHAPES = ((6, 20), (6, 20), (12, 9))  # two sites that share h_φ, and one of another shape
RULES = ["malmen", "mend"]


def drawn(n=5, seed=0, shapes=SHAPES):
    """Keys and gradients of every site, neither of mean 0 nor of variance 1."""
    generator = torch.Generator().manual_seed(seed)
    keys = [0.5 + 2 * torch.randn(n, columns, generator=generator) for _, columns in shapes]
    return keys, [0.1 * torch.randn(n, rows, generator=generator) - 0.02 for rows, _ in shapes]


def begun(*batches, **settings):
    """A network that has observed batches."""
    network = Hypernetwork(SHAPES, **settings)
    for batch in batches or [drawn()]:
        network.observe(*batch)
    return network


def moved(network, size=0.3, seed=1):
    """The network with all its parameters away from the start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return network


def standardized(rows, seen):
    """Rows by mean and standard deviation of all rows seen, in float64."""
    return (rows.double() - seen.double().mean(0)) / seen.double().std(0)


def transformed(network, site, x):
    """h_φ as its formula says, in float64, from the network's parameters alone."""
    rows, columns = SHAPES[site]
    row = sum(shape == SHAPES[site] for shape in SHAPES[:site])
    for block in network.networks[f"{rows}x{columns}"]:
        hidden = (x @ block.a.double() @ block.b.double() + block.bias.double()).clamp(min=0)
        x = x + block.scale[row].double() * hidden + block.shift[row].double()
    return x.split([columns, rows], dim=1)


def dense(network, site, batch, seen):
    """The update as its equation says, with MALMEN's solve as in × in, float64."""
    keys = batch[0][site]
    step = network.steps[site].double().exp() * network.units[site].double()
    both = [
        standardized(own[site], all_rows[site]) for own, all_rows in zip(batch, seen, strict=True)
    ]
    k, g = transformed(network, site, torch.cat(both, dim=1))
    if network.rule == "mend":
        return -step * sum(torch.outer(g[i], k[i]) for i in range(len(k)))
    raw = keys.double()
    values = torch.stack([-step * (raw[i] @ k[i]) * g[i] for i in range(len(k))])  # (n, out)
    covered = raw.mT @ raw + network.log_ridges[site].double().exp() * torch.eye(
        raw.shape[1], dtype=torch.float64
    )
    return values.mT @ raw @ covered.inverse()


def distance(one, other):
    return float(((one.double() - other).norm() / other.norm()).detach())


# --- the function ---------------------------------------------------------------------------------


def test_at_the_start_every_block_is_the_identity_bitwise():
    network = begun()
    for site, x in enumerate(network.features(*drawn())):
        rows, columns = SHAPES[site]
        assert x.shape == (5, rows + columns)
        for block in network.networks[f"{rows}x{columns}"]:
            assert torch.equal(block(x, 0), x)
    assert len(network.networks) == 2
    assert all(len(blocks) == 4 for blocks in network.networks.values())


def test_features_are_keys_and_gradients_standardised_by_all_that_was_seen():
    first, second = drawn(seed=0), drawn(3, seed=1)
    network = begun(first, second)
    for site, x in enumerate(network.features(*second)):
        expected = torch.cat(
            [
                standardized(second[part][site], torch.cat([first[part][site], second[part][site]]))
                for part in (0, 1)
            ],
            dim=1,
        )
        torch.testing.assert_close(x.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_the_first_gradient_of_b_is_not_zero(rule):
    """With `relu` it would be, and b would never leave 0; `clamp` passes it on in some versions of
    torch only."""
    network = begun(rule=rule)
    batch = drawn(seed=1)
    sum(
        (update.matrix() * torch.randn(update.shape)).sum() for update in network(*batch)
    ).backward()
    for blocks in network.networks.values():
        for block in blocks:
            assert block.b.grad.abs().max() > 1e-6
            assert not block.a.grad.any(), "a moves only once b is not 0"
    before = [update.matrix() for update in network(*batch)]
    torch.optim.SGD(network.networks.parameters(), 0.1 / float(block.b.grad.abs().max())).step()
    assert block.b.any()
    assert all(
        distance(now.matrix(), old) > 1e-3 for now, old in zip(network(*batch), before, strict=True)
    )


def test_untrained_malmen_is_ultraedit_up_to_a_scalar_per_token():
    network, batch = begun(step_size=1e-2), drawn()
    for site, (update, keys, gradients) in enumerate(zip(network(*batch), *batch, strict=True)):
        gram = keys @ keys.mT + torch.eye(len(keys))  # what both rules solve with, at λ = 1
        ours = update.a @ gram * network.units[site].reciprocal()
        theirs = UltraEdit(SHAPES[site]).update(keys, gradients, 1e-2).a @ gram
        own = standardized(keys, keys).float()
        ratio = (keys * own).sum(1) / own.square().sum(1)
        torch.testing.assert_close(ours, theirs * ratio, rtol=1e-3, atol=1e-5)
        assert ratio.std() > 0.01
        assert torch.equal(update.b, keys)


@pytest.mark.parametrize("n", [1, 5, 30])
@pytest.mark.parametrize("rule", RULES)
def test_trained_updates_are_those_of_the_dense_equations(rule, n):
    seen = drawn(30)
    network, batch = (
        moved(begun(seen, rule=rule)),
        tuple([rows[:n] for rows in part] for part in seen),
    )
    for site, update in enumerate(network(*batch)):
        assert update.a.shape[1] == n
        assert distance(update.matrix().detach(), dense(network, site, batch, seen).detach()) < 1e-5


def test_mends_rule_is_the_sum_of_outer_products():
    network, (keys, gradients) = begun(rule="mend", step_size=0.3), drawn()
    for site, update in enumerate(network(keys, gradients)):
        k, g = standardized(keys[site], keys[site]), standardized(gradients[site], gradients[site])
        expected = (
            -0.3 * float(network.units[site]) * sum(torch.outer(g[i], k[i]) for i in range(5))
        )
        assert distance(update.matrix().detach(), expected) < 1e-5


def test_gradients_of_parameters_are_those_of_the_dense_equations():
    network, batch = moved(begun()), drawn()
    weights = [torch.randn(shape) for shape in SHAPES]
    names = [name for name, _ in network.named_parameters()]
    total = sum(
        (update.matrix() * weight).sum()
        for update, weight in zip(network(*batch), weights, strict=True)
    )
    found = torch.autograd.grad(total, list(network.parameters()))
    reference = sum(
        (dense(network, site, batch, batch) * weight).sum() for site, weight in enumerate(weights)
    )
    for name, one, other in zip(
        names, found, torch.autograd.grad(reference, list(network.parameters())), strict=True
    ):
        assert other.abs().max() > 0, name
        assert distance(one, other.double()) < 1e-3, name


# --- step sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("step_size", [1e-3, 0.5])
def test_the_first_update_is_as_long_as_ultraedits_with_the_same_step(rule, step_size):
    first, second = drawn(), drawn(seed=1)
    network = Hypernetwork(SHAPES, rule=rule, step_size=step_size)
    network.observe(*first)
    editors = [UltraEdit(shape) for shape in SHAPES]
    expected = [
        editor.update(k, g, step_size) for editor, k, g in zip(editors, *first, strict=True)
    ]
    for one, other in zip(network(*first), expected, strict=True):
        assert float(one.matrix().detach().norm()) == pytest.approx(
            float(other.matrix().norm()), rel=1e-4
        )
    units = network.units.clone()
    network.observe(*second)
    assert torch.equal(network.units, units), "the first batch settles them, once"
    assert not torch.equal(units, torch.ones(3))


def test_a_step_learned_by_its_logarithm_stays_positive_and_the_plain_one_may_turn():
    for log_step, factor in ((True, torch.tensor(-0.2).exp()), (False, torch.tensor(-1.0))):
        network, batch = begun(step_size=0.1, log_step=log_step), drawn()
        before = [update.matrix().detach() for update in network(*batch)]
        with torch.no_grad():
            network.steps -= 0.2
        for one, other in zip(network(*batch), before, strict=True):
            torch.testing.assert_close(one.matrix(), factor * other, rtol=1e-4, atol=1e-7)


def test_a_larger_ridge_makes_a_shorter_update():
    lengths = []
    for ridge in (0.01, 1.0, 100.0):
        network = begun()
        with torch.no_grad():
            network.log_ridges.fill_(torch.tensor(ridge).log())
        lengths.append([float(update.matrix().detach().norm()) for update in network(*drawn())])
    assert all(a > b > c for a, b, c in zip(*lengths, strict=True))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("earlier", [0, 1, 4])
def test_one_token_gives_no_nan_forward_or_backward(rule, earlier):
    batches = [drawn(earlier, seed=2)] if earlier else []
    network = Hypernetwork(SHAPES, rule=rule)
    for batch in [*batches, drawn(1)]:
        network.observe(*batch)
    updates = network(*drawn(1))
    sum(update.matrix().square().sum() + update.matrix().sum() for update in updates).backward()
    assert all(torch.isfinite(update.matrix()).all() for update in updates)
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    assert torch.isfinite(network.units).all()


def test_no_matrix_larger_than_the_batch_is_solved(monkeypatch):
    """The d × d system of MALMEN's paper is never formed: not forward, not backward, not for the
    units."""
    sizes = []
    for name in (
        "solve",
        "solve_ex",
        "inv",
        "inv_ex",
        "cholesky",
        "cholesky_ex",
        "lstsq",
        "pinv",
        "eigh",
        "svd",
        "qr",
    ):
        own = getattr(torch.linalg, name, None)
        if own is None:
            continue

        def watched(first, *rest, own=own, **named):
            sizes.append(max(first.shape[-2:]))
            return own(first, *rest, **named)

        monkeypatch.setattr(torch.linalg, name, watched)
    wide = ((64, 256), (256, 64))
    network = Hypernetwork(wide)
    batch = drawn(4, shapes=wide)
    network.observe(*batch)
    sum(update.a.square().sum() for update in network(*batch)).backward()
    assert sizes
    assert max(sizes) <= 4


# --- state ----------------------------------------------------------------------------------------


def test_seeds_and_ranks_of_the_blocks():
    one, again, other = (Hypernetwork(SHAPES, seed=seed) for seed in (0, 0, 1))
    blocks = [network.networks["6x20"][0] for network in (one, again, other)]
    assert torch.equal(blocks[0].a, blocks[1].a)
    assert not torch.equal(blocks[0].a, blocks[2].a)
    assert blocks[0].a.shape == (26, 6), "a quarter of its width"
    assert Hypernetwork(SHAPES, rank=3).networks["12x9"][0].a.shape == (21, 3)
    assert Hypernetwork(SHAPES, rank=1_000).networks["12x9"][0].a.shape == (21, 21)
    assert Hypernetwork(((6_000, 2_000),), blocks=1).networks["6000x2000"][0].a.shape == (
        8_000,
        1_024,
    )


def test_statistics_are_all_that_an_edit_depends_on_beyond_the_parameters():
    network = moved(begun(drawn(), drawn(seed=1)))
    state = network.statistics()
    expected = [update.matrix() for update in network(*drawn(seed=2))]
    network.observe(*drawn(seed=3))
    assert not torch.equal(network(*drawn(seed=2))[0].matrix(), expected[0])
    twin = Hypernetwork(SHAPES, seed=5)
    twin.load_state_dict(
        {name: value for name, value in network.state_dict().items() if name != "units"},
        strict=False,
    )
    twin.load_statistics(state)
    assert all(
        torch.equal(u.matrix(), e) for u, e in zip(twin(*drawn(seed=2)), expected, strict=True)
    )
    twin.observe(*drawn(seed=4))
    network.load_statistics(state)
    assert all(
        torch.equal(u.matrix(), e) for u, e in zip(network(*drawn(seed=2)), expected, strict=True)
    )


def test_statistics_go_where_the_parameters_go():
    """Also inside another module, and also those that are loaded there; a policy is moved as a
    whole."""
    policy = HypernetworkPolicy(begun(), 1)
    state = policy.statistics()
    policy.to("meta")
    for own in (*policy.network.keys, *policy.network.gradients):
        assert own.mean.device.type == own.squares.device.type == "meta"
    policy.load_statistics(state)
    assert {own.mean.device.type for own in policy.network.keys} == {"meta"}
    assert policy.network.units.device.type == "meta"


@pytest.mark.parametrize("rule", RULES)
def test_streams_of_one_token_a_step_are_edited_from_the_second_on(rule):
    network = Hypernetwork(SHAPES, rule=rule, step_size=0.1)
    editors = [UltraEdit(shape) for shape in SHAPES]
    for step in range(3):
        keys, gradients = drawn(n=1, seed=step)
        network.observe(keys, gradients)
        batch = zip(editors, keys, gradients, strict=True)
        wanted = [editor.update(k, g, 0.1).matrix().norm() for editor, k, g in batch]
        lengths = [update.matrix().norm() for update in network(keys, gradients)]
        assert all((length > 0) == (step > 0) for length in lengths)
        if step == 1:
            torch.testing.assert_close(lengths, wanted)


# --- through the reward ---------------------------------------------------------------------------


def test_running_statistics_of_a_single_row_count_variance_as_one():
    own = RunningStandardization(3)
    own.update(torch.tensor([[1.0, 2.0, 3.0]]))
    assert own(torch.tensor([[2.0, 2.0, 2.0]])).tolist() == [[1.0, 0.0, -1.0]]
