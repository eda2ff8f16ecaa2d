"""What a step's prompts came to right after its edit: found out when somebody looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from editgym.envs import metering
from editgym.envs.lifelong.batch import Batch
from editgym.weights import EditableDecoder, Entry

# Which prompts are answered exactly, (edits_per_step,) bool; `reliability` and `tf_efficacy`.
Grade = tuple[Tensor, dict[str, float]]


class Grades:
    """The grades of an episode's steps, each computed once.

    Whoever looks right after a step has one pass over its prompts computed. Later the model has
    other edits in effect: then the journal is replayed into a second decoder, once for all steps
    that nobody has looked at. Both give the same.

    A look tells about as much as a reward, and so it is counted like one, unless a reward of the
    step was: test streams, which have none, cannot be searched for nothing.

    Args:
        decoder: The model under edit, whose journal has the episode's steps.
        batch_of: The batch of a step, for a model as it is after the step.
    """

    def __init__(
        self, decoder: EditableDecoder, batch_of: Callable[[int, EditableDecoder], Batch]
    ) -> None:
        self._decoder = decoder
        self._batch_of = batch_of
        self._known: dict[int, Grade] = {}
        self._steps = 0  # made so far
        self._paid: set[int] = set()  # steps of which a reward was counted
        self._now: tuple[int, Batch, int] | None = None  # a step, and the journal's length after it
        self._closed = False

    def pay(self, rewards: int, gradient: bool = False) -> None:
        """Rewards of the step that is next were computed; count them."""
        metering.record(rewards, gradient=gradient)
        self._paid.add(self._steps)

    def add(self, step: int, batch: Batch) -> None:
        """A step was made just now."""
        self._steps = step + 1
        self._now = step, batch, len(self._decoder.journal)

    def take_back(self, step: int) -> None:
        """A step was taken back before it counted."""
        self._steps = min(self._steps, step)
        self._known.pop(step, None)
        self._now = None

    def restore(self, step: int, grade: Grade | None, paid: bool) -> None:
        """A step was made before an interruption; its grade may be known, and a reward of it
        `paid`.
        """
        self._steps = step + 1
        if paid:
            self._paid.add(step)
        if grade is not None:
            self._known[step] = grade

    def close(self) -> None:
        """The episode is over and its journal goes: what nobody has looked at is lost."""
        self._closed = True
        self._now = None

    def known(self, step: int) -> Grade | None:
        """The grade of a step; None where nobody has looked."""
        return self._known.get(step)

    def of(self, step: int) -> Grade:
        """The grade of a step.

        Raises:
            RuntimeError: Nobody had looked before the next episode began.
        """
        if step in self._known:
            return self._known[step]
        if self._closed:
            raise RuntimeError(
                f"what step {step + 1} came to was not looked at before the next reset(), which"
                " took its edits back: look at an outcome's metrics before"
            )
        if self._now is not None:
            made, batch, length = self._now
            if made == step and length == len(self._decoder.journal):
                self._look(step, batch.graded())
                return self._known[step]
        for seen, grade in self._replayed([s for s in range(self._steps) if s not in self._known]):
            self._look(seen, grade)
        return self._known[step]

    def _look(self, step: int, grade: Grade) -> None:
        """Keep a grade that was computed."""
        if step not in self._paid:
            metering.record(1)
        self._known[step] = grade

    def _replayed(self, steps: Sequence[int]) -> Iterator[tuple[int, Grade]]:
        """The grades of steps, by the journal."""
        by_step: dict[int, list[Entry]] = {}
        for entry in self._decoder.journal:
            by_step.setdefault(entry.step or 0, []).append(entry)
        decoder = self._decoder.fresh()
        for step in range(max(steps) + 1):
            decoder.apply(*by_step.get(step, ()))
            if step in steps:
                yield step, self._batch_of(step, decoder).graded()
