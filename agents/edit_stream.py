"""What hypernetwork policies need of an environment, and ShiftWorld in that form."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import torch
import torch.nn.functional as F
from gymnasium.envs.registration import EnvSpec
from torch import Tensor, nn

from agents.editors.stream import stream_process
from agents.protocol import Unsupported
from editgym.envs.weight_editing import WeightEditingEnv
from editgym.metrics.classification import right_class
from editgym.weights import DenseUpdate, Entry, LowRankFactors, Shift, SiteEdit, Update
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


class WorldStream:
    """ShiftWorld as a stream: the gradient of its own reward takes the place of new requests' keys and gradients.

    The reward's gradient by a site's matrix is G·Kᵀ over the samples of the policy split's reward sets. Its r largest
    singular directions stand for r tokens, u_j σ_j as output gradients and v_j as keys, so that an update of one
    product per token has the environment's rank r; with `rank="full"` r is 4. Updates are put into the box of actions
    by scaling the two factors of a product to equal size; what is beyond it is clipped.

    Args:
        env: A `ShiftWorld-v0`; it has to be reset.

    Raises:
        Unsupported: It is another environment: a mask has no sum of products.
    """

    def __init__(self, env: gym.Env) -> None:
        world = env.unwrapped
        if not isinstance(world, WeightEditingEnv) or not isinstance(world.process.operator, Shift):
            raise Unsupported("hypernetworks add to weights: LifelongLLMEdit-v0 and ShiftWorld-v0 take that, not "
                              f"{world}")
        self._env, self._world = env, world
        self._limit = world.process.operator.limit
        self._steps = 0
        self._seen: Capture | None = None

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
        return self._captured([shift.edited(weight, update)
                               for weight, update in zip(self._world.network.weights, unpacked, strict=True)])

    def differentiable_step(self, updates: Sequence[LowRankFactors]) -> Rewarded:
        """`ShiftWorld-v0`'s."""
        outcome = self._world.differentiable_step(self._action(updates))
        self._finish()
        return _Outcome(outcome.reward[0])

    def candidate_rewards(self, updates: Sequence[LowRankFactors]) -> Tensor:
        """Not to be had: the environment scores a candidate by applying it."""
        raise Unsupported('gate="sampled" needs candidates of one state; use gate="straight_through" on ShiftWorld-v0')

    def advance(self, entries: Sequence[Entry]) -> None:
        """Take low-rank shifts as the step's action; sites that none is for are left alone."""
        by_site = {entry.site: entry.update for entry in entries if isinstance(entry, SiteEdit)}
        rank = self._rank
        updates = []
        for site, weight in zip(self.sites, self._world.network.weights, strict=True):
            update = by_site.get(site.name)
            assert update is None or isinstance(update, LowRankFactors)
            updates.append(update or LowRankFactors(weight.new_zeros(site.shape[0], rank),
                                                    weight.new_zeros(rank, site.shape[1])))
        self._env.step(self._action(updates).detach().cpu().numpy())
        self._finish()

    # --- inside ------------------------------------------------------------------------------------------------

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
                raise Unsupported(f"an update of rank {update.a.shape[-1]} is no action of rank {rank}: use passes=1, "
                                  'or rank="full" in the environment')
            with torch.no_grad():
                sizes = update.a.abs().amax(0).clamp(min=1e-12), update.b.abs().amax(1).clamp(min=1e-12)
                balance = (sizes[1] / sizes[0]).sqrt()
            unit = math.sqrt(math.sqrt(rank) / self._limit)
            parts.append(LowRankFactors((update.a * (balance * unit)).clamp(-1, 1),
                                        (update.b * (unit / balance)[:, None]).clamp(-1, 1)))
        return self._world.layout.pack(parts)

    def _captured(self, weights: Sequence[Tensor]) -> Capture:
        """Keys and gradients with these matrices at the sites."""
        world, process = self._world, self._world.process
        model: nn.Module = world.network.merged()
        inputs: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}

        def keep(name: str, given: tuple[Tensor, ...], out: Tensor) -> None:
            inputs[name], outputs[name] = given[0], out

        with torch.no_grad():
            for site, weight in zip(self.sites, weights, strict=True):
                model.get_parameter(site.parameter).copy_(site.to_stored(weight))
        for site in self.sites:
            model.get_submodule(site.name).register_forward_hook(
                lambda _module, given, out, name=site.name: keep(name, given, out))
        goal = world.task.goals[int(process.goal_index[0])]
        rows = [goal.members[name][:_SAMPLES] for name in world.task.set_names]
        with torch.enable_grad():
            logits = model(world.task.pool.inputs[torch.cat(rows)])
            right = right_class(logits, world.task.pool.labels[torch.cat(rows)])[0]
            scores = dict(zip(world.task.set_names, (part.mean().reshape(1) for part in right.split(
                [len(part) for part in rows])), strict=True))
            rewards, task = process.rewards, world.task
            cost = -(rewards.alpha * task.utility(scores) + rewards.beta * task.edit(scores))
            found = torch.autograd.grad(cost.sum(), [outputs[site.name] for site in self.sites])
        keys, gradients = [], []
        for site, gradient in zip(self.sites, found, strict=True):
            module = model.get_submodule(site.name)
            directions = principal_directions(LowRankFactors(
                *_as_product(site, module, inputs[site.name].detach(), gradient)))
            keys.append(directions.b[:self._rank])
            gradients.append(directions.a[:, :self._rank].mT.contiguous())
        return Capture(keys, gradients, float(cost.detach().sum()))


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


def _as_product(site: EditSite, module: nn.Module, inputs: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """G (out, m) and Kᵀ (m, in) whose product is the gradient by the site's matrix.

    m is at most the number of outputs: the product itself where there are more samples, as convolutions have.
    """
    if isinstance(module, nn.Conv2d):
        if module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise Unsupported(f"site {site}: convolutions in groups, or padded with anything but zeros, are not "
                              "supported")
        # (n, in, places)
        patches = F.unfold(inputs, module.kernel_size, module.dilation, module.padding, module.stride)
        product = torch.einsum("nop,nip->oi", gradient.flatten(2), patches)
    else:
        product = gradient.flatten(0, -2).mT @ inputs.flatten(0, -2)
    left, sigma, right = torch.linalg.svd(product, full_matrices=False)
    return left * sigma, right


__all__ = ["EditStream", "Rewarded", "WorldStream", "is_stream_of_facts", "learning_stream"]
