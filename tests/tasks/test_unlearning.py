from dataclasses import replace

import pytest
import torch

from editgym.data import images
from editgym.data.images import ImageData, Labelled
from editgym.models.classifiers import SmallConvNet
from editgym.tasks import make_task
from editgym.tasks.unlearning.goals import checked_goals, checked_samples
from editgym.tasks.unlearning.splits import Splits
from editgym.weights import DenseUpdate, JournalError, Mask, ReplaceTensors, Shift, SiteEdit

NEEDS_MNIST = pytest.mark.data("images/MNIST/raw/train-images-idx3-ubyte")
NEEDS_CIFAR = pytest.mark.data(
    "images/cifar10_subset.npz", "classifiers/resnet20_cifar10.safetensors"
)


@pytest.fixture
def digits():
    """`digits(**arguments)`: the default task."""
    return lambda **arguments: make_task("unlearning/digits", **arguments)


def rows(data):
    return {image.tobytes() for image in data.inputs.numpy()}


# --- splits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "load",
    [
        lambda: make_task("unlearning/digits").splits,
        lambda: make_task("unlearning/digits", model_seed=3).splits,
        pytest.param(lambda: Splits.of(images.mnist(), 0), marks=NEEDS_MNIST),
        pytest.param(lambda: make_task("unlearning/cifar10").splits, marks=NEEDS_CIFAR),
    ],
    ids=["digits", "digits, seed 3", "mnist", "cifar10"],
)
def test_policy_and_test_data_share_no_image(load):
    splits = load()
    parts = [rows(part) for part in (splits.model, splits.policy, splits.validation, splits.test)]
    assert sum(map(len, parts)) == len(set().union(*parts))


@pytest.mark.parametrize(("networks", "samples"), [(None, None), ([0, 1, 2], None), (None, 40)])
def test_rewards_use_no_test_image(digits, networks, samples):
    task = digits(networks=networks, forget_samples=samples)
    assert not rows(task.pool) & rows(task.splits.test)
    if samples is None:
        assert rows(task.pool) == rows(task.splits.policy)


def test_splits_cover_the_training_data_in_the_shares_asked_for():
    data = ImageData(
        Labelled(torch.arange(200.0).view(-1, 1), torch.zeros(200).long()),
        Labelled(torch.zeros(3, 1), torch.zeros(3).long()),
        1,
    )
    splits = Splits.of(data, 0)
    assert [len(part) for part in (splits.model, splits.policy, splits.validation)] == [140, 30, 30]
    assert [len(part) for part in vars(Splits.of(data, 0, (0.5, 0.4))).values()] == [100, 80, 20, 3]
    together = torch.cat([splits.model.inputs, splits.policy.inputs, splits.validation.inputs])
    assert torch.equal(together.flatten().sort().values, torch.arange(200.0))
    assert splits.test is data.test


def test_splits_depend_on_the_seed_alone(digits):
    torch.manual_seed(5)
    first = digits().splits
    assert torch.equal(first.policy.inputs, digits(forget_class=2).splits.policy.inputs)
    assert not torch.equal(first.policy.inputs, digits(model_seed=1).splits.policy.inputs)


@pytest.mark.parametrize("seed", [0, 4, 9])
def test_networks_that_ship_are_good_before_the_edit(digits, seed):
    task = digits(model_seed=seed)
    assert by_hand(task.networks[0].merged(), task.splits.test) > 0.93


# --- goals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("forget", [0, 9, [3], [8, 1, 4]])
def test_reward_sets_are_the_forgotten_classes_and_the_others(digits, forget):
    task = digits(forget_class=forget)
    classes = [forget] if isinstance(forget, int) else sorted(forget)
    (goal,) = task.goals
    labels = {name: task.pool.labels[members] for name, members in goal.members.items()}
    assert task.set_names == tuple(labels) == ("retain", "forget")
    assert sorted(labels["forget"].unique().tolist()) == classes
    assert not set(labels["retain"].tolist()) & set(classes)
    assert len(labels["retain"]) + len(labels["forget"]) == len(task.pool)
    assert goal.features.nonzero().flatten().tolist() == classes
    assert goal.label == "forget " + ", ".join(map(str, classes))


@pytest.mark.parametrize("split", ["model", "policy", "test"])
@pytest.mark.parametrize("name", ["forget", "retain"])
def test_a_split_without_a_sample_to_forget_or_to_retain_is_an_error(digits, split, name):
    task = digits(forget_class=[3, 7])
    part = getattr(task.splits, split)
    forgotten = torch.isin(part.labels, torch.tensor([3, 7]))
    lacking = replace(task.splits, **{split: part[~forgotten if name == "forget" else forgotten]})
    with pytest.raises(
        ValueError, match=rf"the {split} split has no {name} sample when classes \[3, 7\]"
    ):
        replace(task, splits=lacking)


def test_several_goals_are_kept_in_order(digits):
    task = digits(goals=[7, [0, 2], 5])
    assert [goal.label for goal in task.goals] == ["forget 7", "forget 0, 2", "forget 5"]
    assert {"forget": task.test_sets(1)["forget"].labels.unique().tolist()} == {"forget": [0, 2]}
    assert task.model_split(2)[1].labels.unique().tolist() == [5]


@pytest.mark.parametrize("samples", [None, 20])
def test_settings_are_chosen_on_the_validation_split(digits, samples):
    task = digits(goals=[7, [0, 2]] if samples is None else None, forget_samples=samples)
    validation = task.splits.validation
    retain, forget = task.validation_split(1 if samples is None else 0)
    if samples is None:
        assert forget.labels.unique().tolist() == [0, 2]
        assert rows(retain) | rows(forget) == rows(validation)
        assert not rows(retain) & rows(forget)
    else:
        assert retain is validation
        assert rows(forget) == rows(task.model_split()[1])


def test_random_samples_are_forgotten_towards_unseen_data(digits):
    task = digits(forget_samples=50)
    (goal,) = task.goals
    sets = {name: task.pool[members] for name, members in goal.members.items()}
    assert task.set_names == tuple(sets) == ("retain", "forget", "unseen")
    assert len(sets["forget"]) == 50
    assert rows(sets["forget"]) | rows(sets["retain"]) == rows(task.splits.model)
    assert not rows(sets["forget"]) & rows(sets["retain"])
    assert rows(sets["unseen"]) == rows(task.splits.policy)
    assert len(sets["forget"].labels.unique()) > 5
    assert [len(part) for part in task.model_split()] == [len(task.splits.model) - 50, 50]
    assert rows(task.test_sets()["retain"]) == rows(task.splits.test)


@pytest.mark.parametrize(
    ("forget_class", "goals", "named"),
    [
        (10, None, "forget_class"),
        (-1, None, "forget_class"),
        ([], None, "forget_class"),
        ([1, 1], None, "forget_class"),
        (list(range(10)), None, "forget_class"),
        ("7", None, "forget_class"),
        (True, None, "forget_class"),
        ([2.0], None, "forget_class"),
        (0, [1, 10], "goals"),
        (0, [], "goals is empty"),
        (0, [[1, -2]], "goals"),
    ],
)
def test_class_that_does_not_exist_is_an_error(forget_class, goals, named):
    with pytest.raises(ValueError, match=named):
        checked_goals(forget_class, goals, 10)


@pytest.mark.parametrize("samples", [0, -3, 100, 5.0, True, "all"])
def test_impossible_number_of_samples_is_an_error(samples):
    with pytest.raises(ValueError, match="forget_samples must be from 1 to 99"):
        checked_samples(samples, 100)


@pytest.mark.parametrize(
    "arguments",
    [
        {"forget_class": 10},
        {"goals": [1, 77]},
        {"forget_samples": 0},
        {"networks": []},
        {"networks": [-1]},
        {"networks": ["0"]},
    ],
)
def test_task_refuses_what_it_cannot_forget_or_load(digits, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        digits(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"forget_samples": 20, "forget_class": 3}, "forget_samples: forget_class is given too"),
        ({"forget_samples": 20, "goals": [0, 1]}, "forget_samples: goals is given too"),
        ({"goals": [0, 1], "forget_class": 5}, "goals: forget_class is given too"),
        (
            {"networks": [0, 1], "model_seed": 5},
            r"model_seed: 5 is one network, and networks=.0, 1",
        ),
        ({"networks": [2, 0, 2]}, "networks: 2 is there twice"),
        ({"undertrained": "no"}, "undertrained must be one of False, True, got 'no'"),
    ],
)
def test_arguments_that_would_be_dropped_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_task("unlearning/digits", **arguments)


def test_impossible_seed_is_named_in_the_error(digits):
    with pytest.raises(ValueError, match="model_seed: -1"):
        digits(model_seed=-1)


# --- reward terms ---------------------------------------------------------------------------------


def column(**values):
    return {name: torch.tensor(value) for name, value in values.items()}


def test_classes_utility_is_retain_and_edit_is_forget(digits):
    task, scores = digits(), column(retain=[0.9, 0.5], forget=[0.1, 0.7])
    assert task.utility(scores) is scores["retain"]
    assert task.edit(scores) is scores["forget"]
    assert (task.rewards.alpha, task.rewards.beta, task.rewards.batch_size) == (3, -2, 1024)


def test_samples_edit_is_minus_the_distance_from_unseen(digits):
    task = digits(forget_samples=10)
    scores = column(retain=[0.9, 0.9], forget=[1.0, 0.5], unseen=[0.75, 0.75])
    assert task.edit(scores).tolist() == [-0.25, -0.25]
    assert (task.rewards.alpha, task.rewards.beta) == (3, 2)


@pytest.mark.parametrize(
    ("retain", "forget", "success"),
    [
        (0.95, 0.0, True),
        (0.941, 0.009, True),
        (0.93, 0.0, False),
        (0.95, 0.02, False),
        (1.0, 0.5, False),
    ],
)
def test_success_in_forgetting_classes(digits, retain, forget, success):
    before = column(retain=[0.95], forget=[0.9])
    assert digits().is_success(column(retain=[retain], forget=[forget]), before).tolist() == [
        success
    ]


@pytest.mark.parametrize(
    ("retain", "forget", "success"),
    [
        (0.95, 0.805, True),
        (0.95, 0.795, True),
        (0.95, 0.75, False),
        (0.95, 0.0, False),
        (0.9, 0.8, False),
    ],
)
def test_success_in_forgetting_samples(digits, retain, forget, success):
    before = column(retain=[0.95], forget=[1.0], unseen=[0.8])
    after = column(retain=[retain], forget=[forget], unseen=[0.8])
    assert digits(forget_samples=10).is_success(after, before).tolist() == [success]


# --- reports --------------------------------------------------------------------------------------


def by_hand(model, data):
    with torch.no_grad():
        return float((model(data.inputs).argmax(-1) == data.labels).double().mean())


@pytest.mark.parametrize(
    "arguments", [{"forget_class": 3}, {"forget_class": [0, 6]}, {"forget_samples": 100}]
)
def test_reports_are_on_test_data_before_and_after(digits, arguments):
    task = digits(**arguments)
    network = task.networks[0].fresh()
    network.apply(SiteEdit("fc2", Mask(), DenseUpdate(-torch.rand(32, 128))))
    metrics = task.evaluate(network.journal)
    test = task.splits.test
    forgotten = torch.isin(test.labels, torch.tensor(arguments.get("forget_class", [])))
    samples = "forget_samples" in arguments
    sets = {
        "retain": test[~forgotten],
        "test": test,
        "forget": task.pool[task.goals[0].members["forget"]] if samples else test[forgotten],
    }
    for name, data in sets.items():
        assert metrics[f"{name}_accuracy"] == pytest.approx(by_hand(network.merged(), data))
        assert metrics[f"{name}_accuracy_before"] == pytest.approx(
            by_hand(task.networks[0].merged(), data)
        )
    assert len(task.networks[0].journal) == 0


def test_reports_are_on_the_goal_asked_for(digits):
    task = digits(goals=[3, 7])
    network = task.networks[0].fresh()
    network.apply(ReplaceTensors({"fc3.bias": torch.tensor([0, 0, 0, -99.0, 0, 0, 0, 0, 0, 0])}))
    assert task.evaluate(network.journal, 0)["forget_accuracy"] == 0
    assert task.evaluate(network.journal, 1)["forget_accuracy"] > 0.8


def test_unedited_network_has_changed_nothing(digits):
    task = digits()
    metrics = task.evaluate(task.networks[0].journal)
    assert metrics["weights_changed"] == metrics["weights_changed_norm"] == 0
    for name in ("retain", "forget", "test"):
        assert metrics[f"{name}_accuracy"] == metrics[f"{name}_accuracy_before"]


def test_share_and_norm_of_changed_weights_by_hand(digits):
    task = digits()
    network = task.networks[0].fresh()
    d = torch.zeros(32, 128)
    d[0, :3] = torch.tensor([1.0, 2.0, 2.0])
    network.apply(SiteEdit("fc2", Shift(), DenseUpdate(d)))
    metrics = task.evaluate(network.journal)
    state = task.networks[0].state_dict()
    total = torch.cat([tensor.flatten() for tensor in state.values()])
    assert metrics["weights_changed"] == pytest.approx(3 / len(total))
    assert metrics["weights_changed_norm"] == pytest.approx(3 / float(total.norm()), rel=1e-5)


def test_journal_is_judged_on_the_network_it_was_recorded_on(digits):
    task = digits(networks=[0, 1])
    network = task.networks[1].fresh()
    network.apply(SiteEdit("fc2", Mask(), DenseUpdate(-torch.rand(32, 128))))
    expected = by_hand(network.merged(), task.splits.test)
    assert task.evaluate(network.journal)["test_accuracy"] == pytest.approx(expected)
    with pytest.raises(JournalError, match="belongs to the network"):
        digits(model_seed=2).evaluate(network.journal)


# --- several networks, and oracles ----------------------------------------------------------------


def test_networks_are_different_and_of_one_shape(digits):
    task = digits(networks=[4, 1])
    hashes = [network.base_hash for network in task.networks]
    assert hashes == [
        digits(model_seed=4).networks[0].base_hash,
        digits(model_seed=1).networks[0].base_hash,
    ]
    assert len(set(hashes)) == 2
    assert len({tuple(site.shape for site in network.sites) for network in task.networks}) == 1


def test_retrained_twin_never_saw_the_class(digits):
    task = digits(forget_class=3)
    oracle = task.retrain(0, task.model_split()[0], "without 3")
    assert isinstance(oracle, SmallConvNet)
    sets = task.test_sets()
    assert by_hand(oracle, sets["forget"]) == 0
    assert by_hand(oracle, sets["retain"]) > 0.9


def test_undertrained_network_stops_at_the_papers_accuracy(digits):
    task = digits(undertrained=True)
    assert 0.925 <= by_hand(task.networks[0].merged(), task.splits.validation) < 0.96


@pytest.mark.slow
@NEEDS_MNIST
def test_mnist_edits_the_papers_layer_of_the_papers_network():
    task = make_task("unlearning/mnist", undertrained=True)
    assert [(site.name, site.shape) for site in task.networks[0].sites] == [("fc2", (32, 128))]
    assert by_hand(task.networks[0].merged(), task.splits.validation) == pytest.approx(
        0.928, abs=0.01
    )
    assert not rows(task.pool) & rows(task.splits.test)


@NEEDS_CIFAR
def test_cifar10_edits_the_convolutions_of_the_last_stage():
    task = make_task("unlearning/cifar10")
    assert [site.name for site in task.networks[0].sites] == [
        f"layer3.{block}.conv{i}" for block in range(3) for i in (1, 2)
    ]
    assert task.networks[0].reuses_prefix
    assert task.retrain is None


def test_cifar10_without_its_weights_says_what_to_give(empty_data_folder):
    with pytest.raises(ValueError, match=r"weights: no ResNet-20 at .*give weights="):
        make_task("unlearning/cifar10")


def test_random_samples_of_several_networks_are_refused():
    with pytest.raises(ValueError, match=r"forget_samples: 5 .* give one network"):
        make_task("unlearning/digits", forget_samples=5, networks=[0, 1])
