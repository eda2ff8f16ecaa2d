import pytest
import torch

from editgym.envs.worlds.sampling import indices

MASK = 2**64 - 1


def split_mix(z):
    """The finaliser of SplitMix64 in Python's own integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def by_hand(key, counter, stream, count, high):
    base = split_mix(key ^ split_mix(counter * 64 + stream))
    bits = [
        split_mix((base + i * 0x9E3779B97F4A7C15) & MASK) for i in range(1, (count + 1) // 2 + 1)
    ]
    return [
        (half * high) >> 32 for half in [b & 0xFFFFFFFF for b in bits] + [b >> 32 for b in bits]
    ][:count]


def draw(keys, counter=0, stream=0, count=8, high=1000):
    return indices(torch.tensor(keys), counter, stream, count, torch.full((len(keys),), high))


@pytest.mark.parametrize("key", [0, 1, 12345678901234567, 2**63 - 1])
@pytest.mark.parametrize(("counter", "stream"), [(0, 0), (3, 63), (2**40 + 7, 1)])
@pytest.mark.parametrize("high", [1, 10, 2**31])
def test_draws_are_split_mix_by_hand(key, counter, stream, high):
    assert draw([key], counter, stream, 7, high)[0].tolist() == by_hand(
        key, counter, stream, 7, high
    )


def test_draws_are_the_same_in_every_release():
    assert draw([42], counter=5, stream=2)[0].tolist() == [211, 380, 510, 66, 859, 917, 123, 656]


@pytest.mark.parametrize("count", [1, 2, 3, 1023, 1024])
def test_candidates_draw_what_each_would_draw_alone(count):
    keys, high = [3, 99, 2**62], torch.tensor([5, 50, 500])
    together = indices(torch.tensor(keys), 4, 1, count, high)
    assert together.shape == (3, count)
    for i, key in enumerate(keys):
        assert torch.equal(
            together[i : i + 1], indices(torch.tensor([key]), 4, 1, count, high[i : i + 1])
        )


def test_other_key_counter_or_stream_is_another_draw():
    draws = [
        draw([key], counter, stream, 64).flatten().tolist()
        for key in (0, 1)
        for counter in (0, 1, 2**40)
        for stream in (0, 1, 2)
    ]
    assert len({tuple(each) for each in draws}) == len(draws)


@pytest.mark.parametrize("high", [2, 10, 77])
def test_draws_are_uniform_with_replacement(high):
    counts = draw(range(200), count=1000, high=high).flatten().bincount(minlength=high).double()
    expected = 200_000 / high
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    assert len(counts) == high
    assert chi_squared < high - 1 + 5 * (2 * (high - 1)) ** 0.5


def test_neighbouring_keys_and_counters_are_not_correlated():
    drawn = torch.cat([draw(range(50), counter, count=400) for counter in range(4)]).double()
    correlations = torch.corrcoef(drawn) - torch.eye(len(drawn))
    assert correlations.abs().max() < 5.5 / 400**0.5


@pytest.mark.gpu
def test_gpu_draws_what_the_cpu_draws():
    keys, high = torch.arange(100) * 2**55, torch.arange(1, 101) * 1000
    assert torch.equal(
        indices(keys.cuda(), 3, 1, 999, high.cuda()).cpu(), indices(keys, 3, 1, 999, high)
    )
