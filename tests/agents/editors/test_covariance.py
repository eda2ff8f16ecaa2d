"""Covariances of keys over plain text: their numbers, where they are kept, and what the text is."""

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import OPTConfig, OPTForCausalLM

from agents.editors import covariance as module
from agents.editors.covariance import covariances, inverse_factor, null_space
from agents.editors.stream import stream_process
from editgym.data.factworld import FactWorld
from editgym.weights import tensor_file


def close(one, other, tolerance):
    return float((one - other).norm() / other.norm()) < tolerance


@pytest.mark.parametrize("block", [24, 256])
def test_covariance_is_summed_in_blocks(process, monkeypatch, block):
    monkeypatch.setattr(module, "_BLOCK", block)
    test_covariance_is_the_mean_of_outer_products_of_inputs(process)
    again = next(covariances(process.task, [process.sites[-1]], 301))
    assert torch.equal(again, again.mT)


def test_covariance_is_the_mean_of_outer_products_of_inputs(process):
    site, seen = process.sites[-1], []
    language = process.task.language
    handle = language.model.get_submodule(site.name).register_forward_pre_hook(
        lambda _m, args: seen.append(args[0].reshape(-1, args[0].shape[-1]))
    )
    left = 300
    for sentence in process.task.text.passages():
        ids = language.prompt_ids(sentence)[:left]
        language.model(input_ids=torch.tensor([ids]))
        left -= len(ids)
        if not left:
            break
    handle.remove()
    keys = torch.cat(seen).double()
    assert len(keys) == 300
    assert close(next(covariances(process.task, [site], 300)), keys.mT @ keys / 300, 1e-5)


def test_covariance_of_keys_that_come_in_one_row_is_theirs(tokenizer, tmp_path, environment):
    config = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        word_embed_proj_dim=32,
        max_position_embeddings=128,
    )
    torch.manual_seed(0)
    OPTForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    env = environment(str(tmp_path), ["model.decoder.layers.[12].fc2"])
    env.reset(seed=0)
    test_covariance_is_the_mean_of_outer_products_of_inputs(stream_process(env))


def test_covariance_is_kept_on_disk_by_model(
    tokenizer,
    process,
    tmp_path,
    monkeypatch,
    environment,
    llama,
):
    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path / "cache"))
    site = [process.sites[0]]
    found = next(covariances(process.task, site, 100))
    (path,) = (tmp_path / "cache" / "covariance").iterdir()
    assert torch.equal(load_file(path)["covariance"], found)
    monkeypatch.setattr(module, "_summed", lambda *_: pytest.fail("computed twice"))
    save_file({"covariance": 2 * found}, path)
    assert torch.equal(next(covariances(process.task, site, 100)), 2 * found)
    monkeypatch.undo()
    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path / "cache"))
    path.write_bytes(path.read_bytes()[:-8])  # damaged: computed anew
    assert torch.equal(next(covariances(process.task, site, 100)), found)
    other = environment(llama(tokenizer, tmp_path / "other", seed=1))
    assert not torch.equal(next(covariances(stream_process(other).task, site, 100)), found)
    assert len(list((tmp_path / "cache" / "covariance").iterdir())) == 2


def test_a_covariance_that_cannot_be_written_is_an_error_of_the_cache(
    process, tmp_path, monkeypatch
):
    def disk_full(*_args, **_named):
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path))
    monkeypatch.setattr(tensor_file, "save_file", disk_full)
    with pytest.raises(ValueError, match=r"^EDITGYM_CACHE: cannot keep covariances in"):
        next(covariances(process.task, [process.sites[0]], 100))
    assert not list((tmp_path / "covariance").iterdir())


def test_the_text_holds_nothing_that_metrics_ask_about(process):
    world, read = FactWorld(), list(process.task.text.passages())
    text = " | ".join(read)
    assert not [p.name for p in world.people if p.split != "policy" and f"{p.name} " in text]
    assert not set(read) & set(process.task.text.held_out)


def test_inverse_factor_of_a_singular_covariance_and_an_empty_null_space():
    key = torch.randn(1, 6, dtype=torch.float64)
    assert inverse_factor(key.mT @ key).isfinite().all()
    with pytest.raises(ValueError, match="threshold"):
        null_space(torch.eye(6, dtype=torch.float64), 0.5)
