"""What is searched for one agent in one environment: its parameters, and what they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from agents.configured import ConfiguredAgent
from agents.protocol import Agent, Unsupported
from agents.tune.search import Choice, LogUniform, Scalar, Search, SiteGroups, Uniform, Whole
from agents.tune.site_groups import Groups, site_groups
from editgym.envs.protocol import is_stream, stream_env

_AS_IT_IS = "default"
_LAYERS, _MODULES = "layers", "modules"


@dataclass(frozen=True)
class Range:
    """Numbers between two limits, both included.

    Attributes:
        low: The least.
        high: The greatest.
        log: Whether evenly by their logarithm.
        whole: Whether whole numbers alone.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Parameter:
    """What a trial draws one value of.

    Attributes:
        name: Name of the setting, `setting.key` inside a mapping, `sites.layers` and
            `sites.modules` of a group of sites.
        domain: Where its values are from: a range, or a few values.
        default: What the agent has by itself.
    """

    name: str
    domain: Range | tuple[Scalar, ...]
    default: Scalar


@dataclass(frozen=True)
class Chosen:
    """What the values of all parameters stand for.

    Attributes:
        settings: Settings of the agent, by name; JSON values.
        env_kwargs: Arguments of the environment, by name; JSON values.
    """

    settings: Mapping[str, Any]
    env_kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class Space:
    """Everything that is searched.

    Attributes:
        parameters: What a trial draws values of.
    """

    parameters: tuple[Parameter, ...]
    _base: Mapping[str, Any] = field(repr=False)
    _groups: Mapping[str, Groups] = field(repr=False)

    def describe(self) -> dict[str, Any]:
        """The parameters as JSON values, by name."""
        return {
            one.name: vars(one.domain) if isinstance(one.domain, Range) else list(one.domain)
            for one in self.parameters
        }

    def value(self, parameter: Parameter, drawn: Scalar) -> Scalar:
        """A drawn value as it is tried: of three digits, unless it is the default."""
        if drawn == parameter.default or not isinstance(drawn, float):
            return drawn
        return float(f"{drawn:.3g}")

    def chosen(self, values: Mapping[str, Scalar]) -> Chosen:
        """What values of all parameters stand for."""
        settings: dict[str, Any] = {}
        env_kwargs: dict[str, Any] = {}
        for name, value in values.items():
            whole, _, key = name.partition(".")
            if whole in self._groups:
                continue
            if key:
                settings[whole] = {**settings.get(whole, self._base[whole]), key: value}
            else:
                settings[name] = value
        for name, groups in self._groups.items():
            layers = str(values[f"{name}.{_LAYERS}"])
            if layers == _AS_IT_IS:
                if groups.setting and self._base[name] is not None:
                    settings[name] = self._base[name]
                continue
            modules = str(values.get(f"{name}.{_MODULES}", next(iter(groups.names))[1]))
            names = list(groups.names[layers, modules])
            if groups.setting:
                settings[name] = names[0] if groups.single else names
            if groups.opens:
                env_kwargs["sites"] = names
        return Chosen(settings, env_kwargs)

    def shown(self, values: Mapping[str, Scalar]) -> dict[str, Scalar | None]:
        """Values as tables show them: modules that play no part, where the sites stay as they are,
        are None.
        """
        return {
            name: None
            if name.endswith(f".{_MODULES}")
            and values[name.replace(_MODULES, _LAYERS)] == _AS_IT_IS
            else value
            for name, value in values.items()
        }


def search_space(
    agent: Agent, env: gym.Env, given: Mapping[str, Any], spec: EnvSpec | None = None
) -> Space:
    """What is searched for an agent in an environment.

    Args:
        agent: Made with what was typed, which stays as it is.
        env: An environment that it is tuned in.
        given: The environment's arguments that were typed; sites among them stay as they are, and
            the agent's own are searched among them.
        spec: The environment that the settings are for, whose streams may be longer than those that
            they are tuned on; None where it is the same.

    Raises:
        Unsupported: The agent declares nothing that can be searched there.
    """
    if not isinstance(agent, ConfiguredAgent):
        raise Unsupported(f"{agent.name} declares no settings (agents.configured)")
    settings = agent.resolved(spec or env.spec)
    base = settings.as_dict()
    parameters: list[Parameter] = []
    groups: dict[str, Groups] = {}
    for name, search in {**agent.env_searches, **settings.searches()}.items():
        if name.partition(".")[0] in agent.config or (name in agent.env_searches and name in given):
            continue
        if isinstance(search, SiteGroups):
            if is_stream(env):
                found = site_groups(stream_env(env), search, name in base, "sites" in given)
                if found.names:
                    parameters += _of_groups(name, found)
                    groups[name] = found
        elif (own := _parameter(name, search, base, env)) is not None:
            parameters.append(own)
    if not parameters:
        raise Unsupported(
            f"{agent.name} declares nothing to search here (`search=` of its settings,"
            " agents.configured), or all of it was typed"
        )
    return Space(tuple(parameters), base, groups)


def _parameter(
    name: str, search: Search, base: Mapping[str, Any], env: gym.Env
) -> Parameter | None:
    """The parameter of a setting that is no name of sites; None where it is not searched."""
    default: Any = base
    for key in name.split(".", 1):
        default = default.get(key) if isinstance(default, Mapping) else None
    if default is None and isinstance(search, LogUniform) and search.where_none is not None:
        default = search.where_none(env)
    if default is None:
        return None
    if isinstance(search, Choice):
        return Parameter(name, tuple(dict.fromkeys([*search.options, default])), default)
    assert isinstance(search, LogUniform | Uniform | Whole)
    log = isinstance(search, LogUniform) or (isinstance(search, Whole) and search.log)
    if log and default <= 0:
        return None
    scale = default if isinstance(search, LogUniform) and search.relative else 1
    low, high = min(scale * search.low, default), max(scale * search.high, default)
    if isinstance(search, Whole):
        return Parameter(name, Range(int(low), int(high), log, whole=True), int(default))
    return Parameter(name, Range(float(low), float(high), log), float(default))


def _of_groups(name: str, groups: Groups) -> list[Parameter]:
    """The parameters of groups of sites: the layers, and the modules where there are several."""
    layers, modules = (tuple(dict.fromkeys(keys)) for keys in zip(*groups.names, strict=True))
    found = [Parameter(f"{name}.{_LAYERS}", (_AS_IT_IS, *layers), _AS_IT_IS)]
    if len(modules) > 1:
        found.append(Parameter(f"{name}.{_MODULES}", modules, modules[0]))
    return found
