"""HiEdit: a gate chooses which sites are edited in a step, a hypernetwork says how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, get_args

from agents.configured import Settings, setting
from agents.hypernetworks.gates import Gate, HiEditPolicy
from agents.hypernetworks.network import Hypernetwork, Rule, check_sites
from agents.hypernetworks.rledit import HypernetworkEditor
from agents.hypernetworks.saved import Sites, load_policy, logarithms, saved_kind
from agents.hypernetworks.settings import FLAG, SAVED_AGENT, HypernetworkSettings
from agents.hypernetworks.stream import EditStream, calls_per_capture
from editgym.checks import at_least, one_of, optional, require, whole


@dataclass(frozen=True, kw_only=True)
class HiEditSettings(HypernetworkSettings):
    """What `HiEdit` takes."""

    gate: Gate = setting("sampled", one_of(*get_args(Gate)))
    sites_per_step: int | None = setting(None, optional(whole(1)))
    adaptive: bool = setting(False, FLAG)
    site_cost: float = setting(0.01, at_least(0))
    gate_learning_rate: float = setting(1e-2, at_least(0))
    low_level: str | None = setting(None, SAVED_AGENT, names_folder=True)
    rule: Rule = setting("malmen", one_of(*get_args(Rule)))

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not self.adaptive or self.gate == "straight_through",
            "adaptive",
            self.adaptive,
            f"False with gate {self.gate!r}, which draws subsets of one size",
        )


class HiEdit(HypernetworkEditor):
    """HiEdit (ACL 2026, arXiv 2604.11214): hierarchical editing; in every step a gate chooses the
    sites that are edited, and a hypernetwork h_φ says how.

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
    one for every batch, both while it learns and when it edits, and `all` is RLEdit. The gate and
    h_φ learn together, by the reward of whole streams of edits.

    Where a setting is not given, an environment's tuned value stands before the default. Tuned for
    FactWorld in factlm: 16 `sequences`, and with the task's own sites 3 `sites_per_step` and
    `step_size` 3e-3; on streams from 500 edits on 8 sequences, with `step_learning_rate` 0.05 and
    `train_env` {"horizon": 40, "locality_weight": 30}.

    Args:
        gate: "sampled" (default), "straight_through", "static", "random" or "all", see above.
            ShiftWorld has no "sampled" and no "static".
        sites_per_step: K, the sites that are edited in a step, from 1 to the number of sites. None
            (default) takes half of them, rounded down.
        adaptive: Whether fewer than K may be chosen, for "straight_through" alone; False by
            default.
        site_cost: What a chosen site costs in reward, with `adaptive`; 0 or more, 0.01 by default.
        gate_learning_rate: Adam's learning rate for the gate, 0 or more; 0.01 by default.
        low_level: Folder of a saved `rledit`, `malmen` or `mend`, with the same `rule`, `blocks`
            and `rank` and sites of the same shapes, whose network learning starts from. None
            (default) starts from the identity. Its `passes` may be others: they change how often
            the network is asked, not the network.
        rule: How factors become an update: "malmen" (default, Tan et al. 2024, eq. 5) or "mend"
            (Mitchell et al. 2022, eq. 3).
        passes: Times that a batch of requests is looked at, 1 or more: after the first time with
            the update so far in effect, to correct it. 1 by default.
        step_size: The first step size η of every site, greater than 0, in units in which the
            untrained network's first update is as long as UltraEdit's with that η. None (default)
            takes the environment's.
        ridge: The first λ of the least squares (Tan et al. 2024, eq. 5) of every site, greater than
            0; 1 by default.
        blocks: Residual blocks of h_φ, 1 or more; 4 by default.
        rank: Rank of a block's product A·B, 1 or more. None (default) takes a quarter of the
            block's width, at most 1,024.
        sequences: Training sequences, each a new stream, 0 or more; budgets may end earlier. 40 by
            default; 1,000 episodes in ShiftWorld.
        learning_rate: Adam's learning rate for h_φ, 0 or more; 1e-4 by default.
        step_learning_rate: Adam's learning rate for log η and log λ of the sites, 0 or more; 0.02
            by default. None takes ten times the first step size.
        update_every: Steps whose gradients make one update, 1 or more; 1 by default. None waits for
            the whole sequence.
        linear_decay: Whether the learning rates fall linearly to 0 over the sequences; True by
            default.
        max_grad_norm: Greatest length of an update's gradient, greater than 0; a longer one is
            scaled. 1 by default; None leaves it.
        validate_every: Sequences between two looks at a validation stream, 0 or more; the best
            policy seen is kept. 5 by default; 0 never looks. Left out in ShiftWorld.
        patience: Looks without a new best after which learning ends, 1 or more; None (default)
            goes on to the end.
        train_env: Arguments of the environment while it learns, other than those of the one that is
            edited, such as the reward's `back_depth`, `decay`, `locality_weight`, `norm_weight`,
            `reference`; what is given adds to the default, {"back_depth": 5,
            "locality_weight": 8}. Left out in ShiftWorld.
        start_from: Folder of a saved agent of the same kind, whose policy learning starts from, for
            sites of the same shapes; with `sequences=0` it edits as it was saved. None (default)
            starts anew.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    name = "hiedit"
    settings_type: ClassVar[type[Settings]] = HiEditSettings
    settings: HiEditSettings

    def __init__(self, gate: Gate = "sampled", **settings: Any) -> None:
        super().__init__(gate=gate, **settings)

    @property
    def rule(self) -> Rule:
        """The settings' rule."""
        return self.settings.rule

    def make_policy(self, process: EditStream, seed: int) -> HiEditPolicy:
        """The gate, over the identity network or a trained one.

        Raises:
            ValueError: There are fewer sites than `sites_per_step`, or the rule of `low_level` is
                another, or one of its η has no logarithm.
            FileNotFoundError: `low_level` holds no policy.
            ShapeMismatchError: Its sites have other shapes.
        """
        sites = [(site.name, site.shape) for site in process.sites]
        shapes = [shape for _, shape in sites]
        network = self.make_network(shapes, self.first_step(process), seed)
        if self.settings.low_level is not None:
            self._start_from(Path(self.settings.low_level), network, sites)
        return self._gated(network, seed, calls_per_capture(process))

    def restored_policy(self, sites: Sites) -> HiEditPolicy:
        """A gate and a network for the sites' shapes."""
        return self._gated(self.make_network([shape for _, shape in sites], 1.0, 0), 0)

    def _start_from(self, folder: Path, network: Hypernetwork, sites: Sites) -> None:
        """Put the network of the agent in `folder` into `network`, which is for `sites`."""
        try:
            own_sites, state = load_policy(folder)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"low_level: {error}; it is the folder that a trained rledit, malmen or mend was "
                "saved in, for example OUT/agent of agents.train"
            ) from error
        check_sites(own_sites, sites)
        kind = saved_kind(folder, state)
        require(
            kind.rule in (network.rule, None),
            "low_level",
            kind.rule,
            f"a network with this agent's rule, {network.rule!r}",
        )
        parameters = {
            key.removeprefix("network."): value
            for key, value in state["parameters"].items()
            if key.startswith("network.")
        }
        if not kind.log_step:
            names = [name for name, _ in own_sites]
            parameters["steps"] = logarithms(parameters["steps"], names, "low_level")
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
        own, sites = self.settings, len(network.shapes)
        count = max(1, sites // 2) if own.sites_per_step is None else own.sites_per_step
        require(count <= sites, "sites_per_step", count, f"at most {sites}, the number of sites")
        return HiEditPolicy(
            network,
            own.passes,
            own.gate,
            count,
            own.adaptive,
            own.site_cost,
            own.gate_learning_rate,
            seed,
            calls_per_look,
        )
