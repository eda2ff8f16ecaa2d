"""What can be forgotten: classes, sets of classes, or random samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Forget = int | Sequence[int]  # a class, or a set of classes


def checked_goals(
    forget_class: Forget, goals: Sequence[Forget] | None, n_classes: int
) -> tuple[tuple[int, ...], ...]:
    """`forget_class` or `goals` as one tuple of classes per goal.

    Raises:
        ValueError: A class does not exist, is named twice, or nothing would be left to retain.
    """
    if goals is not None and not isinstance(goals, list | tuple):
        raise ValueError(f"goals must be a list of classes or of sets of classes, got {goals!r}")
    wanted: list[Any] = [forget_class] if goals is None else list(goals)
    if not wanted:
        raise ValueError("goals is empty: name at least one class, or leave it out")
    checked = []
    for item in wanted:
        classes = list(item) if isinstance(item, list | tuple) else [item]
        valid = all(
            isinstance(c, int) and not isinstance(c, bool) and 0 <= c < n_classes for c in classes
        )
        if (
            not valid
            or not classes
            or len(set(classes)) != len(classes)
            or len(classes) >= n_classes
        ):
            argument = "forget_class" if goals is None else "goals"
            raise ValueError(
                f"{argument}: {item!r} is not a class or a set of different classes from 0 to "
                f"{n_classes - 1} that leaves one to retain"
            )
        checked.append(tuple(sorted(classes)))
    return tuple(checked)


def checked_samples(samples: int | None, available: int) -> int | None:
    """The number of samples to forget, or None.

    Raises:
        ValueError: It is not between 1 and the number of training samples − 1.
    """
    if samples is not None and (
        isinstance(samples, bool) or not isinstance(samples, int) or not 1 <= samples < available
    ):
        raise ValueError(
            f"forget_samples must be from 1 to {available - 1} (the network's training samples but"
            f" one), got {samples!r}"
        )
    return samples
