"""Calls of a language model: logits at the tokens that are asked for, hidden states, and what goes
into a layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from editgym.weights.language.kv_cache import cache_argument
from editgym.weights.language.layers import LayerStack, Prefix, below_head
from editgym.weights.language.tokens import TokenBatch

if TYPE_CHECKING:
    from transformers import DynamicCache


class Opened(NamedTuple):
    """What is left of texts of which the opening was read.

    Attributes:
        ids: The tokens after it, (n, rest).
        cache: What attention has seen of it.
        begun: What went into the layer where the pass over it ended, if it ended at one.
    """

    ids: Tensor
    cache: DynamicCache | None
    begun: Prefix | None


class ModelCalls:
    """Calls a causal LM as it is when it is called, edits and all.

    Args:
        model: A causal LM of `transformers`.
        layers: Its layers.

    Attributes:
        gathers: Whether its head is one linear layer, so that logits are computed only where they
            are asked for; until it is known otherwise.
    """

    def __init__(self, model: nn.Module, layers: LayerStack) -> None:
        self._model: Any = model
        self._layers = layers
        self.gathers = True

    def at(
        self,
        ids: Tensor,
        rows: Tensor,
        positions: Tensor,
        everywhere: bool = False,
        cache: DynamicCache | None = None,
        **told: Any,
    ) -> Tensor:
        """Logits at tokens of texts that go on after what a cache has seen; `everywhere` where the
        head has to run at every token.
        """
        if everywhere or not self.gathers:
            return self._called(self._model, ids, cache, **told).logits[rows, positions]
        hidden = self.hidden(ids, cache, **told)
        asked = hidden[rows.to(hidden.device), positions.to(hidden.device)]
        logits: Tensor = self._model.get_output_embeddings()(asked)
        return logits.to(ids.device)

    def hidden(self, ids: Tensor, cache: DynamicCache | None = None, **told: Any) -> Tensor:
        """The last hidden states, (n, length, width)."""
        hidden: Tensor = self._called(below_head(self._model), ids, cache, **told)[0]
        return hidden

    def until(self, layer: int, ids: Tensor, cache: DynamicCache | None = None) -> Prefix | None:
        """Run the model on texts and return what goes into a layer, where the pass ends; with layer
        0, run it to where its head begins and return None.
        """
        if layer:
            return self._layers.prefix(layer, lambda: self.hidden(ids, cache))
        self.hidden(ids, cache)
        return None

    def plain(self, batch: TokenBatch) -> Tensor:
        """Logits at a batch's answer tokens without any shortcut."""
        full = self._model(input_ids=batch.ids, use_cache=False)
        logits: Tensor = full.logits[batch.rows, batch.positions]
        return logits

    def differ(self, found: Tensor, wanted: Tensor) -> bool:
        """Whether logits differ by more than rounding."""
        # Half precision rounds at every layer, and a product of other shape may round otherwise.
        exact = self._model.dtype == torch.float32
        tolerance = (1e-5 if exact else 2e-2) * max(1.0, float(wanted.abs().max()))
        return not bool(((found.float() - wanted.float()).abs() <= tolerance).all())

    @staticmethod
    def _called(module: Any, ids: Tensor, cache: DynamicCache | None, **told: Any) -> Any:
        more = told if cache is None else {**told, cache_argument(module): cache}
        return module(input_ids=ids, use_cache=bool(more), **more)
