"""What tells a language model from others: what is found out about one is kept on disk by it."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from weakref import WeakKeyDictionary

from editgym.models.language import LanguageModel
from editgym.weights.stored import fingerprint

_known: WeakKeyDictionary[LanguageModel, str] = WeakKeyDictionary()


def identity(language: LanguageModel) -> str:
    """SHA-256 over all that decides what an unedited model makes of a text, wherever it lies:
    weights, configuration, tokenizer and chat template.

    Weights alone do not tell models apart: with another scale of positions, window of attention or
    number of heads the same numbers are another model.

    Args:
        language: The model; what it was when this was first asked for counts.
    """
    if language not in _known:
        # Which processor and which version of PyTorch run it decides about last digits alone.
        parts = [
            fingerprint(language.model),
            type(language.model).__name__,
            _configuration(language.model),
            _tokenizer(language.tokenizer),
            list(language.end_ids),
        ]
        _known[language] = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return _known[language]


def _configuration(model: Any) -> str:
    """The model's configuration, without where it came from and what saved it."""
    told = {
        name: value
        for name, value in model.config.to_dict().items()
        if not name.startswith("_") and name not in ("transformers_version", "dtype", "torch_dtype")
    }
    return json.dumps(told, sort_keys=True, default=str)


def _tokenizer(tokenizer: Any) -> str:
    """What a tokenizer does: its own description, or its vocabulary where it has none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        told = tokenizer.get_vocab()
    else:
        # How it pads and cuts is what it was last asked for.
        told = json.loads(backend.to_str()) | {"padding": None, "truncation": None}
    own = [told, tokenizer.special_tokens_map, tokenizer.chat_template]
    return hashlib.sha256(json.dumps(own, sort_keys=True, default=str).encode()).hexdigest()
