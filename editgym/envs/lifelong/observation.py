"""What an agent sees of a stream of edits: a fixed number of numbers per site, whatever the model's
size.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from editgym.envs.lifelong.process import LifelongProcess
from editgym.envs.lifelong.updates import DIRECTIONS
from editgym.envs.sketch import BilinearSketch, CountSketch
from editgym.weights import LowRankFactors

_WEIGHTS, _KEYS, _GRADIENTS = 16, 8, 8
_PER_SITE = _WEIGHTS + _KEYS + _GRADIENTS + DIRECTIONS + 2
_GLOBAL = 3


class StreamObserver:
    """The process as a flat observation; `LifelongLLMEditEnv` tells what is in it.

    Everything is relative: sketches are of unit length in expectation times the size they stand for
    over its scale, so that models of different width give comparable numbers.

    Args:
        process: What is looked at.
        bound: Limit of every number.
    """

    def __init__(self, process: LifelongProcess, bound: float) -> None:
        self._process = process
        self._bound = bound
        device = process.task.device
        self._norms = [float(weight.float().norm()) for weight in process.decoder.base_weights]
        self._sketches = [
            (
                BilinearSketch(*site.shape, _WEIGHTS, weight.device),  # of a model on several GPUs
                CountSketch(site.shape[1], _KEYS, device),
                CountSketch(site.shape[0], _GRADIENTS, device),
            )
            for site, weight in zip(process.sites, process.decoder.base_weights, strict=True)
        ]
        self.space = spaces.Box(
            -bound, bound, (len(process.sites) * _PER_SITE + _GLOBAL,), np.float32
        )

    def __call__(self) -> NDArray[np.float32]:
        """The observation; after the last step the numbers about new requests are 0.

        Of an edited model that has collapsed, what is not a number is 0, and a loss that is not
        finite is the bound.

        Raises:
            FloatingPointError: Keys or gradients of the unedited model are not finite.
        """
        process = self._process
        over = process.over
        directions = None if over else self._directions()
        parts: list[Tensor] = []
        for index, (weight, base) in enumerate(
            zip(process.decoder.weights, process.decoder.base_weights, strict=True)
        ):
            sketches, norm = self._sketches[index], self._norms[index]
            parts.append(sketches[0](weight.float()) / norm)
            parts.append(
                weight.new_zeros(_PER_SITE - _WEIGHTS - 1)
                if over
                else self._new(index, norm, None if directions is None else directions[index])
            )
            parts.append(((weight.float() - base.float()).norm() / norm).reshape(1))
        done = process.step_index / process.settings.horizon
        new = None if over else process.batch.new_prompts
        tokens = 0.0 if new is None else len(new.labels) / max(1, len(new))
        loss = 0.0 if over else process.capture.new.loss
        parts.append(
            torch.tensor(
                [loss if math.isfinite(loss) else self._bound, tokens, done],
                device=process.task.device,
            )
        )
        flat = (
            torch.cat([part.to(process.task.device, torch.float32) for part in parts])
            .nan_to_num(nan=0.0)
            .clamp(-self._bound, self._bound)
        )
        return np.array(flat.cpu().numpy(), dtype=np.float32)

    def _directions(self) -> list[LowRankFactors] | None:
        """The training-free update of the new requests; None where the edited model has
        collapsed.
        """
        try:
            return self._process.batch.new_directions
        except FloatingPointError:
            if self._process.step_index == 0:
                raise
            return None

    def _new(self, index: int, norm: float, directions: LowRankFactors | None) -> Tensor:
        """One site's keys, gradients and training-free update of the new requests."""
        _, keys, gradients = self._sketches[index]
        capture = self._process.capture.new
        singular = (
            capture.gradients[index].new_zeros(1)
            if directions is None
            else directions.a.norm(dim=0) / norm
        )
        first = F.pad(singular[:DIRECTIONS], (0, max(0, DIRECTIONS - len(singular))))
        return torch.cat(
            [
                _unit(keys(capture.keys[index].mean(0, keepdim=True))[0]),
                _unit(gradients(capture.gradients[index].mean(0, keepdim=True))[0]),
                first,
                singular.norm().reshape(1),
            ]
        )


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm().clamp(min=1e-12)
