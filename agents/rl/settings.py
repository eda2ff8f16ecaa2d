"""What an agent of Stable-Baselines3 learns with: its own settings, and those of the algorithm."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from agents.configured import Settings, setting
from editgym.checks import Check, at_least, is_finite, one_of, optional, whole

REFINE = 0.2
_DICT = Check(lambda v: isinstance(v, Mapping), "a dict")
_SIZES = {"n_steps": optional(whole(1)), "batch_size": optional(whole(1)), "policy_kwargs": _DICT}


@dataclass(frozen=True, kw_only=True)
class SB3Settings(Settings):
    """The settings of `SB3Agent`, which says what they are.

    Attributes:
        hyperparameters: Arguments of the algorithm's class, JSON values, by name; `of` and
            `as_dict` have them beside the other settings.
    """

    num_envs: int | None = setting(None, optional(whole(1)))
    rollout: int | None = setting(None, optional(whole(1)))
    shared_batch: bool = setting(False, one_of(False, True))
    start: float = setting(0.5, at_least(0))
    refine: float = setting(REFINE, at_least(0))
    train_env: Mapping[str, Any] = dataclasses.field(
        default_factory=dict, metadata={"check": _DICT}
    )
    sketch: int = setting(64, whole(0))
    linear_decay: bool = setting(False, one_of(False, True))
    final_log_std: float | None = setting(
        None, optional(Check(lambda v: is_finite(v), "a finite number"))
    )
    hyperparameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, check in _SIZES.items():
            if name in self.hyperparameters:
                check(name, self.hyperparameters[name])

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Settings with these values, and defaults for the rest; a name that is none of the fields
        is a hyperparameter.

        Raises:
            ValueError: A value is out of its range.
        """
        own = {field.name for field in dataclasses.fields(cls)} - {"hyperparameters"}
        return cls(
            **{name: value for name, value in given.items() if name in own},
            hyperparameters={name: value for name, value in given.items() if name not in own},
        )

    def as_dict(self) -> dict[str, Any]:
        """Every setting's value by name, hyperparameters among them."""
        values = super().as_dict()
        hyperparameters = values.pop("hyperparameters")
        return {**values, **hyperparameters}

    def sized(self, episode_length: int) -> Self:
        """The same settings with `num_envs` and `n_steps` settled.

        Args:
            episode_length: Steps of an episode, which a rollout is where `n_steps` is left out.

        Raises:
            ValueError: Neither `rollout` nor `num_envs` is given.
        """
        count, hyperparameters = self.num_envs, dict(self.hyperparameters)
        if self.rollout is not None:
            steps = hyperparameters.setdefault("n_steps", episode_length)
            count = max(1, self.rollout // steps) if count is None else count
        if count is None:
            raise ValueError(
                "num_envs: expected a number of candidates, or a rollout to divide; got neither"
            )
        return dataclasses.replace(self, num_envs=count, hyperparameters=hyperparameters)

    def for_algorithm(self) -> dict[str, Any]:
        """The hyperparameters as SB3 takes them: with the pair that JSON has as a list."""
        found = dict(self.hyperparameters)
        if isinstance(found.get("train_freq"), list):
            found["train_freq"] = tuple(found["train_freq"])
        return found


def signature(kind: type[Settings]) -> inspect.Signature:
    """The signature of an agent with these settings: the algorithm, its settings, and further
    hyperparameters.
    """
    known, parameter = inspect.signature(kind).parameters, inspect.Parameter
    names = [field.name for field in dataclasses.fields(kind) if field.name != "hyperparameters"]
    algorithm = parameter(
        "algorithm", parameter.POSITIONAL_OR_KEYWORD, default="ppo", annotation="str"
    )
    more = parameter("hyperparameters", parameter.VAR_KEYWORD, annotation="Any")
    return inspect.Signature([algorithm, *(known[name] for name in names), more])
