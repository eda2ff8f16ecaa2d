"""Trials: the defaults come first, the same number tries the same, and what falls behind is cut."""

import csv
import json

import pytest
import torch
from filelock import FileLock
from optuna.trial import TrialState

from agents.protocol import Unsupported
from agents.tune.report import draw, write_table
from agents.tune.space import Parameter, Range, Space
from agents.tune.study import JOURNAL, Study, best_trial, stored_study
from agents.tune.validation import Look

SPACE = Space(
    (
        Parameter("rate", Range(1e-3, 10.0, log=True), 0.5),
        Parameter("passes", Range(1, 6, whole=True), 1),
        Parameter("rule", ("a", "b", "c"), "b"),
    ),
    {},
    {},
)


class Scores:
    """Scores by a function of the settings and the step; remembers what it looked at."""

    steps = 3

    def __init__(self, score):
        self.score, self.looked = score, []

    def looks(self, chosen):
        for step in range(self.steps):
            self.looked.append((dict(chosen.settings), step))
            value = self.score(chosen.settings, step)
            yield Look(value, {"harmonic_mean": value})


def near_two(settings, step):
    """Best at rate 2 and rule c."""
    return 1 / (1 + abs(settings["rate"] - 2)) * (1.0 if settings["rule"] == "c" else 0.5)


@pytest.fixture
def run(tmp_path):
    """`run(trials, score)`: a study in a folder, up to so many trials; the study and its scores."""

    def go(trials, score=near_two, folder="study", seed=0, space=SPACE, **identity):
        (tmp_path / folder).mkdir(exist_ok=True)
        scores = Scores(score)
        study = Study(tmp_path / folder, {"agent": "x", **identity}, space, scores, seed)
        with study.opened():
            study.run(trials, lambda: None)
            return study.trials, scores

    return go


def described(trials):
    return [
        (
            trial.number,
            trial.state,
            trial.value,
            trial.params,
            trial.intermediate_values,
            {k: v for k, v in trial.user_attrs.items() if k != "seconds"},
        )
        for trial in trials
    ]


def test_the_first_trial_has_the_defaults(run):
    trials, scores = run(1)
    assert scores.looked[0] == ({"rate": 0.5, "passes": 1, "rule": "b"}, 0)
    assert trials[0].params == {"rate": 0.5, "passes": 1, "rule": "b"}
    assert trials[0].value == near_two(trials[0].params, 2)


def test_a_search_finds_more_than_the_defaults_and_another_seed_tries_something_else(run):
    trials, _ = run(25)
    assert best_trial(trials).value > trials[0].value
    others, _ = run(25, folder="other", seed=1)
    assert described(trials)[0] == described(others)[0]
    assert [trial.params for trial in trials[1:]] != [trial.params for trial in others[1:]]
    assert len({str(trial.params) for trial in trials}) > 20


@pytest.mark.parametrize("at", [0, 1, 7, 14])
def test_an_interrupted_study_goes_on_as_if_it_had_not_been(run, at):
    whole, _ = run(16, folder="whole")
    looks = iter(range(1_000))
    # Where the trial `at` of the whole study was in its last look.
    before = sum(len(trial.intermediate_values) for trial in whole[: at + 1]) - 1

    def until(settings, step):
        if next(looks) == before:
            raise KeyboardInterrupt
        return near_two(settings, step)

    with pytest.raises(KeyboardInterrupt):
        run(16, until)
    there, scores = run(at + 1)
    assert len(scores.looked) == len(there[-1].intermediate_values)  # one trial, from its start
    trials, _ = run(16)
    assert described(trials) == described(whole)


def test_more_trials_go_on_from_those_that_there_are(run):
    run(9)
    trials, scores = run(12)
    assert {tuple(sorted(settings.items())) for settings, _ in scores.looked} == {
        tuple(sorted(trial.user_attrs["settings"].items())) for trial in trials[9:]
    }
    assert described(trials) == described(run(12, folder="whole")[0])
    assert run(5)[1].looked == []


def test_a_trial_that_is_behind_half_of_the_others_is_cut_at_that_step(run):
    def score(settings, step):
        # As good as its rate at the first step, and then the same for all.
        return settings["rate"] / 10 if step == 0 else 0.5

    trials, _ = run(25, score)
    seen, cut = [], 0
    for trial in trials:
        first = trial.intermediate_values[0]
        behind = (
            len(seen) >= 5
            and first < sorted(seen)[len(seen) // 2]
            and first < ((sorted(seen)[(len(seen) - 1) // 2] + sorted(seen)[len(seen) // 2]) / 2)
        )
        assert (trial.state is TrialState.PRUNED) == behind
        assert len(trial.intermediate_values) == (1 if behind else 3)
        seen.append(first)
        cut += behind
    assert 3 < cut < 20
    assert best_trial(trials).state is TrialState.COMPLETE


def test_the_first_five_and_the_last_step_are_never_cut(run):
    falling = iter(range(1_000))

    def score(settings, step):
        return 0.5 if step < 2 else 1 / (1 + next(falling))

    trials, _ = run(12, score)
    assert all(trial.state is TrialState.COMPLETE for trial in trials)
    falling = iter(range(1_000))
    worse, _ = run(8, lambda settings, step: 1 / (1 + next(falling)), folder="worse")
    assert [trial.state for trial in worse] == [TrialState.COMPLETE] * 5 + [TrialState.PRUNED] * 3


@pytest.mark.parametrize(
    "failure",
    [ValueError("the edited weight is not finite"), torch.OutOfMemoryError("no room for 9 GiB")],
)
def test_a_trial_that_fails_is_kept_and_never_the_best(run, failure):
    def score(settings, step):
        if settings["rate"] < 1:
            raise failure
        return -1.0  # worse than what a failed one is counted as

    trials, _ = run(12, score)
    failed = [trial for trial in trials if trial.user_attrs["error"]]
    assert trials[0] in failed
    assert 0 < len(failed) < 12
    assert all(trial.value == 0 for trial in failed)
    assert failed[0].user_attrs["error"] == f"{type(failure).__name__}: {failure}"
    assert best_trial(trials) not in failed
    assert best_trial(failed) is None


def test_an_agent_that_cannot_work_there_at_all_is_an_error(run):
    def score(settings, step):
        raise Unsupported("no site writes to the residual stream")

    with pytest.raises(Unsupported):
        run(3, score)

    def later(settings, step):
        if settings["rule"] != "b":
            raise Unsupported("not with this rule")
        return 0.5

    trials, _ = run(10, later)
    assert {trial.user_attrs["error"] for trial in trials} == {
        None,
        "Unsupported: not with this rule",
    }


def test_another_study_is_not_gone_on_with(run):
    run(2, reward_calls=7)
    run(3, reward_calls=7)
    with pytest.raises(ValueError, match="holds another study: reward_calls is 7 there and 8 here"):
        run(3, reward_calls=8)
    with pytest.raises(ValueError, match="seed is 0 there and 1 here"):
        run(3, reward_calls=7, seed=1)
    with pytest.raises(ValueError, match=r"space\.rate is .* there and absent here"):
        run(3, reward_calls=7, space=Space(SPACE.parameters[1:], {}, {}))


def test_a_folder_has_one_study_at_a_time(run, tmp_path):
    run(1)
    with (
        FileLock(tmp_path / "study" / "study.lock"),
        pytest.raises(ValueError, match="another process is tuning in"),
    ):
        run(2)
    assert len(run(2)[0]) == 2


def test_a_torn_last_line_is_a_trial_that_runs_again(run, tmp_path):
    whole, _ = run(4)
    journal = tmp_path / "study" / JOURNAL
    text = journal.read_bytes()
    journal.write_bytes(text[:-20])
    assert len(stored_study(journal.parent).trials) == 3
    assert described(run(4)[0]) == described(whole)


def test_a_table_and_a_picture_of_all_trials(run, tmp_path):
    def score(settings, step):
        if settings["rule"] == "a":
            raise FloatingPointError("overflow")
        return near_two(settings, step)

    trials, _ = run(14, score)
    write_table(tmp_path, trials, SPACE)
    with (tmp_path / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == list(range(14))
    assert {row["state"] for row in rows} == {"complete", "pruned", "failed"}
    assert rows[0]["rate"] == "0.5"
    for row, trial in zip(rows, trials, strict=True):
        assert float(row["score"]) == trial.value
        assert json.loads(row["rate"]) == trial.user_attrs["settings"]["rate"]
        assert (row["state"] == "failed") == (row["rule"] == "a") == (row["error"] != "")
        assert int(row["steps"]) == len(trial.intermediate_values)
    draw(tmp_path, trials, SPACE)
    assert (tmp_path / "trials.png").read_bytes().startswith(b"\x89PNG")
    draw(tmp_path, trials[:1], SPACE)
