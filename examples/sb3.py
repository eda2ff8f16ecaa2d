"""Any algorithm of Stable-Baselines3 or sb3-contrib that takes continuous actions, with its
library's defaults: `python examples/sb3.py --algorithm SAC`.

Nothing is chosen but how many environments there are, and the length of the rollouts of the
algorithms that keep them whole: 64 × 32 steps make the 2,048 that PPO has by default.
"""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from typing import Any

import gymnasium as gym
import numpy as np
import sb3_contrib
import stable_baselines3
from common import Act, parser, run
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from editgym.envs.sb3 import monitored

# Off-policy algorithms make a gradient step for each step of all environments: they have one.
OFF_POLICY = ("CrossQ", "DDPG", "SAC", "TD3", "TQC")
SETTINGS: dict[str, dict[str, Any]] = {
    "A2C": {},
    "ARS": {},
    "PPO": {"n_steps": 32},
    "RecurrentPPO": {"n_steps": 32},
    "TRPO": {"n_steps": 32},
    **{name: {} for name in OFF_POLICY},
}


def learn(args: argparse.Namespace) -> Act:
    """Train, and return the deterministic policy."""
    name = args.algorithm
    kind = getattr(stable_baselines3, name, None) or getattr(sb3_contrib, name)
    policy = "MlpLstmPolicy" if name == "RecurrentPPO" else "MlpPolicy"
    with closing(monitored(gym.make_vec(args.env_id, num_envs=args.num_envs))) as envs:
        seen: VecEnv = VecNormalize(envs) if args.normalize else envs
        settings = SETTINGS[name] | args.settings
        model = kind(policy, seen, seed=args.seed, device="cpu", **settings)
        model.learn(args.total_calls)

    def act(observation: NDArray[np.float32]) -> NDArray[np.float32]:
        if isinstance(seen, VecNormalize):
            observation = seen.normalize_obs(observation)
        return model.predict(observation, deterministic=True)[0]

    return act


def main() -> None:
    """The command line."""
    command_line = parser(__doc__)
    command_line.add_argument("--algorithm", choices=sorted(SETTINGS), default="PPO")
    command_line.add_argument("--normalize", action="store_true", help="behind VecNormalize")
    command_line.add_argument(
        "--settings",
        type=json.loads,
        default={},
        metavar="JSON",
        help="""what else is not the default, such as '{"ent_coef": 0.001}'""",
    )
    args = command_line.parse_args()
    name = args.algorithm
    if name in OFF_POLICY:
        args.num_envs = 1
    chosen = ["VecNormalize"] * args.normalize
    chosen += [f"{key}={value}" for key, value in args.settings.items()]
    library = "sb3-contrib" if hasattr(sb3_contrib, name) else "stable-baselines3"
    agent = ", ".join([f"SB3 {name}", *chosen])
    run(args, learn, agent=agent, packages=(library,), settings=SETTINGS[name] | args.settings)


if __name__ == "__main__":
    main()
