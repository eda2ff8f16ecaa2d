"""MALMEN and MEND: hypernetworks trained on single batches on the unedited model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from agents.configured import Settings, setting
from agents.hypernetworks.network import Rule
from agents.hypernetworks.rledit import HypernetworkEditor
from agents.hypernetworks.settings import ARGUMENTS, REWARD, REWARD_SEARCH, HypernetworkSettings
from editgym.checks import whole


@dataclass(frozen=True, kw_only=True)
class SingleBatchSettings(HypernetworkSettings):
    """What `Malmen` and `Mend` take: one batch on the unedited model is a sequence."""

    sequences: int = setting(400, whole(0))
    validate_every: int = setting(50, whole(0))
    train_env: Mapping[str, Any] = setting(
        {**REWARD, "horizon": 1, "back_depth": 0}, ARGUMENTS, search=REWARD_SEARCH
    )


class Malmen(HypernetworkEditor):
    """MALMEN (Tan et al. 2024, arXiv 2311.04661): a hypernetwork h_φ whose update of a batch is the
    least-squares solution of what each token's own update wants, v_i = −η (k_i·k̃_i) g̃_i and
    ΔW = V Kᵀ(K Kᵀ + λI)⁻¹ (eq. 5).

    It is trained on single batches on the unedited model, with the reward of LifelongLLMEdit in
    place of the paper's loss: the cross-entropy of rephrases and the KL divergence on locality
    prompts.

    Args:
        passes: Times that a batch of requests is looked at, 1 or more: after the first time with
            the update so far in effect, to correct it. 1 (default) is the paper's.
        step_size: The first step size η of every site, greater than 0, in units in which the
            untrained network's first update is as long as UltraEdit's with that η. None (default)
            takes the environment's.
        ridge: The first λ of the least squares (eq. 5) of every site, greater than 0; 1 by default.
        blocks: Residual blocks of h_φ, 1 or more; 4 by default.
        rank: Rank of a block's product A·B, 1 or more. None (default) takes a quarter of the
            block's width, at most 1,024.
        sequences: Training sequences of one batch each, 0 or more; budgets may end earlier. 400 by
            default, tuned for FactWorld in factlm: 300; 1,000 episodes in ShiftWorld.
        learning_rate: Adam's learning rate for h_φ, 0 or more; 1e-4 by default.
        step_learning_rate: Adam's learning rate for log η and log λ of the sites, 0 or more; 0.02
            by default. None takes ten times the first step size.
        update_every: Steps whose gradients make one update, 1 or more; 1 by default. None waits for
            the whole sequence, which here is one step.
        linear_decay: Whether the learning rates fall linearly to 0 over the sequences; True by
            default.
        max_grad_norm: Greatest length of an update's gradient, greater than 0; a longer one is
            scaled. 1 by default; None leaves it.
        validate_every: Sequences between two looks at a validation stream, 0 or more; the best
            policy seen is kept. 50 by default; 0 never looks. Left out in ShiftWorld.
        patience: Looks without a new best after which learning ends, 1 or more; None (default)
            goes on to the end.
        train_env: Arguments of the environment while it learns, other than those of the one that is
            edited; what is given adds to the default, {"horizon": 1, "back_depth": 0,
            "locality_weight": 8}. Left out in ShiftWorld.
        start_from: Folder of a saved agent of the same kind, whose policy learning starts from, for
            sites of the same shapes; with `sequences=0` it edits as it was saved. None (default)
            starts anew.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    name = "malmen"
    settings_type: ClassVar[type[Settings]] = SingleBatchSettings
    settings: SingleBatchSettings

    @property
    def rule(self) -> Rule:
        """MALMEN's own rule."""
        return "malmen"


class Mend(HypernetworkEditor):
    """MEND (Mitchell et al. 2022, arXiv 2110.11309): a hypernetwork h_φ that transforms the factors
    of the gradient, whose product is the update, ΔW = −η Σ_i g̃_i k̃_iᵀ (eq. 3).

    It is trained on single batches on the unedited model, with the reward of LifelongLLMEdit in
    place of the paper's loss: the cross-entropy of rephrases and the KL divergence on locality
    prompts. h_φ is MALMEN's, of residual blocks that begin as the identity.

    Args:
        passes: Times that a batch of requests is looked at, 1 or more: after the first time with
            the update so far in effect, to correct it. 1 (default) is the paper's.
        step_size: The first step size η of every site, greater than 0, in units in which the
            untrained network's first update is as long as UltraEdit's with that η. None (default)
            takes the environment's.
        ridge: The first λ of MALMEN's least squares, greater than 0; MEND's own rule has none, and
            it is without effect. 1 by default.
        blocks: Residual blocks of h_φ, 1 or more; 4 by default.
        rank: Rank of a block's product A·B, 1 or more. None (default) takes a quarter of the
            block's width, at most 1,024.
        sequences: Training sequences of one batch each, 0 or more; budgets may end earlier. 400 by
            default, tuned for FactWorld in factlm: 300; 1,000 episodes in ShiftWorld.
        learning_rate: Adam's learning rate for h_φ, 0 or more; 1e-4 by default.
        step_learning_rate: Adam's learning rate for log η and log λ of the sites, 0 or more; 0.02
            by default. None takes ten times the first step size.
        update_every: Steps whose gradients make one update, 1 or more; 1 by default. None waits for
            the whole sequence, which here is one step.
        linear_decay: Whether the learning rates fall linearly to 0 over the sequences; True by
            default.
        max_grad_norm: Greatest length of an update's gradient, greater than 0; a longer one is
            scaled. 1 by default; None leaves it.
        validate_every: Sequences between two looks at a validation stream, 0 or more; the best
            policy seen is kept. 50 by default; 0 never looks. Left out in ShiftWorld.
        patience: Looks without a new best after which learning ends, 1 or more; None (default)
            goes on to the end.
        train_env: Arguments of the environment while it learns, other than those of the one that is
            edited; what is given adds to the default, {"horizon": 1, "back_depth": 0,
            "locality_weight": 8}. Left out in ShiftWorld.
        start_from: Folder of a saved agent of the same kind, whose policy learning starts from, for
            sites of the same shapes; with `sequences=0` it edits as it was saved. None (default)
            starts anew.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    name = "mend"
    settings_type: ClassVar[type[Settings]] = SingleBatchSettings
    settings: SingleBatchSettings

    @property
    def rule(self) -> Rule:
        """MEND's own rule."""
        return "mend"
