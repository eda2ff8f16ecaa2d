"""Decoding of a causal language model, token by token, by batches with a KV cache."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editgym.models.cached_calls import LEAST_SHARED, CachedCalls
from editgym.weights.stored import is_spread

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

Choice = Callable[[Tensor], Tensor]  # logits (n, vocabulary) -> the tokens that are taken, (n,)
Until = Callable[[int, Sequence[int]], bool]  # a prompt's place and its answer so far


def greedily(logits: Tensor) -> Tensor:
    """The most probable token of each row."""
    return logits.argmax(-1)


def drawn(logits: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
    """A token of each row, drawn from the model's distribution.

    Args:
        logits: (n, vocabulary).
        generator: On the CPU, so that every device draws alike.
        temperature: What logits are divided by, greater than 0.

    Raises:
        FloatingPointError: The model has collapsed: logits are not finite.
    """
    chances = (logits.float() / temperature).softmax(-1).cpu()
    if not bool(chances.isfinite().all()):
        raise FloatingPointError(
            "the model has collapsed: its logits are not finite, so no token can be drawn"
        )
    return torch.multinomial(chances, 1, generator=generator)[:, 0].to(logits.device)


@dataclass
class Begun:
    """Texts that a model has read, and answers of which each goes on from the beginning of its
    text.

    Attributes:
        cache: What attention has seen of the texts; whoever goes on from it uses it up.
        seen: (n, tokens), 1 at those that the answer goes on from.
        answers: Tokens of the answers so far, at least one of each; the last is not read yet.
    """

    cache: DynamicCache
    seen: Tensor
    answers: list[list[int]]


class Decoding:
    """What decodes many prompts with one model.

    Args:
        model: A causal LM of `transformers`.
        pad_id: The token that prompts of unequal length are filled up with, on the left.

    Attributes:
        calls: The model, as it is called.

    Raises:
        ModelError: The model's cache holds more than the keys and values of attention.
    """

    def __init__(self, model: PreTrainedModel, pad_id: int) -> None:
        self._pad_id = pad_id
        self._spread = is_spread(model)
        self.calls = CachedCalls(model, pad_id)

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
                and (self.calls.pads or len(prompts[order[stop]]) == len(prompts[order[start]]))
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

    def _batch(
        self,
        prompts: Sequence[Sequence[int]],
        most: int,
        stops: Collection[int],
        choose: Choice,
        samples: int,
        over: Until | None,
    ) -> list[list[int]]:
        if most < 1:
            return [[] for _ in range(len(prompts) * samples)]
        device = self.calls.device
        shared = self._shared(prompts, most)
        rests = [prompt[shared:] for prompt in prompts]
        longest = max(map(len, rests))
        padded = [[self._pad_id] * (longest - len(p)) + list(p) for p in rests]
        ids = torch.tensor(padded, device=device)
        seen = [[1] * shared + [0] * (longest - len(p)) + [1] * len(p) for p in rests]
        mask = torch.tensor(seen, device=device)
        cache = self.calls.begun(prompts[0][:shared], len(prompts)) if shared else None
        logits, cache = self.calls.forward(ids, mask, cache)
        if samples > 1:
            cache.batch_repeat_interleave(samples)
            logits, mask = (x.repeat_interleave(samples, 0) for x in (logits, mask))
        begun = Begun(cache, mask, [[token] for token in choose(logits[:, -1]).tolist()])
        return self.go_on(begun, [most] * len(mask), stops, choose, over)

    @torch.no_grad()
    def go_on(
        self,
        begun: Begun,
        limits: Sequence[int],
        stops: Collection[int],
        choose: Choice,
        until: Until | None = None,
    ) -> list[list[int]]:
        """Whole answers of those that were begun, the stop token included.

        Args:
            begun: What was read; an answer so far has no stop token but as its last.
            limits: How many tokens each answer may have.
            stops: Tokens after which nothing follows.
            choose: Which tokens are taken.
            until: Whether an answer goes no further, beside those that a stop token ends.
        """
        cache, mask, answers = begun.cache, begun.seen, begun.answers

        def ended(row: int) -> bool:
            own = answers[row]
            if len(own) >= limits[row] or own[-1] in stops:
                return True
            return until is not None and until(row, own)

        alive = list(range(len(answers)))
        while True:
            going = [place for place, row in enumerate(alive) if not ended(row)]
            if not going:
                return answers
            if len(going) < len(alive):
                chosen = torch.tensor(going, device=self.calls.device)
                # A model that is spread has keys and values on several devices.
                cache.batch_select_indices(chosen.cpu() if self._spread else chosen)
                alive, mask = [alive[place] for place in going], mask[chosen]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            ids = torch.tensor([[answers[row][-1]] for row in alive], device=self.calls.device)
            logits, cache = self.calls.forward(ids, mask, cache)
            for row, token in zip(alive, choose(logits[:, -1]).tolist(), strict=True):
                answers[row].append(token)

    def _shared(self, prompts: Sequence[Sequence[int]], further: int) -> int:
        """How many first tokens of several prompts are worth being read once for all; at least one
        token of each remains, and so many follow.
        """
        if len(prompts) < 2 or max(map(len, prompts)) + further > self.calls.window:
            return 0
        most = min(map(len, prompts)) - 1
        alike = itertools.takewhile(
            lambda tokens: len(set(tokens)) == 1,
            itertools.islice(zip(*prompts, strict=False), most),
        )
        shared = sum(1 for _ in alike)
        return shared if shared >= LEAST_SHARED and self.calls.continues else 0


def _of_rows(until: Until, rows: Sequence[int], samples: int, row: int, answer: list[int]) -> bool:
    """`until` of an answer by its place in a batch of some of the prompts."""
    return until(rows[row // samples], answer)
