"""AlphaEdit and sequential MEMIT: every step is solved with all steps before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agents.configured import Settings, setting
from agents.editors.covariance import null_space
from agents.editors.recursive import RlsEditor
from agents.editors.rome_memit import SpreadSettings
from agents.protocol import Unsupported
from agents.tune.search import LogUniform
from editgym.checks import above


@dataclass(frozen=True, kw_only=True)
class AlphaEditSettings(SpreadSettings):
    """What `AlphaEdit` takes."""

    threshold: float = setting(3.0, above(0), search=LogUniform(0.03, 30))
    ridge: float = setting(100.0, above(0), search=LogUniform(0.1, 1e4))


class AlphaEdit(RlsEditor):
    """AlphaEdit (Fang et al. 2025): edits only in the null space of what plain text's keys span.

    S₀ = P/a, which makes each step the paper's, with its unit weight on ‖ΔW P‖² turned into a:
    ΔW = R Kᵀ P (K_p K_pᵀ P + K Kᵀ P + aI)⁻¹, K_p all earlier keys. What is missing at the hidden
    state that gives the new answer (Meng et al. 2023, eq. 16) is shared out among the sites, as R.

    Args:
        threshold: Eigenvalues of C below this times the mean one count as null (`null_space`);
            greater than 0, 3 by default. In a small model none is near 0; there it only takes the
            few largest directions out, and the ridge does the rest.
        ridge: a, greater than 0; 100 by default.
        sites: Names among the environment's sites; None (default) for all that qualify: they write
            to the residual stream, and have two layers above them.
        tokens: How many tokens of plain text C is taken over, 1 or more; 50,000 by default.
        steps: Steps of Adam in the search for the hidden state, 1 or more; 40 by default.
        learning_rate: Learning rate of that Adam, in units of the hidden state's root mean square,
            greater than 0; 0.5 by default.
        max_norm: Largest change of the hidden state that is looked for, as a share of its length,
            greater than 0; 0.8 by default.
        kl_weight: Weight, in the search's loss, of the KL divergence at "{subject} is a" from the
            model without the change; 0 (default) leaves it out.
        decay: Weight, in the search's loss, of the change's squared length over the state's; 0 by
            default.
        contexts: Over how many prompts keys and loss are means, 1 or more: the prompt itself, and
            the prompt after sentences about something else. 1 by default.
        stop_loss: Cross-entropy, in nats per token, at which the search for a request ends; 0
            (default) makes all steps.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    name = "alphaedit"
    settings_type: ClassVar[type[Settings]] = AlphaEditSettings
    settings: AlphaEditSettings

    def prior(self, covariance: Tensor) -> Tensor:
        """P/a.

        Raises:
            Unsupported: Plain text's keys leave no null space.
        """
        try:
            return null_space(covariance, self.settings.threshold) / self.settings.ridge
        except ValueError as error:
            raise Unsupported(f"{self.name}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class SequentialMemitSettings(SpreadSettings):
    """What `SequentialMemit` takes."""

    covariance_weight: float = setting(100.0, above(0), search=LogUniform(1, 1e5))
    ridge: float = setting(0.01, above(0))


class SequentialMemit(RlsEditor):
    """MEMIT with the keys of all earlier steps in its solve (the stream's version of Meng et al.
    2023, eq. 14).

    S₀ = (λC + aI)⁻¹, C = E[k kᵀ] over plain text. What is missing at the hidden state that gives
    the new answer (eq. 16) is shared out among the sites.

    Args:
        covariance_weight: λ, how much the inputs of plain text count against the steps' keys;
            greater than 0, 100 by default. Tuned for factlm: 300 from 500 edits on.
        ridge: a, greater than 0; 0.01 by default.
        sites: Names among the environment's sites; None (default) for all that qualify: they write
            to the residual stream, and have two layers above them.
        tokens: How many tokens of plain text C is taken over, 1 or more; 50,000 by default.
        steps: Steps of Adam in the search for the hidden state, 1 or more; 40 by default.
        learning_rate: Learning rate of that Adam, in units of the hidden state's root mean square,
            greater than 0; 0.5 by default.
        max_norm: Largest change of the hidden state that is looked for, as a share of its length,
            greater than 0; 0.8 by default.
        kl_weight: Weight, in the search's loss, of the KL divergence at "{subject} is a" from the
            model without the change; 0 (default) leaves it out.
        decay: Weight, in the search's loss, of the change's squared length over the state's; 0 by
            default.
        contexts: Over how many prompts keys and loss are means, 1 or more: the prompt itself, and
            the prompt after sentences about something else. 1 by default.
        stop_loss: Cross-entropy, in nats per token, at which the search for a request ends; 0
            (default) makes all steps.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    name = "memit_seq"
    settings_type: ClassVar[type[Settings]] = SequentialMemitSettings
    settings: SequentialMemitSettings

    def prior(self, covariance: Tensor) -> Tensor:
        """(λC + aI)⁻¹."""
        whole = self.settings.covariance_weight * covariance
        whole.diagonal().add_(self.settings.ridge)
        return torch.cholesky_inverse(torch.linalg.cholesky(whole))
