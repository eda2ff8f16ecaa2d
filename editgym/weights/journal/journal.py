"""The ordered list of edits made to a network: undo, rollback, replay, and a file that is safe to
load.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import torch

from editgym.weights.journal import journal_file
from editgym.weights.journal.entries import (
    Adapter,
    Codebook,
    Entry,
    EntryKind,
    Prepend,
    Remember,
    ReplaceTensors,
    SiteEdit,
    Skip,
)
from editgym.weights.journal.journal_file import JournalError

__all__ = [
    "Adapter",
    "Codebook",
    "EditJournal",
    "Entry",
    "EntryKind",
    "JournalError",
    "Prepend",
    "Remember",
    "ReplaceTensors",
    "SiteEdit",
    "Skip",
]


@dataclass
class EditJournal:
    """Edits in the order they were applied, and the base network that they belong to.

    Attributes:
        base_hash: Fingerprint of the base network (`editgym.weights.fingerprint`).
        entries: The edits; entries of one `step` are undone together.
    """

    base_hash: str
    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        given, self.entries = self.entries, []
        for entry in given:
            self.append(entry)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    @property
    def steps(self) -> int:
        """Number of different steps with an edit in the journal."""
        return len({entry.step for entry in self.entries if not isinstance(entry, Skip)})

    def content_hash(self, step: int) -> str:
        """sha256 over the entries of one step: equal for equal edits, in memory or on disk."""
        return journal_file.content_hash([entry for entry in self.entries if entry.step == step])

    def append(self, *entries: Entry) -> None:
        """Add entries at the end; those without a step are together the step after the last.

        Raises:
            ValueError: A step is negative or below the one before it; nothing has changed then.
        """
        last = _step(self.entries[-1]) if self.entries else -1
        numbered = [
            entry if type(entry.step) is int else replace(entry, step=_number(entry.step, last + 1))
            for entry in entries
        ]
        for before, step in pairwise([max(last, 0), *map(_step, numbered)]):
            if step < before:
                raise ValueError(
                    f"steps begin at 0 and never go back, got step {step} after step {before}"
                )
        self.entries.extend(numbered)

    def undo(self) -> list[Entry]:
        """Remove and return the entries of the last step with an edit, and all after it.

        Raises:
            IndexError: There is no edit in the journal.
        """
        edits = [entry for entry in self.entries if not isinstance(entry, Skip)]
        if not edits:
            raise IndexError("nothing to undo: the journal is empty, or has skips alone")
        return EditJournal.rollback(self, _step(edits[-1]))

    def rollback(self, step: int) -> list[Entry]:
        """Keep the entries before `step` (so `rollback(0)` removes all) and return the removed
        ones.

        Raises:
            ValueError: `step` is negative.
        """
        if step < 0:
            raise ValueError(f"step must be 0 or more, got {step}")
        removed = [entry for entry in self.entries if _step(entry) >= step]
        self.entries = [entry for entry in self.entries if _step(entry) < step]
        return removed

    def begun_anew(self) -> EditJournal:
        """An empty journal to go on with; this one stays as it is, for somebody may keep it."""
        return EditJournal(self.base_hash)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the journal as safetensors, completely or not at all.

        Raises:
            OSError: The folder cannot be written.
        """
        return journal_file.write(Path(path), self.base_hash, self.entries)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> EditJournal:
        """Read a journal that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            JournalError: The file is truncated, is not safetensors, or is not a journal of this
                format.
        """
        base_hash, entries = journal_file.read(Path(path), device)
        try:
            return cls(base_hash, entries)
        except ValueError as error:
            raise journal_file.incomplete(Path(path), error) from error


def require_journal(journal: object) -> None:
    """Raise the error of what should be a journal and is none.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(journal, EditJournal):
        raise TypeError(
            "journal must be an EditJournal, as an agent's edit returns one and EditJournal.load"
            f" reads one, got a {type(journal).__name__}"
        )


def _number(step: int | None, following: int) -> int:
    """A step as Python's own number: one of NumPy's could not be written to a file later."""
    return following if step is None else operator.index(step)


def _step(entry: Entry) -> int:
    assert entry.step is not None, "the journal numbers its entries"
    return entry.step
