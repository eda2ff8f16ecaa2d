"""ShiftWorld in the form of a stream, for policies that turn keys and gradients into edits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium as gym
import torch
from torch import Tensor

from agents.episodes import steps_of
from editgym.envs.protocol import GradientWorld, Rewarded, Unsupported, gradient_world
from editgym.weights import DenseUpdate, Entry, LowRankFactors, Shift, SiteEdit, Update
from editgym.weights.closed_form import principal_directions
from editgym.weights.language.capture import Capture
from editgym.weights.sites import EditSite

_FULL_RANK_DIRECTIONS = 4
_STEP_SIZE = 1e-3


@dataclass(frozen=True)
class _Outcome:
    reward: Tensor


class WorldStream:
    """ShiftWorld as a stream: the gradient of its own reward takes the place of new requests' keys
    and gradients.

    The reward's gradient by a site's matrix, over the reward sets or a fixed sample of them
    (`GradientWorld.cost_gradient`), has singular directions; the r largest stand for r tokens,
    u_j σ_j as output gradients and v_j as keys, so that an update of one product per token has the
    environment's rank r; with `rank="full"` r is 4. Updates are put into the box of actions by
    scaling the two factors of a product to equal size; what is beyond it is clipped. Every such
    gradient counts as one reward call, as the edit itself does.

    Args:
        env: A `ShiftWorld`; it has to be reset.

    Raises:
        Unsupported: It is another environment: a mask has no sum of products.
    """

    def __init__(self, env: gym.Env) -> None:
        self._env, self._world = env, _shift_world(env)
        assert isinstance(self._world.operator, Shift)
        self._shift = self._world.operator
        self._horizon, self._steps = steps_of(env), 0
        self._device = self._world.weights[0].device
        self._seen: Capture | None = None

    @property
    def sites(self) -> tuple[EditSite, ...]:
        """The environment's sites."""
        return self._world.sites

    @property
    def device(self) -> torch.device:
        """The device of the matrices under edit."""
        return self._device

    @property
    def step_size(self) -> float:
        """1e-3, with which the identity network's update stays well within the box."""
        return _STEP_SIZE

    @property
    def horizon(self) -> int:
        """The steps that an episode has: the environment's episode length, or fewer where
        `max_episode_steps` truncates it.
        """
        return self._horizon

    @property
    def over(self) -> bool:
        """Whether the episode is over."""
        return self._steps >= self.horizon

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode; None goes on with the environment's own random stream."""
        self._env.reset(seed=seed)
        self._steps, self._seen = 0, None

    @property
    def capture(self) -> Capture:
        """Principal keys and gradients of the cost, (r, in) and (r, out) per site."""
        if self._seen is None:
            self._seen = self._captured(self._world.weights)
        return self._seen

    def captured_after(self, updates: Sequence[LowRankFactors]) -> Capture:
        """`capture` as it would be after one more update per site."""
        unpacked = self._world.layout.unpack(self._action(updates).detach())
        return self._captured(
            [
                self._shift.edited(weight, update)
                for weight, update in zip(self._world.weights, unpacked, strict=True)
            ]
        )

    def differentiable_step(self, updates: Sequence[LowRankFactors]) -> Rewarded:
        """Apply one update per site; the reward has gradients to it."""
        outcome = self._world.differentiable_step(self._action(updates))
        self._finish()
        return _Outcome(outcome.reward[0])

    def candidate_rewards(self, updates: Sequence[LowRankFactors]) -> Tensor:
        """Refuse: the environment scores a candidate by applying it.

        Raises:
            Unsupported: Always.
        """
        raise Unsupported(
            'gate="sampled" needs candidates of one state; use gate="straight_through" on'
            " ShiftWorld"
        )

    def advance(self, entries: Sequence[Entry]) -> None:
        """Take low-rank shifts as the step's action; sites that none is for are left alone."""
        by_site = {entry.site: entry.update for entry in entries if isinstance(entry, SiteEdit)}
        rank = self._rank
        updates = []
        for site, weight in zip(self.sites, self._world.weights, strict=True):
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
        rank, limit = self._world.layout.rank, self._shift.limit
        parts: list[Update] = []
        for update in updates:
            if isinstance(rank, str):
                parts.append(DenseUpdate((update.matrix() / limit).clamp(-1, 1)))
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
            unit = math.sqrt(math.sqrt(rank) / limit)
            parts.append(
                LowRankFactors(
                    (update.a * (balance * unit)).clamp(-1, 1),
                    (update.b * (unit / balance)[:, None]).clamp(-1, 1),
                )
            )
        return self._world.layout.pack(parts)

    def _captured(self, weights: Sequence[Tensor]) -> Capture:
        """Keys and gradients with these matrices at the sites."""
        found = self._world.cost_gradient(weights)
        directions = [principal_directions(_as_product(gradient)) for gradient in found.gradients]
        return Capture(
            [one.b[: self._rank] for one in directions],
            [one.a[:, : self._rank].mT.contiguous() for one in directions],
            found.cost,
        )


def _shift_world(env: gym.Env) -> GradientWorld:
    try:
        world = gradient_world(env)
    except Unsupported as error:
        raise Unsupported(_refusal(env)) from error
    if not isinstance(world.operator, Shift):
        raise Unsupported(_refusal(env))
    return world


def _refusal(env: gym.Env) -> str:
    return (
        "hypernetworks add to weights: LifelongLLMEdit and ShiftWorld take that, not"
        f" {'this environment' if env.spec is None else env.spec.id}"
    )


def _as_product(matrix: Tensor) -> LowRankFactors:
    """A matrix and the identity, in the order in which the inner dimension is the smaller one."""
    rows, columns = matrix.shape
    unit = torch.eye(min(rows, columns), dtype=matrix.dtype, device=matrix.device)
    return LowRankFactors(unit, matrix) if rows <= columns else LowRankFactors(matrix, unit)
