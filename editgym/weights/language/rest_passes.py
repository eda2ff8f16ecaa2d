"""Passes over the rests of texts, and whether a model gives the same there as in whole texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from editgym.weights.factors import Update
from editgym.weights.language.graph_size import bytes_of
from editgym.weights.language.kv_cache import empty_cache, seem_to_have_seen, shortest_window
from editgym.weights.language.layers import Prefix
from editgym.weights.language.passes import CANNOT, EditedPasses
from editgym.weights.language.rest import Rest, reads_rests
from editgym.weights.language.site_pass import SitePass
from editgym.weights.language.tokens import TokenBatch
from editgym.weights.state import EditedState

_LEAST_SPARED = 16 * 2**20  # bytes of a graph; for fewer a further pass costs more than it saves
_agree: WeakKeyDictionary[EditedPasses, bool] = WeakKeyDictionary()


@torch.no_grad()
def rest_of(
    passes: EditedPasses,
    state: EditedState,
    texts: TokenBatch,
    starts: Tensor,
    prefix: Prefix | None,
    updates: Sequence[Update | None] | None = None,
) -> Rest | None:
    """The rests of texts from a token of each, to be given to `EditableDecoder.logits` in place of
    a prefix; what is before these tokens is read now.

    Args:
        passes: Passes of the model.
        state: The edits.
        texts: The texts, about none of which anything is asked before its start.
        starts: (n,), the first token of each rest.
        prefix: The texts' `EditableDecoder.prefix`.
        updates: What is in effect beside the edits, one per site.

    Returns:
        None where nothing is read before, or the model does not give there what it gives in whole
        texts. The ones with the first and the last start tell, once for all.
    """
    if not int(starts.max()) or not passes.calls.gathers or not reads_rests(passes.model):
        return None
    same = _agree.get(passes)
    if same is None:
        ends = sorted({int(starts.argmin()), int(starts.argmax())})
        same = _give_the_same(passes, texts, starts, prefix, ends)
        if len(ends) > 1 or not same:  # texts that start alike have no padding between them
            _agree[passes] = same
    run = SitePass(updates)
    return _read(passes, state, run, texts, starts, prefix) if same else None


def answers_of(
    passes: EditedPasses,
    state: EditedState,
    texts: TokenBatch,
    prefix: Prefix | None,
    updates: Sequence[Update | None] | None = None,
) -> tuple[TokenBatch, Prefix | Rest | None]:
    """Texts from their first answer tokens on, and what passes over them go on from: what stands
    before is read now, without a graph. The whole texts and their prefix where that is not
    possible, or spares too little of a graph.

    Args:
        passes: Passes of the model.
        state: The edits.
        texts: The texts.
        prefix: Where a pass over them begins.
        updates: What is in effect beside the edits, one per site.
    """
    before = int(texts.starts.sum()) - passes.shared(texts) * len(texts)
    if before * bytes_of(passes, prefix) < _LEAST_SPARED:
        return texts, prefix
    rest = rest_of(passes, state, texts, texts.starts, prefix, updates)
    return (texts, prefix) if rest is None else (rest.texts, rest)


def _read(
    passes: EditedPasses,
    state: EditedState,
    run: SitePass,
    texts: TokenBatch,
    starts: Tensor,
    prefix: Prefix | None,
) -> Rest | None:
    most, cache = int(starts.max()), empty_cache(passes.model)
    begun = None if prefix is None else prefix.part(1, 0, most)
    asked = replace(texts, positions=starts[texts.rows])
    opening = min(passes.shared(asked), most - 1)  # a pass has a token at least
    first = (texts.ids[:, :most], opening, len(texts), begun, cache)
    with passes.opened(state, run, *first) as opened:
        passes.calls.hidden(opened.ids, cache)
    if prefix is not None:
        cache.layers[: prefix.layer] = empty_cache(passes.model).layers[: prefix.layer]
        seem_to_have_seen(cache, most, prefix.layer, len(texts))
    rest = Rest.of(texts, starts, prefix, cache)
    # A text that starts early has padding between what was read of it and its rest.
    across = most + rest.texts.ids.shape[1]
    return None if across > shortest_window(passes.model, cache.layers) else rest


def _give_the_same(
    passes: EditedPasses,
    texts: TokenBatch,
    starts: Tensor,
    prefix: Prefix | None,
    rows: Sequence[int],
) -> bool:
    """Whether the unedited model's logits of some of the texts are those of whole ones."""
    state, run = EditedState(), SitePass()  # an edited one may give no numbers at all
    some = texts.take(rows)
    own = None if prefix is None else prefix.take(rows, some.ids.shape[1])
    wanted = passes.logits(state, run, some, own)
    try:
        rest: Any = _read(passes, state, run, some, starts[list(rows)], own)
        found = None if rest is None else passes.logits(state, run, rest.texts, rest)
    except CANNOT:
        return False
    return found is not None and not passes.calls.differ(found, wanted)
