import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from editgym.envs.worlds.observation import WeightObserver

SHAPES = ((3, 4), (2, 5))


def observer(bound=5.0, max_raw=100, projection_size=8, n_features=0):
    return WeightObserver(SHAPES, bound, max_raw, projection_size, n_features, torch.device("cpu"))


@pytest.fixture
def weights():
    """Of three candidates."""
    return [torch.randn(3, *shape) for shape in SHAPES]


def test_weights_are_seen_site_by_site_in_c_order(weights):
    seen = observer()(weights)
    assert seen.dtype == torch.float32
    assert torch.equal(
        seen, torch.cat([weights[0].reshape(3, 12), weights[1].reshape(3, 10)], dim=1)
    )


def test_observations_are_clipped_to_the_bound_and_lie_in_the_space(weights):
    watcher = observer(bound=0.5, n_features=2)
    seen = watcher([1e6 * weight for weight in weights], torch.ones(3, 2))
    assert torch.equal(seen.abs(), torch.full_like(seen, 0.5))
    assert all(watcher.space.contains(row) for row in seen.numpy())
    assert (watcher.space.low.min(), watcher.space.high.max()) == (-0.5, 0.5)


def test_features_come_last(weights):
    watcher = observer(n_features=2)
    features = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    assert watcher.size == watcher.space.shape[0] == 24
    assert torch.equal(watcher(weights, features)[:, -2:], features)


@pytest.mark.parametrize(("max_raw", "size"), [(22, 22), (21, 8)])
def test_only_more_weights_than_the_limit_are_projected(weights, max_raw, size):
    watcher = observer(max_raw=max_raw)
    assert watcher(weights).shape == (3, size) == (3, watcher.size)


def test_projection_is_linear_adding_every_weight_to_one_bucket_with_a_sign():
    watcher = observer(bound=1000.0, max_raw=0)
    matrix = torch.stack(
        [
            watcher(
                [
                    part.view(1, *shape)
                    for part, shape in zip(unit.split([12, 10]), SHAPES, strict=True)
                ]
            )[0]
            for unit in torch.eye(22)
        ]
    )  # (weight, bucket)
    assert torch.equal(matrix.abs().sum(1), torch.ones(22))
    assert {-1.0, 1.0} <= set(matrix.flatten().tolist())
    weights = [torch.randn(1, *shape) for shape in SHAPES]
    torch.testing.assert_close(
        watcher(weights), torch.cat([w.flatten(1) for w in weights], 1) @ matrix
    )


def test_projection_keeps_norms():
    watcher = WeightObserver(((200, 100),), 1e9, 0, 1024, 0, torch.device("cpu"))
    weights = torch.randn(50, 200, 100)
    ratio = watcher([weights]).square().sum(1) / weights.flatten(1).square().sum(1)
    assert float(ratio.mean()) == pytest.approx(1, abs=0.05)


PROJECT = """
import hashlib, numpy as np, gymnasium as gym
env = gym.make("editgym:MaskWorld-v0", max_raw_observation=1000, projection_size=32)
observation = env.reset(seed=0)[0]
assert observation.shape == (32,)
print(hashlib.sha256(observation.tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_projection_is_the_same_in_every_process(make, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "77")
    done = subprocess.run(
        [sys.executable, "-c", PROJECT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    observation = make("MaskWorld-v0", max_raw_observation=1000, projection_size=32).reset(seed=0)[
        0
    ]
    assert hashlib.sha256(observation.tobytes()).hexdigest() == done.stdout.strip()


def test_projection_is_the_same_in_every_release():
    watcher = WeightObserver(((4, 5),), 100.0, 0, 6, 0, torch.device("cpu"))
    seen = watcher([torch.arange(1.0, 21.0).view(1, 4, 5)])
    assert seen[0].tolist() == [-12.0, 7.0, -28.0, -20.0, -37.0, 4.0]


def test_environment_sees_the_projection_of_its_current_weights(world, make, actions):
    env = make(world, max_raw_observation=1000, projection_size=32)
    env.reset(seed=0)
    seen = env.step(actions(env.action_space)[0])[0]
    watcher = WeightObserver(env.layout.shapes, 5.0, 1000, 32, 0, torch.device("cpu"))
    np.testing.assert_allclose(
        seen, watcher([w[None] for w in env.network.weights])[0].numpy(), atol=1e-6
    )
