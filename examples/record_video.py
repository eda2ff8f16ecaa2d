"""A video of a policy that edits a network step by step: `python examples/record_video.py`.

Four edits make an episode here; `--folder` gets an mp4 file of it. Gymnasium's `RecordVideo` needs
`pip install "editgym[video]"`.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import gymnasium as gym
from common import parser
from gymnasium.wrappers import RecordVideo
from stable_baselines3 import PPO

from editgym.envs.sb3 import monitored

EDITS = 4


def main() -> None:
    """Train, and record an episode."""
    command_line = parser(__doc__)
    command_line.add_argument("--folder", type=Path, default=Path("runs/video"))
    args = command_line.parse_args()
    arguments = {"episode_length": EDITS}
    with closing(monitored(gym.make_vec(args.env_id, args.num_envs, **arguments))) as envs:
        model = PPO("MlpPolicy", envs, n_steps=32, seed=args.seed, device="cpu")
        model.learn(args.total_calls)
    env = gym.make(args.env_id, render_mode="rgb_array", **arguments)
    with closing(RecordVideo(env, str(args.folder), disable_logger=True)) as recorded:
        observation, _ = recorded.reset(seed=args.seed)
        for _ in range(EDITS):
            action, _ = model.predict(observation, deterministic=True)
            observation, *_ = recorded.step(action)
    for file in sorted(args.folder.glob("*.mp4")):
        print(file)


if __name__ == "__main__":
    main()
