"""Knowledge tasks whose requests come from files: ZsRE, CounterFact, and one's own."""

from __future__ import annotations

import hashlib
import itertools
import random
import warnings
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from editgym.data.errors import DataError
from editgym.data.facts import EditRequest, LoadedRequests, Question, load_requests
from editgym.models.folders import is_factlm
from editgym.models.language import shared_model
from editgym.paths import data_folder
from editgym.tasks.knowledge.task import KnowledgeTask, StreamSplit, TeacherForced
from editgym.tasks.knowledge.unknown_words import check_words

if TYPE_CHECKING:
    from editgym.models.reading import DeviceMap

# Where one file holds everything: the share of its subjects that each split gets.
_SHARES: tuple[tuple[StreamSplit, float], ...] = (
    ("policy", 0.6),
    ("validation", 0.15),
    ("test", 0.25),
)
_VALIDATION_OF_TRAINING = 0.2
# share of requests without a locality question of their own from which on there is a warning
_MOST_LOST = 0.25
_Record = tuple[EditRequest, ...]


def zsre(
    device: str,
    model: str | None = None,
    requests: str = "editing/zsre_train_1k.json",
    test_requests: str | None = None,
    dtype: str = "auto",
    sites: Sequence[str] | None = None,
    step_size: float | None = None,
    device_map: DeviceMap | None = None,
) -> KnowledgeTask:
    """`knowledge/zsre`: ZsRE (Levy et al. 2017) in MEND's format; see `custom`."""
    return custom(
        device,
        model,
        requests,
        test_requests,
        "zsre",
        dtype,
        sites,
        step_size,
        name="knowledge/zsre",
        device_map=device_map,
    )


def counterfact(
    device: str,
    model: str | None = None,
    requests: str = "editing/counterfact-train.json",
    test_requests: str | None = "editing/counterfact-val.json",
    format: str | None = None,
    dtype: str = "auto",
    sites: Sequence[str] | None = None,
    step_size: float | None = None,
    device_map: DeviceMap | None = None,
) -> KnowledgeTask:
    """`knowledge/counterfact`: CounterFact (Meng et al. 2022), nested or flat; see `custom`."""
    return custom(
        device,
        model,
        requests,
        test_requests,
        format,
        dtype,
        sites,
        step_size,
        name="knowledge/counterfact",
        device_map=device_map,
    )


def custom(
    device: str,
    model: str | None = None,
    requests: str | None = None,
    test_requests: str | None = None,
    format: str | None = None,
    dtype: str = "auto",
    sites: Sequence[str] | None = None,
    step_size: float | None = None,
    name: str = "knowledge/custom",
    device_map: DeviceMap | None = None,
) -> KnowledgeTask:
    """`knowledge/custom`: one's own requests, in any format of `editgym.data.fact_formats`.

    The splits share no subject. With `test_requests`, the other file's subjects that are not in it
    are the policy's (80%) and validation's; without, one file is split 60/15/25 into policy,
    validation and test. Which split a subject belongs to depends on its name alone. A record of
    several facts goes by its first subject, and is left out where it shares another one with test,
    or as the policy's with validation; its facts are drawn one after the other. What test asks, or
    as regards the policy validation, no other split is rewarded on: locality questions of that
    wording are taken out of the requests, with a warning where many lose their last, and facts of
    that wording are left out.

    Args:
        device: Where the model lives.
        model: Name of the model, as `LanguageModel.load` takes it: a Hugging Face folder or a GGUF
            file, as they are or in the data folder, a fetched model's name, or a hub id.
        requests: A file, from the current folder or in the data folder (`EDITGYM_DATA`).
        test_requests: Another file, for the test split.
        format: A row of `FORMATS`, or the import path of one's own `FactFormat`; None finds out.
        dtype: Number format of the base weights.
        sites: What may be edited.
        step_size: UltraEdit's η.
        name: The task's name in the catalogue.
        device_map: Where a model's parts go that is larger than one device
            (`LanguageModel.load`).

    Raises:
        ValueError: `model` or `requests` is missing.
        DataError: A file cannot be read, or the model knows no word of it.
        ModelError: The model cannot be loaded.
    """
    for argument, value in (("model", model), ("requests", requests)):
        if value is None:
            raise ValueError(
                f"{argument} must be given for {name}: "
                + (
                    "a Hugging Face folder or hub id, a GGUF file, or a fetched model's name"
                    if argument == "model"
                    else "a file of requests"
                )
            )
    assert model is not None
    assert requests is not None
    train = _loaded(requests, "requests", format)
    test = None if test_requests is None else _loaded(test_requests, "test_requests", format)
    splits = _split(train.records, None if test is None else test.records)

    def draw(split: StreamSplit, rng: random.Random | None) -> Iterable[EditRequest]:
        records = splits[split]
        return itertools.chain.from_iterable(
            records if rng is None else rng.sample(records, len(records))
        )

    compares = (train if test is None else test).format.startswith("counterfact") and all(
        request.truth for record in splits["test"] for request in record
    )
    compared: TeacherForced = "probability" if compares else "accuracy"
    language = shared_model(model, device, dtype, device_map)
    for file, loaded in ((requests, train), (test_requests, test)):
        if loaded is not None and (file != requests or loaded is train):
            facts = [request for record in loaded.records for request in record]
            check_words(language.tokenizer, facts, file, whole_words=is_factlm(model))
    return KnowledgeTask(
        name,
        language,
        sites,
        draw,
        step_size=step_size,
        teacher_forced=compared,
        scorer="squad",
        max_new_tokens=32,
        text="factworld" if is_factlm(model) else "samples",
        facts=lambda: _old_facts(splits),
        divided=lambda split: (
            _left_out(train if test is None else test)
            + _division(requests, test_requests, splits, split)
        ),
    )


def _division(
    requests: str,
    test_requests: str | None,
    splits: Mapping[StreamSplit, Sequence[_Record]],
    short: StreamSplit,
) -> str:
    """What is said of how files are divided, where the split `short` has too few requests."""
    counts = {split: f"{split} {len(records)}" for split, records in splits.items()}
    if test_requests is None:
        return (
            f"; {requests} is divided by subject into {', '.join(counts.values())} records:"
            " test_requests=FILE gives test a file of its own, which may be the same one"
        )
    if short == "test":
        return ""
    del counts["test"]
    return (
        f"; {requests} has, without what {test_requests} asks, {' and '.join(counts.values())}"
        ' records: split="test" edits the facts of test_requests'
    )


def _left_out(loaded: LoadedRequests) -> str:
    """What is said of the records of a file that were not read, where a split has too few."""
    if not loaded.skipped:
        return ""
    reasons = ", ".join(f"{count} ({reason})" for reason, count in loaded.skipped.items())
    return f"; of {loaded.path.name} {reasons} were left out"


def _old_facts(splits: Mapping[StreamSplit, Sequence[_Record]]) -> list[Question]:
    """What the files say is true, in an order that is random and always the same."""
    facts = [
        Question(request.prompt, request.truth)
        for records in splits.values()
        for record in records
        for request in record
        if request.truth
    ]
    random.Random("known facts").shuffle(facts)
    return facts


def _loaded(path: str, argument: str, format: str | None) -> LoadedRequests:
    """The requests of the file that an argument names."""
    return load_requests(_found(path, argument), format, argument=argument)


def _found(path: str, argument: str) -> Path:
    own = Path(path).expanduser()
    file = own if own.is_file() else data_folder() / own  # an absolute path stays as it is
    if not file.is_file():
        raise DataError(f"{argument}: no file {path!r} here, nor at {file}")
    return file


def _split(
    train: Sequence[_Record], test: Sequence[_Record] | None
) -> Mapping[StreamSplit, list[_Record]]:
    splits: dict[StreamSplit, list[_Record]] = {split: [] for split, _ in _SHARES}
    if test is not None:
        splits["test"] = list(test)
    for record in train:
        place = int(hashlib.sha256(record[0].subject.encode()).hexdigest()[:8], 16) / 2**32
        if test is not None:
            splits["validation" if place < _VALIDATION_OF_TRAINING else "policy"].append(record)
            continue
        for split, share in _SHARES:
            place -= share
            if place < 0 or split == "test":
                splits[split].append(record)
                break
    taken: set[str] = set()
    asked: set[str] = set()
    for split, _ in reversed(_SHARES):
        kept = [
            record
            for record in splits[split]
            if taken.isdisjoint(one.subject for one in record)
            and asked.isdisjoint(text for one in record for text in (one.prompt, *one.rephrases))
        ]
        splits[split] = [tuple(_without(asked, one) for one in record) for record in kept]
        _warn_of_lost_locality(split, kept, splits[split])
        taken |= {one.subject for record in kept for one in record}
        asked |= {text for record in kept for one in record for text in _asked(one)}
    return splits


def _asked(request: EditRequest) -> Iterable[str]:
    """All prompts of a request."""
    questions = (*request.locality, *request.near, *request.far, *request.portability)
    return (
        request.prompt,
        *request.rephrases,
        *request.test_rephrases,
        *request.same_subject,
        *(question.prompt for question in questions),
    )


def _without(asked: Set[str], request: EditRequest) -> EditRequest:
    """The request, not rewarded on locality questions that are in `asked`."""
    return replace(
        request, locality=tuple(one for one in request.locality if one.prompt not in asked)
    )


def _warn_of_lost_locality(
    split: StreamSplit, before: Sequence[_Record], after: Sequence[_Record]
) -> None:
    had, have = (
        sum(bool(one.locality) for record in records for one in record)
        for records in (before, after)
    )
    if had - have > _MOST_LOST * had:
        warnings.warn(
            f"of {had} requests of the {split} split with locality questions, {had - have} have"
            " none left that the other splits do not ask: rewards of these see no locality; give"
            " them questions of their own",
            stacklevel=4,
        )
