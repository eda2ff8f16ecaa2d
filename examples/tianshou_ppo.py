"""PPO of Tianshou's high-level interface with its defaults: `python examples/tianshou_ppo.py`.

Tianshou makes every environment singly. Its rollout is 2,048 steps, each of which it sees once
unless told otherwise; ten passes are usual for PPO, and they are the only choice made here.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from common import Act, parser, run
from numpy.typing import NDArray
from tianshou.highlevel.config import OnPolicyTrainingConfig
from tianshou.highlevel.env import EnvFactoryRegistered, VectorEnvType
from tianshou.highlevel.experiment import ExperimentConfig, PPOExperimentBuilder

import editgym  # noqa: F401 - registers the environments

SETTINGS = {"update_step_num_repetitions": 10}
ROLLOUT = 2_048


def learn(args: argparse.Namespace) -> Act:
    """Train, and return the policy of the mean action."""
    experiment = ExperimentConfig(
        seed=args.seed, device="cpu", watch=False, persistence_enabled=False
    )
    rollout = min(ROLLOUT, args.total_calls)
    training = OnPolicyTrainingConfig(
        max_epochs=1,
        epoch_num_steps=args.total_calls // rollout * rollout,
        collection_step_num_env_steps=rollout,
        num_training_envs=args.num_envs,
        **SETTINGS,
    )
    envs = EnvFactoryRegistered(task=args.env_id, venv_type=VectorEnvType.DUMMY)
    builder = PPOExperimentBuilder(envs, experiment, training)
    policy = builder.build().run().world.algorithm.policy

    @torch.no_grad()
    def act(observation: NDArray[np.float32]) -> NDArray[np.float32]:
        return policy.compute_action(observation)

    policy.eval()  # the mean action
    return act


if __name__ == "__main__":
    run(
        parser(__doc__, num_envs=8).parse_args(),
        learn,
        agent="Tianshou PPO",
        packages=("tianshou",),
        settings=SETTINGS,
    )
