"""Heads of sequence classifiers that come without one, such as encoders: trained here, and kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from editgym.data.images import Labelled
from editgym.metrics.classification import accuracy
from editgym.models.language import ModelError
from editgym.models.sequence_classifiers import TokenEncoder, ToxicityTransformer
from editgym.models.training import Recipe, cached_classifier, recipe_key, train_classifier
from editgym.tasks.debiasing.task import DebiasingSplits, encoded
from editgym.weights import EditableNetwork, Keep, editable_sites, find_sites

HEAD_RECIPE = Recipe(epochs=30, learning_rate=1e-2)
_SPREAD = 0.02  # standard deviation of the matrices to begin with, as in BERT


class _Head(nn.Module):
    """The tensors that are trained; what goes into the head -> logits.

    Args:
        network: The classifier, cut where the head begins.
        names: The tensors' names in its state dict.
    """

    def __init__(self, network: EditableNetwork, names: tuple[str, ...]) -> None:
        super().__init__()
        self._network = network
        own = network.base.state_dict()
        self._names = names
        self.tensors = nn.ParameterList([_begun(own[name]) for name in names])

    def forward(self, features: Tensor) -> Tensor:
        """(n, ...) -> (n, 2)."""
        return self._network.logits_from((features,), self.named())

    def named(self) -> dict[str, Tensor]:
        """The tensors by their names in the classifier."""
        return dict(zip(self._names, self.tensors, strict=True))


def train_head(
    network: ToxicityTransformer,
    splits: DebiasingSplits,
    encode: TokenEncoder,
    keep: Keep,
    seed: int,
    least_accuracy: float,
) -> None:
    """Give a classifier the tensors that its checkpoint lacks: its head.

    They are trained on the comments of the model split, once for each classifier, division and
    seed; all else stays as it is. What is trained is kept in EDITGYM_CACHE.

    Args:
        network: It is changed.
        splits: The texts.
        encode: Makes texts into what it takes.
        keep: Where what goes into the head is kept.
        seed: Seed of the numbers to begin with and of the order of the comments.
        least_accuracy: What it has to reach on the validation split's comments.

    Raises:
        ModelError: More than a head is missing, or the accuracy is not reached.
    """
    data, validation = (encoded(part, encode) for part in (splits.model, splits.validation.general))
    modules = {name.rpartition(".")[0] for name in network.untrained}
    sites = [site.name for site in editable_sites(network) if site.name in modules]
    editable = EditableNetwork(network, find_sites(network, sites), data.inputs[:8], keep)
    if not editable.reuses_prefix or len(editable.activations(data.inputs[:8])) != 1:
        raise ModelError(
            f"model: the checkpoint lacks {', '.join(network.untrained)}: more than a head, which"
            " could be trained here; give a whole classifier, or an encoder whose head sees one"
            " vector of a text"
        )
    seen = Labelled(editable.activations(data.inputs)[0], data.labels)
    known = Labelled(editable.activations(validation.inputs)[0], validation.labels)

    def build() -> _Head:
        return _Head(editable, network.untrained)

    def train() -> nn.Module:
        return train_classifier(build, seen, known, HEAD_RECIPE, seed, f"head {seed}")

    key = {
        "task": "debiasing/transformer",
        "recipe": recipe_key(HEAD_RECIPE),
        "seed": seed,
        "network": repr(network),
        "data": [seen.content_hash(), known.content_hash()],  # as the head sees them
        "format": 2,
    }
    with torch.random.fork_rng(devices=[]):
        head = cached_classifier(key, build, train)
    assert isinstance(head, _Head)
    reached = accuracy(head(known.inputs), known.labels)
    if reached < least_accuracy:
        raise ModelError(
            f"model: it came without {', '.join(network.untrained)}; trained here, it reaches an"
            f" accuracy of {reached:.3f} on the validation split's comments, where least_accuracy"
            f" is {least_accuracy}: give a whole classifier, another encoder, or more comments"
        )
    network.load_state_dict(head.named(), strict=False)


def _begun(tensor: Tensor) -> nn.Parameter:
    """What training begins with: zeros, and small random numbers in matrices."""
    begun = torch.zeros_like(tensor)
    return nn.Parameter(begun.normal_(std=_SPREAD) if begun.ndim > 1 else begun)
