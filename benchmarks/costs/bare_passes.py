"""What a step of a stream of edits costs beside the plain model's own passes over the same
tokens.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from agents.hypernetworks.network import Hypernetwork
from agents.hypernetworks.policy import HypernetworkPolicy
from agents.hypernetworks.settings import Learning
from editgym.envs.lifelong.process import LifelongProcess
from editgym.weights import TokenBatch


class BarePasses:
    """The bare passes, by the plain `transformers` model, over the tokens of an environment step.

    Keeps the texts of the look back itself: the new prompts go forward and backward for keys and
    gradients, and forward once more after the edit; the rewarded texts of all batches looked back
    to go forward, or forward and backward, as many at a time as the environment takes.
    """

    def __init__(self, process: LifelongProcess) -> None:
        self._process = process
        self._model: Any = process.task.language.model
        self._texts: list[TokenBatch] = []

    def see(self) -> None:
        """Take in the new batch."""
        requests, task = self._process.requests, self._process.task
        weights = self._process.settings.reward
        texts = TokenBatch.join(
            [
                task.batch([(r.rephrases[0], r.target) for r in requests]),
                task.unchanged([r.locality[0].prompt for r in requests]),
            ]
        )
        self._texts = [texts, *self._texts][: weights.back_depth + 1]
        self._prompts = self._process.prompts

    def run(self, differentiable: bool) -> None:
        """All passes of one step."""
        there_and_back(self._model, self._prompts)
        together = max(1, self._process.settings.reward.micro_batch // len(self._texts[0]))
        for start in range(0, len(self._texts), together):
            texts = TokenBatch.join(self._texts[start : start + together])
            there_and_back(self._model, texts, differentiable)
        there_and_back(self._model, self._prompts, backward=False)


def there_and_back(model: Any, batch: TokenBatch, backward: bool = True) -> None:
    """One pass of the plain model over a batch, with gradients down to the embeddings or without
    any.
    """
    with torch.set_grad_enabled(backward):
        hidden = model.get_input_embeddings()(batch.ids)
        embedded = hidden.detach().requires_grad_(backward)
        logits = model(inputs_embeds=embedded, use_cache=False).logits
        loss = F.cross_entropy(logits[batch.rows, batch.positions], batch.labels)
    if backward:
        torch.autograd.grad(loss, embedded)


def beside_passes(
    process: LifelongProcess, step: Callable[[], object], differentiable: bool, steps: int
) -> dict[str, float]:
    """Median seconds of a step and of its bare passes once the look back is full, and their ratio.

    Args:
        process: It has just been reset.
        step: Makes one step of it.
        differentiable: Whether the rewarded texts go backward as well.
        steps: How many are timed.
    """
    bare = BarePasses(process)
    whole: list[float] = []
    passes: list[float] = []
    depth = process.settings.reward.back_depth
    for index in range(depth + steps):
        bare.see()
        if index >= depth - 1:  # one more than are timed: the first is a rehearsal
            passes.append(seconds(lambda: bare.run(differentiable), process.device))
        whole.append(seconds(step, process.device))
    step_s, passes_s = statistics.median(whole[-steps:]), statistics.median(passes[-steps:])
    return {"step_s": step_s, "passes_s": passes_s, "ratio": step_s / passes_s}


def rledit_training_step(process: LifelongProcess) -> Callable[[], None]:
    """One training step of RLEdit with its hypernetwork and Adam, whose learning rates are 0."""
    network = Hypernetwork([site.shape for site in process.sites]).to(process.device)
    policy = HypernetworkPolicy(network, passes=1)
    optimizer = torch.optim.Adam(policy.groups(Learning(learning_rate=0.0, step_learning_rate=0.0)))

    def train() -> None:
        policy.losses(process).backward()
        optimizer.step()
        optimizer.zero_grad()

    return train


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of a call; on CUDA until the device has finished what it started."""
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
