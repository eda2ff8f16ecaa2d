"""The words around a table: how to read it, and what to know about single lines."""

from __future__ import annotations

from benchmarks.report.aggregate import Group
from benchmarks.report.comparisons import RANKED_FROM
from benchmarks.report.estimates import PROVISIONAL_BELOW
from benchmarks.report.families import FAMILIES, SCORE
from benchmarks.report.standings import SHALLOW_PROBE, SHALLOW_SHARE, SHALLOW_STEPS, VERIFIED

ACCESS = {
    "reward": "black box: observations and rewards only",
    "gradient": "white box: gradients of the reward",
    "data": "a classical algorithm on the model and its data",
    "oracle": "more than an editor may have, such as retraining from scratch",
}


def reading(group: Group) -> str:
    """How to read the table of a group."""
    if not any(standing.n for standing in group.standings):
        return "No cell of this table is finished yet."
    order = (
        "Lines are sorted by name, since no family of metrics says what agents are ranked by."
        if group.family is None
        else f"Lines are sorted by the {SCORE.replace('_', ' ')} of"
        f" {FAMILIES[group.family].score_words}."
    )
    pooled = (
        f" Runs of {len(group.strata)} environments and tasks are pooled; seeds are resampled"
        " within each task, in all its environments at once, since these share a seed's network."
        * (len(group.strata) > 1)
    )
    return (
        "How to read this: a number is the interquartile mean over seeds (the mean of the middle"
        f" half), in brackets its 95% bootstrap interval over seeds, from {PROVISIONAL_BELOW} seeds"
        f" on.{pooled} #k, from {RANKED_FROM} seeds on, is 1 + the number of agents that are better"
        " by a paired t-test over seeds, at a chance of 5% that any two agents of a column are told"
        " apart falsely (Holm's procedure over all pairs); agents that cannot be told apart may"
        f" share a rank. {order} ↑ higher is better, ↓ lower is better, no arrow: a description."
        " Times are medians of wall-clock time. Compare agents of one kind of access."
    )


def notes(group: Group) -> tuple[str, ...]:
    """What to know about single lines of the table of a group."""
    standings = group.standings
    found = [
        f"{standing.label} does not do this: {standing.unsupported}"
        for standing in standings
        if standing.unsupported
    ]
    found += [
        f"{standing.label} is {standing.agent}."
        for standing in standings
        if standing.label != standing.agent
    ]
    found += [
        f"{standing.label} has {standing.seeds} seeds: it failed or gave up the others, where"
        " another agent has a result. So it is compared with nobody, and has no rank."
        for standing in standings
        if standing.lacking
    ]
    if group.left_out:
        found.append(
            "Without a result in each of the pooled tasks, and so not here:"
            f" {', '.join(group.left_out)}."
        )
    if any(standing.provisional for standing in standings):
        found.append(
            f"provisional: fewer than {PROVISIONAL_BELOW} seeds, and so no interval: of 3 seeds a"
            " nominal 95% interval covers about 75%."
        )
    if any(standing.shallow for standing in standings):
        found.append(
            f"shallow: the class looks forgotten, but an attack has {SHALLOW_SHARE:.0%} or more of"
            " the way from the retrained network back to the unedited one; in rows without attacks,"
            f" {SHALLOW_STEPS} steps of fine-tuning bring it back, or a linear probe of features"
            f" finds {SHALLOW_PROBE:.0%} of what it found before, and not so in the retrained one."
        )
    texts = {text for rows in group.rows.values() for row in rows for text in row.get(VERIFIED, ())}
    if texts:
        found.append(
            "verified: somebody else ran the cells again and got the same rows:"
            f" {'; '.join(sorted(texts))}."
        )
    shown = {standing.access for standing in standings}
    found.append(
        "access: "
        + "; ".join(f"{name}: {meaning}" for name, meaning in ACCESS.items() if name in shown)
    )
    return tuple(found)
