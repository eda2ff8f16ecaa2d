"""What is kept on disk about a model is not taken for another one's of equal weights."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from agents.editors.covariance import covariances
from editgym.models.identity import identity
from editgym.models.language import LanguageModel
from editgym.tasks.knowledge import own_samples as samples_module
from editgym.tasks.knowledge.exam import Exam
from editgym.tasks.knowledge.general import general_knowledge, perplexity_ratio
from editgym.tasks.knowledge.task import KnowledgeTask

SITE = "model.layers.0.mlp.down_proj"


@pytest.fixture
def folder(tiny_lm, tmp_path):
    return Path(shutil.copytree(tiny_lm, tmp_path / "model"))


def changed(file, change):
    told = json.loads(file.read_text(encoding="utf-8"))
    change(told)
    file.write_text(json.dumps(told), encoding="utf-8")


def weights(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1.01
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def configuration(**values):
    return lambda folder: changed(folder / "config.json", lambda told: told.update(values))


def digits(folder):
    changed(
        folder / "tokenizer.json",
        lambda told: told.update(pre_tokenizer={"type": "Digits", "individual_digits": True}),
    )


def template(folder):
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")


OTHERS = {
    "weights": weights,
    "a scale of positions": configuration(
        rope_parameters={"rope_type": "default", "rope_theta": 5}
    ),
    "heads": configuration(num_attention_heads=8, num_key_value_heads=4, head_dim=4),
    "an activation": configuration(hidden_act="relu"),
    "a tokenizer": digits,
    "a chat template": template,
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_model_that_differs_is_another_one(folder, what):
    before = identity(LanguageModel.load(str(folder)))
    OTHERS[what](folder)
    assert identity(LanguageModel.load(str(folder))) != before


def test_a_model_is_the_same_wherever_it_lies_and_whatever_it_was_asked(tiny_lm, folder):
    language = LanguageModel.load(tiny_lm)
    language.greedy([language.prompt_ids("Ada lives in"), language.prompt_ids("Eve")])
    configuration(transformers_version="0.0.1", _name_or_path="elsewhere")(folder)
    assert identity(language) == identity(LanguageModel.load(str(folder)))
    assert len(identity(language)) == 64


def test_nothing_that_is_kept_is_another_models(folder, monkeypatch, tmp_path):
    """With another scale of positions the same weights give other numbers."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("EDITGYM_CACHE", str(cache))
    monkeypatch.setattr(samples_module, "SAMPLED_TOKENS", 6_000)

    def kept():
        language = LanguageModel.load(str(folder))
        task = KnowledgeTask("mine", language, [SITE], lambda split, rng: (), text="samples")
        perplexity_ratio(task, task.decoder)
        general_knowledge(Exam(task, task.decoder), ())
        task.original_answers(["Ada lives in"])
        next(covariances(task, task.decoder.sites, 50))
        return {path.parent.name for path in cache.rglob("*") if path.is_file()}, len(
            [path for path in cache.rglob("*") if path.is_file()]
        )

    kinds, count = kept()
    assert kinds == {"answers", "covariance", "known", "perplexity", "text"}
    assert kept() == (kinds, count)
    OTHERS["a scale of positions"](folder)
    assert kept() == (kinds, 2 * count)
