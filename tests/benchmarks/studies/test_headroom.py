"""A search over an editor's choices."""

import json
from contextlib import closing

import gymnasium as gym
import pytest
import torch

from agents.catalogue import make_agent
from benchmarks.studies import headroom
from benchmarks.studies.headroom import TUNED, ChoosingEditor, Streams, search, table
from benchmarks.suites.editors import LATE_OUTPUTS


def test_the_tuned_choices_are_ultraedits():
    def tensors(agent):
        with closing(
            gym.make("editgym:LifelongLLMEdit-v1", sites=LATE_OUTPUTS, horizon=2, rehearse=5)
        ) as env:
            env.reset(seed=3)
            journal = agent.edit(env)
            return [tensor for entry in journal for tensor in (entry.update.a, entry.update.b)]

    own = tensors(ChoosingEditor(TUNED))
    wanted = tensors(make_agent("ultraedit", passes=6, step_size=1e-3))
    assert len(own) == len(wanted) == 2 * 2 * 3
    assert all(torch.equal(one, other) for one, other in zip(own, wanted, strict=True))


@pytest.fixture
def counted(monkeypatch):
    """How often a stream was edited; its score is a function of the choices alone."""
    calls = []

    def measured(choices, seed, streams):
        calls.append(seed)
        score = choices["ridge"] / 100 + seed / 1e6 + (streams.rehearse_by == "loss")
        return {"score": score, "reliability": score, "generalization": 1.0, "locality": 1.0}

    monkeypatch.setattr(headroom, "measured", measured)
    return calls


def test_a_search_that_was_cut_off_goes_on_to_the_same_rows(tmp_path, counted):
    search(tmp_path / "whole.jsonl", 6, Streams())
    whole = (tmp_path / "whole.jsonl").read_text()
    assert len(counted) == 6 + 2 * 5
    part = tmp_path / "part.jsonl"
    part.write_text(whole[: whole.index("\n", whole.index("\n") + 1) + 20])  # two rows and a bit
    with pytest.raises(json.JSONDecodeError):
        [json.loads(line) for line in part.read_text().splitlines()]
    counted.clear()
    search(part, 6, Streams())
    assert part.read_text() == whole
    assert len(counted) == 4 + 2 * 5
    counted.clear()
    search(part, 6, Streams())
    assert counted == []
    tuned, best = list(table(part))[2:]
    assert tuned.startswith("| tuned | 0.001 | 0.001 | 0.001 | 1.000 | 1.000 | 5 |")
    assert best.startswith("| best of 6 |")
    assert float(best.split("|")[-2].split()[0]) > 0


def test_a_search_on_streams_of_another_kind_begins_anew_behind_the_others(tmp_path, counted):
    out = tmp_path / "rows.jsonl"
    search(out, 2, Streams())
    before = out.read_text()
    search(out, 2, Streams(rehearse_by="loss"))
    assert len(counted) == 2 * (2 + 2 * 5)
    assert out.read_text().startswith(before)
    drawn, lost = table(out), table(out, Streams(rehearse_by="loss"))
    assert [float(line.split("|")[8].split()[0]) for line in list(lost)[2:]] > [1.0, 1.0]
    assert [float(line.split("|")[8].split()[0]) for line in list(drawn)[2:]] < [1.0, 1.0]


def test_rows_of_another_search_are_an_error(tmp_path, counted):
    out = tmp_path / "rows.jsonl"
    row = {"stream": 500, **Streams()._asdict(), "choices": {**TUNED, "ridge": 3.0}, "score": 0.5}
    out.write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=r"trial 0 of .* is not the one of this version"):
        search(out, 2, Streams())
    assert counted == []
