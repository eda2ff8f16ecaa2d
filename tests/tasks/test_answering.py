"""Answers that go on from what was read, against each question asked alone by the plain model."""

import random

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from editgym.data.facts import Question
from editgym.models.language import LanguageModel
from editgym.tasks.knowledge.exam import Exam
from editgym.tasks.knowledge.interview import Interview
from editgym.tasks.knowledge.task import KnowledgeTask
from editgym.weights import LowRankFactors, Shift, SiteEdit

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
}
GROUPED = SMALL | {"num_key_value_heads": 1, "head_dim": 8}
# Windows of attention that end inside the texts, inside the longer ones, and far behind them.
MODELS = {
    "llama": ("llama", GROUPED, "model.layers.[12].mlp.down_proj"),
    "qwen3": ("qwen3", GROUPED, "model.layers.[12].mlp.down_proj"),
    "short_window": ("gemma2", GROUPED | {"sliding_window": 5}, "model.layers.[12].mlp.down_proj"),
    "middle": ("mistral", GROUPED | {"sliding_window": 18}, "model.layers.[12].mlp.down_proj"),
    "window": ("gemma2", GROUPED | {"sliding_window": 96}, "model.layers.[12].mlp.down_proj"),
    "gpt2": (
        "gpt2",
        {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 128},
        "transformer.h.[12].mlp.c_proj",
    ),
    "local": (
        "gpt_neo",
        {
            "hidden_size": 16,
            "num_layers": 3,
            "num_heads": 2,
            "attention_types": [[["global", "local", "global"], 1]],
            "window_size": 20,
            "max_position_embeddings": 128,
        },
        "transformer.h.[12].mlp.c_proj",
    ),
    "no_positions": (
        "bloom",
        {"hidden_size": 16, "n_layer": 3, "n_head": 2},
        "transformer.h.[12].mlp.dense_4h_to_h",
    ),
    "opt": (
        "opt",
        SMALL | {"ffn_dim": 24, "word_embed_proj_dim": 16},
        "model.decoder.layers.[12].fc2",
    ),
}
OPENING = "Ada lives in Oslo and Bob lives in Rome, so near the sea it rains: {prompt}"
PROMPTS = ["Ada lives", "Bob lives near the old", "Eve", "Rain falls on the", "By trade Max is a"]


@pytest.fixture(params=MODELS)
def language(request, factworld_tokenizer):
    kind, settings, sites = MODELS[request.param]
    torch.manual_seed(3)
    own = {"vocab_size": len(factworld_tokenizer), "initializer_range": 0.4}
    config = AutoConfig.for_model(
        kind, bos_token_id=1, eos_token_id=2, pad_token_id=0, **own, **settings
    )
    model = AutoModelForCausalLM.from_config(config)
    language = LanguageModel(model.eval(), factworld_tokenizer)
    language.sites = [sites]
    return language


def asked(language, form):
    """A task that is asked in a form, and its decoder with an edit at every site."""
    task = KnowledgeTask("mine", language, language.sites, lambda split, rng: ())
    task = task.asked(Interview(prompt_format=form, max_new_tokens=6))
    decoder, generator = task.decoder.fresh(), torch.Generator().manual_seed(0)
    for site in decoder.sites:
        rows, columns = site.shape
        a, b = (torch.randn(shape, generator=generator) for shape in ((rows, 2), (2, columns)))
        decoder.apply(SiteEdit(site.name, Shift(), LowRankFactors(0.3 * a, b)))
    return task, decoder


@torch.no_grad()
def log_probabilities(decoder, prompt, answer):
    """Of an answer's tokens, by the plain model's pass over one text, and which are the best."""
    with decoder.active() as model:
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].float()
    own = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return own[range(len(answer)), list(answer)], own.argmax(-1) == torch.tensor(answer)


def mean_of(task, decoder, prompt, text):
    """The mean log-probability of what an answer says, and the share of its best tokens."""
    encoded = task.encode(prompt, text)
    said = [token not in task.asking.ending for token in encoded.answer]
    logs, best = log_probabilities(decoder, encoded.prompt, encoded.answer)
    return float(logs[said].mean()), float(best[said].float().mean())


def alone(task, decoder, prompt, expected):
    """The greedy answer to one prompt, read and decoded by itself, token by token."""
    encoded = task.encode(prompt, expected)
    ids, most = list(encoded.prompt), max(task.max_new_tokens, len(encoded.answer))
    said = []
    stops = task.asking.stops(expected)
    with decoder.active() as model, torch.no_grad():
        while len(said) < most and not (said and said[-1] in stops):
            logits = model(input_ids=torch.tensor([[*ids, *said]]), use_cache=False).logits
            said.append(int(logits[0, -1].argmax()))
    return task.asking.text(said, expected)


def expectations(task, decoder):
    """Questions: what the model says, what it leaves after its first words, and other answers."""
    found = []
    for prompt in PROMPTS:
        own = alone(task, decoder, prompt, "Oslo").split()
        rest = "the sea near Rome"
        found += [
            Question(prompt, " ".join(own) or "Oslo"),
            Question(prompt, " ".join([*own[:2], rest])),
            Question(prompt, " ".join([*own[:1], rest])),
            Question(prompt, "Oslo"),
            Question(prompt, "Oslo\nRome"),
        ]
    return found


@pytest.mark.parametrize("form", ["bare", "qa", OPENING])
def test_every_answer_and_number_is_that_of_the_question_asked_alone(language, form):
    task, decoder = asked(language, form)
    questions = expectations(task, decoder)
    random.Random(0).shuffle(questions)
    others = [["Rome", "the old sea", "Ada", "the"][: index % 5] for index in range(len(questions))]
    results = Exam(task, decoder).expecting(questions, beside=others)
    for question, result, beside in zip(questions, results, others, strict=True):
        assert result.answer == alone(task, decoder, question.prompt, question.answer)
        numbers = mean_of(task, decoder, question.prompt, question.answer)
        assert (result.log_probability, result.accuracy) == pytest.approx(numbers, abs=1e-4)
        wanted = [mean_of(task, decoder, question.prompt, other)[0] for other in beside]
        assert result.beside == pytest.approx(wanted, abs=1e-4)
    assert len({result.answer for result in results}) > 3


@pytest.mark.parametrize("form", ["bare", OPENING])
def test_what_should_stay_is_answered_as_alone_and_compared_with_other_answers(language, form):
    task, decoder = asked(language, form)
    prompts = [*PROMPTS, "Mia", "In Oslo"]
    others = [["Rome", "the old sea"] for _ in prompts]
    results = Exam(task, decoder).unchanged(prompts, prompts, ["Rome"] * len(prompts), others)
    for prompt, result, beside in zip(prompts, results, others, strict=True):
        ids, own = task.prompt_ids(prompt), task.original_answers([prompt])[0]
        assert result.answer == alone(task, decoder, prompt, "")
        wanted = [mean_of(task, decoder, prompt, other)[0] for other in beside]
        assert result.beside == pytest.approx(wanted, abs=1e-4)
        with torch.no_grad():
            texts = torch.tensor([[*ids, *own]])
            now, before = (
                model(input_ids=texts).logits[0, len(ids) - 1 : -1].log_softmax(-1)
                for model in (decoder_model(decoder), language.model)
            )
        divergence = (before.exp() * (before - now)).sum(-1).mean()
        assert result.divergence == pytest.approx(float(divergence), rel=1e-3, abs=1e-4)


def decoder_model(decoder):
    """The edited model as one that can be called."""

    def called(**named):
        with decoder.active() as model:
            return model(**named)

    return called


@pytest.mark.parametrize("language", ["llama", "gpt2"], indirect=True)
def test_a_prompt_is_read_once_for_all_that_is_asked_after_it(language):
    task, decoder = asked(language, "bare")
    read = []
    language.model.get_input_embeddings().register_forward_hook(
        lambda _module, inputs, _output: read.append(tuple(inputs[0].shape))
    )
    questions = [Question(prompt, "Oslo") for prompt in PROMPTS]
    longest = max(len(task.encode(prompt, "Oslo").ids) for prompt in PROMPTS)
    task.language.decoding.calls.goes_on_after(0)  # whether it goes on is found out once
    del read[:]
    Exam(task, decoder).expecting(questions, beside=[["the old sea"]] * len(questions))
    others = task.encode(PROMPTS[0], "the old sea").answer
    said = len(others) - len(task.asking.ending)
    assert read[:2] == [(len(PROMPTS), longest), (len(PROMPTS), said - 1)]
    assert {columns for _, columns in read[2:]} == {1}
    assert len(read) > 3
