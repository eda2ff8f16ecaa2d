"""The debiasing tasks of the catalogue: which texts, which network, how it is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import torch
from torch import nn

from editgym.data.errors import DataError
from editgym.data.text import BagOfWords
from editgym.models.classifiers import BagOfWordsNet
from editgym.models.sequence_classifiers import load_sequence_classifier
from editgym.models.training import (
    Recipe,
    cached_classifier,
    load_weights,
    recipe_key,
    train_classifier,
)
from editgym.paths import cache_folder
from editgym.tasks.debiasing import DebiasingSplits, DebiasingTask, Encoder, encoded
from editgym.tasks.seeds import checked_seeds
from editgym.tasks.text_data import TextData, templates_data, toxicity_data
from editgym.tasks.text_heads import train_head
from editgym.weights import EditableNetwork, Keep, discover_sites, find_sites

TEMPLATES_RECIPE = Recipe(epochs=6)
TOXICITY_RECIPE = Recipe(epochs=3)
BUNDLED = resources.files("editgym.models") / "weights"


def bundled_file(model_seed: int) -> Path:
    """Where the weights of the `debiasing/templates` network with this seed ship, if they do."""
    return Path(str(BUNDLED)) / f"templates-{model_seed}.safetensors"


def templates(
    *,
    sites: Sequence[str] = ("fc4",),
    networks: Sequence[int] | None = None,
    model_seed: int = 0,
    device: str = "cpu",
) -> DebiasingTask:
    """`debiasing/templates`: made-up comments in which some identities come with toxic words;
    nothing is downloaded.

    The paper's network on a bag of words; weights of seeds 0–9 ship.

    Args:
        sites: Names or globs; the paper's last layer by default.
        networks: Several model seeds; an episode draws one. The splits are the first one's.
        model_seed: Seed of the network and of the splits.
        device: Where networks and data live.
    """
    data, encode = templates_data()
    seeds = checked_seeds(networks, model_seed)
    models = [
        (
            load_weights(BagOfWordsNet(len(encode.vocabulary)), bundled_file(seed))
            if bundled_file(seed).is_file()
            else _fitted("debiasing/templates", data, encode, TEMPLATES_RECIPE, seed)
        )
        for seed in seeds
    ]
    return _task("debiasing/templates", models, sites, data.splits(seeds[0]), encode, device)


def toxicity(
    *,
    sites: Sequence[str] = ("fc4",),
    networks: Sequence[int] | None = None,
    model_seed: int = 0,
    comments: str | None = None,
    comments_format: str = "davidson",
    text_column: str | None = None,
    label_column: str | None = None,
    max_comments: int = 30_000,
    identities: str | None = None,
    vocabulary: int = 4_000,
    hold_out_words: bool = False,
    device: str = "cpu",
) -> DebiasingTask:
    """`debiasing/toxicity`: real comments, and the identity-term templates of Dixon et al. (2018),
    both from files.

    The paper's network on a bag of words, trained at first use. Templates whose polar word is not
    in the vocabulary are left out: nothing that the network sees tells their label.

    Args:
        sites: Names or globs; the paper's last layer by default.
        networks: Several model seeds; an episode draws one. The splits are the first one's.
        model_seed: Seed of the network and of the splits.
        comments: CSV, TSV or JSON Lines, or the import path of a function that returns
            `editgym.data.text.Comments`; by default
            `EDITGYM_DATA/text/davidson_labeled_data.csv`.
        comments_format: A row of `editgym.data.text.FORMATS`, or the import path of a
            `CommentFormat`.
        text_column: With `label_column`, the columns of a file of one's own; a label from 0.5 on
            means toxic.
        label_column: See `text_column`.
        max_comments: How many comments are drawn of a larger file.
        identities: The templates' file, or the import path of a function that returns
            `editgym.data.identity.IdentityTexts`; by default
            `EDITGYM_DATA/text/bias_madlibs_77k.csv`.
        vocabulary: The most frequent words that are counted.
        hold_out_words: Whether the words that decide a template's label are also disjoint between
            the splits.
        device: Where networks and data live.

    Raises:
        DataError: A file is missing or malformed.
    """
    data = toxicity_data(
        comments,
        comments_format,
        text_column,
        label_column,
        max_comments,
        identities,
        hold_out_words,
    )
    encode = BagOfWords.of(data.train.texts, vocabulary)
    known = set(encode.vocabulary)
    rows = [row for row, word in enumerate(data.unbiased.polar_words) if word.lower() in known]
    data = TextData(data.train, data.test, data.unbiased.take(rows), data.alike, hold_out_words)
    seeds = checked_seeds(networks, model_seed)
    models = [_fitted("debiasing/toxicity", data, encode, TOXICITY_RECIPE, seed) for seed in seeds]
    return _task("debiasing/toxicity", models, sites, data.splits(seeds[0]), encode, device)


def transformer(
    *,
    model: str,
    data: str = "toxicity",
    sites: Sequence[str] | None = None,
    toxic_output: int = 1,
    max_length: int = 64,
    model_seed: int = 0,
    comments: str | None = None,
    comments_format: str = "davidson",
    text_column: str | None = None,
    label_column: str | None = None,
    max_comments: int = 30_000,
    identities: str | None = None,
    hold_out_words: bool = False,
    least_accuracy: float = 0.75,
    device: str = "cpu",
) -> DebiasingTask:
    """`debiasing/transformer`: any sequence classifier of `transformers`, or an encoder whose head
    is trained here at first use.

    What no edit of the sites can change of a text is computed once and kept in EDITGYM_CACHE where
    it is few numbers, as below a head.

    Args:
        model: A Hugging Face folder or hub id, or `minilm-l6` once it is fetched
            (`python -m editgym.models.fetch minilm-l6`); safetensors only, and no remote code.
            Where the checkpoint lacks the head, that is trained on the model split's comments, by
            `model_seed`.
        data: `toxicity` for the texts of that task, with its arguments; `templates` for the bundled
            ones.
        sites: Names or globs, as the classifier calls them or with `model.` before, such as
            `["classifier"]`. By default `discover_sites` chooses.
        toxic_output: Index of the classifier's output that means toxic.
        max_length: Tokens per text.
        model_seed: Seed of the splits, and of a head that is trained: there is one network.
        comments: CSV, TSV or JSON Lines, or the import path of a function that returns
            `editgym.data.text.Comments`; by default
            `EDITGYM_DATA/text/davidson_labeled_data.csv`.
        comments_format: A row of `editgym.data.text.FORMATS`, or the import path of a
            `CommentFormat`.
        text_column: Column of the text in a file of one's own.
        label_column: Column of its label.
        max_comments: How many comments are drawn of a larger file.
        identities: The templates.
        hold_out_words: Whether the splits share no polar word.
        least_accuracy: What a head that is trained here has to reach on the validation split's
            comments, both labels equally often.
        device: Where network and data live.

    Raises:
        ModelError: The model cannot be loaded, or does not fit the arguments; or a head that is
            trained does not reach `least_accuracy`.
        DataError: A file is missing or malformed, or there is no such `data`.
    """
    if data not in ("toxicity", "templates"):
        raise DataError(f'data: there is no {data!r}; use "toxicity" or "templates"')
    texts = (
        templates_data()[0]
        if data == "templates"
        else toxicity_data(
            comments,
            comments_format,
            text_column,
            label_column,
            max_comments,
            identities,
            hold_out_words,
        )
    )
    network, encode = load_sequence_classifier(model, max_length, toxic_output)
    splits, keep = texts.splits(model_seed), Keep(cache_folder() / "features", encode.lengths)
    if network.untrained:
        train_head(network, splits, encode, keep, model_seed, least_accuracy)
    if sites is not None:
        sites = network.names_here(sites)
    return _task("debiasing/transformer", [network], sites, splits, encode, device, keep)


def train_templates(model_seed: int) -> nn.Module:
    """Train the `debiasing/templates` network that ships for `model_seed`; `train_bundled` writes
    its file.
    """
    data, encode = templates_data()
    return _trained(data, encode, TEMPLATES_RECIPE, model_seed, "debiasing/templates")


def _fitted(name: str, data: TextData, encode: BagOfWords, recipe: Recipe, seed: int) -> nn.Module:
    model = data.splits(seed).model
    digest = hashlib.sha256(
        repr((model.texts, model.labels, encode.vocabulary)).encode()
    ).hexdigest()
    key = {"task": name, "recipe": recipe_key(recipe), "seed": seed, "data": digest, "format": 1}
    return cached_classifier(
        key,
        lambda: BagOfWordsNet(len(encode.vocabulary)),
        lambda: _trained(data, encode, recipe, seed, name),
    )


def _trained(data: TextData, encode: BagOfWords, recipe: Recipe, seed: int, name: str) -> nn.Module:
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


def _task(
    name: str,
    models: Sequence[nn.Module],
    sites: Sequence[str] | None,
    splits: DebiasingSplits,
    encode: Encoder,
    device: str,
    keep: Keep | None = None,
) -> DebiasingTask:
    example = encode(splits.policy.general.texts[:8]).to(device)
    networks = []
    for model in models:
        model = model.to(device)
        chosen = discover_sites(model) if sites is None else find_sites(model, sites)
        networks.append(EditableNetwork(model, chosen, example, keep))
    return DebiasingTask(name, tuple(networks), splits, encode, torch.device(device))
