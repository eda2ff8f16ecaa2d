"""Judging a policy on a validation stream: the score, its cost, and how long the stream is."""

import json
import statistics

import gymnasium as gym
import pytest

from agents.editors.stream import stream_process
from agents.hypernetworks.rledit import RLEdit
from agents.hypernetworks.validation import Judge, stream_score
from agents.protocol import Budget
from editgym.envs.metering import count_reward_calls


@pytest.mark.parametrize("sequences", [0, 1])
def test_judging_changes_no_statistic_and_costs_no_reward(stream_spec, sequences, same):
    agent = RLEdit(sequences=sequences, validate_every=0, learning_rate=1e-2)
    agent.learn(stream_spec(), Budget(), seed=0)
    judge, before = Judge(stream_spec(), 0), agent.policy.snapshot()
    with count_reward_calls() as meter:
        scores = [judge(agent.policy) for _ in range(2)]
    assert same(agent.policy.snapshot(), before)
    assert meter.calls == 0
    assert scores[0] == scores[1]


@pytest.mark.parametrize("micro_batch", [512, 4])
def test_the_score_is_the_harmonic_mean_of_teacher_forced_shares(micro_batch, stream_env):
    """An in-between of texts that are answered as they should: here by counting answers one by
    one."""
    env = stream_env(
        split="validation",
        model="factlm",
        sites=["model.layers.[345].mlp.down_proj"],
        edits_per_step=6,
        horizon=1,
        micro_batch=micro_batch,
    )
    process = stream_process(env)
    agent = RLEdit(sequences=0, step_size=3e-3)
    agent.learn(env.spec, Budget(), seed=0)
    agent.edit(env)
    task, requests = process.task, process.stream.requests
    texts = [
        [task.batch([(r.prompt, r.target)]) for r in requests],
        [task.batch([(r.rephrases[0], r.target)]) for r in requests],
        [task.unchanged([r.locality[0].prompt]) for r in requests],
    ]

    def shares(score):
        return [
            statistics.fmean(
                score(process.decoder.logits(one).argmax(-1) == one.labels) for one in kind
            )
            for kind in texts
        ]

    assert 0 < min(shares(lambda right: float(right.all()))) < 1
    assert stream_score(process) == pytest.approx(
        statistics.harmonic_mean(shares(lambda right: float(right.all())))
    )
    process.decoder.reset()
    assert not any(shares(lambda right: float(right.all()))[:2]), (
        "the unedited model answers no new target"
    )
    expected = statistics.harmonic_mean(shares(lambda right: float(right.double().mean())))
    assert stream_score(process) == pytest.approx(expected / 1_000)


def test_the_score_goes_through_the_model_in_micro_batches(stream_env, monkeypatch):
    env = stream_env(split="validation", edits_per_step=5, horizon=2, micro_batch=4)
    process = stream_process(env)
    assert len(process.stream.requests) == 10
    seen, run = [], type(process.decoder).logits

    def watched(self, batch, *rest, **named):
        seen.append(len(batch))
        return run(self, batch, *rest, **named)

    monkeypatch.setattr(type(process.decoder), "logits", watched)
    stream_score(process)
    assert seen == [4, 4, 2] * 3


def test_a_validation_split_that_is_too_small_says_how_many_requests_it_has(stream_spec, tmp_path):
    file = tmp_path / "requests.json"
    file.write_text(
        json.dumps(
            [
                {"subject": f"Person{i}", "prompt": f"Person{i} lives in", "target": "Oslo"}
                for i in range(30)
            ]
        )
    )
    spec = stream_spec(task="knowledge/custom", requests=str(file), edits_per_step=10, horizon=1)
    with pytest.raises(
        ValueError,
        match=r"^validation: knowledge/custom: 10 requests are asked for .* the validation "
        r"split has \d that can be used; .*; learn with validate_every=0$",
    ):
        Judge(spec, 0)


def test_a_horizon_longer_than_the_validation_split_is_shortened(stream_spec):
    judge = Judge(stream_spec(horizon=400, edits_per_step=2), 0)
    process = stream_process(judge.env)
    assert process.settings.split == "validation"
    assert 1 <= process.horizon < 400
    assert 400 % process.horizon == 0
    longer = gym.make(stream_spec(split="validation", horizon=2 * process.horizon))
    with pytest.raises(ValueError, match="validation split has"):
        longer.reset(seed=0)


def test_the_environment_of_a_judge_is_closed_after_learning(stream_spec, monkeypatch):
    judges, closed = [], []
    made = Judge.__init__

    def watched(self, *args):
        made(self, *args)
        judges.append(self)
        monkeypatch.setattr(self.env, "close", lambda: closed.append(self))

    monkeypatch.setattr(Judge, "__init__", watched)
    RLEdit(sequences=1, validate_every=1).learn(stream_spec(), Budget(), seed=0)
    assert len(judges) == 1
    assert closed == judges
