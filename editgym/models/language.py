"""Causal language models with their tokenizers: loading, tokens of prompts and answers, greedy
answers.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editgym.models.decoding import Choice, Decoding, ModelError
from editgym.models.folders import BUNDLED, factlm_folder, is_gguf, model_path
from editgym.models.reading import read_folder, read_gguf
from editgym.paths import FileStates, file_states

_MOST_REMEMBERED = 100_000
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt, and of the answer that follows it with its end token."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """Prompt and answer."""
        return self.prompt + self.answer


class LanguageModel:
    """A causal LM of `transformers` and its tokenizer.

    Args:
        model: In evaluation mode from here on; its weights are never written to.
        tokenizer: With an end-of-text token.

    Raises:
        ModelError: The tokenizer has no end token, or the model's cache holds more than the keys
            and values of attention, as with linear attention, state spaces and recurrence.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                "tokenizer: it has no end token (eos_token), so no answer would ever end; set "
                'tokenizer.eos_token, or add "eos_token" to tokenizer_config.json'
            )
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self._ids: dict[str, tuple[int, ...]] = {}  # streams ask the same things again and again
        self.end_id: int = tokenizer.eos_token_id
        self.pad_id: int = self.end_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self._decoding = Decoding(self.model, self.pad_id)

    @classmethod
    def load(cls, name: str, device: str = "cpu", dtype: str = "auto") -> LanguageModel:
        """The model called `name`.

        Args:
            name: `factlm` (bundled, Llama's shape) or `factlm-gpt2` (bundled, GPT-2's),
                `factlm-10m` and the like (made by `editgym.models.train_factlm`), `smollm2-135m`
                and what else `editgym.models.fetch` gets, the path of a Hugging Face folder or of
                a GGUF file, or a hub id. No remote code is run, and only safetensors and GGUF are
                read.
            device: `cpu`, `cuda` or `cuda:N`.
            dtype: Number format of the base weights: `float32`, `bfloat16`, `float16`, or `auto`:
                on CPU float32, on a GPU the checkpoint's own (float32 of a GGUF file).

        Raises:
            ModelError: There is no such model, it has no safetensors or tokenizer, it is not
                supported, or the packages that read GGUF files are missing.
        """
        if dtype != "auto" and dtype not in DTYPES:
            raise ModelError(f'dtype must be "auto" or one of {", ".join(DTYPES)}, got {dtype!r}')
        path = model_path(name)
        model: Any
        if is_gguf(path):
            model, tokenizer = read_gguf(path, DTYPES.get(dtype, torch.float32))
        else:
            auto = torch.float32 if device == "cpu" else "auto"
            model, tokenizer = read_folder(path, DTYPES.get(dtype, auto), name)
        model.to(device)
        return cls(model, tokenizer)

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self.model.device

    @cached_property
    def context(self) -> int:
        """The most tokens that the model takes."""
        config = self.model.config
        positions = (
            getattr(config, "max_position_embeddings", None)
            or getattr(config, "n_positions", None)
            or 2**30
        )
        # RoBERTa and its kin count from the position after that of padding.
        skipped = [
            module.padding_idx + 1
            for name, module in self.model.named_modules()
            if name.endswith("position_embeddings")
            and getattr(module, "padding_idx", None) is not None
        ]
        return int(positions) - max(skipped, default=0)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an answer: the end token, and every token with a line break in it."""
        own = (
            self.model.generation_config.eos_token_id
            if self.model.generation_config is not None
            else None
        )
        ends = {self.end_id, *(own if isinstance(own, list) else [] if own is None else [own])}
        pieces = self.tokenizer.batch_decode([[index] for index in range(len(self.tokenizer))])
        return frozenset(ends | {index for index, piece in enumerate(pieces) if "\n" in piece})

    def encode(self, prompt: str, answer: str, end: bool = True) -> Encoded:
        """Tokens of a prompt and of the answer after it, which a space separates.

        Args:
            prompt: Without a trailing space.
            answer: Not empty.
            end: Whether the answer's tokens include the end token.
        """
        asked = self.prompt_ids(prompt)
        whole = self.prompt_ids(f"{prompt} {answer}")
        # Some tokenizers merge across the border; then the answer's own tokens follow the prompt's.
        said = (
            whole[len(asked) :]
            if whole[: len(asked)] == asked
            else tuple(self.tokenizer(f" {answer}", add_special_tokens=False)["input_ids"])
        )
        return Encoded(asked, (*said, self.end_id) if end else said)

    def prompt_ids(self, prompt: str) -> tuple[int, ...]:
        """Tokens of a prompt with the tokenizer's own start token, if it uses one, and no end
        token.
        """
        if prompt not in self._ids:
            if len(self._ids) >= _MOST_REMEMBERED:
                self._ids.clear()
            ids: list[int] = self.tokenizer(prompt)["input_ids"]
            self._ids[prompt] = tuple(ids[:-1] if ids and ids[-1] == self.end_id else ids)
        return self._ids[prompt]

    def text(self, ids: Sequence[int]) -> str:
        """The answer that tokens spell, up to the first stop token, without surrounding space."""
        kept = next((i for i, token in enumerate(ids) if token in self.stop_ids), len(ids))
        return str(self.tokenizer.decode(list(ids[:kept]), skip_special_tokens=True)).strip()

    def answers(self, prompts: Sequence[str], max_new_tokens: int = 8) -> list[str]:
        """Greedy answers, up to the end token or a line break."""
        return [
            self.text(ids)
            for ids in self.greedy([self.prompt_ids(prompt) for prompt in prompts], max_new_tokens)
        ]

    @torch.no_grad()
    def greedy(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int | Sequence[int] = 8,
        batch_tokens: int = 8_192,
    ) -> list[list[int]]:
        """Greedily decoded tokens after each prompt, the stop token included, by batches with a KV
        cache.

        Args:
            prompts: Token ids.
            max_new_tokens: Where an answer without an end is cut; one number for all prompts, or
                one for each.
            batch_tokens: Prompt tokens, padding included, that are decoded at a time.
        """
        return self._decoded(prompts, max_new_tokens, batch_tokens, lambda x: x.argmax(-1))

    @torch.no_grad()
    def sampled(
        self,
        prompts: Sequence[Sequence[int]],
        generator: torch.Generator,
        temperature: float = 1.0,
        max_new_tokens: int = 8,
        samples: int = 1,
        batch_tokens: int = 8_192,
    ) -> list[list[int]]:
        """Answers drawn from the model's distribution, `samples` for each prompt, by batches with a
        KV cache.

        A prompt is read once, however often it is continued.

        Args:
            prompts: Token ids.
            generator: On the CPU, so that every device draws alike.
            temperature: What logits are divided by, greater than 0.
            max_new_tokens: Where an answer without an end is cut.
            samples: Answers to each prompt, 1 or more.
            batch_tokens: Prompt tokens, padding included, that are decoded at a time, those of
                every sample counted.

        Raises:
            ValueError: The temperature is not greater than 0, or `samples` less than 1.
        """
        if not temperature > 0:
            raise ValueError(f"temperature must be greater than 0, got {temperature!r}")
        if samples < 1:
            raise ValueError(f"samples must be 1 or more, got {samples!r}")

        def drawn(logits: Tensor) -> Tensor:
            chances = (logits.float() / temperature).softmax(-1).cpu()
            return torch.multinomial(chances, 1, generator=generator)[:, 0].to(logits.device)

        return self._decoded(prompts, max_new_tokens, batch_tokens // samples, drawn, samples)

    def _decoded(
        self,
        prompts: Sequence[Sequence[int]],
        most: int | Sequence[int],
        batch_tokens: int,
        choose: Choice,
        samples: int = 1,
    ) -> list[list[int]]:
        limits = [most] * len(prompts) if isinstance(most, int) else most
        return self._decoding.decode(
            prompts, limits, self.context, self.stop_ids, batch_tokens, choose, samples
        )


_shared: weakref.WeakValueDictionary[tuple[str, str, str, FileStates], LanguageModel] = (
    weakref.WeakValueDictionary()
)


def shared_model(name: str, device: str = "cpu", dtype: str = "auto") -> LanguageModel:
    """The model that `LanguageModel.load` gives, one object for everybody.

    It is loaded again when nobody has it any more, or when its files have changed.

    Its weights are never written to, so that tasks with other sites or requests need no copy of
    their own.
    """
    path = model_path(name)
    key = (path, device, dtype, file_states(path))
    model = _shared.get(key)
    if model is None:
        model = _shared[key] = LanguageModel.load(name, device, dtype)
    return model


__all__ = [
    "BUNDLED",
    "DTYPES",
    "Encoded",
    "LanguageModel",
    "ModelError",
    "factlm_folder",
    "shared_model",
]
