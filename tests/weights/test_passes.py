"""What a decoder's passes leave out: caches, tokens, layers and graphs that nobody needs."""

import pytest
import torch

from editgym.weights import EditableDecoder, LowRankFactors, TokenBatch, find_sites

DOWN = "model.layers.[34].mlp.down_proj"


@pytest.fixture
def model(build):
    """Six layers, the embedding trainable."""
    model = build("llama").requires_grad_(False)
    model.get_input_embeddings().weight.requires_grad_()
    return model


@pytest.fixture
def batch():
    return TokenBatch.of([([1, 2, 3], [4, 5]), ([6], [7])])


def test_no_pass_builds_a_cache_of_keys_and_values(model, batch):
    asked = []
    for module in (model, model.model):
        module.register_forward_pre_hook(
            lambda _module, _args, kwargs: asked.append(kwargs["use_cache"]), with_kwargs=True
        )
    decoder = EditableDecoder(model, find_sites(model, [DOWN, "lm_head"]), batch)
    made = len(asked)
    decoder.logits(batch)
    decoder.capture(batch)
    decoder.site_states(batch, ["lm_head"], batch.rows, batch.positions)
    decoder._passes.calls.at(batch.ids, batch.rows, batch.positions, everywhere=True)
    assert len(asked) > made > 0
    assert not any(asked[made:])


def test_the_head_is_asked_at_answer_tokens_alone(model, batch):
    decoder = EditableDecoder(model, find_sites(model, [DOWN]), batch)
    seen = []
    model.lm_head.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].shape))
    decoder.logits(batch)
    decoder.capture(batch)
    assert seen == [(3, 16), (3, 16)]


def test_site_states_need_no_layer_above_the_sites(model, batch):
    decoder = EditableDecoder(model, find_sites(model, [DOWN]), batch)
    run = []
    for number, layer in enumerate(model.model.layers):
        layer.register_forward_pre_hook(lambda *_, number=number: run.append(number))
    decoder.site_states(batch, ["model.layers.3.mlp.down_proj"], batch.rows, batch.positions)
    assert run == [0, 1, 2, 3]


def test_what_is_looked_at_once_has_no_graph(model, batch):
    decoder = EditableDecoder(model, find_sites(model, [DOWN]), batch)
    assert not decoder.prefix(batch).activations.requires_grad
    names = [site.name for site in decoder.sites]
    for state in decoder.site_states(batch, names, batch.rows, batch.positions).values():
        assert not state.inputs.requires_grad
        assert not state.outputs.requires_grad
    assert decoder.logits(batch).requires_grad, "what is learned through keeps its graph"


def test_layers_are_skipped_for_candidates_too(model, batch):
    decoder = EditableDecoder(model, find_sites(model, [DOWN]), batch)
    prefix = decoder.prefix(batch)
    run = []
    model.model.layers[2].mlp.register_forward_pre_hook(lambda *_: pytest.fail("not skipped"))
    model.model.layers[3].register_forward_pre_hook(lambda _module, inputs: run.append(inputs))
    updates = [LowRankFactors(torch.randn(2, 16, 1), torch.randn(2, 1, 24)) for _ in range(2)]
    decoder.logits(batch, updates, prefix)
    ((begun,),) = run
    assert torch.equal(begun, torch.cat([prefix.activations] * 2))
