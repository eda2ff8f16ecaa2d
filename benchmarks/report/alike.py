"""Rows of one environment and seed whose network, data, text or files are not the same: scores on
them are not compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmarks.results import Row, canonical_json

_NAMES = ("model", "data", "text", "files")


def others(rows: Sequence[Row]) -> list[str]:
    """What the title of each row's table says in addition: nothing, where fingerprints are those of
    most rows of its environment and seed, or are not known.

    Args:
        rows: Rows of one suite.
    """
    keys = [canonical_json([row["env_id"], row["env_kwargs"], row["seed"]]) for row in rows]
    found = [_known(row) for row in rows]
    counted: dict[tuple[str, str], Counter[str]] = {}
    for key, own in zip(keys, found, strict=True):
        for name, value in own.items():
            counted.setdefault((key, name), Counter()).update([value])
    places = {
        where: {value: place for place, (value, _) in enumerate(values.most_common())}
        for where, values in counted.items()
        if len(values) > 1
    }
    return [
        "".join(
            f" · other {name}" + (f" ({place})" if place > 1 else "")
            for name, value in own.items()
            if (place := places.get((key, name), {}).get(value, 0))
        )
        for key, own in zip(keys, found, strict=True)
    ]


def _known(row: Row) -> dict[str, str]:
    fingerprints = row["fingerprints"]
    return {
        name: canonical_json(fingerprints[name])
        for name in _NAMES
        if fingerprints.get(name) is not None
    }
