"""The parts that image data are divided into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from editgym.data.errors import DataError
from editgym.data.images import ImageData, Labelled

PAPER_SHARES = (0.70, 0.15)


@dataclass(frozen=True)
class Rows:
    """Which rows of the training data are in which part.

    Attributes:
        model: Rows of the model split, (n,) int64.
        policy: Rows of the policy split; none where the data have one of their own.
        validation: Rows of the validation split, likewise.
    """

    model: Tensor
    policy: Tensor
    validation: Tensor

    @classmethod
    def drawn(
        cls,
        data: ImageData,
        seed: int,
        shares: tuple[float, float] = PAPER_SHARES,
        *,
        stratified: bool = False,
        members: Sequence[int] | None = None,
        pinned: Sequence[int] = (),
    ) -> Rows:
        """Divide the training data at random.

        A policy or validation split that the data bring along is not drawn: its share stays with
        the model split.

        Args:
            data: The images.
            seed: Decides which rows go where.
            shares: The shares of the model and of the policy split.
            stratified: Whether every class is divided by itself, so that each part has one sample
                of every class of three samples or more.
            members: The rows of the model split, where they are known; only the others are divided.
            pinned: Rows that have to be in the model split.

        Raises:
            DataError: Nothing is left for a part that rewards or reports need.
        """
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(data.train), generator=generator)
        fixed = torch.tensor(list(pinned if members is None else members), dtype=torch.long)
        order = torch.cat([fixed, order[~torch.isin(order, fixed)]])
        labels = data.train.labels[order]
        places = torch.arange(len(order))
        groups = [places]
        if stratified:
            groups = [places[labels == label] for label in labels.unique()]
        chosen: tuple[list[Tensor], ...] = ([], [], [])
        for group in groups:
            first = int((group < len(fixed)).sum())
            if members is None:
                counts = _counts(data, len(group), first, shares, one_each=stratified)
            else:
                counts = _counts_of_others(data, len(group), first, shares)
            for part, own in zip(chosen, group.split(counts), strict=True):
                part.append(own)
        rows = cls(*(order[torch.cat(part).sort().values] for part in chosen))
        rows._check(data, members is not None)
        return rows

    def _check(self, data: ImageData, by_members: bool) -> None:
        """Refuse a division that leaves a part without what it is for."""
        total = sum(len(part) for part in (self.model, self.policy, self.validation))
        images = f"{total} training images of {data.source}"
        named = f"members: {len(self.model)} of {images}" if by_members else f"data: {images}"
        if data.policy is None and not len(self.policy):
            raise DataError(
                f"{named} leave none for the policy split,"
                " which rewards come from: give more images, or x_policy"
            )
        if data.validation is not None and len(self.validation):
            raise DataError(
                f"{named}, and beside x_policy and x_validation nothing is made of the others:"
                ' leave them out of x_train, or say members="train"'
            )


@dataclass(frozen=True)
class Splits:
    """The official training data in three parts, and the official test data.

    The network is trained on `model`, rewards come from `policy`, agents that need to choose a
    setting do so on `validation`, and reports use `test`. The paper (Malik 2026) divides 70/15/15.
    """

    model: Labelled
    policy: Labelled
    validation: Labelled
    test: Labelled

    @classmethod
    def of(cls, data: ImageData, seed: int, shares: tuple[float, float] = PAPER_SHARES) -> Splits:
        """Divide the training data at random, `shares` to model and policy; `test` stays as it
        is.
        """
        return cls.at(data, Rows.drawn(data, seed, shares))

    @classmethod
    def at(cls, data: ImageData, rows: Rows) -> Splits:
        """The parts of a division, and those that the data bring along."""
        return cls(
            data.train[rows.model],
            data.train[rows.policy] if data.policy is None else data.policy,
            data.train[rows.validation] if data.validation is None else data.validation,
            data.test,
        )

    def to(self, device: torch.device) -> Splits:
        """The same splits on another device."""
        return Splits(
            *(part.to(device) for part in (self.model, self.policy, self.validation, self.test))
        )


def _counts(
    data: ImageData, total: int, first: int, shares: tuple[float, float], one_each: bool
) -> list[int]:
    """How many of `total` rows go to model, policy and validation split, `first` of them to the
    model split in any case; with `one_each`, each part gets one where there are three.
    """
    model = round(shares[0] * total)
    policy = round(sum(shares) * total) - model
    validation = total - model - policy
    if one_each and total >= 3:
        policy, validation = max(1, policy), max(1, validation)
    policy = 0 if data.policy is not None else min(policy, total - first)
    validation = 0 if data.validation is not None else min(validation, total - first - policy)
    return [total - policy - validation, policy, validation]


def _counts_of_others(
    data: ImageData, total: int, members: int, shares: tuple[float, float]
) -> list[int]:
    """The same where the model split is known: the others are divided between the two parts."""
    others = total - members
    if data.policy is not None:
        return [members, 0, others]
    if data.validation is not None:
        return [members, others, 0]
    policy = round(others * shares[1] / (1 - shares[0]))
    policy = min(max(1, policy), max(0, others))
    return [members, policy, others - policy]
