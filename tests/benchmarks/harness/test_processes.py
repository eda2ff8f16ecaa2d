"""Processes that work through a list: one that dies takes nothing else down."""

import importlib
import time
from concurrent.futures.process import BrokenProcessPool

import pytest

from benchmarks.harness.processes import in_processes

# Says that it ran, by a file; fails at 1, dies at 2, and takes its time from 3 on.
STUMBLE = """
import os, time

def stumble(item):
    folder, index = item
    (folder / f"{index}").touch()
    if index == 1:
        raise ValueError("one")
    if index == 2:
        os._exit(1)
    if index > 2:
        time.sleep(0.2)
    return index
"""


@pytest.mark.slow
def test_an_item_that_fails_or_dies_takes_no_other_down_and_none_begins_after_the_end(
    tmp_path, monkeypatch
):
    (tmp_path / "stumbling.py").write_text(STUMBLE)
    monkeypatch.syspath_prepend(tmp_path)
    seen, folder = {}, tmp_path / "begun"
    folder.mkdir()
    finished = in_processes(
        importlib.import_module("stumbling").stumble, [(folder, index) for index in range(12)], 2
    )
    for (_, index), future in finished:
        seen[index] = future.exception() or future.result()
        if len(seen) == 5:
            break
    finished.close()
    assert isinstance(seen.pop(1), ValueError)
    assert isinstance(seen.pop(2), BrokenProcessPool)
    assert all(index == result for index, result in seen.items())
    begun = len(list(folder.iterdir()))
    time.sleep(0.5)
    assert begun == len(list(folder.iterdir())) < 9
