"""What is forgotten and what is kept, while an agent learns, in TensorBoard:
`python examples/tensorboard_log.py`, then `tensorboard --logdir runs/tensorboard`.

An environment's `info` has the accuracies of every edit that the agent tries; a callback hands
their means to the logger.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

import gymnasium as gym
import numpy as np
from common import Act, parser, run
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from editgym.envs.sb3 import monitored


class Accuracies(BaseCallback):
    """Logs the means over all environments of whatever `info` calls an accuracy."""

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        for name in infos[0]:
            if name.endswith("_accuracy"):
                mean = np.mean([info[name] for info in infos])
                self.logger.record_mean(f"edit/{name}", float(mean))
        return True


def learn(args: argparse.Namespace) -> Act:
    """Train, and return the deterministic policy."""
    with closing(monitored(gym.make_vec(args.env_id, num_envs=args.num_envs))) as envs:
        settings = {"n_steps": 32, "seed": args.seed, "device": "cpu"}
        model = PPO("MlpPolicy", envs, tensorboard_log=str(args.folder), **settings)
        model.learn(args.total_calls, callback=Accuracies())
    return lambda observation: model.predict(observation, deterministic=True)[0]


def main() -> None:
    """The command line."""
    command_line = parser(__doc__)
    command_line.add_argument("--folder", type=Path, default=Path("runs/tensorboard"))
    run(command_line.parse_args(), learn, agent="SB3 PPO", settings={"n_steps": 32})


if __name__ == "__main__":
    main()
