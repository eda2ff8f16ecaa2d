"""The suites as tables: environments × tasks × agents, their seeds, and what a reward-access agent
may spend.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents.unlearning.settings import NAMES as UNLEARNERS
from benchmarks.results import Cell
from benchmarks.suites.editors import (
    ABLATIONS,
    ELSEWHERE,
    GPT2_SITES,
    LATE_OUTPUTS,
    LIFELONG_SITES,
    LONG,
    ON_GPT2,
    ONE_BY_ONE,
    ONE_BY_ONE_LATE,
    SHORT,
    AgentChoice,
    choices,
    learned,
)

# Reward evaluations that every agent gets for one task; agents that never ask for a reward spend
# none of them. Where a task is not here there is no budget, and agents that search fail.
REWARD_CALLS = {
    "unlearning/digits": 40_960,
    "unlearning/mnist": 20_480,
    "unlearning/cifar10": 16_384,
    "debiasing/templates": 20_480,
    "debiasing/toxicity": 20_480,
    "knowledge/factworld": 3_200,
    "knowledge/zsre": 3_200,
    "knowledge/counterfact": 3_200,
}

WORLDS = ("MaskWorld-v0", "ShiftWorld-v0")
UNLEARNING_AGENTS = ("no_edit", "random", "cmaes", "ppo", "fine_tune", "retrain")
# What is known to work on the model and its data, on all weights and on the agents' sites.
ALL_UNLEARNING_AGENTS = (
    *UNLEARNING_AGENTS,
    *(name for name in UNLEARNERS if name not in UNLEARNING_AGENTS),
)
# The leace that comes twice goes as far towards the other as the world's box allows.
DEBIASING_AGENTS: tuple[AgentChoice, ...] = (
    "no_edit",
    "random",
    "cmaes",
    "ppo",
    "last_layer_fine_tune",
    "linear_frontier",
    "cda_reweight",
    "leace",
    ("leace", {"projected": True}),
)
# Within the box of a last layer of 32 numbers, the probability of the right class is largest where
# all margins are; it is accuracy, the paper's signal, that moves the decision.
DEBIASING = {"signal": "accuracy"}
# The last block's second convolution, and fewer samples a step: a candidate then costs 20 ms, not a
# second.
CIFAR10 = {"sites": ["layer3.2.conv2"], "batch_size": 128}

# Earlier layers open too. There the box of ±0.05 is too small for any edit to matter, and the
# probability does move the decision. PPO needs more and smaller rollouts for a thousand numbers,
# and four times the calls of the last layer.
DEEP_DEBIASING = {"sites": ["fc2", "fc3", "fc4"], "shift_limit": 0.5, "signal": "probability"}
DEEP_DEBIASING_AGENTS: tuple[AgentChoice, ...] = (
    "no_edit",
    ("ppo", {"rollout": 256, "batch_size": 256}),
    "site_fine_tune",
)
# Earlier layers, and a reward for features that no longer tell the class: to hide it in the last
# layer gains nothing.
DEEP_FORGETTING = {"sites": ["fc1", "fc2"], "shift_limit": 0.3, "probe_weight": 4.0}
DEEP_FORGETTING_AGENTS: tuple[AgentChoice, ...] = (
    "no_edit",
    ("ppo", {"rollout": 256, "batch_size": 256}),
    "random_labels-site",
    "scrub-site",
    "retrain",
)
# Policies that learn through the reward's gradient, and a choice of layers for the one that
# chooses.
SEVERAL_LAYERS = {"sites": ["fc1", "fc2", "fc3"], "batch_size": 512}
SEVERAL_LAYERS_AGENTS: tuple[AgentChoice, ...] = (
    "no_edit",
    "ppo",
    ("rledit", {"sequences": 400}),
    ("hiedit", {"gate": "straight_through", "sites_per_step": 1, "sequences": 400}),
)


@dataclass(frozen=True)
class Entry:
    """One environment with one task, and who is compared there.

    Attributes:
        env_id: Gymnasium id.
        task: Name of the task.
        agents: Catalogue names, or pairs of a name and the agent's configuration; a name may come
            several times.
        max_seeds: Upper limit of the number of seeds, for tasks too slow for the suite's number.
        env_kwargs: Further arguments of the environment.
        seed_kwarg: The environment's argument that goes along with the agent's seed, such as the
            seed of the network or of the stream of edits; None where it takes none.
        reward_calls: What every agent gets here in place of the task's `REWARD_CALLS`.
        pooled: Whether the table over all tasks of a family takes it in. Not where few of the
            agents are compared, or where they have settings of their own: an agent that lacks a
            result in one task is not in that table.
    """

    env_id: str
    task: str
    agents: tuple[AgentChoice, ...]
    max_seeds: int | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    seed_kwarg: str | None = "model_seed"
    reward_calls: int | None = None
    pooled: bool = True

    def chosen(self, names: Sequence[str] | None) -> list[tuple[str, Mapping[str, Any]]]:
        """The agents called `names`, as configured here where they are here; all of them where
        there are no names.
        """
        own = [(agent, {}) if isinstance(agent, str) else agent for agent in self.agents]
        if not names:
            return own
        return [pair for name in names for pair in [p for p in own if p[0] == name] or [(name, {})]]


@dataclass(frozen=True)
class Suite:
    """A named comparison.

    Attributes:
        name: Name on the command line and in every row.
        seeds: Default number of seeds, 0 … seeds − 1.
        entries: What is run.
    """

    name: str
    seeds: int
    entries: tuple[Entry, ...]


_QUICK = tuple(Entry(world, "unlearning/digits", UNLEARNING_AGENTS) for world in WORLDS)
_WORLDS = (
    *(Entry(world, "unlearning/digits", ALL_UNLEARNING_AGENTS) for world in WORLDS),
    Entry("MaskWorld-v0", "unlearning/mnist", ALL_UNLEARNING_AGENTS),
    Entry("ShiftWorld-v0", "unlearning/mnist", (*ALL_UNLEARNING_AGENTS, "rledit")),
    Entry(
        "ShiftWorld-v0",
        "unlearning/digits",
        DEEP_FORGETTING_AGENTS,
        env_kwargs=DEEP_FORGETTING,
        reward_calls=122_880,
        pooled=False,
    ),
    Entry(
        "ShiftWorld-v0",
        "unlearning/mnist",
        SEVERAL_LAYERS_AGENTS,
        env_kwargs=SEVERAL_LAYERS,
        pooled=False,
    ),
    Entry(
        "MaskWorld-v0",
        "unlearning/cifar10",
        UNLEARNING_AGENTS,
        max_seeds=3,
        env_kwargs=CIFAR10,
        pooled=False,
    ),
    # What edits the model on its data does the same in either world, at a minute a row here.
    Entry(
        "ShiftWorld-v0",
        "unlearning/cifar10",
        ALL_UNLEARNING_AGENTS,
        max_seeds=3,
        env_kwargs=CIFAR10,
        pooled=False,
    ),
    *(
        Entry(world, task, DEBIASING_AGENTS, env_kwargs=DEBIASING)
        for task in ("debiasing/templates", "debiasing/toxicity")
        for world in WORLDS
    ),
    *(
        Entry(
            "ShiftWorld-v0",
            task,
            DEEP_DEBIASING_AGENTS,
            env_kwargs=DEEP_DEBIASING,
            reward_calls=81_920,
            pooled=False,
        )
        for task in ("debiasing/templates", "debiasing/toxicity")
    ),
)
# The experiments of Malik (2026) on MNIST: the under-trained network, episode lengths, and every
# class.
_PAPER = (
    *(
        Entry(world, "unlearning/mnist", ("ppo", "cmaes"), env_kwargs=kwargs)
        for kwargs in (
            {"undertrained": True},
            {"undertrained": True, "episode_length": 2},
            {"undertrained": True, "episode_length": 4},
        )
        for world in WORLDS
    ),
    *(
        Entry(
            world,
            "unlearning/mnist",
            ("ppo", "cmaes"),
            max_seeds=3,
            env_kwargs={"forget_class": digit},
        )
        for digit in (0, 1, 2, 3, 4, 5, 6, 8, 9)
        for world in WORLDS
    ),
)

# For streams of 100 steps: training sequences are shorter, since an untrained network wears the
# model out within 60.
_LONGER: Mapping[str, Any] = {
    "step_learning_rate": 0.05,
    "train_env": {"horizon": 40, "locality_weight": 30.0},
}


def _lifelong(agents: tuple[AgentChoice, ...], **env_kwargs: Any) -> Entry:
    """A stream of FactWorld's; the agent's seed draws it. Ten edits a step unless `env_kwargs` says
    otherwise.
    """
    return Entry(
        "LifelongLLMEdit-v0",
        "knowledge/factworld",
        agents,
        seed_kwarg=None,
        pooled=False,
        env_kwargs={"sites": LIFELONG_SITES, "max_coefficient": 6.0, **env_kwargs},
    )


_LIFELONG = (
    _lifelong(
        (
            *choices(SHORT),
            *learned(
                SHORT,
                {"sequences": 20},
                {"passes": 3, "sequences": 12, "step_size": 5e-4},
                {"sequences": 16},
                bonuses=(0.0, 0.5),
            ),
        ),
        horizon=20,
    ),
    _lifelong(
        (
            *choices(LONG),
            *learned(
                LONG,
                {"sequences": 12, **_LONGER},
                {"passes": 6, "sequences": 4, "step_size": 2e-4, **_LONGER},
                {"sequences": 8, **_LONGER},
            ),
        ),
        horizon=100,
    ),
)
_ULTRAEDIT: tuple[AgentChoice, ...] = ("ultraedit", ("ultraedit", {"passes": 3, "step_size": 7e-4}))
_ONCE: AgentChoice = ("rledit", {"sequences": 20})
_LIFELONG_ABLATIONS = (
    _lifelong(ABLATIONS, horizon=20),
    _lifelong((_ONCE, *_ULTRAEDIT), horizon=2, edits_per_step=100),
    _lifelong(ONE_BY_ONE, horizon=1_000, edits_per_step=1),
    _lifelong(ONE_BY_ONE_LATE, horizon=1_000, edits_per_step=1, sites=LATE_OUTPUTS),
    *(
        _lifelong((_ONCE, "ultraedit"), horizon=20, sites=sites)
        for sites in (
            ["model.layers.[345].mlp.down_proj"],
            ["model.layers.[345].mlp.gate_proj", "model.layers.[345].mlp.up_proj"],
        )
    ),
)
# Other models: two small real checkpoints, in the data folder, with published requests; and one of
# GPT-2's shape.
_LIFELONG_CHECKPOINTS = (
    *(
        Entry(
            "LifelongLLMEdit-v0",
            task,
            ELSEWHERE,
            seed_kwarg=None,
            env_kwargs={"model": model, "sites": ["model.layers.*.mlp.*"], "horizon": 10},
        )
        for model in ("lm/stories260k", "lm/babyllama")
        for task in ("knowledge/zsre", "knowledge/counterfact")
    ),
    _lifelong(ON_GPT2, model="factlm-gpt2", sites=GPT2_SITES, horizon=20),
)
# A short stream, and the editors that take seconds.
_QUICK_LIFELONG = _lifelong(
    (
        *choices(SHORT, without=("in_context", "loc_ft_bf", "lora_merge", "ppo")),
        ("rledit", {"passes": 3, "sequences": 3, "step_size": 5e-4}),
    ),
    horizon=5,
)

SUITES = {
    suite.name: suite
    for suite in (
        Suite("quick", 3, (*_QUICK, _QUICK_LIFELONG)),
        Suite("worlds", 10, _WORLDS),
        Suite("lifelong", 10, _LIFELONG),
        Suite("full", 10, (*_WORLDS, *_LIFELONG)),
        Suite("paper", 10, _PAPER),
        Suite("lifelong-ablations", 3, _LIFELONG_ABLATIONS),
        Suite("lifelong-checkpoints", 3, _LIFELONG_CHECKPOINTS),
    )
}


def find_suite(name: str) -> Suite:
    """The suite called `name`.

    Raises:
        ValueError: There is no such suite.
    """
    if name not in SUITES:
        raise ValueError(unknown("suite", name, list(SUITES)))
    return SUITES[name]


def cells(
    suite: Suite,
    *,
    tasks: Sequence[str] | None = None,
    agents: Sequence[str] | None = None,
    seeds: int | None = None,
    device: str = "cpu",
) -> list[Cell]:
    """The cells of `suite`, seed by seed, so that an interrupted run has compared all agents on its
    first seeds.

    Args:
        suite: The suite.
        tasks: Only these tasks of the suite.
        agents: These agents in place of the suite's own; any catalogue name or
            `package.module:Class`. Those that the suite has keep its configuration.
        seeds: Number of seeds in place of the suite's own; an entry's `max_seeds` still holds.
        device: Torch device of the networks.

    Raises:
        ValueError: A task is not in the suite, or `seeds` is not positive.
    """
    offered = list(dict.fromkeys(entry.task for entry in suite.entries))
    for task in tasks or ():
        if task not in offered:
            raise ValueError(unknown(f"task of suite {suite.name!r}", task, offered))
    count = suite.seeds if seeds is None else seeds
    if count < 1:
        raise ValueError(f"seeds must be 1 or more, got {count}")
    found = (
        _cell(suite, entry, agent, config, seed, device)
        for seed in range(count)
        for entry in suite.entries
        if (tasks is None or entry.task in tasks)
        and (entry.max_seeds is None or seed < entry.max_seeds)
        for agent, config in entry.chosen(agents)
    )
    return list(
        {cell.id: cell for cell in found}.values()
    )  # a name that is given twice is run once


def unknown(what: str, name: str, offered: Sequence[str]) -> str:
    """The message for a name that is not in `offered`, nearest names first."""
    nearest = difflib.get_close_matches(name, offered, n=3, cutoff=0.4)
    return (
        f"unknown {what} {name!r}: "
        + (f"did you mean {' or '.join(nearest)}? " if nearest else "")
        + f"There are: {', '.join(offered)}"
    )


def _cell(
    suite: Suite, entry: Entry, agent: str, config: Mapping[str, Any], seed: int, device: str
) -> Cell:
    # The environment's seed goes along with the agent's: the spread over networks belongs in the
    # interval.
    seeded = {} if entry.seed_kwarg is None else {entry.seed_kwarg: seed}
    env_kwargs = {"task": entry.task, **seeded, "device": device, **entry.env_kwargs}
    calls = REWARD_CALLS.get(entry.task) if entry.reward_calls is None else entry.reward_calls
    agent_config = {"reward_calls": calls, **config}
    return Cell(suite.name, entry.env_id, env_kwargs, agent, agent_config, seed)
