"""Knowledge of FactWorld: made-up people, in a model that knows them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from editgym.data.edit_request import EditRequest
from editgym.data.factworld import FactWorld
from editgym.models.factlm_sites import FACTLM_GPT2_SITES, FACTLM_SITES
from editgym.models.folders import is_factlm
from editgym.models.language import shared_model
from editgym.tasks.knowledge.task import KnowledgeTask, StreamSplit

if TYPE_CHECKING:
    from editgym.models.reading import DeviceMap

_OWN_SITES = {"factlm": FACTLM_SITES, "factlm-gpt2": FACTLM_GPT2_SITES}
_FACTLM_STEP = 1e-3  # UltraEdit's, chosen on validation streams


def factworld(
    device: str,
    model: str = "factlm",
    dtype: str = "auto",
    sites: Sequence[str] | None = None,
    step_size: float | None = None,
    device_map: DeviceMap | None = None,
) -> KnowledgeTask:
    """`knowledge/factworld`: facts of made-up people in a model that knows them
    (`editgym.data.factworld`).

    Args:
        device: Where the model lives.
        model: Name of the model, as `LanguageModel.load` takes it.
        dtype: Number format of the base weights.
        sites: What may be edited; None opens `FACTLM_SITES` of factlm and `FACTLM_GPT2_SITES` of
            factlm-gpt2, and lets `discover_sites` choose for others.
        step_size: UltraEdit's η; None takes the one tuned for factlm and `FACTLM_SITES`.
        device_map: Where a model's parts go that is larger than one device
            (`LanguageModel.load`).
    """
    world = FactWorld()
    language = shared_model(model, device, dtype, device_map)
    own = _OWN_SITES.get(model) if sites is None else sites
    return KnowledgeTask(
        "knowledge/factworld",
        language,
        own,
        drawn_from(world),
        text="factworld" if is_factlm(model) else "samples",
        known=(world.known_facts(), world.chance()),
        step_size=_FACTLM_STEP if step_size is None else step_size,
    )


def drawn_from(
    world: FactWorld,
) -> Callable[[StreamSplit, random.Random | None], Iterable[EditRequest]]:
    """Goes through the corrections of a split's people in random order, as `KnowledgeTask` asks."""

    def draw(split: StreamSplit, rng: random.Random | None) -> Iterable[EditRequest]:
        if rng is None:
            raise ValueError(
                "order must be a whole number for made-up people, whose facts are in no file, got"
                ' "file"'
            )
        return world.requests(split, rng)

    return draw
