"""How a Stable-Baselines3 policy reads a network's weights, and where it starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import Tensor, nn

from editgym.weights import ActionLayout

_LARGEST_TANH = 0.999
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU}


class WeightSketch(BaseFeaturesExtractor):
    """Weights -> a fixed random projection to a few numbers, normalised.

    Thousands of raw weights make the first layer of an MLP policy nine tenths of its cost, and
    their scale differs from network to network. A Gaussian projection keeps their distances
    (Johnson and Lindenstrauss 1984), the layer norm their direction, at the cost of one product
    without gradient.

    Args:
        observation_space: Box (n,).
        size: Numbers that the policy sees.
    """

    def __init__(self, observation_space: spaces.Box, size: int = 64) -> None:
        super().__init__(observation_space, size)
        numbers = observation_space.shape[0]
        projection = torch.randn(
            numbers, size, generator=torch.Generator().manual_seed(0)
        ) / math.sqrt(numbers)
        self.register_buffer("projection", projection)

    def forward(self, observations: Tensor) -> Tensor:
        """(batch, n) -> (batch, size)."""
        projected = observations @ self.projection  # type: ignore[operator]
        return F.layer_norm(projected, (self.features_dim,))


class RefiningEdits(VecEnvWrapper):
    """What lets a policy learn several edits in a row: later edits are refinements, judged by what
    they improve.

    Edits compound. A policy whose every edit is as large as the first one it needs goes far past
    the goal in a long episode, and its exploration noise adds up. So the actions after an episode's
    first are multiplied by `refine` (D is a product and shrinks by its square). And where a reward
    is that of the weights as they are, most of what candidates differ by late in an episode is due
    to their earlier edits. So a step is rewarded by its improvement over the step before
    (potential-based shaping; Ng, Harada and Russell 1999), which some environments pay themselves,
    and, with `baseline`, less the mean over the candidates (a group baseline, as in RLOO and GRPO).

    Args:
        venv: Environments whose episodes end together.
        refine: From 0 (one edit, then none) to 1 (all alike).
        improving: Whether the environments' rewards are improvements already, as with
            `reward="improvement"`.
        baseline: Whether to take off the candidates' mean. Only for on-policy learning: in a replay
            buffer, rewards less the mean of different policies cannot be compared.
    """

    def __init__(self, venv: VecEnv, refine: float, improving: bool, baseline: bool = True) -> None:
        super().__init__(venv)
        self.refine, self.improving = refine, improving
        self.baseline = (
            baseline and venv.num_envs > 1
        )  # one candidate less its own mean would always be 0
        self._before: np.ndarray | None = None

    def reset(self) -> VecEnvObs:
        """Begin episodes."""
        self._before = None
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        """Pass the actions on, scaled after the first."""
        self.venv.step_async(actions if self._before is None else self.refine * actions)

    def step_wait(self) -> VecEnvStepReturn:
        """What the environments gave, with improvements in place of rewards."""
        observations, rewards, dones, infos = self.venv.step_wait()
        before = None if self.improving else self._before
        gain = rewards if before is None else rewards - before
        self._before = None if dones.all() else rewards
        return observations, gain - gain.mean() if self.baseline else gain, dones, infos


def mlp_policy(given: Mapping[str, Any], sketch: int) -> dict[str, Any]:
    """The arguments of an MLP policy as SB3 takes them.

    Args:
        given: JSON values; the activation function is a key of `ACTIVATIONS`.
        sketch: How many numbers the policy sees of the weights; 0 for all.

    Raises:
        ValueError: There is no such activation function.
    """
    arguments = dict(given)
    if "activation_fn" in arguments:
        activation = arguments["activation_fn"]
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation_fn: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}"
            )
        arguments["activation_fn"] = ACTIVATIONS[activation]
    if sketch:
        arguments |= {
            "features_extractor_class": WeightSketch,
            "features_extractor_kwargs": {"size": sketch},
        }
    return arguments


def lora_start(layout: ActionLayout, scale: float, generator: torch.Generator) -> Tensor:
    """An action that is no edit and yet no saddle point: A random, B zero, as LoRA starts (Hu et
    al. 2022, sect. 4.1).

    At A = B = 0 the product A·B has no gradient, and a policy that starts there has to find its way
    out by noise alone; at this point the product is zero too, but linear in B. With `rank="full"`
    or `origin="lora"` the zero action is no saddle and is returned.

    Args:
        layout: How an action holds the factors.
        scale: Standard deviation of A's entries, which are cut at ±1.
        generator: Draws them.

    Returns:
        (layout.size,) in [−1, 1].
    """
    if layout.rank == "full" or layout.origin == "lora":
        return torch.zeros(layout.size)
    parts = []
    for rows, columns in layout.shapes:
        a = scale * torch.randn(rows * layout.rank, generator=generator)
        parts += [a.clamp(-1, 1), torch.zeros(layout.rank * columns)]
    return torch.cat(parts)


def set_mean_action(model: BaseAlgorithm, action: Tensor) -> bool:
    """Make the untrained policy's mean action `action`, by the bias of its last layer.

    Returns:
        Whether this kind of policy has such a layer; if not, it is left as it is.
    """
    policy: Any = model.policy
    layers: list[tuple[nn.Linear, Tensor]] = []
    squashed = torch.atanh(action.clamp(-_LARGEST_TANH, _LARGEST_TANH))
    if hasattr(policy, "action_net"):  # PPO, A2C, TRPO
        layers.append((_last_linear(policy.action_net), action))
    for actor in (
        getattr(policy, "actor", None),
        getattr(policy, "actor_target", None),
    ):  # SAC, TD3, TQC, ...
        if actor is not None and hasattr(actor, "mu"):
            layers.append((_last_linear(actor.mu), squashed))
    for layer, value in layers:
        with torch.no_grad():
            layer.bias.copy_(value)
    return bool(layers)


def silence_critic(model: BaseAlgorithm) -> None:
    """Make an actor-critic's value 0 everywhere; with `vf_coef=0` it stays so.

    Where rewards have a group baseline already, and differ by thousandths, what a critic has not
    learned yet is most of the advantage.
    """
    head: nn.Linear = model.policy.value_net  # type: ignore[assignment]
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)


def _last_linear(module: nn.Module) -> nn.Linear:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
