"""Sequence classifiers of other kinds than BERT: decoders, and models that take fewer tokens than
they say."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from editgym.models.language import ModelError
from editgym.models.sequence_classifiers import load_sequence_classifier

TEXTS = ["you are kind", "a much longer text than the first", "x"]
KINDS = {
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32},
    "llama": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
    },
    "roberta": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 34,
    },
}


@pytest.fixture
def classifier(tmp_path, factworld_tokenizer):
    """`classifier(kind, pad_id)`: the folder of a tiny one with that padding token in its
    config."""

    def make(kind, pad_id):
        tokenizer = factworld_tokenizer
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModelForSequenceClassification.from_config(
                AutoConfig.for_model(
                    kind,
                    vocab_size=len(tokenizer),
                    pad_token_id=pad_id,
                    bos_token_id=tokenizer.bos_token_id,
                    eos_token_id=tokenizer.eos_token_id,
                    num_labels=2,
                    initializer_range=0.5,
                    **KINDS[kind],
                )
            )
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return str(tmp_path)

    return make


@pytest.mark.parametrize("pad_id", [None, 5, 0])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_decoder_reads_each_texts_last_token_whatever_padding_its_config_has(
    classifier, kind, pad_id
):
    network, encode = load_sequence_classifier(classifier(kind, pad_id), 24, 1)
    assert encode.tokenizer.pad_token_id == 0
    together = network(encode(TEXTS))
    for text, logits in zip(TEXTS, together, strict=True):
        alone = network.model(torch.tensor([encode.tokenizer(text)["input_ids"]])).logits[0]
        torch.testing.assert_close(logits, alone, atol=1e-5, rtol=1e-5)


def test_a_length_that_the_position_embeddings_do_not_have_is_an_error(classifier):
    """RoBERTa's positions begin behind its padding token."""
    folder = classifier("roberta", 0)
    network, encode = load_sequence_classifier(folder, 33, 1)
    assert network(encode(TEXTS)).shape == (3, 2)
    with pytest.raises(ModelError, match=r"max_length 34: .* cannot read a text of so many tokens"):
        load_sequence_classifier(folder, 34, 1)


def test_a_text_ends_after_its_last_token_whatever_stands_in_it(classifier):
    _, encode = load_sequence_classifier(classifier("llama", 0), 8, 1)
    pad = encode.tokenizer.pad_token_id
    ids = torch.tensor([[5, 6, pad, pad], [5, pad, pad, 6], [pad, 5, 6, 7], [pad] * 4])
    assert encode.lengths(ids).tolist() == [2, 4, 4, 1]


def test_a_length_that_nobody_gave_is_what_the_classifier_takes(classifier):
    _, encode = load_sequence_classifier(classifier("llama", 0), None, 1)
    assert encode.length == 32
