"""Environments as the leaderboard hands them to agents: they offer what an agent's access allows.

The spec that an agent is given has an entry point, `Offered`, that makes the environment and puts a
`GuardedEnv` around it, which is what `unwrapped` is, or a `GuardedVectorEnv`. It goes to other
processes with the spec, and takes along which meters count there. Under any access test data, and
what `evaluate` makes of them, are for the harness alone, and the retrained network is for `oracle`.

This keeps the careless from reading what is not theirs, and tells them. It is no lock: it is Python
in the agent's own process, where everything can be had by who sets out to.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NoReturn, get_args

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import VectorEnv

from editgym.envs import metering
from editgym.envs.lifelong.view import StreamView
from editgym.envs.protocol import (
    AccessError,
    CandidateEnv,
    GradientEnv,
    GradientStream,
    GradientWorld,
    OpenWorld,
    StreamEnv,
    members,
)

Access = Literal["reward", "gradient", "data", "oracle"]

# A differentiable step is offered with every access: who takes one has the access `gradient`, and
# the harness sees it.
_REWARD = {*members(CandidateEnv), *members(GradientEnv)}
_GRADIENT = {*_REWARD, *members(GradientWorld), *members(GradientStream)}
_OPEN = {*_GRADIENT, *members(OpenWorld), *members(StreamEnv)}
OFFERED: dict[str, set[str]] = {
    "reward": _REWARD,
    "gradient": _GRADIENT,
    "data": _OPEN,
    "oracle": _OPEN,
}
_VECTOR = {"layout", "journal", "autoreset_mode", "num_envs"}
OFFERED_BY_VECTORS: dict[str, set[str]] = {
    "reward": _VECTOR,
    "gradient": _VECTOR,
    "data": {*_VECTOR, "task", "candidates"},
    "oracle": {*_VECTOR, "task", "candidates"},
}


@dataclasses.dataclass(frozen=True)
class Offered:
    """An entry point of environments that offer what an access allows.

    Attributes:
        creator: The entry point of the environment itself: a callable, or `module:name`.
        access: The agent's.
        meters: The meters that rewards are counted into, also in another process.
    """

    creator: Callable[..., Any] | str
    access: Access
    meters: tuple[str, ...]

    def __call__(self, **arguments: Any) -> GuardedEnv | GuardedVectorEnv:
        """Make the environment."""
        metering.join(self.meters)
        env = self._creator(**arguments)
        if isinstance(env, VectorEnv):
            return GuardedVectorEnv(env, self.access)
        return GuardedEnv(env, self.access)

    @property
    def _creator(self) -> Callable[..., Any]:
        return load_env_creator(self.creator) if isinstance(self.creator, str) else self.creator

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._creator)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._creator, name)  # such as `metadata` and `checks` of the class


def offered(spec: EnvSpec, access: Access) -> EnvSpec:
    """The spec of environments that offer what an access allows, and count into the meters that are
    open now.
    """
    guarded = copy.copy(spec)
    for name in ("entry_point", "vector_entry_point"):
        creator = getattr(spec, name)
        if creator is not None and not isinstance(creator, Offered):
            setattr(guarded, name, Offered(creator, access, metering.meters()))
    return guarded


@contextmanager
def only_offered(access: Access, env_id: str) -> Iterator[None]:
    """While the context is open, environments that are made by a registered id are `offered`, too:
    editgym's, and the one with this id.
    """
    before = {
        name: spec
        for name, spec in gym.registry.items()
        if name == env_id or str(spec.entry_point).startswith("editgym.")
    }
    gym.registry.update({name: offered(spec, access) for name, spec in before.items()})
    try:
        yield
    finally:
        gym.registry.update(before)


class _Guard:
    """What guards share: names of the environment within that are offered, and that are not."""

    def _guard(self, env: Any, access: Access, offers: dict[str, set[str]]) -> None:
        self.__env, self.__access, self.__offers = env, access, offers
        self.__shown: dict[int, tuple[Any, Any]] = {}

    def evaluate(self, *_: object, **__: object) -> NoReturn:
        """Refuse: test data are for the harness.

        Raises:
            AccessError: Always.
        """
        raise AccessError("evaluate: what an edit does to test data is for the harness")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        value = getattr(self.__env, name)
        if name not in self.__offers[self.__access]:
            having = [access for access in get_args(Access) if name in self.__offers[access]]
            raise AccessError(
                f"{name}: an agent with the access {self.__access} has none;"
                f" it is offered with {' and '.join(having) or 'no access'}"
            )
        return self._shown(name, value)

    def _shown(self, name: str, value: Any) -> Any:
        """A task without test data, and a process as agents with the access `gradient` have it."""
        if name == "task" or (name == "process" and self.__access == "gradient"):
            known = self.__shown.get(id(value))
            if known is None:
                shown = StreamView(value) if name == "process" else shown_task(value, self.__access)
                known = self.__shown[id(value)] = value, shown
            return known[1]
        return value


class GuardedEnv(_Guard, gym.Env[Any, Any]):
    """An environment that offers agents what their access allows.

    Args:
        env: The environment.
        access: The agent's.
    """

    def __init__(self, env: gym.Env, access: Access) -> None:
        self._guard(env.unwrapped, access, OFFERED)
        self.__env = env
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.metadata, self.render_mode = env.metadata, env.render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """The environment's."""
        return self.__env.reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        """The environment's."""
        return self.__env.step(action)

    def render(self) -> Any:
        """The environment's."""
        return self.__env.render()

    def close(self) -> None:
        """The environment's."""
        self.__env.close()


class GuardedVectorEnv(_Guard, VectorEnv):
    """A vector environment that offers agents what their access allows.

    Args:
        env: The environment.
        access: The agent's.
    """

    def __init__(self, env: VectorEnv, access: Access) -> None:
        self._guard(env.unwrapped, access, OFFERED_BY_VECTORS)
        self.__env = env
        self.num_envs, self.metadata, self.render_mode = env.num_envs, env.metadata, env.render_mode
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.single_observation_space = env.single_observation_space
        self.single_action_space = env.single_action_space

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        """The environment's."""
        return self.__env.reset(seed=seed, options=options)

    def step(self, actions: Any) -> Any:
        """The environment's."""
        return self.__env.step(actions)

    def render(self) -> Any:
        """The environment's."""
        return self.__env.render()

    def close(self, **arguments: Any) -> None:
        """The environment's."""
        self.__env.close(**arguments)


class Withheld:
    """What stands in the place of data and functions that an agent may not have.

    Args:
        what: Its name.
        whose: Who may have it.
    """

    def __init__(self, what: str, whose: str) -> None:
        self.__message = f"{what}: for {whose}"

    def __call__(self, *_: object, **__: object) -> NoReturn:
        """Refuse.

        Raises:
            AccessError: Always.
        """
        raise AccessError(self.__message)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AccessError(self.__message)

    def __getitem__(self, _: object) -> NoReturn:
        raise AccessError(self.__message)

    __len__ = __iter__ = __call__


def shown_task(task: Any, access: Access) -> Any:
    """A task as an agent of some access has it: the same networks and data, but no test split and
    nothing that measures on it, and the retrained network with `oracle` alone.

    Args:
        task: Anything; what it lacks need not be taken away.
        access: The agent's.
    """
    shown = copy.copy(task)
    own = vars(shown)
    splits = own.get("splits")
    if dataclasses.is_dataclass(splits) and hasattr(splits, "test"):
        test: Any = Withheld("task.splits.test", "the harness: no agent sees test data")
        own["splits"] = dataclasses.replace(splits, test=test)  # type: ignore[type-var]
    own["evaluate"] = Withheld("task.evaluate", "the harness: it measures on test data")
    if own.get("retrain") is not None and access != "oracle":
        own["retrain"] = Withheld("task.oracle", "agents with the access oracle")
    return shown
