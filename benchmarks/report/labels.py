"""Rows by agent: what agents of one name are called that differ in their settings."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from typing import Any

from benchmarks.report.compared import LabelledAgent
from benchmarks.results import AGENT_FILES, Row, canonical_json
from benchmarks.results.lines import printable
from benchmarks.results.rows import agent_module

_SHORT, _SHORT_LIST = 40, 14  # characters of a name, or of a list in it, that are short enough
# Lists and objects. Globs in quotes have brackets of their own: `'model.layers.[12].mlp'`.
_LISTED = {
    "[…]": re.compile(r"\[((?:'[^']*'|[^\[\]'])*)\](?=[,) ]|$)"),
    "{…}": re.compile(r"\{((?:'[^']*'|[^{}'])*)\}(?=[,) ]|$)"),
}


def by_label(
    rows: Sequence[Row], alike: Set[str] = frozenset(), along: Set[str] = frozenset()
) -> dict[str, list[Row]]:
    """The rows of one stratum by agent; namesakes are told apart by the settings in which they
    differ, as they were typed where that tells them apart. A row without a result knows no files of
    its agent's: it is of every agent that has its settings.

    Args:
        rows: Rows of one stratum.
        alike: Settings that make no difference. The budget never does where no reward is asked for.
        along: Arguments of the environment that go along with agents, as if they were settings.

    Returns:
        label -> rows, one for each seed: the last one, a finished one if there is any.
    """
    by_label: dict[str, dict[int, Row]] = {}
    for agent in dict.fromkeys(row["agent"] for row in rows):
        own = [row for row in rows if row["agent"] == agent]
        ignored = alike if any(row["reward_calls"] for row in own) else alike | {"reward_calls"}
        variants = _variants(own, ignored, along)
        typed: dict[str, dict[str, Any]] = {}
        for found, row in zip(variants, own, strict=True):
            if row["status"] == "finished" or len(found) == 1:
                typed.setdefault(found[0], _described(row, "agent_config", ignored, along))
        suffixes = _suffixes(typed)
        if len(set(suffixes.values())) < len(typed):  # a default has changed between them
            every = {variant: json.loads(variant) for variant in typed}
            suffixes = _suffixes(every)
            if len(set(suffixes.values())) < len(typed):  # 1 and "1"
                suffixes = _suffixes(every, canonical_json)
        for found, row in zip(variants, own, strict=True):
            for variant in found:
                # Settings may be texts of several lines, which would be lines of tables.
                label = printable(agent + suffixes[variant], kept="")
                seeds = by_label.setdefault(label, {})
                done = seeds.get(row["seed"], row)["status"] == "finished"
                if row["status"] == "finished" or not done:
                    seeds[row["seed"]] = row
    return {label: list(seeds.values()) for label, seeds in by_label.items()}


def _variants(own: Sequence[Row], ignored: Set[str], along: Set[str]) -> list[list[str]]:
    """For each row of an agent the variants that it is of: one, or, where it has no result and so
    does not know the agent's files, those of the rows that have one with the same settings.
    """

    def described(row: Row) -> str:
        return canonical_json(
            {
                **{f"env.{name}": row["env_kwargs"].get(name) for name in along},
                **_described(row, "settings", ignored),
            }
        )

    of_settings: dict[str, dict[str, None]] = {}
    for row in own:
        if row["status"] == "finished":
            bare = described({**row, "fingerprints": {}})
            of_settings.setdefault(bare, {})[described(row)] = None
    return [
        [described(row)]
        if row["status"] == "finished" or row["fingerprints"].get(AGENT_FILES)
        else list(of_settings.get(described(row), {described(row): None}))
        for row in own
    ]


def short_names(
    agents: Mapping[str, Sequence[Row]], labelled: Sequence[LabelledAgent]
) -> dict[str, str]:
    """By full name of an agent the short one, `agent (label)`; where the suite has none for its
    configuration, the full one without its lists.

    Args:
        agents: Rows by full name.
        labelled: The configurations that have a short name.
    """
    return told_apart(
        {name: short_name(rows, labelled) or shorter(name) for name, rows in agents.items()}
    )


def told_apart(names: Mapping[str, str]) -> dict[str, str]:
    """By full name the short one; the full one where the short one would be that of two."""
    counted = Counter(names.values())
    return {name: short if counted[short] == 1 else name for name, short in names.items()}


def shorter(name: str) -> str:
    """A long name with `[…]` for its long lists and `{…}` for its long objects."""
    if len(name) <= _SHORT:
        return name
    for short, whole in _LISTED.items():
        name = whole.sub(partial(_shown, short), name)
    return name


def cut(text: str, longest: int) -> str:
    """A text, or as much of its beginning as fits, and an ellipsis."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def fitting(names: Sequence[str], longest: int) -> dict[str, str]:
    """By name as much of it as fits, no two of them alike: the beginning; of those that begin alike
    the beginning and the end; of those that end alike too the beginning and a number.

    Args:
        names: Names, no two of them alike.
        longest: How many characters fit, at least 8.
    """
    short = {name: cut(name, longest) for name in names}
    short |= {name: _middle_out(name, longest) for name in _alike(short)}
    short |= {
        name: f"{name[: longest - 5]}… #{number}" for number, name in enumerate(_alike(short), 1)
    }
    return short


def _alike(short: Mapping[str, str]) -> list[str]:
    """The names that another one has the short name of."""
    counted = Counter(short.values())
    return [name for name, own in short.items() if counted[own] > 1]


def _middle_out(name: str, longest: int) -> str:
    head = longest // 2 - 1
    return name if len(name) <= longest else f"{name[:head]}…{name[head + 1 - longest :]}"


def _shown(short: str, found: re.Match[str]) -> str:
    return short if len(found[1]) >= _SHORT_LIST else found[0]


def short_name(rows: Sequence[Row], labelled: Sequence[LabelledAgent]) -> str | None:
    """The short name of an agent whose rows all have a labelled configuration and the arguments of
    the environment that go along with it; of several, that with the most of these.
    """

    def has(row: Row, one: LabelledAgent) -> bool:
        along = {key: row["env_kwargs"].get(key) for key in one.along}
        own = row["agent"], canonical_json(row["agent_config"]), canonical_json(along)
        return own == (one.agent, canonical_json(one.config), canonical_json(one.along))

    fitting = [one for one in labelled if rows and all(has(row, one) for row in rows)]
    if not fitting:
        return None
    best = max(fitting, key=lambda one: len(one.along))
    return f"{best.agent} ({best.label})"


def _suffixes(
    settings: Mapping[str, Mapping[str, Any]], shown: Callable[[Any], str] = str
) -> dict[str, str]:
    """For each variant of an agent the settings in which it differs from the others, in brackets
    behind a name, values as they are to be shown; those that are null are left out.
    """
    keys = sorted({key for chosen in settings.values() for key in chosen})
    differing = [
        key
        for key in keys
        if len({canonical_json(chosen.get(key)) for chosen in settings.values()}) > 1
    ]
    values = {
        variant: ", ".join(
            f"{key}={shown(chosen[key])}" for key in differing if chosen.get(key) is not None
        )
        for variant, chosen in settings.items()
    }
    return {variant: f" ({text})" if text else "" for variant, text in values.items()}


def at_one_budget(rows: Sequence[Row]) -> list[Row]:
    """The rows of one stratum, of every agent those of one budget: the one that most of them
    have.
    """
    budgets: dict[str, Counter[int | None]] = {}
    for row in rows:
        own = budgets.setdefault(_apart_from_budget(row), Counter())
        own.update([row["budget"]["reward_calls"]])
    usual = {identity: counted.most_common(1)[0][0] for identity, counted in budgets.items()}
    return [row for row in rows if row["budget"]["reward_calls"] == usual[_apart_from_budget(row)]]


def _described(
    row: Row, settings: str, ignored: Set[str], along: Set[str] = frozenset()
) -> dict[str, Any]:
    """A row's settings, by the name of their field, with its budget, its device, the arguments
    that go along with its agent, and the files that it read; of an agent that is not editgym's own
    also the file that it was written in.
    """
    every = {
        **{name: row["env_kwargs"].get(name) for name in along},
        **row[settings],
        "reward_calls": row["budget"]["reward_calls"],
        "device": row["env_kwargs"].get("device"),
    }
    for name, found in (row["fingerprints"].get(AGENT_FILES) or {}).items():
        every[f"SHA-256 of {name}"] = found and found[:12]
    if (known := agent_module(row)) is not None:
        module, found = known
        every[f"SHA-256 of {module}"] = found[:12]
    # A row that is older than a setting does not have it; where it changes nothing it is None.
    return {key: value for key, value in every.items() if key not in ignored and value is not None}


def _apart_from_budget(row: Row) -> str:
    settings = {key: value for key, value in row["settings"].items() if value is not None}
    return canonical_json([row["agent"], settings])
