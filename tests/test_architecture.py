"""The house as it is drawn in CONTRIBUTING: imports run downwards, floors and files stay small."""

import ast

import pytest
from source import PACKAGES, ROOT, module_name, parsed, product_files

FLOORS = {
    "editgym.version": 0,
    "editgym.checks": 0,
    "editgym.paths": 0,
    "editgym.imports": 0,
    "editgym.data": 1,
    "editgym.models": 1,
    "editgym.weights": 1,
    "editgym.metrics": 1,
    "editgym.tasks": 2,
    "editgym.envs": 3,
    "envs_registry": 4,
    "agents": 5,
    "benchmarks": 6,
}
# `import editgym` registers the environments, whose table names their classes by string: the one
# import that runs upwards.
UPWARD = {("editgym", "envs_registry")}
MODULES = {module_name(file): file for file in product_files()}


def floor(module):
    """The floor of a module; None for the package `editgym` itself."""
    found = [name for name in FLOORS if module == name or module.startswith(f"{name}.")]
    return FLOORS[found[0]] if found else None


def imports(file):
    """The project's modules that a file imports, also inside functions."""
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in inside]
        else:
            continue
        yield from (name for name in dict.fromkeys(names) if name in MODULES)


GRAPH = {name: sorted(set(imports(file)) - {name}) for name, file in MODULES.items()}


def test_imports_run_downwards():
    upward = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        for other in others
        if (module, other) not in UPWARD
        and floor(module) is not None
        and floor(other) is not None
        and floor(other) > floor(module)
    ]
    assert not upward


def test_every_module_has_a_floor():
    assert [name for name in MODULES if floor(name) is None] == ["editgym"]


def test_no_import_goes_in_a_circle():
    done, path = set(), []

    def visit(module):
        if module in path:
            pytest.fail(" -> ".join([*path[path.index(module) :], module]))
        if module in done:
            return
        path.append(module)
        for other in GRAPH[module]:
            # A package's `__init__` gathers names of its modules, which do not ask it for any.
            if (module, other) not in UPWARD and other not in PACKAGES:
                visit(other)
        path.pop()
        done.add(module)

    for module in GRAPH:
        visit(module)


@pytest.mark.parametrize(
    ("room", "never"),
    [
        ("agents.editors", ("agents.hypernetworks", "agents.rl", "agents.unlearning")),
        ("agents.rl", ("agents.hypernetworks", "agents.unlearning", "agents.debiasing")),
        ("agents.unlearning", ("agents.editors", "agents.hypernetworks", "agents.rl")),
        ("benchmarks.suites", ("benchmarks.harness", "benchmarks.studies")),
        ("benchmarks.report", ("benchmarks.harness", "benchmarks.studies")),
        ("editgym.tasks.unlearning", ("editgym.tasks.debiasing", "editgym.tasks.knowledge")),
        ("editgym.tasks.debiasing", ("editgym.tasks.unlearning", "editgym.tasks.knowledge")),
        ("editgym.tasks.knowledge", ("editgym.tasks.unlearning", "editgym.tasks.debiasing")),
        ("editgym.weights.classifiers", ("editgym.weights.language",)),
        ("editgym.weights.language", ("editgym.weights.classifiers",)),
        ("editgym.weights.default_sites", ("editgym.weights.sites", "editgym.weights.overlay")),
        ("editgym.weights.journal", ("editgym.weights.overlay", "editgym.weights.sites")),
    ],
)
def test_walls_between_rooms(room, never):
    through = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        if module.startswith(f"{room}.")
        for other in others
        if other.startswith(never)
    ]
    assert not through


def test_edit_grpo_reaches_other_editors_through_the_catalogue():
    methods = {"ultraedit", "fine_tuning", "lora", "rome_memit", "alphaedit", "beside"}
    asked = {other.rpartition(".")[2] for other in GRAPH["agents.editors.edit_grpo"]}
    assert not asked & methods
    assert "catalogue" in asked


@pytest.mark.parametrize(
    ("package", "most"),
    [("agents", 17), ("benchmarks", 11), ("editgym/tasks", 10), ("editgym/weights", 15)],
)
def test_a_floor_holds_few_things(package, most):
    entries = [entry for entry in (ROOT / package).iterdir() if entry.name != "__pycache__"]
    assert len(entries) <= most, sorted(entry.name for entry in entries)


def test_files_are_short():
    lengths = {str(file.relative_to(ROOT)): len(lines(file)) for file in product_files()}
    assert {name: n for name, n in lengths.items() if n > 350} == {}
    long = {name: n for name, n in lengths.items() if n > 300}
    assert len(long) <= 3, long


def test_lines_are_short():
    every = [*product_files(), *sorted((ROOT / "tests").rglob("*.py"))]
    wide = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in every
        for number, line in enumerate(lines(file), start=1)
        if len(line) > 100
    ]
    assert not wide


def test_environments_are_asked_through_their_contract():
    asked = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in product_files()
        if module_name(file).startswith(("agents.", "benchmarks."))
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.Attribute) and node.attr == "unwrapped"
    ]
    assert not asked, "use editgym.envs.protocol: edit_env, open_env, stream_env and their kin"


def lines(file):
    """A file's lines."""
    return file.read_text().split("\n")
