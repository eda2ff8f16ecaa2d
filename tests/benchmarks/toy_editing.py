"""Environments with a number, or a stream of numbers, to edit, and agents that behave well, badly,
or not at all."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec

from agents.protocol import Budget, Unsupported
from editgym.envs.metering import record
from editgym.metrics.evaluation import Evaluation
from editgym.metrics.knowledge import Asked, EditRecord, knowledge_metrics, retention_curve
from editgym.weights import ActionLayout, EditJournal, ReplaceTensors

TARGET = 0.5


class ToyTask:
    """Retain accuracy is how near the number comes to a target; its network is the number that
    `model_seed` gives."""

    def __init__(self, name: str, model_seed: int) -> None:
        self.name = name
        self.base = model_seed / 100

    def evaluate(self, journal: EditJournal) -> dict[str, float | None]:
        number = self.base
        for entry in journal:
            assert isinstance(entry, ReplaceTensors)
            number = float(entry.tensors["number"])
        return {
            "retain_accuracy": 1 - abs(number - TARGET),
            "retain_accuracy_before": 1 - abs(self.base - TARGET),
            "forget_accuracy": 0.1,
            "forget_accuracy_before": 0.9,
        }


class ToyEnv(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    layout = ActionLayout(((1, 1),), "full")
    episode_length = 1
    choices: ClassVar[dict[str, int]] = {}

    def __init__(self, task: str, model_seed: int, device: str) -> None:
        self.task = ToyTask(task, model_seed)
        self.journal = EditJournal("toy")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.journal = EditJournal("toy")
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        record(1)
        self.journal.append(
            ReplaceTensors({"number": torch.tensor(float(action[0]), dtype=torch.float64)})
        )
        return np.zeros(1, np.float32), 1 - abs(float(action[0]) - TARGET), True, False, {}

    def evaluate(self, journal: EditJournal) -> Evaluation:
        return Evaluation(self.task.evaluate(journal))


class ToyStreamEnv(gym.Env):
    """Three steps of two facts, each a number that is observed; only the last four facts are
    remembered.

    A reset draws the numbers: from 0–49 on the policy split, from 50–99 on the test split.
    """

    observation_space = gym.spaces.Box(0, 99, (2,), np.float32)
    action_space = gym.spaces.Box(0, 99, (2,), np.float32)
    layout = ActionLayout(((1, 2),), "full")
    episode_length = 3
    choices: ClassVar[dict[str, int]] = {}

    def __init__(self, task: str, device: str, split: str = "policy", stream_seed: int = 0) -> None:
        self.split = split
        self.journal = EditJournal("toy stream")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.journal = EditJournal("toy stream")
        self.facts = self.np_random.permutation(50)[:6] + (50 if self.split == "test" else 0)
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        record(1)
        self.journal.append(ReplaceTensors({"facts": torch.tensor(action)}))
        return self._observation(), 0.0, self.journal.steps == 3, False, {}

    def evaluate(self, journal: EditJournal) -> Evaluation:
        told = [int(number) for entry in journal for number in entry.tensors["facts"]]
        records = [self._record(i, told) for i in range(len(self.facts))]
        metrics = knowledge_metrics(
            records, perplexity_ratio=1.0, capability=None, sites_per_edit=1.0
        )
        return Evaluation(
            metrics, {"retention": retention_curve(records)}, [r.to_json() for r in records]
        )

    def _record(self, edit: int, told: list[int]) -> EditRecord:
        now = str(told[edit]) if edit < len(told) else ""
        final = now if edit >= len(told) - 4 else ""
        rephrase = Asked("Again?", str(self.facts[edit]), None, final)
        near = Asked("Étage ?", "1", "1", "1" if edit % 2 else "2")
        return EditRecord(
            edit,
            edit // 2,
            self.split,
            "Which?",
            str(self.facts[edit]),
            now,
            final,
            (rephrase,),
            (),
            (near,),
            (),
            (),
            tf_efficacy=1.0,
            tf_generalization=None,
            tf_specificity=None,
            locality_kl=None,
        )

    def _observation(self) -> np.ndarray:
        step = min(2, self.journal.steps)
        return self.facts[2 * step : 2 * step + 2].astype(np.float32)


gym.register("Toy-v0", entry_point=ToyEnv)
gym.register("ToyStream-v0", entry_point=ToyStreamEnv)


class Searcher:
    """Random search that keeps to its budget."""

    name = "searcher"
    access = "reward"
    overspent = 0
    seconds = 0.0

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        time.sleep(self.seconds)
        env = gym.make(env_spec)
        rng = np.random.default_rng(seed)
        tried = []
        for _ in range((budget.reward_calls or 0) + self.overspent):
            env.reset()
            action = rng.uniform(-1, 1, size=1).astype(np.float32)
            tried.append((env.step(action)[1], action))
        self.best = max(tried, key=lambda scored: scored[0])[1]

    def edit(self, env: gym.Env) -> EditJournal:
        env.reset()
        env.step(self.best)
        return env.unwrapped.journal

    def save(self, folder: Path) -> None:
        np.save(folder / "best.npy", self.best)

    @classmethod
    def load(cls, folder: Path) -> Searcher:
        agent = cls()
        agent.best = np.load(folder / "best.npy")
        return agent


class Slow(Searcher):
    seconds = 0.4


class Overspender(Searcher):
    overspent = 1


class SearchesWhileEditing(Searcher):
    def edit(self, env: gym.Env) -> EditJournal:
        for _ in range(3):
            journal = super().edit(env)
        return journal


class UsesGlobalGenerator(Searcher):
    """Draws from NumPy's global generator, as careless agents do."""

    def edit(self, env: gym.Env) -> EditJournal:
        self.best = np.random.uniform(-1, 1, size=1)
        return super().edit(env)


class Broken(Searcher):
    def edit(self, env: gym.Env) -> EditJournal:
        raise ValueError("no luck | today")


class Exits(Searcher):
    def edit(self, env: gym.Env) -> EditJournal:
        sys.exit("enough")


class KnowsNoAccess(Searcher):
    access = "black-box"


class NotFinite(Searcher):
    def edit(self, env: gym.Env) -> EditJournal:
        self.best = np.array([np.nan])
        return super().edit(env)


class Incapable(Searcher):
    access = "oracle"

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        raise Unsupported("toys cannot be retrained")


class Dies(Searcher):
    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class StreamEditor(Searcher):
    """Writes down every number that it observes, after it tried to choose another episode for
    itself."""

    access = "gradient"
    splits: ClassVar[
        list[str]
    ] = []  # of the environments of `learn` and of `edit`, in the order of the calls

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        time.sleep(self.seconds)
        self.splits.append(env_spec.kwargs.get("split", "policy"))

    def edit(self, env: gym.Env) -> EditJournal:
        self.splits.append(env.spec.kwargs.get("split", "policy"))
        env.reset(seed=12_345)
        observation, _ = env.reset()
        over = False
        while not over:
            observation, _, over, _, _ = env.step(observation)
        return env.unwrapped.journal


class SlowStreamEditor(StreamEditor):
    seconds = 0.4
