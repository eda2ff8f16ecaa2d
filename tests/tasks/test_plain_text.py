"""Plain text: files, the model's own samples, FactWorld's; and what a model knows."""

import random
from types import SimpleNamespace

import pytest

from editgym.data.errors import DataError
from editgym.data.facts import EditRequest, Question
from editgym.models.language import LanguageModel
from editgym.paths import cache_folder
from editgym.tasks.knowledge import known_facts as facts_module
from editgym.tasks.knowledge import own_samples as samples_module
from editgym.tasks.knowledge.exam import Exam
from editgym.tasks.knowledge.general import general_knowledge, perplexity_ratio
from editgym.tasks.knowledge.interview import Interview
from editgym.tasks.knowledge.known_facts import known_facts
from editgym.tasks.knowledge.own_samples import own_samples
from editgym.tasks.knowledge.plain_text import HELD_OUT_TOKENS, FactWorldText, FileText, found_files
from editgym.tasks.knowledge.task import KnowledgeTask
from editgym.weights.language import graph_size

SITES = ["model.layers.[23].mlp.down_proj"]


@pytest.fixture(scope="module")
def language(tiny_lm):
    return LanguageModel.load(tiny_lm)


@pytest.fixture
def write(tmp_path):
    """`write(passages, name)`: a text file of passages."""

    def written(passages, name="own.txt"):
        path = tmp_path / name
        path.write_text("\n\n".join(passages), encoding="utf-8")
        return path

    return written


def passages(count=500, seed=0):
    words = ["rain", "falls", "on", "the", "hill", "and", "Ada", "sings", "home", "again"]
    rng = random.Random(seed)
    return [f"{index} " + " ".join(rng.choices(words, k=12)) for index in range(count)]


def test_some_passages_are_held_out_and_the_same_ones_every_time(language, write):
    path = write(passages())
    text, again = (FileText([path], language) for _ in range(2))
    rest = list(text.passages())
    assert sorted([*text.held_out, *rest]) == sorted(passages())
    assert not set(text.held_out) & set(rest)
    counts = [len(language.prompt_ids(one)) for one in text.held_out]
    assert sum(counts) >= HELD_OUT_TOKENS > sum(counts[:-1])
    assert (again.held_out, again.hash) == (text.held_out, text.hash)
    assert rest == [one for one in passages() if one in set(rest)], "in the file's order"
    assert FileText([write(passages(501), "b.txt")], language).hash != text.hash


def test_contexts_are_beginnings_of_what_is_not_held_out(language, write):
    text = FileText([write(passages())], language)
    found = text.contexts(20, "a seed")
    assert found == text.contexts(20, "a seed") != text.contexts(20, "another")
    starts = {" ".join(one.split()[:10]) + "." for one in text.passages()}
    assert set(found) <= starts


def test_long_passages_are_cut_and_several_files_are_one_text(language, write):
    long = write([" ".join(f"w{index}" for index in range(300)), "", "  "], "long.txt")
    text = FileText([long, write(passages())], language)
    every = [*text.passages(), *text.held_out]
    assert len(every) == 503
    assert max(len(one.split()) for one in every) == 128


def test_bad_texts_are_refused(language, write, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"own\.txt has \d+ tokens; 4,000 or more are needed"):
        FileText([write(passages(5))], language)
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(DataError, match="is no plain text in UTF-8"):
        FileText([binary], language)
    monkeypatch.setenv("EDITGYM_DATA", str(tmp_path))
    assert found_files(["own.txt"]) == [tmp_path / "own.txt"]
    with pytest.raises(DataError, match=r"text: no file at missing\.txt nor at"):
        found_files(["missing.txt"])


def task_of(language, **named):
    interview = named.pop("interview", {})
    task = KnowledgeTask("mine", language, SITES, lambda split, rng: (), **named)
    return task.asked(Interview.of(**interview))


def test_a_task_reads_the_text_that_it_is_given(language, write):
    path = write(passages())
    task = task_of(language, interview={"text": str(path)})
    assert task.text.hash == FileText([path], language).hash
    assert task.text is task.text
    assert isinstance(task_of(language).text, FactWorldText)
    factworld = task_of(language, text="samples", interview={"text": "factworld"})
    assert isinstance(factworld.text, FactWorldText)


def test_a_models_own_samples_are_drawn_once(language, monkeypatch, tmp_path):
    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path))
    monkeypatch.setattr(samples_module, "SAMPLED_TOKENS", 6_000)
    monkeypatch.setattr(samples_module, "_LONGEST", 40)
    task = task_of(language, text="samples")
    text = task.text
    (path,) = (tmp_path / "text").iterdir()
    count = sum(len(language.prompt_ids(one)) for one in [*text.passages(), *text.held_out])
    assert count >= 4_000
    monkeypatch.setattr(samples_module, "_drawn", lambda *_: pytest.fail("drawn twice"))
    assert task_of(language, text="samples").text.hash == text.hash
    assert own_samples(language) == path


def test_drawing_that_was_interrupted_goes_on(language, monkeypatch, tmp_path):
    monkeypatch.setattr(samples_module, "SAMPLED_TOKENS", 6_000)
    monkeypatch.setattr(samples_module, "_LONGEST", 40)
    monkeypatch.setattr(samples_module, "_AT_ONCE", 16)
    sampled, calls = language.sampled, []

    def counted(*args, **named):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return sampled(*args, **named)

    monkeypatch.setattr(language, "sampled", counted)
    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path / "one"))
    with pytest.raises(KeyboardInterrupt):
        own_samples(language)
    interrupted = own_samples(language)
    drawn = len(calls) - 1
    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path / "other"))
    whole = own_samples(language)
    assert len(calls) == 1 + 2 * drawn, "what had been drawn was drawn again"
    assert interrupted.read_bytes() == whole.read_bytes()
    assert [path.name for path in interrupted.parent.iterdir()] == [whole.name]


def test_passages_of_one_token_are_left_out_of_what_perplexity_is_measured_on(
    language, monkeypatch
):
    task, whole = task_of(language), language.prompt_ids
    long = list(task.text.held_out)[:2]
    monkeypatch.setattr(language, "prompt_ids", lambda text: whole(text)[1:])  # no start token
    monkeypatch.setattr(type(task), "text", SimpleNamespace(held_out=["a", *long, "b", "c"]))
    monkeypatch.setattr(graph_size, "_TOKENS_AT_ONCE", 1)
    counts = [len(batch) for batch in task.held_out_batches()]
    assert counts == [1, 1]


def test_perplexity_is_that_of_the_held_out_text_and_the_unedited_models_is_kept(
    language, monkeypatch, tmp_path
):
    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path))
    monkeypatch.setattr(language, "numbers", {})
    task = task_of(language)
    assert perplexity_ratio(task, task.decoder.fresh()) == pytest.approx(1)
    ((name, nats),) = language.numbers.items()
    language.numbers[name] = nats - 1.0
    assert perplexity_ratio(task, task.decoder.fresh()) == pytest.approx(2.718282, rel=1e-5)
    language.numbers.clear()
    (file,) = (tmp_path / "perplexity").iterdir()
    assert perplexity_ratio(task, task.decoder.fresh()) == pytest.approx(1)
    assert language.numbers[name].dtype == nats.dtype
    assert language.numbers[name] == nats, "not bitwise what was computed"
    file.write_text("torn {")
    language.numbers.clear()
    assert perplexity_ratio(task, task.decoder.fresh()) == pytest.approx(1)
    assert float(file.read_text()) == float(nats)


# --- what the model knows -------------------------------------------------------------------------


@pytest.fixture
def knowing(language, monkeypatch, tmp_path):
    """A task whose files tell 60 facts, of which the model knows every second."""
    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path))
    prompts = [f"Person{index} lives in" for index in range(60)]
    said = language.greedy([language.prompt_ids(prompt) for prompt in prompts])
    first = {ids[0] for ids in said}
    # Or the random model's answers would never end.
    stops = language.stop_ids | ({one for ids in said for one in ids[1:]} - first)
    monkeypatch.setitem(vars(language.asking()), "stop_ids", stops)
    answers = task_of(language).original_texts(prompts)
    told = [
        Question(prompt, (answer or "x") if index % 2 else f"no {answer}")
        for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]
    return task_of(language, facts=lambda: told)


def test_facts_that_the_model_knows_and_nobody_edits(knowing, monkeypatch):
    found = known_facts(knowing, ())
    assert [int(fact.prompt[6:8]) for fact in found] == list(range(1, 60, 2))
    edited = EditRequest("Person11", "Person11 lives in", "Oslo", rephrases=("Person13 lives in",))
    (file,) = (cache_folder() / "known").iterdir()
    file.write_text("[[1")
    assert known_facts(knowing, ()) == found, "what is damaged is looked for anew"
    less = known_facts(knowing, [edited])
    assert len(less) == len(found) - 2
    monkeypatch.setattr(knowing, "original_texts", lambda *_: pytest.fail("asked twice"))
    assert known_facts(knowing, ()) == found
    several = [
        EditRequest(f"Person{index}", f"Person{index} lives in", "x") for index in range(10, 60)
    ]
    assert known_facts(knowing, several) == [], "fewer than 20 tell nothing"
    monkeypatch.setattr(facts_module, "MOST", 3)
    assert known_facts(knowing, ()) == found[:3]


def test_what_is_kept_of_what_was_known(knowing):
    exam = Exam(knowing, knowing.decoder.fresh())
    answers = [result.answer for result in exam.expecting(known_facts(knowing, ()))]
    right = [
        knowing.scorer.gives(answer, fact.answer)
        for answer, fact in zip(answers, known_facts(knowing, ()), strict=True)
    ]
    assert len(right) > 10
    assert all(right), "the unedited model knows what it knew"
    capability, kept = general_knowledge(exam, ())
    assert capability is None
    assert kept == sum(right) / len(right)


def test_a_file_that_has_changed_is_read_anew(language, write, tmp_path, monkeypatch):
    task = task_of(language)
    (tmp_path / "other").mkdir()
    path = write(passages(), "t.txt")
    first = task.asked(Interview.of(text=str(path))).text.hash
    assert task.asked(Interview.of(text=str(path))).text.hash == first
    write(passages(seed=1), "t.txt")
    second = task.asked(Interview.of(text=str(path))).text.hash
    write(passages(seed=2), "other/t.txt")
    found = []
    for folder in (tmp_path, tmp_path / "other"):
        monkeypatch.chdir(folder)
        found.append(task.asked(Interview.of(text="t.txt")).text.hash)
    assert found[0] == second
    assert len({first, *found}) == 3


def test_a_text_without_spaces_is_cut_too(language, write):
    rng = random.Random(0)
    path = write(["".join(rng.choices("abcdefgh", k=100_000))])
    assert len(FileText([path], language).held_out) > 0


def test_what_is_known_is_found_where_nothing_can_be_kept(knowing, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path / "file"))
    assert len(known_facts(knowing, ())) == 30
