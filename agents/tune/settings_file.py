"""The file of settings that a study found, which `agents.train`, `agents.edit` and the leaderboard
take.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import gymnasium as gym

from editgym.paths import whole_file

FILE = "settings.json"
TABLE = "trials.csv"  # of the same study, beside it
_NEEDED = ("agent", "env_id", "task", "model", "settings", "env_kwargs")


@dataclass(frozen=True)
class TunedSettings:
    """What a study found, and what it is for.

    Attributes:
        agent: Catalogue name of the agent, or its import path.
        env_id: Gymnasium id of the environment.
        task: Name of the task.
        model: Fingerprint of the language model (`EditJournal.base_hash`); None in a world.
        settings: Settings of the agent, by name.
        env_kwargs: Arguments of the environment that were tuned with them, by name.
        study: What the study was, for whoever reads the file.
    """

    agent: str
    env_id: str
    task: str
    model: str | None
    settings: Mapping[str, Any]
    env_kwargs: Mapping[str, Any]
    study: Mapping[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the file, completely or not at all."""
        with whole_file(path) as partial:
            partial.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Self | None:
        """What a file's JSON object holds; None where it is not a study's."""
        if not all(name in found for name in _NEEDED):
            return None
        return cls(**{name: found[name] for name in (*_NEEDED, "study") if name in found})

    def check_agent(self, agent: str) -> None:
        """Refuse another agent.

        Raises:
            ValueError: The settings are another agent's.
        """
        if agent != self.agent:
            raise ValueError(
                f"--settings: these settings were tuned for the agent {self.agent}, not for"
                f" {agent}: tune that with python -m agents.tune --agent {agent}"
            )

    def check_env(self, env: gym.Env) -> None:
        """Refuse another model, or in a world another task.

        Raises:
            ValueError: The settings are another model's or task's.
        """
        # These load PyTorch, for which who only reads a file does not wait.
        from agents.episodes import spec_arguments
        from editgym.envs.protocol import edit_env, is_stream

        if self.model is not None:
            model = edit_env(env).journal.base_hash if is_stream(env) else None
            if model != self.model:
                here = "none" if model is None else f"{model[:12]}…"
                raise ValueError(
                    "--settings: these settings were tuned for another language model: its"
                    f" fingerprint is {self.model[:12]}…, here it is {here}; use the same model and"
                    " dtype, or tune again"
                )
            return
        task = "" if env.spec is None else str(spec_arguments(env.spec).get("task", ""))
        here = "" if env.spec is None else env.spec.id
        if (here, task) != (self.env_id, self.task):
            raise ValueError(
                f"--settings: these settings were tuned for {self.env_id} with {self.task}, not for"
                f" {here} with {task}: tune again"
            )
