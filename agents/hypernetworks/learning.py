"""Learning through the reward of LifelongLLMEdit: sequences of edits, the gradient of each step's
own reward, Adam.
"""

from __future__ import annotations

import copy
import itertools
import math
import os
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.logger import Logger, configure
from torch import Tensor, nn
from tqdm import tqdm

from agents.checkpoints import TRAINING, canonical, first_difference
from agents.editors.stream import stream_process
from agents.hypernetworks.stream import EditStream, learning_stream
from agents.protocol import Budget, Stopwatch
from editgym.checks import is_finite, is_whole, require
from editgym.envs.lifelong.process import LifelongProcess
from editgym.tasks.knowledge import KnowledgeTask
from editgym.weights import Entry, TokenBatch

_VALIDATION_SEED = 0  # of the validation streams' own split


class SequencePolicy(nn.Module, ABC):
    """What learns from sequences: it edits with a graph while it learns, and without one when it is
    judged.
    """

    @property
    def calls_per_step(self) -> int:
        """Rewards that one step of learning computes."""
        return 1

    @abstractmethod
    def groups(self, settings: Learning) -> list[dict[str, Any]]:
        """Adam's parameter groups, with their learning rates."""

    @abstractmethod
    def losses(self, process: EditStream) -> Tensor:
        """Make one step of an open stream, and return what should become smaller, a scalar with a
        graph.
        """

    @abstractmethod
    def entries(self, process: EditStream) -> list[Entry]:
        """What the policy applies for `process.requests`; running statistics take the batch in."""

    @abstractmethod
    def statistics(self) -> dict[str, Any]:
        """What changes while the policy edits, as tensors and plain values; not its parameters."""

    @abstractmethod
    def load_statistics(self, state: dict[str, Any]) -> None:
        """Statistics that `statistics` gave."""

    def snapshot(self) -> dict[str, Any]:
        """Parameters and statistics, copied."""
        return copy.deepcopy({"parameters": self.state_dict(), "statistics": self.statistics()})

    def restore(self, state: dict[str, Any]) -> None:
        """A state that `snapshot` gave."""
        self.load_state_dict(state["parameters"])
        self.load_statistics(copy.deepcopy(state["statistics"]))


@dataclass(frozen=True)
class Learning:
    """How a policy learns from sequences.

    Attributes:
        sequences: Training sequences, each a new stream, at most; budgets may end earlier.
        learning_rate: Of Adam, for networks.
        step_learning_rate: Of Adam, for the step sizes and ridges of the sites.
        update_every: Steps whose gradients make one update; None for a whole sequence (Li et al.
            2025, algorithm 1).
        linear_decay: Whether the learning rates fall linearly to 0 over the sequences.
        max_grad_norm: The gradient of an update is scaled to be at most this long; None leaves it.
        validate_every: Sequences between two looks at a validation stream; the best policy seen is
            kept. 0 for none.
        patience: Looks without a new best after which learning ends; None goes on to the end.
        train_env: Arguments of the environment, other than those of the one that is edited, while
            learning.

    Raises:
        ValueError: An attribute is out of range; the message names it.
    """

    sequences: int = 40
    learning_rate: float = 1e-4
    step_learning_rate: float = 0.02
    update_every: int | None = 1
    linear_decay: bool = True
    max_grad_norm: float | None = 1.0
    validate_every: int = 5
    patience: int | None = None
    train_env: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("sequences", 0), ("validate_every", 0)):
            value = getattr(self, name)
            require(
                is_whole(value) and value >= least, name, value, f"{least} or more, a whole number"
            )
        for name in ("update_every", "patience"):
            value = getattr(self, name)
            require(
                value is None or (is_whole(value) and value >= 1),
                name,
                value,
                "None or a whole number from 1 on",
            )
        for name in ("learning_rate", "step_learning_rate"):
            value = getattr(self, name)
            require(is_finite(value) and value >= 0, name, value, "0 or more and finite")
        value = self.max_grad_norm
        require(
            value is None or (is_finite(value) and value > 0),
            "max_grad_norm",
            value,
            "greater than 0, or None",
        )


class SequenceLearner:
    """Trains a policy in environments made from one spec.

    Every sequence is a stream of its own seed, so a run that is taken up from its checkpoint goes
    on bitwise as it would have. A budget of reward calls is never exceeded: a sequence that it does
    not pay for whole is not begun. One of seconds is looked at before every sequence, which is then
    made to its end.

    Args:
        policy: It is trained in place; afterwards it is the best one that validation saw.
        env_spec: Of a `LifelongLLMEdit-v0` or `ShiftWorld-v0`.
        learning: How.
        budget: `reward_calls` counts steps, and every candidate that a step tries.
        seed: Of the streams.
        out: Where a checkpoint is written after every sequence and taken up from, and logs go
            (`log/progress.csv`, and TensorBoard's where it is installed; what is taken up after N
            sequences logs to `log/from-N`); None for neither.
        name: Of the agent whose policy it is.
        config: Of that agent.
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
        config: Mapping[str, Any],
    ) -> None:
        self._watch = Stopwatch(budget.seconds)
        self.policy, self.learning, self.seed, self.out, self.name = (
            policy,
            learning,
            seed,
            out,
            name,
        )
        self.env, self.process = learning_stream(env_spec, learning.train_env)
        self._judge = (
            Judge(env_spec, seed) if learning.validate_every and learning.sequences else None
        )
        calls = self.process.horizon * policy.calls_per_step
        affordable = (
            learning.sequences if budget.reward_calls is None else budget.reward_calls // calls
        )
        self.sequences = min(learning.sequences, affordable)
        self._optimizer = torch.optim.Adam(policy.groups(learning))
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self._identity = canonical({"agent": name, "config": config, **self._described(env_spec)})
        self._best: tuple[float, dict[str, Any]] | None = None
        self._next, self._waited = 0, 0

    def learn(self) -> None:
        """Train to the end, or go on from a checkpoint.

        The checkpoint of the last sequence stays, after Ctrl-C and after the end too: whoever has
        saved the policy may delete it.

        Raises:
            ValueError: The checkpoint is of another training.
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
        finally:
            self.env.close()
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
            (loss / min(every, horizon)).backward()
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
        """Judge the policy on a validation stream where it is time to, and remember the best."""
        if self._judge is None or (done % self.learning.validate_every and done != self.sequences):
            return
        score = self._judge(self.policy)
        numbers["validation"] = score
        if self._best is None or score > self._best[0]:
            self._best, self._waited = (score, self.policy.snapshot()), 0
        else:
            self._waited += 1

    # --- files ------------------------------------------------------------------------------------

    def _described(self, env_spec: EnvSpec) -> dict[str, Any]:
        """What a training depends on beside its agent."""
        task = self.env.unwrapped.task  # type: ignore[attr-defined]
        networks = (task.decoder,) if isinstance(task, KnowledgeTask) else task.networks
        return {
            "env": {"id": env_spec.id, "kwargs": env_spec.kwargs},
            "learning": vars(self.learning),
            "seed": self.seed,
            "sequences": self.sequences,  # the budget's share in how learning rates fall
            "sites": [site.name for site in self.process.sites],
            "networks": [network.base_hash for network in networks],
            "parameters": {name: p.shape for name, p in self.policy.named_parameters()},
        }

    def _write(self, logger: Logger | None, numbers: Mapping[str, float]) -> None:
        if self.out is None or logger is None:
            return
        for key, value in numbers.items():
            logger.record(f"train/{key}", value)
        logger.dump(self._next)
        partial = self.out / f"{TRAINING}.partial"
        torch.save(
            {
                "identity": self._identity,
                "next": self._next,
                "waited": self._waited,
                "policy": self.policy.snapshot(),
                "optimizer": self._optimizer.state_dict(),
                "best": self._best,
                "torch": torch.get_rng_state(),
            },
            partial,
        )
        os.replace(partial, self.out / TRAINING)

    def _take_up(self) -> None:
        if self.out is None:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        if not (self.out / TRAINING).is_file():
            return
        state = torch.load(self.out / TRAINING, weights_only=True)
        if different := first_difference(state.get("identity", {}), self._identity):
            raise ValueError(
                f"out: {self.out} holds the checkpoint of another training: {different}; give"
                f" another folder, or delete {TRAINING} there to begin anew"
            )
        self.policy.restore(state["policy"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._next, self._waited, self._best = state["next"], state["waited"], state["best"]
        torch.set_rng_state(state["torch"])


class Judge:
    """How well a policy edits a validation stream as long as the stream that it is for.

    The harmonic mean of how many prompts, rephrases and locality prompts the model answers as it
    should at the end (`stream_score`): by teacher forcing, and with those texts only that rewards
    may use. Test requests play no part.

    Args:
        env_spec: Of a `LifelongLLMEdit-v0`.
        seed: Draws the stream.
    """

    def __init__(self, env_spec: EnvSpec, seed: int) -> None:
        kwargs = env_spec.kwargs
        # The validation split is smaller than the others: a long stream is cut to what it has.
        self.env = _longest(env_spec, int(kwargs.get("horizon", 20)))
        self.env.reset(seed=_VALIDATION_SEED + seed)

    @torch.no_grad()
    def __call__(self, policy: SequencePolicy) -> float:
        """Edit the stream with `policy`, whose statistics are put back afterwards; the score,
        0–1.
        """
        before = copy.deepcopy(policy.statistics())
        self.env.reset()
        process = stream_process(self.env)
        while not process.over:
            process.advance(policy.entries(process))
        policy.load_statistics(before)
        return stream_score(process)


@torch.no_grad()
def stream_score(process: LifelongProcess) -> float:
    """The harmonic mean that `Judge` gives, of a process whose stream is over.

    Where no text of one kind is answered whole it would be 0 whatever the policy: then it is a
    thousandth of the harmonic mean of the shares of tokens, of models that spell their answers in
    many pieces.
    """
    task, requests = process.task, process.stream.requests
    told = [(request.prompt, request.target) for request in requests]
    again = [((request.rephrases or (request.prompt,))[0], request.target) for request in requests]
    local = [request.locality[0].prompt for request in requests if request.locality]
    shares = [_shares(process, task.batch, told), _shares(process, task.batch, again)]
    if local:
        shares.append(_shares(process, task.unchanged, local))
    whole, tokens = zip(*shares, strict=True)
    return statistics.harmonic_mean(whole) or statistics.harmonic_mean(tokens) / 1_000


def _shares(
    process: LifelongProcess, encoded: Callable[[Any], TokenBatch], texts: Sequence[Any]
) -> tuple[float, float]:
    """Of texts, as many at a time as rewards take: the share answered whole, and the mean share of
    their tokens.
    """
    size = process.settings.reward.micro_batch
    found = []
    for start in range(0, len(texts), size):
        batch = encoded(texts[start : start + size])
        right = process.decoder.logits(batch).argmax(-1) == batch.labels
        found.append(
            torch.stack([batch.all_of(right).double().sum(), batch.means(right.double()).sum()])
        )
    whole, tokens = (torch.stack(found).sum(0) / len(texts)).tolist()
    return whole, tokens


def _longest(env_spec: EnvSpec, horizon: int) -> gym.Env:
    """The validation environment of a spec, with the longest horizon up to its own that the split
    has requests for.
    """
    for shorter in itertools.takewhile(
        lambda steps: steps >= 1, (horizon // 2**i for i in itertools.count())
    ):
        env = gym.make(
            env_spec, **{"split": "validation", "horizon": shorter, "journal_folder": None}
        )
        try:
            env.reset(seed=_VALIDATION_SEED)
            return env
        except ValueError as error:
            env.close()
            too_few = error
    raise ValueError(f"validation: {too_few}; learn with validate_every=0") from too_few


def _stream_seed(seed: int, index: int) -> int:
    return seed * 1_000_003 + index


def _logger(out: Path, done: int) -> Logger:
    """Of a training that goes on after `done` sequences: the logger begins its files anew."""
    folder = str(out / "log" / f"from-{done}" if done else out / "log")
    try:
        import tensorboard  # noqa: F401 - SB3 writes for it
    except ImportError:
        return configure(folder, ["csv"])
    return configure(folder, ["csv", "tensorboard"])
