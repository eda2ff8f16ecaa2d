"""Groups of a language model's sites: modules with some roles in one part of the layers."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agents.tune.search import SiteGroups
from editgym.envs.protocol import StreamEnv
from editgym.weights.sites import EditSite, Role, editable_sites, layer_of, role_of


@dataclass(frozen=True)
class Groups:
    """What one setting or argument of names of sites is chosen from.

    Attributes:
        setting: Whether it is a setting of the agent; else an argument of the environment alone.
        opens: Whether the environment has to open the sites.
        single: Whether it is one name.
        names: The sites' names by layers, such as "10-19", and modules, such as
            "gate_proj+up_proj".
    """

    setting: bool
    opens: bool
    single: bool
    names: Mapping[tuple[str, str], Sequence[str]]


def site_groups(env: StreamEnv, search: SiteGroups, setting: bool, fixed: bool) -> Groups:
    """The groups that a search tries in an environment; none where the names of the model's modules
    do not tell their roles.

    Args:
        env: A stream of facts.
        search: What is tried.
        setting: Whether it is for a setting of the agent.
        fixed: Whether the environment's sites stay as they are, and groups are of these.
    """
    task = env.task
    available = env.process.sites if fixed else editable_sites(task.language.model)
    width = task.language.model.config.hidden_size
    by_role: dict[Role, dict[int, list[str]]] = {}
    for site in _of_largest_stack(available):
        role, layer = role_of(site, width), layer_of(site.name)
        if role is not None and layer is not None:
            by_role.setdefault(role, {}).setdefault(layer.number, []).append(site.name)
    layers = sorted({number for numbers in by_role.values() for number in numbers})
    names: dict[tuple[str, str], list[str]] = {}
    for roles in search.roles:
        group: dict[tuple[str, str], list[str]] = {}
        for part in _parts(layers, search.parts):
            chosen = [part[len(part) // 2]] if search.single else part
            sites = [
                n for at in chosen for role in roles for n in by_role.get(role, {}).get(at, ())
            ]
            label = str(chosen[0]) if len(chosen) == 1 else f"{chosen[0]}-{chosen[-1]}"
            group[label, _modules(sites)] = sites[:1] if search.single else sites
        # Not where layers differ: every choice of layers goes with every choice of modules.
        if all(group.values()) and len({modules for _, modules in group}) == 1:
            names |= group
    return Groups(setting, not fixed, search.single, names)


def _of_largest_stack(sites: Sequence[EditSite]) -> list[EditSite]:
    """The sites in the list of layers that has most of them: models of images and text have several
    lists.
    """
    layers = [layer_of(site.name) for site in sites]
    stacks = Counter(layer.stack for layer in layers if layer is not None)
    largest = max(stacks, key=lambda stack: stacks[stack], default=None)
    return [
        site
        for site, layer in zip(sites, layers, strict=True)
        if layer is not None and layer.stack == largest
    ]


def _parts(layers: Sequence[int], count: int) -> list[list[int]]:
    """Layers in parts that are as equal as can be, the lowest first, none of them empty."""
    count = min(count, len(layers))
    bounds = [len(layers) * i // max(count, 1) for i in range(count + 1)]
    return [list(layers[start:end]) for start, end in itertools.pairwise(bounds)]


def _modules(sites: Sequence[str]) -> str:
    """The last names of sites, each once."""
    return "+".join(dict.fromkeys(site.rsplit(".", 1)[-1] for site in sites))
