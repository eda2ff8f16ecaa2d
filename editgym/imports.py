"""What is imported late, or not at all: strangers' parts by their import paths, and libraries that
take seconds to load.
"""

from __future__ import annotations

import importlib
import re
import sys
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")


def is_of_library(value: object, module: str, name: str) -> bool:
    """Whether a value is an instance of a library's class. The library is not imported for that:
    who made such a value has imported it.

    Args:
        value: Anything.
        module: The library's module that defines the class.
        name: The class.
    """
    kind = getattr(sys.modules.get(module), name, None)  # a module may be half loaded
    return kind is not None and isinstance(value, kind)


def is_pretrained_model(value: object) -> TypeGuard[PreTrainedModel]:
    """Whether a value is a model of `transformers`."""
    return is_of_library(value, "transformers.modeling_utils", "PreTrainedModel")


def is_import_path(name: object) -> bool:
    """Whether a name has the form of an import path, `package.module:name`."""
    return isinstance(name, str) and ":" in name


def is_written_as_path(text: str) -> bool:
    """Whether a text is an import path to the letter: dotted identifiers, a colon, an identifier.

    Where any text may stand, such as among settings, a colon alone says nothing: `a: b`, a URL, a
    drive's path and `cuda:0` have one too.
    """
    module, _, name = text.partition(":")
    return name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def imported(path: str, argument: str, example: str = "package.module:name") -> Any:
    """What an import path leads to.

    Args:
        path: `package.module:name`; the module must be importable in this process, from the current
            folder, from `PYTHONPATH` or installed.
        argument: The argument that the path was given for, for messages.
        example: How such a path is written, for messages.

    Raises:
        ValueError: The path has another form, its module cannot be imported, or the module has no
            such name; the message says which, and what would be right.
    """
    module_name, _, name = path.partition(":") if isinstance(path, str) else ("", "", "")
    if not (module_name and name):
        raise ValueError(f"{argument}: {path!r} is no import path: write {example}")
    if module_name.startswith(".") or module_name.endswith(".py") or {*"/\\"} & {*module_name}:
        stem = re.split(r"[/\\]", module_name)[-1].removesuffix(".py")
        near = f"{stem}:{name}" if stem.isidentifier() else example
        raise ValueError(
            f"{argument}: {path!r} names a file, and must name a module: write {near}, with a"
            " module that is in the current folder, on PYTHONPATH, or installed"
        )
    try:
        module = importlib.import_module(module_name)
    # A stranger's module may raise anything while it is imported, and some end their process.
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"{argument}: cannot import the module {module_name!r} of {path!r}:"
            f" {type(error).__name__}: {error}; write {example}, with a module that is in the"
            " current folder, on PYTHONPATH, or installed"
        ) from error
    try:
        return getattr(module, name)
    except AttributeError:
        public = [known for known in vars(module) if not known.startswith("_")]
        raise ValueError(
            f"{argument}: cannot import {path!r}: the module {module_name!r} has no {name!r}; write"
            f" {example}, with one of its names: {', '.join(public[:20]) or 'it has none'}"
        ) from None


def imported_as(kind: type[T], path: str, argument: str) -> T:
    """What an import path leads to, which has to be of a kind.

    Args:
        kind: The class that it must be an instance of.
        path: `package.module:NAME`.
        argument: The argument that the path was given for, for messages.

    Raises:
        ValueError: The path leads nowhere, or to something of another kind.
    """
    found = imported(path, argument, "package.module:NAME")
    if not isinstance(found, kind):
        raise ValueError(
            f"{argument}: {path!r} is a {type(found).__name__}, and must be a {kind.__name__}"
            f" ({kind.__module__})"
        )
    return found


def loaded_as(kind: type[T], path: str, argument: str) -> T:
    """What a loader returns, a function without arguments that an import path leads to.

    Args:
        kind: The class that the result must be an instance of.
        path: `package.module:function`.
        argument: The argument that the path was given for, for messages.

    Raises:
        ValueError: The path leads nowhere or to no function, or the function raises an error or
            returns something of another kind.
    """
    loader = imported(path, argument, "package.module:function")
    if not callable(loader):
        raise ValueError(
            f"{argument}: {path!r} is a {type(loader).__name__}, and must be a function without"
            f" arguments that returns a {kind.__name__} ({kind.__module__})"
        )
    try:
        found = loader()
    except Exception as error:  # a stranger's function may raise anything
        raise ValueError(
            f"{argument}: {path!r}, called without arguments, raised {type(error).__name__}:"
            f" {error}"
        ) from error
    if not isinstance(found, kind):
        raise ValueError(
            f"{argument}: {path!r} returned a {type(found).__name__}, and must return a"
            f" {kind.__name__} ({kind.__module__})"
        )
    return found
