"""Read models and their tokenizers: Hugging Face folders, hub ids and GGUF files."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
import weakref
from collections.abc import Mapping
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

from editgym.models.cached_calls import ModelError
from editgym.models.folders import is_gguf, model_path
from editgym.models.known import KNOWN
from editgym.paths import cache_folder

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

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Read = tuple[PreTrainedModel, PreTrainedTokenizerBase]
DeviceMap = str | Mapping[str, int | str]


def read_model(
    name: str, device: str = "cpu", dtype: str = "auto", device_map: DeviceMap | None = None
) -> Read:
    """A causal LM and its tokenizer, on its device or devices.

    Args:
        name: The model's name or path (`LanguageModel.load`).
        device: Where all of the model goes, unless there is a map.
        dtype: Number format of the weights, or `auto`.
        device_map: Where the model's parts go.

    Raises:
        ModelError: The model cannot be loaded, or not so.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise ModelError(f'dtype must be "auto" or one of {", ".join(DTYPES)}, got {dtype!r}')
    path = model_path(name)
    if device_map is not None:
        _check_device_map(name, path, device)
        auto = "auto" if torch.cuda.is_available() else torch.float32
        return read_folder(path, DTYPES.get(dtype, auto), name, device_map)
    model: Any
    if is_gguf(path):
        model, tokenizer = read_gguf(path, DTYPES.get(dtype, torch.float32))
    else:
        auto = torch.float32 if device == "cpu" else "auto"
        model, tokenizer = read_folder(path, DTYPES.get(dtype, auto), name)
    return model.to(device), tokenizer


def _check_device_map(name: str, path: str, device: str) -> None:
    """Refuse to spread a model over devices where that cannot be done."""
    if is_gguf(path):
        raise ModelError(
            f"device_map: {name!r} is a GGUF file, which is read as a whole; save it as a folder"
            " first (python -m editgym.models.fetch, or save_pretrained), or leave device_map out"
        )
    if device != "cpu":
        raise ModelError(
            f"device_map: it says where the model's parts go, and device={device!r} where all of"
            " it does; leave one of them out"
        )
    if importlib.util.find_spec("accelerate") is None:
        raise ModelError(
            "device_map: a model is spread over devices with the package accelerate, which this"
            ' Python lacks: pip install "editgym[llm]"'
        )


def read_folder(
    path: str,
    dtype: torch.dtype | str,
    name: str | None = None,
    device_map: DeviceMap | None = None,
) -> Read:
    """A causal LM of a Hugging Face folder or hub id, and its tokenizer.

    No remote code is run, and only safetensors are read.

    Args:
        path: The folder, or the hub id.
        dtype: Number format of the weights; "auto" for the checkpoint's own.
        name: What messages call the model, by default its path.
        device_map: Where its parts go, as accelerate takes it; None for the CPU.

    Raises:
        ModelError: There is no such model, the map does not fit it, or it lacks safetensors, a
            tokenizer, or weights that its config.json asks for.
    """
    name = name or path
    number_format: Any = dtype
    places: dict[str, Any] = {} if device_map is None else _placed(device_map)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **{"trust_remote_code": False})
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=number_format,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
            **places,
        )
        if places:
            weakref.finalize(loaded[0], shutil.rmtree, places["offload_folder"], True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(places.get("offload_folder", ""), ignore_errors=True)
        raise ModelError(
            f"model: cannot load {name!r}, which is no model of editgym's (factlm,"
            f" {', '.join(KNOWN)}, …), no folder and no GGUF file, as a hub id: {error}"
            if not Path(path).is_dir()
            else f"model: cannot load {name!r}: {error}"
        ) from error
    model, loading = loaded
    _check_whole(name, loading)
    return model, tokenizer


def _placed(device_map: DeviceMap) -> dict[str, Any]:
    """What `from_pretrained` is told of a map of devices.

    Of what is put off to disk, weights whose number format is not the checkpoint's are written
    there anew, into a folder that is the model's own.
    """
    (cache_folder() / "offloaded").mkdir(parents=True, exist_ok=True)
    folder = tempfile.mkdtemp(dir=cache_folder() / "offloaded")
    own = device_map if isinstance(device_map, str) else dict(device_map)
    return {"device_map": own, "offload_folder": folder}


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
