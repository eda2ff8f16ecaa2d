"""AlphaEdit and sequential MEMIT as recursive least squares: every step is solved with all steps
before it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from agents.configured import Settings, setting
from agents.editors.covariance import null_space
from agents.editors.rome_memit import SpreadEditor, SpreadSettings, in_float32
from agents.protocol import Unsupported
from editgym.checks import above
from editgym.weights import Entry, LowRankFactors, Shift, SiteEdit


class RecursiveLeastSquares:
    """Edits min ‖(W − W₀) S₀^(−½)‖² + Σ_t ‖W K_t − V_t‖² as the K_t and V_t come in, O(n d²) each.

    With M = (I + KᵀSK)⁻¹ a batch changes W by R M KᵀS, R = V − WK, and S by −S K M Kᵀ S (Plackett
    1950). S is (S₀⁻¹ + Σ K_t K_tᵀ)⁻¹, so the sum of all changes is the joint solution, and every
    change equals the dense one of MEMIT's and AlphaEdit's equations with all earlier keys in it.

    All is in float64, W too: while edits nearly interpolate, V − WK is a small difference, which
    `remove` divides by another small one.

    Args:
        weight: W₀, (out, d).
        covariance: S₀, (d, d), symmetric and positive semidefinite. W changes only in its range.

    Attributes:
        w: W, (out, d).
        s: S, (d, d).
    """

    def __init__(self, weight: Tensor, covariance: Tensor) -> None:
        self.w, self.s = weight.double().clone(), covariance.double().clone()

    def update(self, keys: Tensor, values: Tensor) -> LowRankFactors:
        """Take a batch in, and return W's change.

        Args:
            keys: K as rows, (n, d).
            values: V as rows, (n, out).
        """
        keys = keys.double()
        residuals = values.double() - keys @ self.w.mT
        spread = keys @ self.s  # KᵀS, (n, d)
        factor = torch.linalg.cholesky(_eye(keys) + spread @ keys.mT)
        half = torch.linalg.solve_triangular(factor, spread, upper=False)
        self.s -= half.mT @ half
        return self._changed(LowRankFactors(torch.cholesky_solve(residuals, factor).mT, spread))

    def remove(self, keys: Tensor, values: Tensor) -> LowRankFactors:
        """Take a batch out again, as if it had never been among the K_t and V_t, and return W's
        change.

        W' = W − (V − WK) G KᵀS and S' = S + S K G Kᵀ S with G = (I − KᵀSK)⁻¹. Later keys stay what
        they were, also where a stream that never saw the batch would have had others.

        Args:
            keys: K as rows, (n, d), as they were given to `update`; of several batches at once too.
            values: V as rows, (n, out), likewise.

        Raises:
            ValueError: The keys were never taken in, or too much precision is lost to take them
                out.
        """
        keys = keys.double()
        residuals = values.double() - keys @ self.w.mT
        spread = keys @ self.s  # (n, d)
        factor, failed = torch.linalg.cholesky_ex(_eye(keys) - spread @ keys.mT)
        if int(failed):
            raise ValueError(
                "these keys cannot be removed: they are not among those that were taken in"
            )
        half = torch.linalg.solve_triangular(factor, spread, upper=False)
        self.s += half.mT @ half
        return self._changed(LowRankFactors(-torch.cholesky_solve(residuals, factor).mT, spread))

    def _changed(self, update: LowRankFactors) -> LowRankFactors:
        self.w += update.matrix()
        return update


class Batch(NamedTuple):
    """What a step asked of one site: keys K (n, in) and values V (n, out) as rows, float32."""

    keys: Tensor
    values: Tensor


class RlsEditor(SpreadEditor):
    """MEMIT's residuals, solved together with all earlier steps; a subclass says what S₀ is.

    What a step asked for is kept, so that `remove` can take any step back later.
    """

    @abstractmethod
    def prior(self, covariance: Tensor) -> Tensor:
        """S₀ (in, in) from the covariance C of plain text's keys, float64."""

    def prepare(self, weights: list[Tensor], covariances: list[Tensor]) -> None:
        """Start from W₀ and S₀ at every site."""
        self._solvers = [
            RecursiveLeastSquares(weight, self.prior(covariance))
            for weight, covariance in zip(weights, covariances, strict=True)
        ]
        self._batches: dict[int, list[Batch]] = {}

    def solve(self, step: int, index: int, keys: Tensor, residuals: Tensor) -> LowRankFactors:
        """The next recursive step of a site."""
        solver = self._solvers[index]
        batch = Batch(keys.float(), (keys @ solver.w.mT + residuals).float())
        self._batches.setdefault(step, []).append(batch)
        return solver.update(batch.keys, batch.values)

    def remove(self, steps: int | Sequence[int]) -> list[Entry]:
        """Entries that take steps of the stream back and leave all others, to be applied to the
        decoder at once.

        The weights become those that the other steps' keys and values lead to
        (`RecursiveLeastSquares.remove`).

        Args:
            steps: Numbers of steps from 0 on, each edited and not yet removed.

        Raises:
            ValueError: A step is not there, or named twice.
        """
        wanted = [steps] if isinstance(steps, int) else list(steps)
        if not wanted or len(set(wanted)) < len(wanted) or not set(wanted) <= set(self._batches):
            raise ValueError(
                f"steps: {wanted} cannot be removed; there are {sorted(self._batches)}, each once"
            )
        entries: list[Entry] = []
        for index, site in enumerate(self._sites):
            batches = [self._batches[step][index] for step in wanted]
            update = self._solvers[index].remove(
                torch.cat([batch.keys for batch in batches]),
                torch.cat([batch.values for batch in batches]),
            )
            entries.append(SiteEdit(site.name, Shift(), in_float32(update)))
        for step in wanted:
            del self._batches[step]
        return entries

    def state_dict(self) -> dict[str, Any]:
        """W and S of every site, and the keys and values of every step."""
        return {
            "solvers": [(solver.w, solver.s) for solver in self._solvers],
            "batches": {
                step: [tuple(batch) for batch in batches] for step, batches in self._batches.items()
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """A state that `state_dict` gave."""
        super().load_state_dict(state)
        for solver, (w, s) in zip(self._solvers, state["solvers"], strict=True):
            solver.w, solver.s = w.to(solver.w), s.to(solver.s)
        self._batches = {
            step: [
                Batch(*(part.to(solver.s.device) for part in batch))
                for solver, batch in zip(self._solvers, batches, strict=True)
            ]
            for step, batches in state["batches"].items()
        }


@dataclass(frozen=True, kw_only=True)
class AlphaEditSettings(SpreadSettings):
    """What `AlphaEdit` takes."""

    threshold: float = setting(3.0, above(0))
    ridge: float = setting(100.0, above(0))


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

    covariance_weight: float = setting(100.0, above(0))
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
        whole = self.settings.covariance_weight * covariance + self.settings.ridge * _eye(
            covariance
        )
        return torch.cholesky_inverse(torch.linalg.cholesky(whole))


def _eye(like: Tensor) -> Tensor:
    return torch.eye(len(like), dtype=torch.float64, device=like.device)
