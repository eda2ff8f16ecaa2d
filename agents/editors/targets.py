"""The hidden state at a subject that makes the model give a new answer, and the search for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from agents.configured import Settings, setting
from agents.editors.on_disk import give_back_freed
from agents.tune.search import LogUniform, Whole
from editgym.checks import above, at_least, whole
from editgym.weights import EditableDecoder, TokenBatch
from editgym.weights.language.graph_size import parts_of
from editgym.weights.language.layers import Prefix
from editgym.weights.language.rest import Rest, begun_of
from editgym.weights.language.rest_passes import rest_of
from editgym.weights.language.site_pass import Injection
from editgym.weights.language.states import TokenStates
from editgym.weights.language.tokens import by_length
from editgym.weights.sites import EditSite

_READ_AT_ONCE = 2_048  # tokens that are read once, padding counted
_STILL_KNOWN = 0.05  # nats per token


@dataclass(frozen=True, kw_only=True)
class TargetSettings(Settings):
    """How the hidden state h + δ that gives a new answer is looked for (Meng et al. 2022, eq. 4;
    2023, eq. 16).

    Adam on L(δ) = mean CE(target | h + δ) + `kl_weight` · KL(p ‖ p_δ on "{subject} is a") + `decay`
    · ‖δ‖² / ‖h‖², with ‖δ‖ ≤ `max_norm` · ‖h‖.

    Attributes:
        steps: Steps of Adam.
        learning_rate: Learning rate of Adam, in units of h's root mean square, so that it suits
            models of every scale.
        max_norm: Largest ‖δ‖, as a share of ‖h‖.
        kl_weight: Weight of the KL term; 0 leaves it out, and its texts out of the batch.
        decay: Weight of ‖δ‖² / ‖h‖².
        contexts: Over how many prompts keys and loss are means: the prompt itself, and the prompt
            after sentences about something else.
        stop_loss: Mean CE, in nats per token, at which a request's search ends; 0 makes all steps.
    """

    steps: int = setting(40, whole(1), search=Whole(10, 60))
    learning_rate: float = setting(0.5, above(0), search=LogUniform(0.05, 1))
    max_norm: float = setting(0.8, above(0), search=LogUniform(0.2, 8))
    kl_weight: float = setting(0.0, at_least(0))
    decay: float = setting(0.0, at_least(0))
    contexts: int = setting(1, whole(1))
    stop_loss: float = setting(0.0, at_least(0))


class SubjectBatch(NamedTuple):
    """The requests of a step whose subject is in their prompt.

    Attributes:
        texts: Prompts with their targets: `contexts` of each request, then, where KL counts,
            "{subject} is a" of each.
        positions: (m,), the subject's last token of every text.
        owners: (m,), which request a text belongs to.
        asked: How many of the texts have a target.
        prefix: `EditableDecoder.prefix` of the texts.
        places: (n,), where the requests stand in the stream, from 0.
        new: How many of them are new, the first ones; the others are rehearsed. None for all.
    """

    texts: TokenBatch
    positions: Tensor
    owners: Tensor
    asked: int
    prefix: Prefix | None
    places: Sequence[int] = ()
    new: int | None = None

    def states(self, decoder: EditableDecoder) -> TokenStates:
        """What there is at the subjects' last tokens, while the step's sites are updated."""
        return TokenStates(decoder, self.texts, self.positions, self.prefix)

    def means(self, values: Tensor) -> Tensor:
        """Means over every request's asked texts: (m, width) -> (n, width)."""
        return (
            values[: self.asked]
            .unflatten(0, (-1, self.asked // (int(self.owners[-1]) + 1)))
            .mean(1)
        )


def target_shifts(
    decoder: EditableDecoder,
    batch: SubjectBatch,
    site: EditSite,
    hidden: Tensor,
    settings: TargetSettings,
) -> Tensor:
    """δ (n, width): what has to be added to a site's output at the subject's last token; see
    `TargetSettings`.

    Requests share no term of the loss, so each gets what it would get alone; one whose loss is
    small enough leaves the batch. A rehearsed one leaves it at 0.05 nats at the latest: the model
    still knows it, and looking on, time after time, would drive its hidden state ever further out.
    Texts of about one length go through the model together.

    Args:
        decoder: The model with the edits so far.
        batch: The requests.
        site: The site whose output is added to.
        hidden: h, (n, width).
        settings: Settings of the search.
    """
    lengths = hidden.norm(dim=1, keepdim=True)
    shift = torch.zeros_like(hidden).requires_grad_()
    scale = lengths / math.sqrt(hidden.shape[1])
    adam = torch.optim.Adam([shift], lr=settings.learning_rate)
    search = _Search(decoder, batch, site, settings)
    # No loss is below 0, nor below this.
    stops = torch.full((len(hidden),), settings.stop_loss or -1.0, device=hidden.device)
    if batch.new is not None:
        stops[batch.new :] = max(settings.stop_loss, _STILL_KNOWN)
    going = torch.ones(len(hidden), dtype=torch.bool, device=hidden.device)
    for _ in range(settings.steps):
        shift.grad, surprise = search.gradient(shift, scale, lengths)
        # Who has left does not come back: one whose loss is no number stays where it was before.
        going = going & (surprise > stops)
        if not bool(going.any()):
            break
        before = shift.detach().clone()
        adam.step()
        with torch.no_grad():  # ‖scale · shift‖ ≤ max_norm · ‖h‖
            limit = settings.max_norm * math.sqrt(hidden.shape[1])
            shift *= (limit / shift.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0)
            shift[~going] = before[~going]
        search.keep(going)
    give_back_freed()
    return (scale * shift).detach()


class _Part(NamedTuple):
    """Texts of about one length.

    Attributes:
        texts: The texts.
        prefix: Where a forward pass over them begins; where the texts are the rests of others, what
            it goes on from.
        positions: The subject's last token of every text.
        owners: Which request every text belongs to.
        asked: Which of the texts have a target, (n,) bool; the others are there for the KL term.
        before: Log-probabilities at answer tokens with δ = 0, once they are known.
    """

    texts: TokenBatch
    prefix: Prefix | Rest | None
    positions: Tensor
    owners: Tensor
    asked: Tensor
    before: list[Tensor]

    def take(self, rows: Sequence[int]) -> _Part:
        """Some of the texts."""
        texts, index = self.texts.take(rows), torch.tensor(rows, device=self.owners.device)
        return _Part(
            texts,
            begun_of(self.prefix, rows, texts.ids.shape[1]),
            self.positions[index],
            self.owners[index],
            self.asked[index],
            [logs[self.texts.tokens(rows)] for logs in self.before],
        )

    def losses(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropies of the texts with a target, and KL divergences of the others, (n,) each,
        0 elsewhere; from log-probabilities at answer tokens.
        """
        texts = self.texts
        surprise = texts.mean_costs(-logits.gather(-1, texts.labels[:, None])[:, 0])
        kl = torch.zeros_like(surprise)
        if not bool(self.asked.all()):
            if not self.before:
                self.before.append(logits.detach())
            # Of "{subject} is a" only the first predicted token counts: the target that stands
            # after it is there as padding.
            first = torch.cat([texts.rows.new_ones(1), texts.rows.diff()]).bool()
            first &= ~self.asked[texts.rows]
            before, now = self.before[0][first], logits[first]
            kl = kl.index_add(0, texts.rows[first], (before.exp() * (before - now)).sum(-1))
        return torch.where(self.asked, surprise, 0.0), kl


class _Search:
    """The loss of δ and its gradient, over the requests that are still looked for."""

    def __init__(
        self,
        decoder: EditableDecoder,
        batch: SubjectBatch,
        site: EditSite,
        settings: TargetSettings,
    ) -> None:
        self._decoder, self._site, self._settings = decoder, site, settings
        asked = torch.arange(len(batch.texts), device=batch.owners.device) < batch.asked
        passes, _ = decoder.reading
        self._parts: list[_Part] = []
        for group in by_length(batch.texts.lengths, _READ_AT_ONCE):
            read = self._read(batch, group, asked)
            parts = parts_of(passes, read.texts, read.prefix)
            self._parts += [read] if len(parts) == 1 else map(read.take, parts)

    def _read(self, batch: SubjectBatch, rows: Sequence[int], asked: Tensor) -> _Part:
        """The rests of some of the texts; where the model does not go on from a text's beginning,
        the texts.
        """
        index = torch.tensor(rows).to(batch.owners.device)
        texts, positions = batch.texts.take(rows), batch.positions[index]
        begin = None if batch.prefix is None else batch.prefix.take(rows, texts.ids.shape[1])
        prefix = self._decoder.prefix(texts, [self._site.name], begin)
        # Nothing is added before a subject's last token.
        rest = rest_of(*self._decoder.reading, texts, positions, prefix)
        owners, own = batch.owners[index], asked[index]
        if rest is None:
            return _Part(texts, prefix, positions, owners, own, [])
        return _Part(rest.texts, rest, torch.zeros_like(positions), owners, own, [])

    def gradient(self, shift: Tensor, scale: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of the loss by δ in units of `scale`, (n, width), and every request's mean
        cross-entropy, (n,).
        """
        settings = self._settings
        surprises = torch.zeros(len(shift), device=shift.device)
        gradient: Tensor | None = None
        for number, part in enumerate(self._parts):
            with torch.enable_grad():
                values = (scale * shift)[part.owners]
                rows = torch.arange(len(part.texts), device=shift.device)
                injected = {self._site.name: Injection(rows, part.positions, values)}
                logits = self._decoder.logits(part.texts, prefix=part.prefix, injected=injected)
                surprise, kl = part.losses(logits.float().log_softmax(-1))
                own = surprises.new_zeros(len(shift)).index_add(0, part.owners, surprise)
                own = own / settings.contexts
                loss = own.sum()
                if settings.kl_weight:
                    loss = loss + settings.kl_weight * kl.sum()
                if number == 0:
                    loss = loss + settings.decay * (scale * shift / lengths).square().sum()
            found = torch.autograd.grad(loss, shift)[0]
            gradient = found if gradient is None else gradient + found
            surprises = surprises + own.detach()
        assert gradient is not None
        return gradient, surprises

    def keep(self, going: Tensor) -> None:
        """Leave out the texts of requests that are done."""
        parts = []
        for part in self._parts:
            kept = going[part.owners].nonzero().flatten().tolist()
            if kept:
                parts.append(part if len(kept) == len(part.texts) else part.take(kept))
        self._parts = parts
