"""Causal language models with their tokenizers: loading, tokens of prompts and answers, greedy
answers.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from editgym.paths import FileStates, cache_folder, data_folder, file_states

BUNDLED = Path(__file__).parent / "weights" / "factlm"
_BUNDLED_SIZES = {"1m": BUNDLED, "gpt2": BUNDLED.with_name("factlm-gpt2")}
_MOST_REMEMBERED = 100_000
# Of a cache's layers in `transformers`, those that hold keys and values; a dummy one reads another
# layer's.
_KEYS_AND_VALUES = {
    "DynamicLayer",
    "DynamicSlidingWindowLayer",
    "DynamicIndexedLayer",
    "DummyLayer",
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class ModelError(ValueError):
    """A language model that cannot be loaded, or cannot be used for question answering."""


def factlm_folder(size: str) -> Path:
    """Where `editgym.models.train_factlm` keeps a size: in the package if it ships, else in the
    cache.
    """
    return _BUNDLED_SIZES.get(size, cache_folder() / "language" / f"factlm-{size}")


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
        self._check_cache()
        self.tokenizer = tokenizer
        self._ids: dict[str, tuple[int, ...]] = {}  # streams ask the same things again and again
        self.end_id: int = tokenizer.eos_token_id
        self.pad_id: int = self.end_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    @classmethod
    def load(cls, name: str, device: str = "cpu", dtype: str = "auto") -> LanguageModel:
        """The model called `name`.

        Args:
            name: `factlm` (bundled, Llama's shape) or `factlm-gpt2` (bundled, GPT-2's),
                `factlm-10m` and the like (made by `editgym.models.train_factlm`), the path of a
                Hugging Face folder, or a hub id. No remote code is run, and only safetensors are
                read.
            device: `cpu`, `cuda` or `cuda:N`.
            dtype: Of the base weights: `float32`, `bfloat16`, `float16`, or `auto`: on CPU float32,
                on a GPU the checkpoint's own.

        Raises:
            ModelError: There is no such model, it has no safetensors or tokenizer, or it is not
                supported.
        """
        if dtype != "auto" and dtype not in DTYPES:
            raise ModelError(f'dtype must be "auto" or one of {", ".join(DTYPES)}, got {dtype!r}')
        path = _resolve(name)
        torch_dtype: Any = DTYPES.get(dtype, torch.float32 if device == "cpu" else "auto")
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, **{"trust_remote_code": False})
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=torch_dtype,
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
            model, loading = loaded
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"model: cannot load {name!r}: {error}") from error
        if missing := sorted(loading["missing_keys"]):
            raise ModelError(
                f"model: {name!r} lacks {len(missing)} of the weights that its config.json asks"
                f" for, {', '.join(missing[:3])} among them; they would be random"
            )
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
        return self._decoded(
            prompts, max_new_tokens, batch_tokens, lambda logits: logits.argmax(-1)
        )

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
        """As `greedy`, but drawn from the model's distribution, `samples` times each prompt, one
        after the other.

        A prompt is read once, however often it is continued.

        Args:
            prompts: Token ids.
            generator: On the CPU, so that every device draws alike.
            temperature: What logits are divided by, greater than 0.
            max_new_tokens: As `greedy`.
            samples: Answers to each prompt, 1 or more.
            batch_tokens: As `greedy`; of every sample.

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
        max_new_tokens: int | Sequence[int],
        batch_tokens: int,
        choose: Callable[[Tensor], Tensor],
        samples: int = 1,
    ) -> list[list[int]]:
        """Token by token what `choose` takes of logits (n, vocabulary)."""
        limits = (
            [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
        )

        def room(index: int) -> int:
            """The most tokens that a prompt leaves; those of one batch are decoded equally far."""
            return min(limits[index], self.context - len(prompts[index]))

        order = sorted(range(len(prompts)), key=lambda index: (limits[index], len(prompts[index])))
        found: dict[int, list[list[int]]] = {}
        start = 0
        while start < len(order):
            stop = start + 1  # prompts of about one length together, as many as the budget takes
            while (
                stop < len(order)
                and len(prompts[order[stop]]) * (stop + 1 - start) <= batch_tokens
                and room(order[stop]) == room(order[start])
                and (self._pads or len(prompts[order[stop]]) == len(prompts[order[start]]))
            ):
                stop += 1
            rows = order[start:stop]
            decoded = self._decoded_batch(
                [prompts[row] for row in rows], room(rows[0]), choose, samples
            )
            found.update(
                (row, decoded[index * samples : (index + 1) * samples])
                for index, row in enumerate(rows)
            )
            start = stop
        return [answer for index in range(len(prompts)) for answer in found[index]]

    @cached_property
    def _cache_argument(self) -> str:
        """What the model calls its KV cache; the name changed in `transformers` 5."""
        return (
            "cache"
            if "cache" in inspect.signature(self.model.forward).parameters
            else "past_key_values"
        )

    @torch.no_grad()
    def _check_cache(self) -> None:
        """Refuse a model whose cache has more than keys and values: decoding could not drop or
        repeat its rows.
        """
        ids = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        cache = getattr(self.model(input_ids=ids, use_cache=True), self._cache_argument, None)
        kinds = {type(layer).__name__ for layer in getattr(cache, "layers", ())}
        if type(cache) is not DynamicCache or not kinds <= _KEYS_AND_VALUES:
            raise ModelError(
                f"model: {type(self.model).__name__} is not supported (its cache:"
                f" {', '.join([type(cache).__name__, *sorted(kinds)])}); supported are models whose"
                " layers are attention with a key-value cache, not linear attention, state spaces"
                " or recurrence"
            )

    @cached_property
    @torch.no_grad()
    def _pads(self) -> bool:
        """Whether padding on the left changes nothing, so that prompts of different lengths are
        decoded together.

        It does where the model takes no positions, or does not count them from 0, as BART and
        RoBERTa.
        """
        if "position_ids" not in inspect.signature(self.model.forward).parameters:
            return False
        ids = torch.arange(4, device=self.device)[None] + 1
        alone = self.model(input_ids=ids, use_cache=False).logits[0, -1].float()
        mask = torch.cat([torch.zeros_like(ids), torch.ones_like(ids)], dim=1)
        padded = (
            self.model(
                input_ids=torch.cat([torch.full_like(ids, self.pad_id), ids], dim=1),
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                use_cache=False,
            )
            .logits[0, -1]
            .float()
        )
        tolerance = (1e-4 if self.model.dtype == torch.float32 else 2e-2) * max(
            1.0, float(alone.abs().max())
        )
        return bool(((padded - alone).abs() <= tolerance).all())

    def _decoded_batch(
        self,
        prompts: Sequence[Sequence[int]],
        most: int,
        choose: Callable[[Tensor], Tensor],
        samples: int,
    ) -> list[list[int]]:
        longest = max(map(len, prompts))
        ids = torch.tensor(
            [[self.pad_id] * (longest - len(p)) + list(p) for p in prompts], device=self.device
        )
        mask = torch.tensor(
            [[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=self.device
        )
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        stops = torch.tensor(sorted(self.stop_ids), device=self.device)
        answers: list[list[int]] = [[] for _ in range(len(prompts) * samples)]
        alive, cache = list(range(len(answers))), None
        for step in range(most):
            placed = {"attention_mask": mask, "position_ids": positions} if self._pads else {}
            out = self.model(
                input_ids=ids,
                use_cache=True,
                logits_to_keep=1,
                **placed,
                **{self._cache_argument: cache},
            )
            logits, cache = out.logits[:, -1], out[self._cache_argument]
            if step == 0 and samples > 1:
                cache.batch_repeat_interleave(samples)
                logits, mask, positions = (
                    x.repeat_interleave(samples, 0) for x in (logits, mask, positions)
                )
            chosen: Tensor = choose(logits)
            for row, token in zip(alive, chosen.tolist(), strict=True):
                answers[row].append(token)
            going = (~torch.isin(chosen, stops)).nonzero().flatten()
            if not len(going):
                break
            if len(going) < len(alive):
                cache.batch_select_indices(going)
                alive = [alive[index] for index in going.tolist()]
                mask, positions, chosen = mask[going], positions[going], chosen[going]
            ids = chosen.unsqueeze(1)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            positions = positions[:, -1:] + 1
        return answers


_shared: weakref.WeakValueDictionary[tuple[str, str, str, FileStates], LanguageModel] = (
    weakref.WeakValueDictionary()
)


def shared_model(name: str, device: str = "cpu", dtype: str = "auto") -> LanguageModel:
    """As `LanguageModel.load`, but the same object for everybody while anybody has it, and its
    files are the same.

    Its weights are never written to, so that tasks with other sites or requests need no copy of
    their own.
    """
    path = _resolve(name)
    key = (path, device, dtype, file_states(path))
    model = _shared.get(key)
    if model is None:
        model = _shared[key] = LanguageModel.load(name, device, dtype)
    return model


def _resolve(name: str) -> str:
    """A folder, as it is or in the data folder, or a hub id."""
    if name == "factlm":
        return str(BUNDLED)
    folder = (
        factlm_folder(name.removeprefix("factlm-"))
        if name.startswith("factlm-")
        else Path(name).expanduser()
    )
    if name.startswith("factlm-") and not folder.is_dir():
        raise ModelError(
            f"model: {name!r} is not there yet; make it: python -m editgym.models.train_factlm"
            f" --size {name.removeprefix('factlm-')}"
        )
    if not folder.is_dir():
        folder = data_folder() / name
    if not folder.is_dir():
        return name
    if not (folder / "config.json").is_file():
        raise ModelError(f"model: {folder} is no Hugging Face folder: it has no config.json")
    if not list(folder.glob("*.safetensors")):
        raise ModelError(
            f"model: {folder} has no safetensors; other formats can run code when they are loaded."
            " Save the model with save_pretrained"
        )
    return str(folder)
