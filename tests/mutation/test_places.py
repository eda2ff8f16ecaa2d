"""The sample of mutants: what it leaves out, and that a seed draws it."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("cosmic_ray")  # the extra `mutants`, which most do not install

MODULE = '''\
"""A module with 1 + 1 in its docstring."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

Number = int | float


class Halved(Protocol):
    @property
    def half(self, digits: int = 9) -> float: ...


def half(x: Number | None = 4, *, rest: list[int] | None = None) -> float | None:
    """Half of `x`, which is 2 - 1."""
    limit: int | float = 8
    huge = 1e30
    if x is None:
        raise ValueError(f"no number of {1 + 1}")
    warnings.warn(f"{'×' * 3} {x - 1}")
    return {"×××": x / limit, "pairs": zip(rest, rest, strict=True)}["×××"]
'''


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The module `places`, with one room of one module under `tmp_path`."""
    spec = importlib.util.spec_from_file_location("places", Path(__file__).with_name("places.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "half.py").write_text(MODULE)
    room = module.Room(("room",), ("tests/room",))
    monkeypatch.setattr(module, "ROOMS", {"room": room})
    return module


def test_only_what_computes_is_mutated(places, tmp_path):
    drawn = [mutant for _, mutant in places.sample(["room"], tmp_path, 0, 1_000)]
    lines = MODULE.splitlines()
    texts = {
        lines[row - 1][column : mutant.end_pos[1]]
        for mutant in drawn
        for row, column in [mutant.start_pos]
    }
    assert texts == {"4", "8", "is", "x is None", "/"}
    assert {mutant.module_path for mutant in drawn} == {Path("room/half.py")}
    assert len(drawn) == 5  # the division has six mutants and is drawn once
    for mutant in drawn:
        code = places.mutated_code(mutant, tmp_path)
        assert code != MODULE
        compile(code, "mutant", "exec")


def test_an_operator_becomes_one_of_its_group(places, tmp_path):
    (tmp_path / "room" / "half.py").write_text("x / y\n" * 40)
    drawn = [mutant.operator_name for _, mutant in places.sample(["room"], tmp_path, 0, 1_000)]
    assert len(drawn) == 40
    names = {name.rpartition("_")[2] for name in drawn}
    assert names == {"Add", "Sub", "Mul", "FloorDiv", "Mod", "Pow"}


def test_a_seed_draws_the_sample(places, tmp_path):
    first, again, other = (places.sample(["room"], tmp_path, seed, 2) for seed in (3, 3, 4))
    assert first == again != other
    assert len(first) == len(other) == 2


def test_tests_named_after_the_module_come_first(places, tmp_path):
    folder = tmp_path / "tests" / "room"
    folder.mkdir(parents=True)
    for name in ("test_a.py", "test_half.py", "test_half_too.py", "conftest.py"):
        (folder / name).touch()
    found = places.tests_for("room", Path("room/half.py"), tmp_path)
    assert [Path(name).name for name in found] == ["test_half.py", "test_half_too.py", "test_a.py"]
