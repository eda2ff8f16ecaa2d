"""Look into a network's modules while they are called, or replace what they do, for one block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

LookBefore = Callable[[tuple[Any, ...]], object]
LookAfter = Callable[[tuple[Any, ...], Any], object]


# Of modules inside a block with another forward, those that they had before, from outside in.
_replaced: WeakKeyDictionary[nn.Module, list[Any]] = WeakKeyDictionary()


class Reached(Exception):
    """Raised by a hook: ends a forward pass that has come as far as it is needed."""


@contextmanager
def hooked(
    before: Iterable[tuple[nn.Module, LookBefore]] = (),
    after: Iterable[tuple[nn.Module, LookAfter]] = (),
    instead: Iterable[tuple[nn.Module, Callable[..., Any]]] = (),
) -> Iterator[None]:
    """Hook modules for as long as the block runs, whatever ends it.

    A hook only looks: what it returns is ignored. It may raise `Reached`, which ends the block and
    goes no further.

    Args:
        before: Modules, and what is called with their positional inputs before each call.
        after: Modules, and what is called with their positional inputs and output after each call.
        instead: Modules, and the forwards that they have inside the block. A forward that somebody
            else has replaced already is put back afterwards.
    """
    before, after = list(before), list(after)
    with ExitStack() as undo:
        for module, look in before:
            undo.callback(module.register_forward_pre_hook(_before(look)).remove)
        for module, look_at in after:
            undo.callback(module.register_forward_hook(_after(look_at)).remove)
        for module, forward in instead:
            undo.callback(_end, module)
            _replaced.setdefault(module, []).append(module.__dict__.get("forward"))
            module.forward = forward
        try:
            yield
        except Reached:
            if not (before or after):  # it belongs to a block around this one
                raise


@contextmanager
def unreplaced(model: nn.Module) -> Iterator[None]:
    """A model whose modules have, inside the block, the forwards that they have outside all blocks
    of `hooked`.
    """
    with ExitStack() as undo:
        for module in model.modules():
            if module in _replaced:
                undo.callback(_put_back, module, module.__dict__["forward"])
                _put_back(module, _replaced[module][0])
        yield


def _end(module: nn.Module) -> None:
    """Give a module the forward that it had before the innermost block."""
    _put_back(module, _replaced[module].pop())
    if not _replaced[module]:
        del _replaced[module]


def _before(look: LookBefore) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        look(inputs)

    return hook


def _after(look: LookAfter) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        look(inputs, output)

    return hook


def _put_back(module: nn.Module, own: Any) -> None:
    """Give a module the forward that it had: its own, or its class's."""
    if own is None:
        module.__dict__.pop("forward", None)
    else:
        module.forward = own
