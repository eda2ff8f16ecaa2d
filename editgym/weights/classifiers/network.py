"""A network that can be edited and restored, and K candidate edits of it evaluated at once."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from editgym.imports import is_pretrained_model
from editgym.models.heads import features_before
from editgym.weights.classifiers.behaviour import behaviour
from editgym.weights.classifiers.kept import Keep, KeptRows, Lengths
from editgym.weights.classifiers.outputs import gives_logits, logits_of, unread
from editgym.weights.classifiers.recording import CannotReplay
from editgym.weights.classifiers.splitting import SplitNetwork, frozen_copy, split
from editgym.weights.journal.journal import SiteEdit
from editgym.weights.overlay import EditedWeights
from editgym.weights.sites import EditSite, UnknownSiteError
from editgym.weights.stored import fingerprint

_NUMBERS_IN_CACHE = 2**20
_NUMBERS_ON_GPU = 2**28
_COMPARED = 4  # inputs of the example
_MOST_HELD = 2**28  # numbers in the activations of some data
# Numbers in a sample's activations; to read more of them takes longer than they are worth.
_MOST_KEPT = 8_192


@contextmanager
def full_precision() -> Iterator[None]:
    """cuDNN rounds the inputs of convolutions to ten bits unless told not to: too few to agree with
    the CPU to 1e-5.

    torch's newer setting says so. Its older one has to agree, for code inside may read that, as
    `cudnn.flags` does; it cannot be read where the process has set the newer ones otherwise.
    """
    cudnn: Any = torch.backends.cudnn
    before, allowed = cudnn.conv.fp32_precision, None
    with suppress(RuntimeError):
        allowed = cudnn.allow_tf32
        cudnn.allow_tf32 = False
    cudnn.conv.fp32_precision = "ieee"
    try:
        yield
    finally:
        if allowed is not None:
            cudnn.allow_tf32 = allowed
        cudnn.conv.fp32_precision = before


class EditableNetwork(EditedWeights):
    """A frozen base network plus an overlay of edits, evaluated whole or from the first edited
    layer on.

    Args:
        model: Any `nn.Module` that maps a batch of inputs to logits (n, classes), as a tensor or in
            whatever `logits_of` finds them in, such as a classifier of `transformers`. It is
            copied, not changed; the copy, `base`, gives out the logits alone.
        sites: What may be edited (`find_sites`, `discover_sites`).
        example: A few inputs, with which the reuse of activations is checked against the full
            forward pass (1e-5). Where it fails, every evaluation runs the whole network and a
            warning says why.
        keep: Where activations are kept on disk, so that each input's are computed once: those of
            classifiers of `transformers`, if they are at most 8,192 numbers a sample. None keeps
            none.

    Raises:
        OutputError: There are no logits in what the model gives out.
        UnknownSiteError: Two sites are one tensor, or no logits depend on one.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[EditSite],
        example: Tensor,
        keep: Keep | None = None,
    ) -> None:
        with torch.no_grad(), full_precision():
            base = gives_logits(frozen_copy(model), example)
        super().__init__(base, sites)
        self._example = example
        self._check_read()
        with torch.no_grad(), full_precision():
            self._split: SplitNetwork = split(self.base, self.sites, example)
        if not self._split.reuses_prefix:
            warnings.warn(
                f"{type(model).__name__}: every evaluation runs the whole network, because "
                f"{self._split.reason}",
                stacklevel=2,
            )
        self._keeper = None if keep is None else self._keeping(keep)

    def _check_read(self) -> None:
        """Refuse sites that no edit of would change anything."""
        with full_precision():
            names = unread(self.base, [site.parameter for site in self.sites], self._example[:2])
        idle = [site.name for site in self.sites if site.parameter in names]
        if idle:
            raise UnknownSiteError(
                f"sites: {type(self.base).__name__} does not read {idle} when it computes its"
                " logits, as heads for training alone are not read, so no edit of them changes"
                " anything; name other sites (sites=[...])"
            )

    @property
    def reuses_prefix(self) -> bool:
        """Whether activations before the first edited site are computed once and reused."""
        return self._split.reuses_prefix

    def apply_tracked(self, *entries: SiteEdit) -> tuple[Tensor, ...]:
        """`apply` for those who go on with the edited weights, or with gradients to the updates.

        State and journal keep copies that share neither memory nor gradients with the updates.

        Returns:
            The edited matrix at every site, each (out, in); where gradients are enabled, with those
            to the entries' updates.

        Raises:
            UnknownSiteError: An entry names a site that the network does not have.
            ValueError: An update's shape is not its site's, an edited weight would not be finite,
                or a step is below the journal's last.
        """
        state = self._state
        for entry in entries:
            state = self._edited(entry, state)
        kept = [replace(entry, update=entry.update.detached()) for entry in entries]
        self.journal.append(*map(self._journalled, kept))  # a journal on disk may fail
        self._state = state.detached()
        return tuple(site.to_matrix(self._current(site.parameter, state)) for site in self.sites)

    def logits(self, inputs: Tensor, batch_size: int = 1024) -> Tensor:
        """Logits (n, classes) of the edited network: by its full forward pass, or from activations
        that are kept, where no edit lies below them.
        """
        edited = dict(self._state.tensors)
        with torch.no_grad(), full_precision():
            if self._keeper is not None and edited.keys() <= self._split.above:
                columns = [column.split(batch_size) for column in self._keeper(inputs)]
                return torch.cat(
                    [self._split.suffix(edited, part) for part in zip(*columns, strict=True)]
                )
            return torch.cat(
                [functional_call(self.base, edited, (part,)) for part in inputs.split(batch_size)]
            )

    @torch.no_grad()
    def probe(self, model: nn.Module | None = None) -> Tensor:
        """Logits (n, classes) on the example."""
        if model is None:
            return self.logits(self._example)
        with full_precision():
            return logits_of(model(self._example))

    def activations(self, inputs: Tensor, batch_size: int = 1024) -> tuple[Tensor, ...]:
        """The activations, batch first, that no edit of the sites can change; for
        `candidate_logits`.
        """
        with torch.no_grad(), full_precision():
            if self._keeper is not None:
                return self._keeper(inputs)
            parts = [self._split.prefix(part) for part in inputs.split(batch_size)]
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    def held(self, inputs: Tensor) -> tuple[Tensor, ...] | None:
        """`activations` of data that are looked at again and again; None where they would fill the
        memory (more than 2²⁸ numbers), so that those of a batch are to be computed when it is its
        turn.
        """
        return self.activations(inputs) if len(inputs) * self.numbers <= _MOST_HELD else None

    @cached_property
    def numbers(self) -> int:
        """Numbers in the activations of one input."""
        return sum(column[0].numel() for column in self._computed(self._example[:2]))

    def inputs_to(self, layer: str, inputs: Tensor) -> Tensor:
        """What goes into a module of the unedited network that sees one row for each input, (n,
        features).

        Args:
            layer: The module's name.
            inputs: The network's inputs, (n, ...).
        """
        if self._keeper is not None and self._split.input_of == layer:
            return self.activations(inputs)[0]
        return features_before(self.base, layer, inputs)

    def logits_from(self, activations: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        """Logits (n, classes) of the unedited network with these tensors in place of its own.

        Args:
            activations: From `activations`, which must not depend on the tensors.
            tensors: By their names in the state dict; differentiable in them.
        """
        return self._split.suffix(tensors, activations)

    def map_candidates(
        self,
        function: Callable[[Tensor, slice], Tensor],
        weights: Sequence[Tensor],
        activations: Sequence[Tensor],
        rows: Tensor | None = None,
    ) -> Tensor:
        """`function(logits, window)` over the K candidates, concatenated along the first dimension.

        The candidates are worked off in windows that suit the device; `function` gets the logits
        (k, n, classes) of one window and the slice of candidates it stands for. Differentiable in
        `weights`; agrees with the full forward pass to 1e-5.

        Args:
            function: What to make of the logits; returns (k, ...).
            weights: One (K, out, in) per site.
            activations: From `activations`.
            rows: (K, n), the rows of `activations` that each candidate sees; None for all of them.
        """
        count = len(activations[0]) if rows is None else rows.shape[1]
        numbers = count * sum(a[0].numel() for a in activations)
        # More numbers at a time than the cache holds make the CPU slower; the GPU is limited by
        # memory alone.
        chunk = max(
            1,
            (_NUMBERS_IN_CACHE if activations[0].device.type == "cpu" else _NUMBERS_ON_GPU)
            // numbers,
        )
        parts = []
        for start in range(0, len(weights[0]), chunk):
            window = slice(start, start + chunk)
            seen = activations if rows is None else [a[rows[window]] for a in activations]
            with full_precision():
                logits = self._split.run_candidates(
                    [w[window] for w in weights], seen, own=rows is not None
                )
            parts.append(function(logits, window))
        return torch.cat(parts)

    def candidate_logits(self, weights: Sequence[Tensor], activations: Sequence[Tensor]) -> Tensor:
        """Logits (K, n, classes) of K candidates whose matrices at the sites are `weights`, each
        (K, out, in).
        """
        return self.map_candidates(lambda logits, _: logits, weights, activations)

    # --- inside -----------------------------------------------------------------------------------

    def _keeping(self, keep: Keep) -> KeptRows | None:
        """The activations' keeper; None where keeping them does not pay."""
        if not self._split.above or self.numbers > _MOST_KEPT:
            return None
        few, lengths = self._example[:_COMPARED], keep.lengths
        whole = self._computed(few)
        if lengths is not None and not self._may_be_shortened(few, whole, lengths):
            lengths = None
        return KeptRows(keep.folder / self._prefix_hash(), self._computed, lengths)

    def _computed(self, inputs: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad(), full_precision():
            return self._split.prefix(inputs)

    def _may_be_shortened(self, few: Tensor, whole: Sequence[Tensor], lengths: Lengths) -> bool:
        """Whether activations are the same without the padding of the inputs."""
        try:
            self._computed(few[:, :-1])  # of the same shape, whatever the inputs' length
            for row, length in enumerate(lengths(few).tolist()):
                short = self._computed(few[row : row + 1, :length])
                for own, padded in zip(short, whole, strict=True):
                    scale = max(1.0, float(padded[row].abs().max()))
                    if not bool(((own[0] - padded[row]).abs() <= 1e-5 * scale).all()):
                        return False
        except (CannotReplay, RuntimeError):
            return False
        return True

    def _prefix_hash(self) -> str:
        """A name for all that activations depend on beside the inputs."""
        configs = [
            module.config.to_json_string()
            for module in self.base.modules()
            if is_pretrained_model(module)
        ]
        described = (
            fingerprint(self.base, self._split.above),
            repr(self.base),
            behaviour(self.base),
            configs,
            self._split.input_of or [site.name for site in self.sites],
            (str(self._example.dtype), tuple(self._example.shape[1:]), self._example.device.type),
            (torch.__version__, version("transformers")),
        )
        return hashlib.sha256(repr(described).encode()).hexdigest()[:24]
