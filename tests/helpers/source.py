"""The project's own source files, for tests that read them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("editgym", "agents", "benchmarks")


@cache
def product_files() -> tuple[Path, ...]:
    """Every Python file that is installed."""
    inside = (file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py")))
    return (ROOT / "envs_registry.py", *inside)


@cache
def parsed(file: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(file.read_text())


def module_name(file: Path) -> str:
    """The dotted name of a file's module."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
