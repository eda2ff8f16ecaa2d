"""Counterfactual copies, and weights under which group and label are independent."""

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from agents.catalogue import make_agent
from agents.debiasing.counterfactual import counterfactuals, independence_weights
from editgym.data.text import Comments


def test_copies_name_other_terms_and_keep_the_label():
    texts = Comments(
        ("A Tall man said hi", "nothing here", "very tallish", "short people"), (1, 0, 0, 1)
    )
    made, named = counterfactuals(texts, ["tall", "short", "middle aged"], copies=3, seed=0)
    assert len(made) == 4 + 2 * 3
    assert named.count("") == 2
    for text, label, term in zip(made.texts, made.labels, named, strict=True):
        assert term in text.lower()
        if text.startswith("A "):
            assert label == 1
            assert text.endswith(" man said hi")
    assert {
        term for text, term in zip(made.texts, named, strict=True) if text.endswith("people")
    } <= {"short", "tall", "middle aged"}
    assert made == counterfactuals(texts, ["tall", "short", "middle aged"], copies=3, seed=0)[0]


def test_terms_are_the_same_in_whatever_case():
    texts = Comments(("Muslims pray", "muslims pray", "a woman"), (1, 0, 0))
    made, named = counterfactuals(texts, ["Muslims", "woman", "Jews"], copies=4, seed=0)
    assert set(named) == {"Muslims", "woman", "Jews"}
    originals = named[:1] + named[5:6] + named[10:11]
    assert originals == ["Muslims", "Muslims", "woman"]
    assert all("uslims" not in made.texts[row] for row in (1, 2, 3, 4, 6, 7, 8, 9))


def test_without_terms_nothing_is_exchanged():
    texts = Comments(("a tall man", "x"), (1, 0))
    assert counterfactuals(texts, [], copies=3, seed=0) == (texts, ["", ""])


def test_under_the_weights_group_and_label_are_independent():
    groups, labels = list("aaabbbbb"), [1, 1, 0, 0, 0, 0, 1, 0]
    weights = independence_weights(groups, labels).numpy()
    table = np.array(
        [
            [
                sum(w for w, g, y in zip(weights, groups, labels, strict=True) if (g, y) == (a, b))
                for b in (0, 1)
            ]
            for a in "ab"
        ]
    )
    assert table.sum() == pytest.approx(8)
    assert table == pytest.approx(np.outer(table.sum(1), table.sum(0)) / table.sum())


@pytest.mark.parametrize("most_held", [1 << 28, 0])
def test_the_sites_alone_move_as_by_sgd_on_them(monkeypatch, most_held):
    monkeypatch.setattr("editgym.weights.classifiers.network._MOST_HELD", most_held)
    env = gym.make("editgym:ShiftWorld-v0", task="debiasing/templates", sites=["fc3", "fc4"])
    agent = make_agent("cda_reweight", scope="sites", epochs=1, copies=1, tolerance=1.0, seed=3)
    (entry,) = agent.edit(env)
    task = env.unwrapped.task
    texts, named = counterfactuals(
        task.splits.model, task.splits.policy.unbiased.terms, copies=1, seed=3
    )
    weights = independence_weights(named, texts.labels)
    data, model = task.encoded(texts), env.unwrapped.network.fresh().merged()
    moved = [model.get_parameter(f"{site}.weight") for site in ("fc3", "fc4")]
    optimizer = torch.optim.SGD(moved, lr=0.03, momentum=0.9)
    for rows in torch.randperm(len(data), generator=torch.Generator().manual_seed(3)).split(64):
        losses = F.cross_entropy(model(data.inputs[rows]), data.labels[rows], reduction="none")
        optimizer.zero_grad()
        (losses * weights[rows]).mean().backward()
        optimizer.step()
    assert entry.tensors.keys() == {"fc3.weight", "fc4.weight"}
    for name, tensor in entry.tensors.items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=0, atol=1e-5)
