"""Counterfactual data augmentation and reweighting against bias."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.envs.registration import EnvSpec
from torch import Tensor
from tqdm import tqdm

from agents.configured import Settings, setting
from agents.debiasing.episode import TOLERANCE, DebiasingAgent, start
from agents.debiasing.last_layer import Point, all_finite, best_within
from agents.debiasing.seen import Seen
from agents.episodes import replace
from agents.protocol import Budget
from editgym.checks import Check, at_least, is_whole, one_of, optional, whole
from editgym.data.images import Labelled
from editgym.data.text import Comments
from editgym.envs.protocol import edit_env
from editgym.models.training import one_thread
from editgym.tasks.debiasing.task import LabelledPair
from editgym.weights import EditableNetwork, EditJournal


@dataclass(frozen=True, kw_only=True)
class CdaSettings(Settings):
    """The settings of `CdaReweight`, which says what they are."""

    copies: int = setting(4, whole(0))
    epochs: int = setting(5, whole(0))
    learning_rate: float = setting(0.03, at_least(0))
    momentum: float = setting(0.9, at_least(0))
    batch_size: int = setting(64, whole(1))
    tolerance: float = setting(0.01, TOLERANCE)
    scope: str | None = setting(None, optional(one_of("sites")))
    seed: int = setting(0, Check(is_whole, "a whole number"))


class CdaReweight(DebiasingAgent):
    """Counterfactual data augmentation and reweighting, fine-tuning all weights, or the sites'
    alone, on the network's own training data.

    Every training comment that names an identity gets copies with other terms of the policy split
    and the same label (Zmigrod et al. 2019; Lu et al. 2020). Then a comment with identity a (or
    none) and label y weighs P(a)P(y)/P(a, y) (Kamiran and Calders 2012), which makes the two
    independent. SGD with momentum; every epoch is a candidate, and the one with the largest
    unbiased accuracy on the validation split, within the tolerance, replaces the network.

    Args:
        copies: Copies of each comment that names an identity.
        epochs: Epochs of fine-tuning.
        learning_rate: SGD's learning rate.
        momentum: SGD's momentum.
        batch_size: Comments a step.
        tolerance: How much general accuracy, on the validation split, a candidate may lose; 0.01 is
            a point.
        scope: "sites" moves the matrices of the environment's sites alone, and computes what lies
            beneath once for each text; None moves all weights.
        seed: Seed of the terms put in and of the order of the comments; `learn` sets it, unless
            `make_agent` was given one.
    """

    name = "cda_reweight"
    settings_type: ClassVar[type[Settings]] = CdaSettings
    settings: CdaSettings

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Check the task, and keep the seed.

        Raises:
            Unsupported: It is not a debiasing task.
        """
        self.keep_seed(seed)
        super().learn(env_spec, budget, seed, out)

    def edit(self, env: gym.Env) -> EditJournal:
        """Fine-tune the network of a fresh episode."""
        task, network = start(env)
        terms = task.splits.policy.unbiased.terms
        texts, named = counterfactuals(
            task.splits.model, terms, self.settings.copies, self.settings.seed
        )
        weights = independence_weights(named, texts.labels).to(task.device)
        moving = _whole if self.settings.scope is None else _sites
        with one_thread():
            data = task.encoded(texts)
            moved = moving(network, data, task.labelled("validation"))
            best = best_within(
                moved.point(),
                self._candidates(moved, data.labels, weights),
                lambda candidate: candidate.point,
                self.settings.tolerance,
            )
        self.note_choice(best)
        return edit_env(env).journal if best is None else replace(env, best.tensors)

    def _candidates(self, moved: _Moved, labels: Tensor, weights: Tensor) -> Iterator[_Candidate]:
        """The tensors after each epoch."""
        optimizer = torch.optim.SGD(
            moved.parameters, self.settings.learning_rate, self.settings.momentum
        )
        generator = torch.Generator().manual_seed(self.settings.seed)
        size = self.settings.batch_size
        with tqdm(
            total=self.settings.epochs * -(-len(labels) // size),
            desc=self.name,
            unit="step",
            leave=False,
            mininterval=0.5,
        ) as bar:
            for epoch in range(1, self.settings.epochs + 1):
                for rows in torch.randperm(len(labels), generator=generator).split(size):
                    rows = rows.to(labels.device)
                    loss = F.cross_entropy(moved.logits(rows), labels[rows], reduction="none")
                    optimizer.zero_grad(set_to_none=True)
                    (loss * weights[rows]).mean().backward()
                    optimizer.step()
                    bar.update()
                if not all_finite(moved.parameters):
                    self.warn_of_divergence(f"in epoch {epoch}")
                    return
                yield _Candidate(
                    moved.point(),
                    {name: own.detach().clone() for name, own in moved.tensors.items()},
                )


@dataclass(frozen=True)
class _Moved:
    """What is fine-tuned, as it is now.

    Attributes:
        parameters: What is moved.
        tensors: All that can differ, by name in the network's state dict.
        logits: Logits (k, 2) of some rows, (k,), of the texts that it is fine-tuned on.
        point: What it reaches on the validation split.
    """

    parameters: Sequence[Tensor]
    tensors: Mapping[str, Tensor]
    logits: Callable[[Tensor], Tensor]
    point: Callable[[], Point]


@dataclass(frozen=True)
class _Candidate:
    """What it was after an epoch."""

    point: Point
    tensors: Mapping[str, Tensor]


def _whole(network: EditableNetwork, data: Labelled, validation: LabelledPair) -> _Moved:
    """All weights of a network."""
    model = network.merged()

    @torch.no_grad()
    def point() -> Point:
        return Point(*(_share([(model(part.inputs), part.labels)]) for part in validation))

    return _Moved(
        list(model.parameters()), model.state_dict(), lambda rows: model(data.inputs[rows]), point
    )


def _sites(network: EditableNetwork, data: Labelled, validation: LabelledPair) -> _Moved:
    """The matrices of a network's sites."""
    own = network.state_dict()
    tensors = {
        site.parameter: own[site.parameter].clone().requires_grad_() for site in network.sites
    }
    texts, parts = Seen(network, data), [Seen(network, part) for part in validation]

    @torch.no_grad()
    def point() -> Point:
        return Point(
            *(
                _share((network.logits_from(some, tensors), right) for some, right in part.pieces())
                for part in parts
            )
        )

    return _Moved(
        list(tensors.values()),
        tensors,
        lambda rows: network.logits_from(texts.batch(rows), tensors),
        point,
    )


def counterfactuals(
    texts: Comments, terms: Sequence[str], copies: int, seed: int
) -> tuple[Comments, list[str]]:
    """All texts and, of each with one of `terms`, copies with another term in its place.

    Returns:
        The texts, and the term that each names, empty for none; of several the first counts, and is
        exchanged.
    """
    pattern = re.compile(
        rf"\b({'|'.join(map(re.escape, sorted(terms, key=len, reverse=True)))})\b", re.IGNORECASE
    )
    spelled = {term.lower(): term for term in terms}
    random = np.random.default_rng(seed)
    rows: list[tuple[str, int, str]] = []
    for text, label in zip(texts.texts, texts.labels, strict=True):
        match = pattern.search(text) if terms else None
        own = spelled.get(match[0].lower(), match[0].lower()) if match else ""
        rows.append((text, label, own))
        others = [term for key, term in spelled.items() if match and term != own]
        if match and others:
            rows += [
                (text[: match.start()] + term + text[match.end() :], label, term)
                for term in random.choice(others, copies)
            ]
    return Comments(tuple(text for text, _, _ in rows), tuple(label for _, label, _ in rows)), [
        row[2] for row in rows
    ]


def independence_weights(groups: Sequence[str], labels: Sequence[int]) -> Tensor:
    """P(a)P(y)/P(a, y) for every sample, (n,): under these weights group and label are independent.

    Kamiran and Calders 2012, "Data preprocessing techniques for classification without
    discrimination", sect. 5.2.
    """
    n, group, label, both = (
        len(labels),
        Counter(groups),
        Counter(labels),
        Counter(zip(groups, labels, strict=True)),
    )
    return torch.tensor(
        [group[a] * label[y] / (n * both[a, y]) for a, y in zip(groups, labels, strict=True)]
    )


def _share(parts: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The share of right predictions: logits (n, 2) and labels (n,) in parts."""
    right = torch.cat([logits.argmax(-1) == labels for logits, labels in parts])
    return float(right.double().mean())
