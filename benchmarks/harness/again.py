"""Rows that are made again: of a cell that is run anew, or of an edit that is evaluated with other
settings than it was made with.

Such a row, one that was scored again, says in `rescored_from` what it was made from: the `cell`,
the hash and the commit of the other row, the arguments of its environment that were `set`, and what
these were `before`. To run it again is to learn and to edit as the other row did, and to evaluate
what comes of it as this one does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness.agent_files import of_agent
from benchmarks.harness.asking import settings_of
from benchmarks.harness.evaluation import Evaluated
from benchmarks.harness.isolation import Isolated, run_isolated
from benchmarks.harness.measure import Outcome
from benchmarks.harness.provenance import processor, provenance
from benchmarks.harness.sources import source_of
from benchmarks.harness.validation import Verdict
from benchmarks.results import Cell, Measurement, Row, build_row, canonical_json, row_hash
from benchmarks.results.agreement import rerun_differences
from editgym.checks import as_json


def rerun_row(row: Row) -> Verdict:
    """Let the agent of one finished row learn and edit again, and compare the new row with it: all
    that `rows_agree` compares on the CPU, metrics to `CUDA_TOLERANCE` on a GPU. The verdict says
    what was run again, and what was evaluated again alone.
    """
    try:
        source = source_of(row)
        outcome = run_isolated(source)
        found = outcome.row
        if found["status"] == "finished" and "rescored_from" in row:
            found = _evaluated_again(row, outcome)
        problems = (*_settings_differences(row, source), *rerun_differences(row, found))
        return Verdict(row, problems, found, told_of_rerun(row, found))
    except (Exception, SystemExit) as error:  # a row may hold anything at all
        return Verdict(row, (f"cannot be run again: {type(error).__name__}: {error}",))


def _settings_differences(row: Row, source: Cell) -> tuple[str, ...]:
    """A line where the row's settings, by which tables tell agents apart, are not those that its
    agent works with when it is made as it was typed: it would be shown as another agent. What
    nobody wrote down, of migrated rows, is no difference.
    """
    if "migrated_from" in row:
        return ()
    recorded, here = row["settings"], settings_of(source)
    differing = [
        f"{name} is {canonical_json(here.get(name))}, recorded {canonical_json(recorded.get(name))}"
        for name in dict.fromkeys((*recorded, *here))
        if canonical_json(recorded.get(name)) != canonical_json(here.get(name))
    ]
    if not differing:
        return ()
    return (f"of its settings, as they follow from agent_config, {', '.join(differing)}",)


def told_of_replay(row: Row) -> tuple[str, ...]:
    """What a replay of a row's journal shows, where the row was scored again."""
    if "rescored_from" not in row:
        return ()
    return (f"{_scored_again(row)}: evaluated again, and not run again",)


def told_of_rerun(row: Row, found: Row) -> tuple[str, ...]:
    """What was run again, by which code, and on which other processor, where it is another."""
    here = f"by the code {_commit(found)}"
    if "rescored_from" not in row:
        said = f"run again {here}; the row is by {_commit(row)}"
    else:
        made_from = row["rescored_from"]
        said = (
            f"{_scored_again(row)}: the cell {made_from['cell'][:12]} was run again {here} (its"
            f" edit is by {_commit(made_from)}), and what came of it was evaluated again with the"
            f" row's settings (the row is by {_commit(row)})"
        )
    return (said, *_other_processor(row, found))


def _other_processor(row: Row, found: Row) -> tuple[str, ...]:
    recorded, here = (processor(one["hardware"]) for one in (row, found))
    if recorded == here:
        return ()
    return (
        f"on another processor ({here}; the row is of {recorded}): sums may differ in their last"
        " bits, and what an agent searches by them more",
    )


def _scored_again(row: Row) -> str:
    made_from = row["rescored_from"]
    given = ", ".join(f"{key}={value}" for key, value in made_from["set"].items())
    return f"scored again from {made_from['cell'][:12]} with {given}"


def _commit(row: Mapping[str, Any]) -> str:
    return str(row.get("git") or "unknown")


def _evaluated_again(row: Row, outcome: Outcome) -> Row:
    """The row of an edit that was made again, as `row` measures it."""
    cell, made_from = Cell.of(row), row["rescored_from"]
    assert outcome.journal is not None, "it is finished"
    with tempfile.TemporaryDirectory() as folder, closing(Isolated()) as place:
        file = Path(folder) / "journal.safetensors"
        file.write_bytes(outcome.journal)
        found = place.evaluate(cell, file, outcome.row["access"])
    own = {key: outcome.row[key] for key in ("row_sha256", "git")}
    return row_again(outcome.row, cell, outcome.journal, found, {**made_from, **own})


class Rescoring(NamedTuple):
    """An edit that is scored again.

    Attributes:
        row: The row that it is of.
        cell: The cell of the new row.
        made_from: What `rescored_from` says there.
    """

    row: Row
    cell: Cell
    made_from: Mapping[str, Any]

    @classmethod
    def of(cls, row: Row, given: Mapping[str, Any]) -> Rescoring | None:
        """The edit of a row, with other arguments of the environment; None where it was measured
        with these.
        """
        before = row["env_kwargs"]
        changed = {
            key: value
            for key, value in as_json(given).items()
            if key not in before or before[key] != value
        }
        if not changed:
            return None
        earlier = {"rescored_from": row["rescored_from"]} if "rescored_from" in row else {}
        made_from = {
            **{key: row.get(key) for key in ("cell", "row_sha256", "git")},
            "set": changed,
            "before": {key: before[key] for key in changed if key in before},
            **earlier,
        }
        new = {**row, "env_kwargs": {**before, **changed}, "rescored_from": made_from}
        return cls(row, Cell.of(new), made_from)


def row_again(
    row: Row,
    cell: Cell,
    journal: bytes | memoryview,
    found: Evaluated,
    made_from: Mapping[str, Any],
) -> Row:
    """The row of a cell whose edit is that of another row.

    Args:
        row: The other row: access, calls, times and files of the agent are its.
        cell: The cell.
        journal: The edit.
        found: What the edit does, as the cell measures it.
        made_from: What `rescored_from` says of the other row.

    Raises:
        ValueError, TypeError: What was measured is no JSON value.
    """
    measurement = Measurement(
        "finished",
        row["access"],
        found.metrics,
        found.curves,
        {**row["time"], "eval_s": found.seconds},
        row["reward_calls"],
        row.get("peak_memory_bytes"),
        journal,
        None if found.records is None else found.records.encode(),
        {**of_agent(row), **found.fingerprints},
    )
    made = {
        **build_row(cell, measurement, provenance(cell)),
        "rescored_from": dict(made_from),
    }
    return {**made, "row_sha256": row_hash(made)}
