"""What the unedited model answers is decoded once, whichever process asks."""

import pytest
import torch

from editgym.models.language import LanguageModel
from editgym.tasks.knowledge.interview import Interview
from editgym.tasks.knowledge.task import KnowledgeTask

SITES = ["model.layers.[23].mlp.down_proj"]
PROMPTS = ["Ada lives in", "By trade Bob is a", "Rain falls on the"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "answers"


@pytest.fixture
def asked(tiny_lm, cache):
    """`asked(change, **interview)`: a task as another process makes it, and what it decodes."""

    def made(change=lambda model: None, **interview):
        language, decoded = LanguageModel.load(tiny_lm), []
        change(language.model)
        task = KnowledgeTask("mine", language, SITES, lambda split, rng: ())
        greedy = language.greedy

        def look(prompts, *args, **named):
            decoded.extend(prompts)
            return greedy(prompts, *args, **named)

        language.greedy = look
        return task.asked(Interview.of(**interview)), decoded

    return made


def test_another_process_goes_on_with_what_was_decoded(asked, cache):
    first, decoded = asked()
    said = first.original_answers(PROMPTS[:2])
    assert len(decoded) == 2
    second, decoded = asked()
    assert second.original_answers([*PROMPTS[:2], *PROMPTS])[:2] == said
    assert decoded == [second.prompt_ids(PROMPTS[2])]
    third, decoded = asked()
    assert third.original_answers(PROMPTS) == second.original_answers(PROMPTS)
    assert decoded == []
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("otherwise", [{"prompt_format": "qa"}, {"max_new_tokens": 3}])
def test_who_asks_otherwise_decodes_anew(asked, otherwise):
    asked()[0].original_answers(PROMPTS)
    task, decoded = asked(**otherwise)
    task.original_answers(PROMPTS)
    assert len(decoded) == len(PROMPTS)


def test_other_weights_decode_anew(asked):
    def change(model):
        with torch.no_grad():
            model.model.norm.weight.mul_(1.01)

    asked()[0].original_answers(PROMPTS)
    task, decoded = asked(change)
    task.original_answers(PROMPTS)
    assert len(decoded) == len(PROMPTS)


@pytest.mark.parametrize(
    "torn", ['["Ada lives in", [1', '["Ada lives in"]', '["Ada lives in", ["x"]]', "7", "\0\0"]
)
def test_a_torn_line_is_passed_over_and_nothing_after_it_is_lost(asked, cache, torn):
    first, _ = asked()
    said = first.original_answers(PROMPTS[1:])
    (file,) = cache.iterdir()
    with file.open("a") as opened:
        opened.write(torn)
    second, decoded = asked()
    found = second.original_answers(PROMPTS)
    assert found[1:] == said
    assert decoded == [second.prompt_ids(PROMPTS[0])]
    third, decoded = asked()
    assert third.original_answers(PROMPTS) == found
    assert decoded == []


def test_where_nothing_can_be_written_answers_are_decoded(asked, cache):
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where a folder would be")
    task, decoded = asked()
    assert task.original_answers(PROMPTS) == task.original_answers(PROMPTS)
    assert len(decoded) == len(PROMPTS)
