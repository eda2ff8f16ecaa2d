"""Learning from sequences: seeds, interruptions, budgets, validation, and what training never
sees."""

import gymnasium as gym
import pytest
import torch

from agents.catalogue import make_agent
from agents.hypernetworks import learning as module
from agents.hypernetworks.learning import TRAINING, SequenceLearner
from agents.hypernetworks.rledit import RLEdit
from agents.protocol import Budget, Stopwatch
from editgym.envs.metering import count_reward_calls

QUICK = {"sequences": 4, "validate_every": 2, "learning_rate": 1e-2, "step_learning_rate": 0.1}


def learner(spec, out=None, budget=None, seed=0, **settings):
    """A learner, not yet begun, of an RLEdit policy on a short stream."""
    agent = RLEdit(**QUICK | settings)
    env, process = module.learning_stream(spec, {})
    policy = agent.make_policy(process, seed)
    env.close()
    return SequenceLearner(
        policy, spec, agent.learning(), budget or Budget(), seed, out, agent.name
    )


def learned(*args, **kwargs):
    one = learner(*args, **kwargs)
    one.learn()
    return one


class Scripted:
    """A judge that gives scores from a list and keeps what it was shown."""

    def __init__(self, scores):
        self.scores, self.seen, self.closed = list(scores), [], 0

    def __call__(self, policy):
        self.seen.append(policy.snapshot())
        return self.scores[len(self.seen) - 1]

    def close(self):
        self.closed += 1


@pytest.fixture
def scripted(monkeypatch):
    def use(scores):
        judge = Scripted(scores)
        monkeypatch.setattr(module, "Judge", lambda *_: judge)
        return judge

    return use


# --- seeds and interruptions ----------------------------------------------------------------------


def test_equal_seeds_give_equal_policies_bitwise_and_other_seeds_others(stream_spec, same):
    states = [
        learned(stream_spec(), seed=seed, sequences=2, validate_every=0).policy.snapshot()
        for seed in (3, 3, 4)
    ]
    assert same(states[0], states[1])
    assert not torch.equal(
        states[0]["parameters"]["network.steps"], states[2]["parameters"]["network.steps"]
    )
    assert not same(states[0]["statistics"], states[2]["statistics"]), (
        "another seed draws other streams"
    )


@pytest.mark.parametrize(("at", "passes"), [(0, 1), (1, 2)])
def test_an_interrupted_training_goes_on_to_the_same_policy_bitwise(
    stream_spec, tmp_path, monkeypatch, at, passes, same
):
    arguments = {"passes": passes, "validate_every": 1, "patience": 9, "sequences": 3}
    whole = learned(stream_spec(), tmp_path / "whole", **arguments)
    sequences, run = [], SequenceLearner._sequence

    def interrupted(self, index):
        sequences.append(index)
        numbers = run(self, index)
        if len(sequences) == at + 1:
            raise KeyboardInterrupt  # the sequence is made, and not yet written
        return numbers

    monkeypatch.setattr(SequenceLearner, "_sequence", interrupted)
    with pytest.raises(KeyboardInterrupt):
        learned(stream_spec(), tmp_path / "parts", **arguments)
    assert (tmp_path / "parts" / TRAINING).is_file() == (at > 0)
    torch.manual_seed(99)
    parts = learned(stream_spec(), tmp_path / "parts", **arguments)
    assert sequences == [*range(at + 1), *range(at, 3)]
    assert same(parts.policy.snapshot(), whole.policy.snapshot())
    assert same(parts._best[1], whole._best[1])
    assert parts._best[0] == whole._best[0]
    logs = [tmp_path / "parts" / "log" / name for name in ("progress.csv", "from-1/progress.csv")]
    rows = [len(log.read_text().splitlines()) - 1 for log in logs if log.is_file()]
    assert rows == ([1, 2] if at else [3])
    assert not list((tmp_path / "parts").glob("*.partial"))


def test_a_finished_training_stays_until_its_policy_is_saved(
    stream_spec, tmp_path, monkeypatch, same
):
    agent = RLEdit(**QUICK)
    agent.learn(stream_spec(), Budget(), 0, tmp_path)
    state = agent.policy.snapshot()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
        with pytest.raises(OSError, match="no space left"):
            agent.save(tmp_path)
    monkeypatch.setattr(SequenceLearner, "_sequence", None)  # nothing is learned again
    again = RLEdit(**QUICK)
    again.learn(stream_spec(), Budget(), 0, tmp_path)
    assert same(again.policy.snapshot(), state)
    again.save(tmp_path)
    assert not (tmp_path / TRAINING).exists()
    assert same(RLEdit.load(tmp_path).policy.snapshot(), state)


def test_seconds_that_are_over_begin_nothing(stream_spec, scripted):
    judge = scripted([0.0])
    with pytest.raises(ValueError, match="1e-09 seconds were over before the first sequence"):
        learned(stream_spec(), budget=Budget(seconds=1e-9))
    assert (judge.seen, judge.closed) == ([], 1)


def test_logs_hold_every_sequence_and_every_look(stream_spec, tmp_path):
    learned(stream_spec(), tmp_path)
    header, *rows = (tmp_path / "log" / "progress.csv").read_text().strip().split("\n")
    assert {"train/reward", "train/validation"} <= set(header.split(","))
    assert len(rows) == 4
    column = header.split(",").index("train/validation")
    assert [bool(row.split(",")[column]) for row in rows] == [False, True, False, True]
    assert list((tmp_path / "log").glob("events.out.tfevents.*"))


def test_without_a_folder_nothing_is_written(stream_spec, tmp_path, monkeypatch):
    """Activations, keys and gradients stay in memory: no file is opened while a policy learns."""
    monkeypatch.chdir(tmp_path)
    ready = learner(stream_spec(), validate_every=0)
    monkeypatch.setattr(torch, "save", lambda *_, **__: pytest.fail("torch.save"))
    monkeypatch.setattr("builtins.open", lambda *args, **__: pytest.fail(f"open {args[0]}"))
    ready.learn()
    monkeypatch.undo()
    assert ready._next == 4
    assert not list(tmp_path.iterdir())


# --- budgets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("calls", "made"), [(3, 3), (8, 6), (None, 12)])
def test_the_budget_is_never_exceeded_and_no_sequence_is_cut(stream_spec, calls, made):
    with count_reward_calls() as meter:
        one = learned(stream_spec(), budget=Budget(reward_calls=calls))
    assert meter.calls == made
    assert one._next == made // 3


def test_a_training_step_is_one_call_also_where_a_batch_is_looked_at_again(stream_spec):
    with count_reward_calls() as meter:
        learned(stream_spec(), passes=3, sequences=1)
    assert meter.calls == 3


@pytest.mark.parametrize("calls", [0, 2])
def test_a_budget_that_pays_for_no_sequence_is_refused(stream_spec, calls):
    budget = Budget(reward_calls=calls)
    with pytest.raises(ValueError, match=f"{calls} reward calls do not pay for one sequence of 3"):
        learned(stream_spec(), budget=budget)
    assert learned(stream_spec(), budget=budget, sequences=0)._next == 0
    agent = RLEdit(**QUICK)
    with pytest.raises(ValueError, match="sequences=0 to learn nothing"):
        agent.learn(stream_spec(), budget, 0)
    with pytest.raises(RuntimeError, match="has no policy yet"):
        agent.policy  # noqa: B018 - an untrained one is not given as what was learned


@pytest.fixture
def over_after(monkeypatch):
    """`over_after(n)`: the seconds of every budget are over at the n-th question after the first
    look."""

    def use(questions):
        asked = iter([False] * questions)
        monkeypatch.setattr(Stopwatch, "expired", property(lambda _: next(asked, True)))

    return use


def test_seconds_end_the_training_between_two_sequences(stream_spec, over_after):
    over_after(3)
    assert learned(stream_spec(), validate_every=0)._next == 2


@pytest.mark.parametrize("better", [True, False])
def test_the_policy_at_the_end_of_the_seconds_is_looked_at(
    stream_spec, scripted, over_after, tmp_path, better, same
):
    judge = scripted([0.5, 0.6 if better else 0.4])
    over_after(4)
    one = learned(stream_spec(), tmp_path, validate_every=5, sequences=8, patience=1)
    assert (one._next, len(judge.seen)) == (3, 2), "before the first sequence, and after the third"
    assert not same(judge.seen[0], judge.seen[1])
    assert same(one.policy.snapshot(), judge.seen[int(better)])
    header, *rows = (tmp_path / "log" / "progress.csv").read_text().strip().split("\n")
    column = header.split(",").index("train/validation")
    assert [row.split(",")[column] for row in rows] == ["", "", "", "0.6" if better else "0.4"]


# --- random numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rledit", "hiedit"])
def test_learning_and_loading_leave_the_process_its_random_numbers(name, stream_spec, tmp_path):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    agent = make_agent(name, sequences=1, validate_every=0)
    agent.learn(stream_spec(), Budget(), 5, tmp_path)
    agent.learn(stream_spec(), Budget(), 5, tmp_path)  # takes up the checkpoint
    agent.save(tmp_path)
    type(agent).load(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


# --- validation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("best", [0, 2, 4])
def test_the_best_policy_that_validation_saw_is_kept(stream_spec, scripted, best, same):
    judge = scripted([0.5 + (look == best) for look in range(5)])
    one = learned(stream_spec(), validate_every=1)
    assert len(judge.seen) == 5
    assert same(one.policy.snapshot(), judge.seen[best])
    assert not same(judge.seen[0], judge.seen[2])


def test_of_equal_scores_the_first_policy_is_kept(stream_spec, scripted, same):
    judge = scripted([0.5] * 5)
    assert same(learned(stream_spec(), validate_every=1).policy.snapshot(), judge.seen[0])


@pytest.mark.parametrize(("patience", "done"), [(1, 3), (2, 4), (None, 6)])
def test_patience_ends_the_training(stream_spec, scripted, patience, done):
    scripted([0.1, 0.2, 0.3, 0.2, 0.1, 0.2, 0.1])
    one = learned(stream_spec(), validate_every=1, sequences=6, patience=patience)
    assert one._next == done
    assert one._best[0] == 0.3


def test_looks_are_before_the_first_sequence_at_intervals_and_after_the_last(stream_spec, scripted):
    judge = scripted([0.0] * 9)
    learned(stream_spec(), validate_every=2, sequences=5)
    assert len(judge.seen) == 4, "after 0, 2, 4 and 5 sequences"


def test_training_streams_hold_no_request_for_validation_or_test(stream_spec, monkeypatch):
    """Whatever split the spec names; judges ask validation requests only."""
    drawn = {"policy": set(), "validation": set(), "test": set()}
    from editgym.tasks.knowledge.task import KnowledgeTask

    stream = KnowledgeTask.stream

    def watched(self, split, *args, **named):
        found = stream(self, split, *args, **named)
        drawn[split] |= {request.subject for request in found.requests}
        return found

    monkeypatch.setattr(KnowledgeTask, "stream", watched)
    learned(stream_spec(evaluation=True))
    assert not drawn["test"]
    assert len(drawn["policy"]) > 6
    assert len(drawn["validation"]) >= 6
    env = gym.make(stream_spec(evaluation=True, horizon=500))
    env.reset(seed=0)
    assert not drawn["policy"] & (drawn["validation"] | drawn["test"])
    assert not drawn["validation"] & drawn["test"]
    assert len(drawn["test"]) == 1_000


def test_the_environment_while_learning_is_the_specs_with_its_own_arguments(stream_spec):
    settings = {"back_depth": 0, "locality_weight": 5.0, "horizon": 2, "reference": "previous"}
    one = learner(stream_spec(horizon=5), train_env=settings, validate_every=1)
    reward = one.process.settings.reward
    assert (reward.back_depth, reward.locality_weight, reward.reference) == (0, 5.0, "previous")
    assert (one.process.horizon, one._judge.env.unwrapped.process.horizon) == (2, 5)
    assert one.process.settings.edits_per_step == 2


# --- optimisation ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "updates"), [(1, 6), (2, 4), (3, 2), (None, 2)])
def test_gradients_of_so_many_steps_make_an_update(stream_spec, monkeypatch, every, updates):
    made = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(
        torch.optim.Adam, "step", lambda self, *args: (made.append(1), step(self, *args))[1]
    )
    learned(stream_spec(), update_every=every, sequences=2, validate_every=0)
    assert len(made) == updates


@pytest.mark.parametrize("every", [1, 2, 3, None])
def test_an_update_is_by_the_mean_of_its_steps_gradients(stream_spec, monkeypatch, every):
    one = learner(stream_spec(), update_every=every, sequences=1, validate_every=0)
    parameter, means = next(iter(one.policy.parameters())), []

    def noted():
        means.append(float(parameter.grad.mean()))
        one._optimizer.zero_grad()

    monkeypatch.setattr(one.policy, "losses", lambda process: parameter.sum())
    monkeypatch.setattr(one, "_update", noted)
    one.learn()
    assert means == pytest.approx([1.0] * len(means))
    assert len(means) == {1: 3, 2: 2, 3: 1, None: 1}[every]


def test_learning_rates_fall_linearly_or_not_at_all(stream_spec, monkeypatch):
    for linear, shares in ((True, [1, 0.75, 0.5, 0.25]), (False, [1, 1, 1, 1])):
        one, rates = learner(stream_spec(), linear_decay=linear, validate_every=0), []
        optimizer = one._optimizer

        def noted(optimizer=optimizer, step=optimizer.step, rates=rates):
            rates.append([group["lr"] for group in optimizer.param_groups])
            step()

        monkeypatch.setattr(optimizer, "step", noted)
        one.learn()
        assert rates[::3] == [pytest.approx([1e-2 * share, 0.1 * share]) for share in shares]


def test_a_gradient_that_is_not_finite_moves_nothing(stream_spec, same):
    one = learner(stream_spec(), validate_every=0)
    before = one.policy.snapshot()["parameters"]
    for parameter in one.policy.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    one._update()
    assert same(one.policy.snapshot()["parameters"], before)
    assert all(parameter.grad is None for parameter in one.policy.parameters())


def test_a_long_gradient_is_scaled(stream_spec):
    found = []
    for limit in (0.5, None):
        one = learner(stream_spec(), validate_every=0, max_grad_norm=limit)
        one._optimizer.step = lambda one=one: found.append(
            torch.cat([p.grad.flatten() for p in one.policy.parameters()]).norm()
        )
        for parameter in one.policy.parameters():
            parameter.grad = torch.ones_like(parameter)
        one._update()
    assert float(found[0]) == pytest.approx(0.5, rel=1e-4)
    assert float(found[1]) > 10
