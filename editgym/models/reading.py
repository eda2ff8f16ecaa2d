"""Read models and their tokenizers: Hugging Face folders, hub ids and GGUF files."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from tokenizers import pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from editgym.models.decoding import ModelError
from editgym.models.known import KNOWN

# Kinds of splitting that llama.cpp has and `transformers` (5.24) lacks: every digit by itself, then
# GPT-2's. By GPT-2's alone, spaces and line breaks before a number become other tokens.
_DIGIT_BY_DIGIT = (
    "smollm",
    "starcoder",
    "refact",
    "command-r",
    "codeshell",
    "exaone",
    "minerva-7b",
)

Read = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def read_folder(path: str, dtype: torch.dtype | str, name: str | None = None) -> Read:
    """A causal LM of a Hugging Face folder or hub id, and its tokenizer.

    No remote code is run, and only safetensors are read.

    Args:
        path: The folder, or the hub id.
        dtype: Number format of the weights; "auto" for the checkpoint's own.
        name: What messages call the model, by default its path.

    Raises:
        ModelError: There is no such model, or it lacks safetensors, a tokenizer, or weights that
            its config.json asks for.
    """
    name = name or path
    number_format: Any = dtype
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **{"trust_remote_code": False})
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=number_format,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"model: cannot load {name!r}, which is no model of editgym's (factlm,"
            f" {', '.join(KNOWN)}, …), no folder and no GGUF file, as a hub id: {error}"
            if not Path(path).is_dir()
            else f"model: cannot load {name!r}: {error}"
        ) from error
    model, loading = loaded
    _check_whole(name, loading)
    return model, tokenizer


def read_encoder(path: str, dtype: torch.dtype | str) -> Read:
    """The encoder of a Hugging Face folder or hub id, without any head, and its tokenizer.

    No remote code is run, and only safetensors are read.

    Args:
        path: The folder, or the hub id.
        dtype: Number format of the weights; "auto" for the checkpoint's own.

    Raises:
        ModelError: There is no such model, or it lacks safetensors, a tokenizer, or weights that
            its config.json asks for.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **{"trust_remote_code": False})
        loaded: Any = AutoModel.from_pretrained(
            path,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"model: cannot load the encoder {path!r}: {error}") from error
    model, loading = loaded
    _check_whole(path, loading)
    return model, tokenizer


def read_gguf(path: str | Path, dtype: torch.dtype = torch.float32) -> Read:
    """The causal LM of a GGUF file, with its rounded weights as floating-point numbers, and the
    tokenizer in the file.

    It is a plain model of `transformers`, which `save_pretrained` writes as a folder.

    Args:
        path: The file.
        dtype: Number format of the weights; float32 holds every kind of GGUF numbers exactly.

    Raises:
        ModelError: The packages that read it are missing, or `transformers` cannot read the file.
    """
    check_gguf_packages()
    file = Path(path).expanduser().absolute()
    where: dict[str, Any] = {"gguf_file": file.name, "trust_remote_code": False}
    try:
        tokenizer = _gguf_tokenizer(file, where)
        # Given once, or `transformers` reads the whole file anew for each class that asks for it.
        where["config"] = AutoConfig.from_pretrained(str(file.parent), **where)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(file.parent), dtype=dtype, output_loading_info=True, **where, **_unpacked()
        )
    except Exception as error:  # a torn file may fail anywhere in the reader, and in any way
        raise ModelError(
            f"model: transformers cannot read {file}: {type(error).__name__}: {error}"
        ) from error
    read, loading = loaded
    _check_whole(str(file), loading)
    return _plain(read), tokenizer


def check_gguf_packages() -> None:
    """Check that the packages are installed by which `transformers` reads GGUF files.

    Raises:
        ModelError: One is missing.
    """
    missing = [
        package for package in ("gguf", "accelerate") if importlib.util.find_spec(package) is None
    ]
    if missing:
        raise ModelError(
            f"model: a GGUF file is read with the package{'s' * (len(missing) > 1)}"
            f" {' and '.join(missing)}, which this Python lacks:"
            ' pip install "editgym[gguf]"'
        )


def _gguf_tokenizer(file: Path, where: dict[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer in a GGUF file, with the file's splitting where `transformers` lacks it."""
    from gguf import GGUFReader  # not above: the package is an extra

    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), **where)
    said = GGUFReader(file).fields.get("tokenizer.ggml.pre")
    if said is not None and said.contents() in _DIGIT_BY_DIGIT:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    return tokenizer


def _unpacked() -> dict[str, Any]:
    """The arguments by which `transformers` gives plain tensors also where it has kernels for
    packed ones; before it had any, it knew no such argument.
    """
    config: Any = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def _plain(read: PreTrainedModel) -> PreTrainedModel:
    """The same model without the marks of its file, which `save_pretrained` refuses to write."""
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    config = AutoConfig.for_model(**settings)
    with torch.random.fork_rng(devices=[]):  # the first weights are random, and nobody's draws
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config).to(read.dtype)
    model.load_state_dict(read.state_dict())
    model.config.dtype = read.dtype
    return model


def _check_whole(name: str, loading: Any) -> None:
    if missing := sorted(loading["missing_keys"]):
        raise ModelError(
            f"model: {name!r} lacks {len(missing)} of the weights that its config.json asks"
            f" for, {', '.join(missing[:3])} among them; they would be random"
        )
