"""The trials of a study, in Optuna: what each one tries, when it is cut short, and what is kept.

A trial follows from the study's seed, its own number and the trials before it, and is written down
when it is over: a study that was killed and is gone on with has the same trials as one that was
not.
"""

from __future__ import annotations

import hashlib
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import torch
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from agents.checkpoints import canonical, first_difference
from agents.protocol import Unsupported
from agents.tune.space import Parameter, Range, Space
from agents.tune.validation import Look, Validation

JOURNAL = "study.journal"
_LOCK = "study.lock"
_NAME = "tune"
_IDENTITY = "identity"
_RANDOM_TRIALS = 8  # before Optuna's estimate of where good settings lie is asked
_SINGULAR: type[Exception] = torch.linalg.LinAlgError  # type: ignore[attr-defined]
# What settings may do to an editor: its trial counts as failed, and the study goes on.
_FAILURES = (
    ValueError,
    FloatingPointError,
    Unsupported,
    MemoryError,
    torch.OutOfMemoryError,
    _SINGULAR,
)
_COMPARED = 5  # trials that have come as far, before one is cut short


class Study:
    """Trials of settings in a folder; as a context, it is the folder's only one.

    Args:
        folder: Where they are kept, in Optuna's journal.
        identity: What the trials depend on beside their numbers, JSON values.
        space: What is searched.
        validation: How a trial is scored.
        seed: The study's seed.

    Raises:
        ValueError: The folder holds a study of something else, or another process is at work there.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        space: Space,
        validation: Validation,
        seed: int,
    ) -> None:
        self._folder, self._space, self._validation, self._seed = folder, space, validation, seed
        self._identity = canonical({**identity, "seed": seed, "space": space.describe()})

    @contextmanager
    def opened(self) -> Iterator[Study]:
        """Keep every other process out of the folder, and go on from its trials."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            with FileLock(self._folder / _LOCK, timeout=0):
                self._stored = stored_study(self._folder)
                self._check_identity()
                # Trials are drawn and judged in memory: what is stored is over.
                self._study = optuna.create_study(direction="maximize")
                self._study.add_trials(self._stored.trials)
                yield self
        except Timeout as error:
            raise ValueError(
                f"--out: another process is tuning in {self._folder}: wait until it has finished,"
                " or give another folder"
            ) from error

    @property
    def trials(self) -> list[FrozenTrial]:
        """The trials that are over, by number."""
        return self._stored.trials

    def run(self, trials: int, after_each: Callable[[], None]) -> None:
        """Go on until there are so many trials.

        Args:
            trials: Their number, together with those that there are.
            after_each: A function that is called after every trial.

        Raises:
            Unsupported: The agent cannot work here with its defaults.
        """
        while (number := len(self.trials)) < trials:
            self._study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=_RANDOM_TRIALS, seed=derived_seed(self._seed, number)
            )
            if number == 0:
                defaults = {one.name: one.default for one in self._space.parameters}
                self._study.enqueue_trial(defaults)
            self._run_one(self._study.ask())
            self._stored.add_trial(self._study.trials[number])
            after_each()

    def _run_one(self, trial: optuna.Trial) -> None:
        """Score one trial, or as much of it as is worth it."""
        values = {
            one.name: self._space.value(one, _drawn(trial, one)) for one in self._space.parameters
        }
        chosen = self._space.chosen(values)
        trial.set_user_attr("values", self._space.shown(values))
        trial.set_user_attr("settings", dict(chosen.settings))
        trial.set_user_attr("env_kwargs", dict(chosen.env_kwargs))
        start, score, cut, error = time.monotonic(), 0.0, False, None
        try:
            for step, look in enumerate(_quietly(self._validation.looks(chosen))):
                score = look.score
                trial.report(score, step)
                trial.set_user_attr("metrics", dict(look.metrics))
                if step + 1 < self._validation.steps and self._falls_behind(score, step):
                    cut = True
                    break
        except _FAILURES as reason:
            if trial.number == 0 and isinstance(reason, Unsupported):
                raise
            score, cut, error = 0.0, False, f"{type(reason).__name__}: {reason}"
        trial.set_user_attr("seconds", time.monotonic() - start)
        trial.set_user_attr("error", error)
        if cut:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, score)

    def _falls_behind(self, score: float, step: int) -> bool:
        """Whether a trial is below the median of the trials before it at the same step."""
        others = [
            one.intermediate_values[step]
            for one in self.trials
            if step in one.intermediate_values and one.user_attrs["error"] is None
        ]
        return len(others) >= _COMPARED and score < statistics.median(others)

    def _check_identity(self) -> None:
        """Begin a study, or refuse to go on with another one."""
        there = self._stored.user_attrs.get(_IDENTITY)
        if there is None:
            self._stored.set_user_attr(_IDENTITY, self._identity)
        elif different := first_difference(there, self._identity):
            raise ValueError(
                f"--out: {self._folder} holds another study: {different}; give another folder, or"
                f" delete {JOURNAL} there to begin anew"
            )


def stored_study(folder: Path) -> optuna.Study:
    """The study in a folder, an empty one where there is none; its trials are over."""
    file = folder / JOURNAL
    if file.is_file():
        _cut_torn_line(file)
    # Whoever held Optuna's own lock is gone: this process alone is at work in the folder.
    (folder / f"{JOURNAL}.lock").unlink(missing_ok=True)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(file))),
        study_name=_NAME,
        direction="maximize",
        load_if_exists=True,
    )


def derived_seed(seed: int, number: int) -> int:
    """The seed of a trial's draws, from the study's and its number."""
    return int.from_bytes(hashlib.sha256(f"trial {seed} {number}".encode()).digest()[:4])


def best_trial(trials: list[FrozenTrial]) -> FrozenTrial | None:
    """The best of the whole trials, the first of equals; None where none was scored."""
    whole = [t for t in trials if t.state is TrialState.COMPLETE and t.user_attrs["error"] is None]
    return max(whole, key=lambda trial: (trial.value, -trial.number), default=None)


def _quietly(looks: Iterator[Look]) -> Iterator[Look]:
    """The looks at a trial without what was warned of already when the validation was made."""
    while True:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            look = next(looks, None)
        if look is None:
            return
        yield look


def _drawn(trial: optuna.Trial, parameter: Parameter) -> Any:
    """The value that Optuna draws."""
    name, domain = parameter.name, parameter.domain
    if not isinstance(domain, Range):
        return trial.suggest_categorical(name, domain)
    if domain.whole:
        return trial.suggest_int(name, int(domain.low), int(domain.high), log=domain.log)
    return trial.suggest_float(name, domain.low, domain.high, log=domain.log)


def _cut_torn_line(file: Path) -> None:
    """End a file at its last line break: a crash of the machine may have torn what came last."""
    text = file.read_bytes()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        with file.open("r+b") as torn:
            torn.truncate(whole)
