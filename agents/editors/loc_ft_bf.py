"""LocFT-BF: fine-tuning one matrix on the whole stream at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from tqdm import tqdm

from agents.configured import Settings, setting
from agents.editors.descent import add_gradients, chosen_site, losses_in_parts, only, zeros
from agents.editors.settings import SEED, SITE
from agents.editors.stream import StreamEditor
from agents.protocol import Access
from agents.tune.search import ONE_MLP_OUTPUT, Choice, LogUniform, Whole
from editgym.checks import above, whole
from editgym.envs.lifelong.process import LifelongProcess
from editgym.weights import DenseUpdate, Entry, Shift, SiteEdit, TokenBatch
from editgym.weights.language.layers import Prefix
from editgym.weights.sites import EditSite


@dataclass(frozen=True, kw_only=True)
class LocFTBFSettings(Settings):
    """What `LocFTBF` takes."""

    site: str | None = setting(None, SITE, search=ONE_MLP_OUTPUT)
    epochs: int = setting(25, whole(1), search=Whole(10, 50))
    learning_rate: float = setting(1e-2, above(0), search=LogUniform(1e-5, 0.05))
    batch_size: int = setting(32, whole(1), search=Choice((8, 16, 32)))
    seed: int = setting(0, SEED)


class LocFTBF(StreamEditor):
    """LocFT-BF (Yang et al. 2025): localized fine-tuning, breadth first, of everything at once.

    Epochs over all requests of the stream in mini-batches, by Adam on one matrix, with the end
    token after every target; where other editors go through the stream once. The one update is the
    edit of step 0; later steps edit nothing.

    Args:
        site: Name among the environment's sites; None (default) for the middle one of those that
            write to the residual stream.
        epochs: Epochs over the stream, 1 or more; 25 by default.
        learning_rate: Learning rate of Adam, greater than 0; 1e-2 by default, which suits factlm:
            larger models want a smaller one.
        batch_size: Requests in a mini-batch, drawn anew in every epoch; 1 or more, 32 by default.
        seed: Seed of what is drawn, a whole number; `learn` sets it, unless `make_agent` was given
            one.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    name = "loc_ft_bf"
    access: ClassVar[Access] = "oracle"
    settings_type: ClassVar[type[Settings]] = LocFTBFSettings
    settings: LocFTBFSettings

    def begin(self, process: LifelongProcess) -> None:
        """Find the site."""
        self._site = chosen_site(process, self.settings.site, self.name, middle=True)

    def entries(self, process: LifelongProcess) -> list[Entry]:
        """One dense shift of the site at step 0, and nothing after."""
        if process.step_index:
            return []
        d = zeros(process, self._site)
        updates = only(process, self._site, DenseUpdate(d))
        size = self.settings.batch_size
        texts = _Texts(process, self._site, size)
        optimizer = torch.optim.Adam([d], self.settings.learning_rate)
        generator = torch.Generator().manual_seed(self.settings.seed)
        for _ in tqdm(
            range(self.settings.epochs), desc=self.name, unit="epoch", leave=False, mininterval=0.5
        ):
            for chosen in torch.randperm(len(texts), generator=generator).split(size):
                batch, prefix = texts.batch(chosen.tolist())
                optimizer.zero_grad()
                for losses in losses_in_parts(process, batch, updates, prefix):
                    with torch.enable_grad():
                        add_gradients(losses().sum() / len(batch), [d])
                optimizer.step()
        return [SiteEdit(self._site.name, Shift(), DenseUpdate(d.detach()))]


class _Texts:
    """All prompts and targets of a stream, with their activations below a site, which are computed
    once.
    """

    def __init__(self, process: LifelongProcess, site: EditSite, at_a_time: int) -> None:
        asked = [(request.prompt, request.target) for request in process.stream.holding]
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
