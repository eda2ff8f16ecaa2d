"""Agents by name. A new agent is one class and one row; a stranger's is `package.module:Class`.

`python -m agents.catalogue` prints them as a Markdown table, a line for each class.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

from agents.protocol import Access, Agent
from agents.rl.presets import CLASSES
from agents.unlearning.settings import NAMES as UNLEARNERS
from editgym.checks import shown
from editgym.imports import imported, is_import_path

AGENTS: dict[str, str] = {
    "no_edit": "agents.black_box:NoEdit",
    "random": "agents.black_box:RandomSearch",
    "random_actions": "agents.black_box:RandomActions",
    "cmaes": "agents.black_box:CmaEs",
    "reward_ascent": "agents.rl.reward_ascent:RewardAscent",
    "retrain": "agents.unlearning.retrain:Retrain",
    "last_layer_fine_tune": "agents.debiasing.fine_tuning:LastLayerFineTune",
    "site_fine_tune": "agents.debiasing.fine_tuning:SiteFineTune",
    "linear_frontier": "agents.debiasing.frontier:LinearFrontier",
    "cda_reweight": "agents.debiasing.counterfactual:CdaReweight",
    "leace": "agents.debiasing.leace:Leace",
    "ultraedit": "agents.editors.ultraedit:UltraEditAgent",
    "ft_m": "agents.editors.fine_tuning:FineTuneMatrix",
    "ft_l": "agents.editors.fine_tuning:FineTuneLimited",
    "loc_ft_bf": "agents.editors.loc_ft_bf:LocFTBF",
    "lora_merge": "agents.editors.lora:LoraMerge",
    "in_context": "agents.editors.beside:InContext",
    "retrieve": "agents.editors.beside:Retrieve",
    "grace": "agents.editors.beside:Grace",
    "rome": "agents.editors.rome_memit:Rome",
    "memit": "agents.editors.rome_memit:Memit",
    "alphaedit": "agents.editors.alphaedit:AlphaEdit",
    "memit_seq": "agents.editors.alphaedit:SequentialMemit",
    "mend": "agents.hypernetworks.mend_malmen:Mend",
    "malmen": "agents.hypernetworks.mend_malmen:Malmen",
    "rledit": "agents.hypernetworks.rledit:RLEdit",
    "hiedit": "agents.hypernetworks.hiedit:HiEdit",
    "edit_grpo": "agents.editors.edit_grpo:EditGRPO",
}
SB3_ALGORITHMS = tuple(CLASSES)
# One class each; the name is its argument `algorithm`.
ALGORITHMS: dict[str, str] = {
    **dict.fromkeys(UNLEARNERS, "agents.unlearning.agent:Unlearner"),
    **dict.fromkeys(SB3_ALGORITHMS, "agents.rl.agent:SB3Agent"),
}


class SettingsError(ValueError):
    """A setting that an agent does not take, or a value that is not right for it."""


def agent_names() -> list[str]:
    """Every name that `make_agent` knows."""
    return [*AGENTS, *ALGORITHMS]


def agent_class(name: str) -> type[Agent]:
    """The class behind a name, or behind an import path `package.module:Class`.

    Raises:
        ValueError: There is no such agent, or the import path leads to none.
    """
    path = {**AGENTS, **ALGORITHMS}.get(name, name)
    if not is_import_path(path):
        near = difflib.get_close_matches(name, agent_names(), n=3, cutoff=0.0)
        raise ValueError(
            f"agent: there is no {name!r}; the nearest are {', '.join(near)}. Your own class is "
            "written package.module:Class"
        )
    found: Any = imported(path, "agent", "package.module:Class")
    missing = [
        part
        for part in ("learn", "edit", "save", "load", "name", "access")
        if not hasattr(found, part)
    ]
    if missing:
        raise ValueError(f"agent: {path} lacks {', '.join(missing)}; see agents.protocol.Agent")
    if not isinstance(found, type):
        raise ValueError(f"agent: {path} is {found!r}; write the path of its class")
    return cast(type[Agent], found)


def _check_access(name: str, agent: Agent) -> None:
    if agent.access not in get_args(Access):
        raise ValueError(
            f"agent {name}: access must be one of {', '.join(get_args(Access))}, got"
            f" {agent.access!r}"
        )


def make_agent(name: str, /, **config: Any) -> Agent:
    """The agent called `name`, with its configuration; a `seed` there goes before that of `learn`.

    Raises:
        SettingsError: It takes no such argument, or a value is not right.
        ValueError: There is no such agent, or its `access` is none.
    """
    cls = agent_class(name)
    if name in ALGORITHMS:
        if config.get("algorithm", name) != name:
            raise SettingsError(
                f"agent {name}: algorithm is {config['algorithm']!r}; that is an agent of its own"
                " name"
            )
        config = {"algorithm": name, **config}
    _check_arguments(name, cls, config)
    try:
        agent = cls(**config)
    except (ValueError, TypeError) as error:
        raise SettingsError(f"agent {name}: {error}") from error
    _check_access(name, agent)
    if "seed" in config and hasattr(agent, "seed_given"):
        agent.seed_given = True
    return agent


def _check_arguments(name: str, cls: type[Agent], config: Mapping[str, Any]) -> None:
    """Refuse arguments that a class does not take, and too few of them."""
    parameters = inspect.signature(cls).parameters
    try:
        inspect.signature(cls).bind(**config)
    except TypeError as error:
        unknown = [
            f"{key}={shown(value)}" for key, value in config.items() if key not in parameters
        ]
        given = f" (given {', '.join(unknown)})" if unknown else ""
        raise SettingsError(
            f"agent {name}: {error}{given}; its arguments: {', '.join(parameters) or 'none'}"
        ) from error


def table() -> str:
    """All agents as a Markdown table: a class's names, its access, its docstring's summary, and its
    module in `agents`.
    """
    names: dict[type[Agent], list[str]] = {}
    for name in agent_names():
        names.setdefault(agent_class(name), []).append(name)
    lines = ["| name | access | what it is | module |", "| --- | --- | --- | --- |"]
    for cls, own in names.items():
        summary = " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())
        quoted = " ".join(f"`{name}`" for name in own)
        access = make_agent(own[0]).access
        module = cls.__module__.removeprefix("agents.")
        lines.append(f"| {quoted} | {access} | {summary} | `{module}` |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m agents.catalogue", description="Print the table of agents."
    )
    parser.parse_args(arguments)
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
