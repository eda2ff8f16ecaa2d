import gymnasium as gym
import numpy as np
import pytest
import torch

from editgym.data.errors import DataError
from editgym.data.identity import IdentityTexts
from editgym.envs.worlds import sampling
from editgym.metrics import fairness
from editgym.metrics.fairness import memberships
from editgym.tasks import make_task
from editgym.tasks.debiasing.edit_terms import MOST_SETS, TERMS, EditTerms

ALL = {"unbiased_accuracy": 1.0, "fped": 0.5, "fned": 0.25, "equalized_odds_gap": 2.0}
ALL |= {"worst_group_accuracy": 0.125}


def texts(identities, labels):
    every = tuple(map(str, range(len(labels))))
    return IdentityTexts(every, tuple(labels), tuple(identities), every, every)


@pytest.fixture
def several():
    """Texts with one identity, with several, and with none."""
    random = np.random.default_rng(0)
    owns = [tuple(name for name in "abc" if random.random() < 0.4) for _ in range(300)]
    owns = [own[0] if len(own) == 1 else own for own in owns]
    return texts(owns, random.integers(0, 2, 300).tolist())


def means(terms, right):
    """Mean scores of every reward set, of samples' scores (K, n)."""
    rows = {"unbiased": torch.arange(right.shape[1])} | terms.members
    return {name: right[:, own].mean(1) for name, own in rows.items()}


@pytest.mark.parametrize("name", TERMS)
def test_a_term_of_right_or_wrong_is_the_reports_metric(several, name):
    terms = EditTerms({name: 2.0}, several)
    random = np.random.default_rng(1)
    predicted = random.integers(0, 2, (5, 300))
    labels = np.array(several.labels)
    right = torch.from_numpy((predicted == labels).astype(np.float64))
    value = terms(means(terms, right))
    sign = 1 if name.endswith("accuracy") else -1
    expected = [
        own_right.mean()
        if name == "unbiased_accuracy"
        else getattr(fairness, name)(labels, own, several.identities)
        for own, own_right in zip(predicted, right.numpy(), strict=True)
    ]
    assert value.tolist() == pytest.approx([2 * sign * one for one in expected])


def test_terms_add_up(several):
    right = torch.rand(4, 300, dtype=torch.float64)
    alone = [EditTerms({name: weight}, several) for name, weight in ALL.items()]
    together = EditTerms(ALL, several)
    expected = sum(terms(means(terms, right)) for terms in alone)
    assert torch.allclose(together(means(together, right)), expected)


def test_terms_have_gradients(several):
    right = torch.rand(2, 300, dtype=torch.float64, requires_grad=True)
    terms = EditTerms(ALL, several)
    terms(means(terms, right)).sum().backward()
    assert torch.isfinite(right.grad).all()
    assert right.grad.abs().sum() > 0


def test_every_identity_and_label_is_a_reward_set(several):
    terms = EditTerms({"fped": 1}, several)
    names = {f"{own}:{label}" for own in "abc" for label in ("toxic", "not_toxic")}
    assert set(terms.members) == names | {"unbiased:toxic", "unbiased:not_toxic"}
    for name, rows in terms.members.items():
        who, _, label = name.partition(":")
        for row in rows.tolist():
            assert several.labels[row] == (label == "toxic")
            assert who == "unbiased" or who in several.identity_sets[row]
    assert EditTerms(None, several).members == {}
    assert EditTerms({"unbiased_accuracy": 2}, several).members == {}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"fpedd": 1}, r"edit_terms: there is no fpedd=1 \(did you mean fped\?\); it takes unb"),
        ({"fped": 0}, "edit_terms must be an object of terms and their weights, above 0"),
        ({"fped": float("nan")}, "edit_terms must be an object"),
        ({}, "edit_terms must be an object"),
        ("fped", "edit_terms must be an object"),
    ],
)
def test_wrong_terms_are_named(several, weights, message):
    with pytest.raises(ValueError, match=message):
        EditTerms(weights, several)


@pytest.mark.parametrize("name", [name for name in TERMS if TERMS[name].metric])
def test_a_term_with_nothing_to_compare_is_an_error(name):
    with pytest.raises(DataError, match=rf"edit_terms: {name} compares.* about no identity"):
        EditTerms({name: 1}, texts([()] * 4, [0, 1, 0, 1]))
    lonely = texts(["a"] * 4, [0, 1, 0, 1])
    if name != "worst_group_accuracy":
        with pytest.raises(DataError, match=r"they are about a$"):
            EditTerms({name: 1}, lonely)


def test_labels_that_nobody_has_are_no_group():
    half = texts(["a", "b", (), ()], [1, 1, 0, 0])
    terms = EditTerms({"worst_group_accuracy": 1, "equalized_odds_gap": 1}, half)
    right = torch.tensor([[1.0, 0.25, 0.0, 0.0]])
    assert terms(means(terms, right)).tolist() == [0.25 - 0.75]


def test_more_identities_than_batches_have_streams_are_an_error():
    names = [f"n{i}" for i in range(30)]
    data = texts([name for name in names for _ in range(2)], [0, 1] * 30)
    with pytest.raises(
        DataError, match="has 30 identities, and at most 29 can be compared; max_id"
    ):
        EditTerms({"fped": 1}, data)
    kept = EditTerms({"fped": 1}, data.about_most_frequent(29))
    assert len(kept.members) + 2 == MOST_SETS == sampling._STREAMS - 2


# --- in the task ----------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", ["probability", "accuracy"])
def test_fairness_is_rewarded_in_a_world(signal):
    weights = {"unbiased_accuracy": 1, "equalized_odds_gap": 0.5, "fped": 0.1}
    env = gym.make(
        "editgym:ShiftWorld-v0", task="debiasing/templates", signal=signal, edit_terms=weights
    )
    env.reset(seed=0)
    env.action_space.seed(0)
    _, reward, _, _, info = env.step(env.action_space.sample())
    assert reward == pytest.approx(info["utility"] + 3 * info["edit"])
    task = env.unwrapped.task
    accuracy = {
        name: torch.tensor([info[f"{name}_accuracy"]], dtype=torch.float64)
        for name in task.set_names
    }
    assert task.set_names[:2] == ("general", "unbiased")
    assert len(task.set_names) == 4 + 2 * len(task.splits.policy.unbiased.terms)
    if signal == "accuracy":
        assert info["edit"] == pytest.approx(float(task.edit(accuracy)))
    before = {
        name: torch.tensor([info[f"{name}_accuracy_before"]], dtype=torch.float64)
        for name in task.set_names
    }
    assert info["is_success"] == float(task.is_success(accuracy, before))


def test_the_reward_is_near_the_reports_metric_of_the_policy_split():
    name = "equalized_odds_gap"
    arguments = {"task": "debiasing/templates", "signal": "accuracy", "edit_terms": {name: 1}}
    env = gym.make("editgym:ShiftWorld-v0", **arguments, batch_size=4_096)
    env.reset(seed=0)
    info = env.step(np.zeros(env.action_space.shape, np.float32))[4]
    task = env.unwrapped.task
    own = task.splits.policy.unbiased
    predicted = task.networks[0].logits(task.labelled("policy").unbiased.inputs).argmax(1)
    gap = fairness.equalized_odds_gap(own.labels, predicted.numpy(), own.identities)
    assert gap > 0.2
    assert info["edit"] == pytest.approx(-gap, abs=0.03)


def test_members_are_rows_of_the_pool_that_say_what_they_are():
    task = make_task("debiasing/templates", edit_terms={"fned": 1})
    texts_of, offset = task.splits.policy.unbiased, len(task.splits.policy.general)
    members = task.goals[0].members
    about = dict(memberships(texts_of.identities))
    for term in texts_of.terms:
        for label, word in enumerate(("not_toxic", "toxic")):
            rows = members[f"{term}:{word}"] - offset
            assert about[term][rows].all()
            assert (task.pool.labels[rows + offset] == label).all()


def test_gradients_of_worlds_know_the_terms():
    env = gym.make(
        "editgym:ShiftWorld-v0", task="debiasing/templates", edit_terms={"equalized_odds_gap": 1}
    )
    env.reset(seed=0)
    found = env.unwrapped.cost_gradient(env.unwrapped.weights)
    assert all(torch.isfinite(gradient).all() for gradient in found.gradients)
    assert any(gradient.abs().sum() > 0 for gradient in found.gradients)


def test_an_identity_called_as_the_set_of_all_is_refused():
    own = texts(["unbiased", "a", "unbiased", "a"], [0, 0, 1, 1])
    with pytest.raises(DataError, match="edit_terms: an identity is called 'unbiased'"):
        EditTerms({"fped": 1.0}, own)
    assert not EditTerms(None, own).members
