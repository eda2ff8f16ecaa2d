"""The debiasing tasks of the catalogue: which texts, which network, how it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from editgym.checks import optional, whole
from editgym.data.errors import DataError
from editgym.data.text import BagOfWords
from editgym.models.classifiers import BagOfWordsNet
from editgym.models.sequence_classifiers import load_sequence_classifier
from editgym.models.training import Recipe, load_weights
from editgym.paths import cache_folder
from editgym.tasks.debiasing.data import TextFiles, templates_data, toxicity_data
from editgym.tasks.debiasing.heads import train_head
from editgym.tasks.debiasing.networks import fitted, trained
from editgym.tasks.debiasing.task import DebiasingSplits, DebiasingTask, Encoder
from editgym.tasks.seeds import checked_seeds
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
    edit_terms: Mapping[str, float] | None = None,
    device: str = "cpu",
) -> DebiasingTask:
    """`debiasing/templates`: made-up comments in which some identities come with toxic words;
    nothing is downloaded.

    The paper's network on a bag of words; weights of seeds 0–9 ship.

    Args:
        sites: Names or globs; the paper's last layer by default.
        networks: Several model seeds; an episode draws one. The splits are the first one's.
        model_seed: Seed of the network and of the splits.
        edit_terms: The terms of O and their weights (`TERMS` in
            `editgym.tasks.debiasing.edit_terms`); by default the score on unbiased alone.
        device: Where networks and data live.
    """
    data, encode = templates_data()
    seeds = checked_seeds(networks, model_seed)
    models = [
        (
            load_weights(BagOfWordsNet(len(encode.vocabulary)), bundled_file(seed))
            if bundled_file(seed).is_file()
            else fitted("debiasing/templates", data, encode, TEMPLATES_RECIPE, seed)
        )
        for seed in seeds
    ]
    return _task(
        "debiasing/templates", models, sites, data.splits(seeds[0]), encode, edit_terms, device
    )


def toxicity(
    *,
    sites: Sequence[str] = ("fc4",),
    networks: Sequence[int] | None = None,
    model_seed: int = 0,
    comments: str | None = None,
    comments_format: str = "davidson",
    text_column: str | None = None,
    label_column: str | None = None,
    toxic_values: Sequence[str | float | bool] | None = None,
    encoding: str = "utf-8",
    test_comments: str | None = None,
    max_comments: int = 30_000,
    identities: str | None = None,
    identities_format: str | Mapping[str, Any] = "dixon",
    max_identities: int | None = None,
    max_identity_texts: int = 100_000,
    hold_out_identities: bool = True,
    vocabulary: int | None = 4_000,
    hold_out_words: bool = False,
    edit_terms: Mapping[str, float] | None = None,
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
        comments: CSV, TSV or JSON Lines, also with `.gz`, or the import path of a function that
            returns `editgym.data.text.Comments`; by default
            `EDITGYM_DATA/text/davidson_labeled_data.csv`. Blank texts and the label −1, that nobody
            gave, are left out.
        comments_format: A row of `editgym.data.text.FORMATS`, or the import path of a
            `CommentFormat`.
        text_column: With `label_column`, the columns of a file of one's own. A label is a number
            from 0 to 1, toxic from 0.5 on, or a word such as true, toxic, or non-hateful.
        label_column: See `text_column`.
        toxic_values: The label's values that mean toxic, where all others do not.
        encoding: The files' encoding, a codec of Python's.
        test_comments: A file like `comments` that reports are made on; by default a fifth of the
            comments.
        max_comments: How many comments are drawn of a larger file.
        identities: Texts about identities, a file, or the import path of a function that returns
            `editgym.data.identity.IdentityTexts`; by default
            `EDITGYM_DATA/text/bias_madlibs_77k.csv`. A text that is a comment too is rewarded or
            reported in that comment's split alone.
        identities_format: A row of `editgym.data.identity_files.IDENTITY_FORMATS`, the import path
            of an `IdentityFormat`, or its attributes, such as `{"text": "said", "label": "rude",
            "identity": "who"}`.
        max_identities: Keep the identities with the most texts, so many.
        max_identity_texts: How many texts about identities are drawn of a larger file, whole
            templates.
        hold_out_identities: Whether the splits share no identity term; False where a file has too
            few for that, or the very identities of the reports are to be rewarded.
        hold_out_words: Whether the words that decide a template's label are also disjoint between
            the splits; they are known of Dixon's templates.
        edit_terms: What O is made of, by weight: terms of `TERMS` in
            `editgym.tasks.debiasing.edit_terms`, such as
            `{"unbiased_accuracy": 1, "equalized_odds_gap": 1}` or `{"fped": 0.2, "fned": 0.2}`; by
            default the score on unbiased alone.
        vocabulary: How many words are counted, the most frequent ones; None for all.
        device: Where networks and data live.

    Raises:
        DataError: A file is missing or malformed.
    """
    optional(whole(1))("vocabulary", vocabulary)
    data = toxicity_data(TextFiles.of(locals()))
    encode = BagOfWords.of(data.train.texts, vocabulary)
    data = data.readable_with(encode)
    seeds = checked_seeds(networks, model_seed)
    models = [fitted("debiasing/toxicity", data, encode, TOXICITY_RECIPE, seed) for seed in seeds]
    return _task(
        "debiasing/toxicity", models, sites, data.splits(seeds[0]), encode, edit_terms, device
    )


def transformer(
    *,
    model: str,
    data: str = "toxicity",
    sites: Sequence[str] | None = None,
    toxic_output: int = 1,
    max_length: int | None = None,
    model_seed: int = 0,
    comments: str | None = None,
    comments_format: str = "davidson",
    text_column: str | None = None,
    label_column: str | None = None,
    toxic_values: Sequence[str | float | bool] | None = None,
    encoding: str = "utf-8",
    test_comments: str | None = None,
    max_comments: int = 30_000,
    identities: str | None = None,
    identities_format: str | Mapping[str, Any] = "dixon",
    max_identities: int | None = None,
    max_identity_texts: int = 100_000,
    hold_out_identities: bool = True,
    hold_out_words: bool = False,
    edit_terms: Mapping[str, float] | None = None,
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
        max_length: Tokens per text; by default 64, or what the classifier takes where that is less.
        model_seed: Seed of the splits, and of a head that is trained: there is one network.
        comments: The comments, a file or a loader; for this and what follows `toxicity` says more.
        comments_format: The name of a published file's format, or an import path.
        text_column: Column of the text in a file of one's own.
        label_column: Column of its label.
        toxic_values: The label's values that mean toxic.
        encoding: The files' encoding.
        test_comments: The comments of reports; by default a fifth of `comments`.
        max_comments: How many comments are drawn of a larger file.
        identities: Texts about identities, a file or a loader.
        identities_format: The name of that file's format, an import path, or its columns.
        max_identities: How many identities are kept, those with the most texts.
        max_identity_texts: How many texts about identities are drawn of a larger file.
        hold_out_identities: Whether the splits share no identity term.
        hold_out_words: Whether the splits share no polar word.
        edit_terms: The terms of O and their weights.
        least_accuracy: What a head that is trained here has to reach on the validation split's
            comments, both labels equally often.
        device: Where network and data live.

    Raises:
        ModelError: The model cannot be loaded, or does not fit the arguments; or a head that is
            trained does not reach `least_accuracy`.
        DataError: A file is missing or malformed, or there is no such `data`.
    """
    files = TextFiles.of(locals())
    if data not in ("toxicity", "templates"):
        raise DataError(f'data: there is no {data!r}; use "toxicity" or "templates"')
    if data == "templates":
        names = [field.name for field in fields(TextFiles)]
        files.require_unused(names, 'these are for data="toxicity"; the templates are bundled')
    texts = templates_data()[0] if data == "templates" else toxicity_data(files)
    (seed,) = checked_seeds(None, model_seed)
    network, encode = load_sequence_classifier(model, max_length, toxic_output)
    splits, keep = texts.splits(seed), Keep(cache_folder() / "features", encode.lengths)
    encode.check_vocabulary(splits.policy.general.texts)
    if network.untrained:
        train_head(network, splits, encode, keep, seed, least_accuracy)
    if sites is not None:
        sites = network.names_here(sites)
    return _task(
        "debiasing/transformer", [network], sites, splits, encode, edit_terms, device, keep
    )


def train_templates(model_seed: int) -> nn.Module:
    """Train the `debiasing/templates` network that ships for `model_seed`; `train_bundled` writes
    its file.
    """
    data, encode = templates_data()
    return trained(data, encode, TEMPLATES_RECIPE, model_seed, "debiasing/templates")


def _task(
    name: str,
    models: Sequence[nn.Module],
    sites: Sequence[str] | None,
    splits: DebiasingSplits,
    encode: Encoder,
    edit_terms: Mapping[str, float] | None,
    device: str,
    keep: Keep | None = None,
) -> DebiasingTask:
    example = encode(splits.policy.general.texts[:8]).to(device)
    networks = []
    for model in models:
        model = model.to(device)
        chosen = discover_sites(model) if sites is None else find_sites(model, sites)
        networks.append(EditableNetwork(model, chosen, example, keep))
    return DebiasingTask(name, tuple(networks), splits, encode, torch.device(device), edit_terms)
