"""Every classical unlearning algorithm as an agent, by name."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace as changed
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from torch import nn
from tqdm import tqdm

from agents.configured import ConfiguredAgent, Settings
from agents.episodes import replace, task_name
from agents.protocol import Access, Budget
from agents.unlearning import descent
from agents.unlearning.descent import Sets
from agents.unlearning.episode import start, unlearning_task
from agents.unlearning.search import LEAST_STEPS, LONG_STEPS, MOST_STEPS, RELATIVE_STEPS, Search
from agents.unlearning.settings import CHOSEN, KINDS, NAMES, SITE, tuned_for
from agents.unlearning.ssd import TRIES, ssd
from agents.unlearning.validation import Validation, is_finite
from editgym.checks import is_whole, require
from editgym.models.training import one_thread
from editgym.weights import EditJournal

ALGORITHMS: dict[str, Callable[[nn.Module, Sets, Mapping[str, Any]], None]] = {
    "fine_tune": descent.fine_tune,
    "gradient_ascent": descent.gradient_ascent,
    "neggrad_plus": descent.neggrad_plus,
    "random_labels": descent.random_labels,
    "ssd": ssd,
    "salun": descent.salun,
    "scrub": descent.scrub,
}


class UnlearningAlgorithm(ConfiguredAgent):
    """The base of algorithms that change a network in place, on its own training data.

    A subclass writes `forget`, and names its settings in `settings_type`. Nothing is learned before
    the edit; what changed is in the journal as whole tensors. A network that has diverged, whose
    weights are not finite or which on validation data is no better than one constant answer, is
    left as it was before the edit, with a warning.

    Args:
        seed: Seed of what the algorithm draws; `learn` sets it, unless `make_agent` was given one.
        **config: The settings.

    Attributes:
        notes: What is to be said of the latest edit, in sentences.

    Raises:
        ValueError: There is no such setting, or a value is out of its range.
    """

    access: ClassVar[Access] = "data"
    sites_only = False  # whether only the weights of the environment's sites may change
    notes: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Show `seed` beside the settings in the signature."""
        super().__init_subclass__(**kwargs)
        shown = inspect.signature(cls)
        if "settings_type" in vars(cls) and "seed" not in shown.parameters:
            seed = inspect.Parameter("seed", inspect.Parameter.KEYWORD_ONLY, default=0)
            parameters = [*shown.parameters.values(), seed]
            cls.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]

    def __init__(self, seed: int = 0, **config: Any) -> None:
        require(is_whole(seed), "seed", seed, "a whole number")
        self.seed, self.config = seed, {**config, "seed": seed}
        self.settings = self._settings_of(self.config)

    def resolved(self, spec: EnvSpec | None) -> Settings:
        """The settings in an environment made from `spec`; the seed is one of them only where
        `settings_type` has it.

        Raises:
            ValueError: A value is out of its range.
        """
        return self._settings_of({**({} if spec is None else self.tuned(spec)), **self.config})

    def _settings_of(self, given: Mapping[str, Any]) -> Settings:
        seeded = self.settings_type.has_seed()
        return self.settings_type.of({k: v for k, v in given.items() if seeded or k != "seed"})

    def keep_seed(self, seed: int) -> None:
        """Take the seed of `learn`, unless one was given."""
        if not self.seed_given:
            self.seed, self.config = seed, {**self.config, "seed": seed}

    def forget(self, model: nn.Module, sets: Sets) -> None:
        """Change `model` in place; weights that may not change need no gradient."""
        raise AssertionError(f"{type(self).__name__} does not say how it forgets")

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Keep the seed; the work is done by `edit`, on the network at hand.

        Raises:
            Unsupported: The task is not about unlearning.
        """
        with closing(gym.make(env_spec)) as env:
            unlearning_task(env)
        self.keep_seed(seed)
        self.settings = self.resolved(env_spec)

    def edit(self, env: gym.Env) -> EditJournal:
        """Run the algorithm on the network of a fresh episode.

        Raises:
            Unsupported: The task is not about unlearning.
        """
        task, network, goal = start(env)
        self.settings = self.resolved_for(task.name, env.spec)
        model = network.merged()
        if self.sites_only:
            model.requires_grad_(False)
            for site in network.sites:
                model.get_parameter(site.parameter).requires_grad_(True)
        self.notes = ()
        retain, forget = task.model_split(goal)
        with one_thread():
            validation = Validation(task, goal, network.base)
            self.forget(model, Sets(retain, forget, task.n_classes, self.seed, validation))
            reason = validation.divergence(model)
        if reason is not None:
            undone = not (is_finite(model) and self.keeps_diverged(task.name))
            left = (
                "the network is left as it was; give other settings, or let agents.tune find some"
                if undone
                else "the edit stays, as what was chosen for a task is measured as it is"
            )
            warnings.warn(f"{self.name} has diverged: {reason}; {left}", stacklevel=2)
            if undone:
                return network.journal
        return replace(env, model.state_dict())

    def keeps_diverged(self, task: str) -> bool:
        """Whether a network that has diverged is the edit nevertheless, as long as it is finite."""
        return False

    def resolved_for(self, task: str, spec: EnvSpec | None) -> Settings:
        """The settings for a task, in an environment made from `spec`."""
        return self.resolved(spec)


class Unlearner(UnlearningAlgorithm):
    """An algorithm by name, on the network and its own training data.

    `NAME` changes all weights, `NAME-site` those of the environment's sites alone, as an agent in
    the environment may. What changed is in the journal as whole tensors.

    | algorithm | what it descends on | settings beside those of SGD |
    |---|---|---|
    | `fine_tune` | CE(D_r) | |
    | `gradient_ascent` | −CE(D_f) | |
    | `neggrad_plus` | β·CE(D_r) − (1−β)·CE(D_f) | `beta` |
    | `random_labels` | CE(D_f, wrong labels) + w·CE(D_r) | `retain_weight` w |
    | `salun` | the same, where weights are salient for D_f | `retain_weight`, `share` |
    | `scrub` | away from the unedited network on D_f, α·KL + γ·CE on D_r | `ascent_epochs`,
    `alpha`, `gamma` |
    | `ssd` | nothing: it dampens the weights that matter to D_f | `alpha`, `dampening` λ,
    `batch_size`; no SGD |

    SGD has `epochs` (passes over D_r, or over D_f where D_r is not used), `learning_rate`,
    `momentum` and `batch_size`. `agents.unlearning.settings` holds ranges, defaults, and the values
    that were chosen for a task. In any other task `learning_rate` is None, and `alpha` of `ssd`: a
    few steps that do not depend on the scale of the network, and a few thresholds, are tried, and
    the best state on the validation split is kept, or no edit where nothing is better.

    Args:
        algorithm: A name of the table, or one with `-site`.
        seed: Seed of the order of the samples and of random labels; `learn` sets it, unless
            `make_agent` was given one.
        **settings: Settings of the algorithm; those left out have the values chosen for the task.

    Raises:
        ValueError: There is no such algorithm, it takes no such setting, or a value is out of its
            range.
    """

    name = "unlearner"

    def __init__(self, algorithm: str = "fine_tune", seed: int = 0, **settings: Any) -> None:
        if algorithm not in NAMES:
            raise ValueError(
                f"algorithm: there is no {algorithm!r}; choose from {', '.join(NAMES)}"
            )
        require(is_whole(seed), "seed", seed, "a whole number")
        self.name = algorithm  # type: ignore[misc]
        self.sites_only = algorithm.endswith(SITE)
        self.config = {"algorithm": algorithm, "seed": seed, **settings}
        self.seed, self._given = seed, settings
        try:
            self.settings = self._kind.of(settings)
        except ValueError as error:
            raise ValueError(f"{algorithm}: {error}") from error

    @property
    def _kind(self) -> type[Settings]:
        return KINDS[self.name.removesuffix(SITE)]

    def resolved(self, spec: EnvSpec | None) -> Settings:
        """The settings in an environment made from `spec`: what was chosen for its task, and over
        that what was given.
        """
        return self.resolved_for("" if spec is None else task_name(spec), spec)

    def resolved_for(self, task: str, spec: EnvSpec | None) -> Settings:
        """The settings for a task: what was chosen for it, and over that what was given."""
        return self._kind.of({**tuned_for(task, self.name), **self._given})

    def keeps_diverged(self, task: str) -> bool:
        """What was chosen for a task is measured as it is, whatever comes of it."""
        return task in CHOSEN and not self._given

    def forget(self, model: nn.Module, sets: Sets) -> None:
        """Run the algorithm of this name."""
        run, settings = ALGORITHMS[self.name.removesuffix(SITE)], self.settings.as_dict()
        searched = [name for name in ("learning_rate", "alpha") if settings.get(name, 0) is None]
        tries = [settings]
        if "learning_rate" in searched:
            settings = self._prolonged(settings, sets)
            shares = LONG_STEPS if run is descent.fine_tune else RELATIVE_STEPS
            tries = [{**settings, "relative_step": share} for share in shares]
        steps = self._steps(settings, sets)
        total = min(steps, MOST_STEPS) * len(tries) if searched else steps
        with tqdm(total=total, desc=self.name, unit="step", leave=False, mininterval=0.5) as bar:
            if not searched:
                run(model, changed(sets, after_step=lambda _: bar.update()), settings)
                return
            assert sets.validation is not None
            search = Search(model, sets.validation)

            def look(changed_model: nn.Module) -> None:
                bar.update()
                search(changed_model)

            search.over(tries, lambda own: run(model, changed(sets, after_step=look), own), steps)
        if search.best is None:
            warnings.warn(f"{self.name}: {search.told()}", stacklevel=2)
        self.notes = (search.told(),)

    def _prolonged(self, settings: Mapping[str, Any], sets: Sets) -> dict[str, Any]:
        """Settings of a try, with more passes where nobody has said how many and the data have few
        batches.
        """
        taken = self._steps(settings, sets)
        times = 1 if "epochs" in self._given or not taken else -(-LEAST_STEPS // taken)
        longer = {
            name: times * settings[name] for name in ("epochs", "ascent_epochs") if name in settings
        }
        return {**settings, **longer}

    def _steps(self, settings: Mapping[str, Any], sets: Sets) -> int:
        """How many changes of the weights a run makes."""
        if "epochs" not in settings:
            return len(TRIES) if settings["alpha"] is None else 1
        kept, gone = (
            -(-len(part) // settings["batch_size"]) for part in (sets.retain, sets.forget)
        )
        if self.name.removesuffix(SITE) == "gradient_ascent" or settings.get("retain_weight") == 0:
            return settings["epochs"] * gone
        ascents = min(settings["epochs"], settings.get("ascent_epochs", 0))
        return settings["epochs"] * kept + ascents * gone
