"""A policy network that decides about every weight of a matrix, whatever the order of its rows and
columns.

`agents.rl.equivariant` describes units, and gives factors of an update. Where an action is the
update itself, as a mask of every weight is, a weight can be described by itself: by its value, by
the two units that it joins, and by what it does for the forgotten classes through the head. Layers
that exchange means along rows, columns and the whole matrix let weights act together.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from agents.protocol import Unsupported
from agents.rl.equivariant import describe_units, distinct
from editgym.weights import ActionLayout

_OF_A_UNIT, _OF_A_WEIGHT = 8, 5  # numbers that describe one
_LAYERS = 3
_SMALL = -3.0  # before the sigmoid: a first edit of 5% of the box


@dataclass(frozen=True)
class MatrixShape:
    """What an observation holds: W (outputs × inputs), the head after it (classes × outputs), the
    biases of W's outputs and of its inputs, and the goal (classes).

    Attributes:
        outputs: Rows of the edited matrix.
        inputs: Its columns.
        classes: Outputs of the head.
    """

    outputs: int
    inputs: int
    classes: int

    @classmethod
    def of(cls, layout: ActionLayout, space: spaces.Space) -> Self:
        """The shape of an environment's observations.

        Args:
            layout: How its actions hold an update for every site.
            space: Its observation space.

        Raises:
            Unsupported: Observations or actions are of another kind.
        """
        outputs, inputs = layout.shapes[0]
        seen = int(np.prod(space.shape or ()))
        # The head has a row for every class, and the goal a number.
        classes, more = divmod(seen - (inputs + 1) * outputs - inputs, outputs + 1)
        if len(layout.shapes) != 1 or layout.rank != "full" or classes < 1 or more:
            raise Unsupported(
                'a policy of every weight needs one site with rank="full", observe_task=True, and'
                f" as observe_parameters the weight of the layer of {outputs} inputs after it, its"
                f" own bias and that of the layer before it, ({outputs},) and ({inputs},); it"
                f" observes {seen} numbers"
            )
        return cls(outputs, inputs, classes)


class ExchangeableLayer(nn.Module):
    """A linear layer on every entry of a matrix, on the means of its row and column, and on the
    mean of all (Hartford et al. 2018, arXiv 1803.02879, eq. 4): permuting rows or columns permutes
    what it gives.

    Args:
        features: Numbers of an entry.
        given: Numbers that it gives of each.
    """

    def __init__(self, features: int, given: int) -> None:
        super().__init__()
        self.of_entry = nn.Linear(features, given)
        self.of_row, self.of_column, self.of_all = (
            nn.Linear(features, given, bias=False) for _ in range(3)
        )

    def forward(self, entries: Tensor) -> Tensor:
        """(batch, rows, columns, features) -> (batch, rows, columns, given)."""
        given: Tensor = (
            self.of_entry(entries)
            + self.of_row(entries.mean(2, keepdim=True))
            + self.of_column(entries.mean(1, keepdim=True))
            + self.of_all(entries.mean((1, 2), keepdim=True))
        )
        return given


class EntryEdit(nn.Module):
    """Observation -> action, the update of every weight of one site.

    Args:
        shape: What an observation holds.
        hidden: Width of the layers.
        signed: Whether weights go both ways, as in ShiftWorld; a mask only takes away.
    """

    def __init__(self, shape: MatrixShape, hidden: int, signed: bool) -> None:
        super().__init__()
        self.shape, self.signed = shape, signed
        widths = [2 * _OF_A_UNIT + _OF_A_WEIGHT, *[hidden] * _LAYERS]
        layers: list[nn.Module] = []
        for features, given in itertools.pairwise(widths):
            layers += [ExchangeableLayer(features, given), nn.ReLU()]
        last = nn.Linear(hidden, 1)
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, 0.0 if signed else _SMALL)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, observations: Tensor) -> Tensor:
        """(batch, n) -> (batch, outputs · inputs), in [−1, 1], or in [−1, 0] of a mask."""
        found = self.layers(describe_weights(observations, self.shape)).flatten(1)
        return torch.tanh(found) if self.signed else -torch.sigmoid(found)


class EveryEntry(BaseFeaturesExtractor):
    """`EntryEdit` as a policy of Stable-Baselines3 has it: observation -> mean action.

    Args:
        observation_space: Box (n,), as `MatrixShape` says.
        shape: Its parts, as a dict.
        hidden: Width of the layers.
        signed: Whether weights go both ways.
    """

    def __init__(
        self, observation_space: spaces.Box, shape: dict[str, int], hidden: int, signed: bool
    ) -> None:
        parts = MatrixShape(**shape)
        super().__init__(observation_space, parts.outputs * parts.inputs)
        self.edits = EntryEdit(parts, hidden, signed)

    def forward(self, observations: Tensor) -> Tensor:
        """(batch, n) -> (batch, outputs · inputs).

        Candidates that edit the same network for the same goal observe the same, and are computed
        once.
        """
        first, kind = distinct(observations)
        found: Tensor = self.edits(observations[first])
        return found[kind]


def describe_weights(observations: Tensor, shape: MatrixShape) -> Tensor:
    """What is known of every weight, (batch, outputs, inputs, 21).

    With V the head, W the matrix, and v the row of V of the forgotten classes (their mean): of the
    output and of the input that a weight joins what `describe_units` gives, by V and by V·W, and
    their biases; of the weight W_ji itself, W_ji times v_j, times v_j less the mean and less the
    largest of the other classes' rows, and times the latter; in units of the standard deviations of
    W and V.

    Args:
        observations: (batch, n).
        shape: What they hold.
    """
    s = shape
    weight, head, own_bias, bias_before, goal = observations.split(
        [s.outputs * s.inputs, s.classes * s.outputs, s.outputs, s.inputs, s.classes], dim=1
    )
    weight, head = weight.view(-1, s.outputs, s.inputs), head.view(-1, s.classes, s.outputs)
    of_outputs = torch.cat(
        [describe_units(head, goal, weight.norm(dim=2)), _standardized(own_bias)], dim=-1
    )
    of_inputs = torch.cat(
        [describe_units(head @ weight, goal, weight.norm(dim=1)), _standardized(bias_before)],
        dim=-1,
    )
    weight = weight / weight.flatten(1).std(1).clamp(min=1e-12)[:, None, None]
    head = head / head.flatten(1).std(1).clamp(min=1e-12)[:, None, None]
    forgotten = goal.unsqueeze(-1) > 0.5
    count = forgotten.sum(1)
    own = (head * forgotten).sum(1) / count
    mean = (head * ~forgotten).sum(1) / (s.classes - count)
    largest = head.masked_fill(forgotten, -torch.inf).amax(1)
    through = torch.stack(
        [torch.ones_like(own), own, own - mean, own - largest, largest], dim=-1
    )  # (batch, outputs, 5)
    size = (-1, s.outputs, s.inputs, -1)
    return torch.cat(
        [
            of_outputs.unsqueeze(2).expand(size),
            of_inputs.unsqueeze(1).expand(size),
            weight.unsqueeze(-1) * through.unsqueeze(2),
        ],
        dim=-1,
    )


def _standardized(numbers: Tensor) -> Tensor:
    """(batch, units) -> (batch, units, 1), with mean 0 and standard deviation 1 over the units."""
    centred = numbers - numbers.mean(1, keepdim=True)
    return (centred / (centred.square().mean(1, keepdim=True).sqrt() + 1e-6)).unsqueeze(-1)
