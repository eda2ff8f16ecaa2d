"""Fine-tuning one matrix batch by batch: FT-M, and FT-L, which stays near the original weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from agents.configured import Settings, setting
from agents.editors.descent import chosen_site, descend, losses_in_parts, only, zeros
from agents.editors.settings import SITE
from agents.editors.stream import StreamEditor
from agents.tune.search import ONE_MLP_OUTPUT, LogUniform, Whole
from editgym.checks import above, at_least, whole
from editgym.envs.lifelong.process import LifelongProcess
from editgym.weights import DenseUpdate, Entry, Shift, SiteEdit


@dataclass(frozen=True, kw_only=True)
class FineTuneSettings(Settings):
    """What `FineTuneMatrix` takes."""

    site: str | None = setting(None, SITE, search=ONE_MLP_OUTPUT)
    steps: int = setting(25, whole(1), search=Whole(10, 60))
    learning_rate: float = setting(4e-3, above(0), search=LogUniform(1e-5, 0.02))
    stop_loss: float = setting(0.1, at_least(0), search=LogUniform(0.01, 1))


@dataclass(frozen=True, kw_only=True)
class LimitedSettings(FineTuneSettings):
    """What `FineTuneLimited` takes."""

    learning_rate: float = setting(5e-3, above(0), search=LogUniform(1e-5, 0.02))
    epsilon: float = setting(0.5, above(0), search=LogUniform(1e-4, 2))


class FineTuneMatrix(StreamEditor):
    """FT-M: Adam on one matrix, on the cross-entropy of the new requests' targets alone (Zhang et
    al. 2024).

    Args:
        site: Name among the environment's sites; None (default) for the last that writes to the
            residual stream. Tuned for factlm: `model.layers.4.mlp.down_proj`.
        steps: Most steps of Adam per batch of requests, 1 or more; 25 by default.
        learning_rate: Learning rate of Adam, greater than 0; 4e-3 by default, which suits factlm:
            larger models want a smaller one.
        stop_loss: Cross-entropy in nats per token, 0 or more; training ends as soon as every
            request is below it. 0.1 by default.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    name = "ft_m"
    settings_type: ClassVar[type[Settings]] = FineTuneSettings
    settings: FineTuneSettings

    def begin(self, process: LifelongProcess) -> None:
        """Find the site."""
        self._site = chosen_site(process, self.settings.site, self.name)

    def entries(self, process: LifelongProcess) -> list[Entry]:
        """One dense shift of the site."""
        d = zeros(process, self._site)
        updates = only(process, self._site, DenseUpdate(d))
        prefix = process.decoder.prefix(process.prompts, [self._site.name])
        descend(
            [d],
            losses_in_parts(process, process.prompts, updates, prefix),
            self.settings.steps,
            self.settings.learning_rate,
            self.settings.stop_loss,
            self._projection(process, d),
        )
        return [SiteEdit(self._site.name, Shift(), DenseUpdate(d.detach()))]

    def _projection(self, process: LifelongProcess, d: Tensor) -> Callable[[], None]:
        """What keeps the update within limits after a step of Adam."""
        return lambda: None


class FineTuneLimited(FineTuneMatrix):
    """FT-L: Adam on one matrix, on the cross-entropy of the new requests' targets, with
    ‖W − W₀‖∞ ≤ ε (Zhu et al. 2020), W₀ being the weights before the stream's first edit.

    Args:
        learning_rate: Learning rate of Adam, greater than 0; 5e-3 by default, which suits factlm:
            larger models want a smaller one.
        epsilon: ε, in units of the weights, greater than 0; the weights are put back into this box
            after every step of Adam. 0.5 by default. Tuned for factlm: 0.8, and 1.2 from 500 edits
            on.
        site: Name among the environment's sites; None (default) for the last that writes to the
            residual stream. Tuned for factlm: `model.layers.4.mlp.down_proj`.
        steps: Most steps of Adam per batch of requests, 1 or more; 25 by default.
        stop_loss: Cross-entropy in nats per token, 0 or more; training ends as soon as every
            request is below it. 0.1 by default.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    name = "ft_l"
    settings_type: ClassVar[type[Settings]] = LimitedSettings
    settings: LimitedSettings

    def _projection(self, process: LifelongProcess, d: Tensor) -> Callable[[], None]:
        index = process.sites.index(self._site)
        before = (
            process.decoder.weights[index].float() - process.decoder.base_weights[index].float()
        )
        epsilon = self.settings.epsilon

        def into_the_box() -> None:
            d.copy_((before + d).clamp(-epsilon, epsilon) - before)

        return into_the_box
