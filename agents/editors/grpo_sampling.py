"""How Edit-GRPO samples: groups of prompts for a step's facts, and what completions are worth."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from agents.configured import Settings, setting
from editgym.checks import above, at_least, whole
from editgym.envs.lifelong.process import LifelongProcess
from editgym.metrics.knowledge import normalized
from editgym.weights import EditableDecoder, LowRankFactors, Shift, SiteEdit, TokenBatch
from editgym.weights.layers import Prefix

_EPSILON = 1e-6


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
        """Per request its prompts that leave room for an answer, the anchor first."""
        language, groups = process.task.language, {}
        longest = language.context - answer_tokens(process)
        for fact, request in enumerate(process.requests):
            rephrases = [text for text in request.rephrases if text not in request.test_rephrases]
            led = [f"{sentence} {request.prompt}" for sentence in self.sentences]
            others = (
                text for text in (*rephrases, *led) if len(language.prompt_ids(text)) <= longest
            )
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
        language = process.task.language
        prompts = [
            (fact, index == 0, prompt)
            for fact, own in groups.items()
            for index, prompt in enumerate(own)
        ]
        asked = [one for one in prompts for _ in range(self.settings.samples)]
        policy = edited.branch()
        policy.apply(
            *[
                SiteEdit(site.name, Shift(), update)
                for site, update in zip(process.sites, factors, strict=True)
                if update is not None
            ]
        )
        with policy.active():
            completions = language.sampled(
                [language.prompt_ids(prompt) for _, _, prompt in prompts],
                self.generator,
                self.settings.temperature,
                answer_tokens(process),
                self.settings.samples,
            )
        targets = [normalized(request.target) for request in process.requests]
        rewards = torch.tensor(
            [
                float(normalized(language.text(ids)) == targets[fact])
                for (fact, _, _), ids in zip(asked, completions, strict=True)
            ]
        )
        facts = torch.tensor([fact for fact, _, _ in asked])
        anchors = torch.tensor([anchor for _, anchor, _ in asked])
        for fact in list(groups):
            if bool(rewards[facts == fact].all()):
                del groups[fact]
        advantages = group_advantages(rewards, facts, anchors)
        drawn = Counter(
            (asked[row], tuple(completions[row])) for row in advantages.nonzero()[:, 0].tolist()
        )
        if not drawn:
            return None
        row_of = {
            (one, tuple(ids)): row
            for row, (one, ids) in enumerate(zip(asked, completions, strict=True))
        }
        kept = torch.tensor([row_of[one] for one in drawn])
        texts = TokenBatch.of(
            [(language.prompt_ids(prompt), ids) for (_, _, prompt), ids in drawn],
            process.task.device,
        )
        prefix, own = edited.prefix(texts, self.sites), advantages[kept]
        if self.settings.bonus:
            own = own + self.settings.bonus * self._alignment(
                policy, texts, prefix, factors, facts[kept], anchors[kept], rewards[kept]
            )
        counts = torch.tensor(list(drawn.values()), device=process.task.device)
        return Round(
            texts,
            counts,
            prefix,
            own.to(process.task.device),
            facts[kept],
            log_probabilities(
                edited.logits(texts, prefix=prefix), texts, self.settings.temperature
            ),
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


def answer_tokens(process: LifelongProcess) -> int:
    """How far completions are sampled: as far as answers are decoded elsewhere, and to the end of
    every target.
    """
    encode = process.task.language.encode
    return max(
        process.task.max_new_tokens,
        *(len(encode(r.prompt, r.target).answer) for r in process.requests),
    )


def log_probabilities(logits: Tensor, texts: TokenBatch, temperature: float) -> Tensor:
    """Log-probabilities of the answer tokens by the distribution that is sampled from, (m,)."""
    logs = (logits.float() / temperature).log_softmax(-1)
    return logs.gather(-1, texts.labels[:, None])[:, 0]


def group_advantages(rewards: Tensor, facts: Tensor, anchors: Tensor) -> Tensor:
    """A_i = (r_i − mean) / (sd + ε), mean and sd over the completions of a fact's other prompts; 0
    where sd is 0.

    Args:
        rewards: (n,).
        facts: (n,), the group of every completion.
        anchors: (n,) bool, whether it answers the fact's own prompt.
    """
    advantages = torch.zeros_like(rewards)
    for fact in facts.unique().tolist():
        own = facts == fact
        others = rewards[own & ~anchors]
        if len(others) > 1 and float(others.std()) > 0:
            advantages[own] = (rewards[own] - others.mean()) / (others.std() + _EPSILON)
    return advantages


def alignment(gradients: Tensor, facts: Tensor, anchors: Tensor, rewards: Tensor) -> Tensor:
    """cos(g_i, g_anchor), (n,), where g_anchor is the mean gradient of the anchor's rewarded
    completions.

    0 for the anchor's own completions, and in groups whose anchor was never answered rightly.

    Args:
        gradients: (n, d).
        facts: (n,), the group of every completion.
        anchors: (n,) bool.
        rewards: (n,).
    """
    cosines = torch.zeros(len(gradients), device=gradients.device)
    for fact in facts.unique().tolist():
        own = facts == fact
        right = own & anchors & (rewards > 0)
        others = own & ~anchors
        if bool(right.any()) and bool(others.any()):
            cosines[others] = F.cosine_similarity(
                gradients[others], gradients[right].mean(0, keepdim=True), dim=1
            )
    return cosines
