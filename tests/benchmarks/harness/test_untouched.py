"""Whether an agent has left its process as it found it."""

import threading

import pytest
import torch

from benchmarks.harness.untouched import Code, State
from editgym.envs import metering
from editgym.envs.worlds import reward
from editgym.tasks import make_task


@pytest.fixture
def task():
    return make_task("unlearning/digits", model_seed=4)


@pytest.fixture
def state(task):
    taken = State()
    taken.take_down()
    return taken


def test_nothing_done_is_nothing_changed(state):
    assert state.is_as_before()
    assert not State().is_as_before(), "of what was never taken down nothing is known"


def test_a_task_that_is_loaded_later_is_no_change(state):
    make_task("unlearning/digits", model_seed=5)
    assert state.is_as_before()


@pytest.mark.parametrize("where", ["weights", "data"])
def test_networks_and_data_that_were_written_to_are_seen(task, state, where):
    values = task.networks[0].base_weights[0] if where == "weights" else task.splits.test.inputs
    before = values.clone()
    values.view(-1)[7] += 1
    assert not state.is_as_before()
    values.copy_(before)
    assert state.is_as_before()


def test_defaults_of_torch_are_seen(state):
    torch.set_default_dtype(torch.float64)
    try:
        assert not state.is_as_before()
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        assert not state.is_as_before()
    assert state.is_as_before()


def test_a_thread_that_is_left_is_seen(state):
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    assert not state.is_as_before()
    over.set()
    thread.join()
    assert state.is_as_before()


@pytest.mark.parametrize(
    ("owner", "name", "said"),
    [
        (metering, "record", "editgym.envs.metering.record"),
        (metering._Counters, "add", "editgym.envs.metering._Counters.add"),
        (reward, "metering", "editgym.envs.worlds.reward.metering"),
        (reward.Scorer, "score", "editgym.envs.worlds.reward.Scorer.score"),
    ],
)
def test_code_that_was_replaced_is_named(monkeypatch, state, owner, name, said):
    code = Code()
    assert code.changed() == []
    monkeypatch.setattr(owner, name, lambda *_: None)
    assert code.changed() == [said]
    assert not state.is_as_before()


def test_code_that_was_rewritten_is_named(monkeypatch):
    code = Code()
    monkeypatch.setattr(metering.record, "__code__", (lambda candidates, gradient: None).__code__)
    assert code.changed() == ["editgym.envs.metering.record"]
