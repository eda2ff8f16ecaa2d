"""A journal that lives in a folder: every step is a file, memory holds none of them, and a crash
loses none.
"""

from __future__ import annotations

import os
from pathlib import Path

from editgym.weights.journal.journal import EditJournal, Entry, JournalError

_STEP_FILE = "{:08d}.safetensors"


class DiskJournal(EditJournal):
    """An `EditJournal` whose entries are files of `folder`, one per step, mapped into memory when
    they are read.

    A step is written before it counts, completely or not at all, so what `append` has returned from
    survives a `kill -9`; opening the folder again continues there.

    Args:
        base_hash: Fingerprint of the base network, as in `EditJournal`.
        folder: Made if need be. Steps that are there already are the journal's first ones.

    Raises:
        JournalError: The folder holds the journal of another network, or a damaged file.
    """

    def __init__(self, base_hash: str, folder: str | os.PathLike[str]) -> None:
        super().__init__(base_hash)
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(self.folder.glob("*.safetensors")):
            self.entries += self._read(file)

    def append(self, *entries: Entry) -> None:
        """Write the entries, a file per step, then count them.

        Raises:
            ValueError: A step is negative or below the one before it.
            OSError: The folder cannot be written; the journal is as it was.
        """
        numbered = EditJournal(self.base_hash, list(self.entries[-1:]))
        known = len(numbered)
        numbered.append(*entries)
        new = numbered.entries[known:]
        for step in dict.fromkeys(entry.step for entry in new):
            assert step is not None
            earlier = [entry for entry in self.entries if entry.step == step]
            own = [*earlier, *(entry for entry in new if entry.step == step)]
            written = self._read(EditJournal(self.base_hash, own).save(self._file(step)))
            self.entries = self.entries[: len(self.entries) - len(earlier)] + written

    def undo(self) -> list[Entry]:
        """Take back the last step as `EditJournal.undo` does, and its file."""
        undone = super().undo()
        self._remove(min(entry.step or 0 for entry in undone))
        return undone

    def rollback(self, step: int) -> list[Entry]:
        """Go back to a step as `EditJournal.rollback` does, without the files of later ones."""
        removed = super().rollback(step)
        self._remove(step)
        return removed

    def begun_anew(self) -> DiskJournal:
        """This journal, emptied: its folder holds one stream."""
        self.rollback(0)
        return self

    def _file(self, step: int) -> Path:
        return self.folder / _STEP_FILE.format(step)

    def _remove(self, step: int) -> None:
        """Remove the files from a step on, one that an interrupted `append` has left among them."""
        # From the last, so that what a crash leaves is a stream up to some step. The tensors stay
        # readable: a mapped file lives on until the last mapping goes.
        for file in sorted(self.folder.glob("*.safetensors"), reverse=True):
            if file.stem.isdecimal() and int(file.stem) >= step:
                file.unlink(missing_ok=True)

    def _read(self, file: Path) -> list[Entry]:
        journal = EditJournal.load(file)
        if journal.base_hash != self.base_hash:
            raise JournalError(
                f"{self.folder} holds the journal of the network {journal.base_hash[:12]}…, this"
                f" one is {self.base_hash[:12]}…: use another folder"
            )
        return journal.entries
