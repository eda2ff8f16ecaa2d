"""PPO of skrl with its defaults: `python examples/skrl_ppo.py`.

skrl leaves the models to its user: these are its generated ones, of the size that its examples
have. The agent's memory is as long as its rollout, 16 steps of every environment. The learning rate
follows the policy's change, as in skrl's examples: with a fixed one of 1e-3, skrl's default, a
policy of 4,096 actions ended in NaN.
"""

from __future__ import annotations

import argparse
import tempfile

import gymnasium as gym
import numpy as np
import torch
from common import Act, parser, run
from skrl.agents.torch.ppo import PPO, PPO_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.resources.schedulers.torch import KLAdaptiveLR
from skrl.trainers.torch import SequentialTrainer
from skrl.utils import set_seed
from skrl.utils.model_instantiators.torch import deterministic_model, gaussian_model

SCHEDULE = {"kl_threshold": 0.008}
NETWORK = [{"name": "net", "input": "OBSERVATIONS", "layers": [64, 64], "activations": "elu"}]


def learn(args: argparse.Namespace) -> Act:
    """Train, and return the policy of the mean action."""
    set_seed(args.seed)
    envs = gym.make_vec(args.env_id, num_envs=args.num_envs)
    env = wrap_env(envs, wrapper="gymnasium")  # "auto" knows Gymnasium's own classes alone
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
    models = {
        "policy": gaussian_model(**spaces, device="cpu", network=NETWORK, output="ACTIONS"),
        "value": deterministic_model(**spaces, device="cpu", network=NETWORK, output="ONE"),
    }
    config = PPO_CFG(learning_rate_scheduler=KLAdaptiveLR, learning_rate_scheduler_kwargs=SCHEDULE)
    config.experiment.write_interval = config.experiment.checkpoint_interval = 0
    with tempfile.TemporaryDirectory() as config.experiment.directory:
        agent = PPO(
            models=models,
            memory=RandomMemory(memory_size=config.rollouts, num_envs=env.num_envs, device="cpu"),
            cfg=config,
            device="cpu",
            **spaces,
        )
        trainer = {"timesteps": args.total_calls // args.num_envs, "headless": True}
        SequentialTrainer(env=env, agents=agent, cfg=trainer).train()

    def act(observation: np.ndarray) -> np.ndarray:
        inputs = {"observations": torch.as_tensor(observation)[None]}
        with torch.no_grad():
            return models["policy"].act(inputs, role="policy")[1]["mean_actions"][0].numpy()

    return act


if __name__ == "__main__":
    run(
        parser(__doc__).parse_args(),
        learn,
        agent="skrl PPO",
        packages=("skrl",),
        settings={"learning_rate_scheduler": "KLAdaptiveLR", **SCHEDULE},
    )
