"""Tasks whose outputs are no classes: a number, several labels, a class for every pixel; and
metrics of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from editgym.data.images import Labelled
from editgym.tasks import make_task
from editgym.tasks.protocol import Goal, RewardDefaults, correctness, network_of
from editgym.tasks.unlearning.splits import Splits
from editgym.tasks.unlearning.task import UnlearningTask
from editgym.weights import EditableNetwork, EditJournal, find_sites


@dataclass
class OwnTask:
    """Two reward sets, the halves of the pool; what a sample is worth is a subclass's."""

    networks: tuple[EditableNetwork, ...]
    pool: Labelled
    goals: tuple[Goal, ...] = field(init=False)
    name = "own/score"
    set_names = ("kept", "changed")
    rewards = RewardDefaults(alpha=1.0, beta=-0.5, batch_size=8, rank=2)
    device = torch.device("cpu")

    def __post_init__(self) -> None:
        rows = torch.arange(len(self.pool))
        half = len(rows) // 2
        members = {"kept": rows[:half], "changed": rows[half:]}
        self.goals = (Goal("change", torch.zeros(1), members),)

    def utility(self, scores: Mapping[str, Tensor]) -> Tensor:
        return scores["kept"]

    def edit(self, scores: Mapping[str, Tensor]) -> Tensor:
        return scores["changed"]

    def is_success(self, accuracy: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Tensor:
        return accuracy["kept"] >= before["kept"]

    def evaluate(self, journal: EditJournal, goal: int = 0) -> dict[str, float | None]:
        logits = network_of(self.networks, journal).logits(self.pool.inputs)
        return {"own_accuracy": correctness(self, logits, self.pool.labels)}


class Regression(OwnTask):
    """A number each: (n, 1) outputs, (n,) labels."""

    def score(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        error = (logits.squeeze(-1) - labels).abs()
        return torch.exp(-error), (error < 0.5).float()


class WideRegression(Regression):
    """The same in other types."""

    def score(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        worth, correct = super().score(logits, labels)
        return worth.double(), correct.bool()


class MultiLabel(OwnTask):
    """Three labels each: (n, 3) outputs and labels."""

    def score(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        agree = torch.where(labels.bool(), logits, -logits)
        return agree.sigmoid().mean(-1), (agree > 0).all(-1).float()


class Segmentation(OwnTask):
    """A class for every pixel: (n, 3, h, w) outputs, (n, h, w) labels."""

    def score(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        own = logits.softmax(-3).gather(-3, labels.unsqueeze(-3)).squeeze(-3)
        return own.mean((-2, -1)), (logits.argmax(-3) == labels).float().mean((-2, -1))


class PerPixel(Segmentation):
    """It forgets to make one number of a sample's pixels."""

    def score(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        right = (logits.argmax(-3) == labels).float()
        return right, right


def regression(*, device: str = "cpu") -> OwnTask:
    return _made(Regression, _dense(1), _inputs(4), torch.rand(20, generator=_generator()))


def wide_regression(*, device: str = "cpu") -> OwnTask:
    return _made(WideRegression, _dense(1), _inputs(4), torch.rand(20, generator=_generator()))


def digits_in(*, kind: str, device: str = "cpu") -> UnlearningTask:
    """The digits' task with network and images of another precision."""
    plain, precision = make_task("unlearning/digits", sites=["fc2"]), getattr(torch, kind)

    def cast(part: Labelled) -> Labelled:
        return Labelled(part.inputs.to(precision), part.labels)

    model = plain.networks[0].merged().to(precision)
    parts = ("model", "policy", "validation", "test")
    splits = Splits(**{name: cast(getattr(plain.splits, name)) for name in parts})
    network = EditableNetwork(model, plain.networks[0].sites, splits.policy.inputs[:8])
    return UnlearningTask("own/digits", (network,), splits, plain.n_classes, plain.forget)


def no_samples(*, device: str = "cpu", lacks: str = "samples") -> UnlearningTask:
    """The digits' task with two goals, the second of which lacks something."""
    plain = make_task("unlearning/digits", goals=[1, 2])
    task = UnlearningTask(plain.name, plain.networks, plain.splits, 10, plain.forget)
    first, second = task.goals
    members = dict(second.members)
    if lacks == "set":
        del members["forget"]
    else:
        forget = members["forget"]
        members["forget"] = forget[:0] if lacks == "samples" else forget + len(task.pool)
    task.goals = () if lacks == "goals" else (first, replace(second, members=members))
    task.networks = () if lacks == "networks" else task.networks
    return task


def multi_label(*, device: str = "cpu") -> OwnTask:
    labels = torch.randint(0, 2, (20, 3), generator=_generator())
    return _made(MultiLabel, _dense(3), _inputs(4), labels)


def segmentation(*, device: str = "cpu", kind: str = "whole") -> OwnTask:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1)
        )
    labels = torch.randint(0, 3, (20, 5, 5), generator=_generator())
    chosen = Segmentation if kind == "whole" else PerPixel
    return _made(chosen, model, _inputs(1, 5, 5), labels, site="0")


def right_share(network: EditableNetwork, task: OwnTask, goal: int) -> float:
    return correctness(task, network.logits(task.pool.inputs), task.pool.labels)


def wrecks(network: EditableNetwork, task: OwnTask, goal: int) -> None:
    network.reset()


def own_accuracy(network: EditableNetwork, task: OwnTask, goal: int) -> float:
    return 0.0


def not_a_number(network: EditableNetwork, task: OwnTask, goal: int) -> float:
    return float("nan")


def a_tensor(network: EditableNetwork, task: OwnTask, goal: int) -> Tensor:
    return torch.tensor(1.0)


def of_the_network_alone(network: EditableNetwork) -> float:
    return 0.0


def _made(kind, model, inputs, labels, site="2"):
    network = EditableNetwork(model.eval(), find_sites(model, [site]), inputs[:4])
    return kind((network,), Labelled(inputs, labels))


def _dense(outputs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, outputs)
        )


def _inputs(*shape):
    return torch.randn(20, *shape, generator=_generator())


def _generator():
    return torch.Generator().manual_seed(1)
