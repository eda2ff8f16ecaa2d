"""RLEdit, MALMEN and MEND: one hypernetwork policy, trained on whole streams of edits or on single
batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from agents.hypernetworks.editor import LEARNING_FIELDS, LearnedEditor
from agents.hypernetworks.learning import Learning, SequencePolicy
from agents.hypernetworks.network import Hypernetwork, Rule
from agents.hypernetworks.stream import EditStream, calls_per_capture
from editgym.checks import is_finite, is_whole, require
from editgym.weights import Entry, LowRankFactors, Shift, SiteEdit

Mode = Literal["paper", "released"]


class HypernetworkPolicy(SequencePolicy):
    """Edits with the updates of a hypernetwork, and learns by the reward's gradient.

    Args:
        network: The hypernetwork.
        passes: How often a batch is looked at: after the first time with the update so far in
            effect, to correct it.
        calls_per_look: Rewards that one look computes.
    """

    def __init__(self, network: Hypernetwork, passes: int, calls_per_look: int = 0) -> None:
        super().__init__()
        self.network = network
        self.passes = passes
        self.calls_per_look = calls_per_look

    @property
    def calls_per_step(self) -> int:
        """One for the edit, and those of the looks."""
        return 1 + self.passes * self.calls_per_look

    def groups(self, settings: Learning) -> list[dict[str, Any]]:
        """h_φ, and the step sizes and ridges."""
        return [
            {"params": list(self.network.networks.parameters()), "lr": settings.learning_rate},
            {
                "params": [self.network.steps, self.network.log_ridges],
                "lr": settings.step_learning_rate,
            },
        ]

    def losses(self, process: EditStream) -> Tensor:
        """−r of one step."""
        return -process.differentiable_step(self.updates(process)).reward

    @torch.no_grad()
    def entries(self, process: EditStream) -> list[Entry]:
        """One low-rank shift per site."""
        return [
            SiteEdit(site.name, Shift(), update)
            for site, update in zip(process.sites, self.updates(process), strict=True)
        ]

    def updates(self, process: EditStream) -> list[LowRankFactors]:
        """One update per site; the running statistics take the batch in first.

        The graph goes through the network of every pass, not through the keys and gradients that a
        pass is given.
        """
        capture = process.capture
        self.network.observe(capture.keys, capture.gradients)
        total: list[LowRankFactors] = self.network(capture.keys, capture.gradients)
        for _ in range(self.passes - 1):
            capture = process.captured_after(total)
            more = self.network(capture.keys, capture.gradients)
            total = [update.plus(other) for update, other in zip(total, more, strict=True)]
        return total

    def statistics(self) -> dict[str, Any]:
        """Those of the network."""
        return self.network.statistics()

    def load_statistics(self, state: dict[str, Any]) -> None:
        """Statistics that `statistics` gave."""
        self.network.load_statistics(state)


class HypernetworkEditor(LearnedEditor):
    """What RLEdit, MALMEN and MEND share: the network's settings, and how they learn; subclasses
    have their defaults.

    Args:
        rule: Of the hypernetwork.
        log_step: Whether η is learned by its logarithm.
        defaults: Fields of `Learning`.
        network: Given settings of the network: `passes`, `step_size`, `ridge`, `blocks`, `rank`.
        learning: Given fields of `Learning`; `train_env` adds to the default one.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    def __init__(
        self,
        rule: Rule,
        log_step: bool,
        defaults: Mapping[str, Any],
        network: Mapping[str, Any],
        learning: Mapping[str, Any],
    ) -> None:
        super().__init__()
        require(rule in get_args(Rule), "rule", rule, f"one of {get_args(Rule)}")
        for name in ("passes", "blocks", "rank"):
            count = network[name]
            require(
                (name == "rank" and count is None) or (is_whole(count) and count >= 1),
                name,
                count,
                "1 or more, a whole number",
            )
        for name in ("step_size", "ridge"):
            number = network[name]
            require(
                (name == "step_size" and number is None) or (is_finite(number) and number > 0),
                name,
                number,
                "greater than 0 and finite",
            )
        unknown = sorted(set(learning) - LEARNING_FIELDS)
        require(not unknown, "settings", unknown, f"among {sorted(LEARNING_FIELDS)}")
        self._rule, self._log_step, self._network = rule, log_step, dict(network)
        self.config = {**network, **learning}
        train_env = {**defaults.get("train_env", {}), **learning.get("train_env", {})}
        self._learning = Learning(**{**defaults, **learning, "train_env": train_env})

    def learning(self) -> Learning:
        """The defaults with what was given instead."""
        return self._learning

    def make_policy(self, process: EditStream, seed: int) -> HypernetworkPolicy:
        """The identity network with the first step size."""
        first = self._network["step_size"] or process.step_size
        return HypernetworkPolicy(
            self.make_network([site.shape for site in process.sites], first, seed),
            self._network["passes"],
            calls_per_capture(process),
        )

    def restored_policy(self, sites: list[tuple[str, tuple[int, int]]]) -> SequencePolicy:
        """A network for the sites' shapes."""
        return HypernetworkPolicy(
            self.make_network([shape for _, shape in sites], 1.0, 0), self._network["passes"]
        )

    def make_network(
        self, shapes: list[tuple[int, int]], step_size: float, seed: int
    ) -> Hypernetwork:
        """The hypernetwork, untrained."""
        return Hypernetwork(
            shapes,
            rule=self._rule,
            step_size=step_size,
            ridge=self._network["ridge"],
            log_step=self._log_step,
            blocks=self._network["blocks"],
            rank=self._network["rank"],
            seed=seed,
        )


# Chosen on validation streams of FactWorld. The environment's own weight of locality, the paper's
# 0.6, lets the reward rise while locality is lost.
REWARD: Mapping[str, Any] = {"back_depth": 5, "locality_weight": 8.0}


class RLEdit(HypernetworkEditor):
    """RLEdit (Li et al. 2025): a hypernetwork trained with the reward of whole streams of edits.

    `mode="paper"` is algorithm 1: trained until its sequences are spent (the best that validation
    streams saw is kept), with η learned by its logarithm, the norm of updates in the reward, and KL
    to the original model. `mode="released"` does what the released code does: back depth 9, one
    step of Adam after one sequence, with a rate of ten times the first step size, so that η becomes
    11 times itself or −9 times, KL to the model before the step, and no term for the norm.
    `sequences=0` leaves the network untrained.

    What is ours: every step's gradient makes an update (`update_every=None` waits for the
    sequence's end, as the paper), and the weight of locality.

    Args:
        mode: `paper` or `released`.
        rule: `malmen` (the paper's) or `mend`.
        passes: Times a batch is looked at; 1 is the paper's. See `HypernetworkPolicy`.
        step_size: First η, in UltraEdit's units (`Hypernetwork`); None takes the task's.
        ridge: First λ of the least squares.
        blocks: Of h_φ.
        rank: Of its blocks; None for a quarter of their width, at most 1,024.
        **learning: Fields of `agents.hypernetworks.learning.Learning`; those left out are the
            mode's. `train_env` has the reward's: `back_depth`, `decay`, `locality_weight`,
            `norm_weight`, `reference`.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    name = "rledit"

    def __init__(
        self,
        mode: Mode = "paper",
        *,
        rule: Rule = "malmen",
        passes: int = 1,
        step_size: float | None = None,
        ridge: float = 1.0,
        blocks: int = 4,
        rank: int | None = None,
        **learning: Any,
    ) -> None:
        require(mode in get_args(Mode), "mode", mode, f"one of {get_args(Mode)}")
        self._mode = mode
        network = {
            "passes": passes,
            "step_size": step_size,
            "ridge": ridge,
            "blocks": blocks,
            "rank": rank,
        }
        super().__init__(
            rule,
            mode == "paper",
            {"train_env": REWARD} if mode == "paper" else _RELEASED,
            network,
            learning,
        )
        self.config |= {"mode": mode, "rule": rule}

    def make_policy(self, process: EditStream, seed: int) -> HypernetworkPolicy:
        """The identity network; the released mode's rate of η follows from the first step size."""
        if self._mode == "released" and "step_learning_rate" not in self.config:
            first = self._network["step_size"] or process.step_size
            self._learning = replace(self._learning, step_learning_rate=10 * first)
        return super().make_policy(process, seed)

    @property
    def _episodes(self) -> int:
        return self.learning().sequences if self._mode == "released" else super()._episodes


_RELEASED = {
    "sequences": 1,
    "update_every": None,
    "linear_decay": False,
    "validate_every": 0,
    "max_grad_norm": None,
    "learning_rate": 1e-5,
    "train_env": {
        "back_depth": 9,
        "locality_weight": 0.6,
        "norm_weight": 0.0,
        "reference": "previous",
    },
}
# One batch on the unedited model, and nothing that came before it.
_SINGLE = {
    "sequences": 400,
    "validate_every": 50,
    "train_env": {**REWARD, "horizon": 1, "back_depth": 0},
}


class Malmen(HypernetworkEditor):
    """MALMEN (Tan et al. 2024): RLEdit's network and rule, trained on single batches on the
    unedited model.

    Args:
        passes: As `RLEdit`.
        step_size: As `RLEdit`.
        ridge: As `RLEdit`.
        blocks: As `RLEdit`.
        rank: As `RLEdit`.
        **learning: As `RLEdit`.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    name = "malmen"
    _own_rule: ClassVar[Rule] = "malmen"

    def __init__(
        self,
        *,
        passes: int = 1,
        step_size: float | None = None,
        ridge: float = 1.0,
        blocks: int = 4,
        rank: int | None = None,
        **learning: Any,
    ) -> None:
        network = {
            "passes": passes,
            "step_size": step_size,
            "ridge": ridge,
            "blocks": blocks,
            "rank": rank,
        }
        super().__init__(self._own_rule, True, _SINGLE, network, learning)


class Mend(Malmen):
    """MEND (Mitchell et al. 2022): the gradient's factors transformed and multiplied; otherwise as
    `Malmen`.
    """

    name = "mend"
    _own_rule: ClassVar[Rule] = "mend"
