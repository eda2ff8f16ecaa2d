"""Counterfactual copies, and weights under which group and label are independent."""

import numpy as np
import pytest

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
