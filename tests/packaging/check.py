"""Whether the installed package works by itself: every id is made, stepped through once and
evaluated, from what the package ships. `make package` runs it in an empty environment.
"""

from pathlib import Path

import gymnasium as gym

import editgym
from envs_registry import ENVIRONMENTS

CHECKOUT = Path(__file__).resolve().parents[2]


def main() -> None:
    assert CHECKOUT not in Path(editgym.__file__).resolve().parents or "site-packages" in str(
        editgym.__file__
    ), f"{editgym.__file__} is the checkout, not what was installed"
    for row in ENVIRONMENTS:
        streams = row.id.startswith("Lifelong")
        env = gym.make(row.id, **({"horizon": 1, "edits_per_step": 2} if streams else {}))
        env.reset(seed=0)
        env.action_space.seed(0)
        _, reward, *_ = env.step(env.action_space.sample())
        metrics = env.unwrapped.evaluate(env.unwrapped.journal).metrics
        print(f"gymnasium {gym.__version__}: {row.id}, reward {reward:.3f}, {len(metrics)} metrics")
        env.close()


if __name__ == "__main__":
    main()
