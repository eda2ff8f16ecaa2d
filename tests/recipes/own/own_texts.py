"""Text data of one's own: functions that return comments, and texts about identities."""

from __future__ import annotations

from editgym.data.identity import IdentityTexts
from editgym.data.text import Comments

WORDS = (("kind", 0), ("wise", 0), ("vile", 1), ("foul", 1))
WHO = [
    "old",
    "tall",
    "young",
    "short",
    "left",
    "right",
    "far",
    "near",
    "slow",
    "fast",
    "thin",
    "wide",
]


def comments() -> Comments:
    """General comments, half of them toxic."""
    rows = [(f"remark {i} is {word}", label) for i in range(60) for word, label in WORDS]
    texts, labels = zip(*rows, strict=True)
    return Comments(texts, labels)


def identities() -> IdentityTexts:
    """Texts about identities: text, label, identity, template and the word that decides."""
    rows = [
        (f"{who} people are {word} {i}", label, who, f"people are {word} {i}", word)
        for i in range(10)
        for word, label in WORDS
        for who in WHO
    ]
    return IdentityTexts(*zip(*rows, strict=True))
