"""Asking a model: prompts in formats and answers as tokens, ends of answers, and places of
subjects.
"""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from editgym.models.asking import separator_after
from editgym.models.language import LanguageModel
from editgym.models.prompt_formats import FORMATS, PromptFormatError, prompt_format

TEXT = [
    "The capital of France is Paris.",
    "Q: Where does Ada live?\nA: In Oslo, she says.\n",
    "東京 and Ada Lovelace of St. Louis, U.S.",
]

# Templates in the shapes of six families, each with the tokens that end its turns.
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'system' %}<s>[INST] <<SYS>>\n{{ m.content }}\n<</SYS>>"
    "\n\n{% elif m.role == 'user' %}{% if messages[0].role != 'system' %}<s>[INST] {% endif %}"
    "{{ m.content.strip() }} [/INST]{% else %} {{ m.content.strip() }} </s>{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "<|begin|>{% for m in messages %}<|header|>{{ m.role }}<|close|>\n\n{{ m.content | trim }}"
    "<|eot|>{% endfor %}{% if add_generation_prompt %}<|header|>assistant<|close|>\n\n{% endif %}"
)
GEMMA = (
    "<bos>{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{% if role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<turn>{{ role }}\n{{ m.content | trim }}</turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
MISTRAL = (
    "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TEMPLATES = {
    "ChatML": (CHATML, "<|im_end|>", ["<|im_start|>", "<|im_end|>"]),
    "Llama-2": (LLAMA_2, "</s>", ["<s>", "</s>"]),
    "Llama-3": (LLAMA_3, "<|eot|>", ["<|begin|>", "<|header|>", "<|close|>", "<|eot|>"]),
    "Gemma": (GEMMA, "</turn>", ["<bos>", "<turn>", "</turn>"]),
    "Mistral": (MISTRAL, "</s>", ["<s>", "</s>"]),
    "Phi": (PHI, "<|end|>", ["<|user|>", "<|assistant|>", "<|end|>", "<|system|>"]),
}


def tokenizer_of(special=(), template=None):
    """A byte-level tokenizer; its end token is none of a chat's."""
    own = Tokenizer(models.BPE())
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end_of_text|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    own.train_from_iterator(TEXT, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own, eos_token="<|end_of_text|>")
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.chat_template = template
    return tokenizer


def language_of(tokenizer):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=256,
            initializer_range=0.5,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
        return LanguageModel(LlamaForCausalLM(config), tokenizer)


@pytest.fixture(scope="module")
def language():
    return language_of(tokenizer_of())


# --- formats --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("prompt", ["Where does Ada live?", " The capital is ", "one\ntwo"])
def test_a_chat_is_what_a_chat_client_sends(name, prompt):
    template, end, special = TEMPLATES[name]
    tokenizer = tokenizer_of(special, template)
    asking = language_of(tokenizer).asking(FORMATS["chat"])
    messages = [{"role": "user", "content": prompt}]
    sent = tokenizer.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=False
    )
    assert list(asking.prompt_ids(prompt)) == list(sent)
    encoded = asking.encode(prompt, "Paris")
    assert encoded.prompt == asking.prompt_ids(prompt)
    assert tokenizer.convert_ids_to_tokens(encoded.answer[-1]) == end
    assert tokenizer.decode(encoded.answer[:-1]) == "Paris"
    assert asking.stop_ids == {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(end)}
    assert asking.text(tokenizer("one\ntwo")["input_ids"]) == "one\ntwo"


def test_a_chat_may_have_a_system_message():
    tokenizer = tokenizer_of(TEMPLATES["ChatML"][2], CHATML)
    asking = language_of(tokenizer).asking(FORMATS["chat"], system="Be short.")
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Where?"},
    ]
    assert asking.rendered("Where?") == tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    gemma = language_of(tokenizer_of(TEMPLATES["Gemma"][2], GEMMA))
    with pytest.raises(PromptFormatError, match="refuses the messages: no system"):
        gemma.asking(FORMATS["chat"], system="Be short.")


def test_a_chat_needs_a_template_that_keeps_the_prompt(language):
    with pytest.raises(PromptFormatError, match='"chat": the model\'s tokenizer has no chat temp'):
        language.asking(FORMATS["chat"])
    with pytest.raises(PromptFormatError, match="leaves the prompt out"):
        language_of(tokenizer_of((), "always the same")).asking(FORMATS["chat"])


@pytest.mark.parametrize(
    ("name", "begins", "ends"),
    [
        ("bare", "", "Ada lives in"),
        ("qa", "Q: ", "\nQ: Ada lives in\nA:"),
        ("completion", "The number", "\nAda lives in"),
    ],
)
def test_what_stands_around_a_prompt(language, name, begins, ends):
    asking = language.asking(FORMATS[name])
    text = asking.rendered("Ada lives in")
    assert text.startswith(begins)
    assert text.endswith(ends)
    encoded = asking.encode("Ada lives in", "Oslo")
    last = language.tokenizer.decode(encoded.answer[-1:])
    assert last == ("<|end_of_text|>" if name == "bare" else "\n")
    assert language.tokenizer.decode(encoded.ids) == f"{text} Oslo{last}"


def test_a_format_of_ones_own(language):
    asking = language.asking(prompt_format("Say it: {prompt} ->"))
    assert asking.rendered("x") == "Say it: x ->"
    assert asking.rendered("x", [("y", "z")]) == "Say it: y z. x ->"
    assert asking.ending == (language.end_id,)
    for wrong in ("", "no slot", "{prompt} {prompt}", 3, None):
        with pytest.raises(PromptFormatError, match=r"prompt_format must be one of bare, qa, "):
            prompt_format(wrong)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bare", "Bob is in Rome. Eve is in Bonn. Ada is in"),
        ("qa", "white\nQ: Bob is in\nA: Rome\nQ: Eve is in\nA: Bonn\nQ: Ada is in\nA:"),
        ("completion", "white\nBob is in Rome\nEve is in Bonn\nAda is in"),
    ],
)
def test_solved_questions_stand_before_the_question(language, name, expected):
    asking = language.asking(FORMATS[name])
    solved = [("Bob is in", "Rome"), ("Eve is in", "Bonn")]
    assert asking.rendered("Ada is in", solved).endswith(expected)
    assert asking.encode("Ada is in", "Oslo", solved=solved).prompt == asking.prompt_ids(
        "Ada is in", solved
    )


# --- separators -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("Ada lives in", "Oslo", " "),
        ("Ada lives in ", "Oslo", ""),
        ("Ada lives in\n", "Oslo", ""),
        ("Ada (", "Oslo", ""),
        ('She said "', "Oslo", ""),
        ('He said "no"', "Oslo", " "),
        ("Ada's", "home", " "),
        ('("', "x", ""),
        ("“", "x", ""),
        ("首都は", "東京", ""),
        ("The capital is", "東京", ""),
        ("首都は", "Tokyo", " "),
        ("수도는", "서울", " "),
        ("A:", "Oslo", " "),
        ("", "Oslo", ""),
        ('"', "Oslo", ""),
    ],
)
def test_what_stands_between_a_prompt_and_its_answer(language, text, answer, expected):
    assert separator_after(text, answer) == expected
    if text:
        ids = language.asking().encode(text, answer, end=False).ids
        assert language.tokenizer.decode(ids) == f"{text}{expected}{answer}"


def test_a_separator_of_ones_own(language):
    asking = language.asking(separator=" = ")
    assert language.tokenizer.decode(asking.encode("x", "y", end=False).ids) == "x = y"
    assert language.asking(separator=" = ") is asking


def test_a_prompt_is_never_stripped(language):
    ids = language.asking().prompt_ids("  Ada lives in \n")
    assert language.tokenizer.decode(ids) == "  Ada lives in \n"


# --- the end of an answer -------------------------------------------------------------------------


def test_an_answer_ends_where_its_format_says(language):
    bare, qa = language.asking(), language.asking(FORMATS["qa"])
    ids = language.tokenizer("Oslo\nand more")["input_ids"]
    assert bare.text(ids) == qa.text(ids) == "Oslo"
    assert bare.text([*language.tokenizer(" Oslo ")["input_ids"], language.end_id, 5]) == "Oslo"
    assert language.end_id in bare.stop_ids & qa.stop_ids


def test_an_expected_answer_of_several_lines_is_read_to_its_end(language):
    asking = language.asking()
    ids = [*language.tokenizer("one\ntwo\nthree")["input_ids"], language.end_id]
    assert asking.text(ids, "first\nsecond") == "one\ntwo"
    assert asking.text(ids) == "one"
    assert asking.stops("a\nb") == {language.end_id}
    assert asking.stops("a") == asking.stop_ids


# --- subjects -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bare", "qa", "completion", "chat"])
@pytest.mark.parametrize("prompt", ["Ada of Ada Lovelace lives in", "  Where is Ada?  "])
def test_a_subjects_last_token_is_found_in_every_format(name, prompt):
    language = language_of(tokenizer_of(TEMPLATES["Llama-2"][2], LLAMA_2))
    asking = language.asking(FORMATS[name])
    for subject in ("Ada", "Ada Lovelace"):
        place = asking.subject_token(prompt, subject)
        if subject not in prompt:
            assert place is None
            continue
        before = language.tokenizer.decode(asking.prompt_ids(prompt)[: place + 1])
        assert before.endswith(subject)
        assert before.rstrip().endswith(prompt[: prompt.rfind(subject) + len(subject)].strip())
    assert asking.subject_token(prompt, "Ada ") == asking.subject_token(prompt, "Ada")
    assert asking.subject_token(prompt, " ") is None
    assert asking.subject_token(prompt, "Spider") is None
    assert asking.subject_token(prompt, "") is None
