"""A policy network that treats hidden units and classes alike: the one of the general editor.

A policy that maps weights to an edit by an ordinary MLP learns one edit by heart. What makes an
edit right for a class and a network that it never saw is that neither units nor classes have a
fixed place: permuting the hidden units of a network, or its classes, permutes the edit that is
asked for. So every unit is described by how its weights bear on the forgotten classes against all
others, and one small network, shared by all units, turns that into the unit's part of the edit, its
row of A or its column of B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from agents.protocol import Unsupported
from editgym.weights import ActionLayout

_DESCRIPTION = 7  # numbers that describe a unit


@dataclass(frozen=True)
class EditorShape:
    """What an observation holds: W (outputs × inputs), the head after it (classes × outputs), the
    goal (classes).

    Attributes:
        outputs: Rows of the edited matrix.
        inputs: Its columns.
        classes: Outputs of the head.
        rank: Columns of A.
    """

    outputs: int
    inputs: int
    classes: int
    rank: int

    @classmethod
    def of(cls, layout: ActionLayout, space: spaces.Space) -> Self:
        """The shape of an environment's observations.

        Args:
            layout: How its actions hold an update for every site.
            space: Its observation space.

        Raises:
            Unsupported: Observations are not those of one site, the layer after it, and the goal.
        """
        outputs, inputs = layout.shapes[0]
        seen = int(np.prod(space.shape or ()))
        # The head has a row for every class, and the goal a number: no other number is observed.
        classes, more = divmod(seen - inputs * outputs, outputs + 1)
        if len(layout.shapes) != 1 or layout.rank == "full" or classes < 1 or more:
            raise Unsupported(
                "the general editor needs one site with a rank, observe_task=True, and"
                f' observe_parameters=["NAME.weight"] of the layer of {outputs} inputs after it;'
                f" it observes {seen} numbers"
            )
        return cls(outputs, inputs, classes, layout.rank)


class EquivariantEdit(BaseFeaturesExtractor):
    """Observation -> mean action, (A, B) of one site; equivariant to permutations of units and of
    classes.

    With V the head and W the edited matrix, a hidden unit j is described by column j of V, an input
    i by column i of V·W, the slope of the logits where every unit is on: for the forgotten classes
    the mean, for the others mean, largest and smallest, and the differences; and by the norm of its
    weights in W. Every number is standardised over the units.

    Args:
        observation_space: Box (n,), as `EditorShape` says.
        shape: Its parts, as a dict.
        hidden: Width of the two shared networks.
        start: Standard deviation of A at first; B starts at zero, as in LoRA
            (`agents.rl.policies.lora_start`).
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        shape: dict[str, int],
        hidden: int = 32,
        start: float = 0.5,
    ) -> None:
        self.shape = EditorShape(**shape)
        super().__init__(
            observation_space, self.shape.rank * (self.shape.outputs + self.shape.inputs)
        )
        self.of_outputs, self.of_inputs = (
            _shared_network(hidden, self.shape.rank) for _ in range(2)
        )
        last: nn.Linear = self.of_outputs[-1]  # type: ignore[assignment]
        nn.init.normal_(last.weight, std=3 * start / hidden**0.5)
        nn.init.zeros_(self.of_inputs[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.of_inputs[-1].bias)  # type: ignore[arg-type]

    def forward(self, observations: Tensor) -> Tensor:
        """(batch, n) -> (batch, rank·(outputs + inputs)).

        Candidates that edit the same network for the same goal observe the same, and are computed
        once.
        """
        first, kind = distinct(observations)
        return self._edits(observations[first])[kind]

    def _edits(self, observations: Tensor) -> Tensor:
        s = self.shape
        weight, head, goal = observations.split(
            [s.outputs * s.inputs, s.classes * s.outputs, s.classes], dim=1
        )
        weight, head = weight.view(-1, s.outputs, s.inputs), head.view(-1, s.classes, s.outputs)
        a = self.of_outputs(describe_units(head, goal, weight.norm(dim=2)))
        b = self.of_inputs(describe_units(head @ weight, goal, weight.norm(dim=1)))
        return torch.cat([a.flatten(1), b.transpose(1, 2).flatten(1)], dim=1)


def describe_units(bearing: Tensor, goal: Tensor, norm: Tensor) -> Tensor:
    """What is known of every unit, standardised over the units.

    Args:
        bearing: (batch, classes, units), how each unit bears on each class.
        goal: (batch, classes), 1 for the forgotten classes.
        norm: (batch, units), of the unit's weights.

    Returns:
        (batch, units, 7).
    """
    forgotten = goal.unsqueeze(-1) > 0.5
    count = forgotten.sum(1)
    own = (bearing * forgotten).sum(1) / count
    mean = (bearing * ~forgotten).sum(1) / (bearing.shape[1] - count)
    largest = bearing.masked_fill(forgotten, -torch.inf).amax(1)
    smallest = bearing.masked_fill(forgotten, torch.inf).amin(1)
    described = torch.stack([own, mean, largest, smallest, own - mean, own - largest, norm], dim=-1)
    centred = described - described.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True).sqrt() + 1e-6)


class EquivariantPolicy(ActorCriticPolicy):
    """An actor whose mean action is what `EquivariantEdit` gives, with a standard deviation that
    knows no state.
    """

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.action_net = nn.Identity()
        self.optimizer = self.optimizer_class(
            self.parameters(),
            lr=lr_schedule(1),
            **self.optimizer_kwargs,  # type: ignore[call-arg]
        )


def distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The first of every set of equal rows, and of which set each row is: (n, size) float32 ->
    (sets,), (n,).

    Rows are compared by an integer hash: sums of floats may differ between equal rows of one batch.
    """
    # By regular multipliers many rows that differ have one sum; by random ones, once in 2⁶⁴ pairs.
    random = torch.Generator().manual_seed(0)
    odd = (2 * torch.randint(2**62, (rows.shape[1],), generator=random) + 1).to(rows.device)
    numbers = (rows.contiguous().view(torch.int32).long() * odd).sum(1)  # modulo 2⁶⁴
    found, kind = numbers.unique(return_inverse=True)
    first = torch.full((len(found),), len(rows), device=rows.device)
    first.scatter_reduce_(0, kind, torch.arange(len(rows), device=rows.device), "amin")
    return first, kind


def _shared_network(hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(_DESCRIPTION, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, outputs),
    )
