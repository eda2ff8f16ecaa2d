"""Learning through the reward: sequences of edits, the gradient of each step's own reward, Adam."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.logger import Logger, configure
from torch import nn
from tqdm import tqdm

from agents.checkpoints import TRAINING, canonical, first_difference
from agents.hypernetworks.policy import SequencePolicy
from agents.hypernetworks.settings import Learning
from agents.hypernetworks.stream import base_hashes, learning_stream
from agents.hypernetworks.validation import Judge
from agents.protocol import Budget, Stopwatch
from editgym.models.state_files import read_state
from editgym.paths import whole_file

_STATE = ("next", "waited", "policy", "optimizer", "best", "torch")  # of a checkpoint


class SequenceLearner:
    """Trains a policy in environments made from one spec.

    Every sequence is a stream of its own seed, so a run that is taken up from its checkpoint goes
    on bitwise as it would have. A budget of reward calls is never exceeded: a sequence that it does
    not pay for whole is not begun. One of seconds is looked at before every sequence, which is then
    made to its end; whatever ends the training, validation looks at the last policy too.

    Args:
        policy: It is trained in place; afterwards it is the best one that validation saw.
        env_spec: The spec of a `LifelongLLMEdit` or `ShiftWorld`.
        learning: How it learns; an agent's settings, all of which a checkpoint belongs to.
        budget: `reward_calls` counts steps, and every candidate that a step tries.
        seed: Draws the streams.
        out: Where a checkpoint is written after every sequence and taken up from, and logs go
            (`log/progress.csv`, and TensorBoard's where it is installed; what is taken up after N
            sequences logs to `log/from-N`); None for neither.
        name: Name of the agent whose policy it is.

    Raises:
        ValueError: The budget does not pay for one sequence, and one is to be learned from.
    """

    def __init__(
        self,
        policy: SequencePolicy,
        env_spec: EnvSpec,
        learning: Learning,
        budget: Budget,
        seed: int,
        out: Path | None,
        name: str,
    ) -> None:
        self._watch = Stopwatch(budget.seconds)
        self.policy, self.learning, self.seed = policy, learning, seed
        self.out, self.name = out, name
        self.env, self.process = learning_stream(env_spec, learning.train_env)
        try:
            self.sequences = self._affordable(budget.reward_calls)
            self._judge = (
                Judge(env_spec, seed) if learning.validate_every and learning.sequences else None
            )
        except ValueError:
            self.env.close()
            raise
        self._optimizer = torch.optim.Adam(policy.groups(learning))
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self._identity = canonical(self._described(env_spec))
        self._best: tuple[float, dict[str, Any]] | None = None
        self._next, self._waited = 0, 0

    def _affordable(self, calls: int | None) -> int:
        """How many sequences a budget of reward calls pays for, of those that are to be learned
        from.
        """
        sequences, one = self.learning.sequences, self.process.horizon * self.policy.calls_per_step
        if calls is None or sequences == 0:
            return sequences
        if calls < one:
            raise ValueError(
                f"budget: {calls} reward calls do not pay for one sequence of {one} (steps × calls"
                " of a step); raise the budget, or give sequences=0 to learn nothing"
            )
        return min(sequences, calls // one)

    def learn(self) -> None:
        """Train to the end, or go on from a checkpoint.

        The checkpoint of the last sequence stays, after Ctrl-C and after the end too: whoever has
        saved the policy may delete it.

        Raises:
            ValueError: The checkpoint is damaged or of another training, or the budget's seconds
                were over before the first sequence.
        """
        self._take_up()
        logger = None if self.out is None else _logger(self.out, self._next)
        try:
            with tqdm(
                total=self.sequences,
                initial=self._next,
                desc=self.name,
                unit="sequence",
                leave=False,
                mininterval=0.5,
            ) as bar:
                if self._next == 0 and not self._watch.expired:
                    self._look(0, {})
                while (
                    self._next < self.sequences
                    and not self._watch.expired
                    and not self._waited_enough
                ):
                    numbers = self._sequence(self._next)
                    self._next += 1
                    self._look(self._next, numbers)
                    bar.update()
                    bar.set_postfix(
                        {key: f"{value:.3f}" for key, value in numbers.items()}, refresh=False
                    )
                    self._write(logger, numbers)
                if self._next == 0 < self.sequences:
                    raise ValueError(
                        f"budget: {self._watch.seconds:g} seconds were over before the first"
                        " sequence; raise the budget, or give sequences=0 to learn nothing"
                    )
                if self._judge is not None and not self._is_time_to_look(self._next):
                    self._log(logger, self._judged())  # the seconds were over between two looks
        finally:
            self.env.close()
            if self._judge is not None:
                self._judge.close()
            if logger is not None:
                logger.close()
        if self._best is not None:
            self.policy.restore(self._best[1])

    @property
    def _waited_enough(self) -> bool:
        return self.learning.patience is not None and self._waited >= self.learning.patience

    def _sequence(self, index: int) -> dict[str, float]:
        """One sequence with its updates; means of what its steps gave."""
        if self.learning.linear_decay:
            for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * (1 - index / self.sequences)
        self.process.reset(_stream_seed(self.seed, index))
        horizon = self.process.horizon
        every = self.learning.update_every or horizon
        total = 0.0
        for step in range(1, horizon + 1):
            loss = self.policy.losses(self.process)
            together = min(every, horizon - (step - 1) // every * every)  # the last are fewer
            (loss / together).backward()
            total += float(loss.detach())
            if step % every == 0 or step == horizon:
                self._update()
        return {"reward": -total / horizon}

    def _update(self) -> None:
        parameters = [
            p
            for group in self._optimizer.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        limit = math.inf if self.learning.max_grad_norm is None else self.learning.max_grad_norm
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        # One step into a model that collapsed would make the policy itself not a number.
        if bool(torch.isfinite(norm)):
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _look(self, done: int, numbers: dict[str, float]) -> None:
        """Judge the policy on a validation stream where it is time to."""
        if self._judge is not None and self._is_time_to_look(done):
            numbers |= self._judged()

    def _is_time_to_look(self, done: int) -> bool:
        return done == self.sequences or done % self.learning.validate_every == 0

    def _judged(self) -> dict[str, float]:
        """Judge the policy, and remember the best."""
        assert self._judge is not None
        score = self._judge(self.policy)
        if self._best is None or score > self._best[0]:
            self._best, self._waited = (score, self.policy.snapshot()), 0
        else:
            self._waited += 1
        return {"validation": score}

    # --- files ------------------------------------------------------------------------------------

    def _described(self, env_spec: EnvSpec) -> dict[str, Any]:
        """What a training depends on."""
        return {
            "agent": self.name,
            "config": self.learning.as_dict(),
            "env": {"id": env_spec.id, "kwargs": env_spec.kwargs},
            "seed": self.seed,
            "sequences": self.sequences,  # the budget's share in how learning rates fall
            "sites": [site.name for site in self.process.sites],
            "networks": base_hashes(self.env),
            "parameters": {name: p.shape for name, p in self.policy.named_parameters()},
        }

    def _log(self, logger: Logger | None, numbers: Mapping[str, float]) -> None:
        if logger is None:
            return
        for key, value in numbers.items():
            logger.record(f"train/{key}", value)
        logger.dump(self._next)

    def _write(self, logger: Logger | None, numbers: Mapping[str, float]) -> None:
        if self.out is None:
            return
        self._log(logger, numbers)
        state = {
            "identity": self._identity,
            "next": self._next,
            "waited": self._waited,
            "policy": self.policy.snapshot(),
            "optimizer": self._optimizer.state_dict(),
            "best": self._best,
            "torch": torch.get_rng_state(),
        }
        with whole_file(self.out / TRAINING) as partial:
            torch.save(state, partial)

    def _take_up(self) -> None:
        if self.out is None:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        if not (self.out / TRAINING).is_file():
            return
        state = read_state(
            self.out / TRAINING, _STATE, "checkpoint of a training", "delete it to begin anew", None
        )
        if different := first_difference(state.get("identity", {}), self._identity):
            raise ValueError(
                f"out: {self.out} holds the checkpoint of another training: {different}; give"
                f" another folder, or delete {TRAINING} there to begin anew"
            )
        self.policy.restore(state["policy"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._next, self._waited, self._best = state["next"], state["waited"], state["best"]
        torch.set_rng_state(state["torch"])


def _stream_seed(seed: int, index: int) -> int:
    return seed * 1_000_003 + index


def _logger(out: Path, done: int) -> Logger:
    """The logger of a training that goes on after `done` sequences: it begins its files anew."""
    folder = str(out / "log" / f"from-{done}" if done else out / "log")
    try:
        import tensorboard  # noqa: F401 - SB3 writes for it
    except ImportError:
        return configure(folder, ["csv"])
    return configure(folder, ["csv", "tensorboard"])
