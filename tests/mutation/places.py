"""What is mutated: the rooms with their tests, the places in their modules, a seeded sample.

Cosmic-ray writes the mutants. Drawn are *places* (an operator, a number, a condition), each at most
once and with one of its mutants: drawn straight from all mutants, a division with six replacements,
most of them caught by any test at all, would count six times as much as a forgotten `not`.
"""

import ast
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from attrs import evolve
from cosmic_ray.commands.init import init
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import use_db
from cosmic_ray.work_item import MutationSpec


class Room(NamedTuple):
    """Modules that are mutated, and the tests that should notice; a folder means all its files."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]


ROOMS = {
    "weights": Room(("editgym/weights",), ("tests/weights",)),
    "rewards": Room(
        (
            "editgym/envs/worlds/reward.py",
            "editgym/envs/worlds/draws.py",
            "editgym/envs/worlds/probe.py",
            "editgym/envs/lifelong/reward.py",
        ),
        (
            "tests/envs/worlds/test_candidates.py",
            "tests/envs/worlds/test_draws.py",
            "tests/envs/worlds/test_probe.py",
            "tests/envs/worlds/test_reward.py",
            "tests/envs/lifelong",
            "tests/envs/test_golden.py",
        ),
    ),
    "metrics": Room(("editgym/metrics",), ("tests/metrics",)),
    "estimates": Room(
        (
            "benchmarks/report/estimates.py",
            "benchmarks/report/aggregate.py",
            "benchmarks/report/standings.py",
            "benchmarks/report/families.py",
            "benchmarks/report/labels.py",
        ),
        ("tests/benchmarks/report",),
    ),
}

# An operator becomes another one of its group. Across groups (a sum becomes a shift, `==` becomes
# `is`) either every test that runs the line fails by a TypeError, or nothing changes at all.
GROUPS = (
    {"Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"},
    {"BitOr", "BitAnd", "BitXor", "LShift", "RShift"},
    {"Eq", "NotEq", "Lt", "LtE", "Gt", "GtE"},
    {"Is", "IsNot"},
)

Position = tuple[int, int]
Span = tuple[Position, Position]


def tests_for(room: str, module: Path, root: Path) -> list[str]:
    """List the room's test files, those that `module` fails first in front.

    Args:
        room: Name of the room.
        module: A module's path.
        root: Top folder of the checkout.

    Returns:
        Paths relative to `root`: tests named after the module, then those of its folder.
    """

    def distance(file: Path) -> tuple[bool, bool]:
        named = file.stem.startswith(f"test_{module.stem}")
        beside = file.parent.name == module.parent.name
        return not (named and beside), not beside

    files = _files(ROOMS[room].tests, "test_*.py", root)
    return [str(file) for file in sorted(files, key=distance)]


def sample(
    rooms: Iterable[str], root: Path, seed: int, number: int
) -> list[tuple[str, MutationSpec]]:
    """Draw places without replacement, and one mutant at each.

    Args:
        rooms: Names of the rooms to draw from.
        root: Top folder of the checkout.
        seed: Seed of the draw.
        number: Number of places; fewer are returned if there are fewer.

    Returns:
        Pairs of a room's name and a mutant, in the order in which they were drawn.
    """
    generator = random.Random(seed)
    places: dict[tuple[str, Path, Position, str], list[MutationSpec]] = defaultdict(list)
    for room in sorted(rooms):
        for mutant in _mutants(_files(ROOMS[room].modules, "*.py", root), root):
            kind = re.sub(r"(Operator)_.*", r"\1", mutant.operator_name)
            places[room, mutant.module_path, mutant.start_pos, kind].append(mutant)
    drawn: list[tuple[str, MutationSpec]] = []
    for place in generator.sample(sorted(places), len(places)):
        mutant = generator.choice(places[place])
        source = (root / mutant.module_path).read_text()
        if len(drawn) < number and _is_a_change(mutated_code(mutant, root), source):
            drawn.append((place[0], mutant))
    return drawn


def mutated_code(mutant: MutationSpec, root: Path) -> str:
    """Write the mutant's whole module."""
    operator = get_operator(mutant.operator_name)(**mutant.operator_args)
    code = mutate_code((root / mutant.module_path).read_text(), operator, mutant.occurrence)
    if code is None:
        raise ValueError(
            f"{mutant.module_path} changed: {mutant.operator_name} finds no such place"
        )
    return str(code)


def irrelevant(source: str) -> list[Span]:
    """Find the spans of a module that tests of behaviour cannot or need not notice.

    They are annotations, type aliases and protocols, imports and the question whether they are only
    for types, all that is said in errors and warnings, and the `strict` of a `zip`, an assertion
    that always holds.

    Args:
        source: Text of the module.

    Returns:
        Pairs of start and end, each a line (from one) and a column (from zero, in characters).
    """
    lines = source.splitlines()

    def position(line: int | None, offset: int | None) -> Position:
        assert line is not None
        return line, len(lines[line - 1].encode()[:offset].decode())

    tree = ast.parse(source)
    spans = [
        (position(node.lineno, node.col_offset), position(node.end_lineno, node.end_col_offset))
        for node in _irrelevant_nodes(tree)
    ]
    for node in ast.walk(tree):
        # The star before keyword-only arguments has no node, and would be taken for a product.
        if isinstance(node, ast.arguments) and node.kwonlyargs and not node.vararg:
            first = node.kwonlyargs[0]
            end = position(first.lineno, first.col_offset)
            line, column = end
            while "*" not in lines[line - 1][:column]:
                line, column = line - 1, len(lines[line - 2])
            spans.append(((line, lines[line - 1].rindex("*", 0, column)), end))
    return spans


def _irrelevant_nodes(tree: ast.Module) -> Iterator[ast.expr | ast.stmt]:
    for statement in tree.body:
        match statement:
            case ast.Assign(value=(ast.BinOp(op=ast.BitOr()) | ast.Subscript()) as alias):
                yield alias
    for node in ast.walk(tree):
        match node:
            case ast.Raise() | ast.Import() | ast.ImportFrom():
                yield node
            case ast.Call(func=ast.Attribute(value=ast.Name("warnings"), attr="warn")):
                yield node
            case ast.Call(
                func=ast.Name("zip"), keywords=[ast.keyword("strict", ast.Constant(True))]
            ):
                yield node.keywords[0].value
            case ast.ClassDef(bases=[ast.Name("Protocol")]):
                yield node
            case ast.arg(annotation=ast.expr() as annotation):
                yield annotation
            case ast.AnnAssign(annotation=annotation):
                yield annotation
            case ast.FunctionDef(returns=ast.expr() as annotation):
                yield annotation
            case ast.If(test=ast.Name("TYPE_CHECKING") as test):
                yield test


def _files(names: Iterable[str], pattern: str, root: Path) -> list[Path]:
    found: set[Path] = set()
    for path in [root / name for name in names]:
        found |= set(path.rglob(pattern)) if path.is_dir() else {path}
    return sorted(path.relative_to(root) for path in found)


def _mutants(modules: list[Path], root: Path) -> Iterator[MutationSpec]:
    """List all mutants of the modules that may be drawn; their paths are relative to `root`."""
    with use_db(":memory:") as everything:
        init([root / module for module in modules], everything, {})
        mutants = [mutant for item in everything.work_items for mutant in item.mutations]
    spans = {root / module: irrelevant((root / module).read_text()) for module in modules}
    for mutant in mutants:
        path = mutant.module_path
        hidden = any(start <= mutant.start_pos < end for start, end in spans[path])
        if _within_a_group(mutant.operator_name) and not hidden:
            yield evolve(mutant, module_path=path.relative_to(root))


def _within_a_group(operator: str) -> bool:
    pair = re.search(r"(?:Binary|Comparison)Operator_(\w+?)_(\w+)", operator)
    return pair is None or any(set(pair.groups()) <= group for group in GROUPS)


def _is_a_change(code: str, source: str) -> bool:
    """Say whether it is Python, and other Python than before: 1e30 + 1 is 1e30."""
    try:
        return ast.dump(ast.parse(code)) != ast.dump(ast.parse(source))
    except SyntaxError:
        return False
