"""Replays journals of finished rows on fresh networks and compares metrics and curves with what the
rows say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.machine import single_thread
from benchmarks.harness.measure import evaluate_journal
from benchmarks.results import CURVE_KEYS, Cell, Row, journal_problem, row_problem

# Sums on a GPU may be split differently from run to run; on the CPU with one thread they are the
# same bits.
CUDA_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Verdict:
    """What the replay of one row showed.

    Attributes:
        row: The row.
        problems: How it differs from its replay; empty when it is reproduced.
    """

    row: Row
    problems: tuple[str, ...]


def sample_rows(rows: Sequence[Row], count: int, seed: int = 0) -> list[Row]:
    """`count` finished rows drawn without replacement, or all of them if there are fewer.

    Raises:
        ValueError: `count` is not positive, or no row is finished.
    """
    if count < 1:
        raise ValueError(f"sample must be 1 or more, got {count}")
    finished = [row for row in rows if row["status"] == "finished"]
    if not finished:
        raise ValueError("there is no finished row to validate: run a suite first")
    chosen = np.random.default_rng(seed).choice(
        len(finished), size=min(count, len(finished)), replace=False
    )
    return [finished[i] for i in sorted(chosen)]


def validate_row(row: Row, folder: Path) -> Verdict:
    """Replay one finished row: bitwise on the CPU, to `CUDA_TOLERANCE` on a GPU.

    Where a row and its replay both know them, model, data and files must be the same, too; and the
    row must be the one that was written.
    """
    problem = row_problem(row)
    changed = () if problem is None else (problem,)
    useless = journal_problem(row, folder) if row["edit_file"] else "it has no journal to replay"
    if useless is not None:
        return Verdict(row, (*changed, useless))
    try:
        with single_thread():
            replay = evaluate_journal(Cell.of(row), folder / row["edit_file"])
    # Another network, or data or a stranger's module that are not here.
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        return Verdict(row, (*changed, f"cannot be replayed: {error}"))
    cuda = str(row["env_kwargs"].get("device", "cpu")).startswith("cuda")
    tolerance = CUDA_TOLERANCE if cuda else 0.0
    return Verdict(
        row,
        changed
        + fingerprint_differences(row["fingerprints"], replay.fingerprints)
        + differences(row["metrics"], replay.evaluation.metrics, tolerance)
        + curve_differences(row["curves"], replay.evaluation.curves, tolerance),
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


def differences(
    recorded: Mapping[str, float | None], replayed: Mapping[str, float | None], tolerance: float
) -> tuple[str, ...]:
    """One line for each metric of the row that differs by more than `tolerance`, with both values
    and the difference. What this version measures beyond what the row has is no difference.
    """
    lines = []
    for key in recorded:
        a, b = recorded.get(key), replayed.get(key)
        if a is None or b is None:
            if a is not b:
                lines.append(f"{key}: recorded {a}, replayed {b}")
        elif not abs(a - b) <= tolerance:
            lines.append(f"{key}: recorded {a!r}, replayed {b!r}, differs by {abs(a - b):.3g}")
    return tuple(lines)


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
