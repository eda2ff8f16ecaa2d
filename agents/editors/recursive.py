"""Editors that solve every step together with all steps before it, and take any step back later."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents.editors.least_squares import Batch, RecursiveLeastSquares
from agents.editors.rome_memit import SpreadEditor, in_float32
from agents.editors.targets import SubjectBatch
from editgym.envs.lifelong.process import LifelongProcess
from editgym.weights import Entry, LowRankFactors, Shift, SiteEdit


class _Before(NamedTuple):
    """What an `RlsEditor` knew: of every site's solver where it was, and of every step its keys,
    values and requests.
    """

    solvers: list[tuple[Any, ...]]
    batches: dict[int, list[Batch]]
    places: dict[int, list[int]]


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
        self._asked: tuple[int, _Before] | None = None  # a step, and what was known before it

    def edits(self, process: LifelongProcess, batch: SubjectBatch) -> list[Entry]:
        """One low-rank shift per site; of a step that is asked for again, as if it were the first
        time: what was not applied has not been learned.
        """
        if self._asked is not None and self._asked[0] == process.step_index:
            self._go_back(self._asked[1])
        before = self._before()
        self._asked = process.step_index, before
        try:
            return super().edits(process, batch)
        except BaseException:
            self._go_back(before)
            raise

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
            ValueError: A step is not there, or named twice, or too much precision is lost to take
                it out; nothing has changed then.
        """
        wanted = [steps] if isinstance(steps, int) else list(steps)
        if not wanted or len(set(wanted)) < len(wanted) or not set(wanted) <= set(self._batches):
            raise ValueError(
                f"steps: {wanted} cannot be removed; there are {sorted(self._batches)}, each once"
            )
        entries: list[Entry] = []
        before, self._asked = self._before(), None
        try:
            for index, site in enumerate(self._sites):
                batches = [self._batches[step][index] for step in wanted]
                update = self._solvers[index].remove(
                    torch.cat([batch.keys for batch in batches]),
                    torch.cat([batch.values for batch in batches]),
                )
                entries.append(SiteEdit(site.name, Shift(), in_float32(update)))
        except BaseException:
            self._go_back(before)
            raise
        for step in wanted:
            del self._batches[step], self._places[step]
        return entries

    def _before(self) -> _Before:
        """What is known so far, to go back to."""
        return _Before(
            [solver.snapshot() for solver in self._solvers],
            {step: list(batches) for step, batches in self._batches.items()},
            {step: list(places) for step, places in self._places.items()},
        )

    def _go_back(self, before: _Before) -> None:
        for solver, own in zip(self._solvers, before.solvers, strict=True):
            solver.restore(own)
        self._batches = {step: list(batches) for step, batches in before.batches.items()}
        self._places = {step: list(places) for step, places in before.places.items()}

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
        self._asked = None
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
