"""A decoder beyond low-rank updates: dense ones, values put into a module's output, and what goes
through a site."""

import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from editgym.weights import (
    Codebook,
    DenseUpdate,
    EditableDecoder,
    LowRankFactors,
    Shift,
    SiteEdit,
    TokenBatch,
    UnknownSiteError,
    find_sites,
)
from editgym.weights.language.site_pass import Injection

TEXTS = [([1, 2, 3], [4, 5]), ([6, 7, 8, 9], [10, 11]), ([12, 13], [14])]


def llama():
    return LlamaForCausalLM(
        LlamaConfig(
            num_hidden_layers=4,
            hidden_size=16,
            intermediate_size=24,
            vocab_size=50,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=16,
        )
    )


def gpt2():
    return GPT2LMHeadModel(
        GPT2Config(
            n_layer=4,
            n_embd=16,
            n_head=2,
            vocab_size=50,
            n_positions=16,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


MODELS = {
    "llama": (llama, ("model.layers.[23].mlp.down_proj",)),
    "gpt2": (gpt2, ("transformer.h.[23].mlp.c_proj",)),
}


@pytest.fixture(params=list(MODELS))
def decoder(request):
    build, names = MODELS[request.param]
    torch.manual_seed(1)
    model = build().eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(0, 0.2)
    return EditableDecoder(model, find_sites(model, names), TokenBatch.of(TEXTS))


@pytest.fixture
def batch():
    return TokenBatch.of(TEXTS)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def dense(site, seed=2):
    return 0.5 * torch.randn(site.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("index", [0, 1])
def test_a_dense_update_at_one_site_gives_what_applying_it_gives(decoder, batch, index):
    d = dense(decoder.sites[index])
    updates = [None, None]
    updates[index] = DenseUpdate(d)
    before = decoder.logits(batch)
    tried = decoder.logits(batch, updates, decoder.prefix(batch))
    close(decoder.logits(batch), before)
    decoder.apply(SiteEdit(decoder.sites[index].name, Shift(), DenseUpdate(d)))
    assert (tried - before).abs().max() > 1e-2
    close(tried, decoder.logits(batch))


def test_dense_and_low_rank_updates_of_one_product_have_one_loss_and_gradient(decoder, batch):
    site = decoder.sites[1]
    a, b = torch.randn(site.shape[0], 2) * 0.1, torch.randn(2, site.shape[1])
    d = (a @ b).requires_grad_()
    a.requires_grad_()
    from_dense = decoder.losses(batch, [None, DenseUpdate(d)])
    from_factors = decoder.losses(batch, [None, LowRankFactors(a, b)])
    close(from_dense, from_factors)
    (gradient,) = torch.autograd.grad(from_dense.mean(), d)
    (expected,) = torch.autograd.grad(from_factors.mean(), a)
    assert gradient.abs().max() > 0
    close(gradient @ b.mT, expected)


def test_candidates_may_leave_a_site_alone(decoder, batch):
    site = decoder.sites[1]
    a, b = torch.randn(3, site.shape[0], 2) * 0.1, torch.randn(3, 2, site.shape[1])
    together = decoder.losses(batch, [None, LowRankFactors(a, b)], decoder.prefix(batch))
    alone = torch.stack(
        [decoder.losses(batch, [None, LowRankFactors(a[i], b[i])]) for i in range(3)]
    )
    close(together, alone)
    assert (alone[0] - alone[1]).abs().max() > 1e-3


def test_updates_that_cannot_be_evaluated_are_refused(decoder, batch):
    d = dense(decoder.sites[0])
    with pytest.raises(ValueError, match="clipped"):
        decoder.logits(batch, [DenseUpdate(d, bound=1.0), None])
    with pytest.raises(ValueError, match="as factors"):
        decoder.logits(batch, [DenseUpdate(d.repeat(2, 1, 1)), None])


def test_an_injection_is_added_to_the_output_at_its_tokens_alone(decoder, batch):
    site = decoder.sites[0]
    rows, positions = torch.tensor([0, 2]), torch.tensor([2, 1])
    values = torch.randn(2, site.shape[0])
    seen = []
    module = decoder.base.get_submodule(site.name)
    handle = module.register_forward_hook(lambda _m, _i, out: seen.append(out))
    plain = decoder.logits(batch)
    shifted = decoder.logits(batch, injected={site.name: Injection(rows, positions, values)})
    handle.remove()
    difference = seen[1] - seen[0]
    close(difference[rows, positions], values)
    difference[rows, positions] = 0
    assert not difference.any()
    touched = torch.isin(batch.rows, rows)
    assert torch.equal(shifted[~touched], plain[~touched])
    assert (shifted[touched] - plain[touched]).abs().max() > 1e-3


def test_an_injection_of_an_updates_product_is_that_update(decoder, batch):
    site = decoder.sites[1]
    d = dense(site)
    every = torch.ones_like(batch.ids).nonzero()
    rows, positions = every[:, 0], every[:, 1]
    inputs = decoder.site_states(batch, [site.name], rows, positions)[site.name].inputs
    injected = {site.name: Injection(rows, positions, inputs @ d.mT)}
    updated = decoder.losses(batch, [None, DenseUpdate(d)])
    close(decoder.losses(batch, injected=injected, prefix=decoder.prefix(batch)), updated)
    assert (updated - decoder.losses(batch)).abs().max() > 1e-3


def test_injected_values_have_the_gradient_of_the_modules_output(decoder, batch):
    site = decoder.sites[1]
    values = torch.zeros(len(batch.labels), site.shape[0], requires_grad=True)
    loss = decoder.losses(
        batch, injected={site.name: Injection(batch.rows, batch.positions, values)}
    ).mean()
    (gradient,) = torch.autograd.grad(loss, values)
    close(gradient, decoder.capture(batch).gradients[1])
    assert gradient.abs().max() > 1e-3


def test_a_token_named_twice_gets_both_values(decoder, batch):
    site = decoder.sites[0]
    values = torch.randn(2, site.shape[0])
    twice = Injection(torch.tensor([0, 0]), torch.tensor([2, 2]), values)
    once = Injection(torch.tensor([0]), torch.tensor([2]), values.sum(0, keepdim=True))
    found = decoder.logits(batch, injected={site.name: twice})
    close(found, decoder.logits(batch, injected={site.name: once}))
    assert (found - decoder.logits(batch)).abs().max() > 1e-3


def test_injections_are_refused_at_unknown_sites_and_with_candidates(decoder, batch):
    site = decoder.sites[0]
    injection = Injection(torch.tensor([0]), torch.tensor([1]), torch.zeros(1, site.shape[0]))
    with pytest.raises(UnknownSiteError, match="not open for edits"):
        decoder.logits(batch, injected={"nowhere": injection})
    several = LowRankFactors(torch.zeros(2, site.shape[0], 1), torch.zeros(2, 1, site.shape[1]))
    with pytest.raises(ValueError, match="candidate"):
        decoder.logits(batch, [several, None], injected={site.name: injection})


def test_site_states_are_the_captured_keys_and_their_products_with_the_edited_weights(
    decoder, batch
):
    decoder.apply(SiteEdit(decoder.sites[0].name, Shift(), DenseUpdate(dense(decoder.sites[0]))))
    names = [site.name for site in decoder.sites]
    states = decoder.site_states(
        batch, names[::-1], batch.rows, batch.positions, decoder.prefix(batch)
    )
    captured = decoder.capture(batch)
    assert list(states) == names[::-1]
    for site, keys, weight in zip(decoder.sites, captured.keys, decoder.weights, strict=True):
        state = states[site.name]
        close(state.inputs, keys)
        close(state.outputs, F.linear(keys, weight, decoder.base.get_submodule(site.name).bias))
        assert not state.outputs.requires_grad
    with pytest.raises(UnknownSiteError, match="not open for edits"):
        decoder.site_states(batch, ["nowhere"], batch.rows, batch.positions)


def test_the_head_is_read_and_injected_into_as_any_site():
    torch.manual_seed(0)
    model, batch = (
        llama().eval().requires_grad_(False),
        TokenBatch.of([([1, 2, 3], [4, 5]), ([6], [7, 8, 9])]),
    )
    decoder = EditableDecoder(
        model, find_sites(model, ["model.layers.3.mlp.down_proj", "lm_head"]), batch
    )
    states = decoder.site_states(
        batch, ["lm_head", "model.layers.3.mlp.down_proj"], batch.rows, batch.positions
    )
    close(states["lm_head"].outputs, decoder.logits(batch))
    close(states["model.layers.3.mlp.down_proj"].inputs, decoder.capture(batch).keys[0])
    values = torch.randn(len(batch.rows), decoder.sites[1].shape[0])
    close(
        decoder.logits(batch, injected={"lm_head": Injection(batch.rows, batch.positions, values)}),
        decoder.logits(batch) + values,
    )


def test_a_codebook_finds_its_keys_in_half_precision():
    torch.manual_seed(1)
    model = llama().eval().requires_grad_(False).to(torch.bfloat16)
    batch = TokenBatch.of([([1 + i, 2, 3], [4, 5]) for i in range(20)])
    decoder = EditableDecoder(model, find_sites(model, ["model.layers.3.mlp.down_proj"]), batch)
    name = decoder.sites[0].name
    states = decoder.site_states(batch, [name], batch.rows, batch.positions)[name]
    values = torch.randn(len(batch.rows), 16).to(torch.bfloat16).float()
    radii = 1e-3 * states.inputs.norm(dim=1)
    decoder.apply(Codebook(name, states.inputs, values, radii))
    held = decoder.site_states(batch, [name], batch.rows, batch.positions)[name]
    assert torch.equal(held.outputs, values)
