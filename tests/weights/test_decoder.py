"""A language model under edits, against the model's own forward pass, autograd, and what exports
load again."""

import copy
import warnings
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from editgym.weights import (
    Codebook,
    DenseUpdate,
    DiskJournal,
    EditableDecoder,
    EditableNetwork,
    EditJournal,
    EditSite,
    ExportError,
    JournalError,
    LowRankFactors,
    Prepend,
    ReplaceTensors,
    Shift,
    SiteEdit,
    TokenBatch,
    UnknownSiteError,
    export_adapter,
    export_merged,
    export_pretrained,
    find_sites,
    fingerprint,
)

TEXTS = [
    ([1, 2, 3], [4, 5]),
    ([6, 7, 8, 9, 17, 18], [10, 11, 12]),
    ([12, 13], [14]),
    ([15], [16, 3]),
]
SETTINGS = {
    "num_hidden_layers": 4,
    "hidden_size": 16,
    "intermediate_size": 24,
    "vocab_size": 50,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
}


def seeded(model, seed=1, dtype=torch.float32):
    """The model with larger random weights than its own start, so that every layer matters."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.3, generator=generator)
        parameter.data = parameter.data.to(
            dtype
        )  # the angles of rotary embeddings stay exact, as from_pretrained does
    return model.eval().requires_grad_(False)


def llama(dtype=torch.float32, seed=1, kind=LlamaForCausalLM, **settings):
    return seeded(kind(LlamaConfig(**SETTINGS | settings)), seed, dtype)


def gpt2(seed=1):
    return seeded(
        GPT2LMHeadModel(
            GPT2Config(
                n_layer=4,
                n_embd=16,
                n_head=2,
                vocab_size=50,
                n_positions=16,
                bos_token_id=0,
                eos_token_id=0,
            )
        ),
        seed,
    )


MODELS = {
    "llama": (llama, ["model.layers.[23].mlp.*"]),
    "gpt2": (gpt2, ["transformer.h.[23].mlp.*"]),
    "bf16": (lambda: llama(torch.bfloat16), ["model.layers.[23].mlp.*"]),
}
CLOSE = {"llama": 1e-5, "gpt2": 1e-5, "bf16": 0.06}  # bf16 has eight bits


@pytest.fixture(params=list(MODELS))
def kind(request):
    return request.param


@pytest.fixture
def decoder(kind):
    return made(kind)


@pytest.fixture
def batch():
    return TokenBatch.of(TEXTS)


def made(kind="llama", names=None):
    build, own = MODELS[kind]
    model = build()
    return EditableDecoder(model, find_sites(model, names or own), TokenBatch.of(TEXTS))


def factors(decoder, rank=2, seed=0, size=0.1, count=()):
    """An update, or `count` candidates, per site."""
    generator = torch.Generator().manual_seed(seed)
    return [
        LowRankFactors(
            size * torch.randn(*count, site.shape[0], rank, generator=generator),
            torch.randn(*count, rank, site.shape[1], generator=generator),
        )
        for site in decoder.sites
    ]


def edits(decoder, updates, step=None):
    return [
        SiteEdit(site.name, Shift(), update, step)
        for site, update in zip(decoder.sites, updates, strict=True)
    ]


@torch.no_grad()
def own_logits(model, texts=TEXTS):
    """Of the model itself, text by text and without padding: (m, vocabulary) at the answer
    tokens."""
    rows = []
    for prompt, answer in texts:
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0]
        rows.append(logits[len(prompt) - 1 : -1])
    return torch.cat(rows).float()


def close(one, other, kind="llama"):
    torch.testing.assert_close(one.float(), other.float(), rtol=CLOSE[kind], atol=CLOSE[kind])


def clean(decoder):
    """Whether the model's modules have their own forward again and its weights their bytes."""
    return (
        not any("forward" in module.__dict__ for module in decoder.base.modules())
        and fingerprint(decoder.base) == decoder.base_hash
    )


# --- texts ----------------------------------------------------------------------------------------


def test_a_batch_knows_where_its_answers_are_predicted(batch):
    assert len(batch) == 4
    assert batch.ids[1].tolist() == [6, 7, 8, 9, 17, 18, 10, 11, 12]
    assert (batch.rows.tolist(), batch.positions.tolist()) == (
        [0, 0, 1, 1, 1, 2, 3, 3],
        [2, 3, 5, 6, 7, 1, 0, 1],
    )
    assert batch.labels.tolist() == [4, 5, 10, 11, 12, 14, 16, 3]
    assert batch.ids[2, 3:].tolist() == [0] * 6
    assert batch.means(torch.arange(8.0)).tolist() == [0.5, 3, 5, 6.5]
    assert batch.means(torch.arange(16.0).view(2, 8))[1].tolist() == [8.5, 11, 13, 14.5]
    right = torch.tensor([True, True, True, False, True, False, True, True])
    assert batch.all_of(right).tolist() == [True, False, False, True]


def test_joined_batches_are_the_batch_of_all_their_texts(batch):
    parts = [TokenBatch.of(TEXTS[:1]), TokenBatch.of(TEXTS[1:3]), TokenBatch.of(TEXTS[3:])]
    joined = TokenBatch.join(parts)
    assert all(
        torch.equal(getattr(joined, name), getattr(batch, name))
        for name in ("ids", "rows", "positions", "labels")
    )


@pytest.mark.parametrize("texts", [[], [([1], [])], [([1], [2]), ([], [3])]])
def test_texts_without_a_prompt_or_answer_are_an_error(texts):
    with pytest.raises(ValueError, match="none of them empty"):
        TokenBatch.of(texts)


# --- evaluation -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_logits_are_those_of_the_models_own_forward_pass_with_and_without_prefix(
    decoder, batch, kind
):
    expected = own_logits(decoder.base)
    prefix = decoder.prefix(batch)
    assert decoder.reuses_prefix
    assert prefix.activations.shape == (4, 9, 16)
    close(decoder.logits(batch), expected, kind)
    close(decoder.logits(batch, prefix=prefix), expected, kind)
    decoder.apply(*edits(decoder, factors(decoder)))
    edited = own_logits(decoder.merged())
    assert (edited - expected).abs().max() > 0.1
    close(decoder.logits(batch), edited, kind)
    close(decoder.logits(batch, prefix=prefix), edited, kind)
    assert clean(decoder)


def test_losses_are_means_over_a_texts_answer_tokens(decoder, batch, kind):
    expected = []
    for text in TEXTS:
        expected.append(F.cross_entropy(own_logits(decoder.base, [text]), torch.tensor(text[1])))
    close(decoder.losses(batch), torch.stack(expected), kind)


def test_updates_before_they_are_applied_are_the_applied_edit(decoder, batch, kind):
    decoder.apply(*edits(decoder, factors(decoder, seed=5)))
    updates = [LowRankFactors(u.a, u.b, scale=0.7) for u in factors(decoder)]
    before = decoder.logits(batch)
    tried = decoder.logits(batch, updates, decoder.prefix(batch))
    close(decoder.logits(batch), before)
    assert (tried - before).abs().max() > 0.05
    decoder.apply(*edits(decoder, updates))
    close(tried, decoder.logits(batch), kind)


def test_many_candidates_in_one_pass_are_as_many_single_ones(decoder, batch, kind):
    decoder.apply(*edits(decoder, factors(decoder, seed=5)))
    updates = factors(decoder, rank=3, count=(4,))
    together = decoder.logits(batch, updates, decoder.prefix(batch))
    losses = decoder.losses(batch, updates)
    assert together.shape == (4, 8, 50)
    for k in range(4):
        alone = [LowRankFactors(u.a[k], u.b[k]) for u in updates]
        close(together[k], decoder.logits(batch, alone), kind)
        close(losses[k], decoder.losses(batch, alone), kind)
    assert clean(decoder)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_gradients_to_factors_are_those_of_autograd_through_the_whole_model(decoder, batch):
    decoder.apply(*edits(decoder, factors(decoder, seed=5)))
    updates = factors(decoder)
    leaves = [part.requires_grad_() for u in updates for part in (u.a, u.b)]
    loss = decoder.losses(batch, updates, decoder.prefix(batch)).mean()
    found = torch.autograd.grad(loss, leaves)

    weights = dict(decoder.state_dict())
    for site, update in zip(decoder.sites, updates, strict=True):
        weights[site.parameter] = site.to_stored(
            site.to_matrix(weights[site.parameter]) + update.a @ update.b
        )
    texts = []
    for prompt, answer in TEXTS:
        logits = functional_call(
            decoder.base, weights, (torch.tensor([prompt + answer]),), tie_weights=False
        ).logits[0]
        texts.append(F.cross_entropy(logits[len(prompt) - 1 : -1], torch.tensor(answer)))
    expected = torch.autograd.grad(torch.stack(texts).mean(), leaves)
    for one, other in zip(found, expected, strict=True):
        assert other.abs().max() > 1e-4
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_captured_keys_and_gradients_are_those_of_hooks_on_a_plain_model(decoder, batch, kind):
    decoder.apply(*edits(decoder, factors(decoder, seed=5)))
    plain = decoder.merged()
    keys, outputs = {}, {}

    def keep(name):
        def hook(_module, inputs, output):
            keys[name], outputs[name] = inputs[0], output
            output.retain_grad()

        return hook

    for site in decoder.sites:
        plain.get_submodule(site.name).register_forward_hook(keep(site.name))
    logits = plain(input_ids=batch.ids).logits[batch.rows, batch.positions].float()
    loss = torch.stack(
        [
            F.cross_entropy(logits[batch.rows == row], batch.labels[batch.rows == row])
            for row in range(4)
        ]
    ).mean()
    loss.backward()
    for prefix in (None, decoder.prefix(batch)):
        captured = decoder.capture(batch, prefix)
        assert captured.loss == pytest.approx(loss.item(), rel=CLOSE[kind])
        for site, own_keys, own_gradients in zip(
            decoder.sites, captured.keys, captured.gradients, strict=True
        ):
            close(own_keys, keys[site.name][batch.rows, batch.positions], kind)
            expected = outputs[site.name].grad[batch.rows, batch.positions]
            close(own_gradients, expected, kind)
            assert own_gradients.abs().max() > 0
            assert not own_keys.requires_grad
            assert not own_gradients.requires_grad


def test_answer_tokens_of_no_weight_are_not_captured(decoder, batch):
    weights = torch.ones(len(batch.labels))
    weights[1::3] = 0.5
    kept = torch.ones(len(batch.labels), dtype=torch.bool)
    kept[0] = False  # its text has other answer tokens
    weights[~kept] = 0
    weighted = replace(batch, weights=weights)
    logits = decoder.logits(batch).float()
    costs = F.cross_entropy(logits, batch.labels, reduction="none")
    expected = torch.stack(
        [
            (costs * weights)[batch.rows == row].sum() / weights[batch.rows == row].sum()
            for row in range(len(batch))
        ]
    )
    assert torch.allclose(decoder.losses(weighted), expected)
    captured, plain = decoder.capture(weighted), decoder.capture(batch)
    assert captured.loss == pytest.approx(float(expected.mean()))
    for own, every in zip(captured.keys, plain.keys, strict=True):
        assert torch.equal(own, every[kept])
    assert all(len(gradient) == int(kept.sum()) for gradient in captured.gradients)


def test_a_capture_with_updates_is_the_capture_once_they_are_applied(decoder, batch, kind):
    decoder.apply(*edits(decoder, factors(decoder, seed=5)))
    updates = factors(decoder)
    before = decoder.capture(batch)
    for prefix in (None, decoder.prefix(batch)):
        found = decoder.capture(batch, prefix, updates)
        twin = decoder.branch()
        twin.apply(*edits(twin, updates))
        expected = twin.capture(batch)
        assert found.loss == pytest.approx(expected.loss, rel=CLOSE[kind])
        for one, other in zip(
            (*found.keys, *found.gradients), (*expected.keys, *expected.gradients), strict=True
        ):
            close(one, other, kind)
    assert any(
        (now - old).abs().max() > 0.01 for now, old in zip(found.keys, before.keys, strict=True)
    )
    assert torch.equal(decoder.capture(batch).gradients[0], before.gradients[0]), (
        "nothing was applied"
    )
    partly = decoder.capture(batch, updates=[None] * len(decoder.sites))
    assert torch.equal(partly.gradients[0], before.gradients[0])
    assert clean(decoder)


def test_a_pass_can_begin_at_the_layer_of_the_sites_that_differ(decoder, batch, kind):
    """With the edits below in effect; what is captured there is of the sites from that layer on."""
    decoder.apply(*edits(decoder, factors(decoder)))
    name = next(site.name for site in decoder.sites if ".3." in site.name)
    update = [
        one if site.name == name else None
        for site, one in zip(decoder.sites, factors(decoder, seed=3), strict=True)
    ]
    prefix = decoder.prefix(batch, [name])
    assert prefix.layer == 3 > decoder.prefix(batch).layer
    close(decoder.logits(batch, update, prefix), decoder.logits(batch, update), kind)
    whole, part = decoder.capture(batch), decoder.capture(batch, prefix)
    for site, *pairs in zip(
        decoder.sites, whole.keys, part.keys, whole.gradients, part.gradients, strict=True
    ):
        for there, here in (pairs[:2], pairs[2:]):
            assert here.shape == ((len(there) if ".3." in site.name else 0), there.shape[1])
            close(here, there[: len(here)], kind)
    with pytest.raises(UnknownSiteError, match="not open for edits"):
        decoder.prefix(batch, ["model.nowhere"])


def test_what_is_undone_or_fails_on_a_branch_leaves_the_state_that_it_began_in(decoder, batch):
    decoder.apply(*edits(decoder, factors(decoder)))
    branch = decoder.branch()
    before = weights_of(branch)
    good = edits(branch, factors(branch, seed=1))
    with pytest.raises(ValueError, match="the update is"):
        branch.apply(
            good[0], SiteEdit(branch.sites[1].name, Shift(), DenseUpdate(torch.zeros(3, 3)))
        )
    assert same(weights_of(branch), before)
    branch.apply(*good)
    branch.undo()
    assert same(weights_of(branch), before)


def test_a_branch_begins_in_the_decoders_state_and_shares_nothing_that_changes(decoder, batch):
    decoder.apply(*edits(decoder, factors(decoder, seed=5)))
    expected, entries = decoder.logits(batch), len(decoder.journal)
    branch = decoder.branch()
    assert torch.equal(branch.logits(batch), expected)
    assert len(branch.journal) == 0
    assert branch.journal.base_hash == decoder.base_hash
    branch.apply(*edits(branch, factors(branch, seed=6)))
    other = branch.logits(batch)
    assert (other - expected).abs().max() > 0.01
    assert torch.equal(decoder.logits(batch), expected)
    assert (len(decoder.journal), len(branch.journal)) == (entries, len(branch.sites))
    decoder.reset()
    assert torch.equal(branch.logits(batch), other)
    assert clean(decoder)


def test_a_branch_has_the_codebooks_and_adds_its_own(batch):
    decoder = made()
    site = decoder.sites[0]
    key = decoder.capture(batch).keys[0][:1]
    decoder.apply(Codebook(site.name, key, torch.ones(1, site.shape[0]), torch.tensor([1e-3])))
    expected = decoder.logits(batch)
    branch = decoder.branch()
    assert torch.equal(branch.logits(batch), expected)
    other = decoder.capture(batch).keys[0][3:4]
    branch.apply(Codebook(site.name, other, -torch.ones(1, site.shape[0]), torch.tensor([1e-3])))
    assert not torch.equal(branch.logits(batch), expected)
    assert torch.equal(decoder.logits(batch), expected)


def test_a_branch_of_a_journal_on_disk_writes_nothing_there(batch, tmp_path):
    decoder = made().fresh(tmp_path)
    decoder.apply(*edits(decoder, factors(decoder), 0))
    files = sorted(tmp_path.iterdir())
    branch = decoder.branch()
    branch.apply(*edits(branch, factors(branch, seed=1), 0))
    assert sorted(tmp_path.iterdir()) == files
    assert isinstance(decoder.journal, DiskJournal)
    assert not isinstance(branch.journal, DiskJournal)


def test_the_active_model_decodes_with_the_edits_and_no_longer_afterwards(decoder):
    model, ids = decoder.base, torch.tensor([TEXTS[1][0]])
    before = model.generate(ids, do_sample=False, max_new_tokens=6, pad_token_id=0)
    decoder.apply(*edits(decoder, factors(decoder, size=0.5)))
    with decoder.active() as edited:
        now = edited.generate(ids, do_sample=False, max_new_tokens=6, pad_token_id=0)
    expected = decoder.merged().generate(ids, do_sample=False, max_new_tokens=6, pad_token_id=0)
    assert torch.equal(now, expected)
    assert not torch.equal(now, before)
    assert torch.equal(
        model.generate(ids, do_sample=False, max_new_tokens=6, pad_token_id=0), before
    )


def test_contexts_can_be_nested_and_hooks_that_replace_forward_come_back(decoder, batch):
    module = decoder.base.get_submodule(decoder.sites[0].name)
    hooked = module.forward = copy.copy(module).forward
    twin = decoder.fresh()
    decoder.apply(*edits(decoder, factors(decoder)))
    expected = decoder.logits(batch)
    with decoder.active() as edited:
        unedited = twin.logits(batch)
        inside = own_logits(edited)
    close(inside, own_logits(decoder.merged()), "bf16")
    assert (unedited.float() - expected.float()).abs().max() > 0.05
    assert module.forward is hooked
    del module.forward
    assert clean(decoder)


def test_after_an_error_inside_the_model_is_as_it_was(decoder, batch):
    expected = decoder.logits(batch)
    wrong = factors(decoder)
    wrong[0] = LowRankFactors(wrong[0].a[:, :1], torch.randn(1, 7))
    for call in (decoder.logits, decoder.losses):
        with pytest.raises(RuntimeError):
            call(batch, wrong, decoder.prefix(batch))
    with pytest.raises(KeyError, match="mine"), decoder.active():
        raise KeyError("mine")
    with pytest.raises(IndexError):
        decoder.capture(TokenBatch(batch.ids + 60, batch.rows, batch.positions, batch.labels))
    assert clean(decoder)
    assert torch.equal(decoder.logits(batch), expected)


# --- edits ----------------------------------------------------------------------------------------


def weights_of(decoder):
    return {name: tensor.clone() for name, tensor in decoder.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_undo_rollback_and_reset_are_bitwise_and_the_base_is_never_written_to(decoder, batch):
    fresh = weights_of(decoder)
    states, logits = [fresh], [decoder.logits(batch)]
    for step in range(5):
        decoder.apply(*edits(decoder, factors(decoder, seed=step)))
        states.append(weights_of(decoder))
        logits.append(decoder.logits(batch))
    decoder.undo()
    assert same(weights_of(decoder), states[4])
    assert torch.equal(decoder.logits(batch), logits[4])
    removed = decoder.rollback(2)
    assert {entry.step for entry in removed} == {2, 3}
    assert same(weights_of(decoder), states[2])
    assert torch.equal(decoder.logits(batch), logits[2])
    decoder.reset()
    assert same(weights_of(decoder), fresh)
    assert torch.equal(decoder.logits(batch), logits[0])
    assert not any(delta.any() for delta in decoder.deltas)
    assert clean(decoder)


@pytest.mark.parametrize("on_disk", [False, True])
def test_rollback_to_a_step_is_the_run_that_stopped_there(kind, batch, tmp_path, on_disk):
    """The stream goes on 40 steps and is rolled back to 25, bitwise what 25 steps give."""
    long, short = made(kind), made(kind)
    if on_disk:
        long = long.fresh(tmp_path)
    for step in range(40):
        entries = edits(long, factors(long, seed=step, size=0.02), step)
        long.apply(*entries)
        if step < 25:
            short.apply(*entries)
    long.rollback(25)
    assert same(weights_of(long), weights_of(short))
    assert torch.equal(long.logits(batch), short.logits(batch))
    assert long.journal.steps == 25
    long.apply(*edits(long, factors(long, seed=99), 25))
    short.apply(*edits(short, factors(short, seed=99), 25))
    assert torch.equal(long.logits(batch), short.logits(batch))


def test_a_replayed_journal_is_the_edited_network_bitwise(decoder, batch, tmp_path):
    for step in range(3):
        decoder.apply(*edits(decoder, factors(decoder, seed=step)))
    journal = EditJournal.load(decoder.journal.save(tmp_path / "journal.safetensors"))
    for twin in (decoder.fresh(), decoder.fresh(tmp_path / "disk")):
        twin.replay(journal)
        assert same(weights_of(twin), weights_of(decoder))
        assert twin.journal.steps == 3
    assert isinstance(twin.journal, DiskJournal)
    assert made("llama").fresh(tmp_path / "other").journal.steps == 0


def test_a_journal_on_disk_is_gone_on_with_and_emptied_by_reset(decoder, batch, tmp_path):
    first = decoder.fresh(tmp_path)
    first.apply(*edits(first, factors(first)))
    again = decoder.fresh(tmp_path)
    assert torch.equal(again.logits(batch), first.logits(batch))
    assert not torch.equal(again.logits(batch), decoder.logits(batch))
    assert len(decoder.journal) == 0
    again.reset()
    assert not list(tmp_path.iterdir())
    assert isinstance(again.journal, DiskJournal)
    again.apply(*edits(again, factors(again)))
    assert len(list(tmp_path.iterdir())) == 1


def test_the_journal_of_another_model_is_refused(decoder, kind, tmp_path):
    other = EditableDecoder(
        model := llama(seed=7), find_sites(model, ["model.layers.3.mlp.*"]), TokenBatch.of(TEXTS)
    )
    other.apply(*edits(other, factors(other)))
    with pytest.raises(JournalError, match="belongs to the network"):
        decoder.replay(other.journal)
    other.fresh(tmp_path).apply(*edits(other, factors(other)))
    with pytest.raises(JournalError, match="use another folder"):
        decoder.fresh(tmp_path)


def test_bad_entries_are_refused_and_change_nothing(decoder, batch):
    good = edits(decoder, factors(decoder))
    decoder.apply(*good)
    before = weights_of(decoder)
    name, (rows, columns) = decoder.sites[0].name, decoder.sites[0].shape
    nan = LowRankFactors(torch.full((rows, 1), float("nan")), torch.ones(1, columns))
    for bad, error, message in (
        (SiteEdit("nowhere", Shift(), good[0].update), UnknownSiteError, "not open for edits"),
        (
            SiteEdit(name, Shift(), DenseUpdate(torch.zeros(3, 3))),
            ValueError,
            r"the update is \(3, 3\)",
        ),
        (SiteEdit(name, Shift(), nan), ValueError, "not finite"),
        (
            ReplaceTensors({"nothing": torch.zeros(1)}),
            UnknownSiteError,
            "'nothing' is no weight of a site",
        ),
        (
            Codebook("nowhere", torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1)),
            UnknownSiteError,
            "not open",
        ),
        (
            Codebook(name, torch.zeros(1, 2), torch.zeros(1, rows), torch.zeros(1)),
            ValueError,
            "codebook: .* takes",
        ),
    ):
        with pytest.raises(error, match=message):
            decoder.apply(good[1], bad)
        assert same(weights_of(decoder), before)
        assert len(decoder.journal) == len(good)


def test_a_replaced_weight_of_a_site_is_in_effect_and_no_other_tensor_can_be_replaced(
    decoder, batch
):
    site = decoder.sites[0]
    base = decoder.state_dict()
    before = decoder.logits(batch)
    decoder.apply(ReplaceTensors({site.parameter: torch.zeros_like(base[site.parameter])}))
    whole = copy.deepcopy(decoder.base)
    whole.get_parameter(site.parameter).zero_()
    torch.testing.assert_close(
        decoder.logits(batch).float(), own_logits(whole), rtol=2e-2, atol=2e-2
    )
    assert not torch.equal(decoder.logits(batch), before)
    others = [name for name in base if name not in {one.parameter for one in decoder.sites}]
    for name in others[:3]:
        with pytest.raises(UnknownSiteError, match=f"{name}' is no weight of a site"):
            decoder.apply(ReplaceTensors({name: base[name]}))


def test_a_replaced_weight_of_a_half_precision_model_is_kept_in_full():
    decoder = made("bf16")
    site = decoder.sites[0]
    weight = 1 + 1e-4 * torch.randn(
        site.stored_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    decoder.apply(ReplaceTensors({site.parameter: weight}))
    assert decoder.weights[0].dtype == torch.float32
    assert torch.equal(decoder.weights[0], site.to_matrix(weight.float()))
    assert torch.equal(decoder.deltas[0], decoder.weights[0] - decoder.base_weights[0].float())


def test_a_model_that_adds_to_a_sites_output_in_place_is_captured(batch):
    class Adding(nn.Module):
        def __init__(self, mlp):
            super().__init__()
            self.mlp = mlp

        def forward(self, x):
            out = self.mlp(x)
            out += 1.0  # as Falcon's parallel attention does
            return out

    plain, adding = (llama() for _ in range(2))
    for layer in adding.model.layers:
        layer.mlp = Adding(layer.mlp)
    sites = ["model.layers.[23].mlp.*down_proj"]
    found = [
        EditableDecoder(model, find_sites(model, [name]), batch).capture(batch).keys[0].shape
        for model, name in ((plain, sites[0]), (adding, "model.layers.[23].mlp.mlp.down_proj"))
    ]
    assert found[0] == found[1]


def test_a_small_edit_of_a_half_precision_model_keeps_its_effect():
    """A thousandth of a weight's size: rounded to bf16 most of it is gone, beside the weight in
    fp32 it is not."""
    exact, rounded = llama(torch.bfloat16).float(), made("bf16", ["model.layers.3.mlp.down_proj"])
    full = EditableDecoder(
        exact, find_sites(exact, ["model.layers.3.mlp.down_proj"]), TokenBatch.of(TEXTS)
    )
    site = full.sites[0]
    weight = full.base_weights[0]
    keys = full.capture(TokenBatch.of(TEXTS)).keys[0]
    direction = torch.randn(site.shape, generator=torch.Generator().manual_seed(0))
    edit = 1e-3 * weight.norm() * direction / direction.norm()
    wanted = keys @ edit.mT
    rounded.apply(SiteEdit(site.name, Shift(), DenseUpdate(edit)))
    kept = keys @ rounded.deltas[0].mT
    in_place = (weight.bfloat16() + edit.bfloat16()).float() - weight.bfloat16().float()
    lost = keys @ in_place.mT
    assert (kept - wanted).norm() < 0.05 * wanted.norm()
    assert (lost - wanted).norm() > 0.5 * wanted.norm()
    full.apply(SiteEdit(site.name, Shift(), DenseUpdate(edit)))
    torch.testing.assert_close(rounded.deltas[0], full.deltas[0], rtol=1e-4, atol=1e-7)


def test_adding_and_taking_off_again_and_again_does_not_drift_in_half_precision():
    decoder = made("bf16")
    updates = factors(decoder, size=0.01)
    back = [LowRankFactors(-u.a, u.b) for u in updates]
    for _ in range(50):
        decoder.apply(*edits(decoder, updates))
        decoder.apply(*edits(decoder, back))
    assert max(float(delta.abs().max()) for delta in decoder.deltas) < 1e-5


class Mixture(nn.Module):
    """Experts in place of an MLP: one of the first seven tokens, one of the others, and one of
    none."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))

    def forward(self, x):
        tokens = x.reshape(-1, 16)
        return torch.cat([self.experts[0](tokens[:7]), self.experts[1](tokens[7:])]).view_as(x)


@pytest.mark.parametrize(
    ("expert", "message"),
    [
        (
            "0",
            r"experts\.0: it is given tokens \(7,\) of a batch \(2, 13\), "
            r".* an expert of a mixture",
        ),
        ("1", r"experts\.1: it is given tokens \(19,\) of a batch"),
        ("2", r"experts\.2: no token of the example reaches it"),
    ],
)
def test_experts_that_see_some_tokens_only_are_refused(batch, expert, message):
    """Also one that is given as many tokens as there are answers in what is compared: seven."""
    model = llama()
    model.model.layers[3].mlp = Mixture().requires_grad_(False)
    with pytest.raises(UnknownSiteError, match=message):
        EditableDecoder(model, find_sites(model, [f"model.layers.3.mlp.experts.{expert}"]), batch)
    assert EditableDecoder(
        model, find_sites(model, ["model.layers.3.self_attn.o_proj", "lm_head"]), batch
    ).sites


# --- sites ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "reuses"),
    [
        (["model.layers.3.mlp.down_proj", "lm_head"], False),
        (["lm_head"], False),
        (["model.layers.0.mlp.down_proj", "model.layers.3.self_attn.o_proj"], False),
        (["model.layers.1.self_attn.[qkv]_proj"], True),
    ],
)
def test_sites_anywhere_are_edited_and_the_prefix_is_used_where_there_is_one(batch, names, reuses):
    decoder = made("llama", names)
    assert decoder.reuses_prefix is reuses
    assert (decoder.prefix(batch) is None) is not reuses
    updates = factors(decoder, count=(3,))
    candidates = decoder.logits(batch, updates, decoder.prefix(batch))
    captured = decoder.capture(batch, decoder.prefix(batch))
    assert [key.shape for key in captured.keys] == [(8, site.shape[1]) for site in decoder.sites]
    assert [g.shape for g in captured.gradients] == [(8, site.shape[0]) for site in decoder.sites]
    decoder.apply(*edits(decoder, [LowRankFactors(u.a[1], u.b[1]) for u in updates]))
    expected = own_logits(decoder.merged())
    close(decoder.logits(batch, prefix=decoder.prefix(batch)), expected)
    close(candidates[1], expected)


def test_a_convolution_is_no_site_of_a_language_model(batch):
    model = llama()
    model.patches = nn.Conv2d(1, 4, 3)
    with pytest.raises(UnknownSiteError, match=r"patches .* is a convolution"):
        EditableDecoder(model, find_sites(model, ["patches"]), batch)


def test_a_weight_that_another_module_uses_too_is_no_site(batch):
    model = llama(tie_word_embeddings=True)
    with pytest.raises(
        UnknownSiteError, match=r"lm_head .* shares its weight with model\.embed_tokens\.weight"
    ):
        EditableDecoder(model, find_sites(model, ["lm_head"]), batch)


def test_an_unknown_site_names_the_nearest():
    model = llama()
    with pytest.raises(
        UnknownSiteError, match=r"9\.mlp\.down_proj' matches none .*layers\..*down_proj"
    ):
        find_sites(model, ["model.layers.9.mlp.down_proj"])
    assert isinstance(find_sites(model, ["*.3.mlp.down_proj"])[0], EditSite)


class ScaledHead(LlamaForCausalLM):
    """A model whose logits are more than its head's product, as Gemma's and Cohere's are."""

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = 5 * torch.tanh(out.logits / 5)
        return out


def test_a_head_that_is_more_than_linear_is_run_whole_and_said(batch):
    model = llama(kind=ScaledHead)
    with pytest.warns(UserWarning, match="ScaledHead: logits are computed at every token"):
        decoder = EditableDecoder(model, find_sites(model, ["model.layers.[23].mlp.*"]), batch)
    assert decoder.reuses_prefix
    decoder.apply(*edits(decoder, factors(decoder)))
    close(decoder.logits(batch, prefix=decoder.prefix(batch)), own_logits(decoder.merged()))
    assert decoder.capture(batch, decoder.prefix(batch)).keys[0].shape == (8, 16)


def test_where_skipping_layers_changes_the_logits_all_are_run_and_it_is_said(batch):
    model = llama()
    model.model.layers[1].register_forward_hook(
        lambda _module, _inputs, out: 2 * out
    )  # a skipped layer's hook too
    with pytest.warns(UserWarning, match="LlamaForCausalLM: every evaluation runs all layers"):
        decoder = EditableDecoder(model, find_sites(model, ["model.layers.[23].mlp.*"]), batch)
    assert not decoder.reuses_prefix
    assert decoder.prefix(batch) is None
    close(decoder.logits(batch), own_logits(model))


# --- adapters -------------------------------------------------------------------------------------


def test_a_codebook_is_looked_up_within_its_radius_and_undone(decoder, batch, kind):
    site = decoder.sites[-1]
    keys = decoder.capture(batch).keys[-1]
    before = decoder.logits(batch)
    values = torch.randn(2, site.shape[0], generator=torch.Generator().manual_seed(0))
    decoder.apply(
        Codebook(site.name, keys[[2, 5]], values[[0, 1]], 1e-2 * keys[[2, 5]].norm(dim=1))
    )
    module, seen = decoder.base.get_submodule(site.name), []
    handle = module.register_forward_hook(lambda _m, _i, out: seen.append(out))
    after = decoder.logits(batch)
    handle.remove()
    out = seen[0][batch.rows, batch.positions].float()
    close(out[[2, 5]], values, kind)
    untouched = [0, 1, 6, 7]  # the texts without a key
    assert torch.equal(after[untouched], before[untouched])
    assert (after[5] - before[5]).abs().max() > 0.01
    decoder.apply(Codebook(site.name, keys[[0]], values[[0]], torch.ones(1)))
    assert not torch.equal(decoder.logits(batch)[0], before[0])
    decoder.undo()
    assert torch.equal(decoder.logits(batch), after)
    decoder.reset()
    assert torch.equal(decoder.logits(batch), before)


def test_an_empty_codebook_changes_nothing(decoder, batch):
    site, before = decoder.sites[0], decoder.logits(batch)
    decoder.apply(
        Codebook(
            site.name, torch.zeros(0, site.shape[1]), torch.zeros(0, site.shape[0]), torch.zeros(0)
        )
    )
    assert torch.equal(decoder.logits(batch), before)
    assert len(decoder.journal) == 1


def test_the_nearest_key_wins_and_a_replay_looks_up_the_same(decoder, batch, tmp_path):
    site = decoder.sites[-1]
    key = decoder.capture(batch).keys[-1][5:6]
    values = torch.randn(2, site.shape[0], generator=torch.Generator().manual_seed(0))
    decoder.apply(
        Codebook(site.name, torch.cat([key + 0.05, key]), values, torch.full((2,), 0.3)),
        Prepend(("x",)),
    )
    alone = decoder.fresh()
    alone.apply(Codebook(site.name, key, values[1:], torch.full((1,), 0.3)))
    assert torch.equal(decoder.logits(batch), alone.logits(batch))
    twin = decoder.fresh()
    twin.replay(EditJournal.load(decoder.journal.save(tmp_path / "journal.safetensors")))
    assert torch.equal(twin.logits(batch), decoder.logits(batch))
    assert [entry.kind for entry in twin.journal] == ["codebook", "prepend"]


@pytest.mark.parametrize(
    "entry",
    [Prepend(("x",)), Codebook("fc2", torch.zeros(1, 128), torch.zeros(1, 32), torch.zeros(1))],
    ids=["prepend", "codebook"],
)
def test_a_network_that_is_no_language_model_takes_no_adapter(network, entry):
    assert isinstance(network, EditableNetwork)
    with pytest.raises(ValueError, match=f"kind {entry.kind} is an adapter of language models"):
        network.apply(entry)
    assert len(network.journal) == 0


# --- export ---------------------------------------------------------------------------------------


def test_the_merged_model_has_the_edited_logits_and_is_trainable(decoder, batch, kind):
    decoder.apply(*edits(decoder, factors(decoder)))
    merged = decoder.merged()
    close(decoder.logits(batch), own_logits(merged), kind)
    assert all(parameter.requires_grad for parameter in merged.parameters())
    assert not any(parameter.requires_grad for parameter in decoder.base.parameters())
    assert merged.dtype == decoder.base.dtype


def test_the_exported_checkpoint_loads_with_transformers_to_the_same_logits(
    decoder, batch, tmp_path
):
    decoder.apply(*edits(decoder, factors(decoder)))
    decoder.apply(*edits(decoder, factors(decoder, seed=1)))
    loaded = AutoModelForCausalLM.from_pretrained(
        export_pretrained(decoder, tmp_path), dtype=torch.float32
    ).eval()
    full = EditableDecoder(copy.deepcopy(decoder.base).float(), decoder.sites, batch)
    full.apply(*decoder.journal)
    close(own_logits(loaded), full.logits(batch))
    assert all(
        torch.equal(site.to_matrix(loaded.state_dict()[site.parameter]), weight)
        for site, weight in zip(decoder.sites, decoder.weights, strict=True)
    ), "fp32, whatever the base's dtype"
    assert clean(decoder)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_exported_adapter_loads_with_peft_to_the_same_logits(decoder, batch, kind, tmp_path):
    peft = pytest.importorskip("peft")
    for step in range(3):
        decoder.apply(*edits(decoder, factors(decoder, seed=step)))
    folder = export_adapter(decoder, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error", UserWarning
        )  # which is what PEFT says of tensors that fit nowhere
        adapted = peft.PeftModel.from_pretrained(MODELS[kind][0](), str(folder)).eval()
    assert (own_logits(adapted) - own_logits(decoder.base)).abs().max() > 0.1
    close(own_logits(adapted), decoder.logits(batch))


@pytest.mark.parametrize(
    "entry",
    [
        lambda site: Prepend(("x",)),
        lambda site: Codebook(
            site.name, torch.zeros(1, site.shape[1]), torch.zeros(1, site.shape[0]), torch.zeros(1)
        ),
    ],
    ids=["prepend", "codebook"],
)
def test_adapters_beside_the_weights_cannot_be_exported(tmp_path, entry):
    pytest.importorskip("peft")
    decoder = made()
    decoder.apply(*edits(decoder, factors(decoder)))
    decoder.apply(made_entry := entry(decoder.sites[0]))
    with pytest.raises(ExportError, match=f"holds {made_entry.kind}"):
        export_pretrained(decoder, tmp_path / "pretrained")
    with pytest.raises(ExportError, match=f"holds {made_entry.kind}"):
        export_merged(decoder, tmp_path / "merged.safetensors")
    with pytest.raises(ExportError, match=f"is a {made_entry.kind}"):
        export_adapter(decoder, tmp_path / "adapter")
    assert not list(tmp_path.iterdir())


def test_a_network_that_is_no_transformers_model_is_exported_as_merged_weights_only(
    network, make_edit, tmp_path
):
    network.apply(make_edit(network))
    with pytest.raises(ExportError, match="use export_merged"):
        export_pretrained(network, tmp_path)


@pytest.mark.parametrize("dense", [False, True])
def test_factors_of_half_precision_are_added_in_full(dense):
    decoder = made("bf16", ["model.layers.3.mlp.down_proj"])
    (site,) = decoder.sites
    a, b = 0.01 * torch.randn(16, 2).bfloat16(), 0.05 * torch.randn(2, 24).bfloat16()
    update = DenseUpdate(a @ b) if dense else LowRankFactors(a, b)
    wanted = (a @ b).float() if dense else a.float() @ b.float()
    for _ in range(2):
        decoder.apply(SiteEdit(site.name, Shift(), update))
    exact = decoder.base_weights[0].float() + wanted + wanted
    torch.testing.assert_close(decoder.weights[0], exact, rtol=1e-6, atol=1e-7)
