"""Models as strangers bring them: what is not fit is refused at the door, the rest is edited."""

import gymnasium as gym
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from editgym.models.language import BUNDLED, LanguageModel, ModelError
from editgym.weights import EditableDecoder, TokenBatch, discover_sites, find_sites

TEXT = {
    "hidden_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
}


@pytest.fixture
def saved(tmp_path):
    """`saved(model)`: the folder of a model with factlm's tokenizer."""

    def save(model, tokenizer=None):
        model.save_pretrained(tmp_path / "model")
        (tokenizer or AutoTokenizer.from_pretrained(BUNDLED)).save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    return save


@pytest.fixture
def requests(tmp_path):
    file = tmp_path / "own.jsonl"
    file.write_text(
        '{"subject": "Notan Ronellan", "prompt": "By trade {} is a", "target": "judge"}'
    )
    return str(file)


@pytest.fixture
def steps(requests):
    """`steps(folder, **arguments)`: how many journal entries one step of UltraEdit makes."""

    def edit(folder, **arguments):
        env = gym.make(
            "editgym:LifelongLLMEdit-v1",
            task="knowledge/custom",
            model=folder,
            requests=requests,
            test_requests=requests,
            split="test",
            edits_per_step=1,
            horizon=1,
            text="factworld",
            **arguments,
        ).unwrapped
        env.reset(seed=0)
        env.step(env.training_free_action())
        return len(env.journal)

    return edit


def test_of_a_model_of_text_and_images_the_text_is_edited(saved, steps):
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    size = len(AutoTokenizer.from_pretrained(BUNDLED))
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=TEXT | {"vocab_size": size + 8},
            vision_config={
                "hidden_size": 32,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "intermediate_size": 64,
                "image_size": 28,
                "patch_size": 14,
            },
            image_token_index=size + 1,
            boi_token_index=size + 2,
            eoi_token_index=size + 3,
            mm_tokens_per_image=4,
        )
    )
    folder = saved(model)
    language = LanguageModel.load(folder)
    assert language.context == 256, "it is that of the text"
    sites = [site.name for site in discover_sites(language.model)]
    assert sites == [f"model.language_model.layers.{layer}.mlp.down_proj" for layer in (2, 3)]
    assert steps(folder) == 2


def test_a_model_whose_base_is_itself_is_edited(saved, steps):
    size = len(AutoTokenizer.from_pretrained(BUNDLED))
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama4_text",
        **TEXT,
        vocab_size=size,
        intermediate_size_mlp=96,
        num_local_experts=2,
        interleave_moe_layer_step=2,
        initializer_range=0.3,
    )
    model = AutoModelForCausalLM.from_config(config).float().eval()
    assert model.base_model is model
    names = ["model.layers.[02].feed_forward.down_proj"]
    batch = TokenBatch.of([([3, 4, 5], [6, 7]), ([8, 9], [10])])
    decoder = EditableDecoder(model, find_sites(model, names), batch)
    with torch.no_grad():
        logits = model(input_ids=batch.ids, use_cache=False).logits[batch.rows, batch.positions]
    torch.testing.assert_close(decoder.logits(batch), logits, rtol=1e-4, atol=1e-4)
    assert steps(saved(model), sites=names) == 2


@pytest.mark.parametrize("added", [1, 3])
def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(saved, added):
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
    size = len(tokenizer)
    tokenizer.add_tokens([f"Ronellan{number}us" for number in range(added)])
    folder = saved(AutoModelForCausalLM.from_pretrained(BUNDLED), tokenizer)
    with pytest.raises(ModelError, match=rf"go up to {size + added - 1}, .* embeddings of {size} "):
        LanguageModel.load(folder)


def test_a_tokenizer_with_fewer_tokens_is_fine(saved):
    model = AutoModelForCausalLM.from_pretrained(BUNDLED)
    model.resize_token_embeddings(len(AutoTokenizer.from_pretrained(BUNDLED)) + 5)
    assert LanguageModel.load(saved(model)).end_id is not None
