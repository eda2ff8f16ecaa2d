"""RLEdit: a hypernetwork trained with the reward of whole streams of edits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from gymnasium.envs.registration import EnvSpec
from torch import Tensor

from agents.configured import Settings, setting
from agents.hypernetworks.editor import LearnedEditor
from agents.hypernetworks.network import Hypernetwork, Rule
from agents.hypernetworks.policy import HypernetworkPolicy, SequencePolicy
from agents.hypernetworks.saved import SavedKind, Sites, logarithms
from agents.hypernetworks.settings import HypernetworkSettings
from agents.hypernetworks.stream import EditStream, calls_per_capture
from editgym.checks import one_of

Mode = Literal["paper", "released"]
# What the released code does: one step of Adam after one sequence.
_RELEASED: Mapping[str, Any] = {
    "sequences": 1,
    "update_every": None,
    "linear_decay": False,
    "validate_every": 0,
    "max_grad_norm": None,
    "learning_rate": 1e-5,
    "step_learning_rate": None,
    "train_env": {
        "back_depth": 9,
        "locality_weight": 0.6,
        "norm_weight": 0.0,
        "reference": "previous",
    },
}


@dataclass(frozen=True, kw_only=True)
class RLEditSettings(HypernetworkSettings):
    """What `RLEdit` takes; what is not given follows from the mode."""

    mode: Mode = setting("paper", one_of(*get_args(Mode)))
    rule: Rule = setting("malmen", one_of(*get_args(Rule)))

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The mode's values, whatever else is given."""
        own = super().defaults(given)
        return {**own, **_RELEASED} if given.get("mode") == "released" else own


class HypernetworkEditor(LearnedEditor):
    """What RLEdit, MALMEN, MEND and HiEdit share: a hypernetwork of the settings' size."""

    settings_type: ClassVar[type[Settings]] = HypernetworkSettings
    settings: HypernetworkSettings

    @property
    @abstractmethod
    def rule(self) -> Rule:
        """The hypernetwork's rule."""

    @property
    def log_step(self) -> bool:
        """Whether η is learned by its logarithm."""
        return True

    def make_policy(self, process: EditStream, seed: int) -> SequencePolicy:
        """The identity network with the first step size."""
        network = self.make_network(
            [site.shape for site in process.sites], self.first_step(process), seed
        )
        return HypernetworkPolicy(network, self.settings.passes, calls_per_capture(process))

    def restored_policy(self, sites: Sites) -> SequencePolicy:
        """A network for the sites' shapes."""
        network = self.make_network([shape for _, shape in sites], 1.0, 0)
        return HypernetworkPolicy(network, self.settings.passes)

    def fitted(self, parameters: dict[str, Tensor], kind: SavedKind) -> dict[str, Tensor]:
        """A saved policy's parameters, with η or log η, whichever this agent learns.

        Raises:
            ValueError: An η has no logarithm.
        """
        if kind.log_step == self.log_step:
            return parameters
        steps = parameters["network.steps"]
        names = [name for name, _ in self.sites]
        own = logarithms(steps, names, "start_from") if self.log_step else steps.exp()
        return {**parameters, "network.steps": own}

    def first_step(self, process: EditStream) -> float:
        """The first η: the settings' step size, or the process's."""
        return self.settings.step_size or process.step_size

    def make_network(
        self, shapes: list[tuple[int, int]], step_size: float, seed: int
    ) -> Hypernetwork:
        """The hypernetwork, untrained."""
        return Hypernetwork(
            shapes,
            rule=self.rule,
            step_size=step_size,
            ridge=self.settings.ridge,
            log_step=self.log_step,
            blocks=self.settings.blocks,
            rank=self.settings.rank,
            seed=seed,
        )


class RLEdit(HypernetworkEditor):
    """RLEdit (Li et al. 2025, arXiv 2502.05759): a hypernetwork h_φ trained with the reward of
    whole streams of edits.

    `mode="paper"` is algorithm 1: trained until its sequences are spent (the best that validation
    streams saw is kept), with η learned by its logarithm, the norm of updates in the reward, and KL
    to the original model. `mode="released"` does what the released code does: back depth 9, one
    step of Adam after one sequence, KL to the model before the step, and no term for the norm;
    nothing of it is tuned. Its rate for η can be read in two ways, which are one where the first
    step size is the release's own, 1e-6: as ten times the first step size (the default,
    `step_learning_rate=None`), so that η becomes 11 times itself or −9 times whatever it is; or as
    the number that stands there (`step_learning_rate=1e-5`), which moves a larger first step size
    by less. `sequences=0` leaves the network untrained.

    What is ours: every step's gradient makes an update (`update_every=None` waits for the
    sequence's end, as the paper), the weight of locality, and further passes.

    Where a setting is not given, an environment's tuned value stands before the default. Tuned for
    FactWorld in factlm: 20 `sequences`; on streams from 500 edits on 12, with
    `step_learning_rate` 0.05 and `train_env` {"horizon": 40, "locality_weight": 30}.

    Args:
        mode: "paper" (default) or "released", see above.
        rule: How factors become an update: "malmen" (default, the paper's: Tan et al. 2024, eq. 5)
            or "mend" (Mitchell et al. 2022, eq. 3).
        passes: Times that a batch of requests is looked at, 1 or more: after the first time with
            the update so far in effect, to correct it. 1 (default) is the paper's.
        step_size: The first step size η of every site, greater than 0, in units in which the
            untrained network's first update is as long as UltraEdit's with that η. None (default)
            takes the environment's.
        ridge: The first λ of the least squares (Tan et al. 2024, eq. 5) of every site, greater than
            0; 1 by default.
        blocks: Residual blocks of h_φ, 1 or more; 4 by default, as published.
        rank: Rank of a block's product A·B, 1 or more. None (default) takes a quarter of the
            block's width, at most 1,024, which is the published one at 8 billion parameters.
        sequences: Training sequences, each a new stream, 0 or more; budgets may end earlier. 40 by
            default, 1 in the released mode; 1,000 episodes in ShiftWorld.
        learning_rate: Adam's learning rate for h_φ, 0 or more; 1e-4 by default, 1e-5 in the
            released mode.
        step_learning_rate: Adam's learning rate for log η and log λ of the sites, 0 or more; 0.02
            by default. None, the released mode's, takes ten times the first step size.
        update_every: Steps whose gradients make one update, 1 or more; 1 by default. None, the
            released mode's, waits for the whole sequence (algorithm 1).
        linear_decay: Whether the learning rates fall linearly to 0 over the sequences; True by
            default, False in the released mode.
        max_grad_norm: Greatest length of an update's gradient, greater than 0; a longer one is
            scaled. 1 by default; None, the released mode's, leaves it.
        validate_every: Sequences between two looks at a validation stream, 0 or more; the best
            policy seen is kept. 5 by default; 0, the released mode's, never looks. Left out in
            ShiftWorld.
        patience: Looks without a new best after which learning ends, 1 or more; None (default)
            goes on to the end.
        train_env: Arguments of the environment while it learns, other than those of the one that is
            edited, such as the reward's `back_depth`, `decay`, `locality_weight`, `norm_weight`,
            `reference`; what is given adds to the default, {"back_depth": 5,
            "locality_weight": 8}. The released mode's is {"back_depth": 9, "locality_weight": 0.6,
            "norm_weight": 0, "reference": "previous"}. Left out in ShiftWorld.
        start_from: Folder of a saved agent of the same kind, whose policy learning starts from, for
            sites of the same shapes; with `sequences=0` it edits as it was saved. None (default)
            starts anew.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    name = "rledit"
    settings_type: ClassVar[type[Settings]] = RLEditSettings
    settings: RLEditSettings

    def __init__(self, mode: Mode = "paper", **settings: Any) -> None:
        super().__init__(mode=mode, **settings)

    @property
    def rule(self) -> Rule:
        """The settings' rule."""
        return self.settings.rule

    @property
    def log_step(self) -> bool:
        """Whether η is learned by its logarithm; the released code learns η itself."""
        return self.settings.mode == "paper"

    def tuned(self, spec: EnvSpec) -> Mapping[str, Any]:
        """The values that were tuned for an environment's task, model and length of stream; none
        for the released mode.
        """
        return {} if self.settings.mode == "released" else super().tuned(spec)

    @property
    def _episodes(self) -> int:
        return self.settings.sequences if self.settings.mode == "released" else super()._episodes
