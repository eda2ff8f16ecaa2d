"""Replays journals of finished rows on fresh networks, and compares what comes out with what the
rows say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.agent_files import agent_files, known_files
from benchmarks.harness.evaluation import Evaluated
from benchmarks.harness.isolation import evaluated_apart
from benchmarks.harness.sources import source_of
from benchmarks.results import (
    CURVE_KEYS,
    Cell,
    ResultsError,
    Row,
    journal_problem,
    records_file,
    records_problem,
    row_problem,
)
from benchmarks.results.agreement import CUDA_TOLERANCE, differences, on_cuda
from benchmarks.results.lines import records_in


@dataclass(frozen=True)
class Verdict:
    """What the replay of one row showed.

    Attributes:
        row: The row.
        problems: How it differs from its replay; empty when it is reproduced.
        rerun: The row of the new run, where its cell was run again to the end.
        said: What was done, where that does not go without saying.
    """

    row: Row
    problems: tuple[str, ...]
    rerun: Row | None = None
    said: tuple[str, ...] = ()


def finished_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows that have a result.

    Raises:
        ValueError: There is none.
    """
    finished = [row for row in rows if row.get("status") == "finished"]
    if not finished:
        raise ValueError("there is no finished row to validate: run a suite first")
    return finished


def sample_rows(rows: Sequence[Row], count: int, seed: int = 0) -> list[Row]:
    """`count` finished rows drawn without replacement, or all of them if there are fewer.

    Raises:
        ValueError: `count` is not positive, or no row is finished.
    """
    if count < 1:
        raise ValueError(f"sample must be 1 or more, got {count}")
    finished = finished_rows(rows)
    chosen = np.random.default_rng(seed).choice(
        len(finished), size=min(count, len(finished)), replace=False
    )
    return [finished[i] for i in sorted(chosen)]


def named_rows(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """The finished rows whose cells begin with one of the names.

    Raises:
        ValueError: A name is no finished row's, or that of several.
    """
    finished = finished_rows(rows)
    chosen = []
    for name in names:
        found = [row for row in finished if row["cell"].startswith(name)]
        if len(found) != 1:
            raise ValueError(
                f"rows: {name!r} begins {len(found)} of {len(finished)} finished rows' cells; give"
                " the cell of one, or as much of it as tells it from the others"
            )
        chosen += found
    return chosen


def validate_row(row: Row, folder: Path) -> Verdict:
    """Replay one finished row: bitwise on the CPU, to `CUDA_TOLERANCE` on a GPU.

    Where a row and its replay both know them, model, data and files must be the same, too; per-edit
    records that lie beside the row must be those of the replay; and the row must be the one that
    was written. Whatever else is wrong with a row is a problem of that row.
    """
    try:
        return Verdict(row, tuple(_problems(row, folder)))
    except (Exception, SystemExit) as error:  # a row may hold anything at all
        return Verdict(row, (f"cannot be replayed: {type(error).__name__}: {error}",))


def _problems(row: Row, folder: Path) -> list[str]:
    beside = (row_problem(row), records_problem(row, folder))
    changed = [problem for problem in beside if problem is not None]
    changed += _source_problems(row)
    useless = journal_problem(row, folder) if row["edit_file"] else "it has no journal to replay"
    if useless is not None:
        return [*changed, useless]
    try:
        replay = evaluated_apart(Cell.of(row), folder / row["edit_file"], row["access"])
    # Another network, or data or a stranger's module that are not here.
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        return [*changed, f"cannot be replayed: {error}"]
    tolerance = CUDA_TOLERANCE if on_cuda(row) else 0.0
    return [
        *changed,
        *removed(row, replay.metrics, replay.fingerprints),
        *fingerprint_differences(row["fingerprints"], replay.fingerprints),
        *agent_file_differences(row),
        *differences(row["metrics"], replay.metrics, tolerance),
        *curve_differences(row["curves"], replay.curves, tolerance),
        *record_differences(folder / records_file(row["cell"]), _records(replay)),
    ]


def _records(replay: Evaluated) -> list[Any]:
    return [json.loads(line) for line in (replay.records or "").split("\n") if line]


def _source_problems(row: Row) -> list[str]:
    """What is wrong with the cell that the row names as its edit's."""
    try:
        source_of(row)
        return []
    except ValueError as error:
        return [str(error)]


def removed(
    row: Row, metrics: Mapping[str, float | None], fingerprints: Mapping[str, Any]
) -> tuple[str, ...]:
    """One line for each metric and fingerprint that a row of this version should have and has not;
    of earlier rows nobody can say what they had.
    """
    from editgym.version import __version__

    if "records_sha256" not in row or row["versions"].get("editgym") != __version__:
        return ()
    return tuple(
        f"{kind} {name} is missing: replayed {value}"
        for kind, recorded, replayed in (
            ("metric", row["metrics"], metrics),
            ("fingerprint", row["fingerprints"], fingerprints),
        )
        for name, value in replayed.items()
        if value is not None and recorded.get(name) is None
    )


def fingerprint_differences(
    recorded: Mapping[str, Any], replayed: Mapping[str, Any]
) -> tuple[str, ...]:
    """One line for each fingerprint that both know and that differs."""
    return tuple(
        f"fingerprint of the {name}: recorded {value}, here {replayed[name]}"
        for name, value in recorded.items()
        if value is not None and replayed.get(name) not in (None, value)
    )


def agent_file_differences(row: Row) -> tuple[str, ...]:
    """One line for each file or folder of the agent's that is here and is not what the agent read
    then: the journal is still its edit, but to run it again is to run another agent.
    """
    recorded = known_files(row)
    return tuple(
        f"{name}, which the agent read: recorded {recorded[name]}, here {found}"
        for name, found in agent_files(Cell.of(row)).items()
        if name in recorded and found != recorded[name]
    )


def curve_differences(
    recorded: Mapping[str, Any], replayed: Mapping[str, Any], tolerance: float
) -> tuple[str, ...]:
    """One line for each curve, a list of points, with another number of points or one that is off
    by more.
    """
    lines = []
    for key in CURVE_KEYS:
        a, b = recorded.get(key), replayed.get(key)
        if a is None or b is None:
            if a is not b:
                lines.append(f"curve {key}: recorded {a}, replayed {b}")
        elif len(a) != len(b):
            lines.append(f"curve {key}: recorded {len(a)} points, replayed {len(b)}")
        else:
            lines += [
                f"curve {key}, point {i}: recorded {p}, replayed {q}"
                for i, (p, q) in enumerate(zip(a, b, strict=True))
                if not np.all(np.abs(np.subtract(p, q)) <= tolerance)
            ]
    return tuple(lines)


def record_differences(file: Path, replayed: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """One line for the first per-edit record that is not the replay's, and how many are not; none
    where the file is not here. Fields that a record lacks, of an earlier version, are no
    difference.
    """
    if not file.is_file():
        return ()
    try:
        recorded = list(records_in(file))
    except ResultsError as error:
        return (str(error),)
    if len(recorded) != len(replayed):
        return (f"{file.name}: {len(recorded)} records, replayed {len(replayed)}",)
    again = [json.loads(json.dumps(record)) for record in replayed]
    wrong = [
        (number, key)
        for number, (one, other) in enumerate(zip(recorded, again, strict=True))
        for key in one
        if one[key] != other.get(key)
    ]
    if not wrong:
        return ()
    (number, key), lines = wrong[0], len({number for number, _ in wrong})
    return (
        f"{file.name}: {lines} of {len(recorded)} records differ; the {key} of record {number} is"
        f" {recorded[number][key]!r}, replayed {again[number].get(key)!r}",
    )
