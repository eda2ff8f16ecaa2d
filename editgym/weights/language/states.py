"""Inputs of sites and hidden states at one token of every text, while sites are updated one after
the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from editgym.weights.factors import Update
from editgym.weights.hooks import Reached, hooked
from editgym.weights.language.decoder import EditableDecoder
from editgym.weights.language.given import at_tokens
from editgym.weights.language.layers import Prefix
from editgym.weights.language.site_pass import SitePass
from editgym.weights.language.tokens import TokenBatch, by_length
from editgym.weights.sites import EditSite, UnknownSiteError, layer_of

_TOKENS_AT_ONCE = 512  # padding counted, and without what all texts begin with


@dataclass
class _Group:
    """Texts of about one length, as far as their tokens, and where the next pass begins."""

    texts: TokenBatch
    prefix: Prefix | None


class TokenStates:
    """What goes into sites, and what layers give out, at one token of every text.

    Sites are asked for from the lowest layer up. What is below a site's layer is gone through once,
    and with the updates that there are when the site is asked for first; so what an update changes
    has to be at or above the site that was asked for last.

    Args:
        decoder: The model with the edits so far.
        texts: The texts; which of their tokens are answers does not matter.
        positions: (n,), the token of every text. What comes after it is not read.
        prefix: `EditableDecoder.prefix` of the texts, to begin with.
    """

    def __init__(
        self,
        decoder: EditableDecoder,
        texts: TokenBatch,
        positions: Tensor,
        prefix: Prefix | None = None,
    ) -> None:
        self._decoder = decoder
        rows = torch.arange(len(texts), device=positions.device)
        asked = TokenBatch(texts.ids, rows, positions, texts.ids[rows, positions])
        passes, _ = decoder.reading
        opening = passes.shared(asked)
        lengths = [int(position) + 1 - opening for position in positions.tolist()]
        groups = by_length(lengths, _TOKENS_AT_ONCE)
        self._order = torch.tensor([row for group in groups for row in group]).argsort()
        self._groups = []
        for group in groups:
            length = opening + max(lengths[row] for row in group)
            own = asked.take(group)
            own = replace(own, ids=own.ids[:, :length])
            self._groups.append(_Group(own, None if prefix is None else prefix.take(group, length)))

    @torch.no_grad()
    def read(
        self, site: EditSite, last: EditSite, updates: Sequence[Update | None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Keys (n, in), what goes into `site`, and hidden states (n, width), what the layer of
        `last` gives out; float32.

        Args:
            site: At or above the one that was asked for before.
            last: At or above `site`.
            updates: Updates that are in effect beside the edits, one per site of the decoder, None
                for none.

        Raises:
            UnknownSiteError: `last` is in no numbered layer.
            ValueError: `site` is below the one that was asked for before.
        """
        layer = layer_of(last.name)
        if layer is None:
            raise UnknownSiteError(f"last: {last.name} is in no numbered layer, and has to be")
        base = self._decoder.base
        modules = base.get_submodule(site.name), base.get_submodule(layer.name)
        found = [self._of(group, site, modules, SitePass(updates)) for group in self._groups]
        keys, hidden = (torch.cat(parts)[self._order] for parts in zip(*found, strict=True))
        return keys, hidden

    def _of(
        self, group: _Group, site: EditSite, modules: Sequence[torch.nn.Module], run: SitePass
    ) -> tuple[Tensor, Tensor]:
        passes, state = self._decoder.reading
        texts = group.texts
        group.prefix = passes.prefix(state, run, texts, [site.name], group.prefix)
        opening, count = passes.shared(texts), len(texts)
        seen: dict[str, Tensor] = {}

        def keep(name: str, value: Any) -> None:
            x = value[0] if isinstance(value, tuple) else value
            shape = (count, texts.ids.shape[1] - opening)
            seen[name] = at_tokens(x, shape, texts.rows, texts.positions - opening).float()

        def stop(_inputs: Any, output: Any) -> None:
            keep("hidden", output)
            raise Reached  # what comes after the layer changes neither

        before, after = [(modules[0], lambda inputs: keep("key", inputs))], [(modules[1], stop)]
        reading = passes.opened(state, run, texts.ids, opening, count, group.prefix)
        with reading as opened, hooked(before=before, after=after):
            passes.calls.hidden(opened.ids, opened.cache)
        return seen["key"], seen["hidden"]
