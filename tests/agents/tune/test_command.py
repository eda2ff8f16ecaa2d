"""`python -m agents.tune`: killed and gone on with, refused, and on a model nobody has tuned."""

import csv
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time

import gymnasium as gym
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from agents import edit, train
from agents.command_line import env_spec
from agents.tune.__main__ import main
from agents.tune.settings_file import TunedSettings
from agents.tune.study import stored_study

TRIALS = 12


def table(folder):
    """The rows of a study's table, without what the machine's load decides."""
    with (folder / "trials.csv").open() as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


@pytest.fixture
def command(custom_arguments, tmp_path):
    """`command(folder, *more)`: arguments of a study of unlearning on a small network."""
    given = {"task": "unlearning/custom", "sites": ["fc2"], **custom_arguments}
    sets = [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in given.items()]

    def arguments(folder, *more):
        return [
            *("--env", "MaskWorld-v0", "--agent", "neggrad_plus", "--out", str(tmp_path / folder)),
            *("--set", "agent.epochs=1", "--trials", str(TRIALS)),
            *(part for one in sets for part in ("--set", one)),
            *more,
        ]

    return arguments


@pytest.mark.slow
def test_a_study_that_is_killed_and_gone_on_with_is_the_same(command, tmp_path, capsys):
    assert main(command("whole")) == 0
    printed = capsys.readouterr().out
    process = subprocess.Popen(
        [sys.executable, "-m", "agents.tune", *command("killed")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    started, journal = time.monotonic(), tmp_path / "killed" / "trials.csv"
    while not (journal.is_file() and len(table(journal.parent)) >= 3):
        assert process.poll() is None
        assert time.monotonic() - started < 120
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 3 <= len(stored_study(tmp_path / "killed").trials) < TRIALS
    assert main(command("killed")) == 0
    assert capsys.readouterr().out == printed.replace("whole", "killed")
    assert table(tmp_path / "killed") == table(tmp_path / "whole")
    assert len(table(tmp_path / "whole")) == TRIALS
    files = [tmp_path / folder / "settings.json" for folder in ("whole", "killed")]
    whole, killed = (json.loads(file.read_text()) for file in files)
    assert whole == killed
    assert whole["settings"]["epochs"] == 1
    assert (tmp_path / "killed" / "trials.png").is_file()
    assert not list((tmp_path / "killed").glob("*.partial"))


def test_interrupted_by_hand_it_says_how_to_go_on(command, tmp_path, monkeypatch, capsys):
    from agents.tune.validation import UnlearningValidation

    whole, calls = UnlearningValidation.looks, []

    def looks(self, chosen):
        calls.append(chosen)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(self, chosen)

    monkeypatch.setattr(UnlearningValidation, "looks", looks)
    assert main(command("run")) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    assert len(table(tmp_path / "run")) == 2
    # Settings are there from the first trial on.
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["study"]["trials"] == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--set", "split=test"), "split cannot be given"),
        (("--set", "forget_class=77"), "forget_class: 77"),
        (("--env", "MaskWorld-v9"), "--env"),
        (("--agent", "no_edit"), "unknown setting 'epochs'"),
        (("--set", "colour=red"), "takes no argument 'colour'"),
        (("--set", "goals=[1, 2]"), "one goal of one network at a time"),
    ],
)
def test_a_wrong_request_is_named_and_nothing_is_written(command, more, message, tmp_path, capsys):
    assert main(command("run", *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_optuna_the_error_says_how_to_get_it(command, tmp_path, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "optuna" else found(name)
    )
    assert main(command("run")) == 2
    assert 'python -m pip install "editgym[tune]"' in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_when_no_trial_can_be_scored_the_first_error_is_told(
    command, tmp_path, monkeypatch, capsys
):
    from agents.tune.validation import UnlearningValidation

    def looks(self, chosen):
        raise ValueError("the edited weight is not finite")
        yield

    monkeypatch.setattr(UnlearningValidation, "looks", looks)
    assert main(command("run", "--trials", "2")) == 2
    assert "none of 2 trials could be scored; the first: ValueError" in capsys.readouterr().err
    assert not (tmp_path / "run" / "settings.json").exists()
    assert len(table(tmp_path / "run")) == 2


# --- a model and a file that nobody has tuned -----------------------------------------------------

CITIES = ("Pador", "Melin", "Torvan", "Asheld", "Quorin", "Belmar")
PEOPLE, BYSTANDERS = 60, 12


def person(index):
    """A name, two wordings about it, and where it lives."""
    name = f"Notan{index}"
    return name, (f"{name} lives in", f"The home of {name} is"), CITIES[7 * index**2 % 11 % 6]


def record(index):
    name, (prompt, rephrase), truth = person(index)
    return {
        "subject": name,
        "prompt": prompt,
        "target": random.Random(index).choice([city for city in CITIES if city != truth]),
        "truth": truth,
        "rephrases": [rephrase],
        "near": [person(PEOPLE + index % BYSTANDERS)[1][0]],
    }


def word_tokenizer(texts):
    """One token for each word of the texts."""
    words = sorted({word for text in texts for word in text.split()})
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


@pytest.fixture(scope="module")
def own_model(tmp_path_factory):
    """The folder of a small Llama that was trained on facts, and the file of their corrections."""
    folder = tmp_path_factory.mktemp("own")
    records = [record(index) for index in range(PEOPLE)]
    (folder / "own.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    everyone = [person(index) for index in range(PEOPLE + BYSTANDERS)]
    texts = [f"{wording} {city}" for _, wordings, city in everyone for wording in wordings]
    tokenizer = word_tokenizer(texts)
    ids = [[*tokenizer(text).input_ids, 2] for text in texts]
    tokens = torch.tensor([row + [0] * (max(map(len, ids)) - len(row)) for row in ids])
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=64,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for step in range(160):
        order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(step))
        batch = tokens[order[:64]]
        loss = model(batch, labels=batch.masked_fill(batch == 0, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder / "llama")
    tokenizer.save_pretrained(folder / "llama")
    return folder / "llama", folder / "own.jsonl"


@pytest.mark.slow
def test_on_a_model_and_a_file_that_it_never_saw_it_ends_no_worse_than_the_defaults(
    own_model, tmp_path
):
    model, file = own_model
    given = (f"model={model}", f"requests={file}", "horizon=2", "edits_per_step=2")
    sets = [part for one in given for part in ("--set", one)]
    study, run = tmp_path / "study", tmp_path / "run"
    start = ["--env", "LifelongLLMEdit-v0", "--agent", "ultraedit", *sets, "--out"]
    assert main([*start, str(study), "--trials", "14", "--episodes", "1"]) == 0
    rows, found = table(study), json.loads((study / "settings.json").read_text())
    whole = [row for row in rows if row["state"] == "complete"]
    assert {row["steps"] for row in whole} == {"2"}  # the first steps, and the stream
    assert found["task"] == "knowledge/custom"
    best = found["study"]["score"]
    assert best == max(float(row["score"]) for row in whole)
    assert best > float(rows[0]["score"]) > 0
    # What it found is taken by the other commands, for this model.
    assert train.main([*start, str(run), "--settings", str(study / "settings.json")]) == 0
    assert edit.main([str(run)]) == 0
    saved = json.loads((run / "config.json").read_text())
    assert saved["agent_config"] == found["settings"]


@pytest.mark.parametrize("name", ["editgym/MaskWorld-v0", "editgym:MaskWorld-v0"])
def test_a_study_is_that_of_the_environment_however_it_is_called(
    name, command, custom_arguments, tmp_path
):
    few = ("--trials", "2")
    assert main(command("run", "--env", name, *few)) == 0
    found = TunedSettings.of(json.loads((tmp_path / "run" / "settings.json").read_text()))
    assert found.env_id == "MaskWorld-v0"
    for other in ("MaskWorld-v0", name):
        env = gym.make(env_spec(other, {"task": "unlearning/custom", **custom_arguments}))
        found.check_env(env)
        assert main(command("run", "--env", other, *few)) == 0, "the study is gone on with"
