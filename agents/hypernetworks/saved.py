"""A policy's file: what it tells of its agent, and its η as another agent learns it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from agents.configured import read_config
from editgym.checks import require
from editgym.models.state_files import read_state

POLICY_FILE = "policy.pt"
Sites = list[tuple[str, tuple[int, int]]]
# Before agents were saved with their names, each of these settings was one agent's alone.
_SETTING_OF = {"mode": "rledit", "gate": "hiedit"}


@dataclass(frozen=True)
class SavedKind:
    """What kind of agent a policy was saved by.

    Attributes:
        agent: Its name; None where that cannot be told.
        rule: Its hypernetwork's rule; None where that cannot be told.
        log_step: Whether it learned η by its logarithm.
    """

    agent: str | None
    rule: str | None
    log_step: bool


def load_policy(folder: Path) -> tuple[Sites, dict[str, Any]]:
    """What `LearnedEditor.save` wrote: the sites, and what else there is, on the CPU.

    Raises:
        FileNotFoundError: There is none in `folder`.
        ValueError: The file is damaged.
    """
    if not (folder / POLICY_FILE).is_file():
        raise FileNotFoundError(f"no policy in {folder}: there is no {POLICY_FILE}")
    needed = ("sites", "parameters", "statistics")
    state = read_state(folder / POLICY_FILE, needed, "policy", "train the agent again")
    return [(name, (shape[0], shape[1])) for name, shape in state["sites"]], state


def saved_kind(folder: Path, state: Mapping[str, Any]) -> SavedKind:
    """The kind of a saved agent.

    Args:
        folder: Where it was saved; what older policies do not tell stands in its configuration.
        state: What stands in the file of its policy.

    Raises:
        FileNotFoundError: There is no configuration, and it is needed.
    """
    settings = state["settings"] if "settings" in state else read_config(folder)
    rule = state["statistics"].get("rule") or settings.get("rule")
    # Malmen and Mend have no argument for their rule, which is called as they are.
    own = next((agent for name, agent in _SETTING_OF.items() if name in settings), rule)
    return SavedKind(state.get("agent", own), rule, settings.get("mode") != "released")


def policy_to_start_from(
    folder: Path, name: str, rule: str | None
) -> tuple[Sites, dict[str, Any], SavedKind]:
    """What `load_policy` reads of the policy that another one of its kind starts from.

    Args:
        folder: Where it was saved.
        name: Name of the agent that starts from it.
        rule: That agent's rule; None where it has none.

    Raises:
        FileNotFoundError: There is none in `folder`.
        ValueError: It is that of another agent, or has another rule.
    """
    try:
        sites, state = load_policy(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"start_from: {error}; it is the folder that a trained {name} was saved in, for example"
            " OUT/agent of agents.train"
        ) from error
    kind = saved_kind(folder, state)
    require(kind.agent in (name, None), "start_from", kind.agent, f"the folder of a saved {name}")
    right = f"a {name} with this agent's rule, {rule!r}"
    require(kind.rule in (rule, None), "start_from", kind.rule, right)
    return sites, state, kind


def logarithms(steps: Tensor, sites: Sequence[str], name: str) -> Tensor:
    """log η of every site, (sites,).

    Args:
        steps: η, (sites,).
        sites: The sites' names.
        name: The setting that named the folder, for messages.

    Raises:
        ValueError: An η is not greater than 0.
    """
    bad = {site: step for site, step in zip(sites, steps.tolist(), strict=True) if not step > 0}
    require(
        not bad,
        name,
        bad,
        "a network with η greater than 0 at every site, to take its logarithm",
    )
    return steps.log()
