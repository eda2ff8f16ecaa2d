"""PPO of TorchRL with its losses' defaults: `python examples/torchrl_ppo.py`.

TorchRL leaves networks, rollouts and learning rates to its user: these are the usual ones of PPO
for continuous actions. `GymEnv("MaskWorld-v1")` is a single environment; here all of them are one
batched environment, in which TorchRL itself says which episodes begin anew.
"""

from __future__ import annotations

import argparse
import json
from contextlib import closing

import gymnasium as gym
import numpy as np
import torch
from common import Act, parser, run
from numpy.typing import NDArray
from tensordict import TensorDict
from tensordict.nn import AddStateIndependentNormalScale, TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import GymWrapper
from torchrl.modules import MLP, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

ROLLOUT, MINIBATCH, EPOCHS = 2_048, 64, 10
LEARNING_RATE, MAX_NORM = 3e-4, 0.5
LOSSES = ("loss_objective", "loss_critic", "loss_entropy")


def learn(args: argparse.Namespace) -> Act:
    """Train, and return the policy of the deterministic action."""
    torch.manual_seed(args.seed)
    with closing(gym.make_vec(args.env_id, args.num_envs, autoreset_mode="disabled")) as envs:
        env = GymWrapper(envs)
        env.set_seed(args.seed)
        actor, value = networks(env)
        loss = ClipPPOLoss(actor, value, **args.settings)
        advantage = GAE(gamma=0.99, lmbda=0.95, value_network=value)
        optimizer = torch.optim.Adam(loss.parameters(), LEARNING_RATE)
        collector = Collector(
            env,
            actor,
            frames_per_batch=min(ROLLOUT, args.total_calls),
            total_frames=args.total_calls,
            auto_register_policy_transforms=True,
        )
        for rollout in collector:
            for _ in range(EPOCHS):
                with torch.no_grad():
                    samples = advantage(rollout).reshape(-1)
                for rows in torch.randperm(len(samples)).split(MINIBATCH):
                    terms = loss(samples[rows])
                    optimizer.zero_grad()
                    sum(terms[name] for name in LOSSES).backward()
                    nn.utils.clip_grad_norm_(loss.parameters(), MAX_NORM)
                    optimizer.step()

    @torch.no_grad()
    def act(observation: NDArray[np.float32]) -> NDArray[np.float32]:
        return actor.get_dist(_observed(observation)).deterministic_sample[0].numpy()

    return act


def networks(env: GymWrapper) -> tuple[ProbabilisticActor, ValueOperator]:
    """A policy whose spread no observation changes, and a value function."""
    observed = env.observation_spec["observation"].shape[-1]
    acted = env.action_spec_unbatched.shape[-1]
    shape = {"num_cells": [64, 64], "activation_class": nn.Tanh}
    mean = nn.Sequential(MLP(observed, acted, **shape), AddStateIndependentNormalScale(acted))
    actor = ProbabilisticActor(
        TensorDictModule(mean, in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=env.full_action_spec_unbatched,
        distribution_class=TanhNormal,
        return_log_prob=True,
    )
    return actor, ValueOperator(MLP(observed, 1, **shape), in_keys=["observation"])


def _observed(observation: NDArray[np.float32]) -> TensorDict:
    return TensorDict({"observation": torch.as_tensor(observation)[None]}, batch_size=1)


def main() -> None:
    """The command line."""
    command_line = parser(__doc__)
    command_line.add_argument(
        "--settings",
        type=json.loads,
        default={},
        metavar="JSON",
        help="""of `ClipPPOLoss`, such as '{"entropy_coeff": 0, "normalize_advantage": true}'""",
    )
    args = command_line.parse_args()
    agent = ", ".join(["TorchRL PPO", *(f"{key}={value}" for key, value in args.settings.items())])
    run(args, learn, agent=agent, packages=("torchrl",), settings=args.settings)


if __name__ == "__main__":
    main()
