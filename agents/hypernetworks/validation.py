"""How well a policy edits: a validation stream, and its score once it is over."""

from __future__ import annotations

import copy

import torch
from gymnasium.envs.registration import EnvSpec

from agents.episodes import validation_env
from agents.hypernetworks.policy import SequencePolicy
from editgym.envs.lifelong.view import stream_score
from editgym.envs.protocol import gradient_stream

_VALIDATION_SEED = 0  # of the validation streams' own split


class Judge:
    """How well a policy edits a validation stream as long as the stream that it is for.

    The harmonic mean of how many prompts, rephrases and locality prompts the model answers as it
    should at the end (`stream_score`): by teacher forcing, and with those texts only that rewards
    may use. Test requests play no part.

    Args:
        env_spec: A `LifelongLLMEdit`'s spec.
        seed: Draws the stream.
    """

    def __init__(self, env_spec: EnvSpec, seed: int) -> None:
        try:
            self.env = validation_env(env_spec, _VALIDATION_SEED)
        except ValueError as error:
            raise ValueError(f"{error}; learn with validate_every=0") from error
        self.env.reset(seed=_VALIDATION_SEED + seed)

    @torch.no_grad()
    def __call__(self, policy: SequencePolicy) -> float:
        """Edit the stream with `policy`, whose statistics are put back afterwards; the score,
        0–1.
        """
        before = copy.deepcopy(policy.statistics())
        self.env.reset()
        process = gradient_stream(self.env).process
        while not process.over:
            process.advance(policy.entries(process))
        policy.load_statistics(before)
        return stream_score(process)

    def close(self) -> None:
        """Close its environment."""
        self.env.close()
