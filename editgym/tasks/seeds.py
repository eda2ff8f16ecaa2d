"""The model seeds that a task is asked for."""

from __future__ import annotations

from collections.abc import Sequence


def checked_seeds(networks: Sequence[int] | None, model_seed: int) -> list[int]:
    """`networks`, or `model_seed` alone.

    Raises:
        ValueError: They are not whole numbers from 0, or there is none.
    """
    given: object = [model_seed] if networks is None else networks
    seeds: list[int] = list(given) if isinstance(given, list | tuple) else []
    if not seeds or not all(
        isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds
    ):
        named = f"model_seed: {model_seed!r}" if networks is None else f"networks: {networks!r}"
        raise ValueError(f"{named} must be model seeds, whole numbers from 0, at least one")
    return seeds
