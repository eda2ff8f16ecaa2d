"""A journal that lives in a folder: every step is a file, memory holds none of them, and a crash
loses none.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from editgym.weights.journal.journal import EditJournal, Entry, JournalError

_STEP_FILE = "{:08d}.safetensors"


class DiskJournal(EditJournal):
    """An `EditJournal` whose entries are files of `folder`, one per step, mapped into memory when
    they are read.

    A step is written before it counts, completely or not at all, so what `append` has returned from
    survives a `kill -9`; opening the folder again continues there. A folder is one journal's: where
    another one has written there since, nothing is written or removed.

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
        for file in self._files():
            self.entries += self._read(file)

    def append(self, *entries: Entry) -> None:
        """Write the entries, a file per step, then count them.

        Raises:
            ValueError: A step is negative or below the one before it.
            JournalError: Another journal has written to the folder, or the last step of this one is
                gone from it.
            OSError: The folder cannot be written; the journal is as it was.
        """
        numbered = EditJournal(self.base_hash, list(self.entries[-1:]))
        known = len(numbered)
        numbered.append(*entries)
        new = numbered.entries[known:]
        self._check_last()
        before, begun = self.entries, set[int]()
        try:
            for step in dict.fromkeys(entry.step or 0 for entry in new):
                self._check_free(step)
                begun.add(step)
                self._write(step, [entry for entry in new if entry.step == step])
        except BaseException:
            self.entries = before
            with suppress(OSError):  # what failed is more than that it could not be put back
                self._restore(begun)
            raise

    def undo(self) -> list[Entry]:
        """Take back the last step as `EditJournal.undo` does, and its file.

        Raises:
            JournalError: Another journal has written to the folder; nothing has changed then.
        """
        self._check_alone()
        undone = super().undo()
        self._remove(undone)
        return undone

    def rollback(self, step: int) -> list[Entry]:
        """Go back to a step as `EditJournal.rollback` does, without the files of later ones.

        Raises:
            JournalError: Another journal has written to the folder; nothing has changed then.
        """
        self._check_alone()
        removed = super().rollback(step)
        self._remove(removed)
        return removed

    def begun_anew(self) -> DiskJournal:
        """This journal, emptied: its folder holds one stream."""
        self.rollback(0)
        return self

    def _write(self, step: int, entries: list[Entry]) -> None:
        """Write the last step, or what is added to it, and count it."""
        at = len(self.entries)
        while at and self.entries[at - 1].step == step:
            at -= 1
        own = EditJournal(self.base_hash, [*self.entries[at:], *entries])
        self.entries = self.entries[:at] + self._read(own.save(self._file(step)))

    def _restore(self, steps: set[int]) -> None:
        """Make the files of steps what the journal has of them."""
        for step in sorted(steps, reverse=True):
            own = [entry for entry in self.entries if entry.step == step]
            if own:
                EditJournal(self.base_hash, own).save(self._file(step))
            else:
                self._file(step).unlink(missing_ok=True)

    def _check_free(self, step: int) -> None:
        """Refuse to write where another journal has written."""
        known = bool(self.entries) and self.entries[-1].step == step
        if not known and self._file(step).exists():
            raise self._strange(step)

    def _check_last(self) -> None:
        """Refuse to go on where the last step is gone."""
        if self.entries and not self._file(last := self.entries[-1].step or 0).exists():
            raise JournalError(
                f"{self.folder} does not hold step {last} any more: somebody else has removed it;"
                " begin anew"
            )

    def _check_alone(self) -> None:
        """Refuse to remove anything where another journal has written to the folder."""
        known = {entry.step for entry in self.entries}
        there = {int(file.stem) for file in self._files() if file.stem.isdecimal()}
        if strange := sorted(there - known):
            raise self._strange(strange[0])

    def _strange(self, step: int) -> JournalError:
        return JournalError(
            f"{self.folder} holds step {step}, which is not this journal's: another environment"
            " writes there too; give each a folder of its own"
        )

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.safetensors"))

    def _file(self, step: int) -> Path:
        return self.folder / _STEP_FILE.format(step)

    def _remove(self, removed: list[Entry]) -> None:
        """Remove the files of the last entries, which the journal has let go of already; those of
        files that cannot be removed are the journal's again.
        """
        # From the last, so that what a crash leaves is a stream up to some step. The tensors stay
        # readable: a mapped file lives on until the last mapping goes.
        steps = sorted({entry.step or 0 for entry in removed}, reverse=True)
        try:
            for step in steps:
                self._file(step).unlink(missing_ok=True)
        except BaseException:
            left = {step for step in steps if self._file(step).exists()}
            self.entries = [*self.entries, *(one for one in removed if one.step in left)]
            raise

    def _read(self, file: Path) -> list[Entry]:
        journal = EditJournal.load(file)
        if journal.base_hash != self.base_hash:
            raise JournalError(
                f"{self.folder} holds the journal of the network {journal.base_hash[:12]}…, this"
                f" one is {self.base_hash[:12]}…: use another folder"
            )
        return journal.entries
