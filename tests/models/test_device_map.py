"""Models that are to be spread over devices are read as in one place, or refused."""

import gc

import pytest
import torch
from device_maps import MAPS
from transformers import AutoModelForCausalLM, AutoTokenizer

from editgym.models.language import LanguageModel, ModelError, shared_model
from editgym.weights import fingerprint

pytest.importorskip("accelerate")
PROMPTS = [[3, 4, 5], [8], [12, 13, 14, 15, 16, 17]]


@pytest.mark.parametrize("stored", ["bfloat16", "float32"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_of_another_number_format_is_read_as_in_one_place(
    tmp_path, tiny_lm, stored, dtype
):
    model = AutoModelForCausalLM.from_pretrained(tiny_lm, dtype=getattr(torch, stored))
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_lm).save_pretrained(tmp_path)
    ours = LanguageModel.load(str(tmp_path), dtype=dtype, device_map=MAPS["all on disk"])
    theirs = LanguageModel.load(str(tmp_path), dtype=dtype)
    assert fingerprint(ours.model) == fingerprint(theirs.model)
    assert ours.greedy(PROMPTS) == theirs.greedy(PROMPTS)


def test_what_was_written_for_a_model_goes_with_it(tiny_lm, tmp_path, monkeypatch):
    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path))
    models = [LanguageModel.load(tiny_lm, device_map=MAPS["all on disk"]) for _ in range(2)]
    assert len(list((tmp_path / "offloaded").iterdir())) == 2
    wanted = models[0].greedy(PROMPTS)
    del models[0]
    gc.collect()
    assert len(list((tmp_path / "offloaded").iterdir())) == 1
    assert models[0].greedy(PROMPTS) == wanted
    with pytest.raises(ModelError, match="cannot load"):
        LanguageModel.load(tiny_lm, device_map="everywhere")
    assert len(list((tmp_path / "offloaded").iterdir())) == 1


def test_models_of_one_map_are_one(tiny_lm):
    one = shared_model(tiny_lm, device_map=MAPS["all on disk"])
    assert shared_model(tiny_lm, device_map=dict(MAPS["all on disk"])) is one
    assert shared_model(tiny_lm) is not one


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device_map": "auto", "device": "cuda"}, "device_map: .* device='cuda'.* leave one"),
        ({"device_map": "everywhere"}, "cannot load .*everywhere"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(tiny_lm, arguments, message):
    with pytest.raises(ModelError, match=message):
        LanguageModel.load(tiny_lm, **arguments)


def test_a_gguf_file_is_read_as_a_whole(tiny_gguf):
    with pytest.raises(ModelError, match=r"device_map: .*tiny\.gguf' is a GGUF file"):
        LanguageModel.load(tiny_gguf, device_map="auto")


def test_without_accelerate_the_error_says_what_to_install(tiny_lm, monkeypatch):
    from editgym.models import reading

    monkeypatch.setattr(reading.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ModelError, match=r"package accelerate.*editgym\[llm\]"):
        LanguageModel.load(tiny_lm, device_map="auto")
