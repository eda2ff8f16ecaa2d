"""Settings of the editors that were tuned, by task, model and length of the stream.

An editor works with the defaults of its own settings, over them with what is tuned here for the
environment's task and model, and over both with what it is given. The defaults suit factlm too;
larger models want smaller steps. What stands here was chosen on validation streams of FactWorld, in
steps of ten edits, by the mean harmonic mean of reliability, generalization and locality, from
grids (`docs/results/lifelong/tuning.jsonl`); Edit-GRPO's by hand. What stands here for SmolLM2 was
found by `agents.tune` (`docs/results/smollm2/tuning`), as it is for any other model and file.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gymnasium.envs.registration import EnvSpec

from agents.episodes import spec_arguments
from editgym.checks import Check, is_whole, optional
from editgym.models.factlm_sites import FACTLM_SITES

# Names among the environment's sites: whether they are open is known where the environment is.
SITE = optional(Check(lambda v: isinstance(v, str), "the name of a site"))
SITES = optional(
    Check(
        lambda v: (
            isinstance(v, list | tuple)
            and all(isinstance(one, str) for one in v)
            and len(set(v)) == len(v)
        ),
        "a list of names of sites, each once",
    )
)
SEED = Check(is_whole, "a whole number")
_NAMING_SITES = ("site", "sites")

Table = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Tuned:
    """What was tuned on streams of one task into one model.

    Attributes:
        task: The environment's argument.
        model: The environment's argument.
        edits: The least number of edits of a stream that this is for.
        sites: What the environment opens unless it is told otherwise, names or globs.
        settings: By editor; an editor that is not here has its defaults.
    """

    task: str
    model: str
    edits: int
    sites: Sequence[str]
    settings: Table


_FT_SITE = "model.layers.4.mlp.down_proj"
# Chosen on streams of 200 edits.
_SHORT: Table = {
    "ft_m": {"site": _FT_SITE, "learning_rate": 4e-3},
    "ft_l": {"site": _FT_SITE, "learning_rate": 5e-3, "epsilon": 0.8},
    "rome": {"max_norm": 0.7},
    "ultraedit": {"step_size": 1e-3},
    "edit_grpo": {"sites": [_FT_SITE], "iterations": 6},
}
# Chosen on streams of 500 edits, which is as long as the validation split lasts.
_LONG: Table = {
    **_SHORT,
    "ft_l": {**_SHORT["ft_l"], "epsilon": 1.2},
    "memit_seq": {"covariance_weight": 300.0},
    "ultraedit": {"step_size": 1.4e-3},
}


def _in_layers(first: int, last: int, *modules: str) -> list[str]:
    """Modules of some layers of a Llama, the last one included."""
    return [
        f"model.layers.{layer}.{module}" for layer in range(first, last + 1) for module in modules
    ]


# Found in 20 trials each on a validation stream of CounterFact, 10 steps of 10 edits, asked in the
# format `completion`.
SMOLLM2: Table = {
    "alphaedit": {
        "steps": 55,
        "learning_rate": 0.0581,
        "max_norm": 2.0,
        "threshold": 0.985,
        "ridge": 12.8,
        "sites": _in_layers(0, 9, "mlp.down_proj"),
    },
    "ft_m": {"steps": 18, "learning_rate": 4.18e-3, "stop_loss": 0.216},
    "grace": {"radius": 0.868, "steps": 59, "learning_rate": 0.17},
    "memit_seq": {
        "steps": 31,
        "learning_rate": 0.519,
        "max_norm": 0.781,
        "covariance_weight": 4.88,
        "sites": _in_layers(0, 9, "mlp.down_proj"),
    },
    "retrieve": {"threshold": 0.485},
    "ultraedit": {
        "step_size": 7.95e-06,
        "passes": 6,
        "sites": _in_layers(20, 29, "mlp.gate_proj", "mlp.up_proj"),
    },
}
_SMOLLM2_SITES = _in_layers(15, 24, "mlp.down_proj")  # what `discover_sites` opens
TUNED: tuple[Tuned, ...] = (
    Tuned("knowledge/factworld", "factlm", 1, FACTLM_SITES, _SHORT),
    Tuned("knowledge/factworld", "factlm", 500, FACTLM_SITES, _LONG),
    *(
        Tuned(task, "smollm2-135m", 1, _SMOLLM2_SITES, SMOLLM2)
        for task in ("knowledge/counterfact", "knowledge/zsre")
    ),
)


def tuned_settings(spec: EnvSpec, editor: str, table: Sequence[Tuned] = TUNED) -> dict[str, Any]:
    """What is tuned for an editor in an environment made from `spec`.

    Of several rows for a task and model the one for the longest streams that are no longer than the
    environment's, counted in edits, holds. A setting that names sites holds where all of them are
    open for edits, by the environment's argument `sites`; elsewhere it is left out, and the
    editor's default chooses.

    Args:
        spec: The environment's spec, with its kwargs.
        editor: The editor's name.
        table: What was tuned; `agents.hypernetworks.settings` has a table of its own.
    """
    arguments = spec_arguments(spec)
    steps, size = arguments.get("horizon", 0), arguments.get("edits_per_step", 0)
    if not is_whole(steps) or not is_whole(size):
        return {}
    rows = [
        row
        for row in table
        if (row.task, row.model) == (arguments.get("task"), arguments.get("model"))
        and row.edits <= steps * size
    ]
    if not rows:
        return {}
    row = max(rows, key=lambda one: one.edits)
    opened = arguments.get("sites") or row.sites
    return {
        name: value
        for name, value in row.settings.get(editor, {}).items()
        if name not in _NAMING_SITES or _all_open(value, opened)
    }


def _all_open(sites: str | Sequence[str], opened: Sequence[str]) -> bool:
    """Whether names of sites are each among those that names or globs open."""
    names = [sites] if isinstance(sites, str) else sites
    return all(any(fnmatch.fnmatchcase(name, one) for one in opened) for name in names)
