"""How good networks are before any edit, on the data that rewards come from."""

from __future__ import annotations

import torch
from torch import Tensor

from editgym.tasks.protocol import Task, score_of

_MOST_LINES = 8


def unedited_accuracies(task: Task, network: int = 0, goal: int = 0) -> dict[str, float]:
    """The accuracy of an unedited network on every reward set, such as `retain_accuracy` and
    `forget_accuracy`, over all samples of the set.

    A step's info has the same of one batch, as `retain_accuracy_before` and so on.

    Args:
        task: Networks, goals and reward data.
        network: Index of the network.
        goal: Index of the goal, which says what is in the sets.
    """
    return _by_set(task, _right(task, network), goal)


def unedited_lines(task: Task) -> list[str]:
    """The same as lines of text, one for each network and goal, of many the first ones."""
    lines: list[str] = []
    for network in range(len(task.networks)):
        if len(lines) >= _MOST_LINES:
            break
        right = _right(task, network)
        which = f"network {network}, " if len(task.networks) > 1 else ""
        for goal in range(min(len(task.goals), _MOST_LINES - len(lines))):
            numbers = ", ".join(
                f"{name} {value:.2%}" for name, value in _by_set(task, right, goal).items()
            )
            lines.append(
                f"unedited, on the reward data, {which}{task.goals[goal].label}: {numbers}"
            )
    if more := len(task.networks) * len(task.goals) - len(lines):
        lines.append(f"… and {more} more networks and goals")
    return lines


@torch.no_grad()
def _right(task: Task, network: int) -> Tensor:
    """Whether an unedited network is right about each sample of the reward data, (n,), 0 or 1."""
    return score_of(task)(task.networks[network].logits(task.pool.inputs), task.pool.labels)[1]


def _by_set(task: Task, right: Tensor, goal: int) -> dict[str, float]:
    members = task.goals[goal].members
    return {f"{name}_accuracy": float(right[members[name]].mean()) for name in task.set_names}
