"""A language model's own samples, as plain text: what stands in for text of its training."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from tqdm import tqdm

from editgym.models.language import LanguageModel
from editgym.paths import cache_folder, whole_file
from editgym.tasks.knowledge.plain_text import HELD_OUT_TOKENS

SAMPLED_TOKENS = 50_000 + HELD_OUT_TOKENS
_LONGEST = 256  # tokens of one sample
_AT_ONCE = 64  # samples
_VERSION = 1  # a new number makes samples be drawn again


def own_samples(language: LanguageModel, base_hash: str) -> Path:
    """A text file of samples at temperature 1, drawn when it is first asked for.

    A model begins each sample after its start token, or after its end token where it has no start.
    Another kind of processor may draw other samples: whoever compares runs of several machines
    hands this file to all of them by `text=`.

    Args:
        language: The unedited model.
        base_hash: Fingerprint of its weights.
    """
    path = cache_folder() / "text" / f"{_name(language, base_hash)}.txt"
    if not path.is_file():
        samples = _drawn(language)
        with whole_file(path) as partial:
            partial.write_text("\n\n".join(samples), encoding="utf-8")
    return path


def _name(language: LanguageModel, base_hash: str) -> str:
    key = [base_hash, _VERSION, SAMPLED_TOKENS, language.prompt_ids("The text")]
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()


def _drawn(language: LanguageModel) -> list[str]:
    generator = torch.Generator().manual_seed(0)
    tokenizer = language.tokenizer
    start = tokenizer.bos_token_id
    begin = [language.end_id if start is None else int(start)]
    most = min(_LONGEST, language.context - 1)
    found: dict[str, None] = {}
    counted = fruitless = 0
    with tqdm(total=SAMPLED_TOKENS, desc="the model's own samples", unit="token") as bar:
        while counted < SAMPLED_TOKENS:
            drawn = language.sampled(
                [begin], generator, 1.0, most, _AT_ONCE, stops=frozenset(language.end_ids)
            )
            before = counted
            for ids in drawn:
                # An empty line would end the passage.
                lines = str(tokenizer.decode(ids, skip_special_tokens=True)).split("\n")
                text = "\n".join(line for line in lines if line.strip()).strip()
                if text and text not in found:
                    found[text] = None
                    counted += len(language.prompt_ids(text))
            bar.update(counted - before)
            fruitless = fruitless + 1 if counted == before else 0
            if fruitless == 3:  # a model that says the same few things again and again
                break
    return list(found)
