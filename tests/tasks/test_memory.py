"""Remembered facts: the nearest one by hand, and questions that are asked after it."""

import math
import random

import pytest
import torch

from editgym.data.facts import Question
from editgym.models.language import LanguageModel
from editgym.tasks import make_task
from editgym.tasks.knowledge.exam import Exam
from editgym.tasks.knowledge.interview import Interview
from editgym.tasks.knowledge.memory import Memory
from editgym.tasks.knowledge_evaluation import evaluate_stream
from editgym.weights import EditJournal, Prepend, Remember
from editgym.weights.state import Remembered

SITES = ["model.layers.[23].mlp.down_proj"]
ANSWERS = {"Ada lives in": "Oslo", "Bob lives in": "Rome", "Ada plays": "golf"}
# Of three prompts: ln((1 + 3) / (1 + n)) + 1 for a word of n of them.
ONCE, TWICE = math.log(4 / 2) + 1, math.log(4 / 3) + 1


def memory(threshold=0.0, answers=ANSWERS):
    return Memory({prompt: Remembered(answer, threshold) for prompt, answer in answers.items()})


def found(prompt, **arguments):
    ((*facts,),) = memory(**arguments).solved([prompt])
    return facts[0][1] if facts else None


# --- the nearest fact -----------------------------------------------------------------------------


def cosine(question, prompt):
    """Of two bags of words with weights."""
    product = sum(question.get(word, 0) * weight for word, weight in prompt.items())
    lengths = [math.sqrt(sum(weight**2 for weight in bag.values())) for bag in (question, prompt)]
    return product / math.prod(lengths)


PROMPTS = {
    "Oslo": {"ada": TWICE, "lives": TWICE, "in": TWICE},
    "Rome": {"bob": ONCE, "lives": TWICE, "in": TWICE},
    "golf": {"ada": TWICE, "plays": ONCE},
}


@pytest.mark.parametrize(
    ("question", "bag"),
    [
        ("What is it that Ada plays?", {"ada": TWICE, "plays": ONCE}),
        ("BOB lives where", {"bob": ONCE, "lives": TWICE}),
        ("where Ada lives", {"ada": TWICE, "lives": TWICE}),
        ("in plays in", {"in": 2 * TWICE, "plays": ONCE}),
    ],
)
def test_the_nearest_fact_is_the_one_by_hand_and_its_threshold_is_met_at_equality(question, bag):
    near = {answer: cosine(bag, prompt) for answer, prompt in PROMPTS.items()}
    best = max(near, key=near.__getitem__)
    assert found(question) == best
    assert found(question, threshold=near[best]) == best
    assert found(question, threshold=near[best] - 1e-6) == best
    if near[best] < 1 - 1e-6:
        assert found(question, threshold=near[best] + 1e-6) is None


def test_a_prompt_finds_its_own_fact_whatever_the_threshold():
    for prompt, answer in ANSWERS.items():
        assert found(prompt, threshold=1.0) == answer
    assert found("Bob lives", threshold=1.0) is None


def test_words_that_nobody_knows_find_nothing():
    assert found("Where does Eve work?") is None
    assert found("?!") is None
    assert memory(answers={"?": "yes", "!": "no"}).solved(["?", "words"]) == [(), ()]


def test_every_fact_has_its_own_threshold():
    facts = {"Ada lives in": Remembered("Oslo", 0.9), "Bob plays": Remembered("golf", 0.1)}
    assert Memory(facts).solved(["Ada lives", "Bob works"]) == [(), (("Bob plays", "golf"),)]


def test_of_equally_near_facts_the_latest_is_found():
    answers = {"Ada is older than Bob": "yes", "Bob is older than Ada": "no", "Eve plays": "golf"}
    assert found("older: Ada, Bob", answers=answers) == "no"
    assert found("older: Ada, Bob", answers=dict(reversed(answers.items()))) == "yes"


def test_many_questions_are_those_asked_one_by_one():
    rng = random.Random(0)
    words = [f"w{number}" for number in range(40)]
    facts = {" ".join(rng.choices(words, k=4)): Remembered(str(n), 0.4) for n in range(50)}
    asked = [" ".join(rng.choices(words, k=4)) for _ in range(2_100)]
    together = Memory(facts)
    alone = Memory(facts)
    answers = together.solved(asked)
    assert 100 < sum(map(bool, answers)) < 2_000
    for place in (0, 1_023, 1_024, 2_047, 2_048, 2_099):
        assert answers[place] == alone.solved([asked[place]])[0]


# --- questions ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def language(tiny_lm):
    return LanguageModel.load(tiny_lm)


@pytest.fixture(scope="module")
def task(tiny_lm):
    return make_task("knowledge/factworld", model=tiny_lm, sites=SITES)


LEGS = "Q: How many legs does a spider have?\nA: eight\nQ: What colour is snow?\nA: white\n"
FACTS = (("Ada lives in", "Oslo"), ("Bob plays the", "harp"))


def remembering(task, *entries):
    decoder = task.decoder.fresh()
    decoder.apply(*entries)
    return decoder


@pytest.mark.parametrize(
    ("form", "after", "alone"),
    [
        ("bare", "Ada lives in Oslo. Ada lives near", "Eve works"),
        (
            "qa",
            f"{LEGS}Q: Ada lives in\nA: Oslo\nQ: Ada lives near\nA:",
            f"{LEGS}Q: Eve works\nA:",
        ),
        ("Say {prompt}!", "Say Ada lives in Oslo. Ada lives near!", "Say Eve works!"),
    ],
)
def test_a_question_is_asked_after_the_solved_question_in_its_formats_own_way(
    task, language, form, after, alone
):
    asked = task.asked(Interview(prompt_format=form))
    exam = Exam(asked, remembering(task, Remember(FACTS, 0.3)))
    questions = [Question("Ada lives near", "Rome"), Question("Eve works", "Rome")]
    ids = [
        tuple(language.tokenizer(text)["input_ids"][: language.context]) for text in (after, alone)
    ]
    ids = [own[:-1] if own[-1] == language.end_id else own for own in ids]
    stops = asked.asking.stop_ids
    said = [asked.asking.text(own) for own in language.greedy(ids, 8, stops=stops)]
    assert [result.answer for result in exam.expecting(questions)] == said
    assert exam.left_out == 0
    assert Exam(asked, task.decoder).expecting(questions)[0].answer != said[0]
    assert Exam(asked, task.decoder).expecting(questions)[1].answer == said[1]


def test_what_should_stay_is_asked_after_it_and_compared_without_it(task, language):
    exam = Exam(task, remembering(task, Remember(FACTS, 0.3)))
    prompts = ["Ada lives near", "Eve works"]
    near, far = exam.unchanged(prompts, prompts)
    before = task.original_texts(prompts)
    after = "Ada lives in Oslo. Ada lives near"
    assert near.answer == language.answers([after])[0] != before[0]
    assert far.answer == before[1]
    assert near.divergence > 0.01 > 1e-4 > abs(far.divergence)
    said = task.original_answers(prompts)[0]
    ids = torch.tensor([[*language.prompt_ids(after), *said]])
    plain = torch.tensor([[*language.prompt_ids(prompts[0]), *said]])
    now, then = (
        language.model(one).logits[0, -len(said) - 1 : -1].log_softmax(-1) for one in (ids, plain)
    )
    expected = (then.exp() * (then - now)).sum(-1).mean()
    assert near.divergence == pytest.approx(float(expected), rel=1e-3)


def test_a_fact_without_room_is_left_out_and_counted(task, language):
    long = " ".join(["the old house"] * 38)
    facts = ((f"{long} is", "red"), ("Bob plays the", "harp"))
    exam = Exam(task, remembering(task, Remember(facts, 0.1)))
    question = [Question("the old house near the river is", "blue")]
    assert len(language.prompt_ids(f"{long} is red.")) < language.context
    alone = Exam(task, task.decoder).expecting(question)
    assert exam.expecting(question) == alone
    assert exam.left_out == 1
    exam.unchanged([long], [long])
    assert exam.left_out == 2
    exam.expecting([Question("Bob plays", "harp")])
    assert exam.left_out == 2


def test_what_is_undone_or_remembered_anew_is_looked_up_so(task, language):
    decoder = remembering(task, Remember((("Ada lives in", "Oslo"),), 0.3, 0))
    exam, question = Exam(task, decoder), [Question("Ada lives near", "Rome")]

    def asked(answer):
        fact = f"Ada lives in {answer}. " if answer else ""
        return language.answers([f"{fact}Ada lives near"])

    answers = {name: asked(name) for name in ("Oslo", "Rome", None)}
    assert len({one for (one,) in answers.values()}) == 3
    assert [exam.expecting(question)[0].answer] == answers["Oslo"]
    decoder.apply(Remember((("Ada lives in", "Rome"),), 0.3, 1))
    assert [exam.expecting(question)[0].answer] == answers["Rome"]
    decoder.undo()
    assert [exam.expecting(question)[0].answer] == answers["Oslo"]
    decoder.reset()
    assert [exam.expecting(question)[0].answer] == answers[None]


# --- a stream -------------------------------------------------------------------------------------


def test_a_stream_is_asked_step_by_step_in_every_format(task, language):
    requests = task.stream("test", 4, random.Random(0)).requests
    facts = [(request.prompt, request.target) for request in requests]
    journal = EditJournal(task.decoder.base_hash)
    journal.append(Remember(tuple(facts[:2]), 1.0, 0), Remember(tuple(facts[2:]), 1.0, 1))
    both = task.asked(Interview(evaluate_formats=(("qa", "qa"),)))
    result = evaluate_stream(both, journal, requests, 2)
    after = [f"{prompt} {answer}. {prompt}" for prompt, answer in facts]
    plain = result.records[:4]
    assert [row["answer"] for row in plain] == language.answers(after)
    assert [row["answer_now"] for row in plain] == language.answers(after)
    asked = [f"{LEGS}Q: {p}\nA: {a}\nQ: {p}\nA:" for p, a in facts]
    assert [row["answer"] for row in result.records[4:]] == language.answers(asked)
    assert result.metrics["facts_left_out"] == 0
    assert result.metrics["sites_per_edit"] == 0
    assert result.metrics["texts_per_edit"] == 1
    assert result.metrics["perplexity_ratio"] == pytest.approx(1)
    assert result.metrics["locality"] == 1, "nothing else has the same words"
    without = evaluate_stream(task, EditJournal(task.decoder.base_hash), requests, 2)
    assert without.metrics["facts_left_out"] is None
    beside = EditJournal(task.decoder.base_hash, [Prepend(("", ""), 0)])
    assert evaluate_stream(task, beside, requests, 2).metrics["facts_left_out"] is None
