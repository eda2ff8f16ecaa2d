"""The settings that an agent works with, in full, and the environment that they depend on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from editgym.checks import as_json
from envs_registry import environment_spec


def resolved_settings(
    agent: str, config: Mapping[str, Any], env_id: str, env_kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Every setting of an agent in an environment, JSON values: its defaults, over them the tuned
    values of the task, over them what was typed.

    An agent tells them by `resolved(spec)`, as `agents.configured.ConfiguredAgent` does. Of one
    without it, and where agent or environment cannot be made for another reason than the settings,
    what was typed is all that is known; the cell then fails with the reason when it is run.

    Raises:
        SettingsError: The agent takes no such setting, or a value is not right; the message names
            agent, setting, value and what would be right.
    """
    # Loads PyTorch, which reading rows does without.
    from agents.catalogue import SettingsError, make_agent

    try:
        made = make_agent(agent, **config)
        spec = environment_spec(env_id, env_kwargs)
    except SettingsError:
        raise
    except Exception:
        return dict(config)
    try:
        found = made.resolved(spec)  # type: ignore[attr-defined]
        settings = found if isinstance(found, Mapping) else found.as_dict()
        return dict(as_json(settings, "settings"))
    except ValueError as error:
        raise SettingsError(f"agent {agent} in {env_id}: {error}") from error
    except Exception:
        return dict(config)


def check_environment(
    env_id: str, env_kwargs: Mapping[str, Any], given: Mapping[str, Any], name: str
) -> None:
    """Refuse arguments of an environment that were typed and that it does not take.

    Args:
        env_id: Gymnasium id.
        env_kwargs: The suite's arguments of the environment.
        given: The arguments that were typed.
        name: What they were given to, for messages.

    Raises:
        ValueError: It takes no such argument, or a value is out of its range.
    """
    from agents.episodes import check_arguments

    try:
        spec = environment_spec(env_id, env_kwargs)
    except Exception:
        return
    # An environment or a task that is not here fails with the reason when the cell is run.
    with suppress(ImportError, AttributeError):
        check_arguments(spec, given, name)
