"""What a journal of edits is made of: one entry per thing that an editor did, or left undone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from editgym.checks import require, whole, within
from editgym.weights.factors import LowRankFactors, Update
from editgym.weights.operators import Operator, Shift

EntryKind = Literal[
    "low_rank_shift",
    "low_rank_mask",
    "dense_shift",
    "dense_mask",
    "replace_tensors",
    "codebook",
    "prepend",
    "remember",
    "skip",
]


@dataclass(frozen=True)
class SiteEdit:
    """One edit of one site: `operator` applied with `update`.

    Attributes:
        site: Name of the site.
        operator: `Mask` or `Shift`.
        update: Factors or a dense matrix, of one network (no candidate dimension).
        step: Environment step, or position in an edit stream, that the edit belongs to; None lets
            the journal number it, one more than the last.
    """

    site: str
    operator: Operator
    update: Update
    step: int | None = None

    @property
    def kind(self) -> EntryKind:
        """`low_rank_shift`, `low_rank_mask`, `dense_shift` or `dense_mask`."""
        if isinstance(self.update, LowRankFactors):
            return "low_rank_shift" if isinstance(self.operator, Shift) else "low_rank_mask"
        return "dense_shift" if isinstance(self.operator, Shift) else "dense_mask"


@dataclass(frozen=True)
class ReplaceTensors:
    """Whole tensors put in place of the network's own, by state-dict name: any parameter or
    buffer.
    """

    tensors: Mapping[str, Tensor]
    step: int | None = None

    @property
    def kind(self) -> EntryKind:
        """`replace_tensors`."""
        return "replace_tensors"


@dataclass(frozen=True)
class Codebook:
    """Not an edit of weights but an adapter beside them: inputs of a site near a key get the key's
    output.

    Attributes:
        site: Name of the site.
        keys: (n, in).
        values: (n, out), what the module gives out instead.
        radii: (n,), Euclidean distance up to which a key holds.
        step: The step that the entry belongs to, as in `SiteEdit`.
    """

    site: str
    keys: Tensor
    values: Tensor
    radii: Tensor
    step: int | None = None

    @property
    def kind(self) -> EntryKind:
        """`codebook`."""
        return "codebook"


@dataclass(frozen=True)
class Prepend:
    """Not an edit of weights but text before every prompt of a request, in the order of the step's
    requests.
    """

    texts: tuple[str, ...]
    step: int | None = None

    @property
    def kind(self) -> EntryKind:
        """`prepend`."""
        return "prepend"


@dataclass(frozen=True)
class Remember:
    """Not an edit of weights but facts to be looked up: the nearest one to a question stands before
    it, as a solved question.

    Attributes:
        facts: Prompts and their answers. Of two facts with one prompt the later one holds.
        threshold: How near a question has to be to a prompt, 0–1, for its fact to be looked up.
        step: The step that the entry belongs to, as in `SiteEdit`.

    Raises:
        ValueError: A prompt or an answer is no text, or an empty one, or the threshold is out of
            range.
    """

    facts: tuple[tuple[str, str], ...]
    threshold: float
    step: int | None = None

    def __post_init__(self) -> None:
        for fact in self.facts:
            texts = len(fact) == 2 and all(isinstance(text, str) and text for text in fact)
            require(texts, "facts", fact, "a prompt and an answer each, none of them empty")
        within(0, 1)("threshold", self.threshold)

    @property
    def kind(self) -> EntryKind:
        """`remember`."""
        return "remember"


@dataclass(frozen=True)
class Skip:
    """No edit at all: the editor has left out a request, and says why.

    Attributes:
        request: The request's place in the step's batch, from 0.
        reason: Why the editor has left it out.
        step: The step that the entry belongs to, as in `SiteEdit`.

    Raises:
        ValueError: The place is negative, or there is no reason.
    """

    request: int
    reason: str
    step: int | None = None

    def __post_init__(self) -> None:
        whole(0)("request", self.request)
        require(bool(self.reason), "reason", self.reason, "a few words")

    @property
    def kind(self) -> EntryKind:
        """`skip`."""
        return "skip"


def copied(entry: Entry) -> Entry:
    """The entry with tensors of its own, which share neither memory nor gradients."""
    if isinstance(entry, SiteEdit):
        return replace(entry, update=entry.update.detached())
    if isinstance(entry, ReplaceTensors):
        own = {name: tensor.detach().clone() for name, tensor in entry.tensors.items()}
        return replace(entry, tensors=own)
    if isinstance(entry, Codebook):
        keys, values, radii = (
            tensor.detach().clone() for tensor in (entry.keys, entry.values, entry.radii)
        )
        return replace(entry, keys=keys, values=values, radii=radii)
    return entry


Adapter = Codebook | Prepend | Remember  # beside the weights
Entry = SiteEdit | ReplaceTensors | Adapter | Skip
