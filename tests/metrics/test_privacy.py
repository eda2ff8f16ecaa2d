"""Checks of forgetting: against cases with a known answer, and the same on every run."""

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_info, threadpool_limits
from torch import nn

from editgym.data.images import Labelled
from editgym.metrics import privacy
from editgym.tasks import make_task
from editgym.weights import ReplaceTensors

CHECKS = ("mia_advantage", "probe_accuracy", "relearn_steps", "oracle_gap")


def scores(rows):
    """Samples that a network that passes its inputs on gives these logits."""
    return Labelled(
        torch.tensor(rows, dtype=torch.float32), torch.zeros(len(rows), dtype=torch.long)
    )


# --- membership -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "others", "advantage"),
    [
        ([[9.0, 0], [8.0, 0]], [[1.0, 0], [2.0, 0]], 1.0),  # members always have the smaller loss
        (
            [[1.0, 0], [2.0, 0]],
            [[9.0, 0], [8.0, 0]],
            1.0,
        ),  # or always the larger one, which tells as much
        ([[1.0, 0], [3.0, 0]], [[1.0, 0], [3.0, 0]], 0.0),
        ([[4.0, 0], [2.0, 0]], [[3.0, 0], [1.0, 0]], 0.5),  # three of four pairs in order
        ([[0.0, -9], [5.0, -9]], [[1.0, 0], [3.0, -7]], 0.5),  # by -9 and -14, and -1 and -10
    ],
)
def test_membership_advantage_by_hand(members, others, advantage):
    assert privacy.membership_advantage(
        nn.Identity(), scores(members), scores(others)
    ) == pytest.approx(advantage)


class Overflowing(nn.Module):
    """A network of finite weights that computes infinity of sevens, and no number of eights."""

    def forward(self, x):
        return torch.where(x == 8, torch.nan, torch.where(x == 7, torch.inf, x))


def test_losses_that_are_no_numbers_have_their_place():
    one, other = scores([[8.0, 0.0]]), scores([[0.5, 0.0], [-0.5, 0.0]])
    model = Overflowing()
    assert privacy.membership_advantage(model, one, other) == 0, "nan is between the two"
    lowest = scores([[7.0, 0.0], [0.0, 0.0]])
    assert privacy.membership_advantage(model, lowest, scores([[1.0, 0.0]])) == 0


GOOD, BAD = scores([[0.5, 0.0], [0.1, 0.2]]), scores([[0.5, 0.0], [float("nan"), 0.2]])
BROKEN = nn.Linear(2, 2)
nn.init.constant_(BROKEN.bias, float("nan"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: privacy.membership_advantage(BROKEN, GOOD, GOOD), "model: the tensor 'bias' of"),
        (lambda: privacy.membership_advantage(nn.Identity(), GOOD, BAD), "data has .*first at 1"),
        (lambda: privacy.probe_accuracy(BROKEN, GOOD, GOOD), "model: the tensor 'bias'"),
        (lambda: privacy.probe_accuracy(nn.Linear(2, 2), BAD, GOOD), "fit has .*first at 1"),
        (lambda: privacy.relearn_steps(BROKEN, GOOD, GOOD, 0.5), "model: the tensor 'bias'"),
        (lambda: privacy.relearn_steps(nn.Linear(2, 2), GOOD, BAD, 0.5), "forget has .*first at"),
        (
            lambda: privacy.Evidence(GOOD, GOOD, None, BAD, GOOD),
            "Evidence.members has .*first at 1",
        ),
        (
            lambda: privacy.forgetting_checks(
                nn.Linear(2, 2), privacy.Evidence(GOOD, GOOD, None, None, GOOD), float("nan")
            ),
            "accuracy_before must be finite, got nan",
        ),
        (
            lambda: privacy.oracle_gap({"retain_accuracy": float("nan")}, {"retain_accuracy": 1.0}),
            "retain_accuracy must be finite or None, got nan, and 1.0 of the oracle",
        ),
    ],
)
def test_what_is_not_finite_gives_no_number(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_confident_losses_are_told_apart():
    members, others = (
        scores([[60.0, 0]] * 3),
        scores([[50.0, 0]] * 3),
    )  # both losses are 0 in any precision
    assert privacy.membership_advantage(nn.Identity(), members, others) == 1


def test_membership_advantage_of_a_network_is_that_of_its_losses():
    task = make_task("unlearning/digits")
    network, forget = task.networks[0], task.model_split()[1]
    others = task.test_sets()["forget"]
    losses = [
        F.cross_entropy(network.logits(part.inputs).double(), part.labels, reduction="none").numpy()
        for part in (forget, others)
    ]
    auc = roc_auc_score([1] * len(forget) + [0] * len(others), np.concatenate(losses))
    assert task.evaluate(network.journal)["mia_advantage"] == pytest.approx(abs(auc - 0.5) * 2)


# --- probe ----------------------------------------------------------------------------------------


@pytest.fixture
def clusters():
    """Three classes of points in the plane, (fit, forget): the last class is to be found."""
    labels = torch.arange(120) % 3
    points = 0.3 * torch.randn(120, 2) + torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])[labels]
    data = Labelled(points, labels)
    return data[torch.arange(90)], data[torch.arange(90, 120)[labels[90:] == 2]]


@pytest.mark.parametrize(
    ("features", "found"),
    [
        ([[1.0, 0.0], [0.0, 1.0]], 1.0),  # all that there is
        ([[1e-3, 0.0], [0.0, 1e-3]], 1.0),  # however small
        (
            [[1.0, 0.0], [0.0, 0.0]],
            0.5,
        ),  # the second direction gone: the class lies on the first one
        ([[0.0, 0.0], [0.0, 0.0]], 0.5),  # nothing left
    ],
)
def test_probe_finds_what_is_in_the_features_whatever_the_head_says(clusters, features, found):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(features))
        model[0].bias.zero_()
        model[1].weight.zero_()  # the head knows nothing
    probed = privacy.probe_accuracy(model, *clusters)
    assert probed == 1.0 if found == 1.0 else probed <= found


# --- relearning -----------------------------------------------------------------------------------


def test_relearning_counts_the_steps_to_the_target(clusters):
    data, forget = clusters
    model = nn.Linear(2, 3)
    with torch.no_grad():
        model.bias[2] = -1.0
    steps = privacy.relearn_steps(model, data, forget, 0.9)
    assert 0 < steps < privacy.RELEARN_CAP
    assert (
        privacy.relearn_steps(model, data, forget, 0.9) == 0
    )  # it was changed, and knows the class again


def test_relearning_is_capped(clusters):
    steps = privacy.relearn_steps(nn.Linear(2, 3), *clusters, target=1.1)
    assert steps == privacy.RELEARN_CAP == 500


@pytest.mark.parametrize(("right", "enough"), [(9, True), (8, False)])
def test_relearning_ends_at_nine_tenths_of_the_accuracy_before(right, enough):
    labels = torch.tensor([0, 1] * 5)
    inputs = F.one_hot(torch.cat([labels[:right], 1 - labels[right:]]), 2).float()
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.eye(2))
        model.bias.zero_()
    data = Labelled(inputs, labels)
    evidence = privacy.Evidence(data, data, None, None, data)
    checks = privacy.forgetting_checks(model, evidence, accuracy_before=1.0)
    assert (checks["relearn_steps"] == 0) is enough
    assert checks["mia_advantage"] is checks["probe_accuracy"] is None


def test_one_step_of_relearning_is_sgd(clusters, monkeypatch):
    data, forget = clusters
    monkeypatch.setattr(privacy, "RELEARN_CAP", 1)
    model, by_hand = nn.Linear(2, 3), nn.Linear(2, 3)
    by_hand.load_state_dict(model.state_dict())
    privacy.relearn_steps(model, data, forget, 1.1)
    rows = torch.randperm(90, generator=torch.Generator().manual_seed(0))[:64]
    F.cross_entropy(by_hand(data[rows].inputs), data[rows].labels).backward()
    assert torch.allclose(model.weight, by_hand.weight - 0.01 * by_hand.weight.grad)


# --- the oracle, and the task ---------------------------------------------------------------------


def test_oracle_gap_by_hand():
    own = {
        "retain_accuracy": 0.9,
        "forget_accuracy": 0.1,
        "relearn_steps": 100.0,
        "probe_accuracy": None,
        "weights_changed": 0.7,
    }
    oracle = {
        "retain_accuracy": 1.0,
        "forget_accuracy": 0.0,
        "relearn_steps": 0.0,
        "probe_accuracy": 0.2,
    }
    assert privacy.oracle_gap(own, oracle) == pytest.approx((0.1 + 0.1 + 0.2) / 3)
    assert privacy.oracle_gap(oracle, oracle) == 0


def test_retrained_network_has_no_gap_and_the_unedited_one_a_gap():
    task = make_task("unlearning/digits")
    network = task.networks[0].fresh()
    before = task.evaluate(network.journal)
    network.apply(ReplaceTensors(task.oracle(0).state_dict()))
    after = task.evaluate(network.journal)
    assert after["oracle_gap"] == 0
    assert before["oracle_gap"] > 0.1
    assert before["relearn_steps"] == 0 < after["relearn_steps"]
    assert (
        before["probe_accuracy"]
        == before["probe_accuracy_before"]
        == after["probe_accuracy_before"]
        > 0.9
    )


@pytest.mark.slow
def test_checks_are_the_same_on_every_run_and_draw_nothing_from_outside():
    metrics = []
    for threads in (1, 2):
        task = make_task("unlearning/digits", forget_class=4)
        task._known.clear()
        network = task.networks[0].fresh()
        network.apply(
            ReplaceTensors({"fc3.bias": torch.tensor([0, 0, 0, 0, -99.0, 0, 0, 0, 0, 0])})
        )
        torch.manual_seed(threads)
        state, before = torch.random.get_rng_state(), torch.get_num_threads()
        torch.set_num_threads(threads)
        metrics.append(task.evaluate(network.journal))
        assert torch.equal(state, torch.random.get_rng_state())
        torch.set_num_threads(before)
    assert metrics[0] == metrics[1]
    assert metrics[0]["forget_accuracy"] == 0
    assert (
        metrics[0]["probe_accuracy"] == metrics[0]["probe_accuracy_before"]
    )  # the features were not touched
    assert metrics[0]["relearn_steps"] > 0


def test_forgotten_samples_have_no_class_to_probe_for():
    env = gym.make("MaskWorld-v0", forget_samples=50)
    env.reset(seed=0)
    metrics = env.unwrapped.evaluate(env.unwrapped.journal).metrics
    assert metrics["probe_accuracy"] is metrics["probe_accuracy_before"] is None
    assert 0 <= metrics["mia_advantage"] <= 1
    assert metrics["relearn_steps"] == 0
    assert metrics["oracle_gap"] is not None


def test_networks_trained_elsewhere_have_no_oracle(custom_arguments):
    task = make_task("unlearning/custom", forget_class=1, members="train", **custom_arguments)
    metrics = task.evaluate(task.networks[0].journal)
    assert metrics["oracle_gap"] is None
    assert all(metrics[key] is not None for key in CHECKS[:3])


def test_only_the_first_of_several_networks_has_known_members():
    task = make_task("unlearning/digits", networks=[0, 1])
    first, second = (task.evaluate(network.journal) for network in task.networks)
    assert all(first[key] is not None for key in CHECKS)
    assert [second[key] for key in ("mia_advantage", "oracle_gap")] == [None, None]
    assert second["probe_accuracy"] > 0.9


def test_a_wrecked_network_is_measured_all_the_same():
    task = make_task("unlearning/digits")
    network = task.networks[0].fresh()
    huge = {name: 1e30 * tensor for name, tensor in network.state_dict().items()}
    network.apply(ReplaceTensors(huge))
    metrics = task.evaluate(network.journal)
    assert metrics["relearn_steps"] == privacy.RELEARN_CAP
    assert all(np.isfinite(metrics[key]) for key in CHECKS)


def test_checks_run_on_one_thread(monkeypatch):
    """Sums in another order end in other digits."""
    threads = []

    def note(*_):
        threads.append([torch.get_num_threads(), *pools()])
        return 0

    def pools():
        return [pool["num_threads"] for pool in threadpool_info()]

    monkeypatch.setattr(privacy, "relearn_steps", note)
    data = scores([[1.0, 0.0]])
    with threadpool_limits(limits=2):
        assert max(pools()) == 2
        privacy.forgetting_checks(
            nn.Identity(), privacy.Evidence(data, data, None, None, data), accuracy_before=1.0
        )
    assert threads == [[1] * len(threads[0])]


def test_a_network_without_a_linear_head_has_no_probe(clusters):
    assert privacy.probe_accuracy(nn.Identity(), *clusters) is None


def test_relearning_goes_through_all_data_in_another_order_each_time(clusters, monkeypatch):
    data, forget = clusters
    monkeypatch.setattr(privacy, "RELEARN_CAP", 4)
    model, by_hand = nn.Linear(2, 3), nn.Linear(2, 3)
    by_hand.load_state_dict(model.state_dict())
    assert privacy.relearn_steps(model, data, forget, 1.1) == 4
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):  # 64 and 26 samples, twice
        for rows in torch.randperm(90, generator=generator).split(64):
            by_hand.zero_grad()
            F.cross_entropy(by_hand(data[rows].inputs), data[rows].labels).backward()
            with torch.no_grad():
                for parameter in by_hand.parameters():
                    parameter -= 0.01 * parameter.grad
    torch.testing.assert_close(model.weight, by_hand.weight)
