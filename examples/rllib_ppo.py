"""PPO of RLlib with its defaults: `python examples/rllib_ppo.py`.

All environments are one batched environment, in this process. RLlib's training batch is 4,000 steps
unless told otherwise; here it is no longer than the number of calls that are left to learn.
"""

from __future__ import annotations

import argparse

import numpy as np
import ray
import torch
from common import Act, parser, run
from numpy.typing import NDArray
from ray.rllib.algorithms.ppo import PPOConfig

import editgym  # noqa: F401 - registers the environments


def learn(args: argparse.Namespace) -> Act:
    """Train, and return the policy of the mean action."""
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    config = (
        PPOConfig()
        .environment(args.env_id, env_config={"autoreset_mode": "next_step"})
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=args.num_envs,
            gym_env_vectorize_mode="vector_entry_point",
        )
        .learners(num_learners=0)
        .debugging(seed=args.seed, log_level="ERROR")
    )
    config.train_batch_size_per_learner = batch = min(4_000, args.total_calls)
    algorithm = config.build_algo()
    for _ in range(args.total_calls // batch):
        algorithm.train()
    module = algorithm.get_module()

    @torch.no_grad()
    def act(observation: NDArray[np.float32]) -> NDArray[np.float32]:
        inputs = {"obs": torch.as_tensor(observation)[None]}
        outputs = module.forward_inference(inputs)["action_dist_inputs"]
        policy = module.get_inference_action_dist_cls().from_logits(outputs)
        return policy.to_deterministic().sample()[0].numpy()

    return act


if __name__ == "__main__":
    run(parser(__doc__).parse_args(), learn, agent="RLlib PPO", packages=("ray",))
