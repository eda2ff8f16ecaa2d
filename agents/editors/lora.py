"""LoRA, trained on each batch of requests and merged into the weights; defaults suit factlm."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from gymnasium.envs.registration import EnvSpec

from agents.editors.fine_tuning import check_descent, descend
from agents.editors.stream import StreamEditor, chosen_sites
from agents.protocol import Budget
from editgym.checks import is_whole, require
from editgym.envs.lifelong.process import LifelongProcess
from editgym.weights import Entry, LowRankFactors, Shift, SiteEdit, Update


class LoraMerge(StreamEditor):
    """LoRA (Hu et al. 2022) per batch of requests: ΔW = B·A at every site, trained by Adam, then
    merged.

    A is drawn uniformly from ±1/√in and B begins at zero, so a batch begins without an edit.

    Args:
        sites: Names among the environment's sites; None for all.
        rank: Of every update.
        steps: Of Adam, per batch of requests, at most.
        learning_rate: Of Adam.
        stop_loss: Cross-entropy in nats per token; training ends as soon as every request is below
            it.
        seed: Of what is drawn.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    name = "lora_merge"

    def __init__(
        self,
        sites: list[str] | None = None,
        rank: int = 4,
        steps: int = 50,
        learning_rate: float = 1.5e-3,
        stop_loss: float = 0.1,
        seed: int = 0,
    ) -> None:
        check_descent(steps, learning_rate, stop_loss)
        require(is_whole(rank) and rank >= 1, "rank", rank, "1 or more, a whole number")
        require(is_whole(seed), "seed", seed, "a whole number")
        self.config = {
            "sites": sites,
            "rank": rank,
            "steps": steps,
            "learning_rate": learning_rate,
            "stop_loss": stop_loss,
            "seed": seed,
        }
        self.sites, self.rank, self.seed = sites, rank, seed
        self.steps, self.learning_rate, self.stop_loss = steps, learning_rate, stop_loss

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Nothing is learned but while editing; the seed is kept for what is drawn there."""
        self.seed = self.config["seed"] = seed

    def begin(self, process: LifelongProcess) -> None:
        """Find the sites."""
        self._sites = chosen_sites(process, self.sites, self.name)
        self._generator = torch.Generator().manual_seed(self.seed)

    def entries(self, process: LifelongProcess) -> list[Entry]:
        """One low-rank shift per site."""
        # In the terms of LowRankFactors a is LoRA's B, and b is its A.
        factors = {}
        for site in self._sites:
            rows, columns = site.shape
            device = process.decoder.base_weights[process.sites.index(site)].device
            b = (2 * torch.rand(self.rank, columns, generator=self._generator) - 1) / math.sqrt(
                columns
            )
            factors[site.name] = LowRankFactors(
                torch.zeros(rows, self.rank, device=device, requires_grad=True),
                b.to(device).requires_grad_(),
            )
        updates: list[Update | None] = [factors.get(site.name) for site in process.sites]
        descend(
            [part for one in factors.values() for part in (one.a, one.b)],
            lambda: process.decoder.losses(process.prompts, updates, process.prefix),
            self.steps,
            self.learning_rate,
            self.stop_loss,
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
