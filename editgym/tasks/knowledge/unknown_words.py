"""Whether a model's vocabulary knows the words of the facts that it is to be taught."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from editgym.data.errors import DataError
from editgym.data.facts import EditRequest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LOOKED_AT = 500  # requests
_WORD = re.compile(r"[^\W\d_]+")
# FactWorld's requests have 4% of their words in pieces, those about the world at large half.
_IN_PIECES = 0.25


def check_words(
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    file: object,
    *,
    whole_words: bool,
) -> None:
    """Warn of facts in words that the model cannot tell apart, or was never trained on.

    Args:
        tokenizer: The model's.
        requests: The facts; 500 of them are looked at.
        file: Where they come from, for messages.
        whole_words: Whether the vocabulary has all words that the model was trained on, as factlm's
            has, so that what comes apart into pieces is none of them.

    Raises:
        DataError: No token of the facts is known.
    """
    few = requests[:: max(1, -(-len(requests) // _LOOKED_AT))]
    targets = [request.target for request in few]
    texts = [*(request.prompt for request in few), *targets]
    if not few:
        return
    _check_tokens(tokenizer, texts, file)
    if not whole_words:
        return
    share, pieces = _in_pieces(tokenizer, texts)
    if share > _IN_PIECES:
        of_targets, _ = _in_pieces(tokenizer, targets)
        warnings.warn(
            f"requests: {share:.0%} of the words of {file}, and {of_targets:.0%} of those of the"
            f" targets, are none that the model was trained on, such as {pieces[0]!r}, which it"
            " reads in pieces: scores say little of the editor; give a model that reads such texts,"
            " such as model=smollm2-135m, or facts in FactWorld's words",
            stacklevel=4,
        )


def _check_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], file: object) -> None:
    """Refuse texts that are unknown tokens alone, and warn where some are."""
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return
    ids = [one for text in texts for one in tokenizer(text, add_special_tokens=False)["input_ids"]]
    count = ids.count(unknown)
    if ids and count == len(ids):
        raise DataError(
            f"requests: the model's vocabulary knows no word of {file}: all {count} tokens are"
            f" {tokenizer.unk_token!r}; give a model of the texts' language"
        )
    if count:
        first = next(
            text
            for text in texts
            if unknown in tokenizer(text, add_special_tokens=False)["input_ids"]
        )
        warnings.warn(
            f"requests: {count / len(ids):.0%} of the tokens of {file} are unknown to the model's"
            f" vocabulary ({tokenizer.unk_token!r}), as in {first!r}: facts that differ in these"
            " words alone are one to it",
            stacklevel=5,
        )


def _in_pieces(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> tuple[float, list[str]]:
    """The share of words that are more than one token, and these words."""
    words = [word for text in texts for word in _WORD.findall(text)]
    found = {
        word: len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) > 1
        for word in dict.fromkeys(words)
    }
    return (
        sum(found[word] for word in words) / max(1, len(words)),
        [word for word, apart in found.items() if apart],
    )
