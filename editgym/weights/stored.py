"""A model's tensors by name, wherever they are: on one device, on several, or put off to memory or
disk by accelerate until the pass that needs them.
"""

from __future__ import annotations

import copy
import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def stored_tensors(model: nn.Module, held: Iterable[str] = ()) -> Mapping[str, Tensor]:
    """A model's parameters and persistent buffers, by name.

    Args:
        model: Where accelerate has put off some of its tensors, these are read, onto the device
            that they are used on, whenever somebody asks for one.
        held: Names of tensors that are kept there once they were read.
    """
    own = dict(model.state_dict())
    return OffloadedTensors(model, own, held) if any(t.is_meta for t in own.values()) else own


class OffloadedTensors(Mapping[str, Tensor]):
    """What `stored_tensors` gives where some tensors are offloaded."""

    def __init__(self, model: nn.Module, own: Mapping[str, Tensor], held: Iterable[str]) -> None:
        self._model, self._own = model, dict(own)
        for name in held:
            if name in self._own:
                self._own[name] = self[name]

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._own[name]
        if not tensor.is_meta:
            return tensor
        from accelerate.utils import align_module_device  # not above: the package is an extra

        parent, _, short = name.rpartition(".")
        module = self._model.get_submodule(parent)
        with align_module_device(module):
            read: Tensor = getattr(module, short).detach()
        return read

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)


class Untouched:
    """Tensors that several networks share, and whether they still are what they were.

    A copy, or what was pickled, begins with the tensors that it has.

    Args:
        tensors: The tensors.
    """

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self._tensors = tensors
        self._versions = self._now()

    def __reduce__(self) -> tuple[type[Untouched], tuple[tuple[Tensor, ...]]]:
        return Untouched, (self._tensors,)

    def check(self) -> None:
        """Raise the RuntimeError of tensors that were changed in place."""
        if self._now() != self._versions:
            raise RuntimeError(
                "weights: the unedited matrices, which all networks on one base share, were changed"
                " in place; change copies of them (.clone()), edit by apply() or step(), and make"
                " the task anew in another process"
            )

    def _now(self) -> list[int]:
        """How often each was changed; torch does not count that in inference mode."""
        return [0 if tensor.is_inference() else tensor._version for tensor in self._tensors]


def is_spread(model: nn.Module) -> bool:
    """Whether accelerate has spread a model over devices, or put off some of its tensors."""
    return hasattr(model, "hf_device_map")


def input_device(model: Any) -> torch.device:
    """Where a language model's token ids go, and its logits come out."""
    hook = getattr(model.get_input_embeddings(), "_hf_hook", None)
    device = getattr(hook, "execution_device", None)
    return model.device if device is None else torch.device(device)


def fingerprint(model: nn.Module, without: Collection[str] = ()) -> str:
    """sha256 over the names, types, shapes and bytes of a model's parameters and persistent
    buffers, but for those called `without`: the same wherever they are.
    """
    tensors = stored_tensors(model)
    return tensors_hash((name, tensors[name]) for name in sorted(set(tensors) - set(without)))


def tensors_hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """sha256 over the names, types, shapes and bytes of tensors, in their order."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tied_names(model: nn.Module) -> dict[str, list[str]]:
    """Per name of a state dict, all names of the same tensor: an edit under one name is an edit
    under all.
    """
    tensors: Mapping[str, Tensor] = model.state_dict()
    known: Mapping[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    groups: dict[object, list[str]] = defaultdict(list)
    for name, tensor in tensors.items():
        same = name
        if tensor.is_meta:  # all of these begin at address 0
            same = known.get(name, name)
            tensor = tensors.get(same, tensor)
        there = tensor.numel() and not tensor.is_meta
        groups[(tensor.data_ptr(), tensor.shape, tensor.stride()) if there else same].append(name)
    return {name: names for names in groups.values() for name in names}


def plain_copy(model: nn.Module, tensors: Iterable[tuple[str, Tensor]] | None = None) -> nn.Module:
    """A copy of a model, whole: on its device, or in the CPU's memory where it was spread.

    Args:
        model: The model; of `transformers` where it is spread.
        tensors: What the copy has under some names; None for what the model has.
    """
    if not is_spread(model):
        twin = copy.deepcopy(model)
        own = twin.state_dict()
        with torch.no_grad():  # tensor by tensor: there is never more than this one copy
            for name, tensor in tensors or ():
                own[name].copy_(tensor)
        return twin
    from accelerate import init_empty_weights

    spread: Any = model
    stored, given = stored_tensors(model), dict(tensors or ())
    with init_empty_weights(include_buffers=False):
        whole: Any = type(model)(copy.deepcopy(spread.config))
    copies = {}
    for name, tensor in stored.items():
        copies[name] = given.get(name, tensor).to("cpu", tensor.dtype, copy=True)
    whole.load_state_dict(copies, assign=True)
    whole.tie_weights()
    if hasattr(spread, "generation_config"):  # what generates no text has none
        whole.generation_config = spread.generation_config
    return whole.eval().requires_grad_(False)
