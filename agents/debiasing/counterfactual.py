"""Counterfactual data augmentation and reweighting against bias."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.envs.registration import EnvSpec
from torch import Tensor, nn
from tqdm import tqdm

from agents.configured import Settings, setting
from agents.debiasing.episode import TOLERANCE, DebiasingAgent, start
from agents.debiasing.last_layer import Point, all_finite, best_within
from agents.episodes import replace
from agents.protocol import Budget
from editgym.checks import Check, at_least, is_whole, whole
from editgym.data.text import Comments
from editgym.envs.protocol import edit_env
from editgym.models.training import one_thread
from editgym.tasks.debiasing.task import DebiasingTask
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
    seed: int = setting(0, Check(is_whole, "a whole number"))


class CdaReweight(DebiasingAgent):
    """Counterfactual data augmentation and reweighting, fine-tuning all weights on the network's
    own training data.

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
        seed: Seed of the terms put in and of the order of the comments; `learn` sets it.
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
        validation = task.labelled("validation")

        def measure(model: nn.Module) -> Point:
            return Point(*(_accuracy(model, part.inputs, part.labels) for part in validation))

        with one_thread():
            best = best_within(
                measure(network.base),
                self._candidates(task, network, texts, weights),
                measure,
                self.settings.tolerance,
            )
        self.note_choice(best)
        return edit_env(env).journal if best is None else replace(env, best)

    def _candidates(
        self, task: DebiasingTask, network: EditableNetwork, texts: Comments, weights: Tensor
    ) -> Iterator[nn.Module]:
        model, data = network.merged(), task.encoded(texts)
        optimizer = torch.optim.SGD(
            model.parameters(), self.settings.learning_rate, self.settings.momentum
        )
        generator = torch.Generator().manual_seed(self.settings.seed)
        size = self.settings.batch_size
        with tqdm(
            total=self.settings.epochs * -(-len(data) // size),
            desc=self.name,
            unit="step",
            leave=False,
            mininterval=0.5,
        ) as bar:
            for epoch in range(1, self.settings.epochs + 1):
                for rows in torch.randperm(len(data), generator=generator).split(size):
                    batch = data[rows.to(task.device)]
                    loss = F.cross_entropy(model(batch.inputs), batch.labels, reduction="none")
                    optimizer.zero_grad(set_to_none=True)
                    (loss * weights[rows.to(task.device)]).mean().backward()
                    optimizer.step()
                    bar.update()
                if not all_finite(model.parameters()):
                    self.warn_of_divergence(f"in epoch {epoch}")
                    return
                yield copy.deepcopy(model)


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
    random = np.random.default_rng(seed)
    rows: list[tuple[str, int, str]] = []
    for text, label in zip(texts.texts, texts.labels, strict=True):
        match = pattern.search(text)
        rows.append((text, label, match[0].lower() if match else ""))
        others = [term for term in terms if match and term != match[0].lower()]
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


@torch.no_grad()
def _accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    return float((model(inputs).argmax(-1) == labels).double().mean())
