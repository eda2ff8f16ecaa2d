"""What a cell of a leaderboard is, what its row holds, and the files that rows are kept in."""

from benchmarks.results.cell import Cell, Row, canonical_json, edited_with, texts_in
from benchmarks.results.files import (
    ROWS_FILE,
    append_row,
    finished,
    no_rows,
    read_rows,
    read_what_can_be,
    rows_in,
)
from benchmarks.results.integrity import (
    is_elsewhere,
    journal_problem,
    records_problem,
    row_problem,
    ships_by_hash_alone,
)
from benchmarks.results.lines import ResultsError
from benchmarks.results.rows import (
    AGENT_FILES,
    CURVE_KEYS,
    SCHEMA,
    SHIPPED_BYTES,
    TIME_KEYS,
    Measurement,
    build_row,
    differing_fields,
    records_file,
    records_lines,
    row_hash,
    rows_agree,
)

__all__ = [
    "AGENT_FILES",
    "CURVE_KEYS",
    "ROWS_FILE",
    "SCHEMA",
    "SHIPPED_BYTES",
    "TIME_KEYS",
    "Cell",
    "Measurement",
    "ResultsError",
    "Row",
    "append_row",
    "build_row",
    "canonical_json",
    "differing_fields",
    "edited_with",
    "finished",
    "is_elsewhere",
    "journal_problem",
    "no_rows",
    "read_rows",
    "read_what_can_be",
    "records_file",
    "records_lines",
    "records_problem",
    "row_hash",
    "row_problem",
    "rows_agree",
    "rows_in",
    "ships_by_hash_alone",
    "texts_in",
]
