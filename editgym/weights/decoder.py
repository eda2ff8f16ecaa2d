"""A causal language model under edits: what its answers cost, where its gradients are, and what it
decodes.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from editgym.weights.disk_journal import DiskJournal
from editgym.weights.factors import Update
from editgym.weights.hooks import Reached, hooked
from editgym.weights.journal import Codebook, EditJournal, Entry, Prepend, SiteEdit
from editgym.weights.layers import LayerStack, Prefix
from editgym.weights.overlay import EditedWeights
from editgym.weights.site_pass import (
    Capture,
    Injection,
    SitePass,
    SiteState,
    at_answers,
    candidates_of,
    check_codebook,
    check_inputs,
    edited_output,
    looked_up,
    product,
    with_injection,
)
from editgym.weights.sites import EditSite, UnknownSiteError
from editgym.weights.tokens import TokenBatch


class EditableDecoder(EditedWeights):
    """A causal LM of `transformers` with edits on top; the model's own weights are never written
    to, nor copied.

    Of every edited site one fp32 matrix is kept, whatever the base's precision: in bf16, adding and
    subtracting the same update drifts, and an edit of relative size 1e-3 is mostly rounded away.
    The layers below the first site give the same activations whatever is edited, so they are
    computed once per batch (`prefix`); so are those below the sites of one update while it is being
    looked for. Logits are computed at answer tokens only. Both shortcuts are checked against the
    full forward pass on `example`; where one fails, it is not used, and a warning says so.

    Args:
        model: In evaluation mode, without gradients.
        sites: Linear or Conv1D weights.
        example: A few texts.

    Raises:
        UnknownSiteError: A site is a convolution, its weight is used by another module as well, or
            it is not given all tokens of every text, as experts of a mixture are not.
    """

    def __init__(self, model: nn.Module, sites: Sequence[EditSite], example: TokenBatch) -> None:
        for site in sites:
            if site.kind == "conv2d":
                raise UnknownSiteError(
                    f"site {site} is a convolution: language models are edited at Linear or Conv1D"
                )
        self._model: Any = model
        self._code: dict[str, Codebook] = {}
        self._root_code: Mapping[str, Codebook] = {}  # as `_root`
        super().__init__(model, sites)
        for site in self.sites:
            shared = [name for name in self._tied[site.parameter] if name != site.parameter]
            if shared:
                raise UnknownSiteError(
                    f"site {site} shares its weight with {', '.join(shared)}: an edit would not be "
                    "of this module alone; untie them, or leave it out"
                )
        self._modules: dict[str, Any] = {
            site.name: model.get_submodule(site.name) for site in self.sites
        }
        self._layers = LayerStack(model, self.sites)
        self._gathers = True
        self._head: str | None = None  # the site that is the output embedding
        self._check_shortcuts(example)

    # --- edits ------------------------------------------------------------------------------------

    def apply(self, *entries: Entry) -> None:
        """As `EditedWeights.apply`; a `Codebook` adds to those of its site."""
        super().apply(*entries)
        self._look_up(entries)

    def reset(self) -> None:
        """Forget every edit: O(1), bitwise exact. A journal on disk is emptied."""
        journal = self.journal
        super().reset()
        self._code, self._root_code = {}, {}
        if isinstance(journal, DiskJournal):
            journal.rollback(0)
            self.journal = journal

    def replay(self, journal: EditJournal) -> None:
        """As `EditedWeights.replay`; a journal on disk then holds the replayed one."""
        own, entries = self.journal, list(journal.entries)
        super().replay(journal)
        self._code, self._root_code = {}, {}
        self._look_up(entries)
        if isinstance(own, DiskJournal):
            own.rollback(0)
            own.append(*entries)
            self.journal = own

    def fresh(self, folder: Path | None = None) -> EditableDecoder:
        """An unedited decoder on the same base, with a journal of its own: in memory, or in
        `folder`.
        """
        twin = copy.copy(self)
        twin.journal = EditJournal(self.base_hash)
        twin.reset()
        if folder is not None:
            twin.resume(folder)
        return twin

    def branch(self) -> EditableDecoder:
        """A decoder in this one's state, with an empty journal in memory: what is applied to it is
        not applied here.
        """
        twin = copy.copy(self)
        twin.journal, twin._code = EditJournal(self.base_hash), dict(self._code)
        twin._root, twin._root_code = self._overlay, dict(self._code)
        return twin

    def resume(self, folder: Path) -> None:
        """Go on with the journal in `folder`, from its last whole step; a new folder is a new
        journal.

        Raises:
            JournalError: It belongs to another network.
        """
        self.journal = DiskJournal(self.base_hash, folder)
        self._replay()

    # --- reading ----------------------------------------------------------------------------------

    @property
    def reuses_prefix(self) -> bool:
        """Whether the layers below the first site are computed once per batch."""
        return self._layers.first(self._by_name) > 0

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
        """The base model with the edits in effect, for anything that calls it (decoding, a hook of
        one's own).
        """
        with self._patched(SitePass()):
            yield self._model

    @torch.no_grad()
    def prefix(self, batch: TokenBatch, names: Iterable[str] | None = None) -> Prefix | None:
        """Where to begin a forward pass of which only some sites differ from one time to the next.

        Args:
            batch: The texts.
            names: Of the sites that will; what goes into the first one's layer is computed with the
                edits now in effect. None for all sites: then it holds whatever is edited.

        Returns:
            None if there is nothing to skip.

        Raises:
            UnknownSiteError: A name is not open for edits.
        """
        names = list(self._by_name) if names is None else list(names)
        self._check_names(names)
        first = self._layers.first(names)
        if not first:
            return None
        with self._patched(SitePass()):
            return self._layers.prefix(first, lambda: self._hidden(batch.ids))

    def logits(
        self,
        batch: TokenBatch,
        updates: Sequence[Update | None] | None = None,
        prefix: Prefix | None = None,
        injected: Mapping[str, Injection] | None = None,
    ) -> Tensor:
        """Logits at the batch's answer tokens, (m, vocabulary), or (K, m, vocabulary) for K
        candidates.

        Args:
            batch: The texts.
            updates: Per site a further update on top of the edits, or None, differentiable, not
                applied. Factors with a leading dimension K are K candidates, evaluated in one pass.
            prefix: From `prefix`, to begin at that layer.
            injected: By site name, what is added to that module's output; not together with K
                candidates.

        Raises:
            UnknownSiteError: `injected` names a site that is not open for edits.
            ValueError: An update is clipped, or there are K dense ones, or K candidates and
                `injected`.
        """
        candidates = candidates_of(updates or ())
        self._check_injected(injected or {}, candidates)
        ids, rows, positions = batch.ids, batch.rows, batch.positions
        if candidates is not None:
            ids = ids.repeat(candidates, 1)
            rows = (
                torch.arange(candidates, device=rows.device)[:, None] * len(batch) + rows
            ).flatten()
            positions = positions.repeat(candidates)
            prefix = None if prefix is None else prefix.repeat(candidates)
        with self._patched(SitePass(updates, injected or {})), self._layers.starting_at(prefix):
            logits = self._at(ids, rows, positions, everywhere=self._head in (injected or {}))
        return logits if candidates is None else logits.unflatten(0, (candidates, -1))

    def losses(
        self,
        batch: TokenBatch,
        updates: Sequence[Update | None] | None = None,
        prefix: Prefix | None = None,
        injected: Mapping[str, Injection] | None = None,
    ) -> Tensor:
        """Mean cross-entropy over the answer tokens of every text: (n,), or (K, n) for K
        candidates; as `logits`.
        """
        logits = self.logits(batch, updates, prefix, injected).float()
        labels = batch.labels.expand(logits.shape[:-1])
        return batch.means(
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
        """Keys and gradients at the answer tokens, by one forward and one backward pass; `updates`
        as in `logits`.

        Sites below the layer where `prefix` begins have no rows.
        """
        run = SitePass(updates, inputs={})
        with torch.enable_grad(), self._patched(run), self._layers.starting_at(prefix):
            logits = self._at(batch.ids, batch.rows, batch.positions).float()
            loss = batch.means(F.cross_entropy(logits, batch.labels, reduction="none")).mean()
            ran = [site for site in self.sites if site.name in run.outputs]
            gradients = torch.autograd.grad(loss, [run.outputs[site.name] for site in ran])
        assert run.inputs is not None
        found = {
            site.name: (
                at_answers(run.inputs[site.name], batch).detach().float(),
                at_answers(g, batch).float(),
            )
            for site, g in zip(ran, gradients, strict=True)
        }
        pairs = [
            (
                found[site.name]
                if site.name in found
                else (loss.new_zeros(0, site.shape[1]), loss.new_zeros(0, site.shape[0]))
            )
            for site in self.sites
        ]
        return Capture([keys for keys, _ in pairs], [g for _, g in pairs], float(loss.detach()))

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
            names: Of the sites.
            rows: (n,), the text of every token.
            positions: (n,), where it stands in the text.
            prefix: As in `logits`.

        Raises:
            UnknownSiteError: A name is not open for edits.
        """
        self._check_names(names)
        found: dict[str, SiteState] = {}

        def keep(name: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            found[name] = SiteState(
                inputs[0][rows, positions].float(), output[rows, positions].float()
            )
            if len(found) == len(set(names)):
                raise Reached

        looks = [(self._modules[name], partial(keep, name)) for name in dict.fromkeys(names)]
        with hooked(after=looks), self._patched(SitePass()), self._layers.starting_at(prefix):
            if self._head in names:
                self._model(input_ids=batch.ids, use_cache=False)
            else:
                self._hidden(batch.ids)
        return {name: found[name] for name in names}

    # --- inside -----------------------------------------------------------------------------------

    def _check_names(self, names: Iterable[str]) -> None:
        unknown = [name for name in names if name not in self._by_name]
        if unknown:
            raise UnknownSiteError(
                f"sites {unknown} are not open for edits; open are {list(self._by_name)}"
            )

    def _check_injected(self, injected: Mapping[str, Injection], candidates: int | None) -> None:
        self._check_names(injected)
        if injected and candidates is not None:
            raise ValueError("injected: it cannot be combined with K candidate updates")

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
        if self._model.device.type == "cpu" or not isinstance(entry, SiteEdit):
            return entry
        return replace(
            entry, update=entry.update.to(torch.device("cpu"))
        )  # a stream's factors would fill a GPU

    def _check_adapter(self, entry: Codebook | Prepend) -> None:
        if isinstance(entry, Prepend):
            return
        if entry.site not in self._by_name:
            raise UnknownSiteError(
                f"site: {entry.site!r} is not open for edits; open are {list(self._by_name)}"
            )
        check_codebook(entry, self._by_name[entry.site])

    def _replay(self) -> None:
        super()._replay()
        self._code = dict(self._root_code)
        self._look_up(self.journal.entries)

    def _look_up(self, entries: Iterable[Entry]) -> None:
        """Put the codebooks among `entries` into effect."""
        for entry in entries:
            if isinstance(entry, Codebook) and len(entry.keys):
                old = self._code.get(entry.site)
                keys, values, radii = (
                    p.to(self._model.device) for p in (entry.keys, entry.values, entry.radii)
                )
                self._code[entry.site] = (
                    Codebook(entry.site, keys, values, radii)
                    if old is None
                    else Codebook(
                        entry.site,
                        torch.cat([old.keys, keys]),
                        torch.cat([old.values, values]),
                        torch.cat([old.radii, radii]),
                    )
                )

    @contextmanager
    def _patched(self, run: SitePass) -> Iterator[None]:
        """Give every site's module this decoder's forward, for as long as the context is open."""
        with hooked(
            instead=[
                (module, partial(self._forward, name, run))
                for name, module in self._modules.items()
            ]
        ):
            yield

    def _forward(self, name: str, run: SitePass, x: Tensor) -> Tensor:
        site = self._by_name[name]
        index = self.sites.index(site)
        module = self._modules[name]
        edited = self._overlay.get(site.parameter)
        out = edited_output(
            x,
            site.to_matrix(module.weight),
            None if edited is None else site.to_matrix(edited),
            module.bias,
        )
        update = None if run.updates is None else run.updates[index]
        if update is not None:
            out = out + product(x, update)
        if name in self._code:
            out = looked_up(x, out, self._code[name])
        if name in run.injected:
            out = with_injection(out, run.injected[name])
        out = out.to(x.dtype)
        if run.inputs is not None:
            out = out if out.requires_grad else out.detach().requires_grad_()
            run.inputs[name], run.outputs[name] = x, out
            return out.clone()  # some models add to a module's output in place
        return out

    def _at(self, ids: Tensor, rows: Tensor, positions: Tensor, everywhere: bool = False) -> Tensor:
        if everywhere or not self._gathers:
            return self._model(input_ids=ids, use_cache=False).logits[rows, positions]
        return self._model.get_output_embeddings()(self._hidden(ids)[rows, positions])

    def _hidden(self, ids: Tensor) -> Tensor:
        """The last hidden states, (n, length, width)."""
        hidden: Tensor = self._model.base_model(input_ids=ids, use_cache=False)[0]
        return hidden

    @torch.no_grad()
    def _check_shortcuts(self, example: TokenBatch) -> None:
        output = self._model.get_output_embeddings()
        self._head = next(
            (name for name, module in self._modules.items() if module is output), None
        )
        full = (
            self._model(input_ids=example.ids, use_cache=False)
            .logits[example.rows, example.positions]
            .float()
        )
        # Half precision rounds at every layer, and a product of other shape may round otherwise.
        tolerance = (1e-5 if full.dtype == self._model.dtype else 2e-2) * max(
            1.0, float(full.abs().max())
        )

        def differs(prefix: Prefix | None) -> bool:
            return not bool(
                ((self.logits(example, prefix=prefix).float() - full).abs() <= tolerance).all()
            )

        run = SitePass(inputs={})
        with self._patched(run):
            self._at(example.ids, example.rows, example.positions)
        check_inputs(self._by_name, run.inputs or {}, example, self._head)
        if differs(None):
            self._gathers = False
            self._warn(
                "logits are computed at every token, because its head is more than a linear layer"
            )
        if any(differs(self.prefix(example, [name])) for name in self._layers.ends):
            self._layers.give_up()
            self._warn(
                "every evaluation runs all layers: skipping the lower ones changes its logits"
            )

    def _warn(self, what: str) -> None:
        warnings.warn(f"{type(self._model).__name__}: {what}", stacklevel=4)
