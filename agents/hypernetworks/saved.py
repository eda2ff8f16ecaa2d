"""A policy's file: what it tells of its agent, and its η as another agent learns it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agents.configured import read_config
from editgym.checks import require

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
    """
    if not (folder / POLICY_FILE).is_file():
        raise FileNotFoundError(f"no policy in {folder}: there is no {POLICY_FILE}")
    state = torch.load(folder / POLICY_FILE, weights_only=True, map_location="cpu")
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
