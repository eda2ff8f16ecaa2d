"""What editors by gradients share: Adam on the losses of requests, and the matrix they work on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from agents.editors.stream import chosen_sites
from editgym.envs.lifelong.process import LifelongProcess
from editgym.weights import TokenBatch, Update
from editgym.weights.language.graph_size import in_parts
from editgym.weights.language.layers import Prefix
from editgym.weights.sites import EditSite


def descend(
    parameters: list[Tensor],
    losses: Sequence[Callable[[], Tensor]],
    steps: int,
    learning_rate: float,
    stop_loss: float,
    project: Callable[[], None] = lambda: None,
) -> None:
    """Minimise a sum of losses by Adam, until each is at most `stop_loss`; Adam makes no difference
    of sum and mean.

    Args:
        parameters: Leaves of the graph; changed in place.
        losses: Functions that give (n,), one loss for each request of a part of them (`in_parts`).
        steps: Most steps of Adam.
        learning_rate: Learning rate of Adam.
        stop_loss: The loss at which to stop, in nats per token.
        project: A function that is called after every step, and changes the parameters.
    """
    optimizer = torch.optim.Adam(parameters, learning_rate)
    for _ in range(steps):
        optimizer.zero_grad()
        done = True
        for number, some in enumerate(losses, start=1):
            with torch.enable_grad():
                now = some()
                done = done and float(now.detach().max()) <= stop_loss
                if done and number == len(losses):
                    return
                add_gradients(now.sum(), parameters)
        optimizer.step()
        with torch.no_grad():
            project()


def losses_in_parts(
    process: LifelongProcess,
    batch: TokenBatch,
    updates: Sequence[Update | None],
    prefix: Prefix | None,
) -> list[Callable[[], Tensor]]:
    """Functions that give the losses of some of a batch's texts each, with further updates of the
    sites; their graphs take little memory.
    """
    decoder = process.decoder
    return [
        partial(decoder.losses, texts, updates, begin)
        for texts, begin, _ in in_parts(decoder.reading[0], batch, prefix)
    ]


def add_gradients(loss: Tensor, parameters: Sequence[Tensor]) -> None:
    """Add the gradients of a loss to those that parameters have."""
    for parameter, own in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = own if parameter.grad is None else parameter.grad + own


def chosen_site(
    process: LifelongProcess, site: str | None, name: str, middle: bool = False
) -> EditSite:
    """The site called `site`; by default the last, or the middle one, of those that write to the
    residual stream.

    Raises:
        Unsupported: It is not open for edits, or none writes to the residual stream.
    """
    if site is not None:
        return chosen_sites(process, [site], name)[0]
    candidates = chosen_sites(process, None, name, residual=True)
    return candidates[len(candidates) // 2 if middle else -1]


def zeros(process: LifelongProcess, site: EditSite) -> Tensor:
    """An update of a site that changes nothing yet, (out, in), float32, to be trained."""
    device = process.decoder.base_weights[process.sites.index(site)].device
    return torch.zeros(site.shape, device=device, requires_grad=True)


def only(process: LifelongProcess, site: EditSite, update: Update) -> list[Update | None]:
    """`update` for one site and None for the others."""
    return [update if one is site else None for one in process.sites]
