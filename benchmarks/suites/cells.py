"""The suites by name, and the cells that a suite, or a part of it, is made of."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.results import Cell, canonical_json
from benchmarks.results.resolved import check_environment, resolved_settings
from benchmarks.suites import lifelong, smollm2, worlds
from benchmarks.suites.entry import REWARD_CALLS, Chosen, Entry, Suite
from editgym.imports import imported_as, is_import_path
from editgym.models.folders import is_factlm

SUITES = {
    suite.name: suite
    for suite in (
        Suite("quick", 3, (*worlds.QUICK, lifelong.QUICK)),
        Suite("worlds", 10, worlds.WORLDS),
        Suite("lifelong", 10, lifelong.LIFELONG),
        Suite("full", 10, (*worlds.WORLDS, *lifelong.LIFELONG)),
        Suite("encoder", 5, worlds.ENCODER),
        Suite("paper", 10, worlds.PAPER),
        Suite("attacks", 5, worlds.ATTACKS),
        Suite("deep", 10, worlds.DEEP),
        Suite("backdoor", 10, worlds.BACKDOOR),
        Suite("rewards", 10, worlds.REWARDS),
        Suite("lifelong-ablations", 3, lifelong.ABLATION_STREAMS),
        Suite("lifelong-checkpoints", 3, lifelong.CHECKPOINTS),
        Suite("smollm2", 5, smollm2.STREAMS),
    )
}
Given = Mapping[str, Mapping[str, Any]]


def _settings_here(cell: Cell) -> Mapping[str, Any]:
    return resolved_settings(cell.agent, cell.agent_config, cell.env_id, cell.env_kwargs)


def find_suite(name: str) -> Suite:
    """The suite called `name`, or a stranger's by its import path, under which its rows run.

    Raises:
        ValueError: There is no such suite, or the import path leads to none.
    """
    if not is_import_path(name):
        if name not in SUITES:
            raise ValueError(
                f"{unknown('suite', name, list(SUITES))}. Your own is written package.module:SUITE"
            )
        return SUITES[name]
    return replace(imported_as(Suite, name, "suite"), name=name)


def entries_of(suite: str) -> tuple[Entry, ...]:
    """What the suite of this name compares; nothing where there is no such suite here."""
    try:
        return find_suite(suite).entries
    except ValueError:
        return ()


def cells(
    suite: Suite,
    *,
    tasks: Sequence[str] | None = None,
    env_ids: Sequence[str] | None = None,
    agents: Sequence[str] | None = None,
    given: Given | None = None,
    opened: Given | None = None,
    seeds: int | None = None,
    device: str = "cpu",
    settings_of: Callable[[Cell], Mapping[str, Any]] = _settings_here,
) -> list[Cell]:
    """The cells of `suite`, seed by seed, so that an interrupted run has compared all agents on its
    first seeds.

    Args:
        suite: The suite.
        tasks: Only these tasks. One that the suite does not have, such as `unlearning/custom`,
            takes the place of the suite's tasks of its family; an import path, of all its tasks in
            `env_ids`.
        env_ids: Only these environments of the suite.
        agents: Agents in place of the suite's own; any catalogue name or
            `package.module:Class`. Those that the suite has keep its configuration.
        given: By name of an agent or of a task, settings of the agent, or arguments of the
            environment, that are added to the suite's own and take their place. Where a task is
            given another model, the suite's `sites`, which are names of its own model's layers, do
            not count.
        opened: By name of an agent, arguments of the environment that were tuned with its settings,
            such as `sites`; they give way to the suite's own.
        seeds: Number of seeds in place of the suite's own; an entry's `max_seeds` still holds.
        device: Torch device of the networks.
        settings_of: The settings that a cell's agent works with, in full; found in this process by
            default, which runs the agent's constructor.

    Raises:
        ValueError: A task, an environment or a name in `given` is not there, an agent or an
            environment does not take what it is given, a part stands in a script or notebook, or
            `seeds` is not positive.
    """
    count = suite.seeds if seeds is None else seeds
    if count < 1:
        raise ValueError(f"seeds must be 1 or more, got {count}")
    entries = _chosen(suite, tasks, env_ids)
    given = given or {}
    _check_given(given, entries, agents)
    resolve = _Resolver(settings_of)
    found = (
        resolve(
            _cell(suite, entry, choice, seed, device, given, (opened or {}).get(choice[0], {})),
            entry,
        )
        for seed in range(count)
        for entry in entries
        if entry.max_seeds is None or seed < entry.max_seeds
        for choice in entry.chosen(agents)
    )
    # A name that is given twice is run once.
    return list({cell.id: cell for cell in found}.values())


def _check_given(given: Given, entries: Sequence[Entry], agents: Sequence[str] | None) -> None:
    """Refuse settings of what is not compared, and arguments that an environment does not take."""
    named = {entry.task for entry in entries} | {
        agent for entry in entries for agent, _, _ in entry.chosen(agents)
    }
    for name in given:
        if name not in named:
            raise ValueError(unknown("agent or task to set", name, sorted(named)))
    for entry in entries:
        if typed := given.get(entry.task):
            arguments = {"task": entry.task, **entry.env_kwargs}
            check_environment(entry.env_id, arguments, typed, entry.task)


def unknown(what: str, name: str, offered: Sequence[str]) -> str:
    """The message for a name that is not in `offered`, nearest names first."""
    nearest = difflib.get_close_matches(name, offered, n=3, cutoff=0.4)
    return (
        f"unknown {what} {name!r}: "
        + (f"did you mean {' or '.join(nearest)}? " if nearest else "")
        + f"There are: {', '.join(offered)}"
    )


def _chosen(
    suite: Suite, tasks: Sequence[str] | None, env_ids: Sequence[str] | None
) -> list[Entry]:
    """The entries of the suite that are asked for."""
    offered = _environments(suite)
    for env_id in env_ids or ():
        if env_id not in offered:
            message = unknown(f"environment of suite {suite.name!r}", env_id, offered)
            raise ValueError(message + _elsewhere("env_id", env_id))
    entries = [entry for entry in suite.entries if env_ids is None or entry.env_id in env_ids]
    if tasks is None:
        return entries
    own = {entry.task for entry in entries}
    return [entry for entry in entries if entry.task in tasks] + [
        entry
        for task in tasks
        if task not in own
        for entry in _in_place(suite, entries, task, anywhere=env_ids is not None)
    ]


def _elsewhere(what: str, name: str) -> str:
    """What is said of the suites that have an environment or a task that this one lacks."""
    others = [
        suite
        for suite, one in SUITES.items()
        if any(getattr(entry, what) == name for entry in one.entries)
    ]
    return f"; it is in {', '.join(others)} (--suite)" if others else ""


def _environments(suite: Suite) -> list[str]:
    return list(dict.fromkeys(entry.env_id for entry in suite.entries))


def _in_place(suite: Suite, entries: Sequence[Entry], task: str, anywhere: bool) -> Iterator[Entry]:
    """Entries with a task that the suite does not have: for each environment of its family the
    first that takes no part of the comparison away, with `task` in place of its own.
    """
    from editgym.tasks.catalogue import TASKS

    family = task.partition("/")[0]
    if is_import_path(task):
        if not anywhere:
            raise ValueError(
                f"task {task!r} is not in suite {suite.name!r}: say with --envs in which of its"
                " environments it is to be, or write a suite of your own"
            )
        alike = list(entries)
    else:
        alike = [entry for entry in entries if entry.task.partition("/")[0] == family]
    if not alike or not (is_import_path(task) or task in TASKS):
        offered = list(dict.fromkeys(entry.task for entry in suite.entries))
        if task in offered:
            own = dict.fromkeys(entry.env_id for entry in suite.entries if entry.task == task)
            raise ValueError(
                f"task {task!r} is not in the --envs that were given: suite {suite.name!r} has it"
                f" in {', '.join(own)}"
            )
        message = unknown(f"task of suite {suite.name!r}", task, offered)
        raise ValueError(message + _elsewhere("task", task))
    for entry in {entry.env_id: entry for entry in reversed(alike)}.values():
        budget = REWARD_CALLS.get(task, _budget(entry))
        yield replace(entry, task=task, reward_calls=budget)


def _budget(entry: Entry) -> int | None:
    return REWARD_CALLS.get(entry.task) if entry.reward_calls is None else entry.reward_calls


def _cell(
    suite: Suite,
    entry: Entry,
    choice: Chosen,
    seed: int,
    device: str,
    given: Given,
    opened: Mapping[str, Any],
) -> Cell:
    # The environment's seed goes along with the agent's: the spread over networks belongs in the
    # interval.
    agent, config, along = choice
    typed = given.get(entry.task, {})
    told = "networks" in {**entry.env_kwargs, **typed}  # then no seed says which one it is
    seeded = {} if entry.seed_kwarg is None or told else {entry.seed_kwarg: seed}
    own = {**entry.env_kwargs, **along}
    if _is_another_model(typed, entry):
        own.pop("sites", None)
    return Cell(
        suite.name,
        entry.env_id,
        {"task": entry.task, **seeded, "device": device, **opened, **own, **typed},
        agent,
        {**config, **given.get(agent, {})},
        seed,
        _budget(entry),
    )


def _is_another_model(typed: Mapping[str, Any], entry: Entry) -> bool:
    """Whether the model that is given is not the suite's: factlm, where an entry names none."""
    model, own = typed.get("model"), entry.env_kwargs.get("model")
    return model is not None and model != own and not (own is None and is_factlm(str(model)))


class _Resolver:
    """Gives cells the settings of their agents in full; those of one agent in one environment are
    found once for all seeds.
    """

    def __init__(self, settings_of: Callable[[Cell], Mapping[str, Any]]) -> None:
        self._settings_of = settings_of
        self._found: dict[str, Mapping[str, Any]] = {}

    def __call__(self, cell: Cell, entry: Entry) -> Cell:
        """The cell, with its settings."""
        cell.check_modules()
        arguments = {
            key: value for key, value in cell.env_kwargs.items() if key != entry.seed_kwarg
        }
        described = (cell.agent, cell.agent_config, cell.env_id, arguments)
        key = canonical_json(described)
        if key not in self._found:
            self._found[key] = self._settings_of(replace(cell, env_kwargs=arguments))
        return replace(cell, settings=self._found[key])
