"""Whether a cell that was run again says what its row says."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.results.cell import Row
from benchmarks.results.rows import differing_fields

# Sums on a GPU may be split differently from run to run; on the CPU with one thread they are the
# same bits.
CUDA_TOLERANCE = 1e-4


def on_cuda(row: Row) -> bool:
    """Whether the row was measured on a GPU."""
    return str(row["env_kwargs"].get("device", "cpu")).startswith("cuda")


def rerun_differences(row: Row, rerun: Row) -> tuple[str, ...]:
    """One line for each way in which the row of a cell that was run again differs from the first:
    in anything that `rows_agree` compares on the CPU, in metrics by more than `CUDA_TOLERANCE` on a
    GPU.
    """
    if rerun["status"] != "finished":
        return (f"run again it is {rerun['status']}: {rerun['error']}",)
    if on_cuda(row):
        return differences(row["metrics"], rerun["metrics"], CUDA_TOLERANCE)
    fields = differing_fields(row, rerun)
    metrics = differences(row["metrics"], rerun["metrics"], 0.0) if "metrics" in fields else ()
    others = tuple(
        f"run again, its {field} is {rerun.get(field)!r}, recorded {row.get(field)!r}"
        for field in fields
        if field != "metrics" or not metrics
    )
    return (*metrics, *others)


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
