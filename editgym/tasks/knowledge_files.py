"""Knowledge tasks whose requests come from files: ZsRE, CounterFact, and one's own."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from editgym.data.facts import EditRequest, load_requests
from editgym.models.language import shared_model
from editgym.paths import data_folder
from editgym.tasks.knowledge import KnowledgeTask, StreamSplit, TeacherForced

# Where one file holds everything: the share of its subjects that each split gets.
_SHARES: tuple[tuple[StreamSplit, float], ...] = (("policy", 0.6), ("validation", 0.15), ("test", 0.25))
_VALIDATION_OF_TRAINING = 0.2
_Record = tuple[EditRequest, ...]


def zsre(device: str, model: str | None = None, requests: str = "editing/zsre_train_1k.json",
         test_requests: str | None = None, dtype: str = "auto", sites: Sequence[str] | None = None,
         step_size: float | None = None) -> KnowledgeTask:
    """`knowledge/zsre`: ZsRE (Levy et al. 2017) in MEND's format; see `custom`."""
    return custom(device, model, requests, test_requests, "zsre", dtype, sites, step_size, name="knowledge/zsre")


def counterfact(device: str, model: str | None = None, requests: str = "editing/counterfact-train.json",
                test_requests: str | None = "editing/counterfact-val.json", format: str | None = None,
                dtype: str = "auto", sites: Sequence[str] | None = None,
                step_size: float | None = None) -> KnowledgeTask:
    """`knowledge/counterfact`: CounterFact (Meng et al. 2022), nested or flat; see `custom`."""
    return custom(device, model, requests, test_requests, format, dtype, sites, step_size,
                  name="knowledge/counterfact")


def custom(device: str, model: str | None = None, requests: str | None = None, test_requests: str | None = None,
           format: str | None = None, dtype: str = "auto", sites: Sequence[str] | None = None,
           step_size: float | None = None, name: str = "knowledge/custom") -> KnowledgeTask:
    """`knowledge/custom`: one's own requests, in any format of `editgym.data.fact_formats`.

    The splits share no subject. With `test_requests`, the other file's subjects that are not in it are the policy's
    (80%) and validation's; without, one file is split 60/15/25 into policy, validation and test. Which split a subject
    belongs to depends on its name alone. A record of several facts goes by its first subject, and is left out where it
    shares another one with test, or as the policy's with validation; its facts are drawn one after the other.

    Args:
        device: Where the model lives.
        model: A Hugging Face folder, as it is or in the data folder, or a hub id.
        requests: A file, absolute or in the data folder (`EDITGYM_DATA`).
        test_requests: Another one.
        format: A row of `FORMATS`; None finds out.
        dtype: Of the base weights.
        sites: What may be edited.
        step_size: UltraEdit's η.
        name: As in the catalogue.

    Raises:
        ValueError: `model` or `requests` is missing.
        DataError: A file cannot be read.
        ModelError: The model cannot be loaded.
    """
    for argument, value in (("model", model), ("requests", requests)):
        if value is None:
            raise ValueError(f"{argument} must be given for {name}: "
                             + ("a Hugging Face folder or hub id" if argument == "model" else "a file of requests"))
    assert model is not None
    assert requests is not None
    train = load_requests(_found(requests), format)
    test = None if test_requests is None else load_requests(_found(test_requests), format)
    splits = _split(train.records, None if test is None else test.records)

    def draw(split: StreamSplit, rng: random.Random) -> Iterable[EditRequest]:
        return itertools.chain.from_iterable(rng.sample(splits[split], len(splits[split])))

    compared: TeacherForced = "probability" if train.format.startswith("counterfact") else "accuracy"
    return KnowledgeTask(name, shared_model(model, device, dtype), sites, draw, step_size=step_size,
                         teacher_forced=compared)


def _found(path: str) -> Path:
    return data_folder() / path  # an absolute path stays as it is


def _split(train: Sequence[_Record], test: Sequence[_Record] | None) -> Mapping[StreamSplit, list[_Record]]:
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
    for split, _ in reversed(_SHARES):
        splits[split] = [record for record in splits[split] if taken.isdisjoint(one.subject for one in record)]
        taken |= {one.subject for record in splits[split] for one in record}
    return splits
