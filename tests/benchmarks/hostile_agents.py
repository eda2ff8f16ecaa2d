"""An honest agent, and agents that are careless or dishonest and otherwise do what it does."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.vec_env import SubprocVecEnv

from agents.protocol import Budget
from benchmarks.harness import evaluation, learning, measure
from editgym.envs import metering
from editgym.envs.mask_world import MaskWorldEnv
from editgym.envs.protocol import gradient_env, open_env
from editgym.metrics.evaluation import Evaluation
from editgym.tasks.unlearning.task import UnlearningTask
from editgym.weights import DenseUpdate, EditJournal, Mask, ReplaceTensors, Shift, SiteEdit

STEPS = 10  # rewards that the honest one asks for
BUDGET = STEPS + 1


class Honest:
    """The best of some random actions."""

    name = "honest"
    access = "reward"
    seconds = 0.0

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        time.sleep(self.seconds)
        env, rng = gym.make(env_spec), np.random.default_rng(seed)
        env.reset(seed=seed)
        scored = []
        for _ in range(STEPS):
            action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
            scored.append((env.step(action)[1], action))
            env.reset()
        self.best = max(scored, key=lambda one: one[0])[1]
        self.after_learning(env)

    def after_learning(self, env: gym.Env) -> None:
        """What an agent does beside."""

    def edit(self, env: gym.Env) -> EditJournal:
        env.reset()
        env.step(self.best)
        return self.handed_in(env.unwrapped.journal)

    def handed_in(self, journal: EditJournal) -> EditJournal:
        """The journal that an agent makes of its edit."""
        return journal

    def save(self, folder: Path) -> None:
        """Nothing."""

    @classmethod
    def load(cls, folder: Path) -> Honest:
        return cls()


def _tasks() -> list[UnlearningTask]:
    """The tasks of this process, which no environment offers."""
    found = [one for one in gc.get_objects() if type(one) is UnlearningTask]
    assert found
    return found


def _tell(*answers: Any, number: str | None = None) -> None:
    """Answer the harness, in the name of the code that watches the agent."""
    for frame in sys._current_frames().values():
        while frame is not None and frame.f_code.co_name != "serve":
            frame = frame.f_back
        if frame is not None:
            place, asked = frame.f_locals["answers"].fileno(), frame.f_locals["number"]
            for answer in answers:
                line = json.dumps([number or asked, "value", answer])
                os.write(place, f"{line}\n".encode())
            return
    raise AssertionError("the harness has another form")


def _own_meter() -> Path:
    """The file that this process counts into."""
    (file,) = Path(os.environ[metering.VARIABLE]).glob(f"{os.getpid()}-*")
    return file


# --- what is measured as if it had not been done --------------------------------------------------


class ChangesTestData(Honest):
    def after_learning(self, env: gym.Env) -> None:
        for task in _tasks():
            task.splits.test.labels.zero_()


class PatchesEvaluate(Honest):
    def after_learning(self, env: gym.Env) -> None:
        perfect = {"retain_accuracy": 1.0, "forget_accuracy": 0.0}
        UnlearningTask.evaluate = lambda *_: perfect
        evaluation.evaluate_journal = measure.evaluated = lambda *_: Evaluation(perfect)


class LeavesThread(Honest):
    def after_learning(self, env: gym.Env) -> None:
        threading.Thread(target=self.spoil).start()

    def spoil(self) -> None:
        tasks = _tasks()
        while True:
            for task in tasks:
                task.pool.labels.zero_()
                torch.set_num_threads(2)
            time.sleep(0.001)


class ChangesDtype(Honest):
    def handed_in(self, journal: EditJournal) -> EditJournal:
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(2)
        return journal


class PatchesClock(Honest):
    seconds = 0.3

    def after_learning(self, env: gym.Env) -> None:
        time.perf_counter = time.monotonic = time.time = lambda: 0.0


class WorksInItsConstructor(Honest):
    def __init__(self) -> None:
        time.sleep(0.3)


class ChangesItsAccess(Honest):
    def after_learning(self, env: gym.Env) -> None:
        self.access = "oracle"


class OverridesItsJournal(Honest):
    def handed_in(self, journal: EditJournal) -> EditJournal:
        class Journal(EditJournal):
            steps = 1_000

            def save(self, path: Any) -> Path:
                raise AssertionError("the harness saves it")

        return Journal(journal.base_hash, journal.entries)


# --- what is measured so, or fails ----------------------------------------------------------------


class SpeaksAfterwards(Honest):
    def handed_in(self, journal: EditJournal) -> EditJournal:
        threading.Thread(target=self.speak).start()
        return journal

    def speak(self) -> None:
        while True:
            time.sleep(0.001)
            _tell(["edited", None], ["handed in", 1], number="0" * 32)


# --- what fails -----------------------------------------------------------------------------------


class ReadsTestData(Honest):
    def after_learning(self, env: gym.Env) -> None:
        env.unwrapped.task.splits.test.labels.float().mean()


class ReadsTestDataWithData(ReadsTestData):
    access = "data"


class SearchesTheTestStream(Honest):
    """It edits the stream that it is judged on, again and again, and looks at what each step came
    to."""

    def __init__(self, tries: int) -> None:
        self.tries = tries

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Nothing."""

    def edit(self, env: gym.Env) -> EditJournal:
        for strength in np.linspace(0, 1, self.tries):
            env.reset()
            over = False
            while not over:
                action = np.full(env.action_space.shape, strength, np.float32)
                _, _, over, _, info = env.step(action)
                assert 0 <= info["reliability"] <= 1
        return env.unwrapped.journal


class EvaluatesItself(Honest):
    def edit(self, env: gym.Env) -> EditJournal:
        journal = super().edit(env)
        env.unwrapped.evaluate(journal)
        return journal


class StealsOracle(Honest):
    access = "data"

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        open_env(gym.make(env_spec)).task.oracle(0)


class ReplacesMeter(Honest):
    def after_learning(self, env: gym.Env) -> None:
        metering.record = lambda *_, **__: None
        search(env, STEPS)


class RewritesMeter(Honest):
    def after_learning(self, env: gym.Env) -> None:
        metering._Counters.add.__code__ = (lambda self, calls, gradients: None).__code__
        search(env, STEPS)


class EmptiesMeter(Honest):
    def after_learning(self, env: gym.Env) -> None:
        metering._counters.folders.clear()
        search(env, STEPS)


class Overspends(Honest):
    def after_learning(self, env: gym.Env) -> None:
        search(env, 2)


class SearchesInSubprocesses(Honest):
    def after_learning(self, env: gym.Env) -> None:
        self.search(gym.make_vec(env.spec, num_envs=2, vectorization_mode="async"))

    def search(self, envs: Any) -> None:
        envs.reset()
        for _ in range(3):
            envs.step(np.zeros((2, *envs.single_action_space.shape), np.float32))
        envs.close()


class SearchesInStableBaselines(SearchesInSubprocesses):
    def after_learning(self, env: gym.Env) -> None:
        envs = SubprocVecEnv([lambda: gym.make(env.spec)] * 2, start_method="fork")
        envs.single_action_space = envs.action_space
        self.search(envs)


class SearchesElsewhere(SearchesInSubprocesses):
    """By the id, in processes that know of no spec, after it has hidden the meter from them."""

    def after_learning(self, env: gym.Env) -> None:
        os.environ.pop(metering.VARIABLE)
        make = [lambda spec=env.spec: gym.make(spec)] * 2
        self.search(gym.vector.AsyncVectorEnv(make, context="spawn"))


class SearchesWithFakeSteps(OverridesItsJournal):
    def edit(self, env: gym.Env) -> EditJournal:
        search(env, STEPS)
        return super().edit(env)


class AddsSteps(Honest):
    def edit(self, env: gym.Env) -> EditJournal:
        search(env, STEPS)
        return super().edit(env)

    def handed_in(self, journal: EditJournal) -> EditJournal:
        (edit,) = journal.entries
        nothing = DenseUpdate(torch.zeros(edit.update.shape), 1.0)
        for step in range(1, STEPS + 1):
            journal.append(SiteEdit(edit.site, edit.operator, nothing, step))
        return journal


class ChangesTheNetwork(Honest):
    def after_learning(self, env: gym.Env) -> None:
        for task in _tasks():
            for weight in task.networks[0].base_weights:
                weight.zero_()


class ReplacesTensors(Honest):
    def handed_in(self, journal: EditJournal) -> EditJournal:
        return EditJournal(journal.base_hash, [ReplaceTensors({"fc2.bias": torch.zeros(32)})])


class EditsAnotherSite(Honest):
    site, operator, bound = "fc3", Mask(), 1.0

    def handed_in(self, journal: EditJournal) -> EditJournal:
        (edit,) = journal.entries
        update = DenseUpdate(2 * torch.ones(edit.update.shape), self.bound)
        return EditJournal(journal.base_hash, [SiteEdit(self.site, self.operator, update)])


class UsesAnotherOperator(EditsAnotherSite):
    site, operator = "fc2", Shift(3.0)


class LeavesTheBox(EditsAnotherSite):
    site, bound = "fc2", None


class LeavesTheBoxOfActions(EditsAnotherSite):
    site = "fc2"


class HandsInNothing(Honest):
    def handed_in(self, journal: EditJournal) -> EditJournal:
        return None


class ExitsAtOnce(Honest):
    def after_learning(self, env: gym.Env) -> None:
        os._exit(3)


class IsKilled(Honest):
    def after_learning(self, env: gym.Env) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class TellsNoNumber(Honest):
    def after_learning(self, env: gym.Env) -> None:
        learning.peak_memory_bytes = lambda _: "much"


class TellsNoAccess(Honest):
    def __init__(self) -> None:
        self.access = ["reward"]


class ForgesBefore(Honest):
    """Whatever there is to say, several times, before it has begun."""

    def __init__(self) -> None:
        forged = [["made", "oracle"], ["learned", None], ["edited", None], ["handed in", 1]]
        _tell(*forged, *forged, number="0" * 32)


class ForgesItsAccess(Honest):
    """With the number of what was asked, before the harness's own code can answer."""

    def __init__(self) -> None:
        _tell(["made", "oracle"])


class ForgesTheEndOfLearning(Honest):
    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        _tell(["learned", None])
        super().learn(env_spec, budget, seed, out)
        time.sleep(0.3)


class ForgesTheEndOfTheEdit(Honest):
    def edit(self, env: gym.Env) -> EditJournal:
        journal = super().edit(env)
        journal.save(Path(os.environ[metering.VARIABLE]).parent / "journal.safetensors")
        _tell(["edited", None], ["handed in", 1], ["as before", True])
        time.sleep(0.3)
        return journal


class ForgesAgain(Honest):
    """The same answer again, after the harness's own."""

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        _tell(["loaded", None], ["loaded", None])
        super().learn(env_spec, budget, seed, out)


class WritesWithoutEnd(Honest):
    def after_learning(self, env: gym.Env) -> None:
        _tell("x" * (5 * 2**20))


class SearchesInItsConstructor(Honest):
    def __init__(self) -> None:
        search(gym.make("MaskWorld-v1", task="unlearning/digits"), 2)


class ReadsTestDataInItsConstructor(Honest):
    def __init__(self) -> None:
        env = gym.make("MaskWorld-v1", task="unlearning/digits")
        env.unwrapped.task.splits.test.labels.float().mean()


class DeclaresLessOnceItIsMade(Honest):
    access = "oracle"

    def __init__(self) -> None:
        env = gym.make("MaskWorld-v1", task="unlearning/digits")
        env.reset(seed=0)
        assert env.unwrapped.task.oracle is not None
        self.access = "reward"


class SearchesInItsJournal(Honest):
    """When the harness asks for the entries."""

    def edit(self, env: gym.Env) -> EditJournal:
        class Journal(EditJournal):
            edited = False

            @property
            def entries(self) -> list[Any]:
                search(env, 3 if self.edited else 0)
                return self.__dict__["own"]

            @entries.setter
            def entries(self, entries: list[Any]) -> None:
                self.__dict__["own"] = entries

        found = super().edit(env)
        journal = Journal(found.base_hash, list(found.entries))
        journal.edited = True
        return journal


class EmptiesItsMeter(Honest):
    def after_learning(self, env: gym.Env) -> None:
        _own_meter().write_bytes(bytes(16))


class RemovesItsMeter(Honest):
    def after_learning(self, env: gym.Env) -> None:
        _own_meter().unlink()


class LinksItsMeter(Honest):
    def after_learning(self, env: gym.Env) -> None:
        own = _own_meter()
        own.rename(own.parent.parent / "elsewhere")
        own.symlink_to(own.parent.parent / "elsewhere")


class LeavesAFolderAmongMeters(Honest):
    def after_learning(self, env: gym.Env) -> None:
        (_own_meter().parent / f"1-{'0' * 32}").mkdir()


class RaisesHalfACharacter(Honest):
    def after_learning(self, env: gym.Env) -> None:
        raise ValueError("half \ud800 a character")


class MovesTheCursor(Honest):
    def after_learning(self, env: gym.Env) -> None:
        raise ValueError("\x1b[2J\x1b[1;1Hall cells are finished\r")


class Hangs(Honest):
    def after_learning(self, env: gym.Env) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Event().wait()


# --- what turns the access into another one -------------------------------------------------------


class TakesGradients(Honest):
    def after_learning(self, env: gym.Env) -> None:
        env.reset()
        gradient_env(env).differentiable_step(torch.from_numpy(self.best))


class TakesGradientsUnguarded(TakesGradients):
    """Of an environment that it makes by itself, from the class."""

    def after_learning(self, env: gym.Env) -> None:
        own = MaskWorldEnv(**env.spec.kwargs)
        own.reset()
        own.differentiable_step(torch.from_numpy(self.best))


def search(env: gym.Env, steps: int) -> None:
    """Ask for rewards."""
    for _ in range(steps):
        env.reset()
        env.step(np.zeros(env.action_space.shape, np.float32))
