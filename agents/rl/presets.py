"""Settings by algorithm, task and length of a stream, as tables; what they leave out has the
defaults of `agents.rl.settings`.

PPO's were chosen on the *validation* split of networks that no report uses (`unlearning/digits`,
model seeds 10–17). What mattered, in order: the LoRA start (from A = B = 0 nothing is learned in
40,000 reward calls), one batch for all candidates of a rollout, no critic, a standard deviation
that falls, and edits after the first as refinements. The paper's values (Malik 2026: clip .2,
max_grad_norm .5, MLP [128, 128] ReLU) are kept; its learning rates 3e-3 and 3e-4, γ .99 and
rollouts of 256 are not.
"""

from __future__ import annotations

from typing import Any

CLASSES = {
    "ppo": "PPO",
    "a2c": "A2C",
    "sac": "SAC",
    "td3": "TD3",
    "ddpg": "DDPG",
    "tqc": "TQC",
    "trpo": "TRPO",
    "ars": "ARS",
    "crossq": "CrossQ",
    "recurrent_ppo": "RecurrentPPO",
}
_NET: dict[str, Any] = {"net_arch": [128, 128], "activation_fn": "relu"}

# A rollout is one episode of many candidates on one batch: they differ by their edits alone.
_ON_POLICY: dict[str, Any] = {
    "rollout": 1_024,
    "shared_batch": True,
    "learning_rate": 5e-3,
    "linear_decay": True,
    "max_grad_norm": 0.5,
    "policy_kwargs": {**_NET, "log_std_init": -1.0},
    "final_log_std": -2.0,
}
_OFF_POLICY: dict[str, Any] = {
    "num_envs": 16,
    "learning_rate": 1e-3,
    "buffer_size": 5_000,
    "batch_size": 256,
    "learning_starts": 512,
    "policy_kwargs": _NET,
}

ALGORITHMS: dict[str, dict[str, Any]] = {
    "ppo": {
        **_ON_POLICY,
        "batch_size": 1_024,
        "n_epochs": 5,
        "gamma": 0.0,
        "vf_coef": 0.0,
        "clip_range": 0.2,
        "target_kl": 1.0,
    },
    "recurrent_ppo": {
        **_ON_POLICY,
        "batch_size": 1_024,
        "n_epochs": 5,
        "gamma": 0.0,
        "vf_coef": 0.0,
        "target_kl": 1.0,
    },
    "a2c": {**_ON_POLICY, "learning_rate": 1e-3},
    "trpo": (
        {key: value for key, value in _ON_POLICY.items() if key != "max_grad_norm"}
        | {"batch_size": 1_024}
    ),
    "sac": _OFF_POLICY,
    "td3": _OFF_POLICY,
    "ddpg": _OFF_POLICY,
    "tqc": _OFF_POLICY,
    "crossq": _OFF_POLICY,
    "ars": {
        "num_envs": 1,
        "sketch": 0,
        "start": 0.0,
        "n_delta": 32,
        "policy_kwargs": {"net_arch": []},
    },
}
# A reward call costs 20 ms here: more and smaller rollouts.
TASKS: dict[tuple[str, str], dict[str, Any]] = {
    ("ppo", "unlearning/cifar10"): {"rollout": 256, "batch_size": 256},
}
# On streams of facts, chosen on validation streams. The rewards of other steps are not the
# action's: no discount, no critic. Mean and spread of 44 coefficients are all that there is to
# learn from 3,200 calls, so the policy is linear in a small sketch. Rewards while learning weigh
# locality 8, not 0.6: with the environment's own weight, the sum of CE and KL still falls where
# twice as many answers about others change as new ones are learned.
_STREAM: dict[str, Any] = {
    "sketch": 4,
    "gamma": 0.0,
    "train_env": {"back_depth": 1, "locality_weight": 8.0},
}
STREAMS: dict[str, dict[str, Any]] = {
    "ppo": {
        **_STREAM,
        "rollout": None,
        "num_envs": 16,
        "n_steps": 5,
        "batch_size": 80,
        "n_epochs": 8,
        "learning_rate": 0.02,
        "clip_range": 0.3,
        "target_kl": 0.5,
        "policy_kwargs": {"net_arch": [], "log_std_init": -1.4},
        "final_log_std": -2.0,
    },
    # It has no discount, and its policy no place for a sketch.
    "ars": {"train_env": _STREAM["train_env"]},
}
# Edits add up: what a longer stream forgets is more than what its last steps are worth. Chosen at
# 50 steps, which is as long as the validation split lasts.
LONG_STREAM = 50
LONG_STREAMS: dict[str, dict[str, Any]] = {
    "ppo": {"train_env": {"back_depth": 1, "locality_weight": 30.0}},
}


def preset(algorithm: str, task: str, steps: int | None = None) -> dict[str, Any]:
    """The hyperparameters of an algorithm for a task, a new dict; the two worlds share them, and so
    do all streams.

    Args:
        algorithm: A key of `CLASSES`.
        task: The task's name.
        steps: Steps of the stream that is edited; None for a world.
    """
    found = dict(ALGORITHMS[algorithm])
    if steps is not None or task.startswith("knowledge/"):
        found |= STREAMS.get(algorithm, _STREAM)
    if steps is not None and steps >= LONG_STREAM:
        found |= LONG_STREAMS.get(algorithm, {})
    return found | TASKS.get((algorithm, task), {})
