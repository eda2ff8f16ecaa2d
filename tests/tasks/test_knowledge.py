"""Knowledge tasks: which requests a stream holds, and metrics of edits against answers by
`generate`."""

import functools
import json
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from editgym.data.errors import DataError
from editgym.data.facts import EditRequest, Question
from editgym.data.factworld import FactWorld
from editgym.envs.lifelong.process import LifelongProcess, LifelongSettings
from editgym.metrics.answers import SCORERS
from editgym.metrics.knowledge import normalized
from editgym.models.language import LanguageModel
from editgym.tasks import make_task
from editgym.tasks.knowledge.drawing import KNOWN, TOO_LONG
from editgym.tasks.knowledge.interview import Interview
from editgym.tasks.knowledge.task import KnowledgeTask
from editgym.tasks.knowledge_evaluation import evaluate_stream
from editgym.weights import (
    Codebook,
    DenseUpdate,
    EditJournal,
    JournalError,
    LowRankFactors,
    Prepend,
    ReplaceTensors,
    Shift,
    SiteEdit,
    Skip,
    UnknownSiteError,
)

SITES = ["model.layers.[23].mlp.down_proj"]


@pytest.fixture(scope="module")
def language(tiny_lm):
    return LanguageModel.load(tiny_lm)


@pytest.fixture
def make(language):
    """`make(requests)`: a task whose every split draws these, in order."""
    return lambda requests, **arguments: KnowledgeTask(
        "mine", language, SITES, lambda split, rng: requests, **arguments
    )


def ask(subject, target="Oslo", **fields):
    return EditRequest(subject=subject, prompt=f"{subject} lives in", target=target, **fields)


# --- streams --------------------------------------------------------------------------------------


def test_answers_longer_than_eight_tokens_are_compared_whole(make, language, monkeypatch, tmp_path):
    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path))  # what is made up here is nobody's answer
    target = "the old fisherman near the river beside the long road"
    said = language.encode("Ada lives in", target).answer

    def greedy(prompts, max_new_tokens=8, **_):
        limits = (
            [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
        )
        return [list(said[:limit]) for limit in limits]

    def go_on(begun, limits, *_):
        return [list(said[:limit]) for limit in limits]

    monkeypatch.setattr(language, "greedy", greedy)
    monkeypatch.setattr(language.decoding, "go_on", go_on)
    monkeypatch.setattr(language, "said", {})
    # A short target of the same prompt makes no difference to the long one.
    task = make([ask("Ada", target), ask("Ada"), ask("Bob", f"{target} too"), ask("Eve")])
    assert len(said) > task.max_new_tokens
    stream = task.stream("test", 3, random.Random(0))
    assert [request.target for request in stream.requests] == ["Oslo", f"{target} too", "Oslo"]
    assert dict(stream.skipped) == {KNOWN: 1}
    asked = (ask("Ada", target), ask("Bob", f"{target} too"))
    evaluation = evaluate_stream(task, EditJournal(task.decoder.base_hash), asked, 2)
    assert [record["answer"] for record in evaluation.records] == [target, target]
    assert evaluation.metrics["reliability"] == 0.5


@pytest.fixture(scope="module")
def factworld(tiny_lm):
    return make_task("knowledge/factworld", model=tiny_lm, sites=SITES)


@pytest.mark.parametrize("split", ["policy", "validation", "test"])
def test_a_stream_has_a_subject_once_and_is_drawn_by_its_seed(factworld, split):
    first, again, other = (factworld.stream(split, 40, random.Random(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first.requests != other.requests
    assert len({request.subject for request in first.requests}) == 40
    people = {person.name for person in FactWorld().splits[split]}
    assert {request.subject for request in first.requests} <= people
    longer = factworld.stream(split, 60, random.Random(1))
    assert longer.requests[:40] == first.requests, "a longer stream begins like a shorter one"


def test_what_cannot_be_used_is_left_out_and_counted(make, language, monkeypatch):
    monkeypatch.setattr(language, "said", {})
    first, second, *_ = language.greedy([language.prompt_ids("Ada lives in")])[0]
    monkeypatch.setitem(
        vars(language.asking()), "stop_ids", language.stop_ids | {second}
    )  # or its answers would never end
    known = language.text([first])
    long = " ".join(["very"] * 130)
    requests = [
        ask("Ada", known),
        ask("Bob"),
        ask("Eve", long),
        ask("Kim", rephrases=(f"{long} Kim lives in",)),
        ask("Lou", far=(Question(f"{long} sky"),)),
        ask("Max", same_subject=(long,)),
        ask("Ned", portability=(Question("Ned is", long),)),
        ask("Bob", "Rome"),
        ask("Pia"),
    ]
    stream = make(requests).stream("test", 2, random.Random(0))
    assert [request.subject for request in stream.requests] == ["Bob", "Pia"]
    assert stream.skipped == {KNOWN: 1, TOO_LONG: 5}


def test_the_first_request_of_a_subject_that_can_be_used_is_taken(make, language):
    known = " ".join(language.answers(["Ada lives in"])[0].split()[:2])
    requests = [
        ask("Ada", known),
        ask("Ada", "Oslo"),
        ask("Ada", "Rome"),
        ask("Eve", "no " * 130),
        ask("Eve", "Rome"),
    ]
    task = make(requests, interview=Interview(scorer="prefix"))
    stream = task.stream("test", 2, random.Random(0))
    assert [(request.subject, request.target) for request in stream.requests] == [
        ("Ada", "Oslo"),
        ("Eve", "Rome"),
    ]
    assert stream.skipped == {KNOWN: 1, TOO_LONG: 1}


@pytest.mark.parametrize(
    ("others", "count", "asked"),
    [([], 2, True), ([], 1, False), ([ask("Ada", "Rome")], 2, False), ([ask("Kim")], 3, True)],
    ids=["whole", "cut", "another fact about its subject", "beside another"],
)
def test_what_follows_from_several_facts_is_asked_of_a_stream_that_has_all(
    make, others, count, asked
):
    last = ask(
        "Oslo",
        "Norway",
        portability=(Question("The land of Ada is", "Norway"),),
        premises=(Question("Ada lives in", "Oslo"),),
    )
    requests = make([*others, ask("Ada"), last]).stream("test", count, random.Random(0)).requests
    assert any(request.portability for request in requests) == asked
    assert all(request.portability in ((), last.portability) for request in requests)


def test_what_is_asked_of_old_answers_must_fit_too_where_probabilities_are_compared(make):
    long = " ".join(["very"] * 130)
    requests = [
        ask("Ada", truth=long),
        ask("Eve", near=(Question("Kim lives in", long),)),
        ask("Pia"),
    ]
    assert len(make(requests).stream("test", 3, random.Random(0)).requests) == 3
    compared = make(requests, teacher_forced="probability").stream("test", 1, random.Random(0))
    assert (compared.requests, compared.skipped) == ((requests[2],), {TOO_LONG: 2})


def test_a_split_that_is_too_small_is_an_error_that_says_why(make):
    with pytest.raises(
        ValueError,
        match=r"mine: 3 requests are asked for \(horizon × edits_per_step\), and the test "
        r"split has 1 that can be used \(left out: \{'longer than the context': 1, 'another one",
    ):
        make([ask("Ada"), ask("Eve", "no " * 130), ask("Ada")]).stream("test", 3, random.Random(0))


def test_a_step_size_is_positive_and_scales_with_the_sites(make, language):
    assert make([]).step_size == pytest.approx(1e-6 * 14_336 / 64)
    assert make([], step_size=0.5).step_size == 0.5
    for bad in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(
            ValueError, match=f"step_size must be greater than 0 and finite, or None, got {bad!r}"
        ):
            make([], step_size=bad)


def test_tokens_of_a_task(make, language):
    task = make([])
    batch = task.batch([("Ada lives in", "Oslo"), ("Eve", "a")])
    assert batch.labels[-1] == language.end_id
    assert (
        len(task.encode("Ada lives in", "Oslo", end=False).answer)
        == len(batch.labels[batch.rows == 0]) - 1
    )
    own = task.unchanged(["Ada lives in"])
    assert language.text(own.labels.tolist()) == language.answers(["Ada lives in"])[0]
    with torch.no_grad():
        logits = language.model(own.ids).logits[0, own.positions]
    torch.testing.assert_close(task.reference(own), logits.log_softmax(-1), rtol=1e-4, atol=1e-4)
    assert (logits.argmax(-1) == own.labels).all()


# --- requests from files --------------------------------------------------------------------------


def write(path, records):
    path.write_text(json.dumps(records))
    return str(path)


def own_record(name, target="Oslo", **fields):
    return {
        "subject": name,
        "prompt": f"{name} lives in",
        "target": target,
        "rephrases": [f"The home of {name} is"],
        "near": ["Bob lives in"],
        "far": [{"prompt": "2 + 2 =", "answer": "4"}],
    } | fields


NAMES = [f"Person{i}" for i in range(80)]
RECORDS = {
    "knowledge/custom": [own_record(name) for name in NAMES],
    "knowledge/zsre": [
        {
            "subject": name,
            "src": f"Where does {name} live?",
            "rephrase": f"{name} lives where?",
            "alt": "Oslo",
            "answers": ["Rome"],
            "loc": "who wrote emma",
            "loc_ans": "Jane",
        }
        for name in NAMES
    ],
    "knowledge/counterfact": [
        {
            "case_id": i,
            "subject": name,
            "prompt": f"{name} lives in",
            "target_new": "Oslo",
            "ground_truth": "Rome",
            "rephrase_prompt": f"The home of {name} is",
            "locality_prompt": "Bob lives in",
            "locality_ground_truth": "Rome",
        }
        for i, name in enumerate(NAMES)
    ],
}


def subjects(task, split, count, seed=0):
    return {request.subject for request in task.stream(split, count, random.Random(seed)).requests}


@pytest.mark.parametrize("name", RECORDS)
def test_one_file_is_split_by_subject(tiny_lm, tmp_path, name):
    file = write(tmp_path / "requests.json", RECORDS[name] + RECORDS[name][:20])
    task = make_task(
        name,
        model=tiny_lm,
        requests=file,
        sites=SITES,
        **({"test_requests": None} if name == "knowledge/counterfact" else {}),
    )
    drawn = {split: set() for split in ("policy", "validation", "test")}
    for split, count in (("policy", 30), ("validation", 5), ("test", 10)):
        for seed in range(15):
            drawn[split] |= subjects(task, split, count, seed)
    assert drawn["policy"] | drawn["validation"] | drawn["test"] == set(NAMES)
    assert sum(map(len, drawn.values())) == len(NAMES), "no subject is in two splits"
    assert 35 < len(drawn["policy"]) < 60
    assert task.teacher_forced == ("probability" if name == "knowledge/counterfact" else "accuracy")
    assert task.name == name


def test_subjects_of_the_test_file_are_in_no_other_split(tiny_lm, tmp_path):
    train, test = (
        [own_record(name) for name in NAMES[:60]],
        [own_record(name) for name in NAMES[40:]],
    )
    task = make_task(
        "knowledge/custom",
        model=tiny_lm,
        sites=SITES,
        requests=write(tmp_path / "train.json", train),
        test_requests=write(tmp_path / "test.json", test),
    )
    assert subjects(task, "test", 40) == set(NAMES[40:])
    learned = set().union(*(subjects(task, "policy", 25, seed) for seed in range(10)))
    checked = set().union(*(subjects(task, "validation", 3, seed) for seed in range(20)))
    assert learned | checked == set(NAMES[:40])
    assert not learned & checked


def test_no_split_is_rewarded_on_what_another_one_asks(tiny_lm, tmp_path):
    """Everybody's two locality questions are about two others; some facts are what test wants
    unchanged."""

    def locality(index):
        return [f"{NAMES[other % 60]} sleeps in" for other in (index + 1, index + 2)]

    train = [own_record(name, locality=locality(index)) for index, name in enumerate(NAMES[:60])]
    test = [
        own_record(name, locality=locality(index), near=[train[index]["prompt"]])
        for index, name in enumerate(NAMES[60:])
    ]
    task = make_task(
        "knowledge/custom",
        model=tiny_lm,
        sites=SITES,
        requests=write(tmp_path / "train.json", train),
        test_requests=write(tmp_path / "test.json", test),
    )
    drawn = {
        split: [
            one
            for seed in range(10)
            for one in task.stream(split, count, random.Random(seed)).requests
        ]
        for split, count in (("policy", 10), ("validation", 3), ("test", len(test)))
    }
    asked = {
        split: {
            text
            for request in requests
            for text in (
                request.prompt,
                *request.rephrases,
                *request.test_rephrases,
                *request.same_subject,
                *(
                    q.prompt
                    for q in (*request.locality, *request.near, *request.far, *request.portability)
                ),
            )
        }
        for split, requests in drawn.items()
    }
    rewarded = {
        split: {
            text
            for request in requests
            for text in (request.prompt, *request.rephrases, *(q.prompt for q in request.locality))
        }
        for split, requests in drawn.items()
    }
    assert not rewarded["policy"] & (asked["validation"] | asked["test"])
    assert not rewarded["validation"] & asked["test"]
    assert any(request.locality for request in drawn["policy"]), (
        "questions of a request's own are kept"
    )
    assert {request.subject for request in drawn["test"]} == set(NAMES[60:])
    assert all(len(request.locality) == 2 for request in drawn["test"])


def test_requests_that_lose_their_locality_to_test_are_told_of(tiny_lm, tmp_path):
    records = [own_record(name, locality=["The sun is"]) for name in NAMES]
    with pytest.warns(
        UserWarning,
        match=r"of \d+ requests of the policy split with locality questions, \d+ have none "
        "left that the other splits do not ask",
    ):
        make_task(
            "knowledge/custom",
            model=tiny_lm,
            sites=SITES,
            requests=write(tmp_path / "train.json", records),
        )


@pytest.mark.parametrize(
    ("tested", "expected"),
    [
        ("own", "accuracy"),
        ("counterfact", "probability"),
        ("counterfact without truths", "accuracy"),
    ],
)
def test_answers_are_compared_as_the_test_file_has_them(tested, expected, tiny_lm, tmp_path):
    flat = RECORDS["knowledge/counterfact"]
    files = {
        "own": [own_record(name) for name in NAMES],
        "counterfact": flat,
        "counterfact without truths": [record | {"ground_truth": ""} for record in flat],
    }
    train = flat if tested == "own" else files["own"]
    arguments = {
        "requests": write(tmp_path / "train.json", train[:50]),
        "model": tiny_lm,
        "sites": SITES,
        "test_requests": write(tmp_path / "test.json", files[tested][50:]),
    }
    task = make_task("knowledge/custom", **arguments)
    assert task.teacher_forced == expected
    # Nothing was edited, and the model does not know the answers: an old one that is missing makes
    # no new one right.
    for split in ("policy", "test"):
        requests = task.stream(split, 20, random.Random(0)).requests
        metrics = evaluate_stream(task, EditJournal(task.decoder.base_hash), requests, 5).metrics
        assert metrics["reliability"] == 0
        assert metrics["tf_efficacy"] < 1


def chain(index):
    """A record of MQuAKE; every other one has the second fact's subject in common with the one
    before."""
    facts = [
        (f"Person{index}", "{} lives in", "Oslo"),
        (f"Town{index // 2}", "The king of {} is", "Bob"),
    ]
    return {
        "requested_rewrite": [
            {
                "subject": subject,
                "prompt": prompt,
                "target_new": {"str": target},
                "target_true": {"str": "Rome"},
                "question": f"{subject}?",
            }
            for subject, prompt, target in facts
        ],
        "questions": [f"Who is the king of Person{index}?"],
        "new_answer": "Bob",
    }


@pytest.mark.parametrize("separate", [False, True])
def test_records_of_several_facts_stay_together(tiny_lm, tmp_path, separate):
    records = [chain(index) for index in range(80)]
    files = {"requests": write(tmp_path / "train.json", records)}
    if separate:
        files["test_requests"] = write(tmp_path / "test.json", records[51:71])
    task = make_task("knowledge/custom", model=tiny_lm, sites=SITES, **files)
    drawn = {}
    for split, count in (("policy", 25), ("validation", 5), ("test", 15)):
        streams = [task.stream(split, count, random.Random(seed)).requests for seed in range(8)]
        drawn[split] = {request.subject for requests in streams for request in requests}
        for requests in streams:
            asked = [index for index, request in enumerate(requests) if request.portability]
            assert asked
            assert all(
                (requests[index - 1].prompt, requests[index - 1].target)
                == requests[index].premises[0]
                for index in asked
            )
    assert not drawn["policy"] & (drawn["validation"] | drawn["test"])
    assert not drawn["validation"] & drawn["test"]


def test_files_are_looked_for_in_the_data_folder(tiny_lm, tmp_path, monkeypatch):
    (tmp_path / "editing").mkdir()
    write(tmp_path / "editing" / "mine.json", [own_record(name) for name in NAMES])
    monkeypatch.setenv("EDITGYM_DATA", str(tmp_path))
    task = make_task("knowledge/custom", model=tiny_lm, sites=SITES, requests="editing/mine.json")
    assert len(subjects(task, "test", 8)) == 8


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (
            [own_record("Ada"), {"subject": "Bob", "prompt": "Bob lives in"}],
            r"requests\.json: record 1: 'target': missing",
        ),
        ([own_record("Ada", "  ")], r"requests\.json: record 0: 'target': empty field"),
        ([own_record("Ada", prompt="")], r"record 0: 'prompt': empty field"),
        ([own_record("Ada", 7)], r"record 0: 'target': wrong type"),
        ([], "holds no records"),
        ([3], "record 0: wrong type; a record must be an object"),
    ],
)
def test_a_malformed_record_is_named_by_file_index_and_field(tiny_lm, tmp_path, records, message):
    file = write(tmp_path / "requests.json", records)
    with pytest.raises(DataError, match=message):
        make_task("knowledge/custom", model=tiny_lm, requests=file, format="own")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "knowledge/custom",
            {},
            "model must be given for knowledge/custom: a Hugging Face folder or hub id",
        ),
        ("knowledge/zsre", {}, "model must be given for knowledge/zsre"),
        (
            "knowledge/custom",
            {"model": "x"},
            "requests must be given for knowledge/custom: a file of requests",
        ),
        (
            "knowledge/custom",
            {"model": "x", "requests": "/nowhere.json"},
            r"requests: no file '/nowhere\.json' here",
        ),
        ("knowledge/factworld", {"requests": "x"}, "takes no argument 'requests'"),
    ],
)
def test_a_missing_argument_or_file_is_named(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_task(name, **arguments)


def test_an_unknown_site_of_a_language_model_names_the_nearest(tiny_lm):
    with pytest.raises(
        UnknownSiteError, match=r"layers\.3\.mlp\.down_prj' matches none .*down_proj \(32 × 64"
    ):
        make_task("knowledge/factworld", model=tiny_lm, sites=["model.layers.3.mlp.down_prj"])


def test_default_sites_are_chosen(tiny_lm):
    task = make_task("knowledge/factworld", model=tiny_lm)
    assert [site.name for site in task.decoder.sites] == [
        f"model.layers.{i}.mlp.down_proj" for i in (2, 3)
    ]


# --- metrics --------------------------------------------------------------------------------------


class Generated:
    """Answers of a model by `generate`, one prompt at a time."""

    def __init__(self, model, language):
        self.model, self.language = model, language

    @torch.no_grad()
    def tokens(self, prompt, limit=8):
        ids = torch.tensor([self.language.prompt_ids(prompt)])
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=limit,
            eos_token_id=sorted(self.language.stop_ids),
            pad_token_id=0,
        )
        return out[0, ids.shape[1] :].tolist()

    def __call__(self, prompt, limit=8):
        return self.language.text(self.tokens(prompt, limit))

    @torch.no_grad()
    def log_probabilities(self, prompt, answer):
        ids = self.language.prompt_ids(prompt)
        return (
            self.model(torch.tensor([[*ids, *answer]])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        )

    def accuracy(self, prompt, answer):
        """Share of an answer's tokens, the end token left out, that are predicted."""
        right = self.log_probabilities(prompt, answer).argmax(-1) == torch.tensor(answer)
        content = [i for i, token in enumerate(answer) if token != self.language.end_id] or [0]
        return float(right[content].float().mean())

    def surprise(self, texts):
        rows = [
            (self.log_probabilities_of(text), self.language.prompt_ids(text)[1:]) for text in texts
        ]
        return F.nll_loss(
            torch.cat([row for row, _ in rows]), torch.tensor([t for _, ids in rows for t in ids])
        )

    @torch.no_grad()
    def log_probabilities_of(self, text):
        return (
            self.model(torch.tensor([self.language.prompt_ids(text)]))
            .logits[0, :-1]
            .log_softmax(-1)
        )


def tuned(process, steps=25, learning_rate=0.03):
    """Dense updates by gradient steps on the new requests."""
    updates = [torch.zeros(site.shape, requires_grad=True) for site in process.sites]
    optimizer = torch.optim.Adam(updates, lr=learning_rate)
    for _ in range(steps):
        loss = process.decoder.losses(
            process.prompts, [DenseUpdate(d) for d in updates], process.prefix
        ).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [
        SiteEdit(site.name, Shift(), DenseUpdate(d.detach()))
        for site, d in zip(process.sites, updates, strict=True)
    ]


def mean(values):
    return sum(map(float, values)) / len(list(values))


@pytest.fixture(scope="module")
def edited(language):
    """A stream of three steps of two edits that mostly take, as a process that is over; and every
    step's model."""
    prompts = ["Ada lives in", "By trade Ada is a", "Rain falls on", "Bob plays the"]
    answers = language.answers(prompts)
    known = [Question(*pair) for pair in zip(prompts, answers, strict=True)]
    requests = list(FactWorld().requests("test", random.Random(4)))[:6]
    task = KnowledgeTask("mine", language, SITES, lambda split, rng: requests, known=(known, -0.5))
    process = LifelongProcess(task, LifelongSettings(2, 3, "test"))
    process.reset(0)
    models = []
    while not process.over:
        process.advance(tuned(process) if process.step_index != 1 else tuned(process)[:1])
        models.append(Generated(process.decoder.merged().eval(), language))
    return process, Generated(language.model, language), models


def same(one, other):
    return normalized(one) == normalized(other)


def test_metrics_are_those_of_answers_by_generate(edited):
    process, before, models = edited
    task, requests, after = process.task, process.stream.requests, models[-1]
    found = evaluate_stream(task, process.decoder.journal, requests, 2, first_k=3)
    metrics = found.metrics
    now = [same(models[i // 2](r.prompt), r.target) for i, r in enumerate(requests)]
    final = [same(after(r.prompt), r.target) for r in requests]
    assert metrics["reliability_now"] == pytest.approx(mean(now))
    assert metrics["reliability"] == pytest.approx(mean(final))
    assert metrics["forgetting"] == pytest.approx(mean(now) - mean(final))
    assert metrics["first_k_reliability"] == pytest.approx(mean(final[:3]))
    assert mean(now) > 0.5, "the edits take"
    for name, asked in (
        ("generalization", lambda r: [(p, r.target) for p in r.test_rephrases]),
        ("portability", lambda r: r.portability),
    ):
        assert metrics[name] == pytest.approx(
            mean([mean([same(after(p), a) for p, a in asked(r)]) for r in requests])
        )
    for name, questions in (
        ("locality", lambda r: r.near + r.far),
        ("locality_near", lambda r: r.near),
        ("locality_far", lambda r: r.far),
    ):
        kept = [
            mean([same(after(q.prompt), before(q.prompt)) for q in questions(r)]) for r in requests
        ]
        assert metrics[name] == pytest.approx(mean(kept))
    leaks = [
        mean(
            [
                (normalized(r.target) in normalized(after(p)))
                - (normalized(r.target) in normalized(before(p)))
                for p in r.same_subject
            ]
        )
        for r in requests
    ]
    assert metrics["leakage"] == pytest.approx(mean(leaks))
    assert metrics["sites_per_edit"] == pytest.approx(5 / 3)
    # Its answers go on where those that it is said to know were cut: it does not give them.
    known, chance = task.known
    right, knew = (
        mean([same(one(q.prompt, 9), q.answer) for q in known]) - chance for one in (after, before)
    )
    assert knew == -chance
    assert metrics["capability"] == pytest.approx(right / knew)
    assert metrics["perplexity_ratio"] == pytest.approx(
        math.exp(after.surprise(task.text.held_out) - before.surprise(task.text.held_out)), rel=1e-3
    )
    assert [row["answer"] for row in found.records] == [after(r.prompt) for r in requests]
    assert [row["answer_now"] for row in found.records] == [
        models[i // 2](r.prompt) for i, r in enumerate(requests)
    ]
    assert [(row["edit"], row["step"]) for row in found.records] == [(i, i // 2) for i in range(6)]
    assert len(found.curves["retention"]) == 6
    assert json.dumps(found.records)


def test_teacher_forced_metrics_and_divergence_are_those_of_plain_forward_passes(edited, language):
    process, before, models = edited
    requests, after = process.stream.requests, models[-1]
    metrics = evaluate_stream(process.task, process.decoder.journal, requests, 2).metrics

    def expected(prompt, target):
        return after.accuracy(prompt, list(language.encode(prompt, target).answer))

    assert metrics["tf_efficacy"] == pytest.approx(
        mean([expected(r.prompt, r.target) for r in requests])
    )
    assert metrics["tf_generalization"] == pytest.approx(
        mean([mean([expected(p, r.target) for p in r.test_rephrases]) for r in requests])
    )
    preserved, divergences = [], []
    for request in requests:
        own = [(q.prompt, before.tokens(q.prompt)) for q in request.near + request.far]
        preserved.append(mean([after.accuracy(*text) for text in own]))
        old, new = ([one.log_probabilities(*text) for text in own] for one in (before, after))
        divergences.append(
            mean([(o.exp() * (o - n)).sum(-1).mean() for o, n in zip(old, new, strict=True)])
        )
    assert metrics["tf_specificity"] == pytest.approx(mean(preserved))
    assert metrics["locality_kl"] == pytest.approx(mean(divergences), rel=1e-3)
    assert metrics["locality_kl"] > 0.01


def test_counterfact_compares_the_new_answer_with_the_old_one(edited, language):
    process, _, models = edited
    requests = process.stream.requests
    task = KnowledgeTask(
        "mine", language, SITES, lambda split, rng: requests, teacher_forced="probability"
    )
    metrics = evaluate_stream(task, process.decoder.journal, requests, 2).metrics

    def likely(prompt, answer):
        tokens = list(language.encode(prompt, answer).answer)
        rows = models[-1].log_probabilities(prompt, tokens)[range(len(tokens)), tokens]
        return float(rows[:-1].mean())  # without the end token

    assert metrics["tf_efficacy"] == pytest.approx(
        mean([likely(r.prompt, r.target) > likely(r.prompt, r.truth) for r in requests])
    )
    assert metrics["tf_generalization"] == pytest.approx(
        mean(
            [
                mean([likely(p, r.target) > likely(p, r.truth) for p in r.test_rephrases])
                for r in requests
            ]
        )
    )
    assert metrics["tf_specificity"] == pytest.approx(
        mean(
            [
                mean([likely(q.prompt, q.answer) > likely(q.prompt, r.target) for q in r.near])
                for r in requests
            ]
        )
    )
    assert metrics["capability"] is None


def test_an_unedited_model_has_perfect_locality_and_no_reliability(factworld):
    requests = factworld.stream("test", 4, random.Random(0)).requests
    found = evaluate_stream(
        factworld, EditJournal(factworld.decoder.base_hash), requests, 2
    ).metrics
    assert (found["reliability"], found["reliability_now"], found["forgetting"]) == (0, 0, 0)
    assert (found["locality"], found["locality_near"], found["locality_far"], found["leakage"]) == (
        1,
        1,
        1,
        0,
    )
    assert found["locality_kl"] == pytest.approx(0, abs=1e-5)
    assert found["perplexity_ratio"] == pytest.approx(1)
    assert (found["sites_per_edit"], found["harmonic_mean"]) == (0, 0)
    assert found["capability"] is None, "the tiny model knows no fact, so there is nothing to keep"


def test_a_fact_put_before_the_prompt_is_asked_with_it_and_compared_without(factworld, language):
    requests = factworld.stream("test", 4, random.Random(1)).requests
    journal = EditJournal(factworld.decoder.base_hash)
    texts = [f"{request.prompt} {request.target}." for request in requests]
    texts[3] = ""
    for step in range(2):
        journal.append(Prepend(tuple(texts[2 * step : 2 * step + 2]), step))
    found = evaluate_stream(factworld, journal, requests, 2)
    model = Generated(language.model, language)
    put = [f"{text} " if text else "" for text in texts]
    assert [row["answer"] for row in found.records] == [
        model(t + r.prompt) for t, r in zip(put, requests, strict=True)
    ]
    kept = [
        mean([same(model(t + q.prompt), model(q.prompt)) for q in r.near + r.far])
        for t, r in zip(put, requests, strict=True)
    ]
    assert kept[3] == 1
    assert found.metrics["locality"] == pytest.approx(mean(kept))
    assert found.metrics["locality_kl"] > 0
    assert found.metrics["sites_per_edit"] == 0
    assert found.metrics["perplexity_ratio"] == pytest.approx(1)


def test_records_say_why_a_request_was_left_out(factworld):
    requests = factworld.stream("test", 5, random.Random(0)).requests
    journal = EditJournal(factworld.decoder.base_hash)
    journal.append(Skip(1, "too long", 0), Skip(0, "subject not in the prompt", 2))
    found = evaluate_stream(factworld, journal, requests, 2)
    assert [record["skipped"] for record in found.records] == [
        None,
        "too long",
        None,
        None,
        "subject not in the prompt",
    ]
    unedited = evaluate_stream(factworld, EditJournal(factworld.decoder.base_hash), requests, 2)
    assert found.metrics == unedited.metrics


def test_sites_per_edit_counts_what_changed_something(factworld):
    requests = factworld.stream("test", 2, random.Random(0)).requests
    one, other = factworld.decoder.sites
    rows, columns = one.shape
    nothing = SiteEdit(
        one.name, Shift(), LowRankFactors(torch.zeros(rows, 1), torch.ones(1, columns)), 0
    )
    empty = Codebook(one.name, torch.zeros(0, columns), torch.zeros(0, rows), torch.zeros(0), 0)
    something = SiteEdit(other.name, Shift(), DenseUpdate(0.01 * torch.ones(other.shape)), 1)
    twice = SiteEdit(
        other.name, Shift(), LowRankFactors(torch.ones(rows, 1), 0.01 * torch.ones(1, columns)), 1
    )
    journal = EditJournal(factworld.decoder.base_hash, [nothing, empty, something, twice])
    assert evaluate_stream(factworld, journal, requests, 1).metrics["sites_per_edit"] == 0.5
    tensors = dict(factworld.decoder.current_tensors())
    replaced = {site.parameter: 1.01 * tensors[site.parameter] for site in (one, other)}
    journal.append(ReplaceTensors(replaced, 1))
    assert evaluate_stream(factworld, journal, requests, 1).metrics["sites_per_edit"] == 1


def test_a_journal_that_does_not_fit_is_an_error(factworld):
    requests = factworld.stream("test", 4, random.Random(0)).requests
    with pytest.raises(JournalError, match="use the same model and dtype"):
        evaluate_stream(factworld, EditJournal("0" * 64), requests, 2)
    for entry, message in (
        (Prepend(("a", "b"), 2), "has a step 2, but the stream ends after 2 steps"),
        (Prepend(("a",), 1), "step 1 prepends 1 texts to 2 requests"),
        (Skip(2, "too long", 1), "step 1 skips its request 2, and has 2 from 0 on"),
    ):
        journal = EditJournal(factworld.decoder.base_hash, [entry])
        with pytest.raises(JournalError, match=message):
            evaluate_stream(factworld, journal, requests, 2)


def test_metrics_of_a_model_that_has_collapsed_are_numbers(factworld):
    requests = factworld.stream("test", 2, random.Random(0)).requests
    site = factworld.decoder.sites[0]
    huge = SiteEdit(site.name, Shift(), DenseUpdate(torch.full(site.shape, 3e38)), 0)
    found = evaluate_stream(
        factworld, EditJournal(factworld.decoder.base_hash, [huge]), requests, 1
    ).metrics
    assert np.isfinite([value for value in found.values() if value is not None]).all()
    assert (found["perplexity_ratio"], found["locality_kl"], found["reliability"]) == (
        math.exp(700),
        700,
        0,
    )


def test_evaluation_leaves_the_task_as_it_was(factworld, edited):
    assert len(factworld.decoder.journal) == 0
    assert not any(delta.any() for delta in factworld.decoder.deltas)
    process = edited[0]
    assert not any("forward" in module.__dict__ for module in process.decoder.base.modules())


# --- real models and data -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.data(
    "lm/stories260k", "lm/babyllama", "editing/zsre_train_1k.json", "editing/counterfact-val.json"
)
@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("stories260k", "knowledge/zsre"),
        pytest.param("stories260k", "knowledge/counterfact", marks=pytest.mark.slow),
        ("stories260k", "knowledge/factworld"),
        pytest.param("babyllama", "knowledge/zsre", marks=pytest.mark.slow),
        pytest.param("babyllama", "knowledge/counterfact", marks=pytest.mark.slow),
    ],
)
def test_real_models_and_files_go_through_a_stream(model, name):
    """Twenty edits by the training-free update, evaluated."""
    task = make_task(name, model=str(Path(os.environ["EDITGYM_DATA"]) / "lm" / model))
    process = LifelongProcess(task, LifelongSettings(10, 2, "test"))
    process.reset(0)
    while not process.over:
        process.step(process.directions)
    found = evaluate_stream(task, process.decoder.journal, process.stream.requests, 10)
    assert len({row["subject"] for row in found.records}) == 20
    assert np.isfinite([value for value in found.metrics.values() if value is not None]).all()
    assert found.metrics["sites_per_edit"] == len(process.sites)
    assert found.metrics["locality_kl"] > 0
    assert all(
        0 <= found.metrics[key] <= 1
        for key in ("reliability", "locality", "tf_efficacy", "tf_specificity")
    )
    assert (found.metrics["portability"] is None) == (name != "knowledge/factworld")
    assert (
        max(
            len(task.language.encode(request.prompt, request.target).ids)
            for request in process.stream.requests
        )
        <= task.language.context
    )


# --- less than everything -------------------------------------------------------------------------


@pytest.mark.parametrize("scorer", SCORERS)
def test_what_takes_passes_of_its_own_can_be_left_out(edited, language, monkeypatch, scorer):
    process, _, _ = edited
    requests, journal = process.stream.requests, process.decoder.journal
    task, by_shares = (
        KnowledgeTask(
            "mine",
            language,
            SITES,
            lambda split, rng: requests,
            teacher_forced=compared,
            scorer=scorer,
            max_new_tokens=20,
        )
        for compared in ("probability", "accuracy")
    )
    whole = evaluate_stream(task, journal, requests, 2)
    read = []
    monkeypatch.setattr(
        language.model.base_model,
        "forward",
        counted(read, language.model.base_model.forward),
    )
    evaluate_stream(task, journal, requests, 2)
    everything = sum(read)
    read.clear()
    brief = evaluate_stream(task, journal, requests, 2, thorough=False)
    assert sum(read) < 0.6 * everything
    left_out = {"perplexity_ratio", "capability", "known_kept", "locality_kl", "forgetting"}
    left_out |= {"leakage", "locality_truth", "reliability_now"}
    others = tuple(f"_{name}" for name in SCORERS if name != scorer)
    left_out |= {name for name in whole.metrics if name.endswith(others)}
    assert len(left_out) == 8 + 6 * len(others)
    assert all(brief.metrics[name] is None for name in left_out)
    by_tokens = evaluate_stream(by_shares, journal, requests, 2).metrics
    for name, value in whole.metrics.items():
        if name.startswith("tf_"):
            assert brief.metrics[name] == pytest.approx(by_tokens[name])
        elif name not in left_out:
            assert brief.metrics[name] == value, name
    answers = [[row["answer"] for row in one.records] for one in (whole, brief)]
    assert all(long.startswith(short) for long, short in zip(*answers, strict=True))
    assert (answers[0] == answers[1]) == (scorer == "contains"), "it has to read to the end"


def counted(tokens, forward):
    """The forward, which notes how many tokens it reads."""

    @functools.wraps(forward)
    def look(*args, **named):
        tokens.append(named["input_ids"].numel())
        return forward(*args, **named)

    return look


def test_tasks_with_other_sites_share_what_the_unedited_model_says(language, monkeypatch):
    prompts = [f"Nobody {index} lives in" for index in range(4)]
    first, second = (
        KnowledgeTask("mine", language, [site], lambda split, rng: ())
        for site in ("model.layers.1.mlp.down_proj", "model.layers.2.mlp.down_proj")
    )
    said = first.original_answers(prompts)
    monkeypatch.setattr(language, "greedy", lambda prompts, *_, **__: [[]] * len(prompts[:0]))
    assert second.original_answers(prompts) == said


def test_a_stream_that_is_too_short_says_that_subjects_repeat(make):
    task = make([ask("Ada"), ask("Ada", "Rome"), ask("Ada", "Lima"), ask("Bob")])
    with pytest.raises(
        ValueError, match=r"has 2 that can .*about its subject is in the stream': 2"
    ):
        task.stream("test", 3, random.Random(0))


@pytest.mark.parametrize("argument", ["requests", "test_requests"])
def test_a_file_that_cannot_be_read_is_named_with_its_argument(tmp_path, argument):
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.md"
    good.write_text('{"subject": "Ada", "prompt": "Ada lives in", "target": "Oslo"}\n')
    bad.write_text("# Facts\n")
    files = {"requests": str(good), "test_requests": str(good), argument: str(bad)}
    with pytest.raises(DataError, match=rf"^{argument}: .*bad\.md is neither a JSON list"):
        make_task("knowledge/custom", model="factlm", **files)


def test_what_was_left_out_of_a_file_is_told_where_too_few_are_left(tmp_path):
    file = tmp_path / "own.jsonl"
    record = {"subject": "Ada", "prompt": "Ada lives in", "target": "Oslo", "truth": "Oslo"}
    file.write_text(json.dumps(record))
    files = {"requests": str(file), "test_requests": str(file)}
    task = make_task("knowledge/custom", model="factlm", **files)
    with pytest.raises(
        ValueError, match=r"0 that can be used; of own.jsonl 1 \(target equal to tr"
    ):
        task.stream("test", 1, random.Random(0))


@pytest.mark.parametrize(
    ("split", "count", "said"),
    [
        ("test", 2, r"1 that can be used; give horizon=1, edits_per_step=1$"),
        ("policy", 1, r"policy 0 and validation 0 records: split=\"test\" edits the facts of"),
    ],
)
def test_where_one_file_is_both_the_error_says_what_is_short(split, count, said, tmp_path):
    file = tmp_path / "own.jsonl"
    file.write_text('{"subject": "Ada", "prompt": "Ada lives in", "target": "Oslo"}\n')
    files = {"requests": str(file), "test_requests": str(file)}
    task = make_task("knowledge/custom", model="factlm", **files)
    with pytest.raises(ValueError, match=said):
        task.stream(split, count, random.Random(0))
