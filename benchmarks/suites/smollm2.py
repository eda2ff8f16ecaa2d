"""The suite of a real language model: CounterFact and ZsRE into SmolLM2-135M-Instruct, which
`python -m editgym.models.fetch smollm2-135m` gets.

Who is compared has what `agents.tune` found in 20 trials on CounterFact's validation split
(`agents.editors.settings.SMOLLM2`; the studies are in `docs/results/smollm2/tuning`), on ZsRE too;
where a study is not done yet, the best of its trials so far. An environment opens the sites that
its agent was tuned for: what lies below them is computed once.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agents.editors.settings import SMOLLM2
from benchmarks.suites.entry import AgentChoice, Chosen, Entry, Labelled

# The model's own samples, drawn once: another processor would draw others. From the repository's
# folder, or the data folder.
TEXT = "docs/results/smollm2/text.txt"
_FORMATS = {"knowledge/counterfact": "completion", "knowledge/zsre": "qa"}
_ASKED_TOO = ("bare", "qa", "completion", "chat")
# Of what `memit` tried, its defaults in the lowest ten layers are the best yet.
_LOWEST = ["model.layers.[0-9].mlp.down_proj"]
_ONE_SITE = ["model.layers.29.mlp.down_proj"]  # for those that edit none
# UltraEdit as published, which looks at each batch once: the best of 20 trials of its own.
_ONE_LOOK: Mapping[str, Any] = {
    "passes": 1,
    "step_size": 7.43e-4,
    "sites": [f"model.layers.{layer}.self_attn.o_proj" for layer in range(20, 30)],
}

# A gate that learned by rewards which of the MLP's matrices of the upper 20 layers are edited in a
# step, and a hypernetwork that learned with it, both on the policy split.
_LEARNED: Mapping[str, Any] = {
    "start_from": "docs/results/smollm2/agents/hiedit",
    "sequences": 0,
    "sites_per_step": 6,
    "rank": 32,
}
_UPPER = ["model.layers.[12][0-9].mlp.*_proj"]
# The step size that it learned, for the editor that learns nothing: at the sites that its gate
# chose for ten of twelve batches and more, and at others, so that they differ in the sites alone.
_STEP: Mapping[str, Any] = {"passes": 1, "step_size": 2e-4}
_DOWN = [f"model.layers.{layer}.mlp.down_proj" for layer in range(10, 30)]
_ALL = [
    f"model.layers.{layer}.mlp.{name}"
    for layer in range(10, 30)
    for name in ("gate_proj", "up_proj", "down_proj")
]
_FOUND: Mapping[str, Any] = {**_STEP, "sites": _DOWN[14:19]}
_DEFAULT: Mapping[str, Any] = {**_STEP, "sites": _DOWN[5:15]}  # as `discover_sites` opens
# The second of the 20 trials with one look, on the validation stream as good as the best.
_DEFAULT_TUNED: Mapping[str, Any] = {**_DEFAULT, "step_size": 6.7e-5}
_BY_CHANCE: Mapping[str, Any] = {**_STEP, "sites": random.Random(0).sample(_ALL, 5)}


def _choice(name: str, config: Mapping[str, Any] | None = None, **along: Any) -> Chosen:
    """An agent with its tuned settings, others over them, and arguments of the environment beside
    the sites of these; the environment's own sites where nothing is tuned.
    """
    settings = {**SMOLLM2.get(name, {}), **(config or {})}
    one = settings.get("site")
    sites = settings.get("sites") or ([one] if one else None)
    return name, config or {}, {**({} if sites is None else {"sites": list(sites)}), **along}


def _labelled(label: str, config: Mapping[str, Any], **along: Any) -> Labelled:
    """UltraEdit as `_choice` has it, with a short name."""
    name, own, beside = _choice("ultraedit", config, **along)
    return Labelled(name, label, own, beside)


_CONTROLS = tuple(_choice(name, sites=_ONE_SITE) for name in ("no_edit", "in_context", "retrieve"))
_REHEARSED = _labelled("six looks, 30 rehearsed", {}, rehearse=30)
_AT_SITES_FOUND = _labelled("one look, sites found by rewards", _FOUND)
AGENTS: tuple[AgentChoice, ...] = (
    *_CONTROLS,
    *map(_choice, ("ft_m", "ft_l", "loc_ft_bf", "lora_merge", "rome")),
    _choice("memit", sites=_LOWEST),
    *map(_choice, ("memit_seq", "alphaedit", "grace")),
    _labelled("six looks", {}),
    _REHEARSED,
    _labelled("one look, tuned", _ONE_LOOK),
    _choice("hiedit", _LEARNED, sites=_UPPER),
    _AT_SITES_FOUND,
    _labelled("one look, default sites", _DEFAULT),
    _labelled("one look, default sites, tuned step", _DEFAULT_TUNED),
    _labelled("one look, sites by chance", _BY_CHANCE),
    _labelled("one look, all 60 sites", {**_STEP, "sites": _ALL}),
)


# A thousand edits: the controls, and the six editors of weights with the highest H after 200.
OF_A_THOUSAND: tuple[AgentChoice, ...] = (
    *_CONTROLS,
    *map(_choice, ("ft_m", "memit_seq", "alphaedit", "grace")),
    _REHEARSED,
    _AT_SITES_FOUND,
)


def _streams(task: str, horizon: int, streams: int) -> Entry:
    """Streams of ten edits a step, one for each seed."""
    form = _FORMATS[task]
    return Entry(
        "LifelongLLMEdit-v1",
        task,
        AGENTS,
        max_seeds=streams,
        seed_kwarg=None,
        pooled=False,
        env_kwargs={
            "model": "smollm2-135m",
            "text": TEXT,
            "prompt_format": form,
            "evaluate_formats": [one for one in _ASKED_TOO if one != form],
            "horizon": horizon,
        },
        title=f"SmolLM2-135M, {10 * horizon} edits",
    )


def _in_orders(entry: Entry, orders: int) -> Entry:
    """The entry on its first stream alone, in an order of its own for each seed."""
    return replace(
        entry,
        agents=OF_A_THOUSAND,
        max_seeds=orders,
        seed_kwarg="order",
        env_kwargs={**entry.env_kwargs, "stream": 0},
        title=f"{entry.title}, one stream in several orders",
    )


STREAMS = (
    _streams("knowledge/counterfact", 20, 5),
    _in_orders(_streams("knowledge/counterfact", 100, 3), 3),
    _streams("knowledge/zsre", 10, 3),
)
