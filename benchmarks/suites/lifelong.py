"""Suites of streams of facts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.suites.editors import (
    ABLATIONS,
    BY_LOSS,
    ELSEWHERE,
    GPT2_SITES,
    LATE_OUTPUTS,
    LEARNED_ONCE,
    LIFELONG_SITES,
    LONG,
    ON_GPT2,
    ONE_BY_ONE,
    ONE_BY_ONE_LATE,
    READINGS,
    SHORT,
    choices,
    learned,
    rehearsed,
)
from benchmarks.suites.entry import AgentChoice, Entry


def _lifelong(
    agents: tuple[AgentChoice, ...], max_seeds: int | None = None, **env_kwargs: Any
) -> Entry:
    """A stream of FactWorld's; the agent's seed draws it. Ten edits a step unless `env_kwargs` says
    otherwise.
    """
    return Entry(
        "LifelongLLMEdit-v0",
        "knowledge/factworld",
        agents,
        max_seeds=max_seeds,
        seed_kwarg=None,
        pooled=False,
        env_kwargs={"sites": LIFELONG_SITES, "max_coefficient": 6.0, **env_kwargs},
        title=_title(**env_kwargs),
    )


def _title(
    horizon: int, edits_per_step: int = 10, model: str = "", sites: Sequence[str] = ()
) -> str:
    """A stream in a few words."""
    edits = f"{horizon:,} steps of {edits_per_step}"
    named = {tuple(LATE_OUTPUTS): "late outputs", tuple(GPT2_SITES): ""}
    where = named.get(tuple(sites), f"sites {', '.join(sites)}") if sites else ""
    return ", ".join(filter(None, (edits, model, where)))


LIFELONG = (
    _lifelong(
        (
            *choices(SHORT),
            *learned(
                SHORT,
                {"passes": 3, "sequences": 12, "step_size": 5e-4},
                bonuses=(0.0, 0.5),
            ),
        ),
        horizon=20,
    ),
    _lifelong(
        (
            *choices(LONG),
            *learned(LONG, {"passes": 6, "sequences": 4, "step_size": 2e-4}),
        ),
        horizon=100,
    ),
    _lifelong(rehearsed(SHORT, ultraedit=2), horizon=20),
    _lifelong(rehearsed(LONG, ultraedit=3), horizon=100),
    _lifelong(LEARNED_ONCE, horizon=100),
    _lifelong(BY_LOSS, horizon=100),
    _lifelong(READINGS, max_seeds=5, horizon=20),
)
_ULTRAEDIT: tuple[AgentChoice, ...] = ("ultraedit", ("ultraedit", {"passes": 3, "step_size": 7e-4}))
ABLATION_STREAMS = (
    _lifelong(ABLATIONS, horizon=20),
    _lifelong(("rledit", *_ULTRAEDIT), horizon=2, edits_per_step=100),
    _lifelong(ONE_BY_ONE, horizon=1_000, edits_per_step=1),
    _lifelong(ONE_BY_ONE_LATE, horizon=1_000, edits_per_step=1, sites=LATE_OUTPUTS),
    *(
        _lifelong(("rledit", "ultraedit"), horizon=20, sites=sites)
        for sites in (
            ["model.layers.[345].mlp.down_proj"],
            ["model.layers.[345].mlp.gate_proj", "model.layers.[345].mlp.up_proj"],
        )
    ),
)
# Other models: two small real checkpoints, in the data folder, with published requests; and one of
# GPT-2's shape.
CHECKPOINTS = (
    *(
        Entry(
            "LifelongLLMEdit-v0",
            task,
            ELSEWHERE,
            seed_kwarg=None,
            env_kwargs={"model": model, "sites": ["model.layers.*.mlp.*"], "horizon": 10},
            title=model.partition("/")[2],
        )
        for model in ("lm/stories260k", "lm/babyllama")
        for task in ("knowledge/zsre", "knowledge/counterfact")
    ),
    _lifelong(ON_GPT2, model="factlm-gpt2", sites=GPT2_SITES, horizon=20),
)
# A short stream, and one quick editor of each kind: the demonstration ends within three minutes.
QUICK = _lifelong(
    (
        *("no_edit", "ft_l", "grace", "memit_seq"),
        *_ULTRAEDIT,
        ("rledit", {"passes": 3, "sequences": 3, "step_size": 5e-4}),
    ),
    horizon=3,
)
