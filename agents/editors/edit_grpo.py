"""Edit-GRPO: what another editor changed, refined by reinforcement learning on the model's own
answers.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from gymnasium.envs.registration import EnvSpec
from torch import Tensor

from agents.catalogue import make_agent
from agents.configured import Settings, setting
from agents.editors.settings import SEED, SITES
from agents.editors.stream import StreamEditor, chosen_sites
from agents.protocol import Access
from editgym.checks import Check, above, at_least, optional, require, whole
from editgym.data.factworld import FactWorld
from editgym.envs.lifelong.process import LifelongProcess
from editgym.metrics.knowledge import normalized
from editgym.weights import EditableDecoder, Entry, LowRankFactors, Shift, SiteEdit, TokenBatch
from editgym.weights.layers import Prefix

_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class EditGRPOSettings(Settings):
    """What `EditGRPO` takes."""

    editor: str = setting("ft_l", Check(lambda v: isinstance(v, str), "an editor's name"))
    editor_config: Mapping[str, Any] | None = setting(
        None, optional(Check(lambda v: isinstance(v, Mapping), "settings by name"))
    )
    sites: Sequence[str] | None = setting(None, SITES)
    prompts: int = setting(5, whole(2))
    samples: int = setting(4, whole(1))
    iterations: int = setting(10, whole(1))
    updates: int = setting(2, whole(1))
    learning_rate: float = setting(2e-3, above(0))
    rank: int = setting(8, whole(1))
    clip: float = setting(0.2, above(0))
    kl_weight: float = setting(1e-3, at_least(0))
    bonus: float = setting(0.0, at_least(0))
    temperature: float = setting(1.0, above(0))
    seed: int = setting(0, SEED)


@dataclass(frozen=True)
class _Round:
    """What one round sampled and what it is worth: n different completions.

    Attributes:
        texts: Prompts with their completions.
        counts: How often each was drawn, (n,).
        prefix: `EditableDecoder.prefix` of them, where the factors begin.
        advantages: (n,), none of them 0 but for the bonus.
        reference: Log-probabilities of the tokens under the edited model, (m,).
    """

    texts: TokenBatch
    counts: Tensor
    prefix: Prefix | None
    advantages: Tensor
    reference: Tensor


class EditGRPO(StreamEditor):
    """Edit-GRPO: group-relative policy optimisation after an edit, with the edited model as
    reference.

    In every step another editor edits first. Then low-rank factors on top are trained on groups: a
    fact's own prompt, the anchor, and other prompts with the same answer. Completions are sampled;
    the reward of one is 1 if it is the target and else 0; its advantage is (r − mean) / (sd + ε),
    mean and standard deviation being those of the group's completions of other prompts than the
    anchor; a group without variance there teaches nothing. The loss is PPO's with clipped ratio
    plus β·KL to the edited model (k3). With `bonus` λ, a completion of another prompt gains
    λ·cos(g, g_anchor), where g is the gradient of its log-probability by the factors' outputs and
    g_anchor the mean one of the anchor's different rewarded completions: what moves the weights as
    the edit itself does is preferred.

    The idea is the Edit-GRPO project's README; it gives no numbers. Ours are: the settings, exact
    match as the only reward, and the other prompts. Those are the request's rephrases that no
    metric asks, and where these are too few, the prompt after a sentence about something else. No
    editor but this one reads rephrases.

    Args:
        editor: Catalogue name of the editor that goes first, one with access `data`; `ft_l` by
            default.
        editor_config: Its settings, by name; None (default) for what it has by itself.
        sites: Where the factors are, names among the environment's sites; None (default) for all.
            Tuned for factlm: `model.layers.4.mlp.down_proj` alone.
        prompts: Most prompts in a fact's group, its own among them; 2 or more, 5 by default.
        samples: Completions of every prompt, 1 or more; 4 by default.
        iterations: Rounds of sampling per step, 1 or more; 10 by default. Tuned for factlm: 6.
        updates: Steps of Adam on what one round sampled, 1 or more; 2 by default.
        learning_rate: Learning rate of Adam, greater than 0; 2e-3 by default.
        rank: Rank of the update at every site, 1 or more; 8 by default.
        clip: ε of the clipped ratio, greater than 0; 0.2 by default.
        kl_weight: β of k3's KL to the edited model, 0 or more; 1e-3 by default.
        bonus: λ of the alignment bonus, 0 or more; 0 (default) leaves it out.
        temperature: Temperature of sampling, greater than 0; 1 by default.
        seed: Seed of what is sampled, and of what the first editor draws, a whole number; `learn`
            sets it.

    Raises:
        ValueError: An argument is out of range, or there is no such editor.
    """

    name = "edit_grpo"
    access: ClassVar[Access] = "data"
    settings_type: ClassVar[type[Settings]] = EditGRPOSettings
    settings: EditGRPOSettings

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.first = self._first_editor()

    def _first_editor(self) -> StreamEditor:
        """The editor that goes first, as it is configured.

        Raises:
            ValueError: There is no such editor, or it is none that can go first.
        """
        editor = self.settings.editor
        first = make_agent(editor, **(self.settings.editor_config or {}))
        # What learns has learned nothing here; what an oracle adds, sampled answers are not given.
        require(
            isinstance(first, StreamEditor)
            and first.access == "data"
            and not isinstance(first, EditGRPO),
            "editor",
            editor,
            'an editor of streams with access "data" other than edit_grpo',
        )
        assert isinstance(first, StreamEditor)
        return first

    def resolved(self, spec: EnvSpec | None) -> Settings:
        """The settings in an environment made from `spec`, the first editor's in full too."""
        first = self.first.resolved(spec).as_dict()
        return self.settings_type.of({**super().resolved(spec).as_dict(), "editor_config": first})

    def keep_seed(self, seed: int) -> None:
        """Count the seed of `learn` among what was given, to the first editor too."""
        super().keep_seed(seed)
        self.first.keep_seed(seed)
        if self.first.config:
            self.config = {**self.config, "editor_config": self.first.config}

    def begin(self, process: LifelongProcess) -> None:
        """Prepare the first editor, and the sentences that stand before prompts."""
        seed, config = self.settings.seed, self.settings.editor_config or {}
        self.first.settings = self.first.settings_type.of(config)
        self.first.skipped = self.skipped
        self.first.begin(process)
        self._chosen = {site.name for site in chosen_sites(process, self.settings.sites, self.name)}
        self._generator = torch.Generator().manual_seed(seed)
        self._sentences = FactWorld().filler(
            self.settings.prompts,
            random.Random(f"edit_grpo {seed}"),
            without=process.task.filler,
        )

    def entries(self, process: LifelongProcess) -> list[Entry]:
        """The first editor's entries, then the refinement."""
        first = self.first.entries(process)
        edited = process.decoder.branch()
        edited.apply(*first)
        factors = self._factors(process)
        leaves = [part for update in factors if update is not None for part in (update.a, update.b)]
        optimizer = torch.optim.Adam(leaves, self.settings.learning_rate)
        groups = self._groups(process)
        learned = False
        for _ in range(self.settings.iterations):
            sampled = self._sample(process, edited, factors, groups)
            if sampled is None:
                continue
            learned = True
            old: Tensor | None = None
            for _ in range(self.settings.updates):
                with torch.enable_grad():
                    loss, now = self._loss(edited, factors, sampled, old)
                    loss.backward()
                old = now if old is None else old
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        if not learned:
            return first
        return first + [
            SiteEdit(site.name, Shift(), LowRankFactors(update.a.detach(), update.b.detach()))
            for site, update in zip(process.sites, factors, strict=True)
            if update is not None
        ]

    def state_dict(self) -> dict[str, Any]:
        """The first editor's state, and that of what is sampled."""
        return {"first": self.first.state_dict(), "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """A state that `state_dict` gave."""
        self.first.load_state_dict(state["first"])
        self.skipped.update(self.first.skipped)
        self.first.skipped = self.skipped
        self._generator.set_state(state["generator"])

    # --- sampling ---------------------------------------------------------------------------------

    def _factors(self, process: LifelongProcess) -> list[LowRankFactors | None]:
        """LoRA's start per site: B·A = 0, and only the left factor has a gradient at first."""
        factors: list[LowRankFactors | None] = []
        for site in process.sites:
            if site.name not in self._chosen:
                factors.append(None)
                continue
            rows, columns = site.shape
            bound = 1 / math.sqrt(columns)
            b = (2 * torch.rand(self.settings.rank, columns, generator=self._generator) - 1) * bound
            device = process.task.device
            factors.append(
                LowRankFactors(
                    torch.zeros(rows, self.settings.rank, device=device, requires_grad=True),
                    b.to(device).requires_grad_(),
                )
            )
        return factors

    def _groups(self, process: LifelongProcess) -> dict[int, list[str]]:
        """Per request its prompts that leave room for an answer, the anchor first."""
        language, groups = process.task.language, {}
        longest = language.context - _answer_tokens(process)
        for fact, request in enumerate(process.requests):
            rephrases = [text for text in request.rephrases if text not in request.test_rephrases]
            led = [f"{sentence} {request.prompt}" for sentence in self._sentences]
            others = (
                text for text in (*rephrases, *led) if len(language.prompt_ids(text)) <= longest
            )
            groups[fact] = [request.prompt, *itertools.islice(others, self.settings.prompts - 1)]
        return groups

    @torch.no_grad()
    def _sample(
        self,
        process: LifelongProcess,
        edited: EditableDecoder,
        factors: list[LowRankFactors | None],
        groups: dict[int, list[str]],
    ) -> _Round | None:
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
                self._generator,
                self.settings.temperature,
                _answer_tokens(process),
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
        prefix, own = edited.prefix(texts, self._chosen), advantages[kept]
        if self.settings.bonus:
            own = own + self.settings.bonus * self._alignment(
                policy, texts, prefix, factors, facts[kept], anchors[kept], rewards[kept]
            )
        counts = torch.tensor(list(drawn.values()), device=process.task.device)
        return _Round(
            texts,
            counts,
            prefix,
            own.to(process.task.device),
            self._log_probabilities(edited.logits(texts, prefix=prefix), texts),
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

    # --- learning ---------------------------------------------------------------------------------

    def _loss(
        self,
        edited: EditableDecoder,
        factors: list[LowRankFactors | None],
        sampled: _Round,
        old: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Clipped policy loss plus β·k3, as means over a completion's tokens, then over
        completions.

        Args:
            edited: The reference; the factors come on top of it.
            factors: The policy.
            sampled: What it is judged on.
            old: Log-probabilities of the tokens when they were sampled, (m,); None where the policy
                is still that one.

        Returns:
            The loss, and the log-probabilities now, without a graph.
        """
        now = self._log_probabilities(
            edited.logits(sampled.texts, factors, sampled.prefix), sampled.texts
        )
        ratio = (now - (now.detach() if old is None else old)).exp()
        advantage = sampled.advantages[sampled.texts.rows]
        clipped = ratio.clamp(1 - self.settings.clip, 1 + self.settings.clip)
        gained = torch.minimum(ratio * advantage, clipped * advantage)
        behind = sampled.reference - now
        divergence = behind.exp() - behind - 1  # k3 of Schulman 2020: unbiased and never negative
        costs = sampled.texts.means(self.settings.kl_weight * divergence - gained)
        return (costs * sampled.counts).sum() / sampled.counts.sum(), now.detach()

    def _log_probabilities(self, logits: Tensor, texts: TokenBatch) -> Tensor:
        """Of the answer tokens by the distribution that is sampled from, (m,)."""
        logs = (logits.float() / self.settings.temperature).log_softmax(-1)
        return logs.gather(-1, texts.labels[:, None])[:, 0]


def _answer_tokens(process: LifelongProcess) -> int:
    """How far completions are sampled: as far as answers are decoded elsewhere, and to the end of
    every target.
    """
    encode = process.task.language.encode
    return max(
        process.task.max_new_tokens,
        *(len(encode(r.prompt, r.target).answer) for r in process.requests),
    )


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
