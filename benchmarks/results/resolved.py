"""The settings that an agent works with, in full, and the environment that they depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from benchmarks.results.cell import canonical_json
from envs_registry import environment_spec


def resolved_settings(
    agent: str, config: Mapping[str, Any], env_id: str, env_kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Every setting of an agent in an environment, JSON values: its defaults, over them the tuned
    values of the task, over them what was typed.

    An agent tells them by `resolved(spec)`, as `agents.configured.ConfiguredAgent` does. Of one
    without it, and where agent or environment cannot be made, what was typed is all that is known;
    the cell then fails with the reason when it is run.
    """
    from agents.catalogue import make_agent  # loads PyTorch, which reading rows does without

    try:
        made = make_agent(agent, **config)
        found = made.resolved(environment_spec(env_id, env_kwargs))  # type: ignore[attr-defined]
        settings = found if isinstance(found, Mapping) else found.as_dict()
        return dict(json.loads(canonical_json(settings)))
    except Exception:
        return dict(config)
