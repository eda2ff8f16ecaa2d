"""Suites of the worlds: unlearning and debiasing."""

from __future__ import annotations

from agents.unlearning.settings import NAMES as UNLEARNERS
from benchmarks.suites.entry import AgentChoice, Entry

_ENVIRONMENTS = ("MaskWorld-v0", "ShiftWorld-v0")
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

# A quarter of the budget: enough to forget, so that the demonstration ends within three minutes.
QUICK = tuple(
    Entry(world, "unlearning/digits", UNLEARNING_AGENTS, reward_calls=10_240)
    for world in _ENVIRONMENTS
)
WORLDS = (
    *(Entry(world, "unlearning/digits", ALL_UNLEARNING_AGENTS) for world in _ENVIRONMENTS),
    Entry("MaskWorld-v0", "unlearning/mnist", ALL_UNLEARNING_AGENTS),
    Entry("ShiftWorld-v0", "unlearning/mnist", (*ALL_UNLEARNING_AGENTS, "rledit")),
    Entry(
        "ShiftWorld-v0",
        "unlearning/digits",
        DEEP_FORGETTING_AGENTS,
        env_kwargs=DEEP_FORGETTING,
        title="two layers, no trace in features",
        reward_calls=122_880,
        pooled=False,
    ),
    Entry(
        "ShiftWorld-v0",
        "unlearning/mnist",
        SEVERAL_LAYERS_AGENTS,
        env_kwargs=SEVERAL_LAYERS,
        title="three layers",
        pooled=False,
    ),
    Entry(
        "MaskWorld-v0",
        "unlearning/cifar10",
        UNLEARNING_AGENTS,
        max_seeds=3,
        env_kwargs=CIFAR10,
        title="one convolution",
        pooled=False,
    ),
    # What edits the model on its data does the same in either world, at a minute a row here.
    Entry(
        "ShiftWorld-v0",
        "unlearning/cifar10",
        ALL_UNLEARNING_AGENTS,
        max_seeds=3,
        env_kwargs=CIFAR10,
        title="one convolution",
        pooled=False,
    ),
    *(
        Entry(world, task, DEBIASING_AGENTS, env_kwargs=DEBIASING, title="last layer")
        for task in ("debiasing/templates", "debiasing/toxicity")
        for world in _ENVIRONMENTS
    ),
    *(
        Entry(
            "ShiftWorld-v0",
            task,
            DEEP_DEBIASING_AGENTS,
            env_kwargs=DEEP_DEBIASING,
            title="three layers",
            reward_calls=81_920,
            pooled=False,
        )
        for task in ("debiasing/templates", "debiasing/toxicity")
    ),
)
# A real encoder, `minilm-l6`, which must have been fetched; its head is trained for each division.
# `cda_reweight` moves the head alone: all weights, by passes of some hundred thousand texts and
# back, would on one core take hours for each division.
ENCODER_AGENTS: tuple[AgentChoice, ...] = tuple(
    ("cda_reweight", {"scope": "sites"}) if agent == "cda_reweight" else agent
    for agent in DEBIASING_AGENTS
)
_ENCODER = {"model": "minilm-l6", "sites": ["classifier"], **DEBIASING}
ENCODER = (
    Entry(
        "ShiftWorld-v0",
        "debiasing/transformer",
        ENCODER_AGENTS,
        env_kwargs=_ENCODER,
        title="MiniLM",
    ),
    # The weights of the head spread by 0.9: within ±0.05 of them there is little to find.
    Entry(
        "ShiftWorld-v0",
        "debiasing/transformer",
        tuple(agent for agent in ENCODER_AGENTS if agent != "linear_frontier"),
        env_kwargs={**_ENCODER, "shift_limit": 0.5},
        title="MiniLM, box of ±0.5",
        pooled=False,
    ),
)
# The experiments of Malik (2026) on MNIST: the under-trained network, episode lengths, and every
# class.
PAPER = (
    *(
        Entry(world, "unlearning/mnist", ("ppo", "cmaes"), env_kwargs=kwargs)
        for kwargs in (
            {"undertrained": True},
            {"undertrained": True, "episode_length": 2},
            {"undertrained": True, "episode_length": 4},
        )
        for world in _ENVIRONMENTS
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
        for world in _ENVIRONMENTS
    ),
)
# What attacks recover of the edits of all agents: rows of `WORLDS` that are older lack it.
ATTACKS = (Entry("ShiftWorld-v0", "unlearning/digits", ALL_UNLEARNING_AGENTS),)
# What a reward has to ask for if a class is to be gone and not hidden: the reward as it is, a probe
# of the features, relearning from a few images, both, and both with more weight on what is kept,
# all by the reward's own gradient in one box. The weights were chosen on the first network.
_PROBED, _RELEARNED = {"probe_weight": 6.0}, {"relearn_weight": 3.0}
DEEP = (
    Entry(
        "ShiftWorld-v1",
        "unlearning/digits",
        (
            "no_edit",
            "reward_ascent",
            ("reward_ascent", {}, _PROBED),
            ("reward_ascent", {}, _RELEARNED),
            ("reward_ascent", {}, {**_PROBED, **_RELEARNED}),
            ("reward_ascent", {}, {**_PROBED, **_RELEARNED, "alpha": 8.0}),
            "neggrad_plus-site",
            "scrub-site",
            "retrain",
        ),
        env_kwargs={"shift_limit": 0.5, "alpha": 5.0, "batch_size": 512},
        pooled=False,
    ),
)
BACKDOOR = tuple(Entry(world, "unlearning/backdoor", UNLEARNING_AGENTS) for world in _ENVIRONMENTS)
# What searches by rewards alone, at equal calls, in version 1 of the worlds.
_REWARD_AGENTS = ("no_edit", "random", "cmaes", "ppo")
REWARDS = tuple(
    Entry(world, task, _REWARD_AGENTS, env_kwargs=arguments, **options)
    for task, arguments, options in (
        ("unlearning/digits", {}, {}),
        ("unlearning/mnist", {}, {}),
        ("unlearning/cifar10", CIFAR10, {"max_seeds": 3, "title": "one convolution"}),
        ("debiasing/templates", DEBIASING, {"title": "last layer"}),
        ("debiasing/toxicity", DEBIASING, {"title": "last layer"}),
    )
    for world in ("MaskWorld-v1", "ShiftWorld-v1")
)
