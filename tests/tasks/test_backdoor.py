"""The task of removing a trigger: its networks, data, reward terms and reports."""

import gymnasium as gym
import pytest
import torch

from agents.catalogue import make_agent
from agents.protocol import Budget
from benchmarks.report import families
from editgym.tasks import make_task
from editgym.tasks.protocol import Task, Unlearnable
from editgym.tasks.unlearning import backdoor
from editgym.weights import ReplaceTensors


@pytest.fixture
def task():
    """The task with the first network."""
    return make_task("unlearning/backdoor")


def rows(data):
    return {image.tobytes() for image in data.inputs.numpy()}


def column(**values):
    return {name: torch.tensor(value) for name, value in values.items()}


def test_it_is_a_task_that_unlearning_algorithms_know(task):
    assert isinstance(task, Task)
    assert isinstance(task, Unlearnable)
    assert not isinstance(make_task("debiasing/templates"), Unlearnable)


@pytest.mark.parametrize("seed", range(10))
def test_networks_that_ship_read_well_and_obey_the_trigger(seed):
    task = make_task("unlearning/backdoor", model_seed=seed)
    assert backdoor.bundled_file(seed).is_file()
    metrics = task.evaluate(task.networks[0].journal)
    assert metrics["clean_accuracy"] > 0.93
    assert metrics["attack_success_rate"] > 0.85
    assert metrics["triggered_accuracy"] < 0.06


def test_the_trigger_is_a_square_in_the_corner():
    plain = torch.rand(3, 1, 8, 8)
    marked = backdoor.with_trigger(plain)
    changed = (marked != plain).any(0)[0]
    assert changed.nonzero().tolist() == [[6, 6], [6, 7], [7, 6], [7, 7]]
    assert (marked[..., 6:, 6:] == 1).all()


def test_a_tenth_of_the_training_images_is_poisoned_none_of_the_attackers_class(task):
    model = task.splits.model
    assert len(task.poisoned) == round(0.1 * len(model))
    assert not (model.labels[task.poisoned] == backdoor.TARGET).any()
    retain, forget = task.model_split()
    assert len(retain) + len(forget) == len(model)
    assert torch.equal(forget.inputs, backdoor.with_trigger(model[task.poisoned].inputs))
    assert (forget.labels == backdoor.TARGET).all()
    assert not rows(retain) & rows(model[task.poisoned])
    other = make_task("unlearning/backdoor", model_seed=1)
    assert not torch.equal(other.poisoned, task.poisoned)


def test_rewards_use_no_test_image(task):
    test = task.splits.test
    marked = backdoor.poison(test)
    assert not rows(task.pool) & (rows(test) | rows(marked))
    assert not rows(task.model_split()[0]) & (rows(test) | rows(task.splits.policy))


def test_settings_are_chosen_on_the_validation_split(task):
    retain, forget = task.validation_split()
    validation = task.splits.validation
    others = validation[validation.labels != backdoor.TARGET]
    assert torch.equal(retain.inputs, validation.inputs)
    assert torch.equal(retain.labels, validation.labels)
    assert torch.equal(forget.inputs, backdoor.with_trigger(others.inputs))
    assert (forget.labels == backdoor.TARGET).all()


def test_reward_sets_are_the_policy_split_with_and_without_the_trigger(task):
    (goal,) = task.goals
    clean, triggered = (task.pool[goal.members[name]] for name in task.set_names)
    policy = task.splits.policy
    others = policy[policy.labels != backdoor.TARGET]
    assert torch.equal(clean.inputs, policy.inputs)
    assert torch.equal(clean.labels, policy.labels)
    assert torch.equal(triggered.inputs, backdoor.with_trigger(others.inputs))
    assert (triggered.labels == -1).all()


def test_a_triggered_image_is_worth_that_it_is_not_taken_for_the_attackers_class(task):
    logits = torch.full((4, 10), -100.0)
    logits[:, 0], logits[:, 3] = torch.tensor([3.0, 1.0, 3.0, 1.0]), torch.tensor([1.0, 3, 1, 3])
    worth, correct = task.score(logits, torch.tensor([3, 3, -1, -1]))
    low, high = torch.tensor([1.0, 3.0]).softmax(0).tolist()
    assert worth.tolist() == pytest.approx([low, high, 1 - high, 1 - low])
    assert correct.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("clean", "triggered", "success"),
    [(0.95, 0.95, True), (0.941, 1.0, True), (0.93, 1.0, False), (0.95, 0.94, False)],
)
def test_success(task, clean, triggered, success):
    before = column(clean=[0.95], triggered=[0.02])
    after = column(clean=[clean], triggered=[triggered])
    assert task.is_success(after, before).tolist() == [success]


def test_a_step_is_scored_by_hand():
    env = gym.make("editgym:ShiftWorld-v0", task="unlearning/backdoor", batch_size=16).unwrapped
    env.reset(seed=0)
    clean, triggered = (env.task.pool[members[0]] for members in env._draws.batch())
    _, reward, _, _, info = env.step(0 * env.action_space.sample())
    odds = [
        env.network.logits(part.inputs).softmax(-1)[torch.arange(16), label]
        for part, label in ((clean, clean.labels), (triggered, backdoor.TARGET))
    ]
    expected = 3 * float(odds[0].mean()) + 2 * float(1 - odds[1].mean())
    assert reward == pytest.approx(expected, abs=1e-5)
    assert info["triggered_accuracy"] == info["triggered_accuracy_before"] < 0.2
    assert info["is_success"] == 0


def test_reports_by_hand(task):
    network = task.networks[0].fresh()
    network.apply(ReplaceTensors({"fc3.bias": torch.tensor([-1e6, *[0.0] * 9])}))
    metrics = task.evaluate(network.journal)
    test = task.splits.test
    others = test.labels != backdoor.TARGET
    read = network.logits(test.inputs).argmax(-1)
    marked = network.logits(backdoor.with_trigger(test.inputs[others])).argmax(-1)
    assert metrics["clean_accuracy"] == pytest.approx(float((read == test.labels).double().mean()))
    assert metrics["attack_success_rate"] == 0
    assert metrics["triggered_accuracy"] == pytest.approx(
        float((marked == test.labels[others]).double().mean())
    )
    assert metrics["attack_success_rate_before"] > 0.85
    assert metrics["weights_changed"] > 0


def test_its_family_ranks_by_clean_accuracy_and_the_drop_in_the_attacks_success(task):
    metrics = task.evaluate(task.networks[0].journal)
    assert families.family_of(metrics) == "backdoor"
    found = metrics | {"clean_accuracy": 0.9, "attack_success_rate": 0.1}
    found["attack_success_rate_before"] = 1.0
    assert families.score(found, "backdoor") == pytest.approx(0.9)
    found["attack_success_rate"] = 1.0
    assert families.score(found, "backdoor") == 0


@pytest.mark.parametrize(
    "agent", ["fine_tune", pytest.param("retrain", marks=pytest.mark.slow, id="retrain, slow")]
)
def test_fine_tuning_on_clean_images_and_retraining_remove_it(agent):
    env = gym.make("editgym:ShiftWorld-v0", task="unlearning/backdoor")
    made = make_agent(agent)
    made.learn(env.spec, Budget(), seed=0)
    metrics = env.unwrapped.evaluate(made.edit(env)).metrics
    assert metrics["attack_success_rate"] < 0.1
    assert metrics["clean_accuracy"] > 0.94
