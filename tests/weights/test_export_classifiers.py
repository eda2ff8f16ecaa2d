"""Adapters of classifiers of `transformers` that are networks of two classes here."""

import json

import pytest
import torch
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

from editgym.models.sequence_classifiers import load_sequence_classifier
from editgym.weights import (
    DenseUpdate,
    EditableNetwork,
    ExportError,
    Shift,
    SiteEdit,
    export_adapter,
    export_pretrained,
    find_sites,
)

peft = pytest.importorskip("peft")
TEXTS = ["a friendly neighbour", "some stranger", "they are people"]


@pytest.fixture
def classifier(tiny_encoder, tmp_path):
    """The folder of a BERT with a head of three outputs."""
    model = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=3)
    model.save_pretrained(tmp_path / "bert")
    encode = load_sequence_classifier(tiny_encoder, 8, 1)[1]
    encode.tokenizer.save_pretrained(tmp_path / "bert")
    return str(tmp_path / "bert")


def edited(folder, sites):
    """The network of a folder, with an edit of every site, and inputs."""
    model, encode = load_sequence_classifier(folder, 8, 1)
    inputs = encode(TEXTS)
    network = EditableNetwork(model, find_sites(model, sites), inputs)
    for site in network.sites:
        network.apply(SiteEdit(site.name, Shift(0.5), DenseUpdate(torch.randn(site.shape))))
    return network, inputs


@pytest.mark.parametrize("sites", [["model.classifier"], ["model.bert.*.dense", "model.*query"]])
def test_peft_loads_the_adapter_into_the_classifier_itself(classifier, tmp_path, sites):
    network, inputs = edited(classifier, sites)
    folder = export_adapter(network, tmp_path / "adapter")
    plain = AutoModelForSequenceClassification.from_pretrained(classifier)
    before = plain.eval()(input_ids=inputs, attention_mask=(inputs != 0).long()).logits
    adapted = peft.PeftModel.from_pretrained(plain, str(folder)).eval()
    with torch.no_grad():
        found = adapted(input_ids=inputs, attention_mask=(inputs != 0).long()).logits
        expected = (
            network.merged().model(input_ids=inputs, attention_mask=(inputs != 0).long()).logits
        )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (found - before).abs().max() > 0.1
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == classifier
    assert "model.classifier" not in json.dumps(config["target_modules"])


def test_the_network_as_it_is_here_can_be_asked_for(classifier, tmp_path):
    network, inputs = edited(classifier, ["model.classifier"])
    folder = export_adapter(network, tmp_path / "adapter", inside="")
    adapted = peft.PeftModel.from_pretrained(load_sequence_classifier(classifier, 8, 1)[0], folder)
    with torch.no_grad():
        torch.testing.assert_close(
            adapted.eval()(inputs), network.logits(inputs), atol=1e-4, rtol=0
        )


def test_what_is_edited_outside_of_the_module_is_refused(classifier, tmp_path):
    network, _ = edited(classifier, ["model.classifier"])
    with pytest.raises(
        ExportError, match=r"model.classifier was edited, and .* inside 'model.bert.'"
    ):
        export_adapter(network, tmp_path / "adapter", inside="model.bert.")
    assert not (tmp_path / "adapter").exists()


@pytest.fixture
def bare():
    """A classifier of `transformers` by itself, with an edit, and inputs."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ViTConfig(image_size=16, patch_size=8, intermediate_size=32, num_labels=3, **sizes)
    model, x = ViTForImageClassification(config).eval(), torch.randn(4, 3, 16, 16)
    network = EditableNetwork(model, find_sites(model, ["classifier"]), x)
    network.apply(SiteEdit("classifier", Shift(), DenseUpdate(torch.randn(3, 16))))
    return network, x


def test_a_bare_classifier_is_a_checkpoint_of_transformers(bare, tmp_path):
    network, x = bare
    folder = export_pretrained(network, tmp_path / "vit")
    loaded = AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        assert torch.equal(loaded(x).logits, network.logits(x))


def test_a_checkpoint_is_written_completely_or_not_at_all(bare, tmp_path, monkeypatch):
    network, x = bare
    folder = export_pretrained(network, tmp_path / "vit")
    (folder / "own.txt").write_text("somebody's")
    (folder / "model-00001-of-00002.safetensors").write_text("an older one's")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    network.reset()

    def disk_full(*_args, **_named):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ViTConfig, "save_pretrained", disk_full)
        with pytest.raises(OSError, match="no space left"):
            export_pretrained(network, folder)
        with pytest.raises(OSError, match="no space left"):
            export_pretrained(network, tmp_path / "new")
    assert [file.name for file in tmp_path.iterdir()] == ["vit"]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    export_pretrained(network, folder)
    assert (folder / "own.txt").read_text() == "somebody's"
    assert not (folder / "model-00001-of-00002.safetensors").exists()
    loaded = AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        assert torch.equal(loaded(x).logits, network.logits(x))


def test_a_checkpoint_with_numbers_that_its_precision_does_not_have_is_refused(bare, tmp_path):
    network, _ = bare
    network.apply(SiteEdit("classifier", Shift(), DenseUpdate(torch.full((3, 16), 1e6))))
    with pytest.raises(ExportError, match=r"^dtype: classifier\.weight has numbers"):
        export_pretrained(network, tmp_path / "vit", torch.float16)
    assert not list(tmp_path.iterdir())
