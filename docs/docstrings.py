"""Docstrings as Markdown, for readers of a page's source: the site shows them by mkdocstrings."""

from __future__ import annotations

import doctest
import importlib
import inspect
import posixpath
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_SECTION = re.compile(r"^([A-Z][A-Za-z ]+):\n((?:(?: {4}.*)?\n)+)", re.MULTILINE)
_ITEM = re.compile(r"^(\*{0,2}\w+): ", re.MULTILINE)
_ITEMISED = ("Args", "Arguments", "Attributes", "Raises", "Version history")
_WIDTH = 100


def whole(name: str, page: str) -> str:
    """A class as a page has it that is its specification: where it is defined, its signature, and
    all that its docstring says, each section under a heading.

    Args:
        name: The class's import path, with dots alone.
        page: The page's path in the docs folder.
    """
    thing, module = found(name)
    text = f"{inspect.getdoc(thing)}\n"
    parts = [f"{_source(module, page)}:", f"```text\n{_signature(thing)}\n```"]
    end = 0
    for section in _SECTION.finditer(text):
        parts += _paragraphs(text[end : section.start()])
        parts.append(f"### {'Arguments' if section[1] == 'Args' else section[1]}")
        parts.append(_body(section[1], textwrap.dedent(section[2]).strip("\n")))
        end = section.end()
    parts += _paragraphs(text[end:])
    return "\n\n".join(parts) + "\n"


def members(name: str, page: str, chosen: Sequence[str] = ()) -> str:
    """A module or class as a list of its public members, each with its docstring's first paragraph.

    Args:
        name: The import path, with dots alone.
        page: The page's path in the docs folder.
        chosen: The members; all public ones unless given.
    """
    thing, module = found(name)
    own = [(one, getattr(thing, one)) for one in chosen] or list(_public(thing))
    lines = [f"`{name}`, in {_source(module, page)}: {_summary(thing)}"]
    lines += [f"- `{called}`: {_summary(member)}" for called, member in own]
    lines.insert(1, "")
    return "\n".join(lines).rstrip("\n") + "\n"


def found(name: str) -> tuple[Any, Any]:
    """What an import path leads to, and the module in which that is defined.

    Raises:
        ImportError: It leads nowhere.
    """
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            thing = getattr(thing, part)
        return thing, inspect.getmodule(thing)
    raise ImportError(f"there is no {name}")


def _source(module: Any, page: str) -> str:
    """A link from a page to a module's file."""
    package = hasattr(module, "__path__")
    path = module.__name__.replace(".", "/") + ("/__init__.py" if package else ".py")
    return f"[`{path}`]({posixpath.relpath(f'/{path}', posixpath.dirname(f'/docs/{page}'))})"


def _signature(thing: Any) -> str:
    """The name and its arguments with their defaults, wrapped."""
    without = inspect.Parameter.empty
    signature = inspect.signature(thing)
    plain = signature.replace(
        parameters=[one.replace(annotation=without) for one in signature.parameters.values()],
        return_annotation=inspect.Signature.empty,
    )
    indent = " " * 4
    text = textwrap.fill(
        str(plain)[1:-1],
        _WIDTH - len(indent),
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
    )
    return f"{thing.__name__}(\n{text}\n)"


def _body(section: str, text: str) -> str:
    if section == "Example":
        return f"```python\n{_example(text)}\n```"
    if section in _ITEMISED:
        return _items(text)
    return text


def _items(text: str) -> str:
    """`name: text` with its further lines indented, as a list."""
    listed = _ITEM.sub(lambda item: f"- `{item[1]}`: ", text)
    return re.sub(r"^ {4}", "  ", listed, flags=re.MULTILINE)


def _example(text: str) -> str:
    """An interactive example as a script, with what is shown behind it as a comment."""
    lines: list[str] = []
    for example in doctest.DocTestParser().get_examples(text):
        want = example.want.strip()
        if lines and lines[-1].startswith("import") and not example.source.startswith("import"):
            lines.append("")
        lines.append(example.source.rstrip("\n") + (f"  # {want}" if want else ""))
    return "\n".join(lines)


def _paragraphs(text: str) -> list[str]:
    return [part.strip("\n") for part in re.split(r"\n{2,}", text) if part.strip()]


def _summary(thing: Any) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


def _public(thing: Any) -> Iterator[tuple[str, Any]]:
    """What is defined in a module or a class and has a public name and a docstring, in the order of
    the source.
    """
    inside = inspect.ismodule(thing)
    for name, member in vars(thing).items():
        function = _function(member)
        if name.startswith("_") or not (inspect.isclass(function) or inspect.isfunction(function)):
            continue
        if function.__doc__ and (not inside or _defined_in(function, thing)):
            yield name, function


def _defined_in(thing: Any, module: Any) -> bool:
    """Whether a module defines something itself, or gathers it from its own modules."""
    own = [module.__name__] + ([f"{module.__name__}."] if hasattr(module, "__path__") else [])
    return bool(thing.__module__ == own[0] or thing.__module__.startswith(tuple(own[1:])))


def _function(member: Any) -> Callable[..., Any] | Any:
    """What has the docstring of a member: properties and bound methods wrap it."""
    if isinstance(member, property):
        return member.fget
    return inspect.unwrap(getattr(member, "__func__", getattr(member, "func", member)))
