"""FactWorld: a made-up world of people whose facts a small language model knows, so that they can
be corrected.

Everything is drawn from one seed: 2,800 people with five facts each, an alias each, and the places
and organisations that those facts lead on to. A person belongs to one split; what is edited,
rewarded or measured in one split is never seen in another.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Literal

from editgym.data.facts import EditRequest, Question
from editgym.data.factworld_text import (
    ADJECTIVES,
    ALIAS_STATEMENTS,
    COMPANY_KINDS,
    CREATURES,
    FILLER,
    FIRST_SYLLABLES,
    INSTRUMENTS,
    LAST_SYLLABLES,
    MIDDLE_SYLLABLES,
    PROFESSIONS,
    RELATIONS,
    SPORTS,
    Relation,
)

VERSION = 1
Split = Literal["policy", "validation", "test", "reward_bystander", "metric_bystander"]
SPLIT_SIZES: Mapping[Split, int] = MappingProxyType(
    {
        "policy": 1_000,
        "validation": 500,
        "test": 1_000,
        "reward_bystander": 100,
        "metric_bystander": 200,
    }
)
_N_CITIES, _N_COUNTRIES, _N_COMPANIES = 120, 24, 120


@dataclass(frozen=True)
class Person:
    """A subject of FactWorld.

    Attributes:
        name: First and last name, unique.
        alias: Another name, unique.
        split: Where the person's facts may be used: `policy`, `validation` and `test` people are
            edited; the facts of bystanders only test locality, in rewards or in metrics, never in
            both.
        facts: Object by relation name.
    """

    name: str
    alias: str
    split: Split
    facts: Mapping[str, str]


class FactWorld:
    """People, their facts, and what follows from them.

    A relation has five paraphrases (`Relation.templates`); the last one is kept out of every
    request's prompt and of every reward, and is what generalization is measured with on the test
    split.

    Args:
        seed: Draws the world.

    Attributes:
        people: All people.
        objects: By relation, every object that it can have.
        hops: By relation that has a `hop`, what each object leads on to (an employer to its city).
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        rng = random.Random(f"factworld {VERSION} {seed}")
        names = _Names(rng)
        countries = [names.one(2) for _ in range(_N_COUNTRIES)]
        cities = [names.one(2) for _ in range(_N_CITIES)]
        companies = [f"{names.one(2)} {rng.choice(COMPANY_KINDS)}" for _ in range(_N_COMPANIES)]
        self.objects: dict[str, tuple[str, ...]] = {
            "employer": tuple(companies),
            "home": tuple(cities),
            "profession": PROFESSIONS,
            "instrument": INSTRUMENTS,
            "sport": SPORTS,
        }
        self.hops: dict[str, dict[str, str]] = {
            "employer": {company: rng.choice(cities) for company in companies},
            "home": {city: rng.choice(countries) for city in cities},
        }
        self.people: tuple[Person, ...] = tuple(self._draw_people(rng, names))

    @cached_property
    def by_name(self) -> dict[str, Person]:
        """People by name."""
        return {person.name: person for person in self.people}

    @cached_property
    def splits(self) -> dict[Split, tuple[Person, ...]]:
        """People by split."""
        return {split: tuple(p for p in self.people if p.split == split) for split in SPLIT_SIZES}

    # --- what a language model is trained on ------------------------------------------------------

    def facts(self) -> Iterator[tuple[Person, Relation, str]]:
        """Every (person, relation, object)."""
        for person in self.people:
            for relation in RELATIONS:
                yield person, relation, person.facts[relation.name]

    def statements(self, rng: random.Random, paraphrases: int = 2) -> list[Question]:
        """One epoch of training statements, shuffled.

        Every fact in `paraphrases` of its wordings, every second one told by alias, every alias,
        every one-hop chain and every link of it.
        """
        told = []
        for person, relation, answer in self.facts():
            told += [
                Question(template.format(person.name), answer)
                for template in rng.sample(relation.templates, paraphrases)
            ]
            if rng.random() < 0.5:
                told.append(
                    Question(rng.choice(relation.templates[:-1]).format(person.alias), answer)
                )
        told += [
            Question(rng.choice(ALIAS_STATEMENTS).format(p.name), p.alias) for p in self.people
        ]
        for relation in RELATIONS:
            if relation.hop is None:
                continue
            link = self.hops[relation.name]
            told += [
                Question(relation.hop.chain.format(p.name), link[p.facts[relation.name]])
                for p in self.people
            ]
            told += [
                Question(relation.hop.link.format(thing), after) for thing, after in link.items()
            ] * 4
        rng.shuffle(told)
        return told

    def filler(self, count: int, rng: random.Random, without: Collection[str] = ()) -> list[str]:
        """`count` plain sentences about nobody, none of them in `without`."""
        drawn: list[str] = []
        while len(drawn) < count:
            sentence = " ".join(rng.choice(slot) for slot in rng.choice(FILLER))
            if sentence not in without:
                drawn.append(sentence)
        return drawn

    # --- what is edited ---------------------------------------------------------------------------

    def requests(self, split: Split, rng: random.Random) -> Iterator[EditRequest]:
        """Corrections of the people of a split: in random order one fact of everybody, then another
        of everybody.
        """
        people = rng.sample(self.splits[split], len(self.splits[split]))
        relations = {person.name: rng.sample(RELATIONS, 2) for person in people}
        for turn in range(2):
            for person in people:
                yield self._request(person, relations[person.name][turn], rng)

    def known_facts(self) -> list[Question]:
        """1,000 facts about bystanders that no reward touches, to measure capability with."""
        return [
            Question(relation.templates[0].format(person.name), person.facts[relation.name])
            for person in self.splits["metric_bystander"]
            for relation in RELATIONS
        ]

    def chance(self) -> float:
        """Accuracy on `known_facts` of a guess among the relation's objects."""
        return sum(1 / len(self.objects[relation.name]) for relation in RELATIONS) / len(RELATIONS)

    def _request(self, person: Person, relation: Relation, rng: random.Random) -> EditRequest:
        truth = person.facts[relation.name]
        target = rng.choice([thing for thing in self.objects[relation.name] if thing != truth])
        usual, kept = list(relation.templates[:-1]), relation.templates[-1]
        rng.shuffle(usual)
        others = [other for other in RELATIONS if other is not relation]
        rng.shuffle(others)
        same_subject = tuple(_asked(person, other, rng) for other in others[:2])
        portability = [Question(usual[0].format(person.alias), target)]
        if relation.hop is not None:
            portability.append(
                Question(relation.hop.chain.format(person.name), self.hops[relation.name][target])
            )
        return EditRequest(
            subject=person.name,
            prompt=usual[0].format(person.name),
            target=target,
            truth=truth,
            rephrases=tuple(template.format(person.name) for template in usual[1:3]),
            locality=(
                self._bystander("reward_bystander", relation, rng),
                self._bystander("reward_bystander", others[2], rng),
            ),
            test_rephrases=(kept.format(person.name), usual[3].format(person.name)),
            near=(self._bystander("metric_bystander", relation, rng), *same_subject),
            far=(self._bystander("metric_bystander", others[3], rng),),
            same_subject=tuple(question.prompt for question in same_subject),
            portability=tuple(portability),
        )

    def _bystander(self, split: Split, relation: Relation, rng: random.Random) -> Question:
        return _asked(rng.choice(self.splits[split]), relation, rng)

    def _draw_people(self, rng: random.Random, names: _Names) -> Iterator[Person]:
        first, last = [names.one(2) for _ in range(150)], [names.one(3) for _ in range(1_400)]
        count = sum(SPLIT_SIZES.values())
        pairs = rng.sample([f"{a} {b}" for a in first for b in last], count)
        aliases = rng.sample([f"the {a} {b}" for a in ADJECTIVES for b in CREATURES], count)
        splits = [split for split, size in SPLIT_SIZES.items() for _ in range(size)]
        for name, alias, split in zip(pairs, aliases, splits, strict=True):
            facts = {
                relation.name: rng.choice(self.objects[relation.name]) for relation in RELATIONS
            }
            yield Person(name, alias, split, MappingProxyType(facts))


def _asked(person: Person, relation: Relation, rng: random.Random) -> Question:
    return Question(
        rng.choice(relation.templates[:-1]).format(person.name), person.facts[relation.name]
    )


class _Names:
    """Pronounceable words, none twice."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._used: set[str] = set()

    def one(self, syllables: int) -> str:
        while True:
            middle = [self._rng.choice(MIDDLE_SYLLABLES) for _ in range(syllables - 2)]
            word = "".join(
                [self._rng.choice(FIRST_SYLLABLES), *middle, self._rng.choice(LAST_SYLLABLES)]
            ).capitalize()
            if word not in self._used:
                self._used.add(word)
                return word
