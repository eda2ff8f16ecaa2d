"""The model seeds that a task is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from editgym.checks import is_whole, shown


def checked_seeds(networks: Sequence[int] | None, model_seed: int) -> list[int]:
    """`networks`, or `model_seed` alone, which is 0 unless something else is said.

    Raises:
        ValueError: They are not whole numbers from 0 that fit into 63 bits, there is none, one is
            there twice, or both are given.
    """
    given: object = [model_seed] if networks is None else networks
    seeds: list[int] = list(given) if isinstance(given, list | tuple) else []
    if not seeds or not all(is_whole(seed) and 0 <= seed < 2**63 for seed in seeds):
        name, value = ("model_seed", model_seed) if networks is None else ("networks", networks)
        raise ValueError(
            f"{name}: {shown(value)} must be model seeds, whole numbers from 0 to 2^63 - 1, at"
            " least one"
        )
    if networks is not None and model_seed != 0:
        raise ValueError(
            f"model_seed: {model_seed!r} is one network, and networks={seeds} are given too; say"
            " one of them"
        )
    if twice := [seed for seed in dict.fromkeys(seeds) if seeds.count(seed) > 1]:
        raise ValueError(
            f"networks: {twice[0]} is there twice; an episode draws one of the networks, so name"
            " each once"
        )
    return seeds
