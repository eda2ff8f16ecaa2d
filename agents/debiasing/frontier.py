"""What any last layer can do against bias: logistic regressions over the weight of the
templates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import gymnasium as gym
import numpy as np
import torch
from tqdm import tqdm

from agents.configured import Settings, setting
from agents.debiasing.episode import (
    TOLERANCE,
    WEIGHTINGS,
    DebiasingAgent,
    best_head,
    replace_head,
    start,
)
from agents.debiasing.last_layer import Features, Head, HeadOfNetwork
from editgym.checks import above
from editgym.weights import EditJournal


@dataclass(frozen=True, kw_only=True)
class FrontierSettings(Settings):
    """The settings of `LinearFrontier`, which says what they are."""

    weightings: list[float] = setting(
        [0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0], WEIGHTINGS
    )
    inverse_regularization: float = setting(100.0, above(0))
    tolerance: float = setting(0.01, TOLERANCE)


class LinearFrontier(DebiasingAgent):
    """What any last layer can do: logistic regression on its own features, traced over the weight
    of the templates.

    Its access is `data`, not `gradient`: features and labels of the policy split. The candidate
    with the largest unbiased accuracy on the validation split, within the tolerance, replaces the
    layer.

    Args:
        weightings: Weights of the templates relative to the comments, each set as a whole; one
            candidate each.
        inverse_regularization: C of scikit-learn's `LogisticRegression`, for 1,000 samples of
            either set's weight.
        tolerance: How much general accuracy, on the validation split, a candidate may lose; 0.01 is
            a point.
    """

    name = "linear_frontier"
    settings_type: ClassVar[type[Settings]] = FrontierSettings
    settings: FrontierSettings

    def edit(self, env: gym.Env) -> EditJournal:
        """Put the best of the traced last layers into the network of a fresh episode."""
        task, network = start(env)
        own = HeadOfNetwork(network, task.pool.inputs[:8])
        heads = self.trace(own.pair(task.labelled("policy")))
        best = best_head(task, own, heads, self.settings.tolerance)
        self.note_choice(best)
        return replace_head(env, own, best)

    def trace(self, policy: tuple[Features, Features]) -> list[Head]:
        """One last layer for every weighting."""
        from sklearn.linear_model import LogisticRegression

        x = torch.cat([part.x for part in policy]).cpu().numpy()
        y = torch.cat([part.y for part in policy]).cpu().numpy()
        heads = []
        for weighting in tqdm(
            self.settings.weightings, desc=self.name, unit="fit", leave=False, mininterval=0.5
        ):
            share = np.concatenate(
                [
                    np.full(len(part.y), factor * 1_000 / len(part.y))
                    for factor, part in zip((1.0, weighting), policy, strict=True)
                ]
            )
            fitted = LogisticRegression(C=self.settings.inverse_regularization, max_iter=5_000).fit(
                x, y, sample_weight=share
            )
            w = torch.from_numpy(np.concatenate([fitted.coef_[0], fitted.intercept_])).to(
                policy[0].x
            )
            heads.append(Head(torch.stack([-w[:-1], w[:-1]]) / 2, torch.stack([-w[-1], w[-1]]) / 2))
        return heads
