"""The hidden state at a subject that makes the model give a new answer, and the search for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from agents.configured import Settings, setting
from editgym.checks import above, at_least, whole
from editgym.weights import EditableDecoder, TokenBatch
from editgym.weights.layers import Prefix
from editgym.weights.site_pass import Injection
from editgym.weights.sites import EditSite


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
    """

    steps: int = setting(40, whole(1))
    learning_rate: float = setting(0.5, above(0))
    max_norm: float = setting(0.8, above(0))
    kl_weight: float = setting(0.0, at_least(0))
    decay: float = setting(0.0, at_least(0))
    contexts: int = setting(1, whole(1))


class SubjectBatch(NamedTuple):
    """The requests of a step whose subject is in their prompt.

    Attributes:
        texts: Prompts with their targets: `contexts` of each request, then, where KL counts,
            "{subject} is a" of each.
        rows: (m,), the texts; every one has its subject's last token at `positions`, (m,).
        owners: (m,), which request a text belongs to.
        asked: How many of the texts have a target.
        prefix: `EditableDecoder.prefix` of the texts.
    """

    texts: TokenBatch
    rows: Tensor
    positions: Tensor
    owners: Tensor
    asked: int
    prefix: Prefix | None

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

    All requests are one batch, and no two share a term of the loss, so each gets what it would get
    alone.

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
    prefix = decoder.prefix(batch.texts, [site.name])
    before = None
    for _ in range(settings.steps):
        with torch.enable_grad():
            values = (scale * shift)[batch.owners]
            logits = (
                decoder.logits(
                    batch.texts,
                    prefix=prefix,
                    injected={site.name: Injection(batch.rows, batch.positions, values)},
                )
                .float()
                .log_softmax(-1)
            )
            before = logits.detach() if before is None else before
            loss = _loss(batch, logits, before, settings.kl_weight)
            loss = loss + settings.decay * (scale * shift / lengths).square().sum()
        shift.grad = torch.autograd.grad(loss, shift)[0]
        adam.step()
        with torch.no_grad():  # ‖scale · shift‖ ≤ max_norm · ‖h‖
            limit = settings.max_norm * math.sqrt(hidden.shape[1])
            shift *= (limit / shift.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0)
    return (scale * shift).detach()


def _loss(batch: SubjectBatch, logits: Tensor, before: Tensor, kl_weight: float) -> Tensor:
    """The sum of all requests' losses, from log-probabilities at answer tokens now and with δ =
    0.
    """
    texts = batch.texts
    surprise = texts.mean_costs(-logits.gather(-1, texts.labels[:, None])[:, 0])
    total = (
        surprise[: batch.asked]
        .unflatten(0, (-1, batch.asked // (int(batch.owners[-1]) + 1)))
        .mean(1)
        .sum()
    )
    if len(texts) == batch.asked:
        return total
    # Of "{subject} is a" only the first predicted token counts: the target that stands after it is
    # there as padding.
    first = torch.cat([texts.rows.new_ones(1), texts.rows.diff()]).bool() & (
        texts.rows >= batch.asked
    )
    kl = (before[first].exp() * (before[first] - logits[first])).sum()
    return total + kl_weight * kl
