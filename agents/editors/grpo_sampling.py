"""How Edit-GRPO samples: groups of prompts for a step's facts, and their completions."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from agents.configured import Settings, setting
from agents.editors.grpo_advantages import alignment, group_advantages
from editgym.checks import above, at_least, whole
from editgym.envs.lifelong.process import LifelongProcess
from editgym.weights import EditableDecoder, LowRankFactors, Shift, SiteEdit, TokenBatch
from editgym.weights.language.layers import Prefix
from editgym.weights.sites import EditSite


@dataclass(frozen=True, kw_only=True)
class GroupSettings(Settings):
    """How groups are made and rewarded.

    Attributes:
        prompts: Most prompts in a fact's group, its own among them.
        samples: Completions of every prompt.
        bonus: λ of the alignment bonus; 0 leaves it out.
        temperature: Temperature of sampling.
    """

    prompts: int = setting(5, whole(2))
    samples: int = setting(4, whole(1))
    bonus: float = setting(0.0, at_least(0))
    temperature: float = setting(1.0, above(0))


@dataclass(frozen=True)
class Round:
    """What one round sampled and what it is worth: n different completions.

    Attributes:
        texts: Prompts with their completions.
        counts: How often each was drawn, (n,).
        prefix: `EditableDecoder.prefix` of them, where the factors begin.
        advantages: (n,), none of them 0 but for the bonus.
        facts: Which request of the step a completion answers, (n,).
        reference: Log-probabilities of the tokens under the edited model, (m,).
    """

    texts: TokenBatch
    counts: Tensor
    prefix: Prefix | None
    advantages: Tensor
    facts: Tensor
    reference: Tensor


class _Asked(NamedTuple):
    """A prompt of the step.

    Attributes:
        fact: Which request it asks for.
        anchor: Whether it is the request's own prompt.
        prompt: The prompt.
    """

    fact: int
    anchor: bool
    prompt: str


@dataclass(frozen=True)
class _Drawn:
    """All completions that one round sampled, n of them, in order.

    Attributes:
        asked: Their prompts.
        completions: Their tokens.
        rewards: (n,), 1 for a right one and 0 for others.
        facts: (n,), which request each answers.
        anchors: (n,) bool, whether it answers the request's own prompt.
    """

    asked: Sequence[_Asked]
    completions: Sequence[Sequence[int]]
    rewards: Tensor
    facts: Tensor
    anchors: Tensor

    def different(self, rows: Iterable[int]) -> Counter[int]:
        """How often each different completion is among `rows`, by the row that stands for it."""
        found = enumerate(zip(self.asked, self.completions, strict=True))
        standing_for = {(one, tuple(ids)): row for row, (one, ids) in found}
        return Counter(standing_for[self.asked[row], tuple(self.completions[row])] for row in rows)

    def texts(self, process: LifelongProcess, rows: Sequence[int]) -> TokenBatch:
        """Prompts with their completions, of these rows."""
        prompt_ids = process.task.prompt_ids
        pairs = [(prompt_ids(self.asked[row].prompt), self.completions[row]) for row in rows]
        return TokenBatch.of(pairs, process.task.device)


@dataclass(frozen=True)
class GroupSampler:
    """Draws the completions that Edit-GRPO learns from.

    Attributes:
        settings: How groups are made and rewarded.
        sites: Names of the sites with factors.
        sentences: Sentences about something else, to stand before prompts.
        generator: Source of what is drawn.
    """

    settings: GroupSettings
    sites: Collection[str]
    sentences: Sequence[str]
    generator: torch.Generator

    def groups(self, process: LifelongProcess) -> dict[int, list[str]]:
        """Per request, new or rehearsed, its prompts that leave room for an answer, the anchor
        first.
        """
        task, groups = process.task, {}
        longest = task.language.context - answer_tokens(process)
        for fact, request in enumerate(process.batch.taught):
            rephrases = [text for text in request.rephrases if text not in request.test_rephrases]
            led = [f"{sentence} {request.prompt}" for sentence in self.sentences]
            others = (text for text in (*rephrases, *led) if len(task.prompt_ids(text)) <= longest)
            groups[fact] = [request.prompt, *itertools.islice(others, self.settings.prompts - 1)]
        return groups

    @torch.no_grad()
    def sampled(
        self,
        process: LifelongProcess,
        edited: EditableDecoder,
        factors: list[LowRankFactors | None],
        groups: dict[int, list[str]],
    ) -> Round | None:
        """Completions of every group that is left; None where none of them has variance.

        A group whose completions are all right is taken out of `groups`: the step has no more to
        teach it.
        """
        if not groups:
            return None
        policy = _with_factors(edited, process.sites, factors)
        drawn = self._completions(process, policy, groups)
        for fact in list(groups):
            if bool(drawn.rewards[drawn.facts == fact].all()):
                del groups[fact]
        advantages = group_advantages(drawn.rewards, drawn.facts, drawn.anchors)
        counts = drawn.different(advantages.nonzero()[:, 0].tolist())
        if not counts:
            return None
        texts, kept = drawn.texts(process, list(counts)), torch.tensor(list(counts))
        facts, own = drawn.facts[kept], advantages[kept]
        prefix = edited.prefix(texts, self.sites)
        if self.settings.bonus:
            own = own + self.settings.bonus * self._alignment(
                policy, texts, prefix, factors, facts, drawn.anchors[kept], drawn.rewards[kept]
            )
        logits = edited.logits(texts, prefix=prefix)
        return Round(
            texts,
            torch.tensor(list(counts.values()), device=process.task.device),
            prefix,
            own.to(process.task.device),
            facts,
            log_probabilities(logits, texts, self.settings.temperature),
        )

    def _completions(
        self, process: LifelongProcess, policy: EditableDecoder, groups: dict[int, list[str]]
    ) -> _Drawn:
        """Let the policy complete every prompt, and see which completions are right."""
        task = process.task
        prompts = [
            _Asked(fact, index == 0, prompt)
            for fact, own in groups.items()
            for index, prompt in enumerate(own)
        ]
        with policy.active():
            completions = task.language.sampled(
                [task.prompt_ids(one.prompt) for one in prompts],
                self.generator,
                self.settings.temperature,
                answer_tokens(process),
                self.settings.samples,
                stops=task.asking.stop_ids,
            )
        asked = [one for one in prompts for _ in range(self.settings.samples)]
        targets = [(one.target, one.names(one.target)) for one in process.batch.taught]
        rewards = [
            float(task.scorer.gives(task.asking.text(ids), *targets[one.fact]))
            for one, ids in zip(asked, completions, strict=True)
        ]
        return _Drawn(
            asked,
            completions,
            torch.tensor(rewards),
            torch.tensor([one.fact for one in asked]),
            torch.tensor([one.anchor for one in asked]),
        )

    def _alignment(
        self,
        policy: EditableDecoder,
        texts: TokenBatch,
        prefix: Prefix | None,
        factors: list[LowRankFactors | None],
        facts: Tensor,
        anchors: Tensor,
        rewards: Tensor,
    ) -> Tensor:
        """cos(g, g_anchor) of every completion, (n,); 0 for the anchor's own and where no anchor
        was right.

        g is Σ of the gradient at a site's output times B·k over a completion's tokens, joined over
        sites: the gradient by the left factors but for what earlier tokens pass on to later ones.
        One pass gives it for all completions.
        """
        captured = policy.capture(texts, prefix)
        gradients = []
        for update, keys, outputs in zip(factors, captured.keys, captured.gradients, strict=True):
            if update is not None:
                per_token = torch.einsum(
                    "mo,mr->mor", -outputs, keys @ update.b.detach().mT
                ).flatten(1)
                gradients.append(
                    torch.zeros(len(texts), per_token.shape[1], device=per_token.device).index_add_(
                        0, texts.rows, per_token
                    )
                )
        g = torch.cat(gradients, dim=1)
        return alignment(g, facts.to(g.device), anchors.to(g.device), rewards.to(g.device)).cpu()


def _with_factors(
    edited: EditableDecoder, sites: Sequence[EditSite], factors: Sequence[LowRankFactors | None]
) -> EditableDecoder:
    """A branch of the edited model to which the factors are added."""
    policy = edited.branch()
    policy.apply(
        *[
            SiteEdit(site.name, Shift(), update)
            for site, update in zip(sites, factors, strict=True)
            if update is not None
        ]
    )
    return policy


def answer_tokens(process: LifelongProcess) -> int:
    """How far completions are sampled: as far as answers are decoded elsewhere, and to the end of
    every target.
    """
    encode = process.task.encode
    return max(
        process.task.max_new_tokens,
        *(len(encode(r.prompt, r.target).answer) for r in process.batch.taught),
    )


def log_probabilities(logits: Tensor, texts: TokenBatch, temperature: float) -> Tensor:
    """Log-probabilities of the answer tokens by the distribution that is sampled from, (m,)."""
    logs = (logits.float() / temperature).log_softmax(-1)
    return logs.gather(-1, texts.labels[:, None])[:, 0]
