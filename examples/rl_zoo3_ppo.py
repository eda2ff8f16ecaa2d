"""PPO trained by rl_zoo3 from `rl_zoo3.yml`: `python examples/rl_zoo3_ppo.py`.

It calls rl_zoo3's own command line; the file says what one would type in a shell.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from unittest import mock

from common import Act, parser, run
from rl_zoo3.train import train
from stable_baselines3 import PPO

SETTINGS = Path(__file__).with_name("rl_zoo3.yml")
ROLLOUT = 2_048


def learn(args: argparse.Namespace) -> Act:
    """Train, and return the deterministic policy of the saved model."""
    rollout = min(ROLLOUT, args.total_calls)
    with tempfile.TemporaryDirectory() as folder:
        steps = rollout // args.num_envs
        command = (
            f"rl_zoo3.train --algo ppo --env {args.env_id} --gym-packages editgym"
            f" --conf-file {SETTINGS} --n-timesteps {args.total_calls}"
            f" --hyperparams n_envs:{args.num_envs} n_steps:{steps} --seed {args.seed}"
            f" --eval-freq -1 --log-folder {folder} --device cpu --verbose 0"
        )
        with mock.patch.object(sys, "argv", command.split()):
            train()
        (saved,) = Path(folder).glob(f"ppo/*/{args.env_id}.zip")
        model = PPO.load(saved, device="cpu")
    return lambda observation: model.predict(observation, deterministic=True)[0]


if __name__ == "__main__":
    run(
        parser(__doc__, num_envs=8).parse_args(),
        learn,
        agent="rl_zoo3 PPO",
        packages=("rl_zoo3", "stable-baselines3"),
        settings={"n_steps": "2048 / num_envs"},
    )
