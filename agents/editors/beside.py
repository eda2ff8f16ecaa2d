"""Editors that leave the weights alone: the fact in the prompt, and a codebook at one site."""

from __future__ import annotations

from typing import ClassVar

import torch

from agents.editors.fine_tuning import check_descent, chosen_site, descend
from agents.editors.stream import StreamEditor
from agents.protocol import Access
from editgym.checks import is_finite, require
from editgym.data.facts import EditRequest
from editgym.envs.lifelong.process import LifelongProcess
from editgym.tasks.knowledge import TOO_LONG
from editgym.weights import Codebook, Entry, Prepend
from editgym.weights.site_pass import Injection


class InContext(StreamEditor):
    """Puts the new fact before every question about it. Beside the weights: a control, and no edit
    at all.

    Retrieval is an oracle's: every question, also about what should stay as it is, comes with the
    one fact that it was asked for. So it shows what reading a fact is worth, not what finding it
    costs.
    """

    name = "in_context"
    access: ClassVar[Access] = "oracle"

    def __init__(self) -> None:
        self.config = {}

    def entries(self, process: LifelongProcess) -> list[Entry]:
        """One text per request; none, and a counted skip, where the model's context has no room for
        it.
        """
        return [Prepend(tuple(self._text(process, request) for request in process.requests))]

    def _text(self, process: LifelongProcess, request: EditRequest) -> str:
        text = f"{request.prompt} {request.target}."
        if process.task.fits(request, before=f"{text} "):
            return text
        self.skipped[TOO_LONG] += 1
        return ""


class Grace(StreamEditor):
    """A codebook at one site, after GRACE (Hartvigsen et al. 2023). Beside the weights: they do not
    change.

    Keys are the site's inputs at a request's answer tokens. Values are what its module has to give
    out there for the model to answer as wanted: trained by Adam from the present outputs on, each
    request by its own loss, a whole batch in one pass. Where an input lies within the radius of its
    nearest key, the module gives out that key's value.

    Of GRACE this is the idea: keys at all answer tokens in place of the last prompt token alone,
    and radii that stay as they are, where GRACE widens and splits them.

    Args:
        site: Among the environment's; None for the last that writes to the residual stream.
        radius: ε, as a share of the key's length.
        steps: Of Adam, per batch of requests, at most.
        learning_rate: Of Adam, in units of the present outputs' root mean square.
        stop_loss: Cross-entropy in nats per token; training ends as soon as every request is below
            it.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    name = "grace"

    def __init__(
        self,
        site: str | None = None,
        radius: float = 0.8,
        steps: int = 50,
        learning_rate: float = 0.3,
        stop_loss: float = 0.05,
    ) -> None:
        check_descent(steps, learning_rate, stop_loss)
        require(is_finite(radius) and radius > 0, "radius", radius, "greater than 0 and finite")
        self.config = {
            "site": site,
            "radius": radius,
            "steps": steps,
            "learning_rate": learning_rate,
            "stop_loss": stop_loss,
        }
        self.site, self.radius = site, radius
        self.steps, self.learning_rate, self.stop_loss = steps, learning_rate, stop_loss

    def begin(self, process: LifelongProcess) -> None:
        """Find the site."""
        self._site = chosen_site(process, self.site, self.name).name

    def entries(self, process: LifelongProcess) -> list[Entry]:
        """A codebook of the new requests."""
        batch, prefix = process.prompts, process.decoder.prefix(process.prompts, [self._site])
        state = process.decoder.site_states(
            batch, [self._site], batch.rows, batch.positions, prefix
        )[self._site]
        scale = state.outputs.square().mean().sqrt()
        moved = torch.zeros_like(state.outputs, requires_grad=True)
        descend(
            [moved],
            lambda: process.decoder.losses(
                batch,
                prefix=prefix,
                injected={self._site: Injection(batch.rows, batch.positions, scale * moved)},
            ),
            self.steps,
            self.learning_rate,
            self.stop_loss,
        )
        return [
            Codebook(
                self._site,
                state.inputs,
                state.outputs + scale * moved.detach(),
                self.radius * state.inputs.norm(dim=1),
            )
        ]
