"""Decoding of a causal language model, token by token, by batches with a KV cache."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Collection, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from editgym.weights.language.kv_cache import cache_argument
from editgym.weights.stored import input_device, is_spread

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

# Of a cache's layers in `transformers`, those that hold keys and values; a dummy one reads another
# layer's.
_KEYS_AND_VALUES = {
    "DynamicLayer",
    "DynamicSlidingWindowLayer",
    "DynamicIndexedLayer",
    "DummyLayer",
}
_LEAST_SHARED = 8  # first tokens; to read fewer apart costs more than it saves
Choice = Callable[[Tensor], Tensor]  # logits (n, vocabulary) -> the tokens that are taken, (n,)
Until = Callable[[int, Sequence[int]], bool]  # a prompt's place and its answer so far


class ModelError(ValueError):
    """A language model that cannot be loaded, or cannot be used for question answering."""


class Decoding:
    """What decodes many prompts with one model.

    Args:
        model: A causal LM of `transformers`.
        pad_id: The token that prompts of unequal length are filled up with, on the left.

    Raises:
        ModelError: The model's cache holds more than the keys and values of attention, as with
            linear attention, state spaces and recurrence: decoding could not drop or repeat its
            rows.
    """

    def __init__(self, model: PreTrainedModel, pad_id: int) -> None:
        self._model, self._pad_id = model, pad_id
        self._check_cache()

    @torch.no_grad()
    def decode(
        self,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        context: int,
        stops: Collection[int],
        batch_tokens: int,
        choose: Choice,
        samples: int = 1,
        until: Until | None = None,
    ) -> list[list[int]]:
        """Token by token what `choose` takes, the stop token included.

        Args:
            prompts: Token ids.
            limits: How many tokens may follow each prompt.
            context: How many tokens the model takes, prompt and answer together.
            stops: Tokens after which nothing follows.
            batch_tokens: Prompt tokens, padding included, that are decoded at a time.
            choose: Which tokens are taken.
            samples: How often each prompt is continued; a prompt is read once all the same.
            until: Whether an answer goes no further, beside those that a stop token ends.

        Returns:
            The tokens after each prompt, `samples` lists a prompt, one after the other.
        """

        def room(index: int) -> int:
            """The most tokens that a prompt leaves; those of one batch are decoded equally far."""
            return min(limits[index], context - len(prompts[index]))

        order = sorted(range(len(prompts)), key=lambda index: (limits[index], len(prompts[index])))
        found: dict[int, list[list[int]]] = {}
        start = 0
        while start < len(order):
            stop = start + 1  # prompts of about one length together, as many as the budget takes
            while (
                stop < len(order)
                and len(prompts[order[stop]]) * (stop + 1 - start) <= batch_tokens
                and room(order[stop]) == room(order[start])
                and (self.pads or len(prompts[order[stop]]) == len(prompts[order[start]]))
            ):
                stop += 1
            rows = order[start:stop]
            over = None if until is None else partial(_of_rows, until, rows, samples)
            decoded = self._batch(
                [prompts[row] for row in rows], room(rows[0]), stops, choose, samples, over
            )
            found.update(
                (row, decoded[index * samples : (index + 1) * samples])
                for index, row in enumerate(rows)
            )
            start = stop
        return [answer for index in range(len(prompts)) for answer in found[index]]

    @cached_property
    @torch.no_grad()
    def pads(self) -> bool:
        """Whether padding on the left changes nothing, so that prompts of different lengths are
        decoded together.

        It does where the model takes no positions, or does not count them from 0, as BART and
        RoBERTa.
        """
        if "position_ids" not in inspect.signature(self._model.forward).parameters:
            return False
        ids = torch.arange(4, device=self._device)[None] + 1
        alone = self._model(input_ids=ids, use_cache=False).logits[0, -1].float()
        mask = torch.cat([torch.zeros_like(ids), torch.ones_like(ids)], dim=1)
        padded = (
            self._model(
                input_ids=torch.cat([torch.full_like(ids, self._pad_id), ids], dim=1),
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                use_cache=False,
            )
            .logits[0, -1]
            .float()
        )
        return bool(((padded - alone).abs() <= self._tolerance(alone)).all())

    @property
    def _device(self) -> torch.device:
        return input_device(self._model)

    @cached_property
    def _cache_argument(self) -> str:
        return cache_argument(self._model)

    @cached_property
    @torch.no_grad()
    def continues(self) -> bool:
        """Whether a prompt may go on from what a cache has seen of its beginning, padding between
        them where prompts are padded.
        """
        ids = torch.arange(2 * _LEAST_SHARED, device=self._device)[None] + 1
        whole = self._model(input_ids=ids, use_cache=False).logits[0, -1].float()
        try:
            cache = self._begun(ids[0, :_LEAST_SHARED].tolist(), 1)
            rest, mask = ids[:, _LEAST_SHARED:], torch.ones_like(ids)
            if self.pads:
                rest = F.pad(rest, (1, 0), value=self._pad_id)
                mask = torch.cat([mask, mask[:, :1]], dim=1)
                mask[0, _LEAST_SHARED] = 0
            parts = self._forward(rest, mask, cache)[0][0].float()
        except (TypeError, ValueError, AttributeError, RuntimeError, IndexError):
            return False
        return bool(((parts - whole).abs() <= self._tolerance(whole)).all())

    def _begun(self, tokens: Sequence[int], count: int) -> DynamicCache:
        """A cache that has seen the same tokens in each of `count` texts."""
        ids = torch.tensor([list(tokens)], device=self._device)
        cache: DynamicCache = self._model(input_ids=ids, use_cache=True, logits_to_keep=1)[
            self._cache_argument
        ]
        if count > 1:
            cache.batch_repeat_interleave(count)
        return cache

    def _forward(
        self, ids: Tensor, mask: Tensor, cache: DynamicCache | None
    ) -> tuple[Tensor, DynamicCache]:
        """Logits after the last token of every text, and the cache with these tokens in it.

        Args:
            ids: (n, tokens), the new ones.
            mask: (n, all tokens so far), 0 where padding is.
            cache: What was seen before.
        """
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        placed = {"attention_mask": mask, "position_ids": positions} if self.pads else {}
        out = self._model(
            input_ids=ids,
            use_cache=True,
            logits_to_keep=1,
            **placed,
            **{self._cache_argument: cache},
        )
        return out.logits[:, -1], out[self._cache_argument]

    def _tolerance(self, logits: Tensor) -> float:
        exact = self._model.dtype == torch.float32
        return (1e-4 if exact else 2e-2) * max(1.0, float(logits.abs().max()))

    @torch.no_grad()
    def _check_cache(self) -> None:
        """Refuse a model whose cache has more than keys and values: decoding could not drop or
        repeat its rows.
        """
        from transformers import DynamicCache  # who has such a model has waited for it

        ids = torch.zeros(1, 1, dtype=torch.long, device=self._device)
        cache = getattr(self._model(input_ids=ids, use_cache=True), self._cache_argument, None)
        kinds = {type(layer).__name__ for layer in getattr(cache, "layers", ())}
        if type(cache) is not DynamicCache or not kinds <= _KEYS_AND_VALUES:
            raise ModelError(
                f"model: {type(self._model).__name__} is not supported (its cache:"
                f" {', '.join([type(cache).__name__, *sorted(kinds)])}); supported are models whose"
                " layers are attention with a key-value cache, not linear attention, state spaces"
                " or recurrence"
            )

    def _batch(
        self,
        prompts: Sequence[Sequence[int]],
        most: int,
        stops: Collection[int],
        choose: Choice,
        samples: int,
        over: Until | None,
    ) -> list[list[int]]:
        device = self._device
        shared = self._shared(prompts)
        rests = [prompt[shared:] for prompt in prompts]
        longest = max(map(len, rests))
        padded = [[self._pad_id] * (longest - len(p)) + list(p) for p in rests]
        ids = torch.tensor(padded, device=device)
        seen = [[1] * shared + [0] * (longest - len(p)) + [1] * len(p) for p in rests]
        mask = torch.tensor(seen, device=device)
        cache = self._begun(prompts[0][:shared], len(prompts)) if shared else None
        ends = torch.tensor(sorted(stops), device=device)
        answers: list[list[int]] = [[] for _ in range(len(prompts) * samples)]
        alive = list(range(len(answers)))
        for step in range(most):
            logits, cache = self._forward(ids, mask, cache)
            if step == 0 and samples > 1:
                cache.batch_repeat_interleave(samples)
                logits, mask = (x.repeat_interleave(samples, 0) for x in (logits, mask))
            chosen: Tensor = choose(logits)
            for row, token in zip(alive, chosen.tolist(), strict=True):
                answers[row].append(token)
            ended = torch.isin(chosen, ends)
            if over is not None:
                ended |= torch.tensor([over(row, answers[row]) for row in alive], device=device)
            going = (~ended).nonzero().flatten()
            if not len(going):
                break
            if len(going) < len(alive):
                # A model that is spread has keys and values on several devices.
                cache.batch_select_indices(going.cpu() if is_spread(self._model) else going)
                alive = [alive[index] for index in going.tolist()]
                mask, chosen = mask[going], chosen[going]
            ids = chosen.unsqueeze(1)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        return answers

    def _shared(self, prompts: Sequence[Sequence[int]]) -> int:
        """How many first tokens of several prompts are worth being read once for all; at least one
        token of each remains.
        """
        if len(prompts) < 2:
            return 0
        most = min(map(len, prompts)) - 1
        alike = itertools.takewhile(
            lambda tokens: len(set(tokens)) == 1,
            itertools.islice(zip(*prompts, strict=False), most),
        )
        shared = sum(1 for _ in alike)
        return shared if shared >= _LEAST_SHARED and self.continues else 0


def _of_rows(until: Until, rows: Sequence[int], samples: int, row: int, answer: list[int]) -> bool:
    """`until` of an answer by its place in a batch of some of the prompts."""
    return until(rows[row // samples], answer)
