"""Facts in a journal: saved and read, undone and replayed, in memory and on disk."""

import json

import pytest
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from editgym.weights import (
    DiskJournal,
    EditableDecoder,
    EditJournal,
    ExportError,
    JournalError,
    Remember,
    Skip,
    TokenBatch,
    export_adapter,
    export_merged,
    find_sites,
)
from editgym.weights.state import EditedState, Remembered

SETTINGS = {
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "vocab_size": 50,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}
FIRST = Remember((("Ada lives in", "Oslo"), ("Bob plays", 'the "harp"\n')), 0.1 + 0.2, 0)
SECOND = Remember((("Zoë mag ☂", "日本"), ("Ada lives in", "Rome")), 1.0, 1)


@pytest.fixture
def decoder():
    model = LlamaForCausalLM(LlamaConfig(**SETTINGS)).eval().requires_grad_(False)
    sites = find_sites(model, ["model.layers.1.mlp.down_proj"])
    return EditableDecoder(model, sites, TokenBatch.of([([1, 2], [3])]))


def test_a_saved_journal_is_read_back_and_equal_ones_are_equal_files(tmp_path):
    journal = EditJournal("0" * 64, [FIRST, SECOND, Skip(2, "too long", 1)])
    one = journal.save(tmp_path / "one.safetensors")
    again = EditJournal.load(one)
    assert again.entries == journal.entries
    assert again.entries[0].threshold == 0.1 + 0.2
    assert again.save(tmp_path / "other.safetensors").read_bytes() == one.read_bytes()
    assert [entry.kind for entry in again] == ["remember", "remember", "skip"]


def test_a_journal_in_a_folder_holds_the_same(tmp_path):
    disk = DiskJournal("0" * 64, tmp_path / "steps")
    disk.append(FIRST)
    disk.append(SECOND)
    assert list(DiskJournal("0" * 64, disk.folder)) == [FIRST, SECOND]
    assert disk.undo() == [SECOND]
    assert list(DiskJournal("0" * 64, disk.folder)) == [FIRST]


def test_the_latest_answer_to_a_prompt_holds():
    state = EditedState().with_facts(FIRST).with_facts(SECOND)
    assert list(state.facts.items()) == [
        ("Bob plays", Remembered('the "harp"\n', 0.1 + 0.2)),
        ("Zoë mag ☂", Remembered("日本", 1.0)),
        ("Ada lives in", Remembered("Rome", 1.0)),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"facts": [["Ada lives in"]]}, "not a complete editgym journal"),
        ({"facts": [["Ada lives in", ""]]}, "not a complete editgym journal"),
        ({"facts": [["Ada lives in", 3]]}, "not a complete editgym journal"),
        ({"threshold": 1.5}, "not a complete editgym journal"),
        ({"threshold": None}, "not a complete editgym journal"),
    ],
)
def test_a_file_with_senseless_facts_is_an_error(tmp_path, change, message):
    file = EditJournal("0" * 64, [FIRST]).save(tmp_path / "journal.safetensors")
    with safe_open(str(file), framework="pt") as opened:
        content = json.loads(opened.metadata()["editgym"])
    content["entries"][0] |= change
    save_file({}, tmp_path / "bad.safetensors", metadata={"editgym": json.dumps(content)})
    with pytest.raises(JournalError, match=message):
        EditJournal.load(tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    ("facts", "threshold", "message"),
    [
        ((("Ada", ""),), 0.5, "facts must be a prompt and an answer each"),
        ((("", "Oslo"),), 0.5, "facts must be"),
        ((("Ada", "Oslo", "Rome"),), 0.5, "facts must be"),
        ((("Ada", "Oslo"),), -0.1, "threshold must be"),
        ((("Ada", "Oslo"),), float("nan"), "threshold must be"),
    ],
)
def test_what_cannot_be_remembered(facts, threshold, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Remember(facts, threshold)


def test_only_language_models_remember(network):
    with pytest.raises(ValueError, match="kind remember is an adapter of language models"):
        network.apply(FIRST)
    assert not network.remembered
    assert len(network.journal) == 0


def test_a_decoder_remembers_what_its_journal_holds(decoder, tmp_path):
    decoder.apply(FIRST)
    decoder.apply(SECOND)
    assert decoder.remembered["Ada lives in"].answer == "Rome"
    twin = decoder.fresh()
    assert not twin.remembered
    twin.replay(EditJournal.load(decoder.journal.save(tmp_path / "journal.safetensors")))
    assert list(twin.remembered.items()) == list(decoder.remembered.items())
    assert twin.branch().remembered is twin.remembered
    disk = decoder.fresh(tmp_path / "steps")
    disk.apply(FIRST)
    assert list(decoder.fresh(tmp_path / "steps").remembered) == ["Ada lives in", "Bob plays"]
    decoder.undo()
    assert list(decoder.remembered) == ["Ada lives in", "Bob plays"]
    decoder.rollback(0)
    assert not decoder.remembered


def test_facts_cannot_be_exported(decoder, tmp_path):
    pytest.importorskip("peft")
    decoder.apply(FIRST)
    with pytest.raises(ExportError, match="holds remember"):
        export_merged(decoder, tmp_path / "merged.safetensors")
    with pytest.raises(ExportError, match="is a remember"):
        export_adapter(decoder, tmp_path / "adapter")
    assert not list(tmp_path.iterdir())
