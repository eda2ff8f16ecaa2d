"""What can be forgotten: classes, sets of classes, given samples, or random samples."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from editgym.checks import is_whole, shown
from editgym.data.images import ImageData, Labelled
from editgym.tasks.protocol import Goal

# A class, or a set of classes; a class is its number or, where classes have names, its name.
Forget = int | str | Sequence[int | str]
Sample = int | str  # a row of the training data, or the name of its file
_NAMED_IN_LABEL = 8


@dataclass(frozen=True)
class GivenSamples:
    """Samples that are to be forgotten, and what a goal that forgets them is called.

    Attributes:
        rows: Their rows in the model split.
        label: What tells them from all others, such as `forget samples 3, 17`.
    """

    rows: tuple[int, ...]
    label: str


def checked_goals(
    forget_class: Forget,
    goals: Sequence[Forget] | None,
    n_classes: int,
    classes: Sequence[str] = (),
) -> tuple[tuple[int, ...], ...]:
    """`forget_class` or `goals` as one tuple of classes per goal.

    Args:
        forget_class: One goal.
        goals: Several goals instead.
        n_classes: The number of classes.
        classes: The classes' names, by their numbers; empty where they have none.

    Raises:
        ValueError: A class does not exist or is named twice, nothing would be left to retain, or a
            goal is there twice.
    """
    if goals is not None and not isinstance(goals, list | tuple):
        raise ValueError(f"goals must be a list of classes or of sets of classes, got {goals!r}")
    wanted: list[Any] = [forget_class] if goals is None else list(goals)
    if not wanted:
        raise ValueError("goals is empty: name at least one class, or leave it out")
    argument = "forget_class" if goals is None else "goals"
    checked = []
    for item in wanted:
        given = list(item) if isinstance(item, list | tuple) else [item]
        numbers = [_number(argument, one, classes) for one in given]
        valid = all(is_whole(c) and 0 <= c < n_classes for c in numbers)
        if (
            not valid
            or not numbers
            or len(set(numbers)) != len(numbers)
            or len(numbers) >= n_classes
        ):
            raise ValueError(
                f"{argument}: {item!r} is not a class or a set of different classes from 0 to "
                f"{n_classes - 1} that leaves one to retain"
            )
        goal = tuple(sorted(numbers))
        if goal in checked:
            raise ValueError(
                f"goals: {item!r} is there twice; an episode draws one of the goals, so name each"
                " once"
            )
        checked.append(goal)
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


def checked_rows(argument: str, given: object, data: ImageData, other: str = "") -> tuple[int, ...]:
    """Rows of the training data, in their order.

    Args:
        argument: What they were given for, for messages.
        given: Whole numbers, or names of files.
        data: The data.
        other: What else would be right, for messages.

    Raises:
        ValueError: There is none, one is no row or no file of the training data, or one is named
            twice.
    """
    listed = list(given) if isinstance(given, list | tuple) else None
    if not listed:
        raise ValueError(
            f"{argument} must be {other}a list of training samples, got {shown(given)}"
        )
    files, total = data.files, len(data.train)
    by_name = {file: row for row, file in enumerate(files)}
    rows: dict[int, object] = {}
    for one in listed:
        row = by_name.get(one, -1) if isinstance(one, str) else one
        if not is_whole(row) or not 0 <= row < total:
            near = difflib.get_close_matches(one, by_name, n=1) if isinstance(one, str) else []
            named = f", or a file of it, such as {(near or files[:1])[0]!r}" if files else ""
            raise ValueError(
                f"{argument}: {one!r} is no row of {data.source}, 0 to {total - 1}{named}"
            )
        if row in rows:
            raise ValueError(f"{argument}: {rows[row]!r} and {one!r} are the same sample twice")
        rows[row] = one
    return tuple(sorted(rows))


def given_samples(
    argument: str, wanted: tuple[int, ...], model_rows: Sequence[int], data: ImageData
) -> GivenSamples:
    """Rows of the training data as samples of the model split.

    Args:
        argument: What they were given for, for messages.
        wanted: Rows of the training data.
        model_rows: The rows that the model split has, in its order.
        data: The data, for messages.

    Raises:
        ValueError: One is not in the model split, or nothing would be left to retain.
    """
    places = {row: place for place, row in enumerate(model_rows)}
    if outside := [row for row in wanted if row not in places]:
        raise ValueError(
            f"{argument}: {_listed(outside, data)} of {data.source} are not in the model split, so"
            f" the network was not trained on them; its {len(places)} rows are, for example,"
            f" {_listed(sorted(places), data)}"
        )
    if len(wanted) >= len(places):
        raise ValueError(
            f"{argument}: {len(wanted)} samples are all of the {len(places)} of {data.source} that"
            " the network was trained on; leave one to retain"
        )
    label = f"forget samples {', '.join(map(str, wanted))}"
    if len(wanted) > _NAMED_IN_LABEL:
        digest = hashlib.sha256(repr(wanted).encode()).hexdigest()[:12]
        label = f"forget {len(wanted)} samples, {wanted[0]} to {wanted[-1]} [{digest}]"
    return GivenSamples(tuple(places[row] for row in wanted), label)


def random_samples(count: int, total: int, seed: int) -> GivenSamples:
    """`count` samples of a model split of `total`, drawn by a seed."""
    drawn = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count]
    return GivenSamples(tuple(drawn.tolist()), f"forget {count} samples")


def class_goal(
    name: str,
    classes: tuple[int, ...],
    parts: Mapping[str, Labelled],
    n_classes: int,
    class_names: Sequence[str],
) -> Goal:
    """The goal to forget classes: the policy split's samples of them, and its others.

    Args:
        name: The task's name, for messages.
        classes: The classes.
        parts: The splits by name, each of which must have samples of both kinds.
        n_classes: The number of classes.
        class_names: Their names; empty where they have none.

    Raises:
        ValueError: A split has no sample of one of the kinds.
    """
    for split, part in parts.items():
        forgotten = is_forgotten(part.labels, classes)
        for kind, found in (("forget", forgotten.any()), ("retain", (~forgotten).any())):
            if not found:
                raise ValueError(
                    f"{name}: the {split} split has no {kind} sample when classes "
                    f"{list(classes)} are forgotten; give more data, divide them with"
                    " stratified=true where the task takes it, or forget other classes"
                )
    forgotten = is_forgotten(parts["policy"].labels, classes)
    features = torch.zeros(n_classes)
    features[list(classes)] = 1
    members = {
        "retain": (~forgotten).nonzero().flatten(),
        "forget": forgotten.nonzero().flatten(),
    }
    named = [class_names[c] if class_names else str(c) for c in classes]
    return Goal("forget " + ", ".join(named), features, members)


def sample_goal(samples: GivenSamples, total: int, pool_labels: Tensor, n_classes: int) -> Goal:
    """The goal to forget samples: they, the others of the model split, and the unseen ones.

    Args:
        samples: The samples, rows of the model split.
        total: How many samples the model split has.
        pool_labels: The labels of the model split and, after them, of the unseen samples, (n,).
        n_classes: The number of classes.
    """
    forgotten = torch.zeros(total, dtype=torch.bool)
    forgotten.index_fill_(0, torch.tensor(samples.rows), True)
    device = pool_labels.device
    members = {
        "retain": (~forgotten).nonzero().flatten().to(device),
        "forget": forgotten.nonzero().flatten().to(device),
        "unseen": torch.arange(total, len(pool_labels), device=device),
    }
    return Goal(samples.label, torch.zeros(n_classes), members)


def is_forgotten(labels: Tensor, classes: Sequence[int]) -> Tensor:
    """Which labels, (n,), are those of the classes."""
    return torch.isin(labels, torch.tensor(classes, device=labels.device))


def _number(argument: str, one: object, classes: Sequence[str]) -> Any:
    """A class's number, by its name where it has one."""
    if not isinstance(one, str):
        # Folders 0 to 11 are sorted as texts: the third is "10", and "2" comes after it.
        if is_whole(one) and str(one) in classes and classes.index(str(one)) != one:
            raise ValueError(
                f"{argument}: {one} could be class number {one}, or the class with the name"
                f" {str(one)!r}, which is number {classes.index(str(one))}; give the name, as a"
                " text"
            )
        return one
    if one in classes:
        return classes.index(one)
    if not classes:
        raise ValueError(
            f"{argument}: {one!r} is a name, and the classes of these data have none; give its"
            " number"
        )
    near = difflib.get_close_matches(one, classes, n=1, cutoff=0.0)
    raise ValueError(
        f"{argument}: there is no class {one!r} (did you mean {near[0]!r}?); the classes are"
        f" {', '.join(classes)}"
    )


def _listed(rows: Sequence[int], data: ImageData) -> str:
    """The first of some rows, with their files where they have any."""
    shown_rows = ", ".join(
        f"{row} ({data.files[row]})" if data.files else str(row) for row in rows[:_NAMED_IN_LABEL]
    )
    return f"rows {shown_rows}" + (" …" if len(rows) > _NAMED_IN_LABEL else "")
