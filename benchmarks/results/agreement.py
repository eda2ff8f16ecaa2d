"""Whether a cell that was run again says what its row says."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.results.cell import Row
from benchmarks.results.rows import differing_fields

# Sums on a GPU may be split differently from run to run; on the CPU with one thread they are the
# same bits.
CUDA_TOLERANCE = 1e-4
_OF_LAST_BITS = frozenset({"edit_sha256", "edit_bytes", "records_sha256"})


def on_cuda(row: Row) -> bool:
    """Whether the row was measured on a GPU; with a `device_map`, where the machine had one."""
    arguments = row["env_kwargs"]
    if arguments.get("device_map") is not None:
        return row["hardware"].get("gpu") is not None
    return str(arguments.get("device", "cpu")).startswith("cuda")


def rerun_differences(row: Row, rerun: Row) -> tuple[str, ...]:
    """One line for each way in which the row of a cell that was run again differs from the first:
    in anything that `rows_agree` compares. On a GPU metrics may differ by `CUDA_TOLERANCE`, and
    what follows from last bits is not compared: curves, the edit, and the records.
    """
    if rerun["status"] != "finished":
        return (f"run again it is {rerun['status']}: {rerun['error']}",)
    fields = differing_fields(row, rerun)
    tolerance = 0.0
    if on_cuda(row):
        fields = [field for field in fields if not _is_of_last_bits(field, row, rerun)]
        tolerance = CUDA_TOLERANCE
    metrics = differences(row["metrics"], rerun["metrics"], tolerance)
    others = tuple(
        f"run again, its {field} is {rerun.get(field)!r}, recorded {row.get(field)!r}"
        for field in fields
        if field != "metrics" or not (metrics or tolerance)
    )
    return (*metrics, *others)


def _is_of_last_bits(field: str, row: Row, rerun: Row) -> bool:
    """Whether a difference in a field follows from other last bits of sums: not that there is an
    edit, or that there are records.
    """
    is_there = (row.get(field) is None) == (rerun.get(field) is None)
    return field == "curves" or (field in _OF_LAST_BITS and is_there)


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
