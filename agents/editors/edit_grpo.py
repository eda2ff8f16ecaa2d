"""Edit-GRPO: what another editor changed, refined by reinforcement learning on the model's own
answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from gymnasium.envs.registration import EnvSpec
from torch import Tensor

from agents.catalogue import make_agent
from agents.configured import Settings, setting
from agents.editors.grpo_sampling import GroupSampler, GroupSettings, Round, log_probabilities
from agents.editors.settings import SEED, SITES
from agents.editors.stream import StreamEditor, chosen_sites
from agents.protocol import Access
from agents.tune.search import LogUniform, Whole
from editgym.checks import Check, above, at_least, optional, require, whole
from editgym.envs.lifelong.process import LifelongProcess
from editgym.weights import EditableDecoder, Entry, LowRankFactors, Shift, SiteEdit, Skip


@dataclass(frozen=True, kw_only=True)
class EditGRPOSettings(GroupSettings):
    """What `EditGRPO` takes."""

    editor: str = setting("ft_l", Check(lambda v: isinstance(v, str), "an editor's name"))
    editor_config: Mapping[str, Any] | None = setting(
        None, optional(Check(lambda v: isinstance(v, Mapping), "settings by name"))
    )
    sites: Sequence[str] | None = setting(None, SITES)
    iterations: int = setting(10, whole(1), search=Whole(2, 20))
    updates: int = setting(2, whole(1))
    learning_rate: float = setting(2e-3, above(0), search=LogUniform(1e-5, 0.02))
    rank: int = setting(8, whole(1))
    clip: float = setting(0.2, above(0))
    kl_weight: float = setting(1e-3, at_least(0), search=LogUniform(1e-5, 0.1))
    seed: int = setting(0, SEED)


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
            sets it, unless `make_agent` was given one.

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
        self.first.keep_seed(self.config["seed"])
        if self.first.config:
            self.config = {**self.config, "editor_config": self.first.config}

    def begin(self, process: LifelongProcess) -> None:
        """Prepare the first editor, and the sentences that stand before prompts."""
        seed, config = self.settings.seed, self.settings.editor_config or {}
        self.first.settings = self.first.settings_type.of(config)
        self.first.begin(process)
        sentences = process.task.text.contexts(self.settings.prompts, f"edit_grpo {seed}")
        sites = {site.name for site in chosen_sites(process, self.settings.sites, self.name)}
        generator = torch.Generator().manual_seed(seed)
        self._sampler = GroupSampler(self.settings, sites, sentences, generator)

    def entries(self, process: LifelongProcess) -> list[Entry]:
        """The first editor's entries, then the refinement."""
        first = self.first.entries(process)
        edited = process.decoder.branch()
        edited.apply(*first)
        factors = self._factors(process)
        leaves = [part for update in factors if update is not None for part in (update.a, update.b)]
        optimizer = torch.optim.Adam(leaves, self.settings.learning_rate)
        groups = self._sampler.groups(process)
        taught: set[int] = set()
        for _ in range(self.settings.iterations):
            sampled = self._sampler.sampled(process, edited, factors, groups)
            if sampled is None:
                continue
            taught |= set(sampled.facts.tolist())
            old: Tensor | None = None
            for _ in range(self.settings.updates):
                with torch.enable_grad():
                    loss, now = self._loss(edited, factors, sampled, old)
                    loss.backward()
                old = now if old is None else old
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        if not taught:
            return first
        # What the first editor has left out is edited all the same where its own answers teach it.
        kept = [one for one in first if not (isinstance(one, Skip) and one.request in taught)]
        return kept + [
            SiteEdit(site.name, Shift(), LowRankFactors(update.a.detach(), update.b.detach()))
            for site, update in zip(process.sites, factors, strict=True)
            if update is not None
        ]

    def state_dict(self) -> dict[str, Any]:
        """The first editor's state, and that of what is sampled."""
        return {"first": self.first.state_dict(), "generator": self._sampler.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """A state that `state_dict` gave."""
        self.first.load_state_dict(state["first"])
        self._sampler.generator.set_state(state["generator"])

    def _factors(self, process: LifelongProcess) -> list[LowRankFactors | None]:
        """LoRA's start per site: B·A = 0, and only the left factor has a gradient at first."""
        factors: list[LowRankFactors | None] = []
        for site in process.sites:
            if site.name not in self._sampler.sites:
                factors.append(None)
                continue
            rows, columns = site.shape
            bound = 1 / math.sqrt(columns)
            b = (
                2 * torch.rand(self.settings.rank, columns, generator=self._sampler.generator) - 1
            ) * bound
            device = process.task.device
            factors.append(
                LowRankFactors(
                    torch.zeros(rows, self.settings.rank, device=device, requires_grad=True),
                    b.to(device).requires_grad_(),
                )
            )
        return factors

    def _loss(
        self,
        edited: EditableDecoder,
        factors: list[LowRankFactors | None],
        sampled: Round,
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
        logits = edited.logits(sampled.texts, factors, sampled.prefix)
        now = log_probabilities(logits, sampled.texts, self.settings.temperature)
        ratio = (now - (now.detach() if old is None else old)).exp()
        advantage = sampled.advantages[sampled.texts.rows]
        clipped = ratio.clamp(1 - self.settings.clip, 1 + self.settings.clip)
        gained = torch.minimum(ratio * advantage, clipped * advantage)
        behind = sampled.reference - now
        divergence = behind.exp() - behind - 1  # k3 of Schulman 2020: unbiased and never negative
        costs = sampled.texts.means(self.settings.kl_weight * divergence - gained)
        return (costs * sampled.counts).sum() / sampled.counts.sum(), now.detach()
