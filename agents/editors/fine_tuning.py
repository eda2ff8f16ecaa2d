"""Fine-tuning one matrix: batch by batch (FT-M, FT-L), or on the whole stream at once (LocFT-BF).

Defaults suit factlm; larger models want smaller learning rates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from gymnasium.envs.registration import EnvSpec
from torch import Tensor
from tqdm import tqdm

from agents.editors.stream import StreamEditor, chosen_sites
from agents.protocol import Access, Budget
from editgym.checks import is_finite, is_whole, require
from editgym.envs.lifelong.process import LifelongProcess
from editgym.weights import DenseUpdate, Entry, Shift, SiteEdit, TokenBatch, Update
from editgym.weights.layers import Prefix
from editgym.weights.sites import EditSite


class FineTuneMatrix(StreamEditor):
    """FT-M: Adam on one matrix, on the cross-entropy of the new requests' targets alone (Zhang et
    al. 2024).

    Args:
        site: Among the environment's; None for the last that writes to the residual stream.
        steps: Of Adam, per batch of requests, at most.
        learning_rate: Of Adam.
        stop_loss: Cross-entropy in nats per token; training ends as soon as every request is below
            it.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    name = "ft_m"

    def __init__(
        self,
        site: str | None = None,
        steps: int = 25,
        learning_rate: float = 4e-3,
        stop_loss: float = 0.1,
    ) -> None:
        check_descent(steps, learning_rate, stop_loss)
        self.config = {
            "site": site,
            "steps": steps,
            "learning_rate": learning_rate,
            "stop_loss": stop_loss,
        }
        self.site, self.steps, self.learning_rate, self.stop_loss = (
            site,
            steps,
            learning_rate,
            stop_loss,
        )

    def begin(self, process: LifelongProcess) -> None:
        """Find the site."""
        self._site = chosen_site(process, self.site, self.name)

    def entries(self, process: LifelongProcess) -> list[Entry]:
        """One dense shift of the site."""
        d = zeros(process, self._site)
        updates = only(process, self._site, DenseUpdate(d))
        prefix = process.decoder.prefix(process.prompts, [self._site.name])
        descend(
            [d],
            lambda: process.decoder.losses(process.prompts, updates, prefix),
            self.steps,
            self.learning_rate,
            self.stop_loss,
            self._projection(process, d),
        )
        return [SiteEdit(self._site.name, Shift(), DenseUpdate(d.detach()))]

    def _projection(self, process: LifelongProcess, d: Tensor) -> Callable[[], None]:
        """What keeps the update within limits after a step of Adam."""
        return lambda: None


class FineTuneLimited(FineTuneMatrix):
    """FT-L: FT-M with ‖W − W₀‖∞ ≤ ε (Zhu et al. 2020), W₀ being the weights before the stream's
    first edit.

    Args:
        site: As `FineTuneMatrix`.
        steps: As `FineTuneMatrix`.
        learning_rate: As `FineTuneMatrix`.
        stop_loss: As `FineTuneMatrix`.
        epsilon: ε; the weights are put back into this box after every step of Adam.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    name = "ft_l"

    def __init__(
        self,
        site: str | None = None,
        steps: int = 25,
        learning_rate: float = 5e-3,
        stop_loss: float = 0.1,
        epsilon: float = 0.5,
    ) -> None:
        super().__init__(site, steps, learning_rate, stop_loss)
        require(is_finite(epsilon) and epsilon > 0, "epsilon", epsilon, "greater than 0 and finite")
        self.config |= {"epsilon": epsilon}
        self.epsilon = epsilon

    def _projection(self, process: LifelongProcess, d: Tensor) -> Callable[[], None]:
        index = process.sites.index(self._site)
        before = (
            process.decoder.weights[index].float() - process.decoder.base_weights[index].float()
        )

        def into_the_box() -> None:
            d.copy_((before + d).clamp(-self.epsilon, self.epsilon) - before)

        return into_the_box


class LocFTBF(StreamEditor):
    """LocFT-BF (Yang et al. 2025): localized fine-tuning, breadth first. Joint/replay: it sees
    everything at once.

    Epochs over all requests of the stream in mini-batches, on one matrix, with the end token after
    every target; where others go through the stream once. The one update is the edit of step 0;
    later steps edit nothing.

    Args:
        site: Among the environment's; None for the middle one of those that write to the residual
            stream.
        epochs: Over the stream.
        learning_rate: Of Adam.
        batch_size: Requests in a mini-batch, drawn anew in every epoch.
        seed: Of what is drawn.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    name = "loc_ft_bf"
    access: ClassVar[Access] = "oracle"

    def __init__(
        self,
        site: str | None = None,
        epochs: int = 25,
        learning_rate: float = 1e-2,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        for name, count in (("epochs", epochs), ("batch_size", batch_size)):
            require(is_whole(count) and count >= 1, name, count, "1 or more, a whole number")
        require(
            is_finite(learning_rate) and learning_rate > 0,
            "learning_rate",
            learning_rate,
            "greater than 0 and finite",
        )
        require(is_whole(seed), "seed", seed, "a whole number")
        self.config = {
            "site": site,
            "epochs": epochs,
            "learning_rate": learning_rate,
            "batch_size": batch_size,
            "seed": seed,
        }
        self.site, self.epochs, self.learning_rate, self.batch_size = (
            site,
            epochs,
            learning_rate,
            batch_size,
        )
        self.seed = seed

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Nothing is learned but while editing; the seed is kept for what is drawn there."""
        self.seed = self.config["seed"] = seed

    def begin(self, process: LifelongProcess) -> None:
        """Find the site."""
        self._site = chosen_site(process, self.site, self.name, middle=True)

    def entries(self, process: LifelongProcess) -> list[Entry]:
        """One dense shift of the site at step 0, and nothing after."""
        if process.step_index:
            return []
        d = zeros(process, self._site)
        updates = only(process, self._site, DenseUpdate(d))
        texts = _Texts(process, self._site, self.batch_size)
        optimizer = torch.optim.Adam([d], self.learning_rate)
        generator = torch.Generator().manual_seed(self.seed)
        for _ in tqdm(
            range(self.epochs), desc=self.name, unit="epoch", leave=False, mininterval=0.5
        ):
            for chosen in torch.randperm(len(texts), generator=generator).split(self.batch_size):
                batch, prefix = texts.batch(chosen.tolist())
                with torch.enable_grad():
                    loss = process.decoder.losses(batch, updates, prefix).mean()
                (d.grad,) = torch.autograd.grad(loss, d)
                optimizer.step()
        return [SiteEdit(self._site.name, Shift(), DenseUpdate(d.detach()))]


class _Texts:
    """All prompts and targets of a stream, with their activations below a site, which are computed
    once.
    """

    def __init__(self, process: LifelongProcess, site: EditSite, at_a_time: int) -> None:
        asked = [(request.prompt, request.target) for request in process.stream.requests]
        self._batches = [process.task.batch([pair]) for pair in asked]
        self._prefixes: list[Prefix] = []
        for start in range(0, len(asked), at_a_time):
            group = self._batches[start : start + at_a_time]
            prefix = process.decoder.prefix(TokenBatch.join(group), [site.name])
            if prefix is not None:
                # Copied, so that the padding of the group is not kept.
                self._prefixes += [
                    Prefix(row[None, : one.ids.shape[1]].clone(), prefix.layer)
                    for one, row in zip(group, prefix.activations, strict=True)
                ]

    def __len__(self) -> int:
        return len(self._batches)

    def batch(self, indices: Sequence[int]) -> tuple[TokenBatch, Prefix | None]:
        """Some of the texts, with their prefix."""
        return (
            TokenBatch.join([self._batches[index] for index in indices]),
            Prefix.join([self._prefixes[index] for index in indices]) if self._prefixes else None,
        )


def check_descent(steps: int, learning_rate: float, stop_loss: float) -> None:
    """Check the arguments of `descend`.

    Raises:
        ValueError: One is out of range; the message names it.
    """
    require(is_whole(steps) and steps >= 1, "steps", steps, "1 or more, a whole number")
    require(
        is_finite(learning_rate) and learning_rate > 0,
        "learning_rate",
        learning_rate,
        "greater than 0 and finite",
    )
    require(is_finite(stop_loss) and stop_loss >= 0, "stop_loss", stop_loss, "0 or more and finite")


def descend(
    parameters: list[Tensor],
    losses: Callable[[], Tensor],
    steps: int,
    learning_rate: float,
    stop_loss: float,
    project: Callable[[], None] = lambda: None,
) -> None:
    """Minimise a sum of losses by Adam, until each is at most `stop_loss`; Adam makes no difference
    of sum and mean.

    Args:
        parameters: Leaves; changed in place.
        losses: Gives (n,), one loss per request.
        steps: At most.
        learning_rate: Of Adam.
        stop_loss: Where to stop.
        project: Called after every step; changes the parameters.
    """
    optimizer = torch.optim.Adam(parameters, learning_rate)
    for _ in range(steps):
        with torch.enable_grad():
            now = losses()
            if float(now.detach().max()) <= stop_loss:
                return
            gradients = torch.autograd.grad(now.sum(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        with torch.no_grad():
            project()


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
