"""Tensors of image classifiers of `transformers` under the names that they were saved with."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from editgym.models.image_classifiers import normalisation, untrained_classifier
from editgym.models.training import load_weights

VIT = ViTConfig(
    image_size=8, patch_size=4, num_channels=1, hidden_size=16, num_hidden_layers=2,
    num_attention_heads=2, intermediate_size=32, num_labels=4,
)  # fmt: skip
FAMILIES = {
    "vit": lambda: ViTForImageClassification(VIT),
    "resnet": lambda: ResNetForImageClassification(
        ResNetConfig(num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    ),
    "convnext": lambda: ConvNextForImageClassification(
        ConvNextConfig(num_channels=1, hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)
    ),
}


def equal(one, other):
    """Whether two networks have the same tensors."""
    mine, its = one.state_dict(), other.state_dict()
    return mine.keys() == its.keys() and all(torch.equal(mine[name], its[name]) for name in mine)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("what", ["folder", "file", "bare file"])
def test_what_save_pretrained_wrote_is_read(tmp_path, family, what):
    trained = FAMILIES[family]()
    trained.save_pretrained(tmp_path)
    if what == "bare file":
        save_file(trained.state_dict(), tmp_path / "model.safetensors")
    file = tmp_path if what == "folder" else tmp_path / "model.safetensors"
    assert equal(load_weights(FAMILIES[family](), file), trained)
    assert equal(load_weights(untrained_classifier(str(tmp_path)), file), trained)


def test_names_of_older_versions_are_understood(tmp_path):
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
            intermediate_size=8,
        )
    )  # fmt: skip
    older = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor + 1
        for name, tensor in model.state_dict().items()
    }
    assert sum("gamma" in name for name in older) == 3
    torch.save(older, tmp_path / "older.bin")
    found = load_weights(model, tmp_path / "older.bin").state_dict()
    assert all(
        torch.equal(found[name], own) for name, own in zip(found, older.values(), strict=True)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("classifier.weight"), r"1 tensors are missing, classifier.weight, and"),
        (
            lambda s: s.update({"classifier.bias": torch.ones(7)}),
            r"1 tensors have other shapes: classifier.bias \(7,\) for \(4,\)",
        ),
        (
            lambda s: s.clear(),
            r"40 tensors are missing, classifier.bias, .* …, and would be random",
        ),
        (
            lambda s: s.update({"head.weight": s.pop("classifier.weight")}),
            r"1 tensors are missing, .*; 1 have names that it does not know, head.weight",
        ),
    ],
)
def test_what_would_be_random_is_an_error(tmp_path, change, message):
    model = ViTForImageClassification(VIT)
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    change(state)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=f"does not fit ViTForImageClassification: {message}"):
        load_weights(model, tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"is no Hugging Face folder: it has no config.json; save the model there with"),
        ("{}", r"config.json makes no image classifier of transformers \(AutoModelForImageC"),
        ('{"model_type": "gpt2"}', r"config.json makes no image classifier of transformers"),
        ("no json", r"config.json makes no image classifier of transformers"),
    ],
)
def test_a_folder_of_something_else_is_an_error(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=f"model: .*{message}"):
        untrained_classifier(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, None),
        ("torn", None),
        ("[]", None),
        ('{"image_mean": [0.5], "image_std": [0.25]}', ([0.5], [0.25])),
        ('{"image_mean": [0.5], "image_std": [0.25], "do_normalize": false}', None),
        ('{"do_normalize": true}', None),
    ],
)
def test_the_normalisation_of_a_folder(tmp_path, content, expected):
    if content is not None:
        (tmp_path / "preprocessor_config.json").write_text(content)
    assert normalisation(str(tmp_path)) == expected
