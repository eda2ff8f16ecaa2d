"""The ordered list of edits made to a network, in memory, in a folder and in a file."""

from editgym.weights.journal.disk_journal import DiskJournal
from editgym.weights.journal.entries import (
    Codebook,
    Entry,
    Prepend,
    Remember,
    ReplaceTensors,
    SiteEdit,
    Skip,
)
from editgym.weights.journal.journal import EditJournal, JournalError

__all__ = [
    "Codebook",
    "DiskJournal",
    "EditJournal",
    "Entry",
    "JournalError",
    "Prepend",
    "Remember",
    "ReplaceTensors",
    "SiteEdit",
    "Skip",
]
