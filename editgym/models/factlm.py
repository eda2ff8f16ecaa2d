"""What a factlm is: its sizes, and its tokenizer of FactWorld's text."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from editgym.data.factworld import FactWorld

_VOCABULARY = 3_072
_CONTEXT = 128


@dataclass(frozen=True)
class Size:
    """A model's shape, Llama's or GPT-2's, and how it is trained."""

    layers: int
    width: int
    inner: int
    heads: int
    epochs: int
    learning_rate: float = 1e-3
    gpt2: bool = False

    def build(self) -> PreTrainedModel:
        """The model with random weights, by torch's generator."""
        tokens: Any = {
            "vocab_size": _VOCABULARY,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        }
        if self.gpt2:
            return GPT2LMHeadModel(
                GPT2Config(
                    n_layer=self.layers,
                    n_embd=self.width,
                    n_inner=self.inner,
                    n_head=self.heads,
                    n_positions=_CONTEXT,
                    resid_pdrop=0.0,
                    embd_pdrop=0.0,
                    attn_pdrop=0.0,
                    **tokens,
                )
            )
        return LlamaForCausalLM(
            LlamaConfig(
                hidden_size=self.width,
                intermediate_size=self.inner,
                num_hidden_layers=self.layers,
                num_attention_heads=self.heads,
                max_position_embeddings=_CONTEXT,
                tie_word_embeddings=True,
                rms_norm_eps=1e-5,
                **tokens,
            )
        )


SIZES = {
    "1m": Size(6, 128, 384, 4, epochs=16, learning_rate=3e-3),
    "gpt2": Size(6, 128, 512, 4, epochs=16, learning_rate=3e-3, gpt2=True),
    "10m": Size(8, 320, 960, 5, epochs=25),
    "50m": Size(10, 640, 1_920, 10, epochs=20, learning_rate=6e-4),
    "300m": Size(14, 1_280, 3_840, 20, epochs=15, learning_rate=3e-4),
}


def train_tokenizer(world: FactWorld) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of FactWorld's text; it starts every text with `<s>` and answers
    end with `</s>`.
    """
    rng = random.Random("tokenizer")
    text = [
        f"{told.prompt} {told.answer}" for told in world.statements(rng, paraphrases=5)
    ] + world.filler(2_500, rng)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=specials,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=_CONTEXT,
        clean_up_tokenization_spaces=False,
    )
