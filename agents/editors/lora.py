"""LoRA, trained on each batch of requests and merged into the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from agents.configured import Settings, setting
from agents.editors.descent import descend, losses_in_parts
from agents.editors.settings import SEED, SITES
from agents.editors.stream import StreamEditor, chosen_sites
from agents.tune.search import ANY_SITES, Choice, LogUniform, Whole
from editgym.checks import above, at_least, whole
from editgym.envs.lifelong.process import LifelongProcess
from editgym.weights import Entry, LowRankFactors, Shift, SiteEdit, Update


@dataclass(frozen=True, kw_only=True)
class LoraSettings(Settings):
    """What `LoraMerge` takes."""

    sites: Sequence[str] | None = setting(None, SITES, search=ANY_SITES)
    rank: int = setting(4, whole(1), search=Choice((1, 2, 4, 8, 16)))
    steps: int = setting(50, whole(1), search=Whole(10, 80))
    learning_rate: float = setting(1.5e-3, above(0), search=LogUniform(1e-5, 0.02))
    stop_loss: float = setting(0.1, at_least(0), search=LogUniform(0.01, 1))
    seed: int = setting(0, SEED)


class LoraMerge(StreamEditor):
    """LoRA (Hu et al. 2022) per batch of requests: ΔW = B·A at every site, trained by Adam, then
    merged.

    A is drawn uniformly from ±1/√in and B begins at zero, so a batch begins without an edit.

    Args:
        sites: Names among the environment's sites; None (default) for all.
        rank: Rank of every update, 1 or more; 4 by default.
        steps: Most steps of Adam per batch of requests, 1 or more; 50 by default.
        learning_rate: Learning rate of Adam, greater than 0; 1.5e-3 by default, which suits factlm:
            larger models want a smaller one.
        stop_loss: Cross-entropy in nats per token, 0 or more; training ends as soon as every
            request is below it. 0.1 by default.
        seed: Seed of what is drawn, a whole number; `learn` sets it, unless `make_agent` was given
            one.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    name = "lora_merge"
    settings_type: ClassVar[type[Settings]] = LoraSettings
    settings: LoraSettings

    def begin(self, process: LifelongProcess) -> None:
        """Find the sites."""
        self._sites = chosen_sites(process, self.settings.sites, self.name)
        self._generator = torch.Generator().manual_seed(self.settings.seed)

    def entries(self, process: LifelongProcess) -> list[Entry]:
        """One low-rank shift per site."""
        # In the terms of LowRankFactors a is LoRA's B, and b is its A.
        rank, factors = self.settings.rank, {}
        for site in self._sites:
            rows, columns = site.shape
            device = process.decoder.base_weights[process.sites.index(site)].device
            b = (2 * torch.rand(rank, columns, generator=self._generator) - 1) / math.sqrt(columns)
            factors[site.name] = LowRankFactors(
                torch.zeros(rows, rank, device=device, requires_grad=True),
                b.to(device).requires_grad_(),
            )
        updates: list[Update | None] = [factors.get(site.name) for site in process.sites]
        descend(
            [part for one in factors.values() for part in (one.a, one.b)],
            losses_in_parts(process, process.prompts, updates, process.prefix),
            self.settings.steps,
            self.settings.learning_rate,
            self.settings.stop_loss,
        )
        return [
            SiteEdit(name, Shift(), LowRankFactors(one.a.detach(), one.b.detach()))
            for name, one in factors.items()
        ]

    def state_dict(self) -> dict[str, Any]:
        """The state of what is drawn."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """A state that `state_dict` gave."""
        self._generator.set_state(state["generator"])
