"""The networks of the debiasing tasks that are trained here."""

from __future__ import annotations

import hashlib

from torch import nn

from editgym.data.text import BagOfWords
from editgym.models.classifiers import BagOfWordsNet
from editgym.models.training import Recipe, cached_classifier, recipe_key, train_classifier
from editgym.tasks.debiasing.data import TextData
from editgym.tasks.debiasing.task import encoded


def fitted(name: str, data: TextData, encode: BagOfWords, recipe: Recipe, seed: int) -> nn.Module:
    """The paper's network on a data set's bag of words: from the cache, or trained and kept there.

    Args:
        name: The task's name.
        data: What it is trained on.
        encode: The bag of words.
        recipe: How it is trained.
        seed: Seed of the network and of the splits.
    """
    model = data.splits(seed).model
    digest = hashlib.sha256(
        repr((model.texts, model.labels, encode.vocabulary)).encode()
    ).hexdigest()
    key = {"task": name, "recipe": recipe_key(recipe), "seed": seed, "data": digest, "format": 1}
    return cached_classifier(
        key,
        lambda: BagOfWordsNet(len(encode.vocabulary)),
        lambda: trained(data, encode, recipe, seed, name),
    )


def trained(data: TextData, encode: BagOfWords, recipe: Recipe, seed: int, name: str) -> nn.Module:
    """The same, trained in any case."""
    splits = data.splits(seed)
    parts = [encoded(part, encode) for part in (splits.model, splits.validation.general)]
    return train_classifier(
        lambda: BagOfWordsNet(len(encode.vocabulary)),
        parts[0],
        parts[1],
        recipe,
        seed,
        f"{name} network {seed}",
    )
