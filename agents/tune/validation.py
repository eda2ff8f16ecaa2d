"""How settings are scored: by episodes on validation data, one look after the other."""

from __future__ import annotations

import random
import statistics
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec

from agents.catalogue import make_agent
from agents.command_line import env_spec
from agents.episodes import spec_arguments, validation_env
from agents.protocol import Agent, Budget, Unsupported
from agents.tune.space import Chosen
from editgym.envs.protocol import edit_env, is_stream, open_env, stream_env
from editgym.metrics.classification import accuracy
from editgym.tasks.protocol import Unlearnable
from editgym.weights import EditableNetwork

_STREAM_SEEDS, _MODEL_SEEDS = 1_000, 10  # and up: no report uses these
_FIRST_STEPS = 5  # the share of a stream, one part in so many, that a trial begins with
_PARTS = ("reliability", "generalization", "locality")
_BY_TOKENS, _LEAST = ("tf_efficacy", "tf_generalization", "tf_specificity"), 0.01


@dataclass(frozen=True)
class Look:
    """What is known of a trial after one more episode.

    Attributes:
        score: The mean over its episodes so far, or over the first steps of a stream; 0–1, more is
            better.
        metrics: The means of what the score is made of; None where there is no such thing.
    """

    score: float
    metrics: Mapping[str, float | None]


@dataclass(frozen=True)
class Subject:
    """Who is tuned, and where.

    Attributes:
        env_id: Gymnasium id.
        env_kwargs: Arguments of the environment that were typed.
        agent: Catalogue name, or an import path.
        settings: Settings of the agent that were typed.
    """

    env_id: str
    env_kwargs: Mapping[str, Any]
    agent: str
    settings: Mapping[str, Any]

    def spec(self, **more: Any) -> EnvSpec:
        """The environment's spec, with more arguments."""
        return env_spec(self.env_id, {**self.env_kwargs, **more})

    def make(self, chosen: Chosen | None = None) -> Agent:
        """The agent, with what a trial has chosen."""
        return make_agent(
            self.agent, **self.settings, **({} if chosen is None else chosen.settings)
        )


class Validation(ABC):
    """Scores what trials choose, always on the same episodes.

    Args:
        subject: Who is tuned, and where.
        episodes: How many episodes a score is the mean over.
        seed: What every trial's agent learns and draws with: trials differ by their settings alone.
        budget: What an agent that learns may spend on each network or, for streams, on all of them
            together.

    Attributes:
        env: An environment of the first episode, just reset.
        model: Fingerprint of the language model; None in a world, whose networks are examples.
        steps: How many looks there are at a trial.
    """

    env: gym.Env
    model: str | None = None
    steps: int

    def __init__(self, subject: Subject, episodes: int, seed: int, budget: Budget) -> None:
        self._subject, self._episodes = subject, episodes
        self._seed, self._budget = seed, budget

    @property
    @abstractmethod
    def data(self) -> Sequence[str]:
        """Fingerprints of what the episodes are."""

    @abstractmethod
    def looks(self, chosen: Chosen) -> Iterator[Look]:
        """The looks at one trial, in their order; the last one's score is the trial's.

        Raises:
            ValueError, FloatingPointError: The edited network's numbers are not finite.
            Unsupported: The agent cannot work with these settings.
        """

    def _agent(self, chosen: Chosen) -> Agent:
        """The agent of a trial, which draws what it draws in every trial."""
        random.seed(self._seed)
        np.random.seed(self._seed)
        torch.manual_seed(self._seed)
        return self._subject.make(chosen)


class StreamValidation(Validation):
    """The mean harmonic mean of reliability, generalization and locality over validation streams.

    What a file has no questions for is left out of it. Where it is 0, it would not say which
    settings come nearer to something: then it is a thousandth of the harmonic mean of the shares of
    tokens (`tf_efficacy` and its kin), each counted as a hundredth at least.

    The first look is at the first fifth of the first stream's steps.
    """

    def __init__(self, subject: Subject, episodes: int, seed: int, budget: Budget) -> None:
        super().__init__(subject, episodes, seed, budget)
        self.env = validation_env(subject.spec(), _STREAM_SEEDS)
        self._horizon = edit_env(self.env).episode_length
        self._first = -(-self._horizon // _FIRST_STEPS)
        self.model = edit_env(self.env).journal.base_hash
        self.steps = episodes + (self._first < self._horizon)

    @property
    def data(self) -> Sequence[str]:
        """Fingerprints of the streams' requests."""
        found = []
        for seed in reversed(range(self._episodes)):  # the first one is what `env` is left with
            self.env.reset(seed=_STREAM_SEEDS + seed)
            found.append(stream_env(self.env).process.stream.fingerprint)
        return found[::-1]

    def looks(self, chosen: Chosen) -> Iterator[Look]:
        """The looks at one trial: the first steps, then after every stream."""
        agent = self._agent(chosen)
        agent.learn(self._subject.spec(**chosen.env_kwargs), self._budget, self._seed)
        if self._first < self._horizon:
            yield _mean_look([self._edited(agent, chosen, 0, self._first)])
        found = []
        for episode in range(self._episodes):
            found.append(self._edited(agent, chosen, episode, self._horizon))
            yield _mean_look(found)

    def _edited(
        self, agent: Agent, chosen: Chosen, episode: int, horizon: int
    ) -> Mapping[str, float | None]:
        """The metrics of a stream that the agent has edited."""
        spec = self._subject.spec(**chosen.env_kwargs, split="validation", horizon=horizon)
        with closing(gym.make(spec)) as env:
            env.reset(seed=_STREAM_SEEDS + episode)
            journal = agent.edit(env)
            return stream_env(env).evaluate(journal, thorough=False).metrics


class UnlearningValidation(Validation):
    """The harmonic mean of retain accuracy and drop in forget accuracy on the validation split, of
    the mean accuracies over networks that no report uses.
    """

    def __init__(self, subject: Subject, episodes: int, seed: int, budget: Budget) -> None:
        super().__init__(subject, episodes, seed, budget)
        spec = subject.spec()
        named = {"model_seed", "networks"} & subject.env_kwargs.keys()
        seeded = "model_seed" in spec_arguments(spec) and not named
        self._networks: list[dict[str, Any]] = (
            [{"model_seed": _MODEL_SEEDS + i} for i in range(episodes)] if seeded else [{}]
        )
        self.steps = len(self._networks)
        self.env = gym.make(subject.spec(**self._networks[0]))
        task = open_env(self.env).task
        if not isinstance(task, Unlearnable) or getattr(task, "samples", None) is not None:
            raise Unsupported(
                f"{task.name} has no validation score: settings are tuned on streams of facts, and"
                " on unlearning of classes"
            )
        if any(count > 1 for count in edit_env(self.env).choices.values()):
            raise Unsupported("settings are tuned on one goal of one network at a time")
        self.env.reset(seed=seed)

    @property
    def data(self) -> Sequence[str]:
        """Fingerprints of the networks."""
        found = []
        for own in self._networks:
            with closing(gym.make(self._subject.spec(**own))) as env:
                found.append(open_env(env).network.base_hash)
        return found

    def looks(self, chosen: Chosen) -> Iterator[Look]:
        """The looks at one trial, after every network."""
        retain, drop = [], []
        for own in self._networks:
            agent = self._agent(chosen)
            spec = self._subject.spec(**chosen.env_kwargs, **own)
            agent.learn(spec, self._budget, self._seed)
            with closing(gym.make(spec)) as env:
                env.reset(seed=self._seed)
                task: Unlearnable = open_env(env).task
                network = task.networks[0].fresh()
                _, forget_before = validation_accuracies(task, network)
                network.replay(agent.edit(env))
                kept, left = validation_accuracies(task, network)
            retain.append(kept)
            drop.append(forget_before - left)
            means = statistics.fmean(retain), statistics.fmean(drop)
            yield Look(
                statistics.harmonic_mean([means[0], max(0.0, means[1])]),
                {"retain_accuracy": means[0], "forget_drop": means[1]},
            )


def validation_of(subject: Subject, episodes: int, seed: int, budget: Budget) -> Validation:
    """The validation that suits an environment.

    Raises:
        Unsupported: There is none.
        ValueError: An argument of the environment is out of range, or the validation split has too
            few requests.
    """
    with closing(gym.make(subject.spec())) as env:
        kind = StreamValidation if is_stream(env) else UnlearningValidation
    return kind(subject, episodes, seed, budget)


def validation_accuracies(task: Unlearnable, network: EditableNetwork) -> tuple[float, float]:
    """Accuracies (retain, forget) of a network on the validation split."""
    kept, gone = task.validation_split()
    return accuracy(network.logits(kept.inputs), kept.labels), accuracy(
        network.logits(gone.inputs), gone.labels
    )


def stream_score(metrics: Mapping[str, float | None]) -> float:
    """The score of a stream by its metrics; see `StreamValidation`."""
    score = _harmonic_mean(metrics, _PARTS)
    return score or _harmonic_mean(metrics, _BY_TOKENS, _LEAST) / 1_000


def _harmonic_mean(
    metrics: Mapping[str, float | None], names: Sequence[str], least: float = 0.0
) -> float:
    known = [max(value, least) for name in names if (value := metrics.get(name)) is not None]
    return statistics.harmonic_mean(known) if known else 0.0


def _mean_look(streams: Sequence[Mapping[str, float | None]]) -> Look:
    """The look after some streams."""
    names = ("harmonic_mean", *_PARTS)
    known = {name: [v for one in streams if (v := one.get(name)) is not None] for name in names}
    return Look(
        statistics.fmean(stream_score(one) for one in streams),
        {name: statistics.fmean(values) if values else None for name, values in known.items()},
    )
