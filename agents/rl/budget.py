"""How algorithms of Stable-Baselines3 spend a budget: in whole pieces, with schedules that follow
calls and seconds.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from agents.protocol import Stopwatch

CHECKPOINT_CALLS = 10_000  # reward calls between two checkpoints
UNLIMITED = 2**62  # reward calls, where the budget is seconds alone


def steps_between_updates(
    kind: type[BaseAlgorithm], settings: Mapping[str, Any], episode: int, slots: int = 1
) -> int:
    """Steps of every slot that an algorithm takes as one piece, which it goes on to the end of
    whatever its budget.

    Args:
        kind: The algorithm's class; where settings leave a number out, its own default counts.
        settings: `n_delta` and `n_eval_episodes` (ARS evaluates a population, each of it for whole
            episodes), `train_freq` (a number of steps or a pair such as `(2, "episode")`), or
            `n_steps` where that is not the length of off-policy returns.
        episode: Steps of an episode.
        slots: Environments that are stepped at a time, among which ARS divides the episodes of an
            evaluation.
    """
    defaults = {
        name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()
    }
    name = next((name for name in ("n_delta", "train_freq", "n_steps") if name in defaults), None)
    if name is None:
        return 1
    chosen = defaults | dict(settings)
    value = chosen[name]
    count, unit = value if isinstance(value, tuple) else (value, "step")
    if name == "n_delta":
        return 2 * int(count) * -(-int(chosen["n_eval_episodes"]) // slots) * episode
    return int(count) * (episode if unit == "episode" else 1)


def whole_rollouts(calls: int | None, rollout: int) -> int:
    """The most reward calls within `calls` that make whole rollouts: SB3 would go on to the end of
    the last one.

    Raises:
        ValueError: Not even one fits.
    """
    if calls is None:
        return UNLIMITED
    if calls < rollout:
        raise ValueError(
            f"budget: {calls} reward calls do not pay for one rollout of {rollout} (num_envs ×"
            " n_steps); raise the budget or lower num_envs or n_steps"
        )
    return calls // rollout * rollout


def check_learns(settings: Mapping[str, Any], calls: int) -> None:
    """Refuse a budget that is spent before an off-policy algorithm begins to learn.

    Raises:
        ValueError: It is.
    """
    first = settings.get("learning_starts", 0)
    if calls <= first:
        raise ValueError(
            f"budget: {calls} reward calls are over before learning begins"
            f" (learning_starts={first}); raise the budget or lower learning_starts"
        )


class LinearDecay:
    """A learning rate that falls linearly from `value` to 0 over the budget, as SB3 takes it.

    Args:
        value: The first one.
        watch: The stopwatch of the budget's seconds, by which it falls where they are spent faster
            than the calls. It is not saved: who goes on with a loaded policy has a budget of his
            own.
    """

    def __init__(self, value: float, watch: Stopwatch | None = None) -> None:
        self.value, self._watch = value, watch or Stopwatch(None)

    def __call__(self, progress_remaining: float) -> float:
        """The learning rate where this share of the calls is left."""
        return self.value * min(progress_remaining, self._watch.left)

    def __reduce__(self) -> tuple[type[LinearDecay], tuple[float]]:
        return LinearDecay, (self.value,)


def falling_rate(
    kind: type[BaseAlgorithm], settings: Mapping[str, Any], watch: Stopwatch
) -> LinearDecay:
    """The linear decay of an algorithm's `learning_rate`: that of its settings, or, where they
    leave it out, its class's own.
    """
    own = inspect.signature(kind).parameters["learning_rate"].default
    return LinearDecay(settings.get("learning_rate", own), watch)


class NoiseSchedule(BaseCallback):
    """Leads a Gaussian policy's log standard deviation linearly to its final value, as the budget
    is spent.

    PPO hardly moves it within budgets as small as here, and a fixed one leaves the mean action's
    last errors in noise.
    """

    def __init__(self, final: float, watch: Stopwatch) -> None:
        super().__init__()
        self._final, self._watch = final, watch

    def _on_training_start(self) -> None:
        self._log_std: torch.Tensor = self.model.policy.log_std  # type: ignore[assignment]
        self._initial = self._log_std.detach().clone()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        left = min(self.model._current_progress_remaining, self._watch.left)
        with torch.no_grad():
            self._log_std.copy_(self._final + left * (self._initial - self._final))


class BudgetSpentError(Exception):
    """Ends the learning of algorithms that do not ask their callback whether to go on."""


class Progress(BaseCallback):
    """A progress bar, checkpoints, and the end of the budget.

    Args:
        name: The algorithm's name.
        calls: Reward calls of the budget; None where the seconds end it.
        watch: The stopwatch of the budget's seconds.
        checkpoint: Saves what was learned so far; None keeps nothing.
    """

    def __init__(
        self,
        name: str,
        calls: int | None,
        watch: Stopwatch,
        checkpoint: Callable[[], None] | None,
    ) -> None:
        super().__init__()
        self.calls = UNLIMITED if calls is None else calls
        self.watch = watch
        self.name, self._checkpoint = name, checkpoint
        total = None if self.calls >= UNLIMITED else self.calls
        self._bar = tqdm(total=total, desc=name, unit="call", leave=False, mininterval=0.5)
        self._saved = 0

    def _on_step(self) -> bool:
        self._bar.update(self.num_timesteps - self._bar.n)
        if self.watch.expired:
            if self.name == "ars":  # its loop goes on after a False
                raise BudgetSpentError
            return False
        return True

    def _on_rollout_end(self) -> None:
        if self._checkpoint and self.num_timesteps - self._saved >= CHECKPOINT_CALLS:
            self._checkpoint()
            self._saved = self.num_timesteps

    def close(self) -> None:
        """End the bar; save what was learned so far, also after Ctrl-C, unless it has diverged."""
        self._bar.close()
        if self._checkpoint and self.num_timesteps and not has_diverged(self.model):
            self._checkpoint()


def spend(model: BaseAlgorithm, progress: Progress, final_log_std: float | None) -> None:
    """Let an algorithm learn until a budget is spent.

    Args:
        model: The algorithm.
        progress: The budget, with its bar and its checkpoints.
        final_log_std: Where the logarithm of a Gaussian policy's standard deviation is led; None
            leaves it to the algorithm.

    Raises:
        ValueError: The policy has diverged.
    """
    anneal = [] if final_log_std is None else [NoiseSchedule(final_log_std, progress.watch)]
    cause: Exception | None = None
    with suppress(BudgetSpentError), closing(progress):
        try:
            model.learn(progress.calls, callback=[progress, *anneal])
        except ValueError as error:  # of torch's distributions, or of the environment
            if not has_diverged(model):
                raise
            cause = error
    if has_diverged(model):
        raise ValueError(
            f"{progress.name}: after {model.num_timesteps:,} reward calls its policy holds numbers"
            " that are too large: lower learning_rate, or raise batch_size"
        ) from cause


def has_diverged(model: BaseAlgorithm) -> bool:
    """Whether a policy's parameters hold a number that is not finite, or whose square is not."""
    return not all(bool(one.square().isfinite().all()) for one in model.policy.parameters())
