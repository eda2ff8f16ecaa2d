"""GGUF files: what is read is what is in them, and a plain model of transformers."""

import hashlib
import sys
from pathlib import Path

import gguf_maker
import gymnasium as gym
import pytest
import torch
from gguf_maker import byte_level_bpe, tiny_llama, write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.harness.fingerprints import fingerprints
from editgym.models.language import LanguageModel, ModelError, shared_model
from editgym.models.reading import read_gguf
from editgym.weights import fingerprint

PROMPTS = [
    "The capital of Ada is",
    "Ada  lives\n\n1987  42 in",
    "<|im_start|>user\nnaïve 中文<|im_end|>",
]

KINDS = ("smollm", "gpt-2")


def logits(model, tokenizer, prompt="The capital of Ada is"):
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    return model(ids).logits


@pytest.mark.parametrize("tied", [True, False])
def test_unrounded_numbers_come_back_bitwise(tmp_path, tied):
    written = tiny_llama(tied)
    model, _ = read_gguf(write_gguf(tmp_path / "tiny.gguf", written, rounding="F32"))
    found = model.state_dict()
    assert found.keys() == written.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in written.state_dict().items())
    ids = torch.arange(20)[None]
    assert torch.equal(model(ids).logits, written(ids).logits)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


def test_rounded_numbers_are_near_and_of_float32(tiny_gguf):
    model, _ = read_gguf(tiny_gguf)
    written, found = tiny_llama().state_dict(), model.state_dict()
    assert {value.dtype for value in found.values()} == {torch.float32}
    name = "model.layers.1.self_attn.k_proj.weight"
    difference = (found[name] - written[name]).abs().max()
    assert 0 < difference < 0.1 * written[name].abs().max()
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_numbers_are_split_as_the_file_says(tmp_path):
    prompt = PROMPTS[1]
    expected = {kind: byte_level_bpe(kind == "smollm").encode(prompt).ids for kind in KINDS}
    assert expected["smollm"] != expected["gpt-2"]
    for kind in KINDS:
        path = write_gguf(tmp_path / f"{kind}.gguf", tiny_llama(), splitting=kind)
        _, tokenizer = read_gguf(path)
        assert tokenizer(prompt)["input_ids"] == expected[kind]


def test_the_tokenizer_is_the_files(tiny_gguf):
    model, tokenizer = read_gguf(tiny_gguf)
    for prompt in PROMPTS:
        assert tokenizer(prompt)["input_ids"] == byte_level_bpe().encode(prompt).ids
        assert tokenizer.decode(tokenizer(prompt)["input_ids"]) == prompt
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    # Llama's class has tokens 1 and 2 for these, which are others here.
    for config in (model.config, model.generation_config):
        assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (4, 5, 5)
    asked = [{"role": "user", "content": "Who?"}]
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"


def test_what_is_read_is_saved_and_is_the_same_model(tiny_gguf, tmp_path):
    model, tokenizer = read_gguf(tiny_gguf)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    its_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    read = AutoModelForCausalLM.from_pretrained(
        str(Path(tiny_gguf).parent), gguf_file="tiny.gguf", dtype=torch.float32
    )
    for prompt in PROMPTS:
        assert its_tokenizer(prompt)["input_ids"] == tokenizer(prompt)["input_ids"]
        expected = logits(read, tokenizer, prompt)
        assert torch.equal(logits(again, its_tokenizer, prompt), expected)
        assert torch.equal(logits(model, tokenizer, prompt), expected)
    assert its_tokenizer.chat_template == tokenizer.chat_template == gguf_maker.CHATML


def test_reading_draws_no_random_numbers(tiny_gguf):
    before = torch.get_rng_state()
    read_gguf(tiny_gguf)
    assert torch.equal(torch.get_rng_state(), before)


# --- model="file.gguf" ----------------------------------------------------------------------------


def test_a_file_is_a_model_by_its_path(tiny_gguf, tmp_path, monkeypatch):
    language = LanguageModel.load(tiny_gguf)
    assert not any(parameter.requires_grad for parameter in language.model.parameters())
    assert language.end_id == 5
    assert 5 in language.stop_ids
    assert language.context == 128
    half = LanguageModel.load(tiny_gguf, dtype="bfloat16")
    assert half.model.dtype == half.model.config.dtype == torch.bfloat16
    assert shared_model(tiny_gguf) is shared_model(tiny_gguf)
    monkeypatch.setenv("EDITGYM_DATA", str(Path(tiny_gguf).parent))
    monkeypatch.chdir(tmp_path)
    assert fingerprint(LanguageModel.load("tiny.gguf").model) == fingerprint(language.model)


def test_an_environment_edits_it_and_knows_its_hash(tiny_gguf, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(tiny_gguf).parent)
    arguments = {"model": "tiny.gguf", "edits_per_step": 1, "horizon": 1, "step_size": 1e-2}
    env = gym.make("editgym:LifelongLLMEdit-v0", split="test", **arguments)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    world = env.unwrapped
    found = fingerprints(env, arguments, world.journal)
    digest = hashlib.sha256(Path(tiny_gguf).read_bytes()).hexdigest()
    assert found["files"] == {"tiny.gguf": digest}
    assert found["model"] == fingerprint(read_gguf(tiny_gguf)[0])


def test_a_file_that_is_not_there_is_an_error():
    with pytest.raises(ModelError, match=r"there is no file 'no\.gguf', nor in .*"):
        LanguageModel.load("no.gguf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contents": b"no GGUF at all, but long enough to look like one"}, "cannot read"),
        ({"contents": b""}, "cannot read"),
        ({"torn": True}, "cannot read"),
        ({"architecture": "clip"}, "cannot read .*clip"),
        (
            {"left_out": ("blk.1.ffn_up.weight",)},
            r"lacks 1 of the weights .*model\.layers\.1\.mlp\.up_proj\.weight",
        ),
    ],
    ids=["other", "empty", "torn", "architecture", "weights"],
)
def test_a_file_that_transformers_cannot_read_is_an_error(tmp_path, change, message):
    path = tmp_path / "bad.gguf"
    contents, torn = change.pop("contents", None), change.pop("torn", False)
    if contents is None:
        write_gguf(path, tiny_llama(), **change)
        contents = path.read_bytes()
    path.write_bytes(contents[: len(contents) // 2] if torn else contents)
    with pytest.raises(ModelError, match=rf"model: .*bad\.gguf'? {message}|model: .*{message}"):
        LanguageModel.load(str(path))


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_a_missing_package_is_an_error_that_says_how_to_install_it(tiny_gguf, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ModelError, match=rf'package {package}, which .*: pip install "editgym\[gguf\]"$'
    ):
        LanguageModel.load(tiny_gguf)
