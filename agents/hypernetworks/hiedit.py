"""HiEdit: a gate chooses which sites are edited in a step, a hypernetwork says how."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from agents.configured import read_config
from agents.hypernetworks.editor import load_policy
from agents.hypernetworks.learning import Learning
from agents.hypernetworks.network import Hypernetwork, Rule, check_sites
from agents.hypernetworks.rledit import REWARD, HypernetworkEditor, HypernetworkPolicy
from agents.hypernetworks.stream import EditStream, calls_per_capture
from editgym.checks import is_finite, is_whole, require
from editgym.weights import Entry, LowRankFactors, Shift, SiteEdit
from editgym.weights.site_pass import Capture

Gate = Literal["straight_through", "sampled", "static", "random", "all"]
_ENCODING, _EMBEDDING, _HIDDEN = 32, 8, 64
_SAMPLES = 4


class SiteScores(nn.Module):
    """One number per site: how much it is worth editing for this batch.

    Every site's standardised keys and gradients are encoded token by token, by one layer per shape
    of site, and averaged; the score reads a site's own encoding, the mean of all, and an embedding
    of the site.

    Args:
        shapes: (out, in) of every site.
        seed: Of the weights.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoders = nn.ModuleDict(
                {
                    f"{rows}x{columns}": nn.Linear(rows + columns, _ENCODING)
                    for rows, columns in dict.fromkeys(shapes)
                }
            )
            self.embeddings = nn.Parameter(0.1 * torch.randn(len(shapes), _EMBEDDING))
            score = nn.Linear(_HIDDEN, 1)
            self.head = nn.Sequential(
                nn.Linear(2 * _ENCODING + _EMBEDDING, _HIDDEN), nn.ReLU(), score
            )
        self._names = [f"{rows}x{columns}" for rows, columns in shapes]
        nn.init.zeros_(score.weight)  # at first no site is worth more than another
        nn.init.zeros_(score.bias)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features (n, in + out) per site -> scores (sites,)."""
        encoded = torch.stack(
            [
                torch.relu(self.encoders[name](x)).mean(0)
                for name, x in zip(self._names, features, strict=True)
            ]
        )  # (sites, encoding)
        context = encoded.mean(0, keepdim=True).expand_as(encoded)
        return self.head(torch.cat([encoded, context, self.embeddings], dim=1))[:, 0]


class StaticScores(nn.Module):
    """Scores that are the same for every batch.

    Args:
        sites: How many.
    """

    def __init__(self, sites: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(sites))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Scores (sites,), whatever the features."""
        return self.scores + 0.0


class HiEditPolicy(HypernetworkPolicy):
    """A hypernetwork whose updates reach only the sites that a gate chooses.

    Args:
        network: The hypernetwork.
        passes: As `HypernetworkPolicy`; all passes edit the same sites.
        gate: How sites are chosen (`HiEdit`).
        count: Sites per step.
        adaptive: Whether `count` is only the most.
        site_cost: What a site costs in reward, where the gate is adaptive.
        gate_learning_rate: Of Adam, for the gate.
        seed: Of the gate's weights and of what it draws.
        calls_per_look: As `HypernetworkPolicy`.
    """

    def __init__(
        self,
        network: Hypernetwork,
        passes: int,
        gate: Gate,
        count: int,
        adaptive: bool,
        site_cost: float,
        gate_learning_rate: float,
        seed: int,
        calls_per_look: int = 0,
    ) -> None:
        super().__init__(network, passes, calls_per_look)
        self.gate, self.count, self.adaptive, self.site_cost = gate, count, adaptive, site_cost
        self._gate_learning_rate = gate_learning_rate
        sites = len(network.shapes)
        self.scores: nn.Module | None = None
        if gate in ("straight_through", "sampled"):
            self.scores = SiteScores(network.shapes, seed)
        elif gate == "static":
            self.scores = StaticScores(sites)
        self._generator = torch.Generator().manual_seed(seed)

    def groups(self, settings: Learning) -> list[dict[str, Any]]:
        """Those of the hypernetwork, and the gate."""
        groups = super().groups(settings)
        if self.scores is not None:
            groups.append(
                {"params": list(self.scores.parameters()), "lr": self._gate_learning_rate}
            )
        return groups

    @property
    def calls_per_step(self) -> int:
        """Those of a hypernetwork's step, and one for every subset that is tried."""
        return super().calls_per_step + (_SAMPLES if self.gate in ("sampled", "static") else 0)

    def losses(self, process: EditStream) -> Tensor:
        """−r of one step with the chosen sites, and what teaches the gate."""
        capture = self._observed(process)
        if self.gate in ("sampled", "static"):
            return self._sampled_losses(process, capture)
        mask, cost = self._gate(capture, explore=True)
        return -process.differentiable_step(self._gated(process, capture, mask)).reward + cost

    @torch.no_grad()
    def entries(self, process: EditStream) -> list[Entry]:
        """One low-rank shift per chosen site."""
        capture = self._observed(process)
        mask, _ = self._gate(capture, explore=False)
        updates = self._gated(process, capture, mask)
        return [
            SiteEdit(site.name, Shift(), update)
            for site, update, chosen in zip(process.sites, updates, mask.tolist(), strict=True)
            if chosen
        ]

    def statistics(self) -> dict[str, Any]:
        """Those of the network, and the state of what is drawn."""
        return super().statistics() | {"generator": self._generator.get_state()}

    def load_statistics(self, state: dict[str, Any]) -> None:
        """Statistics that `statistics` gave."""
        super().load_statistics(state)
        self._generator.set_state(state["generator"].cpu())

    # --- the gate ---------------------------------------------------------------------------------

    def _gate(self, capture: Capture, explore: bool) -> tuple[Tensor, Tensor]:
        """Which sites are edited, (sites,) of 0 and 1, and what they cost; differentiable for
        learned gates.
        """
        sites = len(self.network.shapes)
        nothing = self.network.steps.new_zeros(())
        if self.gate == "all":
            return self.network.steps.new_ones(sites), nothing
        if self.gate == "random":
            chosen = torch.randperm(sites, generator=self._generator)[: self.count].to(
                self.network.steps.device
            )
            return torch.zeros_like(self.network.steps).index_fill(0, chosen, 1.0), nothing
        scores = self._scored(capture)
        # Logistic noise: a site is above 0 with the probability that its sigmoid is.
        noise = self._logistic(sites) if self.adaptive else self._gumbel(sites)
        noisy = scores.detach() + noise if explore else scores.detach()
        hard, soft = self._best(noisy), scores.sigmoid()
        # Straight through: forward the choice; backward every site's own share of the reward,
        # chosen or not.
        return hard + soft - soft.detach(), (
            self.site_cost * soft.sum() if self.adaptive else nothing
        )

    def _scored(self, capture: Capture) -> Tensor:
        assert self.scores is not None
        scores: Tensor = self.scores(self.network.features(capture.keys, capture.gradients))
        return scores

    def _best(self, scores: Tensor) -> Tensor:
        """The sites with the largest scores as 1, the others as 0; adaptive gates leave out those
        below 0.
        """
        order = scores.argsort(descending=True)
        mask = torch.zeros_like(scores).index_fill(0, order[: self.count], 1.0)
        if self.adaptive:
            mask = mask * (scores >= 0)
            mask[order[0]] = 1.0
        return mask

    def _sampled_losses(self, process: EditStream, capture: Capture) -> Tensor:
        """REINFORCE on subsets drawn without replacement, with the mean of the others' rewards as
        baseline.

        The candidates are scored on one state in one pass; the first is applied and teaches the
        hypernetwork.
        """
        scores = self._scored(capture)
        orders = torch.stack(
            [
                (scores.detach() + self._gumbel(len(scores))).argsort(descending=True)[: self.count]
                for _ in range(_SAMPLES)
            ]
        )  # (samples, count)
        masks = torch.zeros(_SAMPLES, len(scores), device=scores.device).scatter(1, orders, 1.0)
        with torch.no_grad():
            tried = [self._gated(process, capture, mask) for mask in masks]
            stacked = [
                LowRankFactors(torch.stack([u.a for u in site]), torch.stack([u.b for u in site]))
                for site in zip(*tried, strict=True)
            ]
            rewards = process.candidate_rewards(stacked)
        advantage = (
            (rewards - rewards.mean()) * _SAMPLES / (_SAMPLES - 1)
        )  # against the mean of the others
        advantage = advantage / rewards.std().clamp(min=1e-6)
        outcome = process.differentiable_step(self._gated(process, capture, masks[0]))
        return -outcome.reward - (advantage * _log_probability(scores, orders)).mean()

    def _gumbel(self, sites: int) -> Tensor:
        return -torch.log(-torch.log(self._uniform(sites))).to(self.network.steps.device)

    def _logistic(self, sites: int) -> Tensor:
        return self._uniform(sites).logit().to(self.network.steps.device)

    def _uniform(self, sites: int) -> Tensor:
        return torch.rand(sites, generator=self._generator).clamp(1e-6, 1 - 1e-6)

    # --- updates ----------------------------------------------------------------------------------

    def _observed(self, process: EditStream) -> Capture:
        capture = process.capture
        self.network.observe(capture.keys, capture.gradients)
        return capture

    def _gated(self, process: EditStream, capture: Capture, mask: Tensor) -> list[LowRankFactors]:
        """The hypernetwork's updates at the sites of `mask`, 0 elsewhere."""
        total = _masked(self.network(capture.keys, capture.gradients), mask)
        for _ in range(self.passes - 1):
            again = process.captured_after(total)
            more = _masked(self.network(again.keys, again.gradients), mask)
            total = [update.plus(other) for update, other in zip(total, more, strict=True)]
        return total


class HiEdit(HypernetworkEditor):
    """HiEdit (arXiv 2604.11214): hierarchical editing; in every step a gate chooses the sites that
    are edited.

    The released code's gate gets no gradient from the reward. Here it gets one, in one of two ways:

    - `sampled`: several subsets are drawn and scored on one state, and REINFORCE compares each with
      the others. The intrinsic reward r(chosen) − r(all) has the same gradient, for r(all) does not
      depend on the choice;
    - `straight_through`: the choice is made with noise and multiplies the updates, so the reward's
      gradient by it says of every site, chosen or not, what more of its update is worth. It takes
      half the time. On FactWorld it chooses five of eleven sites as well, and three it does not
      learn to choose: where a step size is right, more of a chosen site's update is worth nothing,
      and the first bit of any other's always something.

    To compare with: `static` learns one choice for all batches, as `sampled` does, `random` draws
    one for every batch, both while it learns and when it edits, and `all` is RLEdit.

    Args:
        gate: As above.
        sites_per_step: K, at most the number of sites; None takes half of them, rounded down.
        adaptive: Whether fewer than K may be chosen.
        site_cost: What a chosen site costs in reward, with `adaptive`.
        gate_learning_rate: Of Adam, for the gate.
        low_level: Folder of a saved `RLEdit`, `Malmen` or `Mend`, with the same `rule`, `blocks`
            and `rank` and sites of the same shapes, whose network learning starts from; None starts
            from the identity. Its `passes` may be others: they change how often the network is
            asked, not the network.
        rule: Of the hypernetwork.
        passes: As `RLEdit`.
        step_size: As `RLEdit`.
        ridge: As `RLEdit`.
        blocks: As `RLEdit`.
        rank: As `RLEdit`.
        **learning: As `RLEdit`.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    name = "hiedit"

    def __init__(
        self,
        gate: Gate = "sampled",
        *,
        sites_per_step: int | None = None,
        adaptive: bool = False,
        site_cost: float = 0.01,
        gate_learning_rate: float = 1e-2,
        low_level: str | None = None,
        rule: Rule = "malmen",
        passes: int = 1,
        step_size: float | None = None,
        ridge: float = 1.0,
        blocks: int = 4,
        rank: int | None = None,
        **learning: Any,
    ) -> None:
        require(gate in get_args(Gate), "gate", gate, f"one of {get_args(Gate)}")
        require(
            sites_per_step is None or (is_whole(sites_per_step) and sites_per_step >= 1),
            "sites_per_step",
            sites_per_step,
            "1 or more, a whole number, or None",
        )
        require(isinstance(adaptive, bool), "adaptive", adaptive, "true or false")
        require(
            not adaptive or gate == "straight_through",
            "adaptive",
            adaptive,
            f"False with gate {gate!r}, which draws subsets of one size",
        )
        for name, number in (("site_cost", site_cost), ("gate_learning_rate", gate_learning_rate)):
            require(is_finite(number) and number >= 0, name, number, "0 or more and finite")
        network = {
            "passes": passes,
            "step_size": step_size,
            "ridge": ridge,
            "blocks": blocks,
            "rank": rank,
        }
        super().__init__(rule, True, {"train_env": REWARD}, network, learning)
        self._gate_config: dict[str, Any] = {
            "gate": gate,
            "sites_per_step": sites_per_step,
            "adaptive": adaptive,
            "site_cost": site_cost,
            "gate_learning_rate": gate_learning_rate,
        }
        self._low_level = low_level
        self.config |= {**self._gate_config, "low_level": low_level, "rule": rule}

    def make_policy(self, process: EditStream, seed: int) -> HiEditPolicy:
        """The gate, over the identity network or a trained one.

        Raises:
            ValueError: There are fewer sites than `sites_per_step`, or the rule of `low_level` is
                another, or one of its η has no logarithm.
            FileNotFoundError: `low_level` holds no policy.
            ShapeMismatchError: Its sites have other shapes.
        """
        sites = [(site.name, site.shape) for site in process.sites]
        first = self._network["step_size"] or process.step_size
        network = self.make_network([shape for _, shape in sites], first, seed)
        if self._low_level is not None:
            self._start_from(Path(self._low_level), network, sites)
        return self._gated(network, seed, calls_per_capture(process))

    def restored_policy(self, sites: list[tuple[str, tuple[int, int]]]) -> HiEditPolicy:
        """A gate and a network for the sites' shapes."""
        return self._gated(self.make_network([shape for _, shape in sites], 1.0, 0), 0)

    def _start_from(
        self, folder: Path, network: Hypernetwork, sites: list[tuple[str, tuple[int, int]]]
    ) -> None:
        """Put the network of the agent in `folder` into `network`, which is for `sites`."""
        try:
            config, (own_sites, state) = read_config(folder), load_policy(folder)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"low_level: {error}; it is the folder that a trained rledit, malmen or mend was "
                "saved in, for example OUT/agent of agents.train"
            ) from error
        check_sites(own_sites, sites)
        # Malmen and Mend have no argument for their rule.
        rule = config.get("rule") or state["statistics"].get("rule", network.rule)
        require(
            rule == network.rule,
            "low_level",
            rule,
            f"a network with this agent's rule, {network.rule!r}",
        )
        parameters = {
            key.removeprefix("network."): value
            for key, value in state["parameters"].items()
            if key.startswith("network.")
        }
        if config.get("mode") == "released":  # it learns η itself
            steps = dict(
                zip([name for name, _ in own_sites], parameters["steps"].tolist(), strict=True)
            )
            bad = {name: step for name, step in steps.items() if not step > 0}
            require(
                not bad,
                "low_level",
                bad,
                "a network with η greater than 0 at every site, to take its logarithm",
            )
            parameters["steps"] = parameters["steps"].log()
        other = [
            f"{name} is {tuple(value.shape)} there and {tuple(own.shape)} here"
            for name, own in network.state_dict().items()
            if (value := parameters.get(name, own.new_empty(0))).shape != own.shape
        ]
        require(
            not other and len(parameters) == len(network.state_dict()),
            "low_level",
            folder,
            "a network with this agent's blocks and rank"
            f" ({'; '.join(other[:1]) or 'it has more blocks'})",
        )
        network.load_state_dict(parameters)
        network.load_statistics(state["statistics"])

    def _gated(self, network: Hypernetwork, seed: int, calls_per_look: int = 0) -> HiEditPolicy:
        config = self._gate_config
        sites = len(network.shapes)
        count = max(1, sites // 2) if config["sites_per_step"] is None else config["sites_per_step"]
        require(count <= sites, "sites_per_step", count, f"at most {sites}, the number of sites")
        return HiEditPolicy(
            network,
            self._network["passes"],
            config["gate"],
            count,
            config["adaptive"],
            config["site_cost"],
            config["gate_learning_rate"],
            seed,
            calls_per_look,
        )


def _masked(updates: Sequence[LowRankFactors], mask: Tensor) -> list[LowRankFactors]:
    return [LowRankFactors(update.a * mask[site], update.b) for site, update in enumerate(updates)]


def _log_probability(scores: Tensor, orders: Tensor) -> Tensor:
    """Log-probability of drawing sites in these orders without replacement (Plackett–Luce),
    (samples,).

    Args:
        scores: (sites,).
        orders: (samples, count), sites in the order in which they were drawn.
    """
    taken = nn.functional.one_hot(orders, len(scores))  # (samples, count, sites)
    gone = (taken.cumsum(1) - taken).bool()
    # Not the sum of all less those that are gone: where the gate is sure, nothing would be left of
    # the others.
    left = scores.expand(gone.shape).masked_fill(gone, -torch.inf).logsumexp(-1)
    return (scores[orders] - left).sum(1)
