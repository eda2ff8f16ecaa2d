"""What agents with the access `gradient` have of a stream: keys, gradients, steps, rewards, and the
score of a stream that is over; neither requests nor the model itself.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

from editgym.envs.lifelong.process import LifelongProcess
from editgym.envs.rewarded import AccessError
from editgym.weights import TokenBatch

OFFERED = (
    "open",
    "horizon",
    "device",
    "step_size",
    "step_index",
    "begun",
    "over",
    "reset",
    "settings",
    "sites",
    "outcomes",
    "capture",
    "captured_after",
    "directions",
    "stretched",
    "step",
    "advance",
    "differentiable_step",
    "candidate_rewards",
)


class StreamView:
    """A `LifelongProcess` without what only agents with the access `data` may look at.

    Args:
        process: The stream's process.
    """

    def __init__(self, process: LifelongProcess) -> None:
        self.__process = process

    def score(self) -> float:
        """What `stream_score` says of the stream.

        Raises:
            AccessError: It is one of test requests.
        """
        if self.__process.settings.split == "test":
            raise AccessError("process.score: what edits do to test requests is for the harness")
        return stream_score(self.__process)

    def __dir__(self) -> list[str]:
        return ["score", *OFFERED]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        if name not in OFFERED:
            raise AccessError(
                f"process.{name} is for agents with the access data or oracle; with gradient there"
                f" are score, {', '.join(OFFERED)}"
            )
        return getattr(self.__process, name)


@torch.no_grad()
def stream_score(process: LifelongProcess | StreamView) -> float:
    """How well the edits of a stream that is over hold, 0–1: the harmonic mean of how many prompts,
    rephrases and locality prompts the model answers as it should at the end, by teacher forcing.

    Where no text of one kind is answered whole it would be 0 whatever the policy: then it is a
    thousandth of the harmonic mean of the shares of tokens, of models that spell their answers in
    many pieces.
    """
    if isinstance(process, StreamView):
        return process.score()
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
