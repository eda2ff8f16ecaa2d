"""What an interrupted edit of a stream goes on from, beside the rows: `OUT/unfinished/CELL/`.

A long stream of a large model takes hours, and a kill must not cost them. Only editors of the
catalogue that learn nothing leave anything there; it goes once the cell is finished, or its edit
has failed. What was killed, or edited and then not evaluated, goes on when the cell is run again.
Where a part of somebody's own has run, or is to, there is no such folder: it could write there
what another's edit goes on from.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from agents.checkpoints import CHECKPOINT, canonical
from agents.editors.stream import StreamEditor
from agents.hypernetworks.stream import is_stream_of_facts
from agents.protocol import Agent
from benchmarks.harness.provenance import provenance
from benchmarks.results import Cell
from editgym.paths import read_object, whole_file
from editgym.weights.journal.journal import EditJournal

FOLDER = "unfinished"
_MADE_BY, _BEGUN = "made_by.json", "begun.json"
_STEPS = "steps"
_EVERY = 60.0  # seconds between checkpoints at least: most edits are over before the first


class Unfinished:
    """The folder of one cell, which need not be there.

    Args:
        out: The folder of the rows.
        cell: The cell's id.
    """

    def __init__(self, out: Path, cell: str) -> None:
        self.folder = out.absolute() / FOLDER / cell

    def keep(self, made_by: Mapping[str, Any]) -> None:
        """Make the folder, without what other software, or another machine, has left there: a row
        is of one of each.
        """
        now = canonical(made_by)
        try:
            known = read_object(self.folder / _MADE_BY, {}, "it is not read")
        except ValueError:  # there is none, or it is damaged
            known = None
        if known != now:
            self.forget()
            with whole_file(self.folder / _MADE_BY) as partial:
                partial.write_text(json.dumps(now))

    def forget(self) -> None:
        """Delete the folder, and the one of all cells where it was the last."""
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            self.folder.parent.rmdir()
        except OSError:  # it is not there, or holds another cell's
            return


def kept_folder(cell: Cell, out: Path) -> Path:
    """Where an edit of the cell leaves what it goes on from; the folder is made."""
    unfinished = Unfinished(out, cell.id)
    unfinished.keep(provenance(cell))
    return unfinished.folder


class Edit:
    """An edit that leaves behind what it goes on from, where it is of a kind that does.

    Args:
        agent: Who edits, having learned.
        spec: The environment in which it does.
        seed: The episode's.
        folder: The cell's folder; None where nothing is to be left behind.

    Attributes:
        spec: The environment to make.
        seconds: What its parts took before they were interrupted, up to their last checkpoints.
        goes_on: Whether there is something to go on from: then nobody may reset the environment.
    """

    def __init__(self, agent: Agent, spec: EnvSpec, seed: int, folder: Path | None) -> None:
        self._agent, self._seed, self.spec = agent, seed, spec
        self._folder = folder if folder is not None and _leaves_checkpoints(agent, spec) else None
        self.seconds, self.goes_on = 0.0, False
        if self._folder is None:
            return
        self.goes_on = (self._folder / CHECKPOINT).is_file()
        if self.goes_on:
            self.seconds = _spent(self._folder)
        else:
            shutil.rmtree(self._folder / _STEPS, ignore_errors=True)
        spec.kwargs["journal_folder"] = str(self._folder / _STEPS)

    def journal(self, env: gym.Env) -> EditJournal:
        """Edit, and return the journal."""
        if self._folder is None or not isinstance(self._agent, StreamEditor):
            return self._agent.edit(env)
        with whole_file(self._folder / _BEGUN) as partial:
            partial.write_text(json.dumps({"at": time.time(), "seconds": self.seconds}))
        return self._agent.edit(env, self._folder, self._seed, every=_EVERY)


def _leaves_checkpoints(agent: Agent, spec: EnvSpec) -> bool:
    """Whether an edit can be gone on with by an agent that is made and trained anew."""
    return (
        isinstance(agent, StreamEditor) and agent.fingerprint() is None and is_stream_of_facts(spec)
    )


def _spent(folder: Path) -> float:
    """Seconds that went into what the checkpoint holds."""
    begun = read_object(
        folder / _BEGUN, {"at": float, "seconds": float}, f"delete {folder} to begin anew"
    )
    until = (folder / CHECKPOINT).stat().st_mtime
    return float(begun["seconds"] + max(0.0, until - begun["at"]))
