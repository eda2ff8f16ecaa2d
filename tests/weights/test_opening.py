"""Texts that begin alike go through a model once as far as they do, and nothing else changes."""

from functools import wraps
from weakref import WeakKeyDictionary

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
from editgym.weights.hooks import hooked
from editgym.weights.language import graph_size, rest_passes, states
from editgym.weights.language.rest import Rest
from editgym.weights.language.rest_passes import rest_of
from editgym.weights.language.site_pass import Injection
from editgym.weights.language.states import TokenStates
from editgym.weights.sites import layer_of

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
    "gpt_neo": (
        SMALL
        | {
            "num_layers": 4,
            "num_heads": 2,
            "attention_types": [[["global", "local"], 2]],
            "window_size": 6,
        },
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


@pytest.fixture(params=["whole", "rests", "parts", "rests in parts"])
def how(request, monkeypatch):
    """How texts are captured: whole or by the rests from their answers on, at once or in parts."""
    if "rests" in request.param:
        monkeypatch.setattr(rest_passes, "_LEAST_SPARED", 0)
    if "parts" in request.param:
        monkeypatch.setattr(graph_size, "_LEAST", 0)
        monkeypatch.setattr(graph_size, "_SHARE", 0.1)
        monkeypatch.setattr(graph_size, "_REST_SHARE", 0.1)
    return request.param


@pytest.mark.parametrize("updated", [False, True])
@pytest.mark.parametrize("begun", [None, 0, -1])
def test_keys_and_gradients_are_the_same(decoder, batch, apart, begun, updated, how, monkeypatch):
    prefix = None if begun is None else decoder.prefix(batch, [decoder.sites[begun].name])
    updates = updates_of(decoder) if updated else None
    shapes = read(decoder, monkeypatch)
    found = decoder.capture(batch, prefix, updates)
    assert (shapes[-1][0] < len(batch)) == ("parts" in how)
    if "rests" in how and decoder._passes.model.config.model_type not in WHOLE:
        most = int(torch.bincount(batch.rows).max())
        assert shapes[-1][1] <= most, "a graph is made of the tokens of answers alone"
    with monkeypatch.context() as patch:
        patch.setattr(rest_passes, "_LEAST_SPARED", float("inf"))
        patch.setattr(graph_size, "_LEAST", 2**40)
        expected = apart(lambda: decoder.capture(batch, prefix, updates))
    for ours, theirs in zip(
        [*found.keys, *found.gradients], [*expected.keys, *expected.gradients], strict=True
    ):
        close(ours, theirs)
    close(found.losses, expected.losses)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert found.rows.tolist() == expected.rows.tolist()


def test_a_graph_takes_about_what_is_said(decoder, batch):
    kept = {}
    own = {one.data_ptr() for one in decoder.base.parameters()}

    def keep(saved):
        if saved.data_ptr() not in own:
            kept[saved.untyped_storage().data_ptr()] = saved
        return saved

    updates = updates_of(decoder)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        decoder.losses(batch, updates).sum()
    taken = sum(one.untyped_storage().nbytes() for one in kept.values())
    passes, _ = decoder.reading
    tokens = len(OPENING) + (batch.ids.shape[1] - len(OPENING)) * len(batch)
    said = tokens * graph_size.bytes_of(passes, None) / 2  # sites are in the upper half
    said += len(batch.rows) * graph_size._LOGITS * 60
    assert 0.4 < taken / said < 2.5, f"{taken} bytes, and {said:.0f} are said"


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


# --- the rests of texts that were read up to a token of each --------------------------------------

# Where nothing goes on so: no positions are given (BLOOM), the head is more than a linear layer
# (Gemma 2), or a window is shorter than the texts.
WHOLE = {"bloom", "gemma2", "mistral", "gemma3_text", "gpt_neo"}


def started(batch):
    """A start in every text, none behind what is asked about."""
    firsts = [int(batch.positions[batch.rows == row].min()) for row in range(len(batch))]
    return torch.tensor([first - row % 3 for row, first in enumerate(firsts)])


@pytest.mark.parametrize("begun", [False, True])
def test_rests_give_the_logits_and_gradients_of_whole_texts(decoder, batch, begun, monkeypatch):
    site, starts = decoder.sites[-1], started(batch)
    prefix = decoder.prefix(batch, [site.name]) if begun else None
    rest = rest_of(*decoder.reading, batch, starts, prefix)
    assert (rest is None) == (decoder._passes.model.config.model_type in WHOLE)
    if rest is None:
        return
    rows = torch.arange(len(batch))
    values = torch.randn(
        len(batch), site.shape[0], generator=torch.Generator().manual_seed(2)
    ).requires_grad_()
    taken = [3, 0, 4]

    def found(texts, positions, prefix):
        logits = decoder.logits(
            texts, prefix=prefix, injected={site.name: Injection(rows, positions, values)}
        )
        return logits, torch.autograd.grad(logits.square().sum(), values)[0]

    shapes = read(decoder, monkeypatch)
    for _ in range(2):  # a pass leaves the cache as it was
        ours = found(rest.texts, torch.zeros_like(starts), rest)
    # Nothing is predicted from a text's last token.
    longest = max(batch.lengths[row] - 1 - int(starts[row]) for row in range(len(batch)))
    assert shapes == 2 * [(len(batch), longest)]
    for own, whole in zip(ours, found(batch, starts, prefix), strict=True):
        torch.testing.assert_close(own, whole, rtol=1e-3, atol=1e-4)
    some = rest.take(taken)
    close(
        decoder.logits(some.texts, prefix=some),
        decoder.logits(
            batch.take(taken), prefix=prefix and prefix.take(taken, batch.take(taken).ids.shape[1])
        ),
    )


@pytest.mark.parametrize("begun", [False, True])
def test_rests_of_texts_that_are_alike_as_far_as_their_starts(decoder, begun):
    batch = TokenBatch.of([([*OPENING, 30], [31, 32 + row]) for row in range(3)])
    prefix = decoder.prefix(batch, [decoder.sites[-1].name]) if begun else None
    rest = rest_of(*decoder.reading, batch, torch.full((3,), len(OPENING)), prefix)
    assert (rest is None) == (decoder._passes.model.config.model_type in WHOLE)
    if rest is not None:
        close(decoder.logits(rest.texts, prefix=rest), decoder.logits(batch, prefix=prefix))


@pytest.mark.parametrize(
    "lengths", [[(26, 4), (4, 20)], [(28, 2), (6, 22)], [(20, 3), (3, 13)], [(30, 4), (5, 6)]]
)
@pytest.mark.parametrize("begun", [False, True])
def test_padding_before_a_rest_counts_where_attention_has_a_window(lengths, begun, monkeypatch):
    """Texts within a window go on; those that padding takes beyond it are read whole."""
    settings = MODELS["mistral"][0] | {"sliding_window": 32, "num_key_value_heads": 1}
    torch.manual_seed(0)
    config = AutoConfig.for_model("mistral", initializer_range=0.4, **settings)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    sites = find_sites(model, ["model.layers.[12].mlp.*"])
    made = EditableDecoder(model, sites, TokenBatch.of(texts(9)))
    monkeypatch.setattr(rest_passes, "_LEAST_SPARED", 0)
    generator = torch.Generator().manual_seed(1)
    for pairs in ([(6, 2), (8, 2)], lengths):  # the first ones tell that it can be done
        drawn = torch.randint(3, 50, (sum(map(sum, pairs)),), generator=generator).tolist()
        batch = TokenBatch.of(
            [([drawn.pop() for _ in range(a)], [drawn.pop() for _ in range(b)]) for a, b in pairs]
        )
        rest = rest_of(*made.reading, batch, batch.starts, None)
        across = max(a for a, _ in pairs) + max(b for _, b in pairs) - 2
        assert (rest is None) == (across > 32)
        found = made.capture(batch, made.prefix(batch) if begun else None)
        with monkeypatch.context() as patch:
            patch.setattr(rest_passes, "_LEAST_SPARED", float("inf"))
            whole = made.capture(batch)
        close(found.losses, whole.losses)
        for own, expected in zip(found.gradients, whole.gradients, strict=True):
            close(own, expected)


def test_rests_give_the_same_with_values_at_the_head():
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", initializer_range=0.3, **MODELS["llama"][0])
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    sites, batch = find_sites(model, ["lm_head"]), TokenBatch.of(texts())
    made = EditableDecoder(model, sites, TokenBatch.of(texts(9)))
    rest = rest_of(*made.reading, batch, batch.starts, None)
    values = torch.randn(len(batch.rows), 60, generator=torch.Generator().manual_seed(2))

    def found(texts, prefix):
        injected = {"lm_head": Injection(texts.rows, texts.positions, values)}
        return made.logits(texts, prefix=prefix, injected=injected)

    close(found(rest.texts, rest), found(batch, None))
    close(found(rest.texts, rest), made.logits(batch) + values)


def test_there_is_no_rest_where_nothing_is_read_before(decoder, batch):
    assert rest_of(*decoder.reading, batch, torch.zeros(len(batch), dtype=torch.long), None) is None


def test_whole_texts_are_read_where_a_rest_gives_something_else(decoder, batch, monkeypatch):
    """A model that counts positions in its own way is found out by the first texts."""
    if decoder._passes.model.config.model_type in WHOLE:
        pytest.skip("it reads whole texts anyway")
    told = Rest.told

    def elsewhere(rest, model):
        own = told(rest, model)
        return own | {"position_ids": own["position_ids"] + 3}

    monkeypatch.setattr(rest_passes, "_agree", WeakKeyDictionary())
    monkeypatch.setattr(Rest, "told", elsewhere)
    position = decoder._passes.model.config.model_type
    found = rest_of(*decoder.reading, batch, started(batch), None)
    assert found is None, f"{position} has other logits at other positions"


# --- what there is at one token of every text -----------------------------------------------------


def at_a_token(decoder, batch, positions, site, last, updates):
    """Keys and hidden states, every text read alone, from its beginning to its end."""
    found = []
    layer = decoder.base.get_submodule(layer_of(last.name).name)
    for row, position in enumerate(positions.tolist()):
        seen = []

        def look(x, position=position, seen=seen):
            seen.append((x[0] if isinstance(x, tuple) else x)[0, position])

        key = (decoder.base.get_submodule(site.name), look)
        hidden = (layer, lambda _inputs, output, look=look: look(output))
        with torch.no_grad(), hooked(before=[key], after=[hidden]):
            decoder.logits(batch.take([row]), updates)
        found.append(seen)
    return [torch.stack(own) for own in zip(*found, strict=True)]


@pytest.mark.parametrize("begun", [False, True])
def test_states_at_a_token_are_those_of_texts_read_alone(decoder, batch, begun, monkeypatch):
    monkeypatch.setattr(states, "_TOKENS_AT_ONCE", 12)  # several groups
    positions, last = started(batch), decoder.sites[-1]
    prefix = decoder.prefix(batch) if begun else None
    read_on = TokenStates(decoder, batch, positions, prefix)
    updates = [None] * len(decoder.sites)
    for index, site in enumerate(decoder.sites):
        found = read_on.read(site, last, updates)
        for own, alone in zip(
            found, at_a_token(decoder, batch, positions, site, last, updates), strict=True
        ):
            close(own, alone)
        own = updates_of(decoder)[index]
        updates[index] = LowRankFactors(own.a.detach(), own.b)
    moved = read_on.read(last, last, updates)[1] - found[1]
    assert float(moved.abs().max()) > 0.01


def test_what_is_below_a_site_is_read_once(decoder, batch):
    lowest, last = decoder.sites[0], decoder.sites[-1]
    read_on = TokenStates(decoder, batch, started(batch), decoder.prefix(batch))
    calls = []
    below = (decoder.base.get_submodule(lowest.name), lambda _inputs: calls.append(1))
    with hooked(before=[below]):
        read_on.read(lowest, last)
        assert calls
        read_on.read(last, last)
        calls.clear()
        read_on.read(last, last)
    assert not calls
    with pytest.raises(ValueError, match=r"begin: it begins at layer 3, above layer 2"):
        read_on.read(lowest, last)


def test_a_prefix_goes_on_from_an_earlier_one(decoder, batch, apart):
    last = decoder.sites[-1].name
    expected = apart(lambda: decoder.prefix(batch, [last]))
    found = decoder.prefix(batch, [last], decoder.prefix(batch))
    assert found.layer == expected.layer == 3
    for text, length in enumerate(batch.lengths):
        close(found.activations[text, :length], expected.activations[text, :length])
    assert decoder.prefix(batch, [last], found) is found
    with pytest.raises(ValueError, match="begin: it begins at layer 3, above layer 2"):
        decoder.prefix(batch, None, found)


@pytest.mark.parametrize(("vocabulary", "tokens"), [(49_152, 8_192), (262_144, 2_048)])
def test_fewer_tokens_of_a_large_vocabulary_go_through_a_model_together(vocabulary, tokens):
    config = AutoConfig.for_model("llama", **{**SMALL, "vocab_size": vocabulary})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert graph_size.tokens_at_once(model) == tokens
