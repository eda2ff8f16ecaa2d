"""Default sites of decoders of text: which layers, and which of their matrices."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from editgym.weights import (
    EditableDecoder,
    TokenBatch,
    UnknownSiteError,
    discover_sites,
    find_sites,
)
from editgym.weights.default_sites.text_layers import middle_to_late, of_text, reads_every_token

BATCH = TokenBatch.of([([3, 4, 5], [6, 7]), ([8, 9], [10])])
SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "num_experts_per_tok": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
DEEPSEEK = {"n_routed_experts": 4, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1}


def small(kind, **settings):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SMALL | settings)
    return AutoModelForCausalLM.from_config(config).float().eval().requires_grad_(False)


def names(sites):
    return [site.name for site in sites]


@pytest.mark.parametrize(
    ("kind", "settings", "output"),
    [
        ("mixtral", {"num_local_experts": 4}, "self_attn.o_proj"),
        ("phimoe", {"num_local_experts": 4}, "self_attn.o_proj"),
        ("gpt_oss", {"num_local_experts": 4}, "self_attn.o_proj"),
        ("granitemoe", {"num_local_experts": 4}, "self_attn.o_proj"),
        ("olmoe", {"num_experts": 4}, "self_attn.o_proj"),
        ("qwen3_moe", {"num_experts": 4, "mlp_only_layers": [0]}, "self_attn.o_proj"),
        ("qwen3_moe", {"num_experts": 4, "mlp_only_layers": [0, 1]}, "self_attn.o_proj"),
        ("qwen2_moe", {"num_experts": 4}, "mlp.shared_expert.down_proj"),
        (
            "granitemoeshared",
            {"num_local_experts": 4, "shared_intermediate_size": 20},
            "shared_mlp.output_linear",
        ),
        ("glm4_moe", DEEPSEEK, "mlp.shared_experts.down_proj"),
        ("opt", {"ffn_dim": 24, "word_embed_proj_dim": 32}, "fc2"),
    ],
)
def test_of_mixtures_what_every_token_goes_through_is_edited(kind, settings, output):
    """Also where the first layers are dense: the middle-to-late third has no dense MLP then."""
    model = small(kind, **settings)
    sites = discover_sites(model)
    assert [site.name.split("layers.")[1] for site in sites] == [f"2.{output}", f"3.{output}"]
    assert EditableDecoder(model, sites, BATCH).capture(BATCH).keys[0].shape[0] == 3


def test_a_model_whose_attention_is_a_mixture_too_is_refused_with_sites_that_can_be_edited():
    model = small("jetmoe", num_local_experts=4, kv_channels=16)
    with pytest.raises(UnknownSiteError, match="neither a stack of MLPs nor outputs") as error:
        discover_sites(model)
    named = str(error.value).split("sites=")[1]
    assert named == "['model.layers.2.self_attention.kv_proj']"
    decoder = EditableDecoder(model, find_sites(model, [named[2:-2]]), BATCH)
    assert decoder.capture(BATCH).keys[0].shape[0] == 3


def test_of_a_model_with_a_tower_for_images_in_its_decoder_the_text_is_edited():
    vision = {"hidden_size": 16, "num_hidden_layers": 8, "num_attention_heads": 2, "image_size": 28}
    model = small("git", vision_config=vision)
    found = names(discover_sites(model))
    assert found
    assert not [name for name in found if "vision" in name]


class Loop(nn.Module):
    """An MLP that is gone through twice."""

    def __init__(self, mlp):
        super().__init__()
        self.mlp = mlp

    def forward(self, x):
        return self.mlp(self.mlp(x))


def test_a_site_that_runs_several_times_in_a_pass_is_refused():
    model = small("llama")
    model.model.layers[2].mlp = Loop(model.model.layers[2].mlp)
    with pytest.raises(UnknownSiteError, match=r"mlp\.down_proj: the model runs it several times"):
        EditableDecoder(model, find_sites(model, ["model.layers.2.mlp.mlp.down_proj"]), BATCH)


class HandsOnMore(nn.Module):
    """One of four layers that hand on more than hidden states."""

    def __init__(self, layer, place):
        super().__init__()
        self.layer, self.place = layer, place

    def forward(self, hidden, **arguments):
        if self.place:
            hidden, _ = hidden
        out = self.layer(hidden, **arguments)
        return out if self.place == 3 else (out, torch.zeros(2))


def test_where_layers_hand_on_more_than_hidden_states_none_is_skipped():
    model = small("llama")
    layers = model.model.layers
    model.model.layers = nn.ModuleList(HandsOnMore(*one[::-1]) for one in enumerate(layers))
    plain = model(input_ids=BATCH.ids, use_cache=False).logits[BATCH.rows, BATCH.positions]
    sites = find_sites(model, ["model.layers.2.layer.mlp.down_proj"])
    with pytest.warns(UserWarning, match="every evaluation runs all layers"):
        decoder = EditableDecoder(model, sites, BATCH)
    assert not decoder.reuses_prefix
    torch.testing.assert_close(decoder.logits(BATCH), plain)


@pytest.mark.parametrize(
    ("name", "reads"),
    [
        ("h.2.mlp.down_proj", True),
        ("h.2.mlp.shared_experts.down_proj", True),
        ("h.2.norm_attn_norm.attn.out_proj", True),
        ("h.2.mlp.experts.3.down_proj", False),
        ("h.2.block_sparse_moe.experts.0.w2", False),
        ("h.2.mlp.router", False),
        ("h.2.mlp.gate", False),
        ("h.2.mlp.gate_proj", True),
        ("h.2.input_layernorm.mlp.fc2", False),
    ],
)
def test_experts_routers_and_what_is_inside_a_norm_are_told_by_their_names(name, reads):
    assert reads_every_token(name) is reads


def test_without_outputs_of_mlps_in_the_middle_to_late_third_those_of_attention_are_taken():
    attention = {layer: [f"o{layer}"] for layer in range(6)}
    every = {layer: [f"m{layer}", f"n{layer}"] for layer in range(6)}
    some, none = {0: ["m0"], 4: ["m4"]}, {0: ["m0"], 1: ["m1"]}
    assert middle_to_late(every, attention) == ["m3", "n3", "m4", "n4"]
    assert middle_to_late(every, {}) == ["m3", "n3", "m4", "n4"]
    assert middle_to_late(some, attention) == ["m4"]
    assert middle_to_late(none, attention) == ["o3", "o4"]
    assert middle_to_late({}, attention) == ["o3", "o4"]


def test_all_of_a_network_without_a_configuration_is_of_text():
    assert of_text(nn.Linear(2, 2), ["vision.fc", "fc"]) == ["vision.fc", "fc"]
