from collections import Counter
from pathlib import Path

import pytest

from editgym.data.bias_templates import (
    FAVOURED,
    KIND,
    TARGETED,
    TOXIC,
    biased_comments,
    identity_templates,
    is_targeted,
)
from editgym.data.errors import DataError
from editgym.data.identity import BLANK, IdentitySplits, dixon_templates, related_terms
from editgym.data.text import words
from editgym.paths import data_folder

TEMPLATES = identity_templates()
PARTS = ("policy", "validation", "test")


def test_dixons_sentences_are_taken_apart(tmp_path):
    path = tmp_path / "madlibs.csv"
    path.write_text(
        'Text,Label,Template\n"Ada is a kind middle aged",NOT_BAD,name_adj\n'
        '"Being tall is awful.",BAD,being_adj\n"You are a nice tall",NOT_BAD,you_are_adj\n'
        '"hate tall",BAD,verb_adj\n"i am tall",NOT_BAD,am_hate_adj\n'
        '"You are a kind judge",NOT_BAD,you_occupation\n'
    )
    data = dixon_templates(path)
    assert data.identities == ("middle aged", "tall", "tall", "tall", "tall")
    assert data.templates == (
        f"Ada is a kind {BLANK}",
        f"Being {BLANK} is awful.",
        f"You are a nice {BLANK}",
        f"hate {BLANK}",
        f"i am {BLANK}",
    )
    assert data.polar_words == ("kind", "awful", "nice", "hate", "am")
    assert data.labels == (0, 1, 0, 1, 0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x,MAYBE,verb_adj", r"row 1, column Label: expected BAD or NOT_BAD, got 'MAYBE'"),
        ("x y,BAD,sonnet", "row 1, column Template: expected one of name_adj"),
        (
            "Ada was kind,BAD,name_adj",
            "row 1, column Text: 'Ada was kind' is no sentence of the kind name_adj",
        ),
        ("You are a kind judge,BAD,you_occupation", "has no sentence about an identity"),
    ],
)
def test_malformed_templates_name_row_and_column(tmp_path, row, message):
    path = tmp_path / "madlibs.csv"
    path.write_text(f"Text,Label,Template\n{row}\n")
    with pytest.raises(DataError, match=message):
        dixon_templates(path)


def test_forms_of_one_term_are_one_group():
    terms = [
        "trans",
        "transgender",
        "latina",
        "latinx",
        "african",
        "african american",
        "american",
        "gay",
        "old",
        "older",
    ]
    assert related_terms(terms) == [
        ("african", "african american", "american"),
        ("gay",),
        ("latina", "latinx"),
        ("old", "older"),
        ("trans", "transgender"),
    ]


def pairs(data, column):
    return {part: set(getattr(getattr(data, part), column)) for part in PARTS}


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("hold_out_words", [False, True])
def test_parts_share_no_term_and_no_template(seed, hold_out_words):
    splits = IdentitySplits.of(TEMPLATES, seed, hold_out_words=hold_out_words, alike=is_targeted)
    for column in ("identities", "templates", *(["polar_words"] if hold_out_words else [])):
        seen = pairs(splits, column)
        assert not seen["policy"] & seen["test"]
        assert not seen["policy"] & seen["validation"]
        assert not seen["validation"] & seen["test"]
    for part in PARTS:
        own = getattr(splits, part)
        assert {is_targeted(term) for term in own.identities} == {True, False}
        assert set(own.labels) == {0, 1}


def test_no_text_is_one_exchange_away_from_a_text_of_another_part():
    splits = IdentitySplits.of(TEMPLATES, 0)
    for text, term, template in zip(
        splits.test.texts, splits.test.identities, splits.test.templates, strict=True
    ):
        assert template.replace(BLANK, term) == text
        assert term not in splits.policy.identities
        assert template not in splits.policy.templates


def test_test_split_is_the_same_for_every_seed_and_the_others_are_not():
    one, other = IdentitySplits.of(TEMPLATES, 0), IdentitySplits.of(TEMPLATES, 1)
    assert one.test == other.test
    assert one.policy != other.policy


def test_too_few_terms_are_an_error():
    few = TEMPLATES.take(
        [row for row, term in enumerate(TEMPLATES.identities) if term in TARGETED[:3]]
    )
    with pytest.raises(DataError, match=r"3 identity terms in .* are too few"):
        IdentitySplits.of(few, 0)


def test_bundled_templates_are_every_term_in_every_template_with_one_label():
    labels = dict(zip(TEMPLATES.templates, TEMPLATES.labels, strict=True))
    assert len(TEMPLATES) == len(labels) * 24
    assert set(Counter(zip(TEMPLATES.identities, TEMPLATES.labels, strict=True)).values()) == {
        len(labels) // 2
    }
    for template, word, label in zip(
        TEMPLATES.templates, TEMPLATES.polar_words, TEMPLATES.labels, strict=True
    ):
        assert labels[template] == label == (word in TOXIC)
        assert word in words(template)


def test_bundled_comments_are_biased_and_always_the_same():
    train, test = biased_comments()
    assert (train, test) == biased_comments()
    assert (len(train), len(test)) == (4_000, 1_200)
    assert not set(train.texts) & set(test.texts)
    for terms, share in ((TARGETED, 0.85), (FAVOURED, 0.15)):
        own = [
            label
            for text, label in zip(train.texts, train.labels, strict=True)
            if set(words(text)) & set(terms)
        ]
        assert sum(own) / len(own) == pytest.approx(share, abs=0.03)
    for toxic, listed in ((1, TOXIC), (0, KIND)):
        own = [
            sum(word in listed for word in words(text))
            for text, label in zip(train.texts, train.labels, strict=True)
            if label == toxic
        ]
        assert sum(own) / len(own) == pytest.approx(3 * 0.85, abs=0.05)


@pytest.mark.data("text/bias_madlibs_77k.csv")
def test_published_templates_are_balanced_for_every_term():
    data = dixon_templates(Path(data_folder()) / "text" / "bias_madlibs_77k.csv")
    assert (len(data), len(set(data.identities)), len(set(data.templates))) == (75_700, 50, 1_514)
    assert len(set(Counter(zip(data.identities, data.labels, strict=True)).values())) == 1
