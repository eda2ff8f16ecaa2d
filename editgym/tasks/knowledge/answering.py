"""What an edited language model answers to prompts whose answers are expected: one pass over both,
and decoding where the model says something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editgym.metrics.answers import Scorer
from editgym.models.decoding import Begun, greedily
from editgym.tasks.knowledge.divergence import divergences, log_probabilities
from editgym.tasks.knowledge.expected import Expected, Result
from editgym.tasks.knowledge.other_answers import other_answers
from editgym.tasks.knowledge.task import KnowledgeTask
from editgym.weights import EditableDecoder, TokenBatch
from editgym.weights.language.graph_size import tokens_at_once
from editgym.weights.language.kv_cache import beginnings, empty_cache, taken
from editgym.weights.language.tokens import by_length

if TYPE_CHECKING:
    from transformers import DynamicCache

# What a collapsed model's numbers are held within, or stand for: they must stay numbers.
MOST_NATS = 700.0
_TEXTS = 256  # that go through the model at a time


class Answering:
    """Reads prompts with their expected answers, and decodes the answers that are others.

    Where every token of an answer is the most probable one and the next one ends it, greedy
    decoding gives that answer, whatever the tokenizer makes of its tokens. Otherwise the model's
    own answer goes on from where it leaves the expected one, and other answers from the end of the
    prompt, which is read once for all.

    Args:
        task: The model and how it is asked.
        decoder: The model with its edits.
        to_the_end: Whether answers are decoded to their ends, not only until the task's scorer
            knows whether they are the wanted ones.
    """

    def __init__(
        self, task: KnowledgeTask, decoder: EditableDecoder, to_the_end: bool = True
    ) -> None:
        self.task, self._decoder = task, decoder
        self._to_the_end = to_the_end
        self._stops = task.asking.stop_ids

    @torch.no_grad()
    def results(self, texts: Sequence[Expected]) -> list[Result]:
        """Results for prompts and answers."""
        found: dict[int, Result] = {}
        most = tokens_at_once(self.task.language.model)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for start in range(0, len(order), _TEXTS):
            some = order[start : start + _TEXTS]
            for group in by_length([len(texts[row]) for row in some], most):
                rows = [some[place] for place in group]
                found.update(zip(rows, self._read([texts[row] for row in rows]), strict=True))
        return [found[row] for row in range(len(texts))]

    def decoded(self, texts: Sequence[Expected]) -> list[str]:
        """Greedy answers, as far as the expected ones reach, but at least as far as all are
        decoded; or as far as the scorer needs to compare them with what is wanted.
        """
        task = self.task
        enough = None if self._to_the_end else partial(_settled, task.scorer, texts)
        limits = list(map(self._limit, texts))
        prompts, right = [text.prompt for text in texts], [text.right for text in texts]
        with self._decoder.active():
            return task.greedy(prompts, limits, right, enough)

    # --- inside -----------------------------------------------------------------------------------

    def _limit(self, text: Expected) -> int:
        """How many tokens an answer may have: as many as the expected one, if that has more than
        others may.
        """
        return max(self.task.max_new_tokens, len(text.answer))

    def _read(self, texts: Sequence[Expected]) -> list[Result]:
        """Results for texts that go through the model together."""
        task = self.task
        batch = TokenBatch.of([(text.prompt, text.answer) for text in texts], task.device)
        longest = max(
            [*map(self._limit, texts), *(len(other) for text in texts for other in text.beside)]
        )
        goes_on = task.language.decoding.calls.goes_on_after(batch.ids.shape[1] + longest)
        cache = empty_cache(task.language.model) if goes_on else None
        found = log_probabilities(self._decoder.logits(batch, cache=cache))
        chosen = found.argmax(-1)
        given = self._given(batch, chosen)
        content = task.content(batch)
        logs = found.gather(-1, batch.labels[:, None])[:, 0]
        whole = batch.all_of(given).tolist()
        beside = other_answers(task, self._decoder, texts, found, cache)
        results = [
            Result(text.said if right else "", *numbers)
            for text, right, *numbers in zip(
                texts,
                whole,
                batch.means((chosen == batch.labels).double(), content).tolist(),
                batch.means(logs.double(), content).tolist(),
                self._divergences(texts, found),
                beside,
                strict=True,
            )
        ]
        del found
        wrong = [row for row, right in enumerate(whole) if not right]
        if not wrong:
            return results
        for row, answer in zip(wrong, self._own(texts, wrong, chosen, given, cache), strict=True):
            results[row] = replace(results[row], answer=answer)
        return results

    def _given(self, batch: TokenBatch, chosen: Tensor) -> Tensor:
        """Which answer tokens are as good as predicted, (m,) bool: where an answer is expected to
        end, any token that ends it is.
        """
        stops = torch.tensor(sorted(self._stops), device=batch.labels.device)
        last = torch.cat([batch.rows.diff() != 0, batch.rows.new_ones(1, dtype=torch.bool)])
        ended = last & torch.isin(batch.labels, stops) & torch.isin(chosen, stops)
        return (chosen == batch.labels) | ended

    def _divergences(self, texts: Sequence[Expected], now: Tensor) -> Sequence[float | None]:
        asked = [(text.original, text.answer) for text in texts if text.original is not None]
        if len(asked) < len(texts):  # all of them, or none
            return [None] * len(texts)
        batch = TokenBatch.of(asked, self.task.device)
        found = batch.means(divergences(self.task.reference(batch), now))
        found = found.nan_to_num(nan=MOST_NATS).clamp(max=MOST_NATS)
        nats: list[float] = found.tolist()
        return nats

    def _own(
        self,
        texts: Sequence[Expected],
        rows: Sequence[int],
        chosen: Tensor,
        given: Tensor,
        cache: DynamicCache | None,
    ) -> list[str]:
        """The model's own answers to some texts, of which it gives others than the expected ones.

        Args:
            texts: All that were read.
            rows: Places of those.
            chosen: The most probable token at every answer token of all texts.
            given: Which of these are as good as expected.
            cache: What was read; None where nothing can go on from it.
        """
        task = self.task
        # An answer of several lines ends elsewhere.
        lines = {row for row in rows if "\n" in texts[row].right}
        plain = [] if cache is None else [row for row in rows if row not in lines]
        anew = [row for row in rows if cache is None or row in lines]
        found = dict(zip(anew, self.decoded([texts[row] for row in anew]), strict=True))
        if cache is not None and plain:
            begun = self._begun(texts, plain, chosen.tolist(), given.tolist(), cache)
            own = [texts[row] for row in plain]
            context = task.language.context
            limits = [min(self._limit(one), context - len(one.prompt)) for one in own]
            until = None if self._to_the_end else partial(self._is_enough, own)
            with self._decoder.active():
                answers = task.language.decoding.go_on(begun, limits, self._stops, greedily, until)
            for row, ids in zip(plain, answers, strict=True):
                found[row] = task.asking.text(ids, texts[row].right)
        return [found[row] for row in rows]

    def _begun(
        self,
        texts: Sequence[Expected],
        rows: Sequence[int],
        chosen: Sequence[int],
        given: Sequence[bool],
        cache: DynamicCache,
    ) -> Begun:
        """Some texts' own answers, up to the first token that is not the expected one."""
        starts = list(accumulate((len(text.answer) for text in texts), initial=0))
        answers, read = [], []
        for row in rows:
            text, start = texts[row], starts[row]
            left = given.index(False, start)
            alike = text.answer[: left - start]
            stop = next((at for at, token in enumerate(alike) if token in self._stops), None)
            answers.append([*alike, chosen[left]] if stop is None else list(alike[: stop + 1]))
            read.append(len(text.prompt) + len(answers[-1]) - 1)
        length = max(map(len, texts))
        return Begun(taken(cache, rows), beginnings(read, length, self.task.device), answers)

    def _is_enough(self, texts: Sequence[Expected], row: int, ids: Sequence[int]) -> bool:
        begun = self.task.asking.text(ids, texts[row].right)
        return _settled(self.task.scorer, texts, row, begun)


def _settled(scorer: Scorer, texts: Sequence[Expected], row: int, begun: str) -> bool:
    """Whether the scorer knows how an answer that begins so compares with all that is wanted."""
    return all(scorer.settled(begun, answer, kept) for answer, kept in texts[row].wanted)
