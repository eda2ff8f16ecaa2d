"""Bias mitigation in toxicity classifiers: the label of a text must not depend on whom it is
about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from editgym.data.identity import IdentityTexts
from editgym.data.images import Labelled
from editgym.data.text import Comments
from editgym.metrics.classification import accuracy
from editgym.metrics.fairness import fairness_metrics
from editgym.tasks.debiasing.edit_terms import EditTerms
from editgym.tasks.protocol import Goal, RewardDefaults, network_of
from editgym.weights import EditableNetwork, EditJournal

Encoder = Callable[[Sequence[str]], Tensor]
_FULL_RANK = 1_024  # numbers to edit; the paper's last layer has 32
SplitName = Literal["policy", "validation", "test"]


class TextPair(NamedTuple):
    """One split: general comments, and texts about identities."""

    general: Comments
    unbiased: IdentityTexts


class LabelledPair(NamedTuple):
    """The same, as the network takes it."""

    general: Labelled
    unbiased: Labelled


@dataclass(frozen=True)
class DebiasingSplits:
    """The network is trained on `model`, rewards come from `policy`, settings are chosen on
    `validation`.

    Reports use `test`. No part shares a comment, an identity term or a template with another.
    """

    model: Comments
    policy: TextPair
    validation: TextPair
    test: TextPair


@dataclass
class DebiasingTask:
    """Make predictions about identities right, and keep those about other comments.

    The reward sets are comments as the network knows them (`general`) and templates in which the
    label is independent of the identity (`unbiased`); U is the score on general, O on unbiased,
    alpha 1, beta 3, batch 256 (Malik 2026). With other `edit_terms` O holds how differently
    identities are treated, and every identity's texts with each label are reward sets too.

    Attributes:
        name: The task's name in the catalogue.
        networks: Unedited networks, one per model seed: inputs -> logits (n, 2), the second for
            toxic.
        splits: The texts.
        encode: Texts -> inputs of the networks.
        device: Where networks and data live.
        edit_terms: The terms of O and their weights (`TERMS` in
            `editgym.tasks.debiasing.edit_terms`); None for the score on unbiased alone.
    """

    name: str
    networks: tuple[EditableNetwork, ...]
    splits: DebiasingSplits
    encode: Encoder
    device: torch.device
    edit_terms: Mapping[str, float] | None = None
    pool: Labelled = field(init=False)
    goals: tuple[Goal, ...] = field(init=False)
    _terms: EditTerms = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._terms = EditTerms(self.edit_terms, self.splits.policy.unbiased)
        general, unbiased = self.labelled("policy")
        rows = torch.arange(len(general) + len(unbiased), device=self.device)
        self.pool = Labelled.join(general, unbiased)
        members = {"general": rows[: len(general)], "unbiased": rows[len(general) :]}
        for name, own in self._terms.members.items():
            members[name] = members["unbiased"][own.to(self.device)]
        self.goals = (Goal("mitigate bias", torch.ones(1), members),)

    @property
    def set_names(self) -> tuple[str, ...]:
        """The reward sets."""
        return tuple(self.goals[0].members)

    @property
    def rewards(self) -> RewardDefaults:
        """alpha 1, beta 3, batch 256 (Malik 2026), and edits of full rank, as there, while they are
        small.
        """
        shapes = [site.shape for site in self.networks[0].sites]
        small = sum(rows * columns for rows, columns in shapes) <= _FULL_RANK
        return RewardDefaults(
            alpha=1.0, beta=3.0, batch_size=256, rank="full" if small else min(4, *map(min, shapes))
        )

    def utility(self, scores: Mapping[str, Tensor]) -> Tensor:
        """U: the score on general."""
        return scores["general"]

    def edit(self, scores: Mapping[str, Tensor]) -> Tensor:
        """O: the score on unbiased, or the terms that the task was given."""
        return self._terms(scores)

    def is_success(self, accuracy: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Tensor:
        """O of the accuracies above before, and general ≥ before − 1 point."""
        return (self.edit(accuracy) > self.edit(before)) & (
            accuracy["general"] >= before["general"] - 0.01
        )

    def labelled(self, split: SplitName) -> LabelledPair:
        """One split as the networks take it, on the task's device."""
        general, unbiased = getattr(self.splits, split)
        return LabelledPair(self.encoded(general), self.encoded(unbiased))

    def encoded(self, texts: Comments) -> Labelled:
        """Any texts as the networks take them, on the task's device."""
        return encoded(texts, self.encode).to(self.device)

    def evaluate(self, journal: EditJournal, goal: int = 0) -> dict[str, float | None]:
        """Accuracies and fairness metrics (`editgym.metrics.fairness`) on the test split, before
        and after.

        Raises:
            JournalError: The journal belongs to none of the task's networks.
        """
        network = network_of(self.networks, journal)
        before = self._measured(network.fresh())
        return self._measured(network) | {f"{key}_before": value for key, value in before.items()}

    def _measured(self, network: EditableNetwork) -> dict[str, float | None]:
        general, unbiased = self._test
        logits = network.logits(unbiased.inputs)
        texts = self.splits.test.unbiased
        scores = (logits[:, 1] - logits[:, 0]).cpu().numpy()
        return {
            "general_accuracy": accuracy(network.logits(general.inputs), general.labels),
            "unbiased_accuracy": accuracy(logits, unbiased.labels),
            **fairness_metrics(texts.labels, scores, texts.identities, texts.templates),
        }

    @cached_property
    def _test(self) -> LabelledPair:
        return self.labelled("test")


def encoded(texts: Comments, encode: Encoder) -> Labelled:
    """Texts as a network takes them."""
    return Labelled(encode(texts.texts), torch.tensor(texts.labels))
