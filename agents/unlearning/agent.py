"""Every classical unlearning algorithm as an agent, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from torch import nn

from agents.configured import read_config, write_config
from agents.protocol import Access, Budget
from agents.unlearning import descent
from agents.unlearning.descent import Sets
from agents.unlearning.retrain import replace, start, unlearning_task
from agents.unlearning.settings import DEFAULTS, NAMES, SITE, settings_for
from agents.unlearning.ssd import ssd
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


class Unlearner:
    """An algorithm on the network and its own training data; nothing is learned before the edit.

    `NAME` changes all weights, `NAME-site` those of the environment's sites alone, as an agent in
    the environment may. What changed is in the journal as whole tensors.

    Args:
        algorithm: A name of `NAMES`.
        seed: Of the order of the samples and of random labels; `learn` sets it.
        **settings: What `agents.unlearning.settings.DEFAULTS` lists for the algorithm; those left
            out come from its tables. All that take steps: `epochs` (passes over D_r, or D_f where
            D_r is not used), `learning_rate` and `momentum` of SGD, `batch_size`. `neggrad_plus`:
            `beta`. `random_labels`, `salun`: `retain_weight` of the retained data's loss; `share`
            of the weights that `salun` may change. `scrub`: `alpha`, `gamma`, `ascent_epochs`.
            `ssd`: `alpha`, `dampening` (λ), `batch_size`.

    Raises:
        ValueError: There is no such algorithm, or it takes no such setting.
    """

    access: ClassVar[Access] = "data"
    name = "unlearner"

    def __init__(self, algorithm: str = "fine_tune", seed: int = 0, **settings: Any) -> None:
        if algorithm not in NAMES:
            raise ValueError(
                f"algorithm: there is no {algorithm!r}; choose from {', '.join(NAMES)}"
            )
        accepted = DEFAULTS[algorithm.removesuffix(SITE)]
        if unknown := sorted(set(settings) - set(accepted)):
            raise ValueError(
                f"{algorithm} takes no setting {', '.join(unknown)}; it takes {', '.join(accepted)}"
            )
        self.name = algorithm
        self.config = {"algorithm": algorithm, "seed": seed, **settings}

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Keep the seed; the work is done by `edit`, on the network at hand.

        Raises:
            Unsupported: The task is not about unlearning.
        """
        unlearning_task(gym.make(env_spec))
        self.config["seed"] = seed

    def edit(self, env: gym.Env) -> EditJournal:
        """Run the algorithm on the network of a fresh episode."""
        task, network, goal = start(env)
        model = network.merged()
        if self.name.endswith(SITE):
            model.requires_grad_(False)
            for site in network.sites:
                model.get_parameter(site.parameter).requires_grad_(True)
        own = {key: value for key, value in self.config.items() if key not in ("algorithm", "seed")}
        retain, forget = task.model_split(goal)
        with one_thread():
            ALGORITHMS[self.name.removesuffix(SITE)](
                model,
                Sets(retain, forget, task.n_classes, self.config["seed"]),
                {**settings_for(task.name, self.name), **own},
            )
        return replace(env, model)

    def save(self, folder: Path) -> None:
        """Write the configuration as JSON."""
        write_config(folder, self.config)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The agent that `save` wrote.

        Raises:
            FileNotFoundError: There is none in `folder`.
        """
        return cls(**read_config(folder))
