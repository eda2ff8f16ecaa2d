"""Forward passes of a language model with edits in effect, and the shortcuts that they may take."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from editgym.weights.hooks import hooked
from editgym.weights.layers import LayerStack, Prefix
from editgym.weights.site_pass import (
    SitePass,
    check_inputs,
    edited_output,
    looked_up,
    product,
    with_injection,
)
from editgym.weights.sites import EditSite
from editgym.weights.state import EditedState
from editgym.weights.tokens import TokenBatch


class EditedPasses:
    """Runs a causal LM with its sites' modules doing what an `EditedState` says.

    Logits are computed at the tokens that are asked for, and layers below a prefix are skipped.
    Both shortcuts are checked against the full forward pass on `example`; where one fails, it is
    not used, and a warning says so.

    Args:
        model: A causal LM of `transformers`.
        sites: Where it may be edited.
        example: A few texts.

    Attributes:
        layers: The layers that can be skipped.
        head: Name of the site that is the output embedding, if one is.

    Raises:
        UnknownSiteError: A site is not given all tokens of every text.
    """

    def __init__(self, model: nn.Module, sites: Sequence[EditSite], example: TokenBatch) -> None:
        self.model: Any = model
        self.modules: dict[str, Any] = {site.name: model.get_submodule(site.name) for site in sites}
        self.layers = LayerStack(model, sites)
        self.head: str | None = None
        self._sites = {site.name: (index, site) for index, site in enumerate(sites)}
        self._gathers = True
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
            (module, partial(self._forward, name, state, run))
            for name, module in self.modules.items()
        ]
        with hooked(instead=instead), self.layers.starting_at(prefix):
            yield self.model

    def at(self, ids: Tensor, rows: Tensor, positions: Tensor, everywhere: bool = False) -> Tensor:
        """Logits (m, vocabulary) at the tokens (rows, positions) of texts `ids`, (n, length).

        Args:
            ids: The texts' tokens.
            rows: (m,), the text of every token.
            positions: (m,), where it stands in the text.
            everywhere: Whether the head has to run at every token, not at those alone.
        """
        if everywhere or not self._gathers:
            return self.model(input_ids=ids, use_cache=False).logits[rows, positions]
        return self.model.get_output_embeddings()(self.hidden(ids)[rows, positions])

    def prefix(self, state: EditedState, batch: TokenBatch, names: Iterable[str]) -> Prefix | None:
        """What goes into the first layer with one of the sites called `names`; None where that is
        the first layer of all.
        """
        first = self.layers.first(names)
        if not first:
            return None
        with self.running(state, SitePass()):
            return self.layers.prefix(first, lambda: self.hidden(batch.ids))

    def hidden(self, ids: Tensor) -> Tensor:
        """The last hidden states, (n, length, width)."""
        hidden: Tensor = self.model.base_model(input_ids=ids, use_cache=False)[0]
        return hidden

    def _forward(self, name: str, state: EditedState, run: SitePass, x: Tensor) -> Tensor:
        index, site = self._sites[name]
        module = self.modules[name]
        edited = state.tensors.get(site.parameter)
        out = edited_output(
            x,
            site.to_matrix(module.weight),
            None if edited is None else site.to_matrix(edited),
            module.bias,
        )
        update = None if run.updates is None else run.updates[index]
        if update is not None:
            out = out + product(x, update)
        if name in state.codebooks:
            out = looked_up(x, out, state.codebooks[name])
        if name in run.injected:
            out = with_injection(out, run.injected[name])
        out = out.to(x.dtype)
        if run.inputs is not None:
            out = out if out.requires_grad else out.detach().requires_grad_()
            run.inputs[name], run.outputs[name] = x, out
            return out.clone()  # some models add to a module's output in place
        return out

    @torch.no_grad()
    def _check_shortcuts(self, example: TokenBatch) -> None:
        output = self.model.get_output_embeddings()
        self.head = next((name for name, module in self.modules.items() if module is output), None)
        full = (
            self.model(input_ids=example.ids, use_cache=False)
            .logits[example.rows, example.positions]
            .float()
        )
        # Half precision rounds at every layer, and a product of other shape may round otherwise.
        tolerance = (1e-5 if full.dtype == self.model.dtype else 2e-2) * max(
            1.0, float(full.abs().max())
        )

        def differs(prefix: Prefix | None) -> bool:
            with self.running(EditedState(), SitePass(), prefix):
                logits = self.at(example.ids, example.rows, example.positions)
            return not bool(((logits.float() - full).abs() <= tolerance).all())

        run = SitePass(inputs={})
        with self.running(EditedState(), run):
            self.at(example.ids, example.rows, example.positions)
        check_inputs(self._sites, run.inputs or {}, example, self.head)
        if differs(None):
            self._gathers = False
            self._warn(
                "logits are computed at every token, because its head is more than a linear layer"
            )
        if any(differs(self.prefix(EditedState(), example, [name])) for name in self.layers.ends):
            self.layers.give_up()
            self._warn(
                "every evaluation runs all layers: skipping the lower ones changes its logits"
            )

    def _warn(self, what: str) -> None:
        warnings.warn(f"{type(self.model).__name__}: {what}", stacklevel=5)
