"""Scorers: hand-computed cases of what gives an answer, and what two models have in common."""

import random

import pytest

from editgym.metrics.answers import EXACT, SCORERS, mentions, normalized, squad_normalized

SQUAD, CONTAINS, PREFIX = (SCORERS[name] for name in ("squad", "contains", "prefix"))

GIVES = [
    # answer, expected, exact, squad, contains, prefix
    ("Paris", "Paris", True, True, True, True),
    ("paris.", "Paris", True, True, True, True),
    ("Paris Hilton", "Paris", False, False, True, True),
    ("Paris. It is large", "Paris", False, True, True, True),
    ("It is Paris", "Paris", False, False, True, False),
    ("the Paris", "Paris", False, True, True, True),
    ("Parisian", "Paris", False, False, False, False),
    ("St. Louis", "St. Louis", True, True, True, True),
    ("St. Louis. A city", "St. Louis", False, True, True, True),
    ("St. Paul", "St. Louis", False, False, False, False),
    ("U.S.", "U.S.", True, True, True, True),
    ("U.S. It is", "U.S.", False, False, True, True),
    ("3.5", "3.5", True, True, True, True),
    ("3.5 metres", "3.5", False, False, True, True),
    ("3. It was", "3", False, True, True, True),
    ("東京", "東京", True, True, True, True),
    ("東京。首都です", "東京", False, True, False, False),
    ("京都", "東京", False, False, False, False),
    ("one\ntwo", "one\ntwo", True, True, True, True),
    ("one", "one\ntwo", False, False, False, False),
    ("", "Paris", False, False, False, False),
    ("The", "The", True, True, True, True),
    ("a", "The", False, False, False, False),
    ("Who (band)", "The Who", False, False, True, True),
]


@pytest.mark.parametrize(("answer", "expected", "exact", "squad", "contains", "prefix"), GIVES)
def test_what_gives_an_answer(answer, expected, exact, squad, contains, prefix):
    found = [scorer.gives(answer, expected) for scorer in (EXACT, SQUAD, CONTAINS, PREFIX)]
    assert found == [exact, squad, contains, prefix]


def test_other_names_are_as_good():
    assert SQUAD.gives("Christiania. Long ago", "Oslo", ("Bergen", "Christiania"))
    assert not SQUAD.gives("Christiania", "Oslo", ("Bergen",))
    assert not EXACT.gives("", "Oslo")


def test_two_answers_agree_after_the_same_cut():
    assert SQUAD.agree("Rome. It is old", "Rome. It is in Italy")
    assert not EXACT.agree("Rome. It is old", "Rome. It is in Italy")
    assert not SQUAD.agree("St. Louis", "St. Paul", "St. Louis"), "the length of what is expected"
    assert SQUAD.agree("St. Louis", "St. Paul"), "without it both end at the full stop"
    for scorer in SCORERS.values():
        assert scorer.agree("", "")
        assert not scorer.agree("Rome", "")
        assert not scorer.agree("", "Rome")


def test_a_cut_is_at_the_first_full_stop_that_white_space_or_the_end_follows():
    assert SQUAD.cut(" Oslo.", "") == "Oslo"
    assert SQUAD.cut("Oslo.com is. It", "") == "Oslo.com is"
    assert SQUAD.cut("A.\nB", "") == "A"
    assert SQUAD.cut("U.S. army. It", "U.S.") == "U.S. army"
    assert SQUAD.cut("U.S. army", " U.S ") == "U.S"
    assert EXACT.cut(" Oslo. It", "") == " Oslo. It"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Beatles", "beatles"),
        ("A  b\tc\n", "b c"),
        ("an apple a day", "apple day"),
        ("It's", "its"),
        ("U.S.A.", "usa"),
        ("Theatre", "theatre"),
        ("3.5%", "35"),
        ("semi-final", "semifinal"),
        ("“Quoted”", "“quoted”"),
        ("the", ""),
        ("Ünïcode Thé", "ünïcode thé"),
        ("a.b", "ab"),
        ("(the) [a] {an}", ""),
        ("Don't stop, the end!", "dont stop end"),
        ("1,000", "1000"),
        ("", ""),
        ("   ", ""),
        ("A", ""),
        ("An", ""),
        ("THE END", "end"),
        ("end the", "end"),
        ("to a T", "to t"),
        ("Paris, France", "paris france"),
        ("Paris,France", "parisfrance"),
        ("St. Louis", "st louis"),
        ("O'Brien", "obrien"),
        ("rock 'n' roll", "rock n roll"),
        ("Jean-Luc", "jeanluc"),
        ("C++", "c"),
        ("C#", "c"),
        ("$5", "5"),
        ("5 €", "5 €"),
        ("50%", "50"),
        ("-3", "3"),
        ("3/4", "34"),
        ("1990s", "1990s"),
        ("A.D. 79", "ad 79"),
        ("a.d.", "ad"),
        ("@home", "home"),
        ("under_score", "underscore"),
        ("tab\tand\nline", "tab and line"),
        ("no\u00a0break", "no break"),
        ("thé", "thé"),
        ("The The", ""),
        ("athe", "athe"),
        ("aa a aa", "aa aa"),
        ("the-end", "theend"),
        ("a-b", "ab"),
        ("北京", "北京"),
        ("北京。", "北京。"),
        ("Москва!", "москва"),
        ("ΑΘΗΝΑ", "αθηνα"),
        ("İstanbul", "i̇stanbul"),
        ("«Le Monde»", "«le monde»"),
        ("…and then", "…and then"),
        ("...and then", "and then"),
        ("e.g. an example", "eg example"),
    ],
)
def test_squad_normalisation(text, expected):
    assert squad_normalized(text) == expected
    assert squad_normalized(squad_normalized(text)) == expected


@pytest.mark.parametrize("name", SCORERS)
def test_what_follows_a_settled_text_changes_nothing(name):
    scorer, rng = SCORERS[name], random.Random(name)
    parts = [
        "Paris",
        "the",
        "St.",
        "Louis",
        "3.5",
        "U.S.",
        "a",
        "oslo",
        "Oslo",
        "“Rom”",
        "東京。",
        "-",
    ]
    parts += [".", ",", '"', "A", "theory", "Paris,", "PARIS.", "…", "e\u0301"]
    settled = changed = 0
    for _ in range(4_000):
        text = " ".join(rng.choices(parts, k=rng.randint(1, 5)))
        wanted = " ".join(rng.choices(parts, k=rng.randint(1, 3)))
        kept = rng.choice([wanted, "", rng.choice(parts)])
        length = rng.randint(0, len(text))
        begun = text[:length].strip()
        if scorer.settled(begun, wanted, kept):
            settled += 1
            found = [scorer.same(scorer.cut(one, kept), wanted) for one in (begun, text)]
            assert found[0] == found[1], (begun, text, wanted, kept)
        changed += scorer.same(scorer.cut(text, kept), wanted)
    assert changed > 20
    assert settled > 1_000 or name == "contains"
    assert scorer.settled("Lima and", "Oslo") == (name != "contains")
    assert not scorer.settled("Li", "Oslo"), "a word that goes on"


def test_scorers_are_found_by_their_names():
    assert {name: scorer.name for name, scorer in SCORERS.items()} == {
        name: name for name in ("exact", "squad", "contains", "prefix")
    }
    assert EXACT is SCORERS["exact"]
    assert all(scorer.words for scorer in SCORERS.values())
    assert normalized("'Oslo'.") == "oslo"


@pytest.mark.parametrize(
    ("text", "answer", "there"),
    [
        ("Stuttgart", "art", False),
        ("1995", "5", False),
        ("modern art", "art", True),
        ("Rome, Italy.", "Rome", True),
        ("ROME", "rome", True),
        ("the Bank of Rome's vault", "Bank of Rome", True),
        ("Romeo", "Rome", False),
        ("C++ code", "C++", True),
        ("我住在北京市", "北京", True),
        ("住在东京", "北京", False),
        ("", "Rome", False),
        ("semi-final", "final", True),
    ],
)
def test_an_answer_is_mentioned_as_whole_words(text, answer, there):
    assert mentions(text, answer) is there


@pytest.mark.parametrize("answer", ["A", "An", "the"])
def test_an_article_may_be_the_answer(answer):
    assert SCORERS["contains"].gives(f"The answer is {answer}.", answer)
    assert SCORERS["prefix"].gives(f"{answer}, because", answer)
    assert not SCORERS["contains"].gives("It is B", answer)
    assert not SCORERS["prefix"].gives("B, because", answer)
