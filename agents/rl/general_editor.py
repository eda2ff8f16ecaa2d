"""One policy for every class and every network of a shape: PPO whose network treats hidden units
alike.

A policy that maps weights to an edit by an ordinary MLP learns one edit by heart. What makes an
edit right for a class and a network that it never saw is that neither units nor classes have a
fixed place: permuting the hidden units of a network, or its classes, permutes the edit that is
asked for. So every unit is described by how its weights bear on the forgotten classes against all
others, and one small network, shared by all units, turns that into the unit's part of the edit, its
row of A or its column of B. The policy sees observations alone: the edited weights, those of the
layer after them (`observe_parameters`), and the goal (`observe_task`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import Tensor, nn

from agents.protocol import Unsupported
from agents.rl.agent import SB3Agent
from agents.rl.policies import RefiningEdits
from editgym.envs.sb3 import monitored
from editgym.weights import ActionLayout

_HASH = 0x5851F42D4C957F2D  # any large odd number
_DESCRIPTION = 7  # numbers that describe a unit
# One network shared by all units is learned from many edits: smaller rollouts, more of them, and
# less noise than where one edit is learned by heart.
_PRESET: dict[str, Any] = {
    "rollout": 512,
    "batch_size": 512,
    "learning_rate": 5e-3,
    "final_log_std": -2.5,
    "policy_kwargs": {"log_std_init": -1.5},
}


@dataclass(frozen=True)
class EditorShape:
    """What an observation holds: W (outputs × inputs), the head after it (classes × outputs), the
    goal (classes).

    Attributes:
        outputs: Rows of the edited matrix.
        inputs: Its columns.
        classes: Outputs of the head.
        rank: Columns of A.
    """

    outputs: int
    inputs: int
    classes: int
    rank: int

    @classmethod
    def of(cls, worlds: VectorEnv) -> Self:
        """The shape of an environment's observations.

        Raises:
            Unsupported: They are not those of one site, the layer after it, and the goal.
        """
        layout: ActionLayout = worlds.layout  # type: ignore[attr-defined]
        classes = len(worlds.task.goals[0].features)  # type: ignore[attr-defined]
        outputs, inputs = layout.shapes[0]
        seen = worlds.single_observation_space.shape
        if (
            len(layout.shapes) != 1
            or layout.rank == "full"
            or seen != ((inputs + classes) * outputs + classes,)
        ):
            raise Unsupported(
                "the general editor needs one site with a rank, observe_task=True, and"
                " observe_parameters"
                f'=["NAME.weight"] of the layer of {classes} outputs after it; it observes {seen}'
            )
        return cls(outputs, inputs, classes, layout.rank)


class EquivariantEdit(BaseFeaturesExtractor):
    """Observation -> mean action, (A, B) of one site; equivariant to permutations of units and of
    classes.

    With V the head and W the edited matrix, a hidden unit j is described by column j of V, an input
    i by column i of V·W, the slope of the logits where every unit is on: for the forgotten classes
    the mean, for the others mean, largest and smallest, and the differences; and by the norm of its
    weights in W. Every number is standardised over the units.

    Args:
        observation_space: Box (n,), as `EditorShape` says.
        shape: Its parts, as a dict.
        hidden: Width of the two shared networks.
        start: Standard deviation of A at first; B starts at zero, as in LoRA
            (`agents.rl.policies.lora_start`).
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        shape: dict[str, int],
        hidden: int = 32,
        start: float = 0.5,
    ) -> None:
        self.shape = EditorShape(**shape)
        super().__init__(
            observation_space, self.shape.rank * (self.shape.outputs + self.shape.inputs)
        )
        self.of_outputs, self.of_inputs = (
            _shared_network(hidden, self.shape.rank) for _ in range(2)
        )
        last: nn.Linear = self.of_outputs[-1]  # type: ignore[assignment]
        nn.init.normal_(last.weight, std=3 * start / hidden**0.5)
        nn.init.zeros_(self.of_inputs[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.of_inputs[-1].bias)  # type: ignore[arg-type]

    def forward(self, observations: Tensor) -> Tensor:
        """(batch, n) -> (batch, rank·(outputs + inputs)).

        Candidates that edit the same network for the same goal observe the same, and are computed
        once.
        """
        first, kind = distinct(observations)
        return self._edits(observations[first])[kind]

    def _edits(self, observations: Tensor) -> Tensor:
        s = self.shape
        weight, head, goal = observations.split(
            [s.outputs * s.inputs, s.classes * s.outputs, s.classes], dim=1
        )
        weight, head = weight.view(-1, s.outputs, s.inputs), head.view(-1, s.classes, s.outputs)
        a = self.of_outputs(describe_units(head, goal, weight.norm(dim=2)))
        b = self.of_inputs(describe_units(head @ weight, goal, weight.norm(dim=1)))
        return torch.cat([a.flatten(1), b.transpose(1, 2).flatten(1)], dim=1)


def describe_units(bearing: Tensor, goal: Tensor, norm: Tensor) -> Tensor:
    """What is known of every unit, standardised over the units.

    Args:
        bearing: (batch, classes, units), how each unit bears on each class.
        goal: (batch, classes), 1 for the forgotten classes.
        norm: (batch, units), of the unit's weights.

    Returns:
        (batch, units, 7).
    """
    forgotten = goal.unsqueeze(-1) > 0.5
    count = forgotten.sum(1)
    own = (bearing * forgotten).sum(1) / count
    mean = (bearing * ~forgotten).sum(1) / (bearing.shape[1] - count)
    largest = bearing.masked_fill(forgotten, -torch.inf).amax(1)
    smallest = bearing.masked_fill(forgotten, torch.inf).amin(1)
    described = torch.stack([own, mean, largest, smallest, own - mean, own - largest, norm], dim=-1)
    centred = described - described.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True).sqrt() + 1e-6)


class EquivariantPolicy(ActorCriticPolicy):
    """An actor whose mean action is what `EquivariantEdit` gives, with a standard deviation that
    knows no state.
    """

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.action_net = nn.Identity()
        self.optimizer = self.optimizer_class(
            self.parameters(),
            lr=lr_schedule(1),
            **self.optimizer_kwargs,  # type: ignore[call-arg]
        )


class ContextualEdits(RefiningEdits):
    """`RefiningEdits` where candidates edit several networks for several goals: each is judged by
    its own kind.

    Rewards differ more between classes and networks than between edits, so the baseline is the mean
    over the candidates whose episode began with the same observation.
    """

    def __init__(self, venv: VecEnv, refine: float) -> None:
        super().__init__(venv, refine, baseline=False)
        self._kinds = np.zeros(venv.num_envs, dtype=np.int64)

    def reset(self) -> VecEnvObs:
        """Begin episodes."""
        observations = super().reset()
        self._kinds = _kinds(observations)
        return observations

    def step_wait(self) -> VecEnvStepReturn:
        """What the environments gave, with improvements over the mean of their kind in place of
        rewards.
        """
        observations, gain, dones, infos = super().step_wait()
        means = np.bincount(self._kinds, gain) / np.maximum(np.bincount(self._kinds), 1)
        gain = (gain - means[self._kinds]).astype(np.float32)
        if dones.all():
            self._kinds = _kinds(observations)
        return observations, gain, dones, infos


def distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The first of every set of equal rows, and of which set each row is: (n, size) float32 ->
    (sets,), (n,).

    Rows are compared by an integer hash: sums of floats may differ between equal rows of one batch.
    """
    odd = torch.arange(1, 2 * rows.shape[1], 2, device=rows.device) * _HASH
    numbers = (rows.contiguous().view(torch.int32).long() * odd).sum(1)  # modulo 2⁶⁴
    found, kind = numbers.unique(return_inverse=True)
    first = torch.full((len(found),), len(rows), device=rows.device)
    first.scatter_reduce_(0, kind, torch.arange(len(rows), device=rows.device), "amin")
    return first, kind


class GeneralEditor(SB3Agent):
    """PPO that learns to edit for any goal in any network of one shape, from rewards on some of
    them.

    Learn it on an environment with `goals`, `networks`, `observe_task=True` and
    `observe_parameters`; `edit` then needs no further learning in another one of that shape. It is
    not in the catalogue, whose agents learn where they are tested: its import path is
    `agents.rl.general_editor:GeneralEditor`.

    Args:
        algorithm: PPO.
        hidden: Width of the networks that all units share.
        **settings: As `SB3Agent`; `start` is the standard deviation of A at first.
    """

    def __init__(self, algorithm: str = "ppo", hidden: int = 32, **settings: Any) -> None:
        if algorithm != "ppo":
            raise ValueError(f"algorithm: the general editor is learned by ppo, got {algorithm!r}")
        super().__init__(algorithm, **settings)
        self.config["hidden"] = hidden

    def settings(self, env_spec: EnvSpec) -> dict[str, Any]:
        """The preset with what this agent was given instead."""
        given, self.config = self.config, {**_PRESET, **self.config}
        try:
            return super().settings(env_spec)
        finally:
            self.config = given

    def build(self, env: VecEnv, settings: dict[str, Any], seed: int, device: str) -> BaseAlgorithm:
        """The untrained algorithm; see `SB3Agent.build`."""
        settings = dict(settings)
        extractor = {
            "shape": asdict(self._shape),
            "hidden": settings.pop("hidden"),
            "start": self._start,
        }
        policy_kwargs = {
            "log_std_init": settings.pop("policy_kwargs")["log_std_init"],
            "net_arch": [],
            "ortho_init": False,
            "features_extractor_class": EquivariantEdit,
            "features_extractor_kwargs": extractor,
        }
        return super().build(
            env, {**settings, "sketch": 0, "policy_kwargs": policy_kwargs}, seed, device
        )

    @property
    def policy(self) -> str | type[ActorCriticPolicy]:
        """The kind of policy."""
        return EquivariantPolicy

    def _training_env(
        self, env_spec: EnvSpec, settings: dict[str, Any], seed: int
    ) -> tuple[VecEnv, torch.Tensor | None]:
        if env_spec.vector_entry_point is None:
            raise Unsupported(
                f"{env_spec.id} has no vector environment for the general editor to train on"
            )
        worlds = gym.make_vec(
            env_spec, num_envs=settings["num_envs"], shared_batch=settings["shared_batch"]
        )
        self._shape, self._start = EditorShape.of(worlds), float(settings["start"])
        return ContextualEdits(monitored(worlds), settings["refine"]), None


def _kinds(observations: VecEnvObs) -> np.ndarray:
    return distinct(torch.from_numpy(np.asarray(observations)))[1].numpy()


def _shared_network(hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(_DESCRIPTION, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, outputs),
    )
