"""Facts in words that a model does not know are said at make."""

import json
import random
import warnings
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from editgym.data.facts import EditRequest
from editgym.data.factworld import FactWorld
from editgym.tasks import make_task
from editgym.tasks.knowledge.unknown_words import check_words

FACTS = Path(__file__).parents[2] / "docs" / "facts.jsonl"


def request(prompt, target):
    return EditRequest(subject=prompt.split()[0], prompt=prompt, target=target)


@pytest.fixture(scope="module")
def words():
    """A tokenizer of five words."""
    vocabulary = {"[UNK]": 0, "the": 1, "king": 2, "of": 3, "Spain": 4, "is": 5}
    tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokens, unk_token="[UNK]")


def test_the_share_of_unknown_tokens_is_said(words):
    facts = [request("the king of Spain is", "Felipe"), request("the king is", "Felipe VI")]
    message = r"requests: 27% of the tokens of mine.jsonl are unknown .*\[UNK\]'\), as in 'Felipe'"
    with pytest.warns(UserWarning, match=message):
        check_words(words, facts, "mine.jsonl", whole_words=False)


def test_facts_of_unknown_tokens_alone_are_refused(words):
    facts = [request("Der König von Spanien heißt", "Felipe")]
    with pytest.raises(
        ValueError, match=r"knows no word of mine.jsonl: all 6 tokens are '\[UNK\]'"
    ):
        check_words(words, facts, "mine.jsonl", whole_words=False)


@pytest.mark.filterwarnings("error")
def test_words_that_are_known_are_not_worth_a_warning(words, factworld_tokenizer):
    check_words(words, [request("the king of", "Spain")], "mine.jsonl", whole_words=True)
    check_words(words, [], "mine.jsonl", whole_words=True)
    own = list(FactWorld().requests("test", random.Random(0)))[:700]
    check_words(factworld_tokenizer, own, "factworld", whole_words=True)
    facts = [request("the emperor of", "Portugal")]
    check_words(factworld_tokenizer, facts, "english", whole_words=False)


def test_the_bundled_model_says_which_share_of_the_words_it_was_not_trained_on():
    message = r"requests: 52% of the words of .*, and 100% of those of the targets, are none that"
    with pytest.warns(UserWarning, match=message):
        make_task("knowledge/custom", model="factlm", requests=str(FACTS))


@pytest.mark.filterwarnings("error:requests")
def test_a_model_of_whatever_texts_is_given_any(tiny_lm, tmp_path):
    file = tmp_path / "mine.jsonl"
    lines = [json.loads(line) for line in FACTS.read_text(encoding="utf-8").splitlines()]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_task("knowledge/custom", model=tiny_lm, requests=str(file))
