"""The reward term for classes that are to be gone from the features too."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from editgym.envs.worlds import probe
from editgym.envs.worlds.probe import FeatureProbe
from editgym.models.heads import features_before
from editgym.tasks import make_task


def test_unedited_features_tell_the_class_and_constant_ones_do_not():
    task = make_task("unlearning/digits")
    (weight,) = task.networks[0].base_weights
    found = FeatureProbe(task)(
        0, [torch.stack([weight, 0 * weight])], torch.zeros(2, dtype=torch.long)
    )
    assert found[0] > 0.9
    assert found[1] == pytest.approx(0.1, abs=0.02)  # one of ten


def test_it_is_linear_discriminant_analysis(monkeypatch):
    monkeypatch.setattr(probe, "_SHARPNESS", 1.0)
    monkeypatch.setattr(probe, "_RIDGE", 1e-9)
    task = make_task("unlearning/digits", forget_class=3, sites=["fc1"])
    features = features_before(task.networks[0].merged(), "fc3", task.pool.inputs).double().numpy()
    features = features[:, features.std(axis=0) > 1e-6]
    labels = task.pool.labels.numpy()
    fitted = LinearDiscriminantAnalysis(priors=np.full(10, 0.1)).fit(features, labels)
    expected = fitted.predict_proba(features)[labels == 3, 3].mean()
    found = FeatureProbe(task)(
        0, [w.unsqueeze(0) for w in task.networks[0].base_weights], torch.zeros(1).long()
    )
    assert found.item() == pytest.approx(expected, abs=0.02)


def probed(features, labels, forgotten):
    """P in NumPy, a sample and a class at a time: standardised features, a softened posterior."""
    spread = features.std(axis=0)
    x = (features - features.mean(axis=0)) / (spread + 1e-6 * spread.mean() + 1e-12)
    means = np.stack([x[labels == c].mean(axis=0) for c in range(10)])
    residual = x - means[labels]
    within = residual.T @ residual / len(x) + 1e-3 * np.eye(x.shape[1])
    posterior = []
    for row, own in zip(x, labels, strict=True):
        distances = [(row - mean) @ np.linalg.solve(within, row - mean) for mean in means]
        odds = np.exp(-0.3 * (np.array(distances) - distances[own]) / 2)
        posterior.append(1 / odds.sum())
    return np.mean(np.array(posterior)[np.isin(labels, forgotten)])


def test_candidates_posteriors_are_the_formula_in_numpy():
    task = make_task("unlearning/digits", goals=[3, [0, 7]])
    (base,) = task.networks[0].base_weights
    torch.manual_seed(0)
    edited = torch.stack([base, 0.3 * base * (torch.rand_like(base) < 0.2), 0.01 * base])
    found = FeatureProbe(task)(0, [edited], torch.tensor([0, 1, 1]))
    (site,) = task.networks[0].sites
    for k, forgotten in enumerate([[3], [0, 7], [0, 7]]):
        model = task.networks[0].merged().requires_grad_(False)
        model.get_parameter(site.parameter).copy_(site.to_stored(edited[k]))
        features = features_before(model, "fc3", task.pool.inputs).double().numpy()
        expected = probed(features, task.pool.labels.numpy(), forgotten)
        assert found[k].item() == pytest.approx(expected, abs=2e-4)


def test_reward_is_less_by_the_weight_times_the_probe():
    arguments = {"sites": ["fc2"], "goals": [3, 7], "networks": [0, 1]}
    plain, probed = (
        gym.make_vec("ShiftWorld-v0", num_envs=6, probe_weight=weight, **arguments)
        for weight in (0.0, 2.0)
    )
    for env in (plain, probed):
        env.reset(seed=0)
    action = np.random.default_rng(0).uniform(-1, 1, plain.action_space.shape).astype(np.float32)
    network, goal = plain.candidates.network_index, plain.candidates.goal_index
    rewards = [env.step(action)[1] for env in (plain, probed)]
    one = FeatureProbe(plain.task)
    updates = plain.layout.unpack(torch.from_numpy(action))
    for i in range(6):
        base = plain.task.networks[int(network[i])].base_weights[0]
        edited = plain.candidates.operator.edited(base, updates[0].candidate(i))
        expected = one(int(network[i]), [edited.unsqueeze(0)], goal[i : i + 1]).item()
        assert rewards[0][i] - rewards[1][i] == pytest.approx(2 * expected, abs=1e-4)


def test_it_has_a_gradient():
    env = gym.make("ShiftWorld-v0", probe_weight=1.0, alpha=0.0, beta=0.0)
    env.reset(seed=0)
    action = (0.1 * torch.ones(640)).requires_grad_()
    (-env.unwrapped.differentiable_step(action).reward[0]).backward()
    assert action.grad.isfinite().all()
    assert action.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"forget_samples": 5}, "no class to probe"),
        ({"sites": ["fc3"]}, "'fc3', is missing or is itself edited"),
    ],
)
def test_where_there_is_nothing_to_probe_it_says_so(arguments, message):
    with pytest.raises(ValueError, match=message):
        gym.make("MaskWorld-v0", probe_weight=1.0, **arguments)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), "much"])
def test_weight_is_checked(weight):
    with pytest.raises(ValueError, match="probe_weight must be 0 or more"):
        gym.make("MaskWorld-v0", probe_weight=weight)


def test_a_class_that_no_sample_has_is_no_hindrance():
    task = make_task("unlearning/digits", forget_class=3)
    one = FeatureProbe(task)
    features = torch.randn(2, len(task.pool), 8)
    whole = one._posteriors(features)
    assert whole.isfinite().all()
    labels = one._labels.clone()
    labels[labels == 9] = 0
    one._labels, one._one_hot = labels, torch.nn.functional.one_hot(labels, 10).float()
    found = one._posteriors(features)
    assert found.isfinite().all()
    one._one_hot = torch.nn.functional.one_hot(labels, 9).float()  # it was no class at all
    torch.testing.assert_close(found, one._posteriors(features))
    one._one_hot = torch.nn.functional.one_hot(labels, 1_000).float()
    torch.testing.assert_close(found, one._posteriors(features))
