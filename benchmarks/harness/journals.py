"""What may stand in a journal, by the access of the agent that made it.

| access | worlds | streams of edits |
|---|---|---|
| `reward`, `gradient` | actions of the environment | shifts of open sites, requests left out |
| `data` | edits of open sites, whole tensors | the same, adapters, requests left out |
| `oracle` | anything | anything |

An action is one edit of every site by the environment's operator, whose factors are in the box of
its `layout`; an episode has no more of them than `episode_length`. Adapters are `Codebook` and
`Remember`, which are found by what is asked; `Prepend` puts the right fact before every question,
and so is for `oracle`. Of an environment that shows neither operator nor sites nothing is known but
the length of its episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import gymnasium as gym
import torch

from editgym.envs.protocol import (
    GradientWorld,
    Unsupported,
    edit_env,
    gradient_world,
    is_stream,
    stream_env,
)
from editgym.weights import EditJournal, EditSite, Operator, Shift, SiteEdit
from editgym.weights.journal import Codebook, Remember, ReplaceTensors, Skip

# What packing factors again may add to a number of an action by rounding.
_ROUNDING = 1e-4
_KINDS: dict[str, tuple[type, ...]] = {
    "reward": (SiteEdit, Skip),
    "gradient": (SiteEdit, Skip),
    "data": (SiteEdit, Skip, ReplaceTensors, Codebook, Remember),
}


class ForbiddenEditError(ValueError):
    """A journal holds what the access of its agent does not allow."""


def check_journal(env: gym.Env, journal: EditJournal, access: str) -> None:
    """Refuse a journal that holds what an access does not allow.

    Args:
        env: The environment of the episode, not a guarded one, after its reset.
        journal: The journal.
        access: The agent's.

    Raises:
        ForbiddenEditError: It does; the message names the entry and what would be right.
    """
    if access == "oracle":
        return
    acts, length = access in ("reward", "gradient"), edit_env(env).episode_length
    if acts and journal.steps > length:
        raise ForbiddenEditError(
            f"the journal has edits of {journal.steps} steps, and an episode has {length}"
        )
    if is_stream(env):
        stream = stream_env(env)
        own = getattr(stream, "shift", Shift())
        _check_entries(journal, access, stream.process.sites, (Shift(), own))
        return
    try:
        world = gradient_world(env)
    except Unsupported:
        return
    _check_entries(journal, access, world.sites, (world.operator,))
    if acts:
        for step, entries in groupby(journal, key=lambda entry: entry.step):
            _check_action(world, step, [one for one in entries if isinstance(one, SiteEdit)])


def _check_entries(
    journal: EditJournal, access: str, sites: Sequence[EditSite], operators: Sequence[Operator]
) -> None:
    """Refuse kinds of entries that the access does not have, sites that are not open, and, of who
    may only act, operators that are not the environment's.
    """
    kinds, names = _KINDS[access], [site.name for site in sites]
    for number, entry in enumerate(journal):
        where = f"entry {number} of the journal, {entry.kind}"
        if not isinstance(entry, kinds):
            allowed = ", ".join(kind.__name__ for kind in kinds)
            raise ForbiddenEditError(f"{where}: with the access {access} there may be {allowed}")
        if isinstance(entry, SiteEdit | Codebook) and entry.site not in names:
            raise ForbiddenEditError(
                f"{where}: site {entry.site} is not open; open are {', '.join(names)}"
            )
        if isinstance(entry, SiteEdit) and access != "data" and entry.operator not in operators:
            raise ForbiddenEditError(
                f"{where}: its operator is {entry.operator}, the environment's {operators[0]}"
            )


def _check_action(world: GradientWorld, step: int | None, entries: Sequence[SiteEdit]) -> None:
    """Refuse entries of one step that are no action of the environment."""
    sites = [site.name for site in world.sites]
    if [entry.site for entry in entries] != sites:
        raise ForbiddenEditError(
            f"step {step} edits {[entry.site for entry in entries]}, and an action edits {sites}"
        )
    updates = [entry.update for entry in entries]
    layout = world.layout
    like = layout.unpack(torch.zeros(layout.size))
    for entry, update, one in zip(entries, updates, like, strict=True):
        wanted = (type(one), one.shape, one.bound, getattr(one, "scale", None))
        found = (type(update), update.shape, update.bound, getattr(update, "scale", None))
        if wanted != found or _rank(update) != _rank(one):
            raise ForbiddenEditError(
                f"step {step}, site {entry.site}: an action is a {wanted[0].__name__} of rank"
                f" {_rank(one)} and bound {one.bound}, this is a {found[0].__name__} of rank"
                f" {_rank(update)} and bound {update.bound}"
            )
    largest = float(layout.pack(updates).abs().max())
    if not largest <= 1 + _ROUNDING:
        raise ForbiddenEditError(
            f"step {step} is an action with a number of size {largest:.6g}, outside [−1, 1]"
        )


def _rank(update: object) -> int | str:
    a = getattr(update, "a", None)
    return "full" if a is None else int(a.shape[-1])
