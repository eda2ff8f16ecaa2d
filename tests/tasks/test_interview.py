"""How a task asks its model: formats, scorers, endings, known requests, and their refusals."""

import random
from dataclasses import replace

import pytest
import torch

from editgym.data.facts import EditRequest, Question
from editgym.models.language import LanguageModel
from editgym.tasks.knowledge.drawing import NOT_KNOWN, TOO_LONG
from editgym.tasks.knowledge.exam import Exam
from editgym.tasks.knowledge.interview import Interview
from editgym.tasks.knowledge.task import KnowledgeTask
from editgym.tasks.knowledge_evaluation import evaluate_stream
from editgym.weights import DenseUpdate, EditJournal, Shift, SiteEdit

SITES = ["model.layers.[23].mlp.down_proj"]
PROMPTS = ["Ada lives in", "By trade Bob is a", "Rain falls on the"]


@pytest.fixture(scope="module")
def language(tiny_lm):
    return LanguageModel.load(tiny_lm)


@pytest.fixture(scope="module")
def make(language):
    """`make(requests, **interview)`: a task with these requests in every split."""

    def made(requests=(), **interview):
        task = KnowledgeTask("mine", language, SITES, lambda split, rng: requests)
        return task.asked(Interview.of(**interview))

    return made


def ask(name, target="Oslo", **fields):
    return EditRequest(name, f"{name} lives in", target, **fields)


def generated(task, prompt):
    """The greedy answer by `generate`."""
    ids = torch.tensor([task.prompt_ids(prompt)])
    out = task.language.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=task.max_new_tokens,
        eos_token_id=sorted(task.asking.stop_ids),
        pad_token_id=task.language.pad_id,
    )
    return task.asking.text(out[0, ids.shape[1] :].tolist())


@pytest.mark.parametrize("form", ["bare", "qa", "completion", "It is said that {prompt}"])
@pytest.mark.parametrize("most", [1, 12])
def test_answers_of_the_unedited_model_are_those_of_generate(make, form, most):
    task = make(prompt_format=form, max_new_tokens=most)
    assert task.original_texts(PROMPTS) == [generated(task, prompt) for prompt in PROMPTS]


def test_one_task_is_asked_in_many_ways(make):
    task = make()
    asked = task.asked(Interview.of(prompt_format="qa", scorer="contains", max_new_tokens=3))
    assert asked is task.asked(
        Interview.of(prompt_format="qa", scorer="contains", max_new_tokens=3)
    )
    assert asked.asked(Interview()) is task
    assert asked.decoder is task.decoder
    assert (asked.scorer.name, asked.max_new_tokens) == ("contains", 3)
    assert (task.scorer.name, task.max_new_tokens) == ("exact", 8)
    again = task.asked(replace(asked.interview, scorer="prefix"))
    asked.original_answers(PROMPTS)
    assert again._answers is asked._answers, "who asks alike shares the answers"


def test_requests_may_be_those_that_the_model_knows(make, language):
    task = make(scorer="prefix")
    said = task.original_texts(PROMPTS)  # the random model's answers never end
    truth = {prompt: text.split()[0] for prompt, text in zip(PROMPTS, said, strict=True)}
    requests = [
        EditRequest("Ada", PROMPTS[0], "Oslo", truth=truth[PROMPTS[0]]),
        EditRequest("Bob", PROMPTS[1], "baker", truth="nothing of the kind"),
        EditRequest("Rain", PROMPTS[2], "hill"),
    ]
    stream = make(requests, known=True, scorer="prefix").stream("test", 1, random.Random(0))
    assert [request.subject for request in stream.requests] == ["Ada"]
    with pytest.raises(ValueError, match=NOT_KNOWN):
        make(requests, known=True, scorer="prefix").stream("test", 2, random.Random(0))
    named = [replace(requests[1], aliases=(("nothing of the kind", truth[PROMPTS[1]]),))]
    assert make(named, known=True, scorer="prefix").stream(
        "test", 1, random.Random(0)
    ).requests == tuple(named)


def edited(task, requests, steps=30):
    """A journal of one step that teaches these requests by gradient steps."""
    decoder = task.decoder.fresh()
    batch = task.batch([(request.prompt, request.target) for request in requests])
    updates = [torch.zeros(site.shape, requires_grad=True) for site in decoder.sites]
    optimizer = torch.optim.Adam(updates, lr=0.03)
    for _ in range(steps):
        optimizer.zero_grad()
        decoder.losses(batch, [DenseUpdate(d) for d in updates]).mean().backward()
        optimizer.step()
    journal = EditJournal(decoder.base_hash)
    for site, update in zip(decoder.sites, updates, strict=True):
        journal.append(SiteEdit(site.name, Shift(), DenseUpdate(update.detach()), step=0))
    return journal


def test_edits_are_asked_about_in_every_format(make):
    requests = [
        ask(
            name,
            rephrases=(f"{name} is at home in",),
            test_rephrases=(f"{name} is at home in",),
            near=(Question("Bob lives in", "Rome"),),
        )
        for name in ("Ada", "Eve", "Kim", "Pia")
    ]
    task = make(
        requests,
        prompt_format="completion",
        evaluate_formats={"bare": "bare", "said": "It is said that {prompt}"},
        format_edits=2,
    )
    found = evaluate_stream(task, edited(task, requests), requests, 4)
    assert found.metrics["reliability"] > 0.5, "the edits take where they were made"
    again = [row for row in found.records if row.get("format") == "said"]
    assert [row["edit"] for row in again] == [0, 2], "evenly spread"
    assert [row["answer_now"] for row in again] == [None, None]
    said = task.asked(task.interview.in_format("It is said that {prompt}"))
    decoder = task.decoder.fresh()
    decoder.apply(*edited(task, requests))
    with decoder.active():
        answers = [generated(said, request.prompt) for request in (requests[0], requests[2])]
    assert [row["answer"] for row in again] == answers
    assert found.metrics["reliability@said"] == sum(
        said.scorer.gives(answer, "Oslo") for answer in answers
    ) / len(answers)
    names = {"reliability", "generalization", "locality", "harmonic_mean"}
    for form in ("bare", "said"):
        assert {f"{name}@{form}" for name in names} <= found.metrics.keys()
    assert found.metrics["reliability_contains"] >= found.metrics["reliability"]


def test_requests_that_a_further_format_has_no_room_for_are_left_out(make, language):
    long = " ".join(["the old fisherman near the river beside the road"] * 8) + " {prompt}"
    near = Question(" ".join(["very"] * 50), "Rome")  # behind so much it is too long
    requests = [ask("Ada", near=(near,)), *map(ask, ("Bob", "Eve"))]
    assert len(make(requests).stream("test", 3, random.Random(0)).requests) == 3
    task = make(requests, evaluate_formats={"long": long})
    stream = task.stream("test", 2, random.Random(0))
    assert [request.subject for request in stream.requests] == ["Bob", "Eve"]
    assert stream.skipped == {TOO_LONG: 1}
    found = evaluate_stream(task, edited(task, stream.requests), stream.requests, 2)
    assert "reliability@long" in found.metrics


def test_an_answer_that_is_predicted_is_given_whatever_its_tokens_decode_to(make, monkeypatch):
    task = make()
    request = ask("Ada")
    decoder = task.decoder.fresh()
    decoder.apply(*edited(task, [request], 60))
    monkeypatch.setattr(type(task.language.tokenizer), "decode", lambda *_args, **_named: "?")
    (result,) = Exam(task, decoder).expecting([Question(request.prompt, request.target)])
    assert result.answer == "Oslo"


def test_the_ending_weighs_what_it_is_given(make):
    batch = make(end_weight=0.25).batch([("Ada lives in", "Oslo"), ("Bob is", "a baker")])
    ending = batch.labels == make().asking.ending[0]
    assert ending.sum() == 2
    assert batch.weights[ending].tolist() == [0.25, 0.25]
    assert bool((batch.weights[~ending] == 1).all())
    assert make().batch([("Ada lives in", "Oslo")]).weights is None
    none = make(end_weight=0)
    captured = none.decoder.fresh().capture(none.batch([("Ada lives in", "Oslo")]))
    assert len(captured.keys[0]) == len(none.encode("Ada lives in", "Oslo", end=False).answer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt_format": "Say {it}"}, r"prompt_format must be one of bare, qa, completion, chat"),
        ({"prompt_format": None}, "prompt_format must be one of"),
        ({"evaluate_formats": "qa"}, "evaluate_formats must be a list of names of formats"),
        ({"evaluate_formats": {"Q A": "qa"}}, "a name consists of a-z, 0-9 and _, got 'Q A'"),
        ({"evaluate_formats": ["quiz"]}, r"evaluate_formats\['quiz'\] must be one of bare"),
        ({"evaluate_formats": ["qa", "qa"]}, "evaluate_formats must be without a name twice"),
        ({"scorer": "bleu"}, "scorer must be one of exact, squad, contains, prefix, or None"),
        ({"separator": 3}, "separator must be a text, or None, got 3"),
        ({"known": "yes"}, "known must be True or False, got 'yes'"),
        ({"max_new_tokens": 0}, "max_new_tokens must be 1 or more, a whole number, or None"),
        ({"format_edits": 0}, "format_edits must be 1 or more"),
        ({"end_weight": 1.5}, "end_weight must be from 0 to 1, got 1.5"),
        ({"text": []}, "text must be a file, a list of files, or None"),
        ({"text": 7}, "text must be a file"),
    ],
)
def test_what_cannot_be_asked_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Interview.of(**arguments)


def test_an_environment_refuses_what_its_model_cannot_be_asked(tiny_lm):
    import gymnasium as gym

    with pytest.raises(ValueError, match="no chat template"):
        gym.make("LifelongLLMEdit-v1", model=tiny_lm, sites=SITES, prompt_format="chat")
