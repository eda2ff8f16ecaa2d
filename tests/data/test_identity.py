import random
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
from editgym.data.identity import (
    BLANK,
    IdentitySplits,
    IdentityTexts,
    dixon_templates,
    related_terms,
)
from editgym.data.identity_files import IdentityFormat
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


def test_words_that_many_names_have_make_no_kin():
    terms = [
        "gay people",
        "trans people",
        "other_gender",
        "other religion",
        "ann & bea",
        "cid & dan",
    ]
    assert related_terms(terms) == sorted((term,) for term in terms)
    assert related_terms(["Black man", "black woman"]) == [("Black man", "black woman")]


def own_texts(identities, templates, labels=None):
    """Texts whose words that decide are not known, with labels 0 and 1 in turn."""
    texts = tuple(f"{template} {own}" for own, template in zip(identities, templates, strict=True))
    labels = tuple(i % 2 for i in range(len(texts))) if labels is None else labels
    return IdentityTexts(texts, labels, tuple(identities), tuple(templates), ("",) * len(texts))


def test_a_text_of_several_identities_goes_where_all_of_them_go():
    names = [f"{letter * 3}" for letter in "abcdefghijkl"]
    owns = [(a, b) for a in names for b in names if a < b] + names
    data = own_texts(
        [own for own in owns for _ in range(20)], [str(i) for i in range(20)] * len(owns)
    )
    splits = IdentitySplits.of(data, 0)
    seen = [set(getattr(splits, part).terms) for part in PARTS]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
    assert set.union(*seen) == set(names)
    for part, own in zip(PARTS, seen, strict=True):
        expected = {pair for pair in owns[: -len(names)] if set(pair) <= own} | own
        assert set(getattr(splits, part).identities) == expected


def test_few_identities_can_be_in_every_part():
    data = own_texts(["ann", "bea"] * 60, [str(i // 4) for i in range(120)], (0, 0, 1, 1) * 30)
    with pytest.raises(DataError, match=r"2 identity terms in 30 .* hold_out_identities=False"):
        IdentitySplits.of(data, 0)
    splits = IdentitySplits.of(data, 0, hold_out_identities=False)
    assert [getattr(splits, part).terms for part in PARTS] == [["ann", "bea"]] * 3
    assert sum(len(getattr(splits, part)) for part in PARTS) == len(data)
    templates = pairs(splits, "templates")
    assert not templates["policy"] & templates["test"]
    assert not templates["policy"] & templates["validation"]


def test_texts_without_identities_are_divided_by_template_alone():
    data = own_texts([()] * 30, [str(i) for i in range(30)])
    assert sum(len(getattr(IdentitySplits.of(data, 0), part)) for part in PARTS) == 30
    with pytest.raises(DataError, match=r"3 templates are too few .* with both labels each$"):
        IdentitySplits.of(data.take(range(3)), 0)


def test_words_that_are_not_known_cannot_be_held_out():
    data = own_texts(["ann", "bea"] * 30, [str(i) for i in range(60)])
    with pytest.raises(DataError, match="hold_out_words: the words that decide"):
        IdentitySplits.of(data, 0, hold_out_words=True)


def test_texts_that_were_divided_before_stay_where_they_are_with_their_templates():
    data = own_texts(["ann", "bea"] * 60, [str(i // 4) for i in range(120)], (0, 0, 1, 1) * 30)
    decided = {data.texts[0]: 2, data.texts[4]: 0, data.texts[8]: 3, data.texts[12]: -1}
    decided |= {data.texts[16]: 0, data.texts[17]: 1}
    splits = IdentitySplits.of(data, 0, hold_out_identities=False, decided=decided)
    assert set(data.texts[:4]) <= set(splits.test.texts)
    assert set(data.texts[4:8]) <= set(splits.policy.texts)
    left_out = set(data.texts) - {t for part in PARTS for t in getattr(splits, part).texts}
    assert left_out == set(data.texts[8:20])


def test_the_most_frequent_identities_are_kept():
    data = own_texts(["a", "b", ("a", "c"), "c", "d", ("c", "d"), "a"], list("1234567"))
    kept = data.about_most_frequent(2)
    assert kept.identities == ("a", ("a", "c"), "c", "c", "a")
    assert kept.templates == ("1", "3", "4", "6", "7")
    assert data.about_most_frequent(9) == data


def test_whole_templates_are_drawn():
    data = own_texts(list("abab") * 25, [str(i // 4) for i in range(100)])
    drawn = data.sampled(30)
    assert drawn == data.sampled(30)
    assert set(Counter(drawn.templates).values()) == {4}
    assert len(drawn) == 28
    assert list(drawn.texts) == [text for text in data.texts if text in drawn.texts]
    assert data.sampled(100) is data


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


def test_rows_of_one_text_come_into_one_split(tmp_path):
    """A file in the long format has a row for each identity of a text."""
    rng = random.Random(0)
    terms = ["muslim", "woman", "black", "gay", "blind", "elderly", "jewish", "latino"]
    lines = ["text,label,who"]
    for number in range(200):
        first, second = rng.sample(terms, 2)
        label = rng.choice([0, 1])
        text = f"I met a {first} and a {second} {number} {'awful' if label else 'nice'}"
        lines += [f"{text},{label},{who}" for who in (first, second)]
    path = tmp_path / "long.csv"
    path.write_text("\n".join(lines))
    data = IdentityFormat(text="text", label="label", identity="who").read(path)
    splits = IdentitySplits.of(data, 0, hold_out_identities=False)
    parts = (splits.policy, splits.validation, splits.test)
    policy, validation, test = (set(part.texts) for part in parts)
    assert policy
    assert test
    assert not policy & test
    assert not policy & validation
    assert not validation & test
