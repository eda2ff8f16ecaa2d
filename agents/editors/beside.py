"""Editors that leave the weights alone: the fact in the prompt, given or looked up, and a codebook
at one site.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from agents.configured import Settings, setting
from agents.editors.descent import chosen_site, descend
from agents.editors.settings import SITE
from agents.editors.stream import StreamEditor
from agents.protocol import Access
from agents.tune.search import ONE_MLP_OUTPUT, LogUniform, Uniform, Whole
from editgym.checks import above, at_least, whole, within
from editgym.data.facts import EditRequest
from editgym.envs.lifelong.process import LifelongProcess
from editgym.tasks.knowledge.task import TOO_LONG
from editgym.weights import Codebook, Entry, Prepend, Remember, Skip, TokenBatch
from editgym.weights.language.graph_size import in_parts
from editgym.weights.language.layers import Prefix
from editgym.weights.language.rest import Rest
from editgym.weights.language.rest_passes import answers_of
from editgym.weights.language.site_pass import Injection


@dataclass(frozen=True, kw_only=True)
class GraceSettings(Settings):
    """What `Grace` takes."""

    site: str | None = setting(None, SITE, search=ONE_MLP_OUTPUT)
    radius: float = setting(0.8, above(0), search=Uniform(0.1, 1.2))
    steps: int = setting(50, whole(1), search=Whole(10, 80))
    learning_rate: float = setting(0.3, above(0), search=LogUniform(0.03, 1))
    stop_loss: float = setting(0.05, at_least(0))


@dataclass(frozen=True, kw_only=True)
class RetrieveSettings(Settings):
    """What `Retrieve` takes."""

    # On validation streams of 100 and 500 facts of FactWorld, ZsRE and CounterFact 0.6 is the best
    # or next to it by the words alone: rephrases find their own fact, and what should stay none.
    threshold: float = setting(0.6, within(0, 1), search=Uniform(0.2, 0.95))


class InContext(StreamEditor):
    """Puts the new fact before every question about it; the weights do not change. A control, and
    no edit at all. There are no settings.

    Retrieval is an oracle's: every question, also about what should stay as it is, comes with the
    one fact that it was asked for. So it shows what reading a fact is worth, not what finding it
    costs.
    """

    name = "in_context"
    changes_weights: ClassVar[bool] = False
    access: ClassVar[Access] = "oracle"
    settings_type: ClassVar[type[Settings]] = Settings

    def entries(self, process: LifelongProcess) -> list[Entry]:
        """A text per request; none, and a `Skip`, where the model's context has no room for it."""
        texts = [self._text(process, request) for request in process.requests]
        skips = [Skip(i, TOO_LONG) for i, text in enumerate(texts) if not text]
        return [Prepend(tuple(texts)), *skips]

    def _text(self, process: LifelongProcess, request: EditRequest) -> str:
        separator = process.task.asking.separator(request.prompt, request.target)
        text = f"{request.prompt}{separator}{request.target}."
        return text if process.task.fits(request, before=f"{text} ") else ""


class Retrieve(StreamEditor):
    """Remembers the new facts; whoever asks a question looks up the nearest one, and puts it before
    the question as a solved question. The weights do not change. A control beside the weights.

    Every question goes through the same search, whatever it is asked for: prompts, rephrases, what
    should stay as it is, in every prompt format. Nearness is the cosine of the TF-IDF vectors of
    two prompts (`editgym.tasks.knowledge.memory.Memory`), so a question in wholly other words finds
    nothing, and one in the same words about somebody else may find the wrong fact. The solved
    question stands where the prompt format has its own: a sentence before a bare prompt, one more
    question and answer in `qa`. A fact that the context has no room for before its own prompt is
    skipped; before another question it is left out, and counted as `facts_left_out`.

    Args:
        threshold: How near a question has to be to a fact's prompt, 0–1; 0.6 by default. 1 takes
            the same words alone, 0 any question with a word in common.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    name = "retrieve"
    changes_weights: ClassVar[bool] = False
    settings_type: ClassVar[type[Settings]] = RetrieveSettings
    settings: RetrieveSettings

    def entries(self, process: LifelongProcess) -> list[Entry]:
        """The facts to remember, and a `Skip` of each that has no room before its own prompt."""
        facts, entries = [], list[Entry]()
        for place, request in enumerate(process.requests):
            fact = (request.prompt, request.target)
            if process.task.has_room(process.task.encode(*fact, solved=(fact,))):
                facts.append(fact)
            else:
                entries.append(Skip(place, TOO_LONG))
        if facts:
            entries.insert(0, Remember(tuple(facts), self.settings.threshold))
        return entries


class Grace(StreamEditor):
    """A codebook at one site, after GRACE (Hartvigsen et al. 2023). The weights do not change.

    Keys are the site's inputs at a request's answer tokens. Values are what its module has to give
    out there for the model to answer as wanted: trained by Adam from the present outputs on, each
    request by its own loss, a whole batch in one pass. Where an input lies within the radius of its
    nearest key, the module gives out that key's value.

    Of GRACE this is the idea: keys at all answer tokens in place of the last prompt token alone,
    and radii that stay as they are, where GRACE widens and splits them.

    Args:
        site: Name among the environment's sites; None (default) for the last that writes to the
            residual stream.
        radius: ε, as a share of the key's length, greater than 0; 0.8 by default.
        steps: Most steps of Adam per batch of requests, 1 or more; 50 by default.
        learning_rate: Learning rate of Adam, in units of the present outputs' root mean square,
            greater than 0; 0.3 by default.
        stop_loss: Cross-entropy in nats per token, 0 or more; training ends as soon as every
            request is below it. 0.05 by default.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    name = "grace"
    changes_weights: ClassVar[bool] = False
    settings_type: ClassVar[type[Settings]] = GraceSettings
    settings: GraceSettings

    def begin(self, process: LifelongProcess) -> None:
        """Find the site."""
        self._site = chosen_site(process, self.settings.site, self.name).name

    def entries(self, process: LifelongProcess) -> list[Entry]:
        """A codebook of the new requests."""
        batch = process.batch.new_prompts
        prefix = process.decoder.prefix(batch, [self._site])
        state = process.decoder.site_states(
            batch, [self._site], batch.rows, batch.positions, prefix
        )[self._site]
        scale = state.outputs.square().mean().sqrt()
        moved = torch.zeros_like(state.outputs, requires_grad=True)

        def losses(texts: TokenBatch, begin: Prefix | Rest | None, rows: list[int]) -> Tensor:
            values = scale * moved[batch.tokens(rows)]
            injected = {self._site: Injection(texts.rows, texts.positions, values)}
            return process.decoder.losses(texts, prefix=begin, injected=injected)

        passes, edits = process.decoder.reading
        # Values stand at answers alone: what is before them does not change from step to step.
        parts = in_parts(passes, *answers_of(passes, edits, batch, prefix))
        descend(
            [moved],
            [partial(losses, *part) for part in parts],
            self.settings.steps,
            self.settings.learning_rate,
            self.settings.stop_loss,
        )
        return [
            Codebook(
                self._site,
                state.inputs,
                state.outputs + scale * moved.detach(),
                self.settings.radius * state.inputs.norm(dim=1),
            )
        ]
