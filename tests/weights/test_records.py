"""Sites, updates and entries are shared between networks and journals, so nobody may change one."""

import dataclasses
import importlib
import pkgutil

import pytest

from editgym import weights

CHANGING = {
    "Capture",
    "DiskJournal",
    "EditJournal",
    "SitePass",
}  # what a pass fills in, and what edits go into


def records():
    for module in pkgutil.iter_modules(weights.__path__, f"{weights.__name__}."):
        for name, one in vars(importlib.import_module(module.name)).items():
            if dataclasses.is_dataclass(one) and one.__module__ == module.name:
                yield pytest.param(one, id=name)


@pytest.mark.parametrize("record", list(records()))
def test_records_cannot_be_changed(record):
    assert record.__dataclass_params__.frozen is (record.__name__ not in CHANGING)
