import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from editgym.weights import (
    DenseUpdate,
    EditableNetwork,
    EditJournal,
    LowRankFactors,
    Mask,
    ReplaceTensors,
    Shift,
    SiteEdit,
    UnknownSiteError,
    find_sites,
    fingerprint,
)
from editgym.weights.overlay import EditedWeights

ENTRY_KINDS = ("low_rank_shift", "low_rank_mask", "dense_shift", "dense_mask", "replace_tensors")


def snapshot(network):
    """All there is to know about a network's state."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}, list(
        network.journal
    )


def same(before, network):
    tensors, entries = before
    now = network.state_dict()
    return (
        tensors.keys() == now.keys()
        and all(torch.equal(tensors[name], now[name]) for name in now)
        and len(entries) == len(network.journal)
        and all(a is b for a, b in zip(entries, network.journal, strict=True))
    )


# --- the base is never written to -----------------------------------------------------------------


def test_model_that_was_given_is_copied_and_left_as_it_was(build, inputs, make_edit):
    model = build("linear").train()
    before, mode = fingerprint(model), model.training
    network = EditableNetwork(model, find_sites(model, ["fc2"]), inputs("linear"))
    network.apply(make_edit(network, "dense_mask"))
    assert fingerprint(model) == before == network.base_hash
    assert model.training is mode
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        model.fc2.weight.zero_()
    assert fingerprint(network.base) == network.base_hash
    assert not any(parameter.requires_grad for parameter in network.base.parameters())


def test_reset_after_a_thousand_edits_restores_every_weight_bitwise(network, inputs, make_edit):
    x = inputs("linear")
    before, logits, fresh_logits = snapshot(network), network.logits(x), network.fresh().logits(x)
    for step in range(1000):
        network.apply(make_edit(network, ENTRY_KINDS[step % 4], site=step % 2, step=step))
    assert not torch.equal(network.logits(x), logits)
    network.reset()
    assert same(before, network)
    assert torch.equal(network.logits(x), logits)
    assert torch.equal(network.logits(x), fresh_logits)
    assert fingerprint(network.base) == network.base_hash


def test_reset_copies_no_weight_whatever_was_edited(network, make_edit):
    base = [weight.data_ptr() for weight in network.base_weights]
    tensors = {name: tensor.data_ptr() for name, tensor in network.base.state_dict().items()}
    for step in range(3):
        network.apply(make_edit(network, "dense_shift", step=step))
    assert network.weights[0].data_ptr() != base[0]
    network.reset()
    assert network.parameters_changed == {}
    assert [weight.data_ptr() for weight in network.weights] == base
    assert {
        name: tensor.data_ptr() for name, tensor in network.base.state_dict().items()
    } == tensors


def test_fresh_network_shares_the_base_and_no_edit(network, inputs, make_edit):
    x = inputs("linear")
    network.apply(make_edit(network))
    edited = network.logits(x)
    twin = network.fresh()
    assert twin.base is network.base
    assert len(twin.journal) == 0
    twin.apply(make_edit(twin, "dense_mask"), make_edit(twin, "dense_shift"))
    assert len(network.journal) == 1
    assert torch.equal(network.logits(x), edited)


def test_state_dict_is_a_copy(network):
    network.state_dict()["fc2.weight"].zero_()
    assert network.state_dict()["fc2.weight"].any()


# --- the edited network, taken elsewhere, is the same network -------------------------------------


@pytest.mark.parametrize("site", [0, 1])
@pytest.mark.parametrize("entry", ENTRY_KINDS)
@pytest.mark.parametrize("kind", ["linear", "conv2d", "conv1d", "suffix names"])
def test_merged_weights_and_replayed_journal_give_the_logits_exactly(
    editable, build, inputs, make_edit, kind, entry, site
):
    network, x = editable(kind), inputs(kind, 33)
    base = network.logits(x)
    network.apply(make_edit(network, entry, site, 0), make_edit(network, "dense_shift", 1, 0))
    network.apply(make_edit(network, entry, site, 1))
    edited = network.logits(x)
    assert not torch.equal(edited, base)
    loaded = build(kind)
    loaded.load_state_dict(network.state_dict())
    replayed = editable(kind)
    replayed.replay(network.journal)
    with torch.no_grad():
        assert torch.equal(loaded(x), edited)
        assert torch.equal(network.merged()(x), edited)
    assert torch.equal(replayed.logits(x), edited)


@pytest.mark.parametrize("kind", ["resnet", "gpt2"])
@pytest.mark.filterwarnings("ignore:.*every evaluation runs the whole network")
def test_large_networks_merge_and_replay_exactly(editable, build, inputs, make_edit, kind):
    network, x = editable(kind), inputs(kind)
    network.apply(*(make_edit(network, entry, step=i) for i, entry in enumerate(ENTRY_KINDS)))
    loaded, replayed = build(kind), editable(kind)
    loaded.load_state_dict(network.state_dict())
    replayed.replay(network.journal)
    with torch.no_grad():
        assert torch.equal(loaded(x), network.logits(x))
    assert torch.equal(replayed.logits(x), network.logits(x))


@pytest.mark.filterwarnings("ignore:.*every evaluation runs the whole network")
def test_tied_weights_change_together(editable, build, inputs):
    """GPT-2's output layer is its embedding: replacing one is replacing the other, also in the
    state dict."""
    network, x = editable("gpt2"), inputs("gpt2")
    network.apply(ReplaceTensors({"model.transformer.wte.weight": 0.1 * torch.randn(50, 16)}))
    loaded = build("gpt2")
    loaded.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(loaded(x), network.logits(x))
    everything = network.state_dict()
    network.reset()
    network.apply(ReplaceTensors(everything))
    with torch.no_grad():
        assert torch.equal(loaded(x), network.logits(x))


class Sharing(nn.Module):
    """Two layers of one weight, which is no site's alone."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.out(torch.relu(self.second(torch.relu(self.first(x)))))


@pytest.mark.parametrize("sites", [["first", "second"], ["out", "second", "first"]])
def test_sites_that_are_one_tensor_are_refused(sites):
    model = Sharing()
    with pytest.raises(UnknownSiteError, match=r"^sites: (first and second|second and first) are"):
        EditableNetwork(model, find_sites(model, sites), torch.randn(6, 6))


@pytest.mark.parametrize("name", ["first", "second"])
def test_a_site_that_another_layer_shares_is_evaluated_rightly(name):
    model, x = Sharing(), torch.randn(6, 6)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*KeyError")
        network = EditableNetwork(model, find_sites(model, [name]), x)
    weight = network.base_weights[0]
    logits = network.candidate_logits([torch.stack([weight, 0.3 * weight])], network.activations(x))
    network.apply(SiteEdit(name, Mask(), DenseUpdate(torch.full((6, 6), -0.7))))
    torch.testing.assert_close(logits[1], network.logits(x))


@pytest.mark.filterwarnings("ignore:.*every evaluation runs the whole network")
def test_a_sum_of_half_precision_is_rounded_once():
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)).bfloat16()
    network = EditableNetwork(model, find_sites(model, ["1"]), torch.randn(4, 6).bfloat16())
    a, b = torch.randn(3, 2).bfloat16(), 0.01 * torch.randn(2, 8).bfloat16()
    network.apply(SiteEdit("1", Shift(), LowRankFactors(a, b)))
    exact = network.base_weights[0].float() + a.float() @ b.float()
    assert torch.equal(network.weights[0], exact.bfloat16())


def test_edits_compound_by_hand(network):
    base = network.base_weights[0]
    first, second = torch.full(base.shape, 0.5), torch.full(base.shape, -0.25)
    network.apply(SiteEdit("fc2", Shift(0.1), DenseUpdate(first)))
    network.apply(SiteEdit("fc2", Mask(), DenseUpdate(second), step=1))
    torch.testing.assert_close(network.weights[0], (base + 0.05) * 0.75)
    assert torch.equal(network.weights[1], network.base_weights[1])
    assert list(network.parameters_changed) == ["fc2.weight"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_edit_of_another_precision_leaves_the_networks_own(network, inputs, dtype):
    network.apply(SiteEdit("fc2", Shift(), DenseUpdate(torch.randn(32, 128).to(dtype))))
    assert network.weights[0].dtype == torch.float32
    assert network.logits(inputs("linear")).isfinite().all()


# --- undo, rollback, replay -----------------------------------------------------------------------


@pytest.fixture
def edited(network, inputs, make_edit):
    """A network after steps 0, 1 and 2, two entries each, and its logits before each step and
    now."""
    x = inputs("linear")
    logits = [network.logits(x)]
    for step in range(3):
        network.apply(
            make_edit(network, "low_rank_shift", 0, step), make_edit(network, "dense_mask", 1, step)
        )
        logits.append(network.logits(x))
    return network, x, logits


def test_undo_takes_back_one_step_at_a_time(edited):
    network, x, logits = edited
    for step in (2, 1, 0):
        assert [entry.step for entry in network.undo()] == [step, step]
        assert torch.equal(network.logits(x), logits[step])
    with pytest.raises(IndexError, match="nothing to undo"):
        network.undo()


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_rollback_returns_to_the_state_before_a_step(edited, step):
    network, x, logits = edited
    assert len(network.rollback(step)) == 2 * (3 - step)
    assert network.journal.steps == step
    assert torch.equal(network.logits(x), logits[step])


def test_rollback_to_a_negative_step_changes_nothing(edited):
    network = edited[0]
    before = snapshot(network)
    with pytest.raises(ValueError, match="0 or more"):
        network.rollback(-1)
    assert same(before, network)


def test_undone_edits_apply_again(edited):
    network, x, logits = edited
    network.apply(*network.undo())
    assert torch.equal(network.logits(x), logits[-1])


def test_undoing_a_replacement_restores_the_base_tensor(network, make_edit):
    before = snapshot(network)
    network.apply(make_edit(network, "replace_tensors"))
    network.undo()
    assert same(before, network)


def test_replay_starts_from_the_base(edited, make_edit):
    network, x, logits = edited
    other = network.fresh()
    other.apply(make_edit(other, "dense_mask"))
    other.replay(network.journal)
    assert torch.equal(other.logits(x), logits[-1])
    other.undo()
    assert len(network.journal) == 6, "the replayed journal is not the other network's own"


# --- bad edits change nothing ---------------------------------------------------------------------


def bad_edits():
    fc2 = (32, 128)
    nan, inf = torch.full(fc2, float("nan")), torch.full(fc2, float("inf"))
    return {
        "unknown site": (
            SiteEdit("fc9", Shift(), DenseUpdate(torch.ones(fc2))),
            UnknownSiteError,
            "fc9",
        ),
        "site not open": (
            SiteEdit("fc1", Shift(), DenseUpdate(torch.ones(128, 128))),
            UnknownSiteError,
            "open are",
        ),
        "wrong shape": (
            SiteEdit("fc2", Shift(), DenseUpdate(torch.ones(128, 32))),
            ValueError,
            r"\(32, 128\)",
        ),
        "a row that would broadcast": (
            SiteEdit("fc2", Shift(), DenseUpdate(torch.ones(1, 128))),
            ValueError,
            "update",
        ),
        "nan": (SiteEdit("fc2", Shift(), DenseUpdate(nan, 1.0)), ValueError, "not finite"),
        "nan mask": (SiteEdit("fc2", Mask(), DenseUpdate(nan, 1.0)), ValueError, "not finite"),
        "infinite": (SiteEdit("fc2", Shift(), DenseUpdate(inf)), ValueError, "not finite"),
        "unknown tensor": (
            ReplaceTensors({"fc2.scale": torch.ones(2)}),
            UnknownSiteError,
            "fc2.scale",
        ),
        "tensor of wrong shape": (
            ReplaceTensors({"fc2.bias": torch.ones(2)}),
            ValueError,
            "fc2.bias",
        ),
        "tensor with nan": (ReplaceTensors({"fc2.weight": nan}), ValueError, "not finite"),
    }


@pytest.mark.parametrize("name", bad_edits())
@pytest.mark.parametrize("by", ["apply", "replay"])
def test_bad_edit_is_an_error_and_changes_nothing(network, make_edit, name, by):
    entry, error, message = bad_edits()[name]
    network.apply(make_edit(network))
    before = snapshot(network)
    good = make_edit(network, "dense_shift", step=1)
    journal = EditJournal(network.base_hash, list(network.journal))
    journal.append(good, entry)
    with pytest.raises(error, match=message):
        network.apply(good, entry) if by == "apply" else network.replay(journal)
    assert same(before, network)


# --- the shortcut: activations that no edit can change are computed once --------------------------


class Branches(nn.Module):
    """Which way it goes depends on the data: it cannot be traced."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(12, 16), nn.Linear(16, 5)

    def forward(self, x):
        h = self.first(x)
        if h.sum() > 0:
            h = h.relu()
        return self.second(h)


class Transposes(nn.Module):
    """Its activations before the edited layer have the samples last: they cannot be gathered by
    row."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(12, 5), nn.Linear(12, 5)

    def forward(self, x):
        return torch.einsum("no,on->no", self.second(x), self.first(x).t())


class OwnParameter(nn.Module):
    """Scales its logits by a parameter of its own, after the edited layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(12, 16), nn.Linear(16, 5)
        self.gain = nn.Parameter(torch.linspace(1, 2, 5))

    def forward(self, x):
        return self.gain * self.second(torch.relu(self.first(x)))


class RemembersSize(nn.Module):
    """Asks for the number of samples before the edited layer and uses it after."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(12, 16), nn.Linear(16, 5)

    def forward(self, x):
        n = x.shape[0]
        left, right = torch.relu(self.first(x)).chunk(2, dim=1)
        return self.second(torch.cat([left, right], 1)).view(n, -1)


OWN = {cls.__name__: cls for cls in (Branches, Transposes, OwnParameter, RemembersSize)}
CANNOT_BE_CUT = ("Branches", "Transposes")


@pytest.fixture
def own_network():
    """`own_network(name, site)` of one of the modules above."""

    def make(name, site="second"):
        model = OWN[name]().eval()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*every evaluation runs the whole network")
            return EditableNetwork(model, find_sites(model, [site]), torch.randn(6, 12)), model

    return make


@pytest.mark.parametrize("kind", ["linear", "conv2d", "conv1d", "suffix names", "resnet"])
def test_networks_that_can_be_cut_are_and_do_not_warn(editable, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert editable(kind).reuses_prefix


def test_prefix_really_stops_before_the_first_site(editable, inputs):
    (activations,) = editable("linear", ("fc3", "fc2")).activations(inputs("linear"))
    assert activations.shape == (9, 128)


def test_network_that_cannot_be_traced_warns_why(inputs):
    model = Branches()
    with pytest.warns(
        UserWarning, match=r"Branches: every evaluation runs the whole network.*control flow"
    ):
        network = EditableNetwork(model, find_sites(model, ["second"]), torch.randn(6, 12))
    assert not network.reuses_prefix


@pytest.mark.parametrize("name", OWN)
def test_only_what_can_be_gathered_by_row_is_reused(own_network, name):
    network, _ = own_network(name)
    assert network.reuses_prefix is (name not in CANNOT_BE_CUT)
    assert all(len(part) == 4 for part in network.activations(torch.randn(4, 12)))


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("site", ["first", "second"])
@pytest.mark.parametrize("name", OWN)
def test_candidates_of_any_module_are_evaluated_rightly(own_network, name, site, k):
    network, model = own_network(name, site)
    x, layer = torch.randn(20, 12), model.get_submodule(site)
    rows = torch.randint(20, (k, 6))
    candidates = layer.weight.data + 0.3 * torch.randn(k, *layer.weight.shape)
    activations = network.activations(x, batch_size=8)
    shared = network.candidate_logits([candidates], activations)
    own = network.map_candidates(lambda logits, window: logits, [candidates], activations, rows)
    for i in range(k):
        layer.weight.data = candidates[i]
        with torch.no_grad():
            torch.testing.assert_close(shared[i], model(x), atol=1e-5, rtol=0)
            torch.testing.assert_close(own[i], model(x[rows[i]]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("own_rows", [False, True])
@pytest.mark.parametrize("kind", ["linear", "conv2d", "conv1d", "suffix names", "resnet"])
def test_candidates_agree_with_the_full_forward_pass(
    editable, inputs, make_edit, kind, own_rows, k
):
    network, x = editable(kind), inputs(kind, 12)
    rows = torch.randint(12, (k, 7)) if own_rows else None
    expected, weights = [], []
    for i in range(k):
        network.reset()
        network.apply(make_edit(network, "dense_shift", 0), make_edit(network, "dense_mask", 1))
        expected.append(network.logits(x if rows is None else x[rows[i]]))
        weights.append(network.weights)
    stacked = [torch.stack(per_site) for per_site in zip(*weights, strict=True)]
    got = network.map_candidates(
        lambda logits, window: logits, stacked, network.activations(x, batch_size=5), rows
    )
    torch.testing.assert_close(got, torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_windows_of_candidates_cover_all_in_order(network, inputs, monkeypatch):
    monkeypatch.setattr("editgym.weights.classifiers.network._NUMBERS_IN_CACHE", 2 * 9 * 128)
    x, weights = inputs("linear"), [torch.randn(5, 32, 128), torch.randn(5, 10, 32)]
    windows = []

    def note(logits, window):
        windows.append((window.start, len(logits)))
        return logits

    got = network.map_candidates(note, weights, network.activations(x))
    assert windows == [(0, 2), (2, 2), (4, 1)]
    for i in range(5):
        alone = network.candidate_logits([w[i : i + 1] for w in weights], network.activations(x))
        torch.testing.assert_close(got[i], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("cache", "windows"), [(0, [1] * 5), (4 * 128, [1] * 5), (2 * 4 * 128, [2, 2, 1]), (None, [5])]
)
def test_windows_of_candidates_with_rows_of_their_own(network, inputs, monkeypatch, cache, windows):
    """As many candidates at a time as the numbers that they look at fit into the cache."""
    if cache is not None:
        monkeypatch.setattr("editgym.weights.classifiers.network._NUMBERS_IN_CACHE", cache)
    weights = [torch.randn(5, 32, 128), torch.randn(5, 10, 32)]
    rows, sizes = torch.randint(9, (5, 4)), []

    def note(logits, window):
        sizes.append(len(logits))
        return logits

    got = network.map_candidates(note, weights, network.activations(inputs("linear")), rows)
    assert sizes == windows
    assert got.shape == (5, 4, 10)


def test_gradients_reach_the_candidates_weights(network, inputs):
    weights = [
        torch.randn(2, 32, 128, requires_grad=True),
        torch.randn(2, 10, 32, requires_grad=True),
    ]
    network.candidate_logits(
        weights, network.activations(inputs("linear"))
    ).square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in weights)


def test_logits_are_the_same_whatever_the_batch_size(network, inputs):
    x = inputs("linear", 50)
    torch.testing.assert_close(
        network.logits(x, batch_size=7), network.logits(x), atol=1e-6, rtol=1e-5
    )


# --- the precision of convolutions ----------------------------------------------------------------


CUDNN = torch.backends.cudnn


def precision():
    """What torch says of the precision of convolutions, by its older and its newer settings."""
    try:
        older = CUDNN.allow_tf32
    except RuntimeError:
        older = "unreadable"
    return older, CUDNN.conv.fp32_precision, CUDNN.fp32_precision


def set_newer(owner, value):
    owner.fp32_precision = value


@pytest.fixture
def torchs_own():
    yield
    CUDNN.fp32_precision, CUDNN.allow_tf32 = "none", True


@pytest.mark.usefixtures("torchs_own")
@pytest.mark.parametrize(
    "change",
    [
        lambda: None,
        lambda: setattr(CUDNN, "allow_tf32", False),
        lambda: setattr(CUDNN, "allow_tf32", True),
        lambda: set_newer(CUDNN.conv, "ieee"),
        lambda: set_newer(CUDNN.conv, "tf32"),
        lambda: (set_newer(CUDNN.conv, "none"), set_newer(CUDNN, "ieee")),
        lambda: set_newer(CUDNN, "tf32"),
        lambda: (setattr(CUDNN, "allow_tf32", False), set_newer(CUDNN.conv, "tf32")),
    ],
    ids=[
        "torch's own",
        "older off",
        "older on",
        "conv ieee",
        "conv tf32",
        "all ieee",
        "all tf32",
        "mixed",
    ],
)
def test_convolutions_are_exact_whichever_of_torchs_settings_are_used_and_those_stay(
    network, inputs, change
):
    change()
    before, seen = precision(), []
    network.base.conv1.register_forward_hook(lambda *_: seen.append(precision()))
    network.logits(inputs("linear"))
    network.activations(inputs("linear"))
    assert {conv for _, conv, _ in seen} == {"ieee"}
    assert precision() == before


@pytest.mark.usefixtures("torchs_own")
def test_a_model_may_use_torchs_older_setting(network, inputs):
    def without_cudnn(*_):
        with CUDNN.flags(enabled=False):
            pass

    network.base.conv1.register_forward_hook(without_cudnn)
    assert network.logits(inputs("linear")).isfinite().all()


# --- fingerprint ----------------------------------------------------------------------------------


def test_fingerprint_sees_every_parameter_and_buffer(build):
    model = build("resnet")
    before = fingerprint(model)
    assert fingerprint(build("resnet")) == before
    for tensor in (model.linear.bias.data, model.layer3[0].bn1.running_var):
        tensor[0] += 1e-6 if tensor[0] == 0 else tensor[0] * 1e-6
        assert fingerprint(model) != before
        before = fingerprint(model)


def test_low_rank_edit_of_a_hundred_is_what_it_is_by_hand(network):
    a, b = torch.randn(32, 2), torch.randn(2, 128)
    network.apply(SiteEdit("fc2", Shift(0.05), LowRankFactors(a, b, scale=2**-0.5, bound=1.0)))
    expected = network.base_weights[0] + 0.05 * (a @ b / 2**0.5).clamp(-1, 1)
    torch.testing.assert_close(network.weights[0], expected)


@pytest.mark.parametrize(("dtype", "said"), [(torch.float16, True), (torch.float32, False)])
def test_a_weight_that_overflows_in_half_precision_says_what_to_do(dtype, said):
    model = nn.Linear(3, 2).to(dtype)
    network = EditedWeights(model, find_sites(model, ["*"]))
    huge = DenseUpdate(torch.full((2, 3), float("inf"), dtype=dtype))
    with pytest.raises(ValueError, match="the edited weight is not finite") as error:
        network.apply(SiteEdit(network.sites[0].name, Shift(), huge))
    assert ("float16 overflows easily" in str(error.value)) is said


def test_a_merged_network_is_trainable(network):
    assert all(parameter.requires_grad for parameter in network.merged().parameters())


# --- what is given stays the giver's --------------------------------------------------------------


def test_state_and_journal_share_no_memory_with_what_was_given(network, inputs, tmp_path):
    x = inputs("linear")
    site = network.sites[0]
    update = DenseUpdate(torch.full(site.shape, 0.1))
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.apply(ReplaceTensors(tensors), SiteEdit(site.name, Shift(), update))
    logits = network.logits(x)
    update.d.zero_()
    for tensor in tensors.values():
        tensor.add_(1)
    assert torch.equal(network.logits(x), logits)
    again = network.fresh()
    again.replay(EditJournal.load(network.journal.save(tmp_path / "edit.safetensors")))
    assert torch.equal(again.logits(x), logits)


def test_numbers_of_numpy_are_written(network, make_edit, tmp_path):
    entry = make_edit(network, "low_rank_shift", 0)
    entry = SiteEdit(entry.site, Shift(np.float32(0.05)), entry.update, np.int64(3))
    network.apply(entry)
    (loaded,) = EditJournal.load(network.journal.save(tmp_path / "edit.safetensors"))
    assert (loaded.step, loaded.operator.limit) == (3, float(np.float32(0.05)))


@pytest.mark.parametrize("back", [lambda one: one.undo(), lambda one: one.rollback(1)])
def test_taking_back_that_is_interrupted_takes_nothing_back(edited, back, monkeypatch):
    network, x, logits = edited
    before = snapshot(network)
    with monkeypatch.context() as patch:
        patch.setattr(EditedWeights, "_edited", interrupt)
        with pytest.raises(KeyboardInterrupt):
            back(network)
    assert same(before, network)
    assert torch.equal(network.logits(x), logits[-1])


def test_what_is_settled_stays_and_its_journal_is_whose_it_was(edited, make_edit):
    network, x, logits = edited
    journal = network.journal
    entries = list(journal.entries)
    network.settle()
    assert (len(network.journal), journal.entries) == (0, entries)
    with pytest.raises(IndexError, match="nothing to undo"):
        network.undo()
    network.apply(make_edit(network))
    network.rollback(0)
    assert torch.equal(network.logits(x), logits[-1])
    network.reset()
    assert not network.parameters_changed


def test_a_journal_that_cannot_be_resumed_leaves_the_one_before(edited, tmp_path, monkeypatch):
    network = edited[0]
    twin = network.fresh(tmp_path / "journal")
    twin.apply(network.journal.entries[0])
    before = snapshot(network)
    with monkeypatch.context() as patch:
        patch.setattr(EditedWeights, "_edited", interrupt)
        with pytest.raises(KeyboardInterrupt):
            network.resume(tmp_path / "journal")
    assert same(before, network)


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("handed_out", ["weights", "base_weights"])
def test_a_base_that_was_changed_in_place_is_not_handed_out_again(editable, handed_out):
    network = editable("linear")
    network.fresh()
    (first, *_) = getattr(network, handed_out)
    first.mul_(2)
    for again in (network.fresh, lambda: network.base_weights):
        with pytest.raises(RuntimeError, match=r"weights: the unedited matrices, .* changed in pl"):
            again()


def test_copies_of_a_network_begin_with_the_weights_they_have(editable):
    network = editable("linear")
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert all(map(torch.equal, twin.fresh().base_weights, network.base_weights))
        twin.base_weights[0].add_(1)
        with pytest.raises(RuntimeError, match="changed in place"):
            twin.fresh()
    network.fresh()
