"""The linear frontier, on a problem whose answer is known."""

import torch

from agents.debiasing.frontier import LinearFrontier


def test_frontier_goes_from_the_shortcut_to_the_word(two_directions):
    _, sets = two_directions
    heads = LinearFrontier(weightings=(0.001, 1.0, 100.0)).trace(sets)
    unbiased = [head.accuracy(sets[1]) for head in heads]
    shares = [
        abs(float((head.weight[1] - head.weight[0])[0] / (head.weight[1] - head.weight[0])[1]))
        for head in heads
    ]
    assert shares[0] > shares[1] > shares[2]
    assert unbiased[2] > 0.99
    assert heads[2].accuracy(sets[0]) > 0.99


def test_frontier_is_scikit_learns_logistic_regression(two_directions):
    from sklearn.linear_model import LogisticRegression

    _, sets = two_directions
    (head,) = LinearFrontier(weightings=(1.0,), inverse_regularization=7.0).trace(sets)
    x, y = torch.cat([s.x for s in sets]), torch.cat([s.y for s in sets])
    fitted = LogisticRegression(C=7.0 * 1_000 / 400).fit(x, y)
    probability = torch.from_numpy(fitted.predict_proba(x)).float()
    assert torch.allclose(head.logits(x).softmax(1), probability, atol=1e-3)
