"""Settings of the agents that learn from sequences of edits, and the values that were tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from gymnasium.envs.registration import EnvSpec

from agents.configured import Settings, layered, setting
from agents.editors.settings import Table, Tuned, tuned_settings
from agents.editors.stream import own_step_size
from agents.episodes import spec_arguments
from agents.tune.search import LogUniform, Searches
from editgym.checks import Check, above, at_least, optional, whole
from editgym.models.factlm_sites import FACTLM_SITES

INNER = ("train_env",)  # settings whose keys are laid over the others'
FLAG = Check(lambda value: isinstance(value, bool), "true or false")
ARGUMENTS = Check(
    lambda value: isinstance(value, Mapping) and all(isinstance(name, str) for name in value),
    "arguments of the environment by name",
)
SAVED_AGENT = optional(Check(lambda value: isinstance(value, str), "the folder of an agent"))


@dataclass(frozen=True, kw_only=True)
class Learning(Settings):
    """How a policy learns from sequences of edits.

    Attributes:
        sequences: Training sequences, each a new stream, at most; budgets may end earlier.
        learning_rate: Adam's learning rate for networks.
        step_learning_rate: Adam's learning rate for the step sizes and ridges of the sites; None
            for ten times the first step size.
        update_every: Steps whose gradients make one update; None for a whole sequence (Li et al.
            2025, algorithm 1).
        linear_decay: Whether the learning rates fall linearly to 0 over the sequences.
        max_grad_norm: The gradient of an update is scaled to be at most this long; None leaves it.
        validate_every: Sequences between two looks at a validation stream; the best policy seen is
            kept. 0 for none.
        patience: Looks without a new best after which learning ends; None goes on to the end.
        train_env: Arguments of the environment, other than those of the one that is edited, while
            learning.
        start_from: Folder of a saved agent of the same kind, whose policy learning starts from;
            None starts anew.

    Raises:
        ValueError: An attribute is out of range; the message names it.
    """

    sequences: int = setting(40, whole(0))
    learning_rate: float = setting(1e-4, at_least(0), search=LogUniform(1e-6, 1e-2))
    step_learning_rate: float | None = setting(
        0.02, optional(at_least(0)), search=LogUniform(2e-3, 0.2)
    )
    update_every: int | None = setting(1, optional(whole(1)))
    linear_decay: bool = setting(True, FLAG)
    max_grad_norm: float | None = setting(1.0, optional(above(0)))
    validate_every: int = setting(5, whole(0))
    patience: int | None = setting(None, optional(whole(1)))
    train_env: Mapping[str, Any] = setting({}, ARGUMENTS)
    start_from: str | None = setting(None, SAVED_AGENT, names_folder=True)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Settings with these values, and defaults for the rest; `train_env` adds to the default.

        Raises:
            ValueError: A name is not known, or a value is out of its range.
        """
        return super().of(layered(cls.defaults(given), given, INNER))

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Every setting's value where it is not given; it may depend on what is."""
        return cls().as_dict()


# Chosen on validation streams of FactWorld. The environment's own weight of locality, the paper's
# 0.6, lets the reward rise while locality is lost.
REWARD: Mapping[str, Any] = {"back_depth": 5, "locality_weight": 8.0}
REWARD_SEARCH: Searches = {"locality_weight": LogUniform(0.5, 50)}


@dataclass(frozen=True, kw_only=True)
class HypernetworkSettings(Learning):
    """What all agents with a hypernetwork have beside `Learning`.

    Attributes:
        passes: Times that a batch is looked at.
        step_size: The first η, in UltraEdit's units; None takes the task's.
        ridge: The first λ of the least squares.
        blocks: Blocks of h_φ.
        rank: Rank of a block's A·B; None for a quarter of its width, at most 1,024.
    """

    passes: int = setting(1, whole(1))
    step_size: float | None = setting(
        None,
        optional(above(0)),
        search=LogUniform(0.1, 1_000, relative=True, where_none=own_step_size),
    )
    ridge: float = setting(1.0, above(0), search=LogUniform(0.01, 100))
    blocks: int = setting(4, whole(1))
    rank: int | None = setting(None, optional(whole(1)))
    train_env: Mapping[str, Any] = setting(dict(REWARD), ARGUMENTS, search=REWARD_SEARCH)


# Chosen by hand on validation streams of FactWorld, in steps of ten edits.
_HIEDIT: Mapping[str, Any] = {"sites_per_step": 3, "step_size": 3e-3}
_SHORT: Table = {
    "mend": {"sequences": 300},
    "malmen": {"sequences": 300},
    "rledit": {"sequences": 20},
    "hiedit": {**_HIEDIT, "sequences": 16},
}
# On long streams: training sequences are shorter than the stream, since an untrained network wears
# the model out within 60 steps.
_SHORTER: Mapping[str, Any] = {
    "step_learning_rate": 0.05,
    "train_env": {"horizon": 40, "locality_weight": 30.0},
}
_LONG: Table = {
    **_SHORT,
    "rledit": {"sequences": 12, **_SHORTER},
    "hiedit": {**_HIEDIT, "sequences": 8, **_SHORTER},
}
TUNED: tuple[Tuned, ...] = (
    Tuned("knowledge/factworld", "factlm", 1, FACTLM_SITES, _SHORT),
    Tuned("knowledge/factworld", "factlm", 500, FACTLM_SITES, _LONG),
)
_OF_ALL_SITES = ("sites_per_step", "step_size")


def tuned_learning(spec: EnvSpec, agent: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What is tuned for an agent in an environment made from `spec`.

    How many sites a step edits, and how far, was chosen for the task's own sites: where the
    environment opens others it is left out. An agent that is to stay untrained (`sequences=0`) has
    no use for how it would learn, and that is left out too.

    Args:
        spec: The environment's, with its kwargs.
        agent: The agent's name in the catalogue.
        given: The settings that the agent was given.
    """
    left_out: set[str] = set()
    if list(spec_arguments(spec).get("sites") or FACTLM_SITES) != list(FACTLM_SITES):
        left_out.update(_OF_ALL_SITES)
    if given.get("sequences") == 0:
        left_out.update(field.name for field in fields(Learning))
    tuned = tuned_settings(spec, agent, TUNED)
    return {name: value for name, value in tuned.items() if name not in left_out}
