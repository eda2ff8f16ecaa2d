"""A task of one's own: a builder, and what a good edit is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from editgym.data.images import digits
from editgym.models.classifiers import SmallConvNet
from editgym.models.training import load_weights
from editgym.tasks.unlearning.images import DIGITS_SHARES
from editgym.tasks.unlearning.networks import bundled_file
from editgym.tasks.unlearning.splits import Splits
from editgym.tasks.unlearning.task import UnlearningTask
from editgym.weights import EditableNetwork, find_sites


class ForgetGently(UnlearningTask):
    """Forget a class, where losing what is retained counts double below 95%."""

    def utility(self, scores: Mapping[str, Tensor]) -> Tensor:
        """U, (K,)."""
        retain = scores["retain"]
        return retain - (0.95 - retain).clamp(min=0)


def gently(
    *,
    forget_class: int = 3,
    model_seed: int = 0,
    sites: Sequence[str] = ("fc2",),
    device: str = "cpu",
) -> UnlearningTask:
    """Forget a digit gently.

    Args:
        forget_class: The digit.
        model_seed: Seed of the network and of the splits.
        sites: Names or globs.
        device: Where network and data live.
    """
    splits = Splits.of(digits(), model_seed, DIGITS_SHARES).to(torch.device(device))
    model = load_weights(SmallConvNet(8), bundled_file(model_seed)).to(device)
    network = EditableNetwork(model, find_sites(model, sites), splits.policy.inputs[:8])
    return ForgetGently("own/gently", (network,), splits, 10, ((forget_class,),))
