"""`help()` of every agent and environment stands alone: a real signature, and a word on each
argument."""

import importlib
import inspect
import pydoc
import re

import gymnasium as gym
import pytest

from agents.catalogue import AGENTS, ALGORITHMS, agent_class
from envs_registry import ENVIRONMENTS

ELSEWHERE = re.compile(r"\b(As|like|see) `(?!editgym|agents\.)[A-Za-z_]+`'s|: As `")


def own_arguments(cls):
    """Names of a class' arguments; what is handed on to something else is none."""
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = inspect.signature(cls).parameters.values()
    return [one.name for one in parameters if one.kind not in kinds]


def told(cls):
    """The arguments that the section `Args` or `Arguments` of a class' docstring has a word on."""
    text = inspect.getdoc(cls) or ""
    section = re.search(r"^(?:Args|Arguments):\n((?:    .*\n|\n)*)", text + "\n", re.M)
    names = re.findall(r"^    (\*{0,2}\w+(?:, \w+)*):", section.group(1) if section else "", re.M)
    return {name.strip("*") for group in names for name in group.split(", ")}


@pytest.mark.parametrize("name", AGENTS)
def test_an_agents_help_tells_every_argument(name):
    cls = agent_class(name)
    arguments = own_arguments(cls)
    assert set(arguments) <= told(cls), f"{cls.__name__}: {set(arguments) - told(cls)}"
    assert all(argument in pydoc.plain(pydoc.render_doc(cls)) for argument in arguments)
    assert not ELSEWHERE.search(inspect.getdoc(cls))


@pytest.mark.parametrize("path", sorted(set(ALGORITHMS.values())))
def test_agents_of_many_algorithms_tell_theirs(path):
    module, _, name = path.partition(":")
    cls = getattr(importlib.import_module(module), name)
    assert "algorithm" in own_arguments(cls)
    assert set(own_arguments(cls)) <= told(cls)


@pytest.mark.parametrize("row", ENVIRONMENTS, ids=lambda row: row.id)
def test_an_environments_help_tells_every_argument(row):
    cls = gym.envs.registration.load_env_creator(row.entry_point)
    arguments = own_arguments(cls)
    assert "task" in arguments
    assert len(arguments) > 10
    assert set(arguments) <= told(cls), f"{cls.__name__}: {set(arguments) - told(cls)}"
    if row.vector_entry_point is None:
        return
    many = gym.envs.registration.load_env_creator(row.vector_entry_point)
    assert set(own_arguments(many)) - set(arguments) <= told(many)
    assert f"`help({cls.__name__})`" in inspect.getdoc(many), "where the other arguments are told"
