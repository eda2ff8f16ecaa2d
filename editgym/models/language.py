"""Causal language models with their tokenizers: loading, tokens of prompts and answers, greedy
answers.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editgym.models.asking import Asking, Encoded
from editgym.models.cached_calls import ModelError
from editgym.models.decoding import Choice, Decoding, Until, drawn, greedily
from editgym.models.folders import BUNDLED, factlm_folder, model_path
from editgym.models.prompt_formats import FORMATS, PromptFormat
from editgym.paths import file_states
from editgym.weights.stored import input_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from editgym.models.reading import DeviceMap


class LanguageModel:
    """A causal LM of `transformers` and its tokenizer.

    Args:
        model: In evaluation mode from here on; its weights are never written to.
        tokenizer: With an end-of-text token.

    Attributes:
        said: Greedy answers of the unedited model as tokens, by the way of asking and by prompt:
            kept for all tasks of the model, since their sites make no difference to them.
        numbers: What was measured of the unedited model, by name, kept likewise.
        decoding: What decodes, with the edits that are in effect.

    Raises:
        ModelError: The tokenizer has no end token, or more tokens than the model has embeddings; or
            the model's cache holds more than attention's keys and values (`CachedCalls`).
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                "tokenizer: it has no end token (eos_token), so no answer would ever end; set "
                'tokenizer.eos_token, or add "eos_token" to tokenizer_config.json'
            )
        embeddings: Any = model.get_input_embeddings()
        rows = len(embeddings.weight)
        largest = max(tokenizer.get_vocab().values(), default=0)
        if largest >= rows:
            raise ModelError(
                f"tokenizer: its tokens go up to {largest}, and the model has embeddings of"
                f" {rows} tokens, 0 to {rows - 1}: tokens were added to it; call"
                " model.resize_token_embeddings(len(tokenizer)), train the new ones and save both,"
                " or use the tokenizer that the model came with"
            )
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.end_id: int = tokenizer.eos_token_id
        self.pad_id: int = self.end_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.said: dict[tuple[object, ...], Any] = {}
        self.numbers: dict[str, Tensor] = {}
        self.decoding = Decoding(self.model, self.pad_id)
        self._askings: dict[tuple[PromptFormat, str | None, str | None], Asking] = {}

    @classmethod
    def load(
        cls,
        name: str,
        device: str = "cpu",
        dtype: str = "auto",
        device_map: DeviceMap | None = None,
    ) -> LanguageModel:
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
            device_map: Where the parts of a model go that is larger than one device: `auto`, or a
                device, `cpu` or `disk` by the names of modules, as accelerate takes it.

        Raises:
            ModelError: There is no such model, it has no safetensors or tokenizer, it is not
                supported, the packages that read it are missing, or it cannot be spread over
                devices.
        """
        from editgym.models.reading import read_model  # with transformers, which takes seconds

        return cls(*read_model(name, device, dtype, device_map))

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return input_device(self.model)

    @cached_property
    def context(self) -> int:
        """The most tokens that the model takes."""
        config = self.model.config.get_text_config(decoder=True)
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
    def end_ids(self) -> tuple[int, ...]:
        """The model's end tokens, the tokenizer's first."""
        own = (
            self.model.generation_config.eos_token_id
            if self.model.generation_config is not None
            else None
        )
        others = own if isinstance(own, list) else [] if own is None else [own]
        return tuple(dict.fromkeys([self.end_id, *others]))

    def asking(
        self,
        form: PromptFormat = FORMATS["bare"],
        separator: str | None = None,
        system: str | None = None,
    ) -> Asking:
        """One way of asking this model, the same object every time.

        Args:
            form: What stands around a prompt, and what ends an answer.
            separator: What stands between prompt and answer; None for what the language needs.
            system: The system message of a chat.

        Raises:
            PromptFormatError: The tokenizer has no chat template.
        """
        key = (form, separator, system)
        if key not in self._askings:
            self._askings[key] = Asking(self.tokenizer, self.end_ids, *key)
        return self._askings[key]

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an answer to a bare prompt: the end tokens, and every token with a line
        break in it.
        """
        return self.asking().stop_ids

    def encode(self, prompt: str, answer: str, end: bool = True) -> Encoded:
        """Tokens of a bare prompt and of the answer after it (`Asking.encode`)."""
        return self.asking().encode(prompt, answer, end)

    def prompt_ids(self, prompt: str) -> tuple[int, ...]:
        """Tokens of a bare prompt, or of any text, with the tokenizer's own start token, if it uses
        one, and no end token.
        """
        return self.asking().prompt_ids(prompt)

    def text(self, ids: Sequence[int]) -> str:
        """The answer to a bare prompt that tokens spell, without surrounding space."""
        return self.asking().text(ids)

    def answers(self, prompts: Sequence[str], max_new_tokens: int = 8) -> list[str]:
        """Greedy answers to bare prompts, up to the end token or a line break."""
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
        stops: Collection[int] | None = None,
        until: Until | None = None,
    ) -> list[list[int]]:
        """Greedily decoded tokens after each prompt, the stop token included, by batches with a KV
        cache.

        Args:
            prompts: Token ids.
            max_new_tokens: Where an answer without an end is cut; one number for all prompts, or
                one for each.
            batch_tokens: Prompt tokens, padding included, that are decoded at a time.
            stops: Tokens after which nothing follows; None for those of bare prompts.
            until: Whether an answer goes no further, by its prompt's place and its tokens so far.
        """
        return self._decoded(prompts, max_new_tokens, batch_tokens, greedily, stops, until=until)

    @torch.no_grad()
    def sampled(
        self,
        prompts: Sequence[Sequence[int]],
        generator: torch.Generator,
        temperature: float = 1.0,
        max_new_tokens: int = 8,
        samples: int = 1,
        batch_tokens: int = 8_192,
        stops: Collection[int] | None = None,
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
            stops: Tokens after which nothing follows; None for those of bare prompts.

        Raises:
            ValueError: The temperature is not greater than 0, or `samples` less than 1.
            FloatingPointError: The model has collapsed: its logits are not finite.
        """
        if not temperature > 0:
            raise ValueError(f"temperature must be greater than 0, got {temperature!r}")
        if samples < 1:
            raise ValueError(f"samples must be 1 or more, got {samples!r}")

        choose = partial(drawn, generator=generator, temperature=temperature)
        return self._decoded(
            prompts, max_new_tokens, batch_tokens // samples, choose, stops, samples
        )

    def _decoded(
        self,
        prompts: Sequence[Sequence[int]],
        most: int | Sequence[int],
        batch_tokens: int,
        choose: Choice,
        stops: Collection[int] | None,
        samples: int = 1,
        until: Until | None = None,
    ) -> list[list[int]]:
        limits = [most] * len(prompts) if isinstance(most, int) else most
        ends = self.stop_ids if stops is None else stops
        return self.decoding.decode(
            prompts, limits, self.context, ends, batch_tokens, choose, samples, until
        )


_shared: weakref.WeakValueDictionary[tuple[object, ...], LanguageModel] = (
    weakref.WeakValueDictionary()
)


def shared_model(
    name: str, device: str = "cpu", dtype: str = "auto", device_map: DeviceMap | None = None
) -> LanguageModel:
    """The model that `LanguageModel.load` gives, one object for everybody.

    It is loaded again when nobody has it any more, or when its files have changed.

    Its weights are never written to, so that tasks with other sites or requests need no copy of
    their own.
    """
    path = model_path(name)
    places = device_map if isinstance(device_map, str | None) else tuple(device_map.items())
    key = (path, device, dtype, places, file_states(path))
    model = _shared.get(key)
    if model is None:
        model = _shared[key] = LanguageModel.load(name, device, dtype, device_map)
    return model


__all__ = [
    "BUNDLED",
    "Encoded",
    "LanguageModel",
    "ModelError",
    "factlm_folder",
    "shared_model",
]
