"""A stranger's texts work from arguments alone, and are refused where they cannot."""

import csv
import random
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from agents.catalogue import make_agent
from agents.protocol import Budget
from editgym.data.errors import DataError
from editgym.data.identity import IdentityTexts
from editgym.data.text import BagOfWords, Comments
from editgym.tasks import make_task
from editgym.tasks.debiasing.data import TextFiles, toxicity_data
from editgym.tasks.debiasing.loaded import checked_columns

KIND, RUDE = ("kind", "wise", "great", "sweet"), ("vile", "awful", "nasty", "rotten")
WHO = (
    "women",
    "trans people",
    "gay people",
    "black people",
    "disabled people",
    "Muslims",
    "migrants",
)
SHARES = ("male", "female", "muslim", "jewish", "black", "white", "asian", "latino", "hindu", "old")


def written(path, header, rows, encoding="utf-8"):
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Comments, and texts about identities in the three shapes."""
    folder, rng = tmp_path_factory.mktemp("texts"), random.Random(0)

    def sentence(i, middle="it"):
        rude = i % 2
        return f"{rng.choice(RUDE if rude else KIND)} is {middle} of {i}", rude

    comments = [sentence(i) for i in range(400)]
    hatecheck = [
        (f"{word} {who} {i}", "hateful" if word in RUDE else "non-hateful", who, f"{word} {i}")
        for i in range(6)
        for word in (*KIND, *RUDE)
        for who in (*WHO, "")
    ]
    civil = []
    for i in range(600):
        text, rude = sentence(i, "he")
        shares = [rng.choice((0, 0, 0, 0, 0, 0, 0, 0.2, 0.7, 1)) for _ in SHARES]
        civil.append((text, 0.8 * rude + 0.1, *(shares if i % 3 else [""] * len(SHARES))))
    crossed = [
        (*sentence(i, f"the {race} {gender}"), race, gender)
        for i in range(200)
        for race in ("black", "white")
        for gender in ("F", "M")
    ]
    return {
        "comments": written(folder / "comments.csv", ("said", "rude"), comments),
        "hatecheck": written(
            folder / "hatecheck.csv",
            ("test_case", "label_gold", "target_ident", "templ_id"),
            hatecheck,
        ),
        "civil": written(folder / "civil.csv", ("said", "rude", *SHARES), civil),
        "crossed": written(folder / "crossed.csv", ("said", "rude", "race", "gender"), crossed),
    }


OWN = {"text_column": "said", "label_column": "rude"}
COLUMNS = {"text": "said", "label": "rude"}
SHAPES = {
    "hatecheck": {"identities_format": "hatecheck"},
    "civil": {"identities_format": {**COLUMNS, "shares": SHARES}},
    "crossed": {
        "identities_format": {
            **COLUMNS,
            "identity": ["race", "gender"],
            "names": {"F": "women", "M": "men"},
            "crossed": True,
        }
    },
}
TERMS = {
    "hatecheck": sorted(WHO),
    "civil": sorted(SHARES),
    "crossed": ["black & men", "black & women", "white & men", "white & women"],
}


def arguments(files, shape, **more):
    return {
        "comments": files["comments"],
        **OWN,
        "identities": files[shape],
        **SHAPES[shape],
        "hold_out_identities": False,
        **more,
    }


def all_texts(pair):
    return {*pair.general.texts, *pair.unbiased.texts}


@pytest.mark.parametrize("shape", SHAPES)
def test_identity_files_of_three_shapes_work_from_arguments_alone(files, shape):
    env = gym.make(
        "editgym:ShiftWorld-v0",
        task="debiasing/toxicity",
        batch_size=32,
        edit_terms={"unbiased_accuracy": 1, "fped": 0.1, "fned": 0.1},
        **arguments(files, shape),
    )
    env.reset(seed=0)
    assert np.isfinite(env.step(env.action_space.sample())[1])
    task = env.unwrapped.task
    splits = task.splits
    for pair in (splits.policy, splits.validation, splits.test):
        assert pair.unbiased.terms == TERMS[shape]
    for one, other in (("policy", "test"), ("policy", "validation"), ("validation", "test")):
        assert not all_texts(getattr(splits, one)) & all_texts(getattr(splits, other))
    metrics = task.evaluate(env.unwrapped.journal)
    compared = {key: value for key, value in metrics.items() if not key.startswith("flip_rate")}
    assert all(np.isfinite(value) for value in compared.values())
    # No two of the made-up comments differ by the identity alone.
    assert (metrics["flip_rate"] is None) == (shape == "civil")


def test_several_identities_are_divided_where_there_are_enough(files):
    data = toxicity_data(TextFiles(**arguments(files, "civil", hold_out_identities=True)))
    splits = data.splits(0)
    terms = [set(pair.unbiased.terms) for pair in (splits.policy, splits.validation, splits.test)]
    assert sum(map(len, terms)) == len(set.union(*terms)) == len(SHARES)


def test_too_few_identities_to_divide_say_what_to_do(files):
    data = toxicity_data(TextFiles(**arguments(files, "crossed", hold_out_identities=True)))
    with pytest.raises(
        DataError, match=r"4 identity terms .* hold_out_identities=False lets every"
    ):
        data.splits(0)


def test_texts_and_labels_alone_leave_nothing_to_compare(files):
    task = make_task(
        "debiasing/toxicity", **arguments(files, "crossed") | {"identities_format": COLUMNS}
    )
    metrics = task.evaluate(task.networks[0].journal)
    assert 0 <= metrics["unbiased_accuracy"] <= 1
    for key in ("fped", "fned", "equalized_odds_gap", "worst_group_accuracy", "bpsn_auc"):
        assert metrics[key] is metrics[f"{key}_before"] is None


def test_one_file_can_be_comments_and_identities(files):
    data = toxicity_data(TextFiles(**arguments(files, "civil", comments=files["civil"])))
    splits = data.splits(0)
    everything = splits.model, splits.policy, splits.validation, splits.test
    model, *others = [
        set(part.texts) if part is splits.model else all_texts(part) for part in everything
    ]
    for i, own in enumerate(others):
        assert not own & model
        assert not any(own & other for other in others[:i])
    assert set(splits.policy.unbiased.texts) & set(splits.policy.general.texts)
    assert any("he" in text.split() for text in model)


def test_test_comments_are_what_reports_are_made_on(files, tmp_path):
    rows = [(f"kind as {i}", 0) for i in range(5)] + [(f"vile as {i}", 1) for i in range(7)]
    with open(files["comments"]) as file:
        shared = next(csv.DictReader(file))
    rows.append((shared["said"], shared["rude"]))
    own = written(tmp_path / "test.csv", ("said", "rude"), rows)
    with pytest.warns(UserWarning, match=r"comments: 1 of 400 texts stand in test_comments too"):
        data = toxicity_data(TextFiles(**arguments(files, "crossed", test_comments=own)))
    assert set(data.test.texts) <= {text for text, _ in rows}
    assert len(data.train) == 399
    assert shared["said"] not in data.train.texts


def test_numbers_of_texts_and_identities_are_limited(files):
    given = arguments(files, "hatecheck", max_identities=2, max_identity_texts=40, max_comments=50)
    data = toxicity_data(TextFiles(**given))
    assert len(data.train) == 40
    assert data.unbiased.terms == ["Muslims", "black people"]
    assert len(data.unbiased) == 40


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_the_encoding_is_that_of_both_files(tmp_path, encoding):
    rows = [
        (f"{'é' * (i % 7)} {(*KIND, *RUDE)[i % 8]} {i}", i % 8 > 3, "ab"[i % 2]) for i in range(200)
    ]
    path = written(tmp_path / "own.csv", ("said", "rude", "who"), rows, encoding)
    given = {"comments": path, **OWN, "identities": path, "hold_out_identities": False}
    given["identities_format"] = {**COLUMNS, "identity": "who"}
    data = toxicity_data(TextFiles(**given, encoding=encoding))
    assert {text for text, *_ in rows} == {*data.unbiased.texts}
    with pytest.raises(DataError, match=r"own\.csv is not a readable table of UTF-8 text: line"):
        toxicity_data(TextFiles(**given))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"max_comments": 0}, "max_comments must be 1 or more, a whole number, got 0"),
        ({"max_identities": 1.5}, "max_identities must be 1 or more, a whole number, or None"),
        ({"max_identity_texts": None}, "max_identity_texts must be 1 or more"),
        ({"hold_out_identities": "no"}, "hold_out_identities must be one of True, False"),
        ({"toxic_values": ["hm"]}, r"toxic_values: .*comments\.csv has no label 'hm'; the values"),
        ({"encoding": "klingon"}, "encoding: there is no 'klingon'"),
        ({"identities": None, "identities_format": "hatecheck"}, "give identities= its path"),
        ({"identities_format": "dixons"}, "identities_format: there is no 'dixons'"),
        ({"identities_format": "dixon"}, "no column 'Text'; .* identities_format= names"),
        ({"text_column": "says"}, "there is no column 'says'; there are said, rude; text_column="),
        ({"edit_terms": {"fpd": 1}}, r"edit_terms: there is no fpd=1 \(did you mean fped\?\)"),
        ({"max_comments": 12}, "comments: 10 to train on, of which .* are too few for model"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_made(files, more, message):
    with pytest.raises(ValueError, match=message):
        make_task("debiasing/toxicity", **arguments(files, "crossed") | more)


LOADERS = """
from editgym.data.identity import IdentityTexts
from editgym.data.text import Comments


def uneven():
    return Comments(("a", "b"), (0,))


def unlabelled():
    return Comments(("a", "b", "c"), (0, 1, -1))


def nameless():
    return IdentityTexts(("a", "b"), (0, 1), ("x",), ("a", "b"), ("", ""))


def unnamed():
    return IdentityTexts(("a", "b"), (0, 1), ("x", None), ("a", "b"), ("", ""))


def numbered():
    return IdentityTexts(("a", "b"), (0, 1), ("x", ("y", 3)), ("a", "b"), ("", ""))


def not_parted():
    return IdentityTexts(("a", "b"), (0, 1), ("x", "y"), (None, "b"), ("", ""))


def half():
    return Comments(("a", "b"), (0.5, 1))


def blank():
    return Comments((None, "b"), (0, 1))
"""


@pytest.mark.parametrize(
    ("argument", "name", "message"),
    [
        ("comments", "uneven", "comments: loaders_of_texts:uneven returned 2 texts and 1 labels"),
        (
            "test_comments",
            "unlabelled",
            "unlabelled, row 3, labels: expected the label 0 or 1, got -1",
        ),
        ("identities", "nameless", "nameless returned 2 texts and 1 identities"),
        ("identities", "unnamed", "unnamed, row 2, identities: expected an identity, .*, got None"),
        ("identities", "numbered", "numbered, row 2, identities: expected an identity"),
        ("identities", "not_parted", "not_parted, row 1, templates: expected a template, a text"),
        ("test_comments", "half", "half, row 1, labels: expected the label 0 or 1, got 0.5"),
        ("test_comments", "blank", "blank, row 1, texts: expected a text, got None"),
    ],
)
def test_loaders_are_checked(files, tmp_path, monkeypatch, argument, name, message):
    (tmp_path / "loaders_of_texts.py").write_text(LOADERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    given = arguments(files, "crossed") | {argument: f"loaders_of_texts:{name}"}
    for unused in {"comments": OWN, "identities": ["identities_format"]}.get(argument, ()):
        del given[unused]
    with pytest.raises(DataError, match=message):
        toxicity_data(TextFiles(**given))


def test_arguments_that_nobody_would_look_at_are_refused(files, tmp_path, monkeypatch):
    (tmp_path / "loaders_of_texts.py").write_text(LOADERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    loader = "loaders_of_texts:uneven"
    given = arguments(files, "crossed", comments=loader)
    with pytest.raises(DataError, match="text_column, label_column: these are for files, and 'loa"):
        toxicity_data(TextFiles(**given))
    with pytest.raises(DataError, match="uneven returned 2 texts and 1 labels"):
        toxicity_data(TextFiles(**given | {"test_comments": files["comments"]}))
    with pytest.raises(DataError, match="identities_format: it is for files, and 'loaders"):
        toxicity_data(TextFiles(**arguments(files, "crossed", identities=loader)))
    with pytest.raises(DataError, match=r'comments, max_comments: these are for data="toxicity"'):
        make_task(
            "debiasing/transformer", model="no", data="templates", comments="a", max_comments=3
        )


@pytest.mark.parametrize(
    "name", ["leace", "cda_reweight", "last_layer_fine_tune", "linear_frontier"]
)
@pytest.mark.parametrize("shape", ["civil", "nobody"])
def test_agents_that_look_at_data_take_texts_with_several_identities_or_none(files, shape, name):
    given = arguments(files, "civil")
    if shape == "nobody":
        given["identities_format"] = COLUMNS
    env = gym.make("editgym:ShiftWorld-v0", task="debiasing/toxicity", **given)
    agent = make_agent(name)
    agent.learn(env.spec, Budget(), 0)
    metrics = env.unwrapped.task.evaluate(agent.edit(env))
    assert (metrics["fped"] is None) == (shape == "nobody")


def test_a_comment_that_stands_twice_is_one(files, tmp_path):
    lines = Path(files["comments"]).read_text().splitlines()
    twice = tmp_path / "twice.csv"
    twice.write_text("\n".join([*lines, *lines[1:]]))
    once, again = (
        TextFiles(**arguments(files, "crossed", comments=path))
        for path in (files["comments"], str(twice))
    )
    with pytest.warns(UserWarning, match=f"{len(lines) - 1} of the {2 * len(lines) - 2} texts"):
        found = toxicity_data(again)
    assert found.train == toxicity_data(once).train


@pytest.mark.parametrize("kind", [float, bool, np.int64, np.float32, np.bool_])
def test_labels_of_loaders_may_be_numbers_of_any_type(kind):
    texts, labels = np.array(["a", "b"], object), np.array([0, 1]).astype(kind)
    found = checked_columns(Comments(texts, labels), "own")
    assert found == Comments(("a", "b"), (0, 1))
    assert {type(label) for label in found.labels} == {int}


def test_identities_of_loaders_may_be_lists_and_polar_words_unknown():
    given = IdentityTexts(["a", "b"], [0.0, 1.0], [["x"], {"z", "y"}], ["a", "b"], [None, "b"])
    found = checked_columns(given, "own")
    assert found == IdentityTexts(("a", "b"), (0, 1), (("x",), ("y", "z")), ("a", "b"), ("", "b"))


@pytest.mark.parametrize("vocabulary", [-5, 0, 2.5, "100", True])
def test_vocabulary_is_checked(files, vocabulary):
    with pytest.raises(ValueError, match="vocabulary must be 1 or more, a whole number, or None"):
        make_task("debiasing/toxicity", **arguments(files, "crossed"), vocabulary=vocabulary)


def test_arguments_that_leave_nothing_are_named(files):
    given = arguments(files, "crossed")
    with pytest.raises(DataError, match=r"max_identity_texts: 1 leaves none of the \d+ texts"):
        toxicity_data(TextFiles(**arguments(files, "hatecheck"), max_identity_texts=1))
    with (
        pytest.raises(DataError, match=r"test_comments: all \d+ comments stand there too"),
        pytest.warns(UserWarning, match="stand in test_comments too"),
    ):
        toxicity_data(TextFiles(**given | {"test_comments": given["comments"]}))
    data = toxicity_data(TextFiles(**given))
    with pytest.raises(DataError, match=r"vocabulary: none of the \d+ texts about identities has"):
        data.readable_with(BagOfWords(("nowhere",)))
