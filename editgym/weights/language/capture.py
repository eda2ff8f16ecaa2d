"""Keys and output gradients of a language model's sites, at the tokens of answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from editgym.weights.factors import Update
from editgym.weights.language.given import at_answers, counted_rows
from editgym.weights.language.graph_size import in_parts
from editgym.weights.language.layers import Prefix
from editgym.weights.language.passes import EditedPasses
from editgym.weights.language.rest import Rest
from editgym.weights.language.rest_passes import answers_of
from editgym.weights.language.site_pass import SitePass
from editgym.weights.language.tokens import TokenBatch
from editgym.weights.sites import EditSite
from editgym.weights.state import EditedState


@dataclass
class Capture:
    """What happened at the sites during one forward and backward pass, at answer tokens only.

    Attributes:
        keys: (m, in) per site: the module's inputs.
        gradients: (m, out) per site: of the loss, by the module's outputs.
        loss: Mean cross-entropy: over the answer tokens of a text, then over texts.
        rows: (m,), the text of every row; None where there are no texts.
        losses: (n,), every text's mean cross-entropy; None where there are no texts.
        of_new: The same of the first texts alone, where the others were learned before; None where
            all are new.
    """

    keys: list[Tensor]
    gradients: list[Tensor]
    loss: float
    rows: Tensor | None = None
    losses: Tensor | None = None
    of_new: Capture | None = None

    @property
    def new(self) -> Capture:
        """What happened in new texts: what running statistics take in."""
        return self if self.of_new is None else self.of_new

    def rehearsing(self, new: int) -> Capture:
        """The same, where only the first texts are new and the others are rehearsed.

        Gradients become those of the sum of all losses over the number of new texts, so that a text
        counts what it counts without any rehearsal, and statistics of gradients keep their unit.

        Args:
            new: How many texts are new, 1 or more.
        """
        assert self.rows is not None
        assert self.losses is not None
        gradients = [own * (len(self.losses) / new) for own in self.gradients]
        count, losses = int((self.rows < new).sum()), self.losses[:new]
        first = Capture(
            [keys[:count] for keys in self.keys],
            [own[:count] for own in gradients],
            float(losses.mean()),
            self.rows[:count],
            losses,
        )
        return replace(self, gradients=gradients, of_new=first)


def captured(
    passes: EditedPasses,
    state: EditedState,
    sites: Sequence[EditSite],
    batch: TokenBatch,
    prefix: Prefix | None,
    updates: Sequence[Update | None] | None,
) -> Capture:
    """What happens at the sites when texts go through the model there and back.

    No loss depends on a site's output before the first token of an answer but by what attention has
    seen there, so what stands before it is read without a graph (`answers_of`), where that is
    possible and spares more than a further pass costs. Texts go through the model together as far
    as their graph takes little memory.

    Args:
        passes: Passes of the model.
        state: The edits.
        sites: Where it is edited.
        batch: The texts.
        prefix: Where a pass over them begins.
        updates: What is in effect beside the edits, one per site.
    """
    texts, begin = answers_of(passes, state, batch, prefix, updates)
    parts = [
        (rows, _there_and_back(passes, state, sites, own, part, updates, len(batch)))
        for own, part, rows in in_parts(passes, texts, begin)
    ]
    if len(parts) == 1:
        return parts[0][1]
    return _in_order([rows for rows, _ in parts], [own for _, own in parts])


def _there_and_back(
    passes: EditedPasses,
    state: EditedState,
    sites: Sequence[EditSite],
    batch: TokenBatch,
    begin: Prefix | Rest | None,
    updates: Sequence[Update | None] | None,
    texts: int,
) -> Capture:
    """What happens at the sites in some of so many texts, each of which counts as one of all."""
    run = SitePass(updates, inputs={})
    with torch.enable_grad():
        logits = passes.logits(state, run, batch, begin).float()
        losses = batch.mean_costs(F.cross_entropy(logits, batch.labels, reduction="none"))
        loss = losses.sum() / texts
        ran = [site for site in sites if site.name in run.outputs]
        gradients = torch.autograd.grad(loss, [run.outputs[site.name] for site in ran])
    assert run.inputs is not None
    given = batch if isinstance(begin, Rest) else batch.after(passes.shared(batch))
    found = {
        site.name: (
            at_answers(run.inputs[site.name], given).detach().float(),
            at_answers(gradient, given).float(),
        )
        for site, gradient in zip(ran, gradients, strict=True)
    }
    nothing = {
        site.name: (losses.new_zeros(0, site.shape[1]), losses.new_zeros(0, site.shape[0]))
        for site in sites
    }
    pairs = (nothing | found).values()
    return Capture(
        [keys for keys, _ in pairs],
        [gradient for _, gradient in pairs],
        float(loss.detach()),
        counted_rows(batch),
        losses.detach(),
    )


def _in_order(places: Sequence[Sequence[int]], parts: Sequence[Capture]) -> Capture:
    """What happened in all texts, from their parts and where the texts of these stand."""

    def joined(several: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        together = (torch.cat(own) for own in zip(*several, strict=True))
        return [own[order] if len(own) else own for own in together]  # none below the prefix

    rows, losses = [], []
    for at, own in zip(places, parts, strict=True):
        assert own.rows is not None
        assert own.losses is not None
        rows.append(own.rows.new_tensor(at)[own.rows])
        losses.append(own.losses)
    found = torch.cat(rows)
    order = found.argsort(stable=True)
    texts = found.new_tensor([place for at in places for place in at])
    return Capture(
        joined([own.keys for own in parts]),
        joined([own.gradients for own in parts]),
        sum(own.loss for own in parts),
        found[order],
        torch.cat(losses)[texts.argsort()],
    )
