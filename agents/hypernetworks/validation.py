"""How well a policy edits: a validation stream, and the score of a stream that is over."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from gymnasium.envs.registration import EnvSpec

from agents.episodes import validation_env
from agents.hypernetworks.policy import SequencePolicy
from editgym.envs.lifelong.process import LifelongProcess
from editgym.envs.protocol import stream_env
from editgym.weights import TokenBatch

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
        process = stream_env(self.env).process
        while not process.over:
            process.advance(policy.entries(process))
        policy.load_statistics(before)
        return stream_score(process)


@torch.no_grad()
def stream_score(process: LifelongProcess) -> float:
    """The harmonic mean that `Judge` gives, of a process whose stream is over.

    Where no text of one kind is answered whole it would be 0 whatever the policy: then it is a
    thousandth of the harmonic mean of the shares of tokens, of models that spell their answers in
    many pieces.
    """
    task, requests = process.task, process.stream.holding
    told = [(request.prompt, request.target) for request in requests]
    again = [((request.rephrases or (request.prompt,))[0], request.target) for request in requests]
    local = [request.locality[0].prompt for request in requests if request.locality]
    shares = [_shares(process, task.batch, told), _shares(process, task.batch, again)]
    if local:
        shares.append(_shares(process, task.unchanged, local))
    whole, tokens = zip(*shares, strict=True)
    return statistics.harmonic_mean(whole) or statistics.harmonic_mean(tokens) / 1_000


def _shares(
    process: LifelongProcess, encoded: Callable[[Any], TokenBatch], texts: Sequence[Any]
) -> tuple[float, float]:
    """The share of texts answered whole, and the mean share of their tokens; as many texts at a
    time as rewards take.
    """
    size = process.settings.reward.micro_batch
    found = []
    for start in range(0, len(texts), size):
        batch = encoded(texts[start : start + size])
        right = process.decoder.logits(batch).argmax(-1) == batch.labels
        found.append(
            torch.stack([batch.all_of(right).double().sum(), batch.means(right.double()).sum()])
        )
    whole, tokens = (torch.stack(found).sum(0) / len(texts)).tolist()
    return whole, tokens
