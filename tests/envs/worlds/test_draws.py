"""What an episode and a step draw, computed again with Python's integers."""

from types import SimpleNamespace

import pytest
import torch

from editgym.envs.worlds.draws import Draws

MASK = 2**64 - 1
KEYS = (11, 12, 13, 14, 15, 16)
NETWORKS, GOALS, BATCH = 5, 4, 3
SIZES = {"retain": 7, "forget": 3}


def mixed(z):
    """SplitMix64's finaliser."""
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def drawn(key, counter, stream, count, high):
    """`count` numbers below `high` of a stream: 64 random bits make two of them, all lower halves
    first."""
    base = mixed(key ^ mixed(counter * 64 + stream))
    half = (count + 1) // 2
    bits = [mixed(base + i * 0x9E3779B97F4A7C15 & MASK) for i in range(1, half + 1)]
    halves = [b & 0xFFFFFFFF for b in bits] + [b >> 32 for b in bits]
    return [h * high >> 32 for h in halves[:count]]


@pytest.fixture
def draws():
    task = SimpleNamespace(
        device=torch.device("cpu"),
        set_names=tuple(SIZES),
        networks=[None] * NETWORKS,
        goals=[
            SimpleNamespace(
                features=torch.tensor([goal / GOALS]),
                members={name: 100 * goal + torch.arange(size) for name, size in SIZES.items()},
            )
            for goal in range(GOALS)
        ],
    )
    draws = Draws(task, BATCH, False, len(KEYS))
    draws.seed(KEYS)
    return draws


def test_episodes_draw_networks_and_goals_from_streams_of_their_own(draws):
    for episode in range(3):
        draws.begin()
        counter = 2**40 + episode  # where the counters of steps never get
        networks = [drawn(key, counter, 0, 1, NETWORKS)[0] for key in KEYS]
        goals = [drawn(key, counter, 1, 1, GOALS)[0] for key in KEYS]
        assert draws.network_index.tolist() == networks
        assert draws.goal_index.tolist() == goals
        assert draws.features.flatten().tolist() == [goal / GOALS for goal in goals]


def test_steps_draw_every_reward_set_from_a_stream_of_its_own(draws):
    draws.begin()
    goals = draws.goal_index.tolist()
    for step in range(3):
        expected = [
            [
                [100 * goal + row for row in drawn(key, step, 2 + place, BATCH, size)]
                for key, goal in zip(KEYS, goals, strict=True)
            ]
            for place, size in enumerate(SIZES.values())
        ]
        assert [rows.tolist() for rows in draws.batch()] == expected
        assert [rows.tolist() for rows in draws.batch()] == expected, "the same until it advances"
        draws.advance()


def test_a_candidate_without_a_key_goes_on(draws):
    for _ in range(2):
        draws.begin()
        draws.advance()
    draws.seed([None, *KEYS[1:]])
    draws.begin()
    counters = [2, *[0] * (len(KEYS) - 1)]
    assert draws.goal_index.tolist() == [
        drawn(key, 2**40 + counter, 1, 1, GOALS)[0]
        for key, counter in zip(KEYS, counters, strict=True)
    ]
    expected = [
        [100 * goal + row for row in drawn(key, counter, 2, BATCH, SIZES["retain"])]
        for key, counter, goal in zip(KEYS, counters, draws.goal_index.tolist(), strict=True)
    ]
    assert draws.batch()[0].tolist() == expected


def test_seeding_begins_anew(draws):
    draws.begin()
    first = [rows.tolist() for rows in draws.batch()], draws.network_index.tolist()
    draws.advance()
    draws.begin()
    draws.seed(KEYS)
    draws.begin()
    assert ([rows.tolist() for rows in draws.batch()], draws.network_index.tolist()) == first
