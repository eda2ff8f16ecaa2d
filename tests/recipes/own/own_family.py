"""A metric family of one's own: names, better sides, score and trade-off."""

from benchmarks.report.families import FAMILIES, Family

FAMILIES["matrix"] = Family(
    "matrix",
    {"distance": "lower", "distance_before": None},
    score=lambda metrics: (
        None if metrics.get("distance") is None else 1 / (1 + metrics["distance"])
    ),
    score_words="one over one plus the distance",
    trade_off=("distance", "distance_before"),
)
