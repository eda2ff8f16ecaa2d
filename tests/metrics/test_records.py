"""What was asked and measured is the same for everybody who reads it."""

import dataclasses
import importlib

import pytest

RECORDS = {
    "attacks": ("Target",),
    "edit_record": ("Asked", "EditRecord"),
    "evaluation": ("Evaluation",),
    "privacy": ("Evidence",),
    "recovery": ("Scale",),
}


@pytest.mark.parametrize(
    "name",
    [
        "answers",
        "attacks",
        "classification",
        "edit_record",
        "evaluation",
        "fairness",
        "knowledge",
        "privacy",
        "recovery",
    ],
)
def test_records_cannot_be_changed(name):
    module = importlib.import_module(f"editgym.metrics.{name}")
    own = [
        one
        for one in vars(module).values()
        if isinstance(one, type)
        and dataclasses.is_dataclass(one)
        and one.__module__ == module.__name__
    ]
    assert all(one.__dataclass_params__.frozen for one in own)
    assert {one.__name__ for one in own} >= set(RECORDS.get(name, ()))
