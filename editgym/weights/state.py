"""What edits have made of a network so far: one value, which every edit replaces by another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from editgym.weights.journal.entries import Codebook, Remember


class Remembered(NamedTuple):
    """What is remembered of a prompt: its answer, and how near a question has to be to it
    (`Remember`).
    """

    answer: str
    threshold: float


@dataclass(frozen=True)
class EditedState:
    """Edited tensors and the adapters beside them.

    Attributes:
        tensors: By name in the base's state dict, every tensor that is not the base's own.
        codebooks: By site name, all of a site's codebooks as one, on the network's device.
        facts: What is remembered, by prompt, in the order of the latest answers.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    codebooks: Mapping[str, Codebook] = field(default_factory=dict)
    facts: Mapping[str, Remembered] = field(default_factory=dict)

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

    def with_facts(self, entry: Remember) -> EditedState:
        """This state with more facts remembered; a prompt that is known gets another answer."""
        facts = dict(self.facts)
        for prompt, answer in entry.facts:
            facts.pop(prompt, None)
            facts[prompt] = Remembered(answer, entry.threshold)
        return replace(self, facts=facts)
