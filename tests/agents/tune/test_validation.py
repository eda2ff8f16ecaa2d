"""How settings are scored: on validation data alone, and by the mean over episodes."""

import dataclasses
import json
import statistics

import gymnasium as gym
import pytest

from agents.catalogue import make_agent
from agents.protocol import Budget, Unsupported
from agents.tune import validation as module
from agents.tune.space import Chosen, search_space
from agents.tune.validation import Subject, stream_score, validation_of
from editgym.envs.protocol import edit_env, open_env, stream_env
from editgym.tasks.knowledge.task import KnowledgeTask

DEFAULTS = Chosen({}, {})
SHORT = {"horizon": 6, "edits_per_step": 1, "sites": ["model.layers.[23].mlp.down_proj"]}


class Untouchable:
    """A test split that must not be read."""

    def __getattribute__(self, name):
        pytest.fail(f"the test split was read: {name}")

    def __len__(self):
        pytest.fail("the test split was read")


def validation(env_id, agent, env_kwargs, episodes=2, **settings):
    return validation_of(Subject(env_id, env_kwargs, agent, settings), episodes, 0, Budget(64))


@pytest.fixture
def on_streams(tiny_lm):
    """`on_streams(agent, episodes, **arguments)`: the validation of an agent on short streams."""

    def make(agent="ft_m", episodes=2, **arguments):
        return validation(
            "LifelongLLMEdit-v0", agent, {"model": tiny_lm, **SHORT, **arguments}, episodes, steps=2
        )

    return make


@pytest.mark.slow
def test_unlearning_does_not_read_the_test_split(monkeypatch):
    networks = [
        open_env(gym.make("MaskWorld-v0", task="unlearning/digits", model_seed=seed)).task
        for seed in (10, 11)
    ]
    for task in networks:
        monkeypatch.setattr(task, "splits", dataclasses.replace(task.splits, test=Untouchable()))
    judged = validation("MaskWorld-v0", "fine_tune", {}, epochs=1)
    first, last = judged.looks(DEFAULTS)
    assert judged.steps == 2
    assert first.metrics != last.metrics
    assert all(0 < look.metrics["retain_accuracy"] <= 1 for look in (first, last))


def test_streams_are_of_the_validation_split(on_streams, monkeypatch):
    drawn = []
    whole = KnowledgeTask.stream

    def stream(task, split, *args, **named):
        drawn.append(split)
        return whole(task, split, *args, **named)

    monkeypatch.setattr(KnowledgeTask, "stream", stream)
    judged = on_streams(episodes=1)
    assert judged.data
    assert len(list(judged.looks(DEFAULTS))) == 2
    assert set(drawn) == {"validation"}


def test_the_score_is_that_of_an_agent_with_its_own_settings(on_streams):
    judged = on_streams(episodes=2)
    looks, found = list(judged.looks(DEFAULTS)), []
    for seed, horizon in ((1_000, 2), (1_000, 6), (1_001, 6)):
        env = gym.make(
            judged.env.spec, **{"split": "validation", "horizon": horizon, "journal_folder": None}
        )
        env.reset(seed=seed)
        agent = make_agent("ft_m", steps=2)
        found.append(edit_env(env).evaluate(agent.edit(env)).metrics)
    expected = [[found[0]], [found[1]], found[1:]]
    assert judged.steps == len(looks) == 3
    for look, streams in zip(looks, expected, strict=True):
        assert look.score == statistics.fmean(stream_score(one) for one in streams)
        assert look.metrics["locality"] == statistics.fmean(one["locality"] for one in streams)
    assert looks[1].metrics["locality"] > 0


def test_the_first_look_is_at_the_first_steps_of_the_first_stream(on_streams, monkeypatch):
    judged, seen = on_streams(episodes=2), []
    whole = type(judged)._edited

    def edited(self, agent, chosen, episode, horizon):
        seen.append((episode, horizon))
        return {"harmonic_mean": 1 / horizon, **dict.fromkeys(module._PARTS, 0.1 * horizon)}

    monkeypatch.setattr(type(judged), "_edited", edited)
    looks = judged.looks(DEFAULTS)
    assert next(looks).score == pytest.approx(0.2)
    assert seen == [(0, 2)]  # nothing is edited that nobody looks at
    assert [look.score for look in looks] == pytest.approx([0.6, 0.6])
    assert seen == [(0, 2), (0, 6), (1, 6)]
    monkeypatch.setattr(type(judged), "_edited", whole)
    requests = []
    for horizon in (2, 6):
        env = gym.make(judged.env.spec, split="validation", horizon=horizon)
        env.reset(seed=1_000)
        requests.append(stream_env(env).process.stream.requests)
    assert requests[0] == requests[1][:2]


def test_a_stream_of_one_step_has_no_first_steps(on_streams):
    judged = on_streams(episodes=2, horizon=1, edits_per_step=3)
    assert judged.steps == len(list(judged.looks(DEFAULTS))) == 2


def test_every_trial_draws_the_same_whatever_was_before(on_streams):
    judged = on_streams("lora_merge", episodes=1)
    other = Chosen({"rank": 1, "learning_rate": 0.1}, {})
    first = list(judged.looks(DEFAULTS))
    list(judged.looks(other))
    assert list(judged.looks(DEFAULTS)) == first


def test_an_agent_that_learns_learns_once_per_trial_on_the_policy_split(on_streams, monkeypatch):
    from agents.hypernetworks.rledit import RLEdit

    learned = []

    def learn(self, spec, budget, seed, out=None):
        learned.append((spec.kwargs.get("split"), budget.reward_calls, seed, out))
        whole(self, spec, Budget(0), seed, out)

    whole = RLEdit.learn
    monkeypatch.setattr(RLEdit, "learn", learn)
    judged = on_streams("rledit", episodes=2)
    judged._subject = dataclasses.replace(judged._subject, settings={"sequences": 0})
    assert len(list(judged.looks(DEFAULTS))) == 3
    assert learned == [(None, 64, 0, None)]


def test_the_score_is_the_harmonic_mean_and_without_it_that_of_tokens():
    metrics = {"reliability": 0.9, "generalization": 0.6, "locality": 0.6}
    tokens = {"tf_efficacy": 0.5, "tf_generalization": 0.25, "tf_specificity": 1.0}
    assert stream_score(metrics | tokens) == statistics.harmonic_mean([0.9, 0.6, 0.6])
    nothing = metrics | {"generalization": 0.0}
    assert stream_score(nothing | tokens) == pytest.approx(
        statistics.harmonic_mean([1, 2, 4]) / 4e3
    )
    assert stream_score(metrics | {"locality": None}) == pytest.approx(0.72)
    # What is lost wholly leaves the rest to compare.
    some, none = (nothing | tokens | {"tf_specificity": 0.0, "tf_efficacy": e} for e in (0.5, 0.0))
    assert stream_score(some) > stream_score(none) > 0
    assert stream_score(nothing) == 0.0
    assert stream_score({}) == 0.0


@pytest.mark.slow
def test_a_backdoor_is_validated_by_clean_accuracy_and_the_drop_in_the_attacks_success():
    judged = validation("MaskWorld-v0", "fine_tune", {"task": "unlearning/backdoor"}, epochs=0)
    (look, *_) = judged.looks(DEFAULTS)
    assert look.metrics["retain_accuracy"] > 0.9
    assert look.metrics["forget_drop"] == look.score == 0  # no epoch changes nothing


@pytest.mark.slow
def test_the_score_of_unlearning_is_that_of_the_mean_accuracies(monkeypatch):
    # One network is lucky, the other is not: (retain, forget) before and after.
    accuracies = iter([(1.0, 1.0), (0.8, 0.0), (1.0, 0.9), (0.6, 0.9)])
    monkeypatch.setattr(module, "validation_accuracies", lambda task, network: next(accuracies))
    judged = validation("MaskWorld-v0", "fine_tune", {}, epochs=0)
    first, last = judged.looks(DEFAULTS)
    assert first.score == statistics.harmonic_mean([0.8, 1.0])
    assert last.score == pytest.approx(statistics.harmonic_mean([0.7, 0.5]))


@pytest.mark.slow
def test_networks_are_those_that_no_report_uses_unless_one_is_typed():
    drawn = validation("MaskWorld-v0", "ssd", {}, episodes=2)
    typed = validation("MaskWorld-v0", "ssd", {"model_seed": 3}, episodes=2)
    several = validation("MaskWorld-v0", "ssd", {"networks": [3]}, episodes=2)
    assert (drawn.steps, typed.steps, several.steps) == (2, 1, 1)
    hashes = [
        open_env(gym.make("MaskWorld-v0", model_seed=seed)).network.base_hash
        for seed in (10, 11, 3)
    ]
    assert [*drawn.data, *typed.data] == hashes
    assert several.data == typed.data
    assert drawn.model is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "debiasing/templates"}, "debiasing/templates has no validation score"),
        ({"forget_samples": 20}, "has no validation score"),
        ({"goals": [3, 7]}, "one goal of one network at a time"),
    ],
)
def test_what_has_no_validation_score_is_named(arguments, message):
    with pytest.raises(Unsupported, match=message):
        validation("MaskWorld-v0", "fine_tune", arguments)


def test_a_file_with_few_facts_has_shorter_streams(tiny_lm, tmp_path):
    records = [
        {"subject": f"Person{i}", "prompt": f"Person{i} lives in", "target": "Oslo"}
        for i in range(40)
    ]
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    arguments = {"model": tiny_lm, "requests": str(file), "edits_per_step": 1, "horizon": 16}
    judged = validation("LifelongLLMEdit-v1", "ft_m", arguments)
    length = edit_env(judged.env).episode_length
    assert length in (2, 4, 8)
    assert open_env(judged.env).task.name == "knowledge/custom"
    with pytest.raises(
        ValueError, match=r"^validation: knowledge/custom: 30 requests are asked for"
    ):
        validation("LifelongLLMEdit-v1", "ft_m", {**arguments, "edits_per_step": 30})


def test_sites_of_a_trial_are_open_in_it(on_streams, tiny_lm):
    judged = on_streams("ultraedit", episodes=1, sites=["model.layers.0.mlp.down_proj"])
    judged._subject = dataclasses.replace(judged._subject, settings={})
    space = search_space(make_agent("ultraedit"), judged.env, {})
    values = {one.name: one.default for one in space.parameters}
    chosen = space.chosen(values | {"sites.layers": "2-3", "sites.modules": "o_proj"})
    looks = list(judged.looks(chosen))
    assert looks[-1].metrics["reliability"] is not None
