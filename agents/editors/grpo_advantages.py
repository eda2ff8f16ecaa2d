"""What completions are worth to Edit-GRPO: beside others of their fact, and by their gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_EPSILON = 1e-6


def group_advantages(rewards: Tensor, facts: Tensor, anchors: Tensor) -> Tensor:
    """A_i = (r_i − mean) / (sd + ε), mean and sd over the completions of a fact's other prompts; 0
    where sd is 0.

    Args:
        rewards: (n,).
        facts: (n,), the group of every completion.
        anchors: (n,) bool, whether it answers the fact's own prompt.
    """
    advantages = torch.zeros_like(rewards)
    for fact in facts.unique().tolist():
        own = facts == fact
        others = rewards[own & ~anchors]
        if len(others) > 1 and float(others.std()) > 0:
            advantages[own] = (rewards[own] - others.mean()) / (others.std() + _EPSILON)
    return advantages


def alignment(gradients: Tensor, facts: Tensor, anchors: Tensor, rewards: Tensor) -> Tensor:
    """cos(g_i, g_anchor), (n,), where g_anchor is the mean gradient of the anchor's rewarded
    completions.

    0 for the anchor's own completions, and in groups whose anchor was never answered rightly.

    Args:
        gradients: (n, d).
        facts: (n,), the group of every completion.
        anchors: (n,) bool.
        rewards: (n,).
    """
    cosines = torch.zeros(len(gradients), device=gradients.device)
    for fact in facts.unique().tolist():
        own = facts == fact
        right = own & anchors & (rewards > 0)
        others = own & ~anchors
        if bool(right.any()) and bool(others.any()):
            cosines[others] = F.cosine_similarity(
                gradients[others], gradients[right].mean(0, keepdim=True), dim=1
            )
    return cosines
