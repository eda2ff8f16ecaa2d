"""A causal language model under edits: what its answers cost, and where its gradients are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from editgym.weights.factors import Update
from editgym.weights.hooks import Reached, hooked
from editgym.weights.journal.journal import Adapter, Codebook, Entry, SiteEdit
from editgym.weights.language.capture import Capture, captured
from editgym.weights.language.given import at_tokens
from editgym.weights.language.layers import Prefix
from editgym.weights.language.passes import EditedPasses
from editgym.weights.language.rest import Rest
from editgym.weights.language.site_pass import (
    Injection,
    SitePass,
    SiteState,
    candidates_of,
    check_codebook,
)
from editgym.weights.language.tokens import TokenBatch
from editgym.weights.overlay import EditedWeights
from editgym.weights.sites import EditSite, UnknownSiteError
from editgym.weights.state import EditedState

if TYPE_CHECKING:
    from transformers import DynamicCache


class EditableDecoder(EditedWeights):
    """A causal LM of `transformers` with edits on top; the model's own weights are never written
    to, nor copied.

    Of every edited site one fp32 matrix is kept, whatever the base's precision: in bf16, adding and
    subtracting the same update drifts, and an edit of relative size 1e-3 is mostly rounded away.
    The layers below the first site give the same activations whatever is edited, so they are
    computed once per batch (`prefix`); so are those below the sites of one update while it is being
    looked for. `EditedPasses` has the other shortcuts.

    Args:
        model: In evaluation mode, without gradients.
        sites: Linear or Conv1D weights.
        example: A few texts.

    Raises:
        UnknownSiteError: A site is a convolution, shares its weight with another module, is not
            given all tokens of every text, as experts are not, or runs several times in a pass.
    """

    def __init__(self, model: nn.Module, sites: Sequence[EditSite], example: TokenBatch) -> None:
        for site in sites:
            if site.kind not in ("linear", "conv1d"):
                raise UnknownSiteError(
                    f"site {site} is a convolution or in_proj, and no Linear or Conv1D of a decoder"
                )
        super().__init__(model, sites)
        for site in self.sites:
            shared = [name for name in self._tied[site.parameter] if name != site.parameter]
            if shared:
                raise UnknownSiteError(
                    f"site {site} shares its weight with {', '.join(shared)}: an edit would not be "
                    "of this module alone; untie them, or leave it out"
                )
        self._example = example
        self._passes = EditedPasses(model, self.sites, example, self._tensors)

    # --- reading ----------------------------------------------------------------------------------

    @property
    def reuses_prefix(self) -> bool:
        """Whether the layers below the first site are computed once per batch."""
        return self._passes.layers.first(self._by_name) > 0

    @property
    def reading(self) -> tuple[EditedPasses, EditedState]:
        """Passes of the model, and the edits that are in effect."""
        return self._passes, self._state

    @property
    def deltas(self) -> list[Tensor]:
        """W − W₀ at every site, (out, in), float32."""
        return [
            now.float() - base.float()
            for now, base in zip(self.weights, self.base_weights, strict=True)
        ]

    # --- evaluation -------------------------------------------------------------------------------

    @contextmanager
    def active(self) -> Iterator[Any]:
        """The base model with the edits in effect, for anything that calls it."""
        with self._passes.running(self._state, SitePass()) as model:
            yield model

    @torch.no_grad()
    def probe(self, model: nn.Module | None = None) -> Tensor:
        """Logits (m, vocabulary) at the example's answer tokens."""
        if model is None:
            return self.logits(self._example)
        own = self._example
        there = next(model.parameters()).device
        logits = model(input_ids=own.ids.to(there), use_cache=False).logits
        return at_tokens(logits, own.ids.shape, own.rows, own.positions)

    @torch.no_grad()
    def prefix(
        self, batch: TokenBatch, names: Iterable[str] | None = None, begin: Prefix | None = None
    ) -> Prefix | None:
        """Where to begin a forward pass of which only some sites differ from one time to the next.

        Args:
            batch: The texts.
            names: The sites that will differ, by name; what goes into the first one's layer is
                computed with the edits now in effect. None for all sites: then it holds whatever is
                edited.
            begin: An earlier prefix of the texts, which still holds, to go on from.

        Returns:
            None if there is nothing to skip.

        Raises:
            UnknownSiteError: A name is not open for edits.
            ValueError: `begin` is above the first of the sites.
        """
        self._check_names(names := list(self._by_name if names is None else names))
        return self._passes.prefix(self._state, SitePass(), batch, names, begin)

    def logits(
        self,
        batch: TokenBatch,
        updates: Sequence[Update | None] | None = None,
        prefix: Prefix | Rest | None = None,
        injected: Mapping[str, Injection] | None = None,
        whole: bool = False,
        cache: DynamicCache | None = None,
    ) -> Tensor:
        """Logits at the batch's answer tokens, (m, vocabulary), or (K, m, vocabulary) for K
        candidates.

        Args:
            batch: The texts.
            updates: Per site a further update on top of the edits, or None, differentiable, not
                applied. Factors with a leading dimension K are K candidates, evaluated in one pass.
            prefix: From `prefix`, to begin at that layer, or from `rest_of`.
            injected: By site name, what is added to that module's output; not with K candidates.
            whole: Whether modules are given all tokens of every text, for hooks of one's own.
            cache: An empty one (`empty_cache`) that is to see all tokens of the texts, padding too.

        Raises:
            UnknownSiteError: `injected` names a site that is not open for edits.
            ValueError: An update is clipped, or there are K dense ones, or K candidates and
                `injected`.
        """
        candidates = candidates_of(updates or ())
        self._check_names(injected or {})
        if injected and candidates is not None:
            raise ValueError("injected: it cannot be combined with K candidate updates")
        run = (SitePass(updates, injected or {}), batch, prefix, candidates or 1, whole, cache)
        logits = self._passes.logits(self._state, *run)
        return logits if candidates is None else logits.unflatten(0, (candidates, -1))

    def losses(
        self,
        batch: TokenBatch,
        updates: Sequence[Update | None] | None = None,
        prefix: Prefix | Rest | None = None,
        injected: Mapping[str, Injection] | None = None,
    ) -> Tensor:
        """Mean cross-entropy over every text's answer tokens, by their weights, (n,) or (K, n)."""
        logits = self.logits(batch, updates, prefix, injected).float()
        labels = batch.labels.expand(logits.shape[:-1])
        return batch.mean_costs(
            F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view_as(
                labels
            )
        )

    def capture(
        self,
        batch: TokenBatch,
        prefix: Prefix | None = None,
        updates: Sequence[Update | None] | None = None,
    ) -> Capture:
        """Keys and gradients at the answer tokens, by passes there and back; `updates` as in
        `logits`.

        Sites below the layer where `prefix` begins have no rows.
        """
        return captured(*self.reading, self.sites, batch, prefix, updates)

    @torch.no_grad()
    def site_states(
        self,
        batch: TokenBatch,
        names: Sequence[str],
        rows: Tensor,
        positions: Tensor,
        prefix: Prefix | None = None,
    ) -> dict[str, SiteState]:
        """Inputs and outputs of sites' modules at the tokens (rows, positions), with the edits in
        effect, in one pass.

        Args:
            batch: The texts; which of their tokens are answers does not matter.
            names: The sites' names.
            rows: (n,), the text of every token.
            positions: (n,), where it stands in the text.
            prefix: Where to begin, as in `logits`.

        Raises:
            UnknownSiteError: A name is not open for edits.
        """
        self._check_names(names)
        found: dict[str, SiteState] = {}
        read = partial(at_tokens, texts=batch.ids.shape, rows=rows, positions=positions)

        def keep(name: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            found[name] = SiteState(read(inputs[0]).float(), read(output).float())
            if len(found) == len(set(names)):
                raise Reached

        looks = [(self._passes.modules[name], partial(keep, name)) for name in dict.fromkeys(names)]
        with hooked(after=looks), self._passes.running(self._state, SitePass(), prefix) as model:
            if self._passes.head in names:
                model(input_ids=batch.ids, use_cache=False)
            else:
                self._passes.calls.hidden(batch.ids)
        return {name: found[name] for name in names}

    # --- inside -----------------------------------------------------------------------------------

    def _check_names(self, names: Iterable[str]) -> None:
        unknown = [name for name in names if name not in self._by_name]
        if unknown:
            raise UnknownSiteError(
                f"sites {unknown} are not open for edits; open are {list(self._by_name)}"
            )

    def _replacement(self, name: str, tensor: Tensor) -> Tensor:
        # The model's own forward reads every tensor but the sites', which it is given.
        if name not in {site.parameter for site in self.sites}:
            raise UnknownSiteError(
                f"replace_tensors: {name!r} is no weight of a site, and all else in a language "
                f"model stays as it is; open are {[site.parameter for site in self.sites]}"
            )
        return super()._replacement(name, tensor)

    def _kept(self, edited: Tensor, base: Tensor) -> Tensor:
        return edited.float()

    def _journalled(self, entry: Entry) -> Entry:
        if isinstance(entry, SiteEdit):  # a stream's factors would fill a GPU
            return replace(entry, update=entry.update.to(torch.device("cpu")))
        return entry

    def _check_adapter(self, entry: Adapter) -> None:
        if not isinstance(entry, Codebook):
            return
        if entry.site not in self._by_name:
            raise UnknownSiteError(
                f"site: {entry.site!r} is not open for edits; open are {list(self._by_name)}"
            )
        check_codebook(entry, self._by_name[entry.site])
