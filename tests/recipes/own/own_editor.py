"""An editor of facts of one's own: what to apply for a step's requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agents.configured import Settings, setting
from agents.editors.stream import StreamEditor
from editgym.checks import above
from editgym.envs.lifelong.process import LifelongProcess
from editgym.weights import Entry, LowRankFactors, Shift, SiteEdit


@dataclass(frozen=True, kw_only=True)
class OneStepSettings(Settings):
    """What `OneStep` takes."""

    learning_rate: float = setting(1.0, above(0))


class OneStep(StreamEditor):
    """One step of gradient descent on the requests' loss at every site: ΔW = −η Gᵀ K.

    Args:
        learning_rate: η, greater than 0; 1.0 by default.
    """

    name = "one_step"
    settings_type: ClassVar[type[Settings]] = OneStepSettings
    settings: OneStepSettings

    def entries(self, process: LifelongProcess) -> list[Entry]:
        """One shift per site, of as many products as the answers have tokens."""
        capture, rate = process.capture, self.settings.learning_rate
        return [
            SiteEdit(site.name, Shift(), LowRankFactors(-rate * gradients.mT, keys))
            for site, keys, gradients in zip(
                process.sites, capture.keys, capture.gradients, strict=True
            )
        ]
