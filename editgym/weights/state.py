"""What edits have made of a network so far: one value, which every edit replaces by another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from editgym.weights.entries import Codebook


@dataclass(frozen=True)
class EditedState:
    """Edited tensors and the adapters beside them.

    Attributes:
        tensors: By name in the base's state dict, every tensor that is not the base's own.
        codebooks: By site name, all of a site's codebooks as one, on the network's device.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    codebooks: Mapping[str, Codebook] = field(default_factory=dict)

    def with_tensors(self, edited: Mapping[str, Tensor]) -> EditedState:
        """This state with some tensors replaced."""
        return replace(self, tensors={**self.tensors, **edited})

    def detached(self) -> EditedState:
        """This state without the graphs of its tensors."""
        return replace(self, tensors={name: t.detach() for name, t in self.tensors.items()})

    def with_codebook(self, code: Codebook, device: torch.device) -> EditedState:
        """This state with a codebook behind those of its site; an empty one changes nothing."""
        if not len(code.keys):
            return self
        parts = [part.to(device) for part in (code.keys, code.values, code.radii)]
        if (old := self.codebooks.get(code.site)) is not None:
            before = (old.keys, old.values, old.radii)
            parts = [torch.cat(pair) for pair in zip(before, parts, strict=True)]
        keys, values, radii = parts
        merged = Codebook(code.site, keys, values, radii)
        return replace(self, codebooks={**self.codebooks, code.site: merged})
