"""Forward passes of a language model with edits in effect, and the shortcuts that they may take."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from editgym.weights.hooks import hooked
from editgym.weights.language.calls import ModelCalls, Opened
from editgym.weights.language.given import check_inputs
from editgym.weights.language.kv_cache import empty_cache, seem_to_have_seen
from editgym.weights.language.layers import LayerStack, Prefix, below_head
from editgym.weights.language.rest import Rest
from editgym.weights.language.site_pass import (
    Difference,
    Injection,
    SitePass,
    edited_output,
    looked_up,
    product,
    with_injection,
)
from editgym.weights.language.tokens import TokenBatch, beginning_alike
from editgym.weights.sites import EditSite
from editgym.weights.state import EditedState

if TYPE_CHECKING:
    from transformers import DynamicCache

_LEAST_SHARED = 8  # tokens; a second pass for fewer costs more than it saves
_COMPARED = 4  # tokens at which logits are compared
# What models raise that cannot go on in the middle of a text, or of their layers.
CANNOT = (TypeError, ValueError, AttributeError, RuntimeError, IndexError)


class EditedPasses:
    """Runs a causal LM with its sites' modules doing what an `EditedState` says.

    Logits are computed at the tokens that are asked for, layers below a prefix are skipped, and an
    opening that all texts share is read once. The shortcuts are checked against the full forward
    pass on two texts made of `example`; where one fails, it is not used, and a warning says so.

    Args:
        model: A causal LM of `transformers`.
        sites: Where it may be edited.
        example: A few texts.
        tensors: The model's, by name.

    Attributes:
        layers: The layers that can be skipped.
        calls: How the model is called.
        head: Name of the site that is the output embedding, if one is.

    Raises:
        UnknownSiteError: A site is not given all tokens of every text.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[EditSite],
        example: TokenBatch,
        tensors: Mapping[str, Tensor],
    ) -> None:
        self.model: Any = model
        self.modules: dict[str, Any] = {site.name: model.get_submodule(site.name) for site in sites}
        self._base = {
            site.name: (site.to_matrix(tensors[site.parameter]), tensors.get(f"{site.name}.bias"))
            for site in sites
        }
        self.layers = LayerStack(model, sites)
        self.calls = ModelCalls(model, self.layers)
        self.head: str | None = None
        self._sites = {site.name: (index, site) for index, site in enumerate(sites)}
        self._shares = False
        self._check_shortcuts(example)

    @contextmanager
    def running(
        self, state: EditedState, run: SitePass, prefix: Prefix | None = None
    ) -> Iterator[Any]:
        """The model with edits in effect, for as long as the context is open.

        Args:
            state: The edits.
            run: What the sites do beyond them.
            prefix: Where passes begin.
        """
        instead = [
            (module, partial(self._forward, name, state, run, Difference()))
            for name, module in self.modules.items()
        ]
        with hooked(instead=instead), self.layers.starting_at(prefix):
            yield self.model

    def logits(
        self,
        state: EditedState,
        run: SitePass,
        batch: TokenBatch,
        prefix: Prefix | Rest | None = None,
        candidates: int = 1,
        whole: bool = False,
        cache: DynamicCache | None = None,
    ) -> Tensor:
        """Logits at a batch's answer tokens, (candidates · m, vocabulary), one candidate after the
        other.

        Args:
            state: The edits.
            run: What the sites do beyond them.
            batch: The texts.
            prefix: Where the pass begins; a `Rest`, of whose texts `batch` is, where it goes on.
            candidates: How many updates `run` has that are alternatives.
            whole: Whether every text is read from its beginning.
            cache: An empty one that is to see all tokens of the texts, not together with `prefix`.
        """
        ids, rows, positions = batch.ids, batch.rows, batch.positions
        if isinstance(prefix, Rest):
            with self.running(state, replace(run, texts=ids.shape), prefix.prefix):
                everywhere = self.head in run.injected
                told = prefix.told(self.model if everywhere else below_head(self.model))
                return self.calls.at(ids, rows, positions, everywhere, **told)
        opening = 0 if whole else self.shared(batch, run.injected)
        if candidates > 1:
            ids, positions = ids.repeat(candidates, 1), positions.repeat(candidates)
            starts = torch.arange(candidates, device=rows.device)[:, None] * len(batch)
            rows = (starts + rows).flatten()
            prefix = None if prefix is None else prefix.repeat(candidates)
        with self.opened(state, run, ids, opening, len(batch), prefix, cache) as rest:
            everywhere = self.head in run.injected
            return self.calls.at(rest.ids, rows, positions - opening, everywhere, rest.cache)

    @contextmanager
    def opened(
        self,
        state: EditedState,
        run: SitePass,
        ids: Tensor,
        opening: int,
        texts: int,
        prefix: Prefix | None = None,
        cache: DynamicCache | None = None,
        until: int = 0,
    ) -> Iterator[Opened]:
        """The model with edits in effect, for as long as the context is open, once what texts begin
        with has gone through it.

        Args:
            state: The edits.
            run: What the sites do beyond them.
            ids: (candidates · texts, length), tokens.
            opening: How many first tokens all texts have in common (`shared`).
            texts: How many texts there are.
            prefix: Where passes begin.
            cache: An empty one that is to see all tokens of the texts.
            until: The layer at which the pass over the opening ends; 0 for the model's end.
        """
        begun = None
        if opening:
            cache = empty_cache(self.model) if cache is None else cache
            first = None if prefix is None else prefix.part(texts, 0, opening)
            with self.running(state, run.before(), first):
                begun = self.calls.until(until, ids[::texts, :opening], cache)
            cache.batch_repeat_interleave(texts)
            if prefix is not None:
                seem_to_have_seen(cache, opening, prefix.layer)
                prefix = prefix.part(1, opening, None)
            ids, run = ids[:, opening:], run.after(opening)
        with self.running(state, replace(run, texts=ids.shape), prefix):
            yield Opened(ids, cache, begun)

    def shared(self, batch: TokenBatch, injected: Mapping[str, Injection] | None = None) -> int:
        """How many first tokens of a batch's texts go through the model once for all: those that
        all begin with and nothing is asked of; 0 where they are few, the head is injected into, or
        the model cannot go on in the middle of a text.
        """
        injected = injected or {}
        if not self._shares or self.head in injected:
            return 0
        shared = min([batch.opening, *(int(one.positions.min()) for one in injected.values())])
        return shared if shared >= _LEAST_SHARED else 0

    @torch.no_grad()
    def prefix(
        self,
        state: EditedState,
        run: SitePass,
        batch: TokenBatch,
        names: Iterable[str],
        begin: Prefix | None = None,
    ) -> Prefix | None:
        """What goes into the first layer with one of the sites called `names`; None where that is
        the first layer of all.

        Args:
            state: The edits.
            run: What the sites do beyond them.
            batch: The texts.
            names: Names of sites.
            begin: An earlier prefix of the texts, to go on from.

        Raises:
            ValueError: `begin` begins above that layer.
        """
        first, begins = self.layers.first(names), 0 if begin is None else begin.layer
        if begins > first:
            raise ValueError(f"begin: it begins at layer {begins}, above layer {first}")
        if begins == first:
            return begin
        opening, texts = self.shared(batch), len(batch)
        with self.opened(state, run, batch.ids, opening, texts, begin, until=first) as opened:
            rest = self.calls.until(first, opened.ids, opened.cache)
        if opened.begun is None or rest is None:
            return rest
        begun = opened.begun.activations.expand(texts, -1, -1)
        return Prefix(torch.cat([begun, rest.activations], dim=1), first)

    def _forward(
        self, name: str, state: EditedState, run: SitePass, difference: Difference, x: Tensor
    ) -> Tensor:
        (index, site), (base, bias) = self._sites[name], self._base[name]
        x = x.to(base.device)
        if (edited := state.tensors.get(site.parameter)) is not None:
            edited = site.to_matrix(edited)
        out = edited_output(x, base, edited, bias, difference)
        update = None if run.updates is None else run.updates[index]
        if update is not None:
            out = out + product(x, update.to(x.device))
        if name in state.codebooks:
            out = looked_up(x, out, state.codebooks[name])
        if name in run.injected:
            out = with_injection(out, run.injected[name], run.texts)
        out = out.to(x.dtype)
        if run.inputs is not None:
            out = out if out.requires_grad else out.detach().requires_grad_()
            run.keep(name, x, out)
            return out.clone()  # some models add to a module's output in place
        return out

    @torch.no_grad()
    def _check_shortcuts(self, example: TokenBatch) -> None:
        output = self.model.get_output_embeddings()
        self.head = next((name for name, module in self.modules.items() if module is output), None)
        texts = beginning_alike(example, _LEAST_SHARED + 1, _COMPARED)
        plain = self.calls.plain(texts)
        with self.running(EditedState(), run := SitePass(inputs={})):
            gathered = self.calls.at(texts.ids, texts.rows, texts.positions)
        with self.running(EditedState(), alone := SitePass(inputs={})):
            self.calls.hidden(texts.ids[-1:, : texts.lengths[-1]])
        check_inputs(self._sites, run.inputs or {}, alone.inputs or {}, texts, self.head)
        if self.calls.differ(gathered, plain):
            self.calls.gathers = False
            self._warn(
                "logits are computed at every token, because its head is more than a linear layer"
            )
        if self._skipping_differs(texts, plain):
            self.layers.give_up()
            self._warn(
                "every evaluation runs all layers: skipping the lower ones changes its logits"
            )
        self._shares = self._continues(texts, plain)
        if not self._shares:
            self._warn("every text is read from its beginning: it does not go on from a cache")

    def _skipping_differs(self, batch: TokenBatch, wanted: Tensor) -> bool:
        """Whether logits are others where the layers below the first, or the last, site are
        skipped.
        """
        ends = {self.layers.first([name]): name for name in self.layers.ends}
        state, run = EditedState(), SitePass()
        try:
            prefixes = [self.prefix(state, run, batch, [ends[layer]]) for layer in ends if layer]
            found = [self.logits(state, run, batch, prefix) for prefix in prefixes]
        except CANNOT:
            return True  # its layers hand on more than hidden states
        return any(self.calls.differ(own, wanted) for own in found)

    def _continues(self, alike: TokenBatch, wanted: Tensor) -> bool:
        """Whether texts that begin alike may go on from one cache, without the lowest layers where
        these can be skipped.
        """
        self._shares = True
        try:
            prefix = self.prefix(EditedState(), SitePass(), alike, self.layers.ends[-1:])
            found = self.logits(EditedState(), SitePass(), alike, prefix)
        except CANNOT:
            return False  # its cache is of another kind
        return not self.calls.differ(found, wanted)

    def _warn(self, what: str) -> None:
        warnings.warn(f"{type(self.model).__name__}: {what}", stacklevel=5)
