"""Small models and their streams for editors that locate facts at subjects."""

import gymnasium as gym
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agents.catalogue import make_agent
from agents.editors.stream import stream_process
from editgym.data.factworld import FactWorld
from editgym.models.train_factlm import train_tokenizer

FAST = {"tokens": 600, "steps": 8, "learning_rate": 0.5, "max_norm": 5.0}
OWN = {
    "alphaedit": {"threshold": 1.0, "ridge": 0.01},
    "memit": {"covariance_weight": 0.01},
    "memit_seq": {"covariance_weight": 0.01, "ridge": 1e-4},
}


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer(FactWorld())


@pytest.fixture(scope="session")
def llama():
    """`llama(tokenizer, folder, seed)`: the folder of a random model of four layers."""

    def make(tokenizer, folder, seed):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=4,
                num_attention_heads=4,
                max_position_embeddings=128,
                tie_word_embeddings=True,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=0,
                initializer_range=0.2,
            )
        )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(scope="session")
def model(tokenizer, llama, tmp_path_factory):
    return llama(tokenizer, tmp_path_factory.mktemp("llama"), seed=0)


@pytest.fixture(scope="session")
def environment():
    """`environment(model, sites, **arguments)`: a stream of three steps of four edits."""

    def make(model, sites=("model.layers.[01].mlp.*",), **arguments):
        return gym.make(
            "LifelongLLMEdit-v0",
            model=model,
            sites=list(sites),
            split="validation",
            **{"horizon": 3, "edits_per_step": 4} | arguments,
        )

    return make


@pytest.fixture(scope="module")
def env(model, environment):
    return environment(model)


@pytest.fixture
def process(env):
    env.reset(seed=0)
    return stream_process(env)


@pytest.fixture
def editor():
    """`editor(name, **settings)`: an editor that takes little time on such a model."""
    return lambda name, **settings: make_agent(name, **FAST | OWN.get(name, {}) | settings)
