"""Texts that begin alike go through a model once as far as they do, and nothing else changes."""

from functools import wraps

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from editgym.weights import (
    Codebook,
    EditableDecoder,
    LowRankFactors,
    Shift,
    SiteEdit,
    TokenBatch,
    find_sites,
)
from editgym.weights.language.site_pass import Injection

SMALL = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
MODELS = {
    "llama": (SMALL | {"num_key_value_heads": 1}, "model.layers.[23].mlp.*"),
    "qwen3": (SMALL | {"num_key_value_heads": 2, "head_dim": 8}, "model.layers.[23].mlp.*"),
    # Windows shorter than what the texts share.
    "mistral": (SMALL | {"num_key_value_heads": 2, "sliding_window": 6}, "model.layers.[23].mlp.*"),
    "gemma2": (
        SMALL | {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 6},
        "model.layers.[23].mlp.*",
    ),
    "gemma3_text": (
        SMALL | {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 6},
        "model.layers.[23].mlp.*",
    ),
    "phi3": (SMALL | {"num_key_value_heads": 2, "pad_token_id": 0}, "model.layers.[23].mlp.*"),
    "gpt_neox": (SMALL, "gpt_neox.layers.[23].mlp.*"),
    "gpt2": (
        {"vocab_size": 60, "n_embd": 16, "n_layer": 4, "n_head": 2, "n_positions": 64},
        "transformer.h.[23].mlp.*",
    ),
    "bloom": (
        {"vocab_size": 60, "hidden_size": 16, "n_layer": 4, "n_head": 2},
        "transformer.h.[23].mlp.*",
    ),
}
OPENING = list(range(10, 22))


def texts(seed=0, count=5, opening=OPENING):
    """Prompts and answers of unequal length, all with one opening."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(length):
        return torch.randint(23, 60, (length,), generator=generator).tolist()

    return [([*opening, *drawn(1 + i)], drawn(1 + (3 * i) % 4)) for i in range(count)]


@pytest.fixture(params=MODELS, scope="module")
def decoder(request):
    settings, sites = MODELS[request.param]
    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param, initializer_range=0.3, **settings)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    found = find_sites(model, [sites])
    made = EditableDecoder(model, found, TokenBatch.of(texts(9, opening=OPENING[:2])))
    generator = torch.Generator().manual_seed(1)
    for site in made.sites:
        rows, columns = site.shape
        factors = LowRankFactors(
            torch.randn(rows, 2, generator=generator),
            0.1 * torch.randn(2, columns, generator=generator),
        )
        made.apply(SiteEdit(site.name, Shift(), factors))
    return made


@pytest.fixture
def batch():
    return TokenBatch.of(texts())


@pytest.fixture
def apart(decoder, monkeypatch):
    """`apart(f)`: what `f` gives where every text is read from its beginning."""

    def compute(function):
        with monkeypatch.context() as patch:
            patch.setattr(decoder._passes, "_shares", False)
            return function()

    return compute


def read(decoder, monkeypatch):
    """The shapes of the token ids that the model reads, as they come."""
    seen, base = [], decoder._passes.model.base_model
    forward = base.forward

    @wraps(forward)
    def look(*args, **named):
        seen.append(tuple(named["input_ids"].shape))
        return forward(*args, **named)

    monkeypatch.setattr(base, "forward", look)
    return seen


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


def updates_of(decoder, candidates=None, seed=5):
    generator = torch.Generator().manual_seed(seed)
    lead = () if candidates is None else (candidates,)
    return [
        LowRankFactors(
            torch.randn(*lead, site.shape[0], 2, generator=generator).requires_grad_(),
            0.1 * torch.randn(*lead, 2, site.shape[1], generator=generator),
        )
        for site in decoder.sites
    ]


def test_a_batch_knows_what_its_texts_share_before_the_first_prediction():
    assert TokenBatch.of(texts()).opening == len(OPENING)
    assert TokenBatch.of(texts(count=1)).opening == 0
    assert TokenBatch.of([([1, 2, 3], [4, 5]), ([1, 2, 3], [4, 6])]).opening == 2
    assert TokenBatch.of([([1, 2], [4]), ([3, 2], [4])]).opening == 0


@pytest.mark.parametrize("begun", [False, True])
def test_logits_are_the_same(decoder, batch, apart, begun, monkeypatch):
    prefix = decoder.prefix(batch) if begun else None
    expected = apart(lambda: decoder.logits(batch, prefix=prefix))
    shapes = read(decoder, monkeypatch)
    close(decoder.logits(batch, prefix=prefix), expected)
    longest = batch.ids.shape[1]
    assert shapes == [(1, len(OPENING)), (len(batch), longest - len(OPENING))]


def test_each_text_alone_gives_the_same(decoder, batch):
    together = decoder.logits(batch)
    for text in range(len(batch)):
        close(together[batch.rows == text], decoder.logits(batch.take([text])))


def test_a_prefix_is_the_same(decoder, batch, apart):
    expected = apart(lambda: decoder.prefix(batch))
    found = decoder.prefix(batch)
    assert found.layer == expected.layer == 2
    for text, length in enumerate(batch.lengths):
        close(found.activations[text, :length], expected.activations[text, :length])


@pytest.mark.parametrize("begun", [False, True])
def test_candidates_are_the_same(decoder, batch, apart, begun, monkeypatch):
    prefix = decoder.prefix(batch) if begun else None
    updates = updates_of(decoder, 3)
    expected = apart(lambda: decoder.losses(batch, updates, prefix))
    shapes = read(decoder, monkeypatch)
    close(decoder.losses(batch, updates, prefix), expected)
    assert shapes[0] == (3, len(OPENING))
    assert float((expected[0] - expected[1]).detach().abs().max()) > 0.01


@pytest.mark.parametrize("begun", [False, True])
def test_keys_and_gradients_are_the_same(decoder, batch, apart, begun):
    prefix = decoder.prefix(batch) if begun else None
    found, expected = decoder.capture(batch, prefix), apart(lambda: decoder.capture(batch, prefix))
    for ours, theirs in zip(
        [*found.keys, *found.gradients], [*expected.keys, *expected.gradients], strict=True
    ):
        close(ours, theirs)
    close(found.losses, expected.losses)
    assert found.rows.tolist() == expected.rows.tolist()


def test_gradients_go_through_what_is_shared(decoder, batch, apart):
    updates = updates_of(decoder)

    def gradients():
        loss = decoder.losses(batch, updates).mean()
        return torch.autograd.grad(loss, [update.a for update in updates])

    for ours, theirs in zip(gradients(), apart(gradients), strict=True):
        close(ours, theirs)
        assert float(theirs.abs().max()) > 1e-4


def test_what_is_injected_in_the_opening_is_not_shared(decoder, batch, apart, monkeypatch):
    site = decoder.sites[0]  # what comes out of the last layer reaches no other token
    for position, shared in ((12, True), (9, True), (4, False)):
        rows = torch.arange(len(batch))
        values = torch.randn(len(batch), site.shape[0], generator=torch.Generator().manual_seed(2))
        injected = {site.name: Injection(rows, torch.full_like(rows, position), values)}
        expected = apart(lambda injected=injected: decoder.logits(batch, injected=injected))
        with monkeypatch.context() as patch:
            shapes = read(decoder, patch)
            close(decoder.logits(batch, injected=injected), expected)
        assert (len(shapes) == 2) == shared
        # With a short window, what is far before an answer does not reach it.
        assert float((expected - decoder.logits(batch)).abs().max()) > 0.01 or not shared


def test_codebooks_are_the_same(decoder, batch, apart):
    site = decoder.sites[0]
    keys = decoder.capture(batch).keys[0][:2]
    values = torch.randn(2, site.shape[0], generator=torch.Generator().manual_seed(3))
    step, before = len(decoder.journal), decoder.logits(batch)
    decoder.apply(Codebook(site.name, keys, values, torch.full((2,), 0.01), step=step))
    try:
        expected = apart(lambda: decoder.logits(batch))
        close(decoder.logits(batch), expected)
        assert (expected - before).abs().max() > 1e-3, "no key is found"
    finally:
        decoder.rollback(step)


def test_texts_that_share_little_are_read_at_once(decoder, monkeypatch):
    batch = TokenBatch.of(texts(opening=OPENING[:7]))
    shapes = read(decoder, monkeypatch)
    decoder.logits(batch)
    assert shapes == [tuple(batch.ids.shape)]


def test_a_model_that_does_not_go_on_from_its_cache_reads_every_text_whole(monkeypatch):
    from editgym.weights.language import passes

    def forgetful(model):
        cache = real(model)
        monkeypatch.setattr(cache, "batch_repeat_interleave", lambda count: cache.reset())
        return cache

    real = passes.empty_cache
    monkeypatch.setattr(passes, "empty_cache", forgetful)
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", initializer_range=0.3, **MODELS["llama"][0])
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    example = TokenBatch.of([([3], [4]), ([5, 6], [7])])
    with pytest.warns(UserWarning, match="every text is read from its beginning"):
        made = EditableDecoder(model, find_sites(model, ["model.layers.2.mlp.*"]), example)
    batch = TokenBatch.of(texts())
    shapes = read(made, monkeypatch)
    made.logits(batch)
    assert shapes == [tuple(batch.ids.shape)]
