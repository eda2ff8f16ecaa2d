"""Several facts about one subject, prompts that are edited again, and other orders of a stream."""

import functools
import json
import random

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.catalogue import make_agent
from agents.editors.covariance import covariances
from agents.editors.least_squares import RecursiveLeastSquares
from agents.editors.stream import stream_process
from editgym.data.facts import EditRequest, Question
from editgym.envs.lifelong.reward import LookBack, RewardWeights
from editgym.envs.lifelong.terms import agreement
from editgym.tasks.knowledge.task import Stream
from editgym.weights import Codebook
from editgym.weights.language.site_pass import looked_up

SITES = ["model.layers.[12].mlp.down_proj"]
TRADE, HARP, PADOR = ("By trade {} is a", "{} plays the", "{} lives in")
# "Ada lives in" is edited by 1, 4 and 6, back to what 1 made it.
FACTS = [
    ("Ada", TRADE, "florist"),
    ("Ada", PADOR, "Oslo"),
    ("Bob", PADOR, "Rome"),
    ("Ada", HARP, "harp"),
    ("Ada", PADOR, "Lima"),
    ("Bob", TRADE, "baker"),
    ("Ada", PADOR, "Oslo"),
    ("Bob", HARP, "drum"),
]


@pytest.fixture
def make(tiny_lm, tmp_path):
    """`make(facts, **arguments)`: a stream of one's own facts, in the order of their file."""

    def made(facts=FACTS, **arguments):
        path = tmp_path / "own.jsonl"
        lines = [
            json.dumps(
                {"subject": s, "prompt": p, "target": t, "rephrases": [f"Today {p}"], **more}
            )
            for s, p, t, *rest in facts
            for more in (rest or [{}])
        ]
        path.write_text("\n".join(lines))
        own = {"edits_per_step": 2, "horizon": len(facts) // 2, "split": "test", "order": "file"}
        env = gym.make(
            "editgym:LifelongLLMEdit-v1",
            task="knowledge/custom",
            model=tiny_lm,
            requests=str(path),
            **{"test_requests": str(path), "sites": SITES, "unique_subjects": False}
            | own
            | arguments,
        ).unwrapped
        env.reset(seed=0)
        return env

    return made


def targets(env):
    return [request.target for request in env.process.stream.requests]


# --- which requests -------------------------------------------------------------------------------


def test_all_facts_about_a_subject_are_edited_and_edited_back(make):
    env = make()
    assert targets(env) == [target for _, _, target in FACTS]
    assert dict(env.process.stream.overwritten) == {1: 4, 4: 6}
    assert len(env.process.stream.holding) == 6


def test_of_one_subject_one_is_taken_by_default_and_the_message_says_so(make):
    with pytest.raises(
        ValueError, match=r"its subject is in the stream': 6.*unique_subjects=False"
    ):
        make(unique_subjects=True)
    env = make(unique_subjects=True, horizon=1)
    assert targets(env) == ["florist", "Rome"]


def test_the_same_answer_again_is_no_edit_and_one_step_edits_a_prompt_once(make):
    again = [*FACTS[:2], ("Ada", PADOR, "Oslo"), ("Bob", PADOR, "Rome"), ("Bob", PADOR, "Lima")]
    env = make([*again, ("Bob", TRADE, "baker")], horizon=2)
    assert targets(env) == ["florist", "Oslo", "Rome", "baker"]
    assert dict(env.process.stream.skipped) == {
        "target equal to the current answer": 1,
        "its prompt is edited in the same step": 1,
    }


def test_what_the_unedited_model_says_is_an_edit_once_something_else_was_taught(make):
    # The model of this test never ends an answer: its first words are enough for this scorer.
    begun = make().task.original_texts(["Ada lives in"])[0].split()[:3]
    said, make = " ".join(begun), functools.partial(make, scorer="prefix")
    first, *rest = [("Ada", PADOR, said), ("Bob", TRADE, "baker"), ("Bob", HARP, "drum")]
    facts = [("Ada", PADOR, "Oslo"), *rest, first]
    assert targets(make(facts, horizon=2)) == ["Oslo", "baker", "drum", said]
    with pytest.raises(ValueError, match="target equal to the current answer': 1"):
        make([first, ("Ada", PADOR, "Oslo"), *rest], horizon=2)


def test_what_the_stream_edits_is_not_asked_to_stay(make):
    near = {"near": [{"prompt": p, "answer": None} for p in ("Bob lives in", "Eve lives in")]}
    near |= {"same_subject": [{"prompt": "Ada plays the"}, {"prompt": "Ada eats"}]}
    facts = [("Ada", TRADE, "florist", near), *FACTS[1:]]
    request = make(facts).process.stream.requests[0]
    assert request.near == (Question("Eve lives in", None),)
    assert request.same_subject == ("Ada eats",)
    assert len(make(facts, horizon=1).process.stream.requests[0].near) == 2


def test_what_the_stream_edits_in_other_words_is_not_asked_to_stay_either(make):
    near = {"near": [{"prompt": p, "answer": None} for p in ("Bob dwells in", "Eve dwells in")]}
    near |= {"same_subject": [{"prompt": "Bob dwells in"}]}
    facts = [
        ("Ada", TRADE, "florist", near),
        ("Bob", PADOR, "Rome", {"rephrases": ["Bob dwells in"]}),
    ]
    facts += [("Eve", HARP, "drum"), ("Ann", HARP, "drum")]
    request = make(facts, horizon=2).process.stream.requests[0]
    assert request.near == (Question("Eve dwells in", None),)
    assert request.same_subject == ()


def test_what_was_overwritten_is_not_counted_as_taught_again(make):
    facts = [("Ada", PADOR, city) for city in ("Oslo", "Rome", "Lima")]
    facts += [("Bob", PADOR, city) for city in ("Rome", "Lima", "Oslo")]
    env = make(
        [one for pair in zip(facts[:3], facts[3:], strict=True) for one in pair],
        horizon=3,
        rehearse=5,
    )
    make_agent("ultraedit").edit(env)
    assert env.evaluate(env.journal).metrics["texts_per_edit"] == 1


def test_one_prompt_is_one_fact_whoever_it_is_about(make):
    again = ("Ada Lovelace", "Ada lives in", "Lima")
    facts = [FACTS[1], ("Bob", TRADE, "baker"), again, ("Bob", HARP, "drum")]
    env = make(facts, horizon=2)
    assert dict(env.process.stream.overwritten) == {0: 2}
    facts = [FACTS[1], again, ("Bob", TRADE, "baker"), ("Bob", HARP, "drum")]
    with pytest.raises(ValueError, match="its prompt is edited in the same step': 1"):
        make(facts, horizon=2)


# --- orders ---------------------------------------------------------------------------------------


def test_orders_are_permutations_of_the_same_requests(tiny_lm):
    def drawn(order, seed=0):
        arguments = {"model": tiny_lm, "sites": SITES, "horizon": 4, "edits_per_step": 3}
        env = gym.make("LifelongLLMEdit-v1", order=order, split="test", **arguments)
        env.reset(seed=seed)
        return [request.prompt for request in env.unwrapped.process.stream.requests]

    orders = [drawn(order) for order in range(3)]
    assert len({tuple(own) for own in orders}) == 3
    assert len({frozenset(own) for own in orders}) == 1
    assert drawn(2) == orders[2]
    assert set(drawn(1, seed=1)) != set(orders[1])
    with pytest.raises(ValueError, match=r'order must be a whole number .*got "file"'):
        drawn("file")


def test_a_fixed_stream_is_that_of_its_reset_whatever_the_seed(tiny_lm):
    def drawn(seed, **arguments):
        own = {"model": tiny_lm, "sites": SITES, "horizon": 4, "edits_per_step": 3, **arguments}
        env = gym.make("LifelongLLMEdit-v1", **{"split": "test", **own})
        requests = []
        for _ in range(2):
            env.reset(seed=seed)
            requests.append(env.unwrapped.process.stream.requests)
            seed = None
        return requests

    wanted = drawn(3)
    assert drawn(0, stream=3) == drawn(None, stream=3) == wanted
    assert drawn(0) != wanted
    other = drawn(0, stream=3, order=1)[0]
    assert other == drawn(3, order=1)[0] != wanted[0]
    assert set(other) == set(wanted[0])
    to_learn_on = drawn(0, stream=3, split="policy")
    assert to_learn_on == drawn(0, split="policy")
    assert to_learn_on[0] != to_learn_on[1]


def test_a_state_of_another_fixed_stream_is_refused(tiny_lm):
    def made(**arguments):
        own = {"model": tiny_lm, "sites": SITES, "horizon": 2, "edits_per_step": 2}
        return gym.make("LifelongLLMEdit-v1", split="test", **own, **arguments)

    env = made(stream=1)
    env.reset(seed=0)
    state = env.unwrapped.checkpoint()
    made(stream=1).reset(options={"restore": state})
    with pytest.raises(ValueError, match=r"state: it is of the stream .*'stream': 1"):
        made(stream=2).reset(options={"restore": state})


def test_orders_keep_what_is_edited_again_apart_and_in_its_order():
    def request(place):  # every prompt is edited twice
        return EditRequest(f"subject {place}", f"prompt {place % 6}", f"target {place}")

    stream = Stream(tuple(map(request, range(12))))
    orders = [stream.in_order(random.Random(seed), 3) for seed in range(20)]
    assert len({order.requests for order in orders}) == 20
    for order in orders:
        assert set(order.requests) == set(stream.requests)
        places = {one.target: place for place, one in enumerate(order.requests)}
        for place in range(6):
            earlier, later = places[f"target {place}"], places[f"target {place + 6}"]
            assert earlier // 3 < later // 3
    with pytest.raises(ValueError, match=r"order: .* edits one prompt twice: give order=0"):
        stream.in_order(random.Random(0), 12)


def test_the_order_of_the_file_is_that_whatever_the_seed(make):
    env = make(horizon=2)
    first = targets(env)
    env.reset(seed=7)
    assert targets(env) == first == [target for _, _, target in FACTS[:4]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"order": -1}, 'order must be 0 or more, a whole number, or "file", got -1'),
        ({"order": True}, "order must be .* got True"),
        ({"order": "drawn"}, "order must be .* got 'drawn'"),
        ({"unique_subjects": 0}, "unique_subjects must be"),
        ({"order": 1}, 'order must be 0 or "file" with unique_subjects=False'),
        ({"stream": -1}, "stream must be 0 or more, a whole number, or None, got -1"),
        ({"stream": 1.5}, "stream must be .* got 1.5"),
        ({"stream": 0, "order": "file"}, 'stream must be None with order="file"'),
    ],
)
def test_bad_arguments_are_named(make, arguments, said):
    with pytest.raises(ValueError, match=said):
        make(**arguments)


# --- what does not hold any more ------------------------------------------------------------------


def test_what_was_overwritten_counts_right_after_its_edit_alone(make):
    env = make()
    agent = make_agent("in_context")
    evaluation = env.evaluate(agent.edit(env))
    by = [line["overwritten_by"] for line in evaluation.records]
    assert by == [None, 4, None, None, 6, None, None, None]
    right = [line["answer"] == line["target"] for line in evaluation.records]
    holding = [one for one, later in zip(right, by, strict=True) if later is None]
    assert evaluation.metrics["reliability_exact"] == pytest.approx(np.mean(holding))


def test_what_was_overwritten_is_not_rehearsed_from_the_step_on_that_does_it(make):
    env = make(rehearse=8)
    seen = []
    while not env.process.over:
        seen.append(sorted(env.process.batch.places[2:]))
        env.process.advance([])
    assert seen == [[], [0, 1], [0, 2, 3], [0, 2, 3, 5]]


def requests(*facts):
    return tuple(
        EditRequest(s, p.format(s), t, rephrases=(f"Today {p.format(s)}",)) for s, p, t in facts
    )


def test_the_reward_looks_at_what_holds_alone(make):
    env = make(horizon=2)
    process, task = env.process, env.task
    stream = Stream(requests(*FACTS))
    look = LookBack(task, RewardWeights(back_depth=3, decay=0.5, locality_weight=0))
    look.begin(stream, 2, seed=0)
    for step in range(4):
        look.push(process.decoder, step)
        costs = look.costs(process.decoder, look.pieces(process.decoder))
        expected = 0.0
        for age in range(step + 1):
            places = range(2 * (step - age), 2 * (step - age) + 2)
            asked = [
                stream.requests[place]
                for place in places
                if stream.overwritten_by(place, 2 * step + 2) is None
            ]
            if asked:
                texts = task.batch([(r.rephrases[0], r.target) for r in asked])
                expected += 0.5**age * float(process.decoder.losses(texts).mean())
        assert float(costs.total) == pytest.approx(expected, rel=1e-5)
        newest = task.batch([(r.rephrases[0], r.target) for r in stream.requests[2 * step :][:2]])
        logits = process.decoder.logits(newest)
        assert costs.generalization == pytest.approx(agreement(newest, logits))


@pytest.mark.parametrize("name", ["memit_seq", "alphaedit"])
@pytest.mark.parametrize("rehearse", [0, 3])
def test_solvers_meet_the_latest_answer_and_not_half_of_both(name, rehearse, make):
    env = make(rehearse=rehearse)
    agent = make_agent(name, tokens=200, steps=3)
    agent.edit(env)
    process = stream_process(env)
    left = list(agent._places.values())
    assert left == [[0], [2, 3], [5], [6, 7]]
    covered = covariances(process.task, agent._sites, agent.settings.tokens)
    for index, (site, covariance) in enumerate(zip(agent._sites, covered, strict=True)):
        place = process.sites.index(site)
        base = process.task.decoder.base_weights[place].double()
        solver = RecursiveLeastSquares(base, agent.prior(covariance))
        for batches in agent._batches.values():
            solver.update(*batches[index])
        change = (solver.w - base).norm()
        assert change > 0
        assert (process.decoder.weights[place].double() - solver.w).norm() < 1e-4 * change


def test_of_equal_keys_of_a_codebook_the_latest_is_looked_up():
    keys = torch.randn(5, 8).repeat(3, 1)
    values = torch.arange(15.0).repeat_interleave(4).view(15, 4)
    code = Codebook("site", keys, values, torch.full((15,), 0.1))
    found = looked_up(keys[None, :5], torch.zeros(1, 5, 4), code)
    assert found[0, :, 0].tolist() == [10, 11, 12, 13, 14]
