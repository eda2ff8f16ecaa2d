"""A small task of one's own: a network and images from files; small language models of two
kinds."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from agents.editors.stream import stream_process
from editgym.models.classifiers import SmallConvNet
from envs_registry import environment_spec

STREAM = {
    "sites": ["model.layers.[23].mlp.down_proj"],
    "horizon": 3,
    "edits_per_step": 2,
    "back_depth": 1,
    "step_size": 1e-2,
}


@pytest.fixture
def custom_task(tmp_path):
    random = np.random.default_rng(0)
    arrays = {}
    for split, number in (("train", 120), ("test", 40)):
        arrays[f"x_{split}"] = random.integers(0, 256, (number, 8, 8), dtype=np.uint8)
        arrays[f"y_{split}"] = np.arange(number) % 4
    np.savez(tmp_path / "images.npz", **arrays)
    torch.manual_seed(0)
    save_file(SmallConvNet(8, 4).state_dict(), tmp_path / "weights.safetensors")
    return {
        "task": "unlearning/custom",
        "model": "editgym.models.classifiers:SmallConvNet",
        "model_kwargs": {"image_size": 8, "n_classes": 4},
        "weights": str(tmp_path / "weights.safetensors"),
        "data": str(tmp_path / "images.npz"),
        "sites": ["fc2"],
    }


@pytest.fixture
def stream_spec(tiny_lm):
    """`stream_spec(evaluation, **arguments)`: of a short stream of facts on the tiny model."""
    return lambda evaluation=False, **arguments: environment_spec(
        "LifelongLLMEdit-v0", {"model": tiny_lm} | STREAM | arguments, evaluation=evaluation
    )


@pytest.fixture
def stream_env(stream_spec):
    """`stream_env(seed, **arguments)`: its environment, just reset, for rewards
    (`split="policy"`)."""

    def make(seed=0, **arguments):
        env = gym.make(stream_spec(**arguments))
        env.reset(seed=seed)
        return env

    return make


@pytest.fixture
def make_process(stream_env):
    """`make_process(seed, **arguments)`: the tensor API of such an environment."""
    return lambda seed=0, **arguments: stream_process(stream_env(seed, **arguments))


@pytest.fixture
def interrupted_edit():
    """`interrupted_edit(agent, env, folder, at)`: an edit with checkpoints in `folder` that stops
    before step `at`."""

    def edit(agent, env, folder, at=2):
        entries = agent.entries

        def stop(process):
            if process.step_index == at:
                raise KeyboardInterrupt
            return entries(process)

        agent.entries = stop
        with pytest.raises(KeyboardInterrupt):
            agent.edit(env, folder)
        del agent.entries

    return edit


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory, factworld_tokenizer):
    """The folder of a GPT-2 of four layers with random weights and factlm's tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder, tokenizer = tmp_path_factory.mktemp("tiny_gpt2"), factworld_tokenizer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(
            GPT2Config(
                n_layer=4,
                n_embd=32,
                n_head=2,
                vocab_size=len(tokenizer),
                n_positions=128,
                initializer_range=0.2,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
