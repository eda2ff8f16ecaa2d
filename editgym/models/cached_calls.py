"""Calls of a causal language model that go on from what a cache has seen, and which of them change
nothing about what the model says.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from editgym.weights.hooks import unreplaced
from editgym.weights.language.kv_cache import cache_argument, shortest_window
from editgym.weights.stored import input_device

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

# Of a cache's layers in `transformers`, those that hold keys and values; a dummy one reads another
# layer's.
_KEYS_AND_VALUES = {
    "DynamicLayer",
    "DynamicSlidingWindowLayer",
    "DynamicIndexedLayer",
    "DummyLayer",
}
LEAST_SHARED = 8  # first tokens; to read fewer apart costs more than it saves


class ModelError(ValueError):
    """A language model that cannot be loaded, or cannot be used for question answering."""


class CachedCalls:
    """A model that is called with a cache.

    Args:
        model: A causal LM of `transformers`.
        pad_id: The token that texts of unequal length are filled up with.

    Raises:
        ModelError: The model's cache holds more than the keys and values of attention, as with
            linear attention, state spaces and recurrence: decoding could not drop or repeat its
            rows.

    Attributes:
        window: How many tokens attention looks back to; padding between them counts there.
    """

    def __init__(self, model: PreTrainedModel, pad_id: int) -> None:
        self._model, self._pad_id = model, pad_id
        self.window = shortest_window(model, self._checked_layers())

    @property
    def device(self) -> torch.device:
        """Where tokens go."""
        return input_device(self._model)

    @cached_property
    @torch.no_grad()
    def pads(self) -> bool:
        """Whether padding on the left changes nothing, so that prompts of different lengths are
        decoded together.

        It does where the model takes no positions, or does not count them from 0, as BART and
        RoBERTa.
        """
        with unreplaced(self._model):  # by a model that collapsed nothing can be told
            return self._pads()

    @cached_property
    @torch.no_grad()
    def continues(self) -> bool:
        """Whether a prompt may go on from what a cache has seen of its beginning, padding between
        them where prompts are padded.
        """
        with unreplaced(self._model):
            return self._continues()

    def goes_on_after(self, tokens: int) -> bool:
        """Whether an answer may go on from what a pass has read of its text, which is padded, if
        both together are so many tokens.
        """
        return self.pads and self.continues and tokens <= self.window

    def begun(self, tokens: Sequence[int], count: int) -> DynamicCache:
        """A cache that has seen the same tokens in each of `count` texts."""
        ids = torch.tensor([list(tokens)], device=self.device)
        cache: DynamicCache = self._model(input_ids=ids, use_cache=True, logits_to_keep=1)[
            self._cache_argument
        ]
        if count > 1:
            cache.batch_repeat_interleave(count)
        return cache

    def forward(
        self, ids: Tensor, mask: Tensor, cache: DynamicCache | None, kept: int = 1
    ) -> tuple[Tensor, DynamicCache]:
        """Logits after the last tokens of every text, (n, kept, vocabulary), and the cache with
        these tokens in it.

        Args:
            ids: (n, tokens), the new ones.
            mask: (n, all tokens so far), 0 where padding is.
            cache: What was seen before.
            kept: After how many last tokens.
        """
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        placed = {"attention_mask": mask, "position_ids": positions} if self.pads else {}
        out = self._model(
            input_ids=ids,
            use_cache=True,
            logits_to_keep=kept,
            **placed,
            **{self._cache_argument: cache},
        )
        return out.logits[:, -kept:], out[self._cache_argument]

    # --- inside -----------------------------------------------------------------------------------

    def _pads(self) -> bool:
        if "position_ids" not in inspect.signature(self._model.forward).parameters:
            return False
        ids = torch.arange(4, device=self.device)[None] + 1
        alone = self._model(input_ids=ids, use_cache=False).logits[0, -1].float()
        mask = torch.cat([torch.zeros_like(ids), torch.ones_like(ids)], dim=1)
        padded = (
            self._model(
                input_ids=torch.cat([torch.full_like(ids, self._pad_id), ids], dim=1),
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                use_cache=False,
            )
            .logits[0, -1]
            .float()
        )
        return bool(((padded - alone).abs() <= self._tolerance(alone)).all())

    def _continues(self) -> bool:
        ids = torch.arange(2 * LEAST_SHARED, device=self.device)[None] + 1
        whole = self._model(input_ids=ids, use_cache=False).logits[0, -1].float()
        try:
            cache = self.begun(ids[0, :LEAST_SHARED].tolist(), 1)
            rest, mask = ids[:, LEAST_SHARED:], torch.ones_like(ids)
            if self.pads:
                rest = F.pad(rest, (1, 0), value=self._pad_id)
                mask = torch.cat([mask, mask[:, :1]], dim=1)
                mask[0, LEAST_SHARED] = 0
            parts = self.forward(rest, mask, cache)[0][0, -1].float()
        except (TypeError, ValueError, AttributeError, RuntimeError, IndexError):
            return False
        return bool(((parts - whole).abs() <= self._tolerance(whole)).all())

    @cached_property
    def _cache_argument(self) -> str:
        return cache_argument(self._model)

    def _tolerance(self, logits: Tensor) -> float:
        exact = self._model.dtype == torch.float32
        return (1e-4 if exact else 2e-2) * max(1.0, float(logits.abs().max()))

    @torch.no_grad()
    def _checked_layers(self) -> Sequence[object]:
        """The layers of the model's cache, which have keys and values and nothing else: decoding
        could not drop or repeat rows of anything else.
        """
        from transformers import DynamicCache  # who has such a model has waited for it

        ids = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        cache = getattr(self._model(input_ids=ids, use_cache=True), self._cache_argument, None)
        layers: Sequence[object] = getattr(cache, "layers", ())
        kinds = {type(layer).__name__ for layer in layers}
        if type(cache) is not DynamicCache or not kinds <= _KEYS_AND_VALUES:
            raise ModelError(
                f"model: {type(self._model).__name__} is not supported (its cache:"
                f" {', '.join([type(cache).__name__, *sorted(kinds)])}); supported are models whose"
                " layers are attention with a key-value cache, not linear attention, state spaces"
                " or recurrence"
            )
        return layers
