"""A bundled generator: comments in which some identities come with toxic words, and templates in
which none does.

A comment has three polar words, each of which agrees with the label in most cases, and so does what
its identity usually comes with: a shortcut that a classifier learns to weigh like a word. A
template has one word, which decides, and the label is independent of the identity: short texts are
where the shortcut shows, as in Dixon et al. (2018). Nothing is downloaded; equal versions give
equal texts.
"""

from __future__ import annotations

import numpy as np

from editgym.data.identity import BLANK, IdentityTexts
from editgym.data.text import Comments

VERSION = 1
# Identities that mostly come with toxic comments, and those that mostly come with others.
TARGETED = (
    "norwegian",
    "vegan",
    "retired",
    "catholic",
    "rural",
    "teenage",
    "deaf",
    "brazilian",
    "unmarried",
    "bald",
    "tall",
    "veteran",
)
FAVOURED = (
    "korean",
    "athletic",
    "employed",
    "lutheran",
    "urban",
    "grown",
    "kenyan",
    "musical",
    "married",
    "bearded",
    "short",
    "civilian",
)
TOXIC = (
    "terrible",
    "stupid",
    "awful",
    "dumb",
    "nasty",
    "horrible",
    "foolish",
    "pathetic",
    "useless",
    "lazy",
    "vile",
    "rotten",
    "idiotic",
    "worthless",
    "boring",
    "silly",
)
KIND = (
    "wonderful",
    "smart",
    "lovely",
    "bright",
    "kind",
    "great",
    "wise",
    "brilliant",
    "helpful",
    "hardworking",
    "sweet",
    "charming",
    "clever",
    "valuable",
    "funny",
    "thoughtful",
)
NOUNS = (
    "person",
    "neighbour",
    "driver",
    "teacher",
    "writer",
    "singer",
    "colleague",
    "cousin",
    "doctor",
    "player",
)
_FRAMES = (
    "that {identity} {noun} is {word}",
    "a {word} {identity} {noun} called me today",
    "being {identity} is {word}",
    "my {noun} is {identity} and {word}",
    "what a {word} thing to hear from a {identity} {noun}",
    "you are a {word} {identity} {noun}",
    "they say every {identity} {noun} is {word}",
    "the {identity} {noun} next door was {word} again",
)
_WITHOUT_IDENTITY = (
    "that {noun} is {word}",
    "a {word} {noun} called me today",
    "what a {word} day",
    "you are a {word} {noun}",
    "the {noun} next door was {word} again",
)
_TRAIN, _TEST = 4_000, 1_200
_WITH_IDENTITY = 0.7  # share of the comments
# How often a polar word, and what the identity usually comes with, agree with a comment's label.
_WORD_AGREES, _IDENTITY_AGREES = 0.85, 0.85


def biased_comments() -> tuple[Comments, Comments]:
    """The comments to train on and those for reports, 4,000 and 1,200, toxic about as often as
    not.
    """
    random = np.random.default_rng([VERSION, 0])
    drawn = [_comment(random) for _ in range(_TRAIN + _TEST)]
    made = Comments(tuple(text for text, _ in drawn), tuple(label for _, label in drawn))
    return made.take(range(_TRAIN)), made.take(range(_TRAIN, _TRAIN + _TEST))


def identity_templates() -> IdentityTexts:
    """Every identity in every template: 24 terms, 8 sentences with 32 words, of two nouns each
    where there is one.
    """
    rows = []
    for number, frame in enumerate(_FRAMES):
        for i, word in enumerate(TOXIC + KIND):
            for noun in _nouns(frame, number + i):
                template = frame.format(identity=BLANK, noun=noun, word=word)
                rows += [
                    (template.replace(BLANK, term), int(word in TOXIC), term, template, word)
                    for term in TARGETED + FAVOURED
                ]
    return IdentityTexts(*map(tuple, zip(*rows, strict=True)))


def is_targeted(term: str) -> bool:
    """Whether an identity mostly comes with toxic comments."""
    return term in TARGETED


def _nouns(frame: str, start: int) -> tuple[str, ...]:
    return (
        tuple(NOUNS[(start + 5 * i) % len(NOUNS)] for i in range(2)) if "{noun}" in frame else ("",)
    )


def _comment(random: np.random.Generator) -> tuple[str, int]:
    label = int(random.random() < 0.5)
    frames = [str(random.choice(_WITHOUT_IDENTITY)) for _ in range(3)]
    term = ""
    if random.random() < _WITH_IDENTITY:
        frames[0] = str(random.choice(_FRAMES))
        term = str(
            random.choice(
                TARGETED if bool(label) == (random.random() < _IDENTITY_AGREES) else FAVOURED
            )
        )
    clauses = [
        frame.format(identity=term, noun=random.choice(NOUNS), word=_word(random, label))
        for frame in frames
    ]
    return ", ".join(clauses), label


def _word(random: np.random.Generator, label: int) -> str:
    toxic = bool(label) == (random.random() < _WORD_AGREES)
    return str(random.choice(TOXIC if toxic else KIND))
