"""A short search on validation data, for settings that neither the user nor a grid has chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from agents.unlearning.validation import Validation, is_finite

# Steps of descent, as shares of the weights' length. On five unlike networks (a convolutional one,
# a ResNet-18, a ViT, MLPs of large and of small weights) they forgot as well as the best of seven
# learning rates, in half of the time.
RELATIVE_STEPS = (0.03, 0.01, 0.003)
# Without the data that are to be forgotten, only long steps lead away from them.
LONG_STEPS = (0.1, 0.03, 0.01)
# Of each try: data of a few batches are gone through more often, large ones not to their end.
LEAST_STEPS, MOST_STEPS, _LOOKS = 100, 400, 40


class _TryIsOver(Exception):
    """A try has taken its steps, or its weights are not finite."""


class Search:
    """Keeps the best state that a model has on its ways.

    The best state has the highest score on validation data, and is better than the unedited
    network and than one constant answer.

    Args:
        model: What is changed.
        validation: Scores it.

    Attributes:
        best: The settings that led to the best state; None where nothing was better than no edit.
        diverged: The settings of the tries that ended in weights that are not finite, or no better
            than one constant answer.
    """

    def __init__(self, model: nn.Module, validation: Validation) -> None:
        self._model, self._validation = model, validation
        self._start = _copied(model)
        self._state, self._score = self._start, validation.score(validation.before)
        self.best: Mapping[str, Any] | None = None
        self.diverged: list[Mapping[str, Any]] = []
        self._trying: Mapping[str, Any] = {}
        self._every = self._steps = self._tries = 0
        self._reading = validation.before

    def over(
        self,
        tries: Sequence[Mapping[str, Any]],
        run: Callable[[Mapping[str, Any]], None],
        steps: int,
    ) -> None:
        """Change the model from its first state on, once with every setting, and leave it in the
        best.

        Args:
            tries: The settings of each try.
            run: Changes the model, and calls this object after every step.
            steps: How many steps a try has; it ends after 400.
        """
        self._tries = len(tries)
        for settings in tries:
            self._model.load_state_dict(self._start)
            self._trying, self._steps = settings, 0
            self._every = max(1, min(steps, MOST_STEPS) // _LOOKS)
            with suppress(_TryIsOver):
                run(settings)
            if not is_finite(self._model) or self._validation.has_diverged(
                self._validation.read(self._model)
            ):
                self.diverged.append(settings)
        self._model.load_state_dict(self._state)

    def told(self) -> str:
        """What came of it, in a sentence."""
        diverged = (
            f"; {len(self.diverged)} of {self._tries} tries diverged" if self.diverged else ""
        )
        if self.best is None:
            return (
                "on validation data nothing that was tried is better than no edit, and the network"
                f" is left as it was{diverged}"
            )
        reading = self._reading
        return (
            f"the best state on validation data was kept, with {reading.retain:.1%} of what is to"
            f" be kept and {reading.forget:.1%} of what is to be forgotten classified rightly"
            f" (before: {self._validation.before.retain:.1%} and"
            f" {self._validation.before.forget:.1%}){diverged}"
        )

    def __call__(self, model: nn.Module) -> None:
        """Look at the model after a step."""
        self._steps += 1
        if self._steps % self._every == 0:
            self._look()
        if self._steps >= MOST_STEPS:
            raise _TryIsOver

    def _look(self) -> None:
        if not is_finite(self._model):
            raise _TryIsOver
        reading = self._validation.read(self._model)
        score = self._validation.score(reading)
        if score > self._score and not self._validation.has_diverged(reading):
            self._state, self._score = _copied(self._model), score
            self.best, self._reading = self._trying, reading


def _copied(model: nn.Module) -> dict[str, Tensor]:
    with torch.no_grad():
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}
