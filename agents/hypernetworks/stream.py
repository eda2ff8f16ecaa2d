"""What hypernetwork policies need of an environment, and ShiftWorld in that form."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import torch
from gymnasium.envs.registration import EnvSpec
from torch import Tensor

from agents.editors.stream import stream_process
from agents.protocol import Unsupported
from editgym.envs import metering
from editgym.envs.worlds.env import WeightEditingEnv
from editgym.metrics.classification import right_class
from editgym.weights import (
    DenseUpdate,
    Entry,
    LowRankFactors,
    Shift,
    SiteEdit,
    Update,
    full_precision,
)
from editgym.weights.closed_form import principal_directions
from editgym.weights.site_pass import Capture
from editgym.weights.sites import EditSite

_SAMPLES = 512  # of each reward set that keys and gradients are taken from
_FULL_RANK_DIRECTIONS = 4
_STEP_SIZE = 1e-3


class Rewarded(Protocol):
    """What a differentiable step gives."""

    @property
    def reward(self) -> Tensor:
        """Scalar, with gradients to the updates."""
        ...


class EditStream(Protocol):
    """Batches to be edited one after the other; `LifelongProcess` is one, and `WorldStream`."""

    @property
    def sites(self) -> tuple[EditSite, ...]:
        """What is edited."""
        ...

    @property
    def device(self) -> torch.device:
        """Where keys and gradients live."""
        ...

    @property
    def step_size(self) -> float:
        """UltraEdit's η for the model."""
        ...

    @property
    def horizon(self) -> int:
        """Steps in an episode."""
        ...

    @property
    def over(self) -> bool:
        """Whether all batches have been edited."""
        ...

    @property
    def capture(self) -> Capture:
        """Keys and gradients of the new batch."""
        ...

    def reset(self, seed: int) -> None:
        """Begin the episode that `seed` draws."""
        ...

    def captured_after(self, updates: Sequence[LowRankFactors]) -> Capture:
        """The same with one more update per site, which is not applied."""
        ...

    def differentiable_step(self, updates: Sequence[LowRankFactors]) -> Rewarded:
        """Apply one update per site; the reward has gradients to it."""
        ...

    def candidate_rewards(self, updates: Sequence[LowRankFactors]) -> Tensor:
        """Rewards (K,) of K candidates, none of which is applied."""
        ...

    def advance(self, entries: Sequence[Entry]) -> object:
        """Apply journal entries as this step's edit."""
        ...


@dataclass(frozen=True)
class _Outcome:
    reward: Tensor


@dataclass(frozen=True)
class _RewardSets:
    """The samples that gradients are taken from: what no edit changes of them, labels, and how many
    of each set.
    """

    activations: tuple[Tensor, ...]
    labels: Tensor
    sizes: list[int]


class WorldStream:
    """ShiftWorld as a stream: the gradient of its own reward takes the place of new requests' keys
    and gradients.

    The reward's gradient by a site's matrix, over the policy split's reward sets or 512 samples of
    a larger one, has singular directions; the r largest stand for r tokens, u_j σ_j as output
    gradients and v_j as keys, so that an update of one product per token has the environment's rank
    r; with `rank="full"` r is 4. Updates are put into the box of actions by scaling the two factors
    of a product to equal size; what is beyond it is clipped. Every such gradient counts as one
    reward call, as the edit itself does.

    Args:
        env: A `ShiftWorld-v0`; it has to be reset.

    Raises:
        Unsupported: It is another environment: a mask has no sum of products.
    """

    def __init__(self, env: gym.Env) -> None:
        world = env.unwrapped
        if not isinstance(world, WeightEditingEnv) or not isinstance(world.process.operator, Shift):
            raise Unsupported(
                "hypernetworks add to weights: LifelongLLMEdit-v0 and ShiftWorld-v0 take that, not "
                f"{world}"
            )
        self._env, self._world = env, world
        self._limit = world.process.operator.limit
        self._steps = 0
        self._seen: Capture | None = None
        self._reward_sets: dict[tuple[int, int], _RewardSets] = {}  # by network and goal

    @property
    def sites(self) -> tuple[EditSite, ...]:
        """The environment's."""
        return self._world.network.sites

    @property
    def device(self) -> torch.device:
        """The task's."""
        return self._world.task.device

    @property
    def step_size(self) -> float:
        """1e-3, with which the identity network's update stays well within the box."""
        return _STEP_SIZE

    @property
    def horizon(self) -> int:
        """The environment's episode length."""
        return self._world.episode_length

    @property
    def over(self) -> bool:
        """Whether the episode is."""
        return self._steps >= self.horizon

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode; None goes on with the environment's own random stream."""
        self._env.reset(seed=seed)
        self._steps, self._seen = 0, None

    @property
    def capture(self) -> Capture:
        """Principal keys and gradients of minus the reward, (r, in) and (r, out) per site."""
        if self._seen is None:
            self._seen = self._captured(self._world.network.weights)
        return self._seen

    def captured_after(self, updates: Sequence[LowRankFactors]) -> Capture:
        """`capture` as it would be after one more update per site."""
        unpacked = self._world.layout.unpack(self._action(updates).detach())
        shift = self._world.process.operator
        return self._captured(
            [
                shift.edited(weight, update)
                for weight, update in zip(self._world.network.weights, unpacked, strict=True)
            ]
        )

    def differentiable_step(self, updates: Sequence[LowRankFactors]) -> Rewarded:
        """`ShiftWorld-v0`'s."""
        outcome = self._world.differentiable_step(self._action(updates))
        self._finish()
        return _Outcome(outcome.reward[0])

    def candidate_rewards(self, updates: Sequence[LowRankFactors]) -> Tensor:
        """Not to be had: the environment scores a candidate by applying it."""
        raise Unsupported(
            'gate="sampled" needs candidates of one state; use gate="straight_through" on'
            " ShiftWorld-v0"
        )

    def advance(self, entries: Sequence[Entry]) -> None:
        """Take low-rank shifts as the step's action; sites that none is for are left alone."""
        by_site = {entry.site: entry.update for entry in entries if isinstance(entry, SiteEdit)}
        rank = self._rank
        updates = []
        for site, weight in zip(self.sites, self._world.network.weights, strict=True):
            update = by_site.get(site.name)
            assert update is None or isinstance(update, LowRankFactors)
            updates.append(
                update
                or LowRankFactors(
                    weight.new_zeros(site.shape[0], rank), weight.new_zeros(rank, site.shape[1])
                )
            )
        self._env.step(self._action(updates).detach().cpu().numpy())
        self._finish()

    # --- inside -----------------------------------------------------------------------------------

    def _finish(self) -> None:
        self._steps += 1
        self._seen = None

    @property
    def _rank(self) -> int:
        rank = self._world.layout.rank
        return _FULL_RANK_DIRECTIONS if isinstance(rank, str) else rank

    def _action(self, updates: Sequence[LowRankFactors]) -> Tensor:
        """Updates as the environment's flat action."""
        rank = self._world.layout.rank
        parts: list[Update] = []
        for update in updates:
            if isinstance(rank, str):
                parts.append(DenseUpdate((update.matrix() / self._limit).clamp(-1, 1)))
                continue
            if update.a.shape[-1] != rank:
                raise Unsupported(
                    f"an update of rank {update.a.shape[-1]} is no action of rank {rank}: use"
                    ' passes=1, or rank="full" in the environment'
                )
            with torch.no_grad():
                sizes = (
                    update.a.abs().amax(0).clamp(min=1e-12),
                    update.b.abs().amax(1).clamp(min=1e-12),
                )
                balance = (sizes[1] / sizes[0]).sqrt()
            unit = math.sqrt(math.sqrt(rank) / self._limit)
            parts.append(
                LowRankFactors(
                    (update.a * (balance * unit)).clamp(-1, 1),
                    (update.b * (unit / balance)[:, None]).clamp(-1, 1),
                )
            )
        return self._world.layout.pack(parts)

    def _captured(self, weights: Sequence[Tensor]) -> Capture:
        """Keys and gradients with these matrices at the sites."""
        world, task, rewards = self._world, self._world.task, self._world.process.rewards
        samples = self._samples
        leaves = [weight.detach().requires_grad_() for weight in weights]
        with torch.enable_grad(), full_precision():  # backward too
            logits = world.network.candidate_logits(
                [leaf.unsqueeze(0) for leaf in leaves], samples.activations
            )[0]
            right = right_class(logits, samples.labels)[0]
            means = [part.mean().reshape(1) for part in right.split(samples.sizes)]
            scores = dict(zip(task.set_names, means, strict=True))
            cost = -(rewards.alpha * task.utility(scores) + rewards.beta * task.edit(scores)).sum()
            cost = cost + world.process.probe_cost([leaf.unsqueeze(0) for leaf in leaves]).sum()
            found = torch.autograd.grad(cost, leaves)
        metering.record(1)
        directions = [principal_directions(_as_product(gradient)) for gradient in found]
        return Capture(
            [one.b[: self._rank] for one in directions],
            [one.a[:, : self._rank].mT.contiguous() for one in directions],
            float(cost.detach()),
        )

    @property
    def _samples(self) -> _RewardSets:
        world, process = self._world, self._world.process
        where = int(process.network_index[0]), int(process.goal_index[0])
        if where not in self._reward_sets:
            goal, pool = world.task.goals[where[1]], world.task.pool
            rows = [_sampled(goal.members[name]) for name in world.task.set_names]
            every = torch.cat(rows)
            self._reward_sets[where] = _RewardSets(
                world.network.activations(pool.inputs[every]),
                pool.labels[every],
                [len(part) for part in rows],
            )
        return self._reward_sets[where]


def learning_stream(env_spec: EnvSpec, train_env: Mapping[str, Any]) -> tuple[gym.Env, EditStream]:
    """An environment to learn in, on data that rewards are open on, and its tensor API.

    Args:
        env_spec: Of `LifelongLLMEdit-v0` or `ShiftWorld-v0`.
        train_env: Further arguments of a stream of facts.

    Raises:
        Unsupported: It is another environment.
    """
    if is_stream_of_facts(env_spec):
        env = gym.make(env_spec, **{**train_env, "split": "policy", "journal_folder": None})
        return env, stream_process(env)
    env = gym.make(env_spec)
    return env, WorldStream(env)


def is_stream_of_facts(env_spec: EnvSpec) -> bool:
    """Whether a spec is `LifelongLLMEdit-v0`'s."""
    return env_spec.id.split(":")[-1].startswith("LifelongLLMEdit")


def calls_per_capture(process: EditStream) -> int:
    """Rewards that keys and gradients of a batch take; those of facts are of the requests' own
    loss, and no reward.
    """
    return int(isinstance(process, WorldStream))


def _sampled(members: Tensor) -> Tensor:
    """Rows of a reward set: all, or `_SAMPLES` of them, always the same; the first ones need not be
    like the rest.
    """
    if len(members) <= _SAMPLES:
        return members
    chosen = torch.randperm(len(members), generator=torch.Generator().manual_seed(0))[:_SAMPLES]
    return members[chosen.to(members.device)]


def _as_product(matrix: Tensor) -> LowRankFactors:
    """A matrix and the identity, in the order in which the inner dimension is the smaller one."""
    rows, columns = matrix.shape
    unit = torch.eye(min(rows, columns), dtype=matrix.dtype, device=matrix.device)
    return LowRankFactors(unit, matrix) if rows <= columns else LowRankFactors(matrix, unit)


__all__ = [
    "EditStream",
    "Rewarded",
    "WorldStream",
    "calls_per_capture",
    "is_stream_of_facts",
    "learning_stream",
]
