"""How good networks are before any edit, on the data that rewards come from."""

from __future__ import annotations

import torch

from editgym.metrics.classification import right_class
from editgym.tasks.protocol import Task

_MOST_LINES = 8


@torch.no_grad()
def unedited_accuracies(task: Task, network: int = 0, goal: int = 0) -> dict[str, float]:
    """The accuracy of an unedited network on every reward set, such as `retain_accuracy` and
    `forget_accuracy`, over all samples of the set.

    A step's info has the same of one batch, as `retain_accuracy_before` and so on.

    Args:
        task: Networks, goals and reward data.
        network: Index of the network.
        goal: Index of the goal, which says what is in the sets.
    """
    correct = right_class(task.networks[network].logits(task.pool.inputs), task.pool.labels)[1]
    members = task.goals[goal].members
    return {f"{name}_accuracy": float(correct[members[name]].mean()) for name in task.set_names}


def unedited_lines(task: Task) -> list[str]:
    """The same as lines of text, one for each network and goal, of many the first ones."""
    pairs = [
        (network, goal) for network in range(len(task.networks)) for goal in range(len(task.goals))
    ]
    lines = []
    for network, goal in pairs[:_MOST_LINES]:
        accuracies = unedited_accuracies(task, network, goal)
        numbers = ", ".join(f"{name} {value:.2%}" for name, value in accuracies.items())
        which = f"network {network}, " if len(task.networks) > 1 else ""
        lines.append(f"unedited, on the reward data, {which}{task.goals[goal].label}: {numbers}")
    if len(pairs) > _MOST_LINES:
        lines.append(f"… and {len(pairs) - _MOST_LINES} more networks and goals")
    return lines
