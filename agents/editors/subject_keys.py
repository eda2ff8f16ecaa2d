"""What locate-and-edit editors share: keys at the subject's last token, and the hidden state that
gives the target.

ROME (Meng et al. 2022) and MEMIT (Meng et al. 2023) read a fact as a key, the input of an MLP's
last layer at the subject's last token, and a value, what has to come out there for the model to
give the new answer.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from agents.editors.stream import StreamEditor, chosen_sites
from agents.protocol import Unsupported
from editgym.data.factworld import FactWorld
from editgym.envs.lifelong.process import LifelongProcess
from editgym.models.language import LanguageModel
from editgym.tasks.knowledge import KnowledgeTask
from editgym.weights import EditableDecoder, LowRankFactors, TokenBatch
from editgym.weights.layers import Prefix
from editgym.weights.site_pass import Injection
from editgym.weights.sites import EditSite

NO_SUBJECT = "subject not in its prompt"
_LAYER = re.compile(r"^((.*?)\.(\d+))\.")


@dataclass(frozen=True)
class TargetSettings:
    """How the hidden state h + δ that gives a new answer is looked for (Meng et al. 2022, eq. 4;
    2023, eq. 16).

    Adam on L(δ) = mean CE(target | h + δ) + `kl_weight` · KL(p ‖ p_δ on "{subject} is a") + `decay`
    · ‖δ‖² / ‖h‖², with ‖δ‖ ≤ `max_norm` · ‖h‖.

    Attributes:
        steps: Of Adam.
        learning_rate: In units of h's root mean square, so that it suits models of every scale.
        max_norm: Limit of δ.
        kl_weight: 0 leaves that term out, and its texts out of the batch.
        decay: Of δ.
        contexts: Over how many prompts keys and loss are means: the prompt itself, and the prompt
            after sentences about something else.
    """

    steps: int = 40
    learning_rate: float = 0.5
    max_norm: float = 0.8
    kl_weight: float = 0.0
    decay: float = 0.0
    contexts: int = 1

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("contexts", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number from {least} on, got {value!r}")
        for name, above in (
            ("learning_rate", True),
            ("max_norm", True),
            ("kl_weight", False),
            ("decay", False),
        ):
            require_number(name, getattr(self, name), above_zero=above)

    @classmethod
    def of(cls, editor: str, given: dict[str, Any]) -> TargetSettings:
        """From an editor's further arguments.

        Raises:
            ValueError: There is no such argument, or it is out of range.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ValueError(
                f"{editor}: {unknown} are no arguments of it; how it looks for the target takes"
                f" {known}"
            )
        return cls(**given)


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


class SubjectEditor(StreamEditor):
    """An editor of what sites write into the residual stream at subjects' last tokens.

    Args:
        sites: Names among the environment's sites; None for all that qualify.
        tokens: How many tokens of plain text the covariance of keys is taken over.
        target: As `TargetSettings`.
        own: The subclass's own arguments, for `config`.
    """

    def __init__(
        self, sites: list[str] | None, tokens: int, target: dict[str, Any], **own: Any
    ) -> None:
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
            raise ValueError(f"tokens must be a whole number from 1 on, got {tokens!r}")
        self.target = TargetSettings.of(self.name, target)
        self.sites, self.tokens = sites, tokens
        self.config = {"sites": sites, "tokens": tokens, **own, **asdict(self.target)}
        self.skipped = Counter()

    def usable_sites(self, process: LifelongProcess) -> list[EditSite]:
        """The sites to edit, from the lowest layer up; by default those with two or more layers
        above, if any.

        What is written at the subject reaches the answer by the attention of later layers only. In
        factlm one such layer leaves a target's cross-entropy at 1.1 however δ is chosen, two bring
        it to 0.04.

        Raises:
            Unsupported: A named site does not write to the residual stream, or nothing reads what
                it writes, or the layer changes it before it adds it.
        """
        sites = chosen_sites(process, self.sites, self.name, residual=True)
        read = [site for site in sites if _layers_above(process.decoder, site) >= 1]
        if not read or (self.sites is not None and len(read) < len(sites)):
            bad = [site.name for site in sites if site not in read]
            raise Unsupported(
                f"{self.name}: {bad} are in the last layer, and after it no attention carries what"
                " is written at the subject on to the answer; open a lower layer (sites=...)"
            )
        if changed := [site.name for site in read if not _adds_as_it_is(process, site)]:
            raise Unsupported(
                f"{self.name}: what is added to the output of {changed} is not what their layers"
                " add to the residual stream, as in models that normalise it there (Gemma 2, OLMo"
                " 2), and the wanted hidden states would be missed"
            )
        well_read = [site for site in read if _layers_above(process.decoder, site) >= 2]
        return sorted(
            read if self.sites is not None else well_read or read,
            key=lambda site: int(_layer(site)[3]),
        )

    def subject_batch(self, process: LifelongProcess) -> SubjectBatch | None:
        """The step's requests as tokens; those without their subject are counted in `skipped`. None
        if none is left.
        """
        language = process.task.language
        found = [
            (request, find_subject(language, request.prompt, request.subject))
            for request in process.requests
        ]
        kept = [request for request, place in found if place is not None]
        if len(kept) < len(found):
            self.skipped[NO_SUBJECT] += len(found) - len(kept)
        if not kept:
            return None
        asked = [
            (prompt, request.target, request.subject)
            for request in kept
            for prompt in self._contexts(process.task, request.prompt, request.target)
        ]
        essence = (
            [(f"{r.subject} is a", r.target, r.subject) for r in kept]
            if self.target.kl_weight
            else []
        )
        texts = process.task.batch([(prompt, answer) for prompt, answer, _ in asked + essence])
        places = [find_subject(language, prompt, subject) for prompt, _, subject in asked + essence]
        device = texts.ids.device
        requests = torch.arange(len(kept), device=device)
        owners = torch.cat(
            [requests.repeat_interleave(self.target.contexts), requests[: len(essence)]]
        )
        return SubjectBatch(
            texts,
            torch.arange(len(texts), device=device),
            torch.tensor(places, device=device),
            owners,
            len(asked),
            process.decoder.prefix(texts),
        )

    def state_dict(self) -> dict[str, Any]:
        """How many requests were skipped."""
        return {"skipped": dict(self.skipped)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """A state that `state_dict` gave."""
        self.skipped = Counter(state["skipped"])

    def _contexts(self, task: KnowledgeTask, prompt: str, target: str) -> list[str]:
        """The prompt, and the prompt after sentences about something else where those fit into the
        context.
        """
        others, language = self.target.contexts - 1, task.language
        before = (
            FactWorld().filler(others, random.Random(prompt), without=task.filler) if others else []
        )
        longer = [f"{sentence} {prompt}" for sentence in before]
        return [
            prompt,
            *(
                text if len(language.encode(text, target).ids) <= language.context else prompt
                for text in longer
            ),
        ]


def require_number(name: str, value: object, above_zero: bool = True) -> None:
    """Raise a `ValueError` unless `value` is a finite number, greater than 0 or from 0 on."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or value < 0 or (above_zero and value == 0):  # type: ignore[operator]
        raise ValueError(
            f"{name} must be a finite number {'greater than' if above_zero else 'from'} 0"
            f"{'' if above_zero else ' on'}, got {value!r}"
        )


def find_subject(language: LanguageModel, prompt: str, subject: str) -> int | None:
    """Which token of a prompt is its subject's last; None if the subject is not in it.

    Where a subject occurs twice the last one counts, because only there the model has read all
    before it.

    Raises:
        Unsupported: The tokenizer does not tell which characters a token stands for.
    """
    start = prompt.rfind(subject)
    if start < 0 or not subject:
        return None
    if not language.tokenizer.is_fast:
        raise Unsupported(
            f"{type(language.tokenizer).__name__} does not tell which characters a token stands"
            " for: locating a subject needs a fast tokenizer"
        )
    last = start + len(subject) - 1
    spans = language.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    return next(
        index for index, (begin, end) in reversed(list(enumerate(spans))) if begin <= last < end
    )


def read_states(
    decoder: EditableDecoder,
    batch: SubjectBatch,
    site: EditSite,
    last: EditSite,
    updates: Sequence[LowRankFactors | None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Keys k (n, in) of `site` and hidden states h (n, width) after the layer of `last`, at
    subjects' last tokens.

    Args:
        decoder: With the edits so far.
        batch: The requests.
        site: Whose inputs are wanted.
        last: The site that is edited last; h is what every layer up to its own has added up to.
        updates: As in `EditableDecoder.logits`.
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str, value: Any) -> None:
        tensor = value[0] if isinstance(value, tuple) else value
        seen[name] = tensor[batch.rows, batch.positions].float()

    handles = [
        decoder.base.get_submodule(site.name).register_forward_pre_hook(
            lambda _m, args: keep("key", args)
        ),
        decoder.base.get_submodule(_layer(last)[1]).register_forward_hook(
            lambda _m, _a, out: keep("h", out)
        ),
    ]
    try:
        with torch.no_grad():
            decoder.logits(batch.texts, updates, batch.prefix)
    finally:
        for handle in handles:
            handle.remove()
    return batch.means(seen["key"]), batch.means(seen["h"])


@torch.no_grad()
def _adds_as_it_is(process: LifelongProcess, site: EditSite) -> bool:
    """Whether a vector that is added to a site's output is added to the hidden state after its
    layer, as it is.
    """
    decoder, batch = process.decoder, process.task.filler_batch(1)
    rows, positions = batch.rows[-1:], batch.positions[-1:]

    def after(injected: Mapping[str, Injection]) -> Tensor:
        seen: list[Tensor] = []
        handle = decoder.base.get_submodule(_layer(site)[1]).register_forward_hook(
            lambda _m, _a, out: seen.append(
                (out[0] if isinstance(out, tuple) else out)[rows, positions].float()
            )
        )
        try:
            decoder.logits(batch, injected=injected)
        finally:
            handle.remove()
        return seen[0]

    before = after({})
    added = torch.randn(before.shape, generator=torch.Generator().manual_seed(0)).to(before.device)
    added *= before.norm() / added.norm()
    moved = after({site.name: Injection(rows, positions, added)}) - before
    return bool((moved - added).norm() < 0.1 * added.norm())  # half precision rounds


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
        decoder: With the edits so far.
        batch: The requests.
        site: Its output is added to.
        hidden: h, (n, width).
        settings: Of the search.
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
    surprise = texts.means(-logits.gather(-1, texts.labels[:, None])[:, 0])
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


def _layer(site: EditSite) -> re.Match[str]:
    """Of a site's name: [1] its layer, [2] the list of layers, [3] the layer's number."""
    match = _LAYER.match(site.name)
    if match is None:
        raise Unsupported(
            f"site {site.name} is in no numbered layer, so nobody knows where its output is added"
        )
    return match


def _layers_above(decoder: EditableDecoder, site: EditSite) -> int:
    match = _layer(site)
    layers = decoder.base.get_submodule(match[2])
    if not isinstance(layers, nn.ModuleList):
        raise Unsupported(f"site {site.name}: {match[2]} is no list of layers")
    return len(layers) - 1 - int(match[3])
