"""AlphaEdit and sequential MEMIT: every step is solved with all steps before it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from agents.configured import Settings, setting
from agents.editors.covariance import null_space
from agents.editors.least_squares import Batch, RecursiveLeastSquares
from agents.editors.rome_memit import SpreadEditor, SpreadSettings, in_float32
from agents.protocol import Unsupported
from agents.tune.search import LogUniform
from editgym.checks import above
from editgym.envs.lifelong.process import LifelongProcess
from editgym.weights import Entry, LowRankFactors, Shift, SiteEdit


class RlsEditor(SpreadEditor):
    """MEMIT's residuals, solved together with all earlier steps; a subclass says what S₀ is.

    What a step asked for is kept, so that `remove` can take any step back later. A rehearsed
    request's new key and value take the place of those that it had: nothing counts twice, and the
    weights are those that every request's latest key and value lead to. Those of a request whose
    prompt is edited again are taken out.
    """

    @abstractmethod
    def prior(self, covariance: Tensor) -> Tensor:
        """S₀ (in, in) from the covariance C of plain text's keys, float64."""

    def begin(self, process: LifelongProcess) -> None:
        """Choose the sites and prepare them with the covariances of their keys."""
        self._size = process.settings.edits_per_step
        super().begin(process)

    def prepare(self, weights: list[Tensor], covariances: Iterable[Tensor]) -> None:
        """Start from W₀ and S₀ at every site."""
        self._solvers = [
            RecursiveLeastSquares(weight, self.prior(covariance))
            for weight, covariance in zip(weights, covariances, strict=True)
        ]
        self._batches: dict[int, list[Batch]] = {}
        self._places: dict[int, list[int]] = {}  # in the stream, of a step's rows

    def rehearses(self, place: int) -> bool:
        """Whether the request's step was edited and not removed since."""
        return place in self._places.get(place // self._size, ())

    def solve(
        self, places: Sequence[int], index: int, keys: Tensor, residuals: Tensor
    ) -> LowRankFactors:
        """The next recursive step of a site."""
        solver = self._solvers[index]
        batch = Batch(keys.float(), (solver.outputs(keys) + residuals).float())
        new = [row for row, place in enumerate(places) if not self._stored(place, index)]
        again = [row for row, place in enumerate(places) if self._stored(place, index)]
        if new:
            step = places[new[0]] // self._size
            self._batches.setdefault(step, []).append(batch.rows(new))
            self._places[step] = [places[row] for row in new]
        if not again:
            return solver.update(batch.keys, batch.values)
        before = self._replaced([places[row] for row in again], index, batch.rows(again))
        removed = solver.remove(before.keys, before.values)
        return removed.plus(solver.update(batch.keys, batch.values))

    def forgotten(self, places: Sequence[int]) -> list[LowRankFactors]:
        """What takes the keys and values of overwritten requests out again: two values of one key
        would be met half-way.
        """
        rows = [
            (place // self._size, self._places[place // self._size].index(place))
            for place in places
            if self.rehearses(place)
        ]
        if not rows:
            return []
        updates = []
        for index, solver in enumerate(self._solvers):
            stored = [self._batches[step][index].rows([at]) for step, at in rows]
            gone = Batch(*(torch.cat(parts) for parts in zip(*stored, strict=True)))
            updates.append(in_float32(solver.remove(gone.keys, gone.values)))
        for step, at in sorted(rows, reverse=True):
            left = [row for row in range(len(self._places[step])) if row != at]
            self._batches[step] = [batch.rows(left) for batch in self._batches[step]]
            del self._places[step][at]
        return updates

    def _stored(self, place: int, index: int) -> bool:
        """Whether a request has a key and a value at a site already."""
        return len(self._batches.get(place // self._size, ())) > index

    def _replaced(self, places: Sequence[int], index: int, latest: Batch) -> Batch:
        """Put keys and values of earlier requests in the place of those that they had, and return
        these.
        """
        before = []
        for row, place in enumerate(places):
            step = place // self._size
            at = self._places[step].index(place)
            stored = self._batches[step][index]
            before.append(stored.rows([at]))
            self._batches[step][index] = stored.with_row(at, latest.rows([row]))
        return Batch(*(torch.cat(parts) for parts in zip(*before, strict=True)))

    def remove(self, steps: int | Sequence[int]) -> list[Entry]:
        """Entries that take steps of the stream back and leave all others, to be applied to the
        decoder at once.

        The weights become those that the other steps' keys and values lead to
        (`RecursiveLeastSquares.remove`). The requests of the removed steps are not rehearsed any
        more.

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
            del self._batches[step], self._places[step]
        return entries

    def state_dict(self) -> dict[str, Any]:
        """Every site's solver, and the keys, values and requests of every step."""
        return {
            "solvers": [solver.state() for solver in self._solvers],
            "batches": {
                step: [tuple(batch) for batch in batches] for step, batches in self._batches.items()
            },
            "places": {step: list(places) for step, places in self._places.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """A state that `state_dict` gave."""
        super().load_state_dict(state)
        for solver, own in zip(self._solvers, state["solvers"], strict=True):
            solver.load(own)
        self._batches = {
            step: [
                Batch(*(part.to(solver.device) for part in batch))
                for solver, batch in zip(self._solvers, batches, strict=True)
            ]
            for step, batches in state["batches"].items()
        }
        self._places = {step: list(places) for step, places in state["places"].items()}


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
