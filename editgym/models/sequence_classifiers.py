"""Sequence classifiers of `transformers` as networks with two outputs, and their tokenizers as
encoders.
"""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from editgym.models.folders import model_path
from editgym.models.language import ModelError
from editgym.weights.sites import editable_sites

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_LENGTH = 64  # tokens of a text
_READ, _MOST_UNKNOWN = 500, 0.5  # texts, and the share of unknown tokens among theirs


class ToxicityTransformer(nn.Module):
    """Token ids (n, length) -> logits (n, 2) for not toxic and toxic.

    A network with two outputs keeps them. Where every output stands for itself (one output, or a
    multi-label problem) the toxic one's z becomes (0, z), so that softmax gives sigmoid(z); of
    several exclusive outputs the others are taken together by logsumexp.

    Args:
        model: The classifier; a submodule under the name `model`, so that sites are called
            `model.…`.
        pad_id: Token that is masked out.
        toxic_output: Index of the output that stands for toxic.
        untrained: Names, in the classifier, of tensors that its checkpoint lacks.

    Attributes:
        untrained: The names of those tensors here; their numbers are random.

    Raises:
        ModelError: There is no such output.
    """

    # What is edited is the classifier: an exported adapter is for it, and names its modules.
    wraps = "model."

    def __init__(
        self,
        model: PreTrainedModel,
        pad_id: int,
        toxic_output: int,
        untrained: Collection[str] = (),
    ) -> None:
        super().__init__()
        outputs: int = model.config.num_labels or 0
        if not 0 <= toxic_output < outputs:
            raise ModelError(
                f"toxic_output must be from 0 to {outputs - 1}, an output of it, got {toxic_output}"
            )
        self.model = model
        self.pad_id, self.toxic_output = pad_id, toxic_output
        self.untrained = tuple(f"model.{name}" for name in sorted(untrained))
        self.independent = outputs == 1 or model.config.problem_type == "multi_label_classification"

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids (n, length), padded with the padding token, int64 -> logits (n, 2)."""
        logits = self.model(input_ids=ids, attention_mask=(ids != self.pad_id).long()).logits
        toxic = logits[:, self.toxic_output]
        if self.independent:
            return torch.stack([torch.zeros_like(toxic), toxic], dim=1)
        others = [i for i in range(logits.shape[1]) if i != self.toxic_output]
        return torch.stack([logits[:, others].logsumexp(1), toxic], dim=1)

    def extra_repr(self) -> str:
        """What logits depend on beside the classifier."""
        return f"pad_id={self.pad_id}, toxic_output={self.toxic_output}"

    def names_here(self, sites: Sequence[str]) -> list[str]:
        """Names and globs of sites as they are called here: those that are the classifier's own
        names, without `model.`, get it.
        """
        known = [site.name for site in editable_sites(self)]

        def matches(pattern: str) -> bool:
            return bool(fnmatch.filter(known, pattern))

        return [
            f"model.{name}" if not matches(name) and matches(f"model.{name}") else name
            for name in sites
        ]


class TokenEncoder:
    """Texts -> token ids of one length, cut and padded on the right.

    Args:
        tokenizer: With a padding token.
        length: Tokens per text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, length: int) -> None:
        self.tokenizer, self.length = tokenizer, length

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token ids, (n, length) int64."""
        encoded = self.tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self.length,
            padding_side="right",
            return_tensors="pt",
        )
        return encoded["input_ids"]

    def check_vocabulary(self, texts: Sequence[str]) -> None:
        """Warn where most of what texts consist of is unknown to the tokenizer: to the classifier
        they are then much the same.
        """
        unknown = self.tokenizer.unk_token_id
        some = self.tokenizer(list(texts[:_READ]), add_special_tokens=False)["input_ids"]
        every = [token for ids in some for token in ids]
        share = every.count(unknown) / max(1, len(every))
        if unknown is not None and share > _MOST_UNKNOWN:
            warnings.warn(
                f"model: of the first {len(some)} texts its tokenizer of {len(self.tokenizer):,}"
                f" tokens does not know {share:.0%} and gives {self.tokenizer.unk_token} for it, so"
                " that the classifier can hardly tell texts apart; save the tokenizer that it was"
                " trained with into its folder",
                stacklevel=4,
            )

    def lengths(self, ids: Tensor) -> Tensor:
        """Where each text ends, after its last token that is no padding, (n,), at least 1: in the
        middle of a text the padding token may stand too.
        """
        counts = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        return ((ids != self.tokenizer.pad_token_id) * counts).amax(1).clamp(min=1)


def load_sequence_classifier(
    name: str, length: int | None, toxic_output: int
) -> tuple[ToxicityTransformer, TokenEncoder]:
    """A classifier and the encoder of its inputs.

    No remote code is run, and only safetensors are read. What the checkpoint lacks of the
    classifier is random: the network's `untrained` names it.

    Args:
        name: Path of a Hugging Face folder, the name of an encoder that was fetched, or a hub id.
        length: Tokens per text; None for 64, or what the classifier takes where that is less.
        toxic_output: Index of the output that stands for toxic.

    Raises:
        ModelError: There is no such model, it has no safetensors, tokenizer or padding token, or no
            such output; or it takes fewer tokens.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    path = model_path(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            path,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        where = "" if Path(path).is_dir() else ", which is no folder here, as a hub id"
        raise ModelError(
            f"model: cannot load the sequence classifier {name!r}{where}: {error}"
        ) from error
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"model: the tokenizer of {name!r} has no padding token (pad_token); set one in its "
            "tokenizer_config.json"
        )
    limit = getattr(model.config, "max_position_embeddings", None)
    if length is None:
        length = min(DEFAULT_LENGTH, limit or DEFAULT_LENGTH)
    if limit is not None and not 1 <= length <= limit:
        raise ModelError(
            f"max_length must be from 1 to {limit}, which is what {name!r} takes, got {length}"
        )
    # By its own number a decoder finds a text's last token, and refuses several texts where it has
    # none.
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    network = (
        ToxicityTransformer(model, tokenizer.pad_token_id, toxic_output, loading["missing_keys"])
        .eval()
        .requires_grad_(False)
    )
    encode = TokenEncoder(tokenizer, length)
    try:
        with torch.no_grad():
            network(encode(["a " * length, "a"]))
    except (IndexError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"max_length {length}: {name!r} cannot read a text of so many tokens, or one padded to"
            f" it: {error}"
        ) from error
    return network, encode
