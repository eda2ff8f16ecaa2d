"""Language models with their tokenizers: loading, tokens, greedy answers, and the training of
factlm."""

import json
import shutil

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
)

from editgym.data import factworld
from editgym.data.factworld import FactWorld
from editgym.models import factlm, train_factlm
from editgym.models.language import LanguageModel, ModelError, factlm_folder
from editgym.weights import (
    DenseUpdate,
    EditableDecoder,
    Shift,
    SiteEdit,
    TokenBatch,
    find_sites,
)

PROMPTS = [
    "Rosor works for",
    "The home of somebody with quite a long name is in",
    "x",
    "By trade Ada is a",
    "What is practised every evening is the",
    "A b c d e f g",
]


@pytest.fixture(scope="module")
def language(tiny_lm):
    return LanguageModel.load(tiny_lm)


def generated(language, prompt, max_new_tokens=8):
    """Greedy tokens by `generate`, prompt by prompt, up to the first stop token."""
    ids = torch.tensor([language.prompt_ids(prompt)])
    stops = sorted(language.stop_ids)
    out = language.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        eos_token_id=stops,
        max_new_tokens=max_new_tokens,
        pad_token_id=language.pad_id,
    )
    return out[0, ids.shape[1] :].tolist()


# --- greedy answers -------------------------------------------------------------------------------


def stopping_often(language):
    """The same model with a quarter of its tokens ending an answer, so that answers are of any
    length."""
    model = LanguageModel(language.model, language.tokenizer)
    model.asking().stop_ids = language.stop_ids | set(range(0, len(language.tokenizer), 4))
    return model


@pytest.mark.parametrize("often", [False, True])
@pytest.mark.parametrize("max_new_tokens", [1, 8])
def test_greedy_is_generate_for_prompts_of_any_length_together(language, often, max_new_tokens):
    model = stopping_often(language) if often else language
    expected = [generated(model, prompt, max_new_tokens) for prompt in PROMPTS]
    found = model.greedy([model.prompt_ids(prompt) for prompt in PROMPTS], max_new_tokens)
    assert found == expected
    if often and max_new_tokens > 1:
        assert len({len(answer) for answer in found}) > 1, (
            "answers that end and answers that do not"
        )
        assert any(answer[-1] in model.stop_ids for answer in found)


@pytest.mark.parametrize("batch_tokens", [1, 20, 8_192])
def test_how_prompts_are_batched_and_ordered_changes_no_answer(language, batch_tokens):
    ids = [language.prompt_ids(prompt) for prompt in PROMPTS]
    alone = [language.greedy([one])[0] for one in ids]
    assert language.greedy(ids, batch_tokens=batch_tokens) == alone
    assert language.greedy(ids[::-1], batch_tokens=batch_tokens) == alone[::-1]
    assert language.greedy([]) == []


def test_absolute_positions_are_those_of_the_prompt_without_its_padding(factworld_tokenizer):
    torch.manual_seed(2)
    model = GPT2LMHeadModel(
        GPT2Config(
            n_layer=2,
            n_embd=16,
            n_head=2,
            vocab_size=len(factworld_tokenizer),
            n_positions=32,
            bos_token_id=1,
            eos_token_id=2,
            initializer_range=0.5,
        )
    )
    language = LanguageModel(model, factworld_tokenizer)
    expected = [generated(language, prompt) for prompt in PROMPTS]
    assert language.greedy([language.prompt_ids(prompt) for prompt in PROMPTS]) == expected
    assert len({tuple(answer) for answer in expected}) > 3
    assert language.context == 32


TINY = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 32,
}


def tiny(tokenizer, kind, **settings):
    """A model of another kind with random weights."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.5,
        **settings,
    )
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("qwen2", TINY),
        ("qwen3", TINY),
        ("gemma2", TINY | {"sliding_window": 4}),
        ("gemma3_text", TINY | {"num_hidden_layers": 6, "sliding_window": 4}),
        ("bloom", {"hidden_size": 16, "n_layer": 2, "n_head": 2}),
        ("mpt", {"d_model": 16, "n_layers": 2, "n_heads": 2, "max_seq_len": 32}),
        (
            "falcon",
            {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "alibi": True},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_greedy_is_generate_for_other_models_of_attention(factworld_tokenizer, kind, settings):
    language = LanguageModel(tiny(factworld_tokenizer, kind, **settings), factworld_tokenizer)
    expected = [generated(language, prompt) for prompt in PROMPTS]
    assert language.greedy([language.prompt_ids(prompt) for prompt in PROMPTS]) == expected


BART = {
    "d_model": 16,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 32,
    "is_decoder": True,
    "init_std": 0.5,
}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("bart", BART),
        ("trocr", BART),
        ("opt", TINY | {"ffn_dim": 24, "word_embed_proj_dim": 16}),
        ("roberta", TINY | {"is_decoder": True, "max_position_embeddings": 40}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_models_with_positions_of_their_own_answer_as_they_do_without_padding_and_cache(
    factworld_tokenizer, kind, settings
):
    language = LanguageModel(tiny(factworld_tokenizer, kind, **settings), factworld_tokenizer)
    prompts = [language.prompt_ids(prompt) for prompt in PROMPTS]

    def by_whole_passes(prompt):
        ids = list(prompt)
        while len(ids) < len(prompt) + 6 and (
            len(ids) == len(prompt) or ids[-1] not in language.stop_ids
        ):
            ids.append(
                int(
                    language.model(input_ids=torch.tensor([ids]), use_cache=False)
                    .logits[0, -1]
                    .argmax()
                )
            )
        return ids[len(prompt) :]

    expected = [by_whole_passes(prompt) for prompt in prompts]
    assert language.greedy(prompts, 6) == expected
    assert len({tuple(answer) for answer in expected}) > 1


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("roberta", TINY | {"is_decoder": True, "max_position_embeddings": 40}),
        ("opt", TINY | {"ffn_dim": 24, "word_embed_proj_dim": 16}),
        ("gpt2", {"n_embd": 16, "n_head": 2, "n_positions": 9}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_context_is_as_many_tokens_as_the_model_takes(factworld_tokenizer, kind, settings):
    language = LanguageModel(
        tiny(factworld_tokenizer, kind, n_layer=2, **settings), factworld_tokenizer
    )
    ids = torch.full((1, language.context + 1), 5)
    language.model(input_ids=ids[:, 1:], use_cache=False)
    with pytest.raises((IndexError, RuntimeError)):
        language.model(input_ids=ids, use_cache=False)


STATES = {"state_size": 4, "hidden_size": 16, "num_hidden_layers": 2}
HEADS = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 4}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("mamba", STATES),
        (
            "jamba",
            TINY
            | {
                "attn_layer_period": 2,
                "attn_layer_offset": 1,
                "num_experts": 2,
                "mamba_d_state": 4,
                "use_mamba_kernels": False,
            },
        ),
        ("falcon_h1", TINY | HEADS | {"mamba_d_ssm": 32}),
        ("rwkv", {"hidden_size": 16, "num_hidden_layers": 2}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_model_with_more_than_keys_and_values_in_its_cache_is_refused(
    factworld_tokenizer, kind, settings
):
    model = tiny(factworld_tokenizer, kind, **settings)
    with pytest.raises(
        ModelError, match=rf"model: {type(model).__name__} is not supported .* a key-value cache"
    ):
        LanguageModel(model, factworld_tokenizer)


def test_answers_end_at_the_end_token_or_a_line_break(language):
    tokenizer = language.tokenizer
    line_break = tokenizer("a\nb", add_special_tokens=False)["input_ids"]
    broken = [token for token in line_break if "\n" in tokenizer.decode([token])]
    assert broken
    assert language.stop_ids >= {language.end_id, *broken}
    words = list(tokenizer(" Oslo is", add_special_tokens=False)["input_ids"])
    assert language.text([*words, language.end_id, *words]) == "Oslo is"
    assert language.text([*words, *broken, *words]) == "Oslo is"
    assert language.text(words) == "Oslo is"
    assert language.text([language.end_id]) == ""


def test_a_prompt_that_fills_the_context_has_as_much_of_an_answer_as_fits(language):
    prompt = [5] * (language.context - 3)
    assert language.context == 128
    assert len(language.greedy([prompt])[0]) <= 3
    assert language.greedy([[5] * language.context]) == [[]]


def test_a_prompt_that_fills_the_context_cuts_no_other_answer(language, monkeypatch):
    monkeypatch.setattr(LanguageModel, "stop_ids", frozenset({language.end_id}))
    long, short = [5] * (language.context - 2), list(language.prompt_ids(PROMPTS[0]))
    alone = language.greedy([short])[0]
    assert len(alone) > 2
    assert language.greedy([long, short]) == [language.greedy([long])[0], alone]


def test_answers_are_texts(language):
    assert language.answers(PROMPTS) == [
        language.text(generated(language, prompt)) for prompt in PROMPTS
    ]


# --- sampled answers ------------------------------------------------------------------------------


def drawn(language, prompts, seed=0, **settings):
    return language.sampled(
        [language.prompt_ids(prompt) for prompt in prompts],
        torch.Generator().manual_seed(seed),
        **settings,
    )


def test_equal_generators_draw_equal_answers_and_leave_torchs_own_alone(language):
    state = torch.get_rng_state()
    first, again, other = (drawn(language, PROMPTS, seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert torch.equal(torch.get_rng_state(), state)
    generator = torch.Generator().manual_seed(3)
    ids = [language.prompt_ids(prompt) for prompt in PROMPTS]
    assert language.sampled(ids, generator) == first
    assert language.sampled(ids, generator) != first, "a generator goes on"


@pytest.mark.parametrize("often", [False, True])
def test_a_low_temperature_is_greedy(language, often):
    model = stopping_often(language) if often else language
    greedy = model.greedy([model.prompt_ids(prompt) for prompt in PROMPTS], 6)
    assert drawn(model, PROMPTS, temperature=1e-4, max_new_tokens=6) == greedy
    assert drawn(model, PROMPTS, temperature=2.0, max_new_tokens=6) != greedy


def test_an_answer_ends_at_the_first_stop_token(language):
    model = stopping_often(language)
    found = drawn(model, PROMPTS * 4, temperature=3.0, max_new_tokens=5)
    assert len({len(answer) for answer in found}) > 2
    for answer in found:
        assert not set(answer[:-1]) & model.stop_ids
        assert len(answer) == 5 or answer[-1] in model.stop_ids
    assert drawn(model, []) == []


def test_several_samples_of_a_prompt_are_those_of_the_prompt_repeated(language):
    ids = [language.prompt_ids(prompt) for prompt in PROMPTS]
    repeated = [one for one in ids for _ in range(3)]
    found, expected = (
        language.sampled(asked, torch.Generator().manual_seed(1), 2.0, 5, samples)
        for asked, samples in ((ids, 3), (repeated, 1))
    )
    assert found == expected
    assert len({tuple(answer) for answer in found[:3]}) > 1
    with pytest.raises(ValueError, match="samples must be 1 or more, got 0"):
        language.sampled(ids, torch.Generator(), samples=0)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_tokens_come_as_often_as_the_model_says(language, temperature):
    """The most probable ones, within four standard deviations of a count."""
    prompt, count = PROMPTS[1], 2_000
    ids = torch.tensor([language.prompt_ids(prompt)])
    with torch.no_grad():
        chances = (language.model(ids).logits[0, -1] / temperature).softmax(-1)
    found = torch.tensor(
        drawn(language, [prompt] * count, temperature=temperature, max_new_tokens=1)
    ).flatten()
    for token in chances.argsort(descending=True)[:5].tolist():
        chance = float(chances[token])
        spread = 4 * (count * chance * (1 - chance)) ** 0.5
        assert abs(int((found == token).sum()) - count * chance) <= spread + 1


def test_a_second_token_is_drawn_given_the_first(language):
    """Of draws that begin with the most common first token, the second ones have the model's own
    frequencies."""
    prompt, temperature = PROMPTS[0], 0.5
    answers = [
        one
        for one in drawn(language, [prompt] * 1_000, temperature=temperature, max_new_tokens=2)
        if len(one) == 2
    ]
    firsts = [one[0] for one in answers]
    first = max(set(firsts), key=firsts.count)
    seconds = [one[1] for one in answers if one[0] == first]
    with torch.no_grad():
        logits = language.model(torch.tensor([[*language.prompt_ids(prompt), first]])).logits[0, -1]
    chances = (logits / temperature).softmax(-1)
    token, count = int(chances.argmax()), len(seconds)
    chance = float(chances[token])
    assert count > 50
    assert (
        abs(seconds.count(token) - count * chance) <= 4 * (count * chance * (1 - chance)) ** 0.5 + 1
    )


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_a_temperature_is_greater_than_zero(language, temperature):
    with pytest.raises(
        ValueError, match=f"temperature must be greater than 0, got {temperature!r}"
    ):
        drawn(language, PROMPTS, temperature=temperature)


# --- tokens ---------------------------------------------------------------------------------------


def test_prompt_and_answer_are_the_tokens_of_the_whole_text(language):
    encoded = language.encode("Ada lives in", "Oslo")
    whole = language.tokenizer("Ada lives in Oslo")["input_ids"]
    assert list(encoded.ids) == [*whole, language.end_id]
    assert encoded.prompt == language.prompt_ids("Ada lives in")
    assert encoded.prompt[0] == language.tokenizer.bos_token_id
    assert list(language.encode("Ada lives in", "Oslo", end=False).ids) == whole
    assert language.text(encoded.answer) == "Oslo"


class Merging:
    """A tokenizer of letters that merges "n O" into one token, and ends every text by itself."""

    eos_token_id, pad_token_id = 0, None

    def get_vocab(self):
        return {chr(token): token for token in range(128)}

    def __call__(self, text, add_special_tokens=True):
        pieces, letters = [], text.replace("n O", "~")
        for letter in letters:
            pieces.append(ord(letter))
        return {"input_ids": [1, *pieces, 0] if add_special_tokens else pieces}


def test_tokens_that_merge_across_the_border_stay_on_their_side(language):
    merging = LanguageModel(language.model, Merging())
    encoded = merging.encode("lives in", "Oslo")
    assert encoded.prompt == (1, *map(ord, "lives in"))
    assert encoded.answer == (*map(ord, " Oslo"), 0)
    unmerged = merging.encode("lives in", "Rome")
    assert unmerged.answer == (*map(ord, " Rome"), 0)
    assert merging.pad_id == 0


def test_what_is_remembered_is_forgotten_before_it_fills_the_memory(language, monkeypatch):
    from editgym.models import asking as module

    own = LanguageModel(language.model, language.tokenizer)
    monkeypatch.setattr(module, "_MOST_REMEMBERED", 3)
    expected = [language.prompt_ids(prompt) for prompt in PROMPTS]
    assert [own.prompt_ids(prompt) for prompt in PROMPTS] == expected
    assert len(own.asking()._ids) <= 3


# --- loading --------------------------------------------------------------------------------------


def test_a_folder_is_loaded_frozen_and_in_evaluation_mode(tiny_lm):
    language = LanguageModel.load(tiny_lm)
    assert not language.model.training
    assert not any(parameter.requires_grad for parameter in language.model.parameters())
    assert language.model.dtype == torch.float32
    assert LanguageModel.load(tiny_lm, dtype="bfloat16").model.dtype == torch.bfloat16
    assert language.device.type == "cpu"


@pytest.fixture
def broken(tiny_lm, tmp_path):
    """`broken(change)`: a copy of the tiny model's folder after `change(folder)`."""

    def make(change):
        folder = tmp_path / "model"
        shutil.copytree(tiny_lm, folder)
        change(folder)
        return str(folder)

    return make


def without_end_token(folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["eos_token"] = None
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def pickled(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"could be anything")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without_end_token,
            r"tokenizer: it has no end token \(eos_token\), .*set tokenizer\.eos_token",
        ),
        (pickled, r"model: .*model has no safetensors; other formats can run code"),
        (
            lambda folder: (folder / "config.json").unlink(),
            "is no Hugging Face folder: it has no config.json",
        ),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"torn"), "model: cannot load"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "model: cannot load"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "no such"}'),
            "model: cannot load",
        ),
    ],
    ids=["end token", "pickle", "config", "torn weights", "tokenizer", "architecture"],
)
def test_a_folder_that_lacks_something_is_an_error_that_says_what(broken, change, message):
    with pytest.raises(ModelError, match=message):
        LanguageModel.load(broken(change))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "factlm-10m",
            (
                r"'factlm-10m' is not there yet; make it: python -m editgym\.models\.train_factlm"
                r" --size 10m"
            ),
        ),
        (
            "factlm-1b",
            r"there is no 'factlm-1b'; there are factlm and factlm-1m, .*factlm-300m$",
        ),
        ("nobody/no-such-model", "cannot load 'nobody/no-such-model'"),
        ("./nowhere", r"there is no folder '\./nowhere'"),
    ],
)
def test_a_model_that_is_not_there_is_an_error(name, message):
    with pytest.raises(ModelError, match=message):
        LanguageModel.load(name)


def test_a_checkpoint_that_lacks_layers_of_its_config_is_an_error(tiny_lm, tmp_path):
    folder = shutil.copytree(tiny_lm, tmp_path / "deeper")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))
    with pytest.raises(ModelError, match=r"lacks \d+ of the weights .* model.layers.4"):
        LanguageModel.load(str(folder))


@pytest.mark.parametrize("dtype", ["int8", "fp16", "", None, 16])
def test_an_unknown_dtype_is_an_error(tiny_lm, dtype):
    with pytest.raises(
        ModelError, match=f"dtype must be .*float32, bfloat16, float16, got {dtype!r}"
    ):
        LanguageModel.load(tiny_lm, dtype=dtype)


def test_no_remote_code_is_run(broken):
    def remote(folder):
        config = json.loads((folder / "config.json").read_text())
        config |= {
            "model_type": "mine",
            "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"},
        }
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "mine.py").write_text("raise SystemExit('the code was run')")

    with pytest.raises(ModelError, match="cannot load"):
        LanguageModel.load(broken(remote))


# --- factlm ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["factlm", "factlm-gpt2"])
def test_the_bundled_models_know_their_world(name):
    language, world = LanguageModel.load(name), FactWorld()
    asked = world.known_facts()[::4]
    assert train_factlm.recall(language, asked) > 0.95
    assert 1e6 < sum(parameter.numel() for parameter in language.model.parameters()) < 2e6


@pytest.fixture
def small_world(monkeypatch):
    """A world of a hundred people and a model of one layer."""
    monkeypatch.setattr(
        factworld,
        "SPLIT_SIZES",
        {
            "policy": 40,
            "validation": 20,
            "test": 20,
            "reward_bystander": 10,
            "metric_bystander": 10,
        },
    )
    monkeypatch.setattr(
        train_factlm,
        "SIZES",
        {
            "tiny": factlm.Size(1, 32, 64, 2, epochs=3),
            "tiny-gpt2": factlm.Size(1, 32, 64, 2, epochs=3, gpt2=True),
        },
    )
    monkeypatch.setattr(train_factlm, "_FILLER_PER_EPOCH", 50)


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


@pytest.mark.slow
def test_an_interrupted_training_goes_on_to_the_same_model(small_world, tmp_path, monkeypatch):
    whole = train_factlm.train("tiny", tmp_path / "whole", seed=3)
    epochs, run = [], train_factlm._epoch

    def interrupted(*arguments):
        epochs.append(arguments[4][0])
        if len(epochs) == 2:
            raise KeyboardInterrupt
        return run(*arguments)

    monkeypatch.setattr(train_factlm, "_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_factlm.train("tiny", tmp_path / "parts", seed=3)
    assert [file.name for file in (tmp_path / "parts").iterdir()] == ["training.pt"]
    with pytest.raises(
        ValueError,
        match=r"--out: .* holds a training of tiny for 3 epochs with seed 3, not of tiny for 3",
    ):
        train_factlm.train("tiny", tmp_path / "parts", seed=4)
    with pytest.raises(ValueError, match=r"a training of tiny for 3 .* not of tiny-gpt2 for 3"):
        train_factlm.train("tiny-gpt2", tmp_path / "parts", seed=3)
    parts = train_factlm.train("tiny", tmp_path / "parts", seed=3)
    assert epochs == [0, 1, 1, 2]
    assert weights(tmp_path / "whole").keys() == weights(tmp_path / "parts").keys()
    assert all(
        torch.equal(tensor, weights(tmp_path / "parts")[name])
        for name, tensor in weights(tmp_path / "whole").items()
    )
    assert whole.answers(PROMPTS) == parts.answers(PROMPTS)
    assert not (tmp_path / "parts" / "training.pt").exists()


@pytest.mark.parametrize(("size", "kind"), [("tiny", "llama"), ("tiny-gpt2", "gpt2")])
def test_a_trained_size_is_found_by_its_name(size, kind, small_world, monkeypatch, tmp_path):
    from safetensors import safe_open

    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path))
    folder = factlm_folder(size)
    train_factlm.main(["--size", size, "--epochs", "1"])
    with safe_open(str(folder / "model.safetensors"), framework="pt") as file:
        written = json.loads(file.metadata()["editgym"])
        names = list(file.keys())
        assert {file.get_tensor(name).dtype for name in names} == {torch.float16}
    assert written == {"factworld_version": factworld.VERSION, "size": size, "world_seed": 0}
    assert AutoTokenizer.from_pretrained(folder).eos_token == "</s>"
    language = LanguageModel.load(f"factlm-{size}")
    assert language.model.config.model_type == kind
    assert language.answers(["Ada lives in"])


@pytest.mark.parametrize("epochs", [0, -1])
def test_epochs_that_teach_nothing_are_refused(epochs, small_world, tmp_path, capsys):
    asked = ["--size", "tiny", "--epochs", str(epochs), "--out", str(tmp_path / "out")]
    assert train_factlm.main(asked) == 2
    assert capsys.readouterr().err.startswith("error: epochs must be ")
    with pytest.raises(ValueError, match=r"^size must be one of 'tiny', 'tiny-gpt2', got 'huge'"):
        train_factlm.train("huge", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_model_that_cannot_be_written_whole_leaves_the_one_before(
    small_world, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("before")
    (out / "own.txt").write_text("somebody's")

    def disk_full(*_args, **_named):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(train_factlm, "save_file", disk_full)
        with pytest.raises(OSError, match="no space left"):
            train_factlm.train("tiny", out, epochs=1)
    there = sorted(file.name for file in out.iterdir())
    assert there == ["config.json", "own.txt", "training.pt"]
    assert (out / "config.json").read_text() == "before"
    monkeypatch.setattr(train_factlm, "_epoch", lambda *_: pytest.fail("trained again"))
    assert train_factlm.train("tiny", out, epochs=1).answers(PROMPTS)
    assert (out / "own.txt").read_text() == "somebody's"
    assert not (out / "training.pt").exists()


def test_recall_counts_exact_answers(language):
    asked = [
        factworld.Question(prompt, answer)
        for prompt, answer in zip(PROMPTS, language.answers(PROMPTS), strict=True)
    ]
    wrong = [factworld.Question(prompt, "no such answer") for prompt in PROMPTS[:3]]
    assert train_factlm.recall(language, asked) == 1
    assert train_factlm.recall(language, asked[:3] + wrong, batch_size=2) == 0.5


# --- prompts that begin alike ---------------------------------------------------------------------

OPENED = {
    "llama": TINY | {"max_position_embeddings": 64},
    "gemma2": TINY | {"sliding_window": 4, "max_position_embeddings": 64},
    # Longer than what is tried out, and shorter than the prompts with their answers.
    "mistral": TINY | {"sliding_window": 18, "max_position_embeddings": 64},
    "gemma3_text": TINY
    | {"num_hidden_layers": 6, "sliding_window": 4, "max_position_embeddings": 64},
    "gpt_neo": {
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 2,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 18,
        "max_position_embeddings": 64,
    },
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
    "opt": TINY | {"ffn_dim": 24, "word_embed_proj_dim": 16, "max_position_embeddings": 64},
    "bart": BART | {"max_position_embeddings": 64},
    "roberta": TINY | {"is_decoder": True, "max_position_embeddings": 64},
}


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("kind", OPENED)
def test_prompts_that_begin_alike_are_answered_as_each_alone(factworld_tokenizer, kind, samples):
    language = LanguageModel(tiny(factworld_tokenizer, kind, **OPENED[kind]), factworld_tokenizer)
    opening = list(range(20, 32))
    prompts = [[*opening, *range(40 + i, 41 + 2 * i)] for i in range(4)]
    alone = [language.greedy([prompt], 6)[0] for prompt in prompts]
    assert language.greedy(prompts, 6) == alone
    assert len({tuple(answer) for answer in alone}) > 1
    if samples > 1:
        draws = [
            language.sampled(
                texts, torch.Generator().manual_seed(0), 1e-6, max_new_tokens=6, samples=samples
            )
            for texts in (prompts, *([prompt] for prompt in prompts))
        ]
        assert draws[0] == [answer for own in draws[1:] for answer in own]
        assert draws[0] == [answer for answer in alone for _ in range(samples)]


def test_what_prompts_share_is_read_once(factworld_tokenizer):
    language = LanguageModel(
        tiny(factworld_tokenizer, "llama", **OPENED["llama"]), factworld_tokenizer
    )
    assert language.decoding.calls.continues
    seen = []
    language.model.register_forward_pre_hook(
        lambda _model, _args, named: seen.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    opening = list(range(20, 32))
    language.greedy([[*opening, *range(40, 41 + i)] for i in range(3)], 1)
    # Of the first prompt, the shortest, one token remains.
    assert seen == [(1, 12), (3, 3)]
    del seen[:]
    language.greedy([[*opening[:7], *range(40 + i, 43 + i)] for i in range(3)], 1)
    assert seen == [(3, 10)], "few tokens are not worth a pass of their own"


@pytest.fixture
def collapsed(tiny_lm):
    """A model, and a decoder whose edit makes its logits no numbers."""
    language = LanguageModel.load(tiny_lm)
    texts = TokenBatch.of([((1, 5, 6, 7), (8, 2)), ((1, 9), (10, 2))])
    (site,) = find_sites(language.model, ["model.layers.1.mlp.down_proj"])
    decoder = EditableDecoder(language.model, [site], texts)
    decoder.apply(SiteEdit(site.name, Shift(), DenseUpdate(torch.full(site.shape, 3e38))))
    return language, decoder


def test_how_a_model_is_called_does_not_depend_on_its_edits(collapsed):
    language, decoder = collapsed
    with decoder.active():
        language.answers(PROMPTS)
        calls = language.decoding.calls
        assert (calls.pads, calls.continues) == (True, True)


def test_nothing_is_drawn_from_a_collapsed_model(collapsed):
    language, decoder = collapsed
    prompts = [language.prompt_ids(prompt) for prompt in PROMPTS]
    with (
        decoder.active(),
        pytest.raises(FloatingPointError, match="the model has collapsed: its logits are not"),
    ):
        language.sampled(prompts, torch.Generator().manual_seed(0))
    assert len(language.sampled(prompts, torch.Generator().manual_seed(0))) == len(prompts)
