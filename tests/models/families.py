"""Small causal language models of many families, of shapes that are drawn."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

Draw = Callable[[random.Random], dict[str, object]]


def _grouped(rng: random.Random, **more: object) -> dict[str, object]:
    """Llama's names: groups of heads, and heads that need not add up to the width."""
    heads, kv = rng.choice([(2, 1), (2, 2), (4, 2), (6, 3), (4, 4)])
    return {
        "hidden_size": heads * rng.choice([6, 8, 12]),
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "head_dim": rng.choice([8, 12, 16]),
        "intermediate_size": rng.randrange(20, 72, 4),
        "num_hidden_layers": rng.randint(3, 6),
        "max_position_embeddings": 64,
        **more,
    }


def _even(rng: random.Random, **more: object) -> dict[str, object]:
    """The same, where heads add up to the width."""
    drawn = _grouped(rng)
    head = int(drawn.pop("head_dim"))
    return drawn | {"hidden_size": head * int(drawn["num_attention_heads"])} | more


def _single(rng: random.Random, **more: object) -> dict[str, object]:
    """The same, where every head has keys and values of its own."""
    drawn = _even(rng)
    return drawn | {"num_key_value_heads": drawn["num_attention_heads"]} | more


def _experts(rng: random.Random, count: str, **more: object) -> dict[str, object]:
    return _grouped(rng, **{count: rng.choice([3, 4, 6])}, num_experts_per_tok=2, **more)


def _shared(rng: random.Random, **more: object) -> dict[str, object]:
    """Of DeepSeek's kind: the first layer is dense, others have routed and shared experts."""
    return _experts(
        rng,
        "n_routed_experts",
        moe_intermediate_size=rng.randrange(12, 40, 4),
        n_shared_experts=rng.randint(1, 2),
        first_k_dense_replace=1,
        n_group=1,
        topk_group=1,
        **more,
    )


def _latent(rng: random.Random, **more: object) -> dict[str, object]:
    """The same with latent attention."""
    drawn = _shared(rng, **more)
    rope = rng.choice([4, 8])
    return drawn | {
        "num_key_value_heads": drawn["num_attention_heads"],
        "head_dim": rope,
        "q_lora_rank": 12,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": rope,
        "qk_nope_head_dim": 8,
        "v_head_dim": 12,
    }


def _gpt2(rng: random.Random, **more: object) -> dict[str, object]:
    heads = rng.choice([2, 3, 4])
    return {
        "n_embd": heads * rng.choice([8, 12]),
        "n_head": heads,
        "n_layer": rng.randint(3, 6),
        "n_positions": 64,
        **more,
    }


def _falcon(rng: random.Random, **more: object) -> dict[str, object]:
    drawn = _even(rng)
    return {
        "hidden_size": drawn["hidden_size"],
        "num_attention_heads": drawn["num_attention_heads"],
        "num_kv_heads": drawn["num_key_value_heads"],
        "num_hidden_layers": drawn["num_hidden_layers"],
        **more,
    }


def _opt(rng: random.Random, **more: object) -> dict[str, object]:
    drawn = _single(rng)
    return drawn | {
        "ffn_dim": drawn["intermediate_size"],
        "word_embed_proj_dim": drawn["hidden_size"],
        **more,
    }


def _bart(rng: random.Random, **more: object) -> dict[str, object]:
    drawn = _single(rng)
    return {
        "d_model": drawn["hidden_size"],
        "decoder_layers": drawn["num_hidden_layers"],
        "decoder_attention_heads": drawn["num_attention_heads"],
        "decoder_ffn_dim": drawn["intermediate_size"],
        "max_position_embeddings": 64,
        "is_decoder": True,
        "init_std": 0.3,
        **more,
    }


WINDOW = {"sliding_window": 6}
# Name of a variant, the kind of model, and how its shape is drawn.
FAMILIES: dict[str, tuple[str, Draw]] = {
    "llama": ("llama", _grouped),
    "qwen2": ("qwen2", lambda r: _even(r, tie_word_embeddings=True)),
    "qwen3": ("qwen3", _grouped),
    "mistral": ("mistral", lambda r: _grouped(r, **WINDOW)),
    "ministral": ("ministral", lambda r: _grouped(r, **WINDOW)),
    "gemma": ("gemma", _grouped),
    "gemma2": ("gemma2", lambda r: _grouped(r, **WINDOW)),
    "gemma3": ("gemma3_text", lambda r: _grouped(r, num_hidden_layers=7, **WINDOW)),
    "phi": ("phi", lambda r: _single(r, partial_rotary_factor=0.5)),
    "phi3": ("phi3", lambda r: _even(r, pad_token_id=0)),
    "stablelm": ("stablelm", lambda r: _even(r, partial_rotary_factor=0.5)),
    "starcoder2": ("starcoder2", _even),
    "olmo": ("olmo", _even),
    "olmo2": ("olmo2", _even),
    "cohere": ("cohere", _even),
    "cohere2": ("cohere2", lambda r: _grouped(r, **WINDOW)),
    "granite": ("granite", lambda r: _even(r, residual_multiplier=0.22, logits_scaling=4.0)),
    "nemotron": ("nemotron", _grouped),
    "smollm3": ("smollm3", _even),
    "glm4": ("glm4", _grouped),
    "exaone4": ("exaone4", lambda r: _grouped(r, **WINDOW)),
    "ernie4_5": ("ernie4_5", _grouped),
    "persimmon": ("persimmon", _single),
    "gpt2": ("gpt2", _gpt2),
    "gptj": ("gptj", lambda r: _gpt2(r, rotary_dim=4)),
    "codegen": ("codegen", lambda r: _gpt2(r, n_head=4, n_embd=32, rotary_dim=4)),
    "gpt_bigcode": ("gpt_bigcode", _gpt2),
    "gpt_neox": ("gpt_neox", _single),
    "bloom": (
        "bloom",
        lambda r: {"hidden_size": 24, "n_layer": r.randint(3, 6), "n_head": r.choice([2, 3])},
    ),
    "mpt": (
        "mpt",
        lambda r: {"d_model": 24, "n_layers": r.randint(3, 6), "n_heads": 2, "max_seq_len": 64},
    ),
    "falcon": ("falcon", lambda r: _falcon(r, multi_query=True)),
    "falcon alibi": ("falcon", lambda r: _falcon(r, alibi=True, parallel_attn=False)),
    "falcon new": ("falcon", lambda r: _falcon(r, new_decoder_architecture=True)),
    "opt": ("opt", _opt),
    "opt post": (
        "opt",
        lambda r: _opt(r, do_layer_norm_before=False, word_embed_proj_dim=20),
    ),
    "bart": ("bart", _bart),
    "xglm": (
        "xglm",
        lambda r: {
            "d_model": 24,
            "num_layers": 4,
            "attention_heads": r.choice([2, 3]),
            "ffn_dim": 40,
        },
    ),
    "mixtral": ("mixtral", lambda r: _experts(r, "num_local_experts")),
    "phimoe": ("phimoe", lambda r: _experts(r, "num_local_experts")),
    "olmoe": ("olmoe", lambda r: _even(r, num_experts=4, num_experts_per_tok=2)),
    "qwen2_moe": (
        "qwen2_moe",
        lambda r: _experts(
            r, "num_experts", moe_intermediate_size=20, shared_expert_intermediate_size=36
        ),
    ),
    "qwen3_moe": ("qwen3_moe", lambda r: _experts(r, "num_experts", moe_intermediate_size=20)),
    "qwen3_moe partly": (
        "qwen3_moe",
        lambda r: _experts(
            r, "num_experts", moe_intermediate_size=20, mlp_only_layers=[0], num_hidden_layers=5
        ),
    ),
    "granitemoe": ("granitemoe", lambda r: _even(r, num_local_experts=4, num_experts_per_tok=2)),
    "granitemoeshared": (
        "granitemoeshared",
        lambda r: _even(r, num_local_experts=4, num_experts_per_tok=2, shared_intermediate_size=28),
    ),
    "deepseek_v2": ("deepseek_v2", _latent),
    "deepseek_v3": ("deepseek_v3", _latent),
    "glm4_moe": ("glm4_moe", _shared),
    "dots1": ("dots1", _shared),
    "gpt_oss": ("gpt_oss", lambda r: _experts(r, "num_local_experts", **WINDOW)),
    "ernie4_5_moe": (
        "ernie4_5_moe",
        lambda r: _grouped(
            r, moe_num_experts=4, moe_k=2, moe_intermediate_size=20, moe_num_shared_experts=1
        ),
    ),
    "hunyuan_v1_moe": (
        "hunyuan_v1_moe",
        lambda r: _grouped(r, num_experts=4, moe_topk=2, num_shared_expert=1),
    ),
    "minimax_m2": ("minimax_m2", lambda r: _experts(r, "num_local_experts")),
    "llama4": (
        "llama4_text",
        lambda r: _grouped(
            r, intermediate_size_mlp=40, num_local_experts=2, interleave_moe_layer_step=2
        ),
    ),
}


def small_model(name: str, vocabulary: int, seed: int = 0) -> PreTrainedModel:
    """A model of a family with random weights, in evaluation mode."""
    kind, draw = FAMILIES[name]
    settings = draw(random.Random(f"{name} {seed}"))
    common = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.3}
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **common | {"vocab_size": vocabulary} | settings)
    return AutoModelForCausalLM.from_config(config).float().eval().requires_grad_(False)
