"""How often the leaderboard calls equal agents apart, and how often it finds one that is better:
`python -m benchmarks.studies.power`.

Simulated tables of 20 agents whose scores are normal, with what a seed's network adds to all of
them. In half of the tables all are equal; in the others one is ahead by one standard deviation of
an agent's own noise. Printed is the share of tables with a false call, among all pairs (ranks) and
beside one chosen agent (`report --against`), the share in which the better agent is found, and the
share in which an interval of one pair named beforehand lies above zero.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from tqdm import tqdm

from benchmarks.report.comparisons import RANKED_FROM, against, ranks
from benchmarks.report.estimates import Runs, paired_difference

AGENTS = 20
SEEDS = (5, 10, 20)
_CHOSEN, _AHEAD = "agent 0", "agent 1"


def simulated(rng: np.random.Generator, seeds: int, lead: float) -> dict[str, Runs]:
    """Scores of equal agents, the second of which is `lead` standard deviations ahead."""
    shared = rng.normal(scale=2.0, size=seeds)
    scores = shared + rng.normal(size=(AGENTS, seeds))
    scores[1] += lead
    return {
        f"agent {index}": {("task", "environment"): dict(enumerate(own))}
        for index, own in enumerate(scores)
    }


def rates(seeds: int, tables: int) -> dict[str, float | None]:
    """Shares of tables, by what is printed; None where nothing is tested with so few seeds."""
    rng = np.random.default_rng(seeds)
    counts = dict.fromkeys(("false_rank", "false_beside", "found_rank", "found_beside"), 0)
    named = 0
    for _ in tqdm(range(tables), desc=f"{seeds} seeds", leave=False, mininterval=0.5):
        equal, unequal = (simulated(rng, seeds, lead) for lead in (0.0, 1.0))
        counts["false_rank"] += any(one.beaten_by for one in ranks(equal, "higher").values())
        counts["false_beside"] += any(
            one.apart for one in against(equal, _CHOSEN, "higher").values()
        )
        placed = ranks(unequal, "higher")
        counts["found_rank"] += _CHOSEN in placed and _AHEAD in placed[_CHOSEN].beaten_by
        counts["found_beside"] += against(unequal, _CHOSEN, "higher")[_AHEAD].apart
        pair = paired_difference(unequal[_AHEAD], unequal[_CHOSEN])
        named += pair is not None and pair.sign > 0
    tested = seeds >= RANKED_FROM
    shares: Mapping[str, float] = {name: count / tables for name, count in counts.items()}
    return {
        **{name: share if tested else None for name, share in shares.items()},
        "named": named / tables,
    }


def table(tables: int) -> str:
    """The rates as Markdown."""
    head = [
        "seeds",
        "false call, ranks",
        "false call, beside one agent",
        "found, ranks",
        "found, beside one agent",
        "found, one pair named beforehand",
    ]
    lines = [head, ["--:"] * len(head)]
    for seeds in SEEDS:
        found = rates(seeds, tables).values()
        lines.append([str(seeds), *("—" if x is None else f"{x:.1%}" for x in found)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.power",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--tables", type=int, default=1_000, help="simulated for each row (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if options.tables < 1:
        parser.error(f"--tables must be 1 or more, got {options.tables}")
    print(table(options.tables))
    return 0


if __name__ == "__main__":
    sys.exit(main())
