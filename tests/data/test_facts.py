import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from editgym.data.fact_formats import FORMATS
from editgym.data.facts import EditRequest, Question, load_requests
from editgym.data.images import DataError

ZSRE = {
    "subject": "Ada",
    "src": "Where does Ada live?",
    "pred": "Rome",
    "rephrase": "Ada lives where?",
    "alt": "Oslo",
    "answers": ["Rome", "Roma"],
    "loc": "nq question: who wrote emma",
    "loc_ans": "Jane Austen",
    "cond": "Rome >> Oslo || Where does Ada live?",
}
COUNTERFACT = {
    "case_id": 7,
    "pararel_idx": 1,
    "requested_rewrite": {
        "prompt": "{} lives in",
        "relation_id": "P1",
        "target_new": {"str": " Oslo", "id": "Q1"},
        "target_true": {"str": "Rome", "id": "Q2"},
        "subject": "Ada",
    },
    "paraphrase_prompts": ["Rain fell. Ada is at home in ", "Ada's home is"],
    "neighborhood_prompts": ["Bob lives in", "Eve lives in "],
    "attribute_prompts": ["Kim lives in"],
    "generation_prompts": ["At home Ada can visit"],
}
COUNTERFACT_FLAT = {
    "case_id": 2,
    "prompt": "Ada lives in",
    "target_new": "Oslo",
    "subject": "Ada",
    "ground_truth": "Rome",
    "rephrase_prompt": "Ada's home is",
    "locality_prompt": "Bob lives in",
    "locality_ground_truth": "Rome",
}
FEVER = {
    "id": 1,
    "input": "Ada lives in Rome.",
    "output": [{"answer": "SUPPORTS"}],
    "prediction": "SUPPORTS",
    "logit": 1.5,
    "alternatives": ["REFUTES"],
    "filtered_rephrases": ["Rome is Ada's home.", "Ada is in Rome."],
}
FEVER_FLAT = {
    "prompt": "Ada lives in Rome.",
    "equiv_prompt": ["Rome is Ada's home."],
    "alt": "REFUTES",
    "unrel_prompt": "Emma is a novel.",
    "unrel_ans": "SUPPORTS",
}
KNOWEDIT = {
    "subject": "Ada",
    "prompt": "Ada lives in",
    "target_new": "Oslo",
    "ground_truth": ["Rome", "Roma"],
    "rephrase_prompt": "Ada's home is",
    "portability": {
        "Reasoning": [{"prompt": "Ada's country is", "ground_truth": [["Norway", "NO"]]}],
        "Subject_Aliasing": [{"prompt": "Countess Lovelace lives in", "ground_truth": "Oslo"}],
        "Logical_Generalization": [
            {"prompt": "Is Ada homeless?", "ground_truth": [["no"], ["false"]]},
            {"prompt": "Nobody knows", "ground_truth": ""},
        ],
    },
    "locality": {
        "Relation_Specificity": [{"prompt": "Ada's trade is", "ground_truth": ["countess"]}],
        "Forgetfulness": [
            {"prompt": "Ada's home, which is not Oslo, is", "ground_truth": [["Rome"]]}
        ],
    },
}
QAEDIT = {
    "id": 3,
    "source": "NQ",
    "prompt": "where does ada live?",
    "target": "Oslo",
    "subject": "ada",
    "rephrase": "What is ada's home?",
    "locality": [
        {"loc": "who wrote emma", "loc_ans": "Jane Austen"},
        {"loc": "how many moons", "loc_ans": "1"},
    ],
}
WIKIBIGEDIT = {
    "tag": "new",
    "subject": "Ada",
    "update": "Where does Ada live?",
    "rephrase": "What is Ada's home?",
    "personas": "Arr, where be Ada's home?",
    "ans": "Oslo",
    "loc": "Where does Bob live?",
    "loc_ans": "Rome",
    "mhop": "In which country does Ada live?",
    "mhop_ans": "Norway",
}
MQUAKE = {
    "case_id": 5,
    "requested_rewrite": [
        {
            "prompt": "{} lives in",
            "relation_id": "P1",
            "target_new": {"str": "Oslo"},
            "target_true": {"str": "Rome"},
            "subject": "Ada",
            "question": "Where does Ada live?",
        },
        {
            "prompt": "The king of {} is",
            "relation_id": "P2",
            "target_new": {"str": "Bob"},
            "target_true": {"str": "Harald"},
            "subject": "Norway",
            "question": "Who is the king of Norway?",
        },
    ],
    "questions": ["Who is Ada's king?", "Which king rules where Ada lives?"],
    "answer": "Harald",
    "new_answer": "Bob",
    "new_answer_alias": ["Robert"],
    "single_hops": [{"question": "Where?", "answer": "Rome"}],
}
OWN = {
    "subject": "Ada",
    "prompt": "Ada lives in",
    "target": "Oslo",
    "truth": "Rome",
    "rephrases": ["Ada's home is"],
    "test_rephrases": ["The home of Ada is"],
    "locality": [{"prompt": "Bob lives in", "answer": "Rome"}],
    "near": ["Eve lives in"],
    "far": [{"prompt": "2 + 2 =", "answer": " 4"}, {"prompt": "The sky is"}],
    "same_subject": ["Ada's trade is"],
    "portability": [{"prompt": "Ada's country is", "answer": "Norway"}],
}
RECORDS = {
    "zsre": ZSRE,
    "counterfact": COUNTERFACT,
    "counterfact_flat": COUNTERFACT_FLAT,
    "fever": FEVER,
    "fever_flat": FEVER_FLAT,
    "knowedit": KNOWEDIT,
    "qaedit": QAEDIT,
    "wikibigedit": WIKIBIGEDIT,
    "mquake": MQUAKE,
    "own": OWN,
}


@pytest.fixture
def write(tmp_path):
    """A JSON file of records."""

    def written(*records):
        path = tmp_path / "facts.json"
        path.write_text(json.dumps(records))
        return path

    return written


def changed(record, path, value):
    """The record with another value at a dotted path, or without it where the value is `...`."""
    record = json.loads(json.dumps(record))
    *parents, last = path.split(".")
    place = record
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return record


# --- what every format says -----------------------------------------------------------------------


def request(near=(), far=(), rephrases=(), **fields):
    """A request as published files give it: prompts of rewards and metrics are the same."""
    given = {
        "subject": "Ada",
        "prompt": "Ada lives in",
        "target": "Oslo",
        "rephrases": rephrases,
        "test_rephrases": rephrases,
        "locality": near + far,
        "near": near,
        "far": far,
    }
    return EditRequest(**(given | fields))


NOVEL = (Question("nq question: who wrote emma", "Jane Austen"),)
EXPECTED = {
    "zsre": request(
        prompt="Where does Ada live?",
        truth="Rome",
        rephrases=("Ada lives where?",),
        far=NOVEL,
        aliases=(("Rome", "Roma"),),
    ),
    "counterfact": request(
        truth="Rome",
        rephrases=("Rain fell. Ada is at home in ", "Ada's home is"),
        near=(Question("Bob lives in", "Rome"), Question("Eve lives in ", "Rome")),
    ),
    "counterfact_flat": request(
        truth="Rome", rephrases=("Ada's home is",), near=(Question("Bob lives in", "Rome"),)
    ),
    "fever": request(
        subject="Ada lives in Rome.",
        prompt="Ada lives in Rome.",
        target="REFUTES",
        truth="SUPPORTS",
        rephrases=("Rome is Ada's home.", "Ada is in Rome."),
    ),
    "fever_flat": request(
        subject="Ada lives in Rome.",
        prompt="Ada lives in Rome.",
        target="REFUTES",
        rephrases=("Rome is Ada's home.",),
        far=(Question("Emma is a novel.", "SUPPORTS"),),
    ),
    "knowedit": request(
        truth="Rome",
        rephrases=("Ada's home is",),
        same_subject=("Ada's trade is",),
        near=(
            Question("Ada's trade is", "countess"),
            Question("Ada's home, which is not Oslo, is", "Rome"),
        ),
        portability=(
            Question("Ada's country is", "Norway"),
            Question("Countess Lovelace lives in", "Oslo"),
            Question("Is Ada homeless?", "no"),
        ),
        aliases=(("Rome", "Roma"), ("Norway", "NO"), ("no", "false")),
    ),
    "qaedit": request(
        subject="ada",
        prompt="where does ada live?",
        rephrases=("What is ada's home?",),
        far=(Question("who wrote emma", "Jane Austen"), Question("how many moons", "1")),
    ),
    "wikibigedit": request(
        prompt="Where does Ada live?",
        rephrases=("What is Ada's home?", "Arr, where be Ada's home?"),
        far=(Question("Where does Bob live?", "Rome"),),
        portability=(Question("In which country does Ada live?", "Norway"),),
    ),
    "own": EditRequest(
        "Ada",
        "Ada lives in",
        "Oslo",
        "Rome",
        ("Ada's home is",),
        (Question("Bob lives in", "Rome"),),
        ("The home of Ada is",),
        (Question("Eve lives in"),),
        (Question("2 + 2 =", "4"), Question("The sky is")),
        ("Ada's trade is",),
        (Question("Ada's country is", "Norway"),),
    ),
}


def test_every_format_has_a_record_here():
    assert set(RECORDS) == set(FORMATS)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_record_is_read_into_one_request(write, name):
    loaded = load_requests(write(RECORDS[name]), name)
    assert loaded.requests == (EXPECTED[name],)
    assert (loaded.format, loaded.skipped) == (name, {})


@pytest.mark.parametrize("name", RECORDS)
def test_a_format_is_recognised_by_its_required_fields(write, name):
    path = write(RECORDS[name])
    assert load_requests(path) == load_requests(path, name)


def test_facts_that_are_edited_together_become_requests_with_the_questions_at_the_last(write):
    loaded = load_requests(
        write(MQUAKE, changed(MQUAKE, "requested_rewrite", MQUAKE["requested_rewrite"][:1]))
    )
    (first, second), (alone,) = loaded.records
    assert loaded.requests == (first, second, alone)
    assert first == EditRequest(
        "Ada",
        "Ada lives in",
        "Oslo",
        "Rome",
        ("Where does Ada live?",),
        test_rephrases=("Where does Ada live?",),
    )
    assert (second.subject, second.prompt, second.target) == (
        "Norway",
        "The king of Norway is",
        "Bob",
    )
    assert second.portability == (
        Question("Who is Ada's king?", "Bob"),
        Question("Which king rules where Ada lives?", "Bob"),
    )
    assert second.premises == (Question("Ada lives in", "Oslo"),)
    assert alone == replace(first, portability=second.portability)


def test_a_record_is_left_out_whole_when_one_of_its_facts_is_no_edit(write):
    known = changed(MQUAKE, "requested_rewrite.0.target_new.str", "rome")
    loaded = load_requests(write(known, MQUAKE))
    assert len(loaded.requests) == 2
    assert loaded.skipped == {"target equal to truth": 1}


def test_questions_of_knowedit_may_be_parallel_lists(write):
    older = KNOWEDIT | {
        "locality": {
            "neighborhood": {
                "prompt": ["Bob lives in", "Eve lives in"],
                "ground_truth": ["Rome", ["Bonn", "BN"]],
            }
        },
        "portability": {"one_hop": {"prompt": "Ada's country is", "ground_truth": "Norway"}},
    }
    (read,) = load_requests(write(older)).requests
    assert read.near == (Question("Bob lives in", "Rome"), Question("Eve lives in", "Bonn"))
    assert read.portability == (Question("Ada's country is", "Norway"),)
    assert read.same_subject == ()


def test_a_prompt_alone_in_a_list_may_have_many_names_of_one_answer(write):
    aliases = changed(
        KNOWEDIT,
        "locality",
        {
            "Forgetfulness": [
                {"prompt": ["Ada was born in"], "ground_truth": ["London", "the Big Smoke"]}
            ]
        },
    )
    (read,) = load_requests(write(aliases)).requests
    assert read.near == (Question("Ada was born in", "London"),)
    assert read.names("London") == ("the Big Smoke",)


def test_wikibio_has_other_names_for_the_fields_of_knowedit(write):
    wikibio = {
        "text": "About Ada.",
        "labels": "She lives in Oslo.",
        "concept": "Ada",
        "locality": {
            "Relation_Specificity": [{"prompt": "Ada's trade is", "ground_truth": ["countess"]}]
        },
    }
    (read,) = load_requests(write(wikibio)).requests
    assert (read.subject, read.prompt, read.target, read.truth) == (
        "Ada",
        "About Ada.",
        "She lives in Oslo.",
        None,
    )


def test_a_fact_of_wikibigedit_need_have_no_question_over_two_hops(write):
    assert (
        load_requests(write(WIKIBIGEDIT | {"mhop": None, "mhop_ans": None})).requests[0].portability
        == ()
    )


def test_ones_own_file_needs_three_fields(write):
    (read,) = load_requests(
        write({"subject": "Ada", "prompt": "{} lives in ", "target": " Oslo", "id": 3})
    ).requests
    assert read == EditRequest("Ada", "Ada lives in ", "Oslo"), "a prompt is never stripped"


def test_other_names_of_answers_are_read(write):
    (read,) = load_requests(
        write(
            {
                "subject": "Ada",
                "prompt": "{} lives in",
                "target": "Oslo",
                "aliases": ["Christiania", "Oslo", " Kristiania "],
                "near": [{"prompt": "Bob lives in", "answer": ["Rome", "Roma"]}],
            }
        )
    ).requests
    assert read.names("Oslo") == ("Christiania", "Kristiania")
    assert read.names("Roma") == ("Rome",)
    assert read.names("Bonn") == read.names(None) == ()


def test_ones_own_near_and_far_serve_rewards_where_there_is_no_locality(write):
    (read,) = load_requests(write(changed(OWN, "locality", ...))).requests
    assert read.locality == read.near + read.far
    assert len(read.locality) == 3


@pytest.mark.parametrize("truth", ["", None, [], [""], ...])
def test_an_empty_truth_is_no_truth(write, truth):
    assert load_requests(write(changed(OWN, "truth", truth))).requests[0].truth is None


# --- JSON and JSON Lines --------------------------------------------------------------------------


def test_lines_of_json_are_read_like_a_list(tmp_path, write):
    lines = tmp_path / "facts.jsonl"
    lines.write_text(
        f"\ufeff{json.dumps(OWN)}\n\n{json.dumps(OWN | {'target': 'Bonn'})}\r\n", encoding="utf-8"
    )
    assert (
        load_requests(lines).requests
        == load_requests(write(OWN, OWN | {"target": "Bonn"})).requests
    )


@pytest.mark.parametrize("content", [b"", b"[]", b"\n \n"])
def test_a_file_without_records_is_an_error(tmp_path, content):
    (tmp_path / "facts.json").write_bytes(content)
    with pytest.raises(DataError, match=r"facts\.json holds no records"):
        load_requests(tmp_path / "facts.json")


@pytest.mark.parametrize(
    "content", [b"subject,prompt\n", b'{\n"subject": "Ada"\n}', b'[{"subject": 1}', b"\xff\xfe{"]
)
def test_a_file_that_is_no_json_is_an_error(tmp_path, content):
    (tmp_path / "facts.json").write_bytes(content)
    with pytest.raises(DataError, match="neither a JSON list of records nor JSON Lines"):
        load_requests(tmp_path / "facts.json")


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no file at"):
        load_requests(tmp_path / "facts.json")


# --- which format ---------------------------------------------------------------------------------


def test_a_record_of_no_format_is_an_error_that_lists_them(write):
    with pytest.raises(DataError, match="first record fits no format") as caught:
        load_requests(write({"question": "Where does Ada live?", "answer": "Oslo"}))
    for name, row in FORMATS.items():
        assert f"{name}: {', '.join(row.required)}" in str(caught.value)


@pytest.mark.parametrize("record", [5, "Ada", [OWN], None])
def test_a_first_record_that_is_no_object_fits_no_format(write, record):
    with pytest.raises(DataError, match="first record fits no format"):
        load_requests(write(record))


def test_a_record_of_two_formats_is_an_error_until_one_is_chosen(write):
    path = write(ZSRE | COUNTERFACT_FLAT)
    with pytest.raises(
        DataError, match=r"first record fits zsre and counterfact_flat; give format="
    ):
        load_requests(path)
    assert load_requests(path, "zsre").requests[0].prompt == "Where does Ada live?"


def test_an_unknown_format_is_an_error_that_lists_the_known(write):
    with pytest.raises(
        ValueError, match=r"there is no 'zsRE'; these require\n  zsre: subject, src, alt"
    ):
        load_requests(write(ZSRE), "zsRE")


# --- malformed records ----------------------------------------------------------------------------

MALFORMED = [
    ("zsre", "rephrase", ..., "missing field"),
    ("zsre", "alt", 5, "wrong type"),
    ("zsre", "answers", [3], "wrong type"),
    ("counterfact", "requested_rewrite.target_new.str", ..., "missing field"),
    ("counterfact", "requested_rewrite.target_new.str", " ", "empty field"),
    ("counterfact", "requested_rewrite.subject", ["Ada"], "wrong type"),
    ("counterfact", "paraphrase_prompts", [], "empty field"),
    ("counterfact_flat", "rephrase_prompt", {"a": 1}, "wrong type"),
    ("knowedit", "locality", ..., "missing field"),
    ("qaedit", "locality.0.loc", ..., "missing field"),
    ("mquake", "requested_rewrite", [], "wrong type"),
    ("mquake", "requested_rewrite", {}, "wrong type"),
    ("mquake", "new_answer", 5, "wrong type"),
    ("own", "target", "", "empty field"),
    ("own", "prompt", None, "empty field"),
    ("own", "near", 5, "wrong type"),
    ("own", "far.0.prompt", ..., "missing field"),
    ("own", "portability", ["Ada's country is"], "missing field"),
]


@pytest.mark.parametrize(("name", "path", "value", "reason"), MALFORMED)
def test_a_malformed_record_is_an_error_that_names_file_index_and_field(
    write, name, path, value, reason
):
    file = write(RECORDS[name], changed(RECORDS[name], path, value))
    with pytest.raises(DataError) as caught:
        load_requests(file)
    field = ".".join(key for key in path.split(".") if not key.isdecimal())
    assert f"{file}: record 1: '{field}': {reason}" in str(caught.value)


@pytest.mark.parametrize(("name", "path", "value", "reason"), MALFORMED)
def test_malformed_records_can_be_counted_instead(write, name, path, value, reason):
    good = RECORDS[name]
    loaded = load_requests(write(good, changed(good, path, value), good), on_error="skip")
    assert loaded.requests == 2 * load_requests(write(good)).requests
    assert loaded.skipped == {reason: 1}


def test_a_record_that_is_no_object_is_an_error(write):
    with pytest.raises(
        DataError, match="record 1: wrong type; a record must be an object, got int 5"
    ):
        load_requests(write(OWN, 5))


def test_fever_needs_a_list_of_alternatives(write):
    with pytest.raises(DataError, match=r"record 0: 'alternatives\.0': missing field"):
        load_requests(write(FEVER | {"alternatives": "REFUTES"}))


def test_answers_that_do_not_pair_with_prompts_are_an_error(write):
    uneven = changed(
        KNOWEDIT, "locality", {"near": {"prompt": ["a", "b", "c"], "ground_truth": ["x", "y"]}}
    )
    with pytest.raises(DataError, match=r"must hold as many answers as prompts \(3\), got 2"):
        load_requests(write(uneven))


def test_on_error_is_one_of_two(write):
    with pytest.raises(ValueError, match="on_error must be 'raise' or 'skip', got 'ignore'"):
        load_requests(write(OWN), on_error="ignore")


# --- known flaws of published data ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path", "value", "reason"),
    [
        ("zsre", "alt", "", "empty field"),
        ("zsre", "subject", " ", "empty field"),
        ("zsre", "src", "", "empty field"),
        ("zsre", "rephrase", "", "empty field"),
        ("zsre", "alt", "roma ", "target among known answers"),
        ("counterfact", "requested_rewrite.target_new.str", "Rome", "target equal to truth"),
        ("counterfact_flat", "target_new", " Rome", "target equal to truth"),
        ("fever", "alternatives", [], "empty field"),
        ("fever", "filtered_rephrases", [], "empty field"),
        ("knowedit", "target_new", "Roma", "target among known answers"),
        ("own", "target", "ROME", "target equal to truth"),
    ],
)
def test_known_flaws_are_skipped_and_counted(write, name, path, value, reason):
    good = RECORDS[name]
    loaded = load_requests(write(good, changed(good, path, value)))
    assert loaded.requests == load_requests(write(good)).requests
    assert loaded.skipped == {reason: 1}


def test_a_question_without_an_answer_stays_for_locality(write):
    unanswered = changed(
        KNOWEDIT, "locality.Forgetfulness", [{"prompt": "Ada was born in", "ground_truth": []}]
    )
    assert Question("Ada was born in") in load_requests(write(unanswered)).requests[0].near


def test_the_description_counts_what_was_skipped(write):
    known, empty = ZSRE | {"alt": "Rome"}, ZSRE | {"alt": ""}
    assert load_requests(write(ZSRE)).describe() == "facts.json: 1 requests"
    assert (
        load_requests(write(empty, known, ZSRE, known)).describe()
        == "facts.json: 1 requests; skipped 2 (target among known answers), 1 (empty field)"
    )


def test_requests_survive_pickling(write):
    loaded = load_requests(write(ZSRE, ZSRE | {"alt": ""}))
    assert pickle.loads(pickle.dumps(loaded)) == loaded


def test_reading_requests_needs_no_torch(write):
    code = (
        "import sys; sys.modules['torch'] = None; from editgym.data.facts import load_requests; "
        f"print(load_requests({str(write(OWN))!r}).describe())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "facts.json: 1 requests\n"


# --- real files -----------------------------------------------------------------------------------


def editing(name):
    return Path(os.environ["EDITGYM_DATA"]) / "editing" / name


@pytest.mark.data("editing/zsre_train_1k.json")
def test_zsre_is_read():
    loaded = load_requests(editing("zsre_train_1k.json"))
    assert (
        loaded.describe()
        == "zsre_train_1k.json: 977 requests; skipped 21 (target among known answers), 2 (empty"
        " field)"
    )
    assert loaded.format == "zsre"
    assert all(
        one.subject in one.prompt and one.rephrases and one.far and one.truth
        for one in loaded.requests
    )


@pytest.mark.data("editing/counterfact-train.json", "editing/counterfact-val.json")
@pytest.mark.parametrize(
    ("name", "count"), [("counterfact-train.json", 10_000), ("counterfact-val.json", 1_919)]
)
def test_counterfact_is_read(name, count):
    loaded = load_requests(editing(name))
    assert loaded.describe() == f"{name}: {count} requests"
    assert loaded.format == "counterfact_flat"
    for one in loaded.requests:
        assert one.subject in one.prompt
        assert one.target != one.truth
        assert one.locality == one.near
        assert all(text == text.strip() for text in (one.prompt, one.target, *one.rephrases))


# --- placeholders ---------------------------------------------------------------------------------


@pytest.mark.parametrize("left", ["{subject}", "{ }", "[X]", "[SUBJECT]", "<subject>", "[MASK]"])
def test_a_placeholder_of_another_tool_is_warned_of(tmp_path, left):
    file = tmp_path / "own.jsonl"
    records = [
        {"subject": "Ronellan", "prompt": f"{left} was founded by", "target": "Ann"},
        {"subject": "Wiraten", "prompt": "{} was founded by", "target": "Bea"},
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.warns(UserWarning, match=r"own.jsonl: 1 prompts have a placeholder left.*Ronellan"):
        first, second = load_requests(file).requests
    assert first.prompt == f"{left} was founded by"
    assert second.prompt == "Wiraten was founded by"


def test_brackets_that_are_no_placeholders_are_not(tmp_path, recwarn):
    file = tmp_path / "own.jsonl"
    prompts = ["f{x1} of {} is", "[2] {} was", "{}'s <b>home</b> is", "The set {1, 2} and {} are"]
    records = [{"subject": f"S{i}", "prompt": p, "target": "t"} for i, p in enumerate(prompts)]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert len(load_requests(file).requests) == 4
    assert not recwarn.list


def test_a_subject_is_filled_in_wherever_it_belongs(write):
    record = OWN | {
        "subject": "Ada",
        "near": [{"prompt": "{} plays the"}],
        "same_subject": ["{} was born in"],
        "portability": [{"prompt": "The city where {} lives is in", "answer": "Norway"}],
    }
    (read,) = load_requests(write(record)).requests
    assert [one.prompt for one in read.near] == ["Ada plays the"]
    assert read.same_subject == ("Ada was born in",)
    assert [one.prompt for one in read.portability] == ["The city where Ada lives is in"]


def test_premises_of_ones_own_are_read(write):
    premise = {"prompt": "Oslo lies in", "answer": "Norway"}
    (read,) = load_requests(write(OWN | {"premises": [premise]})).requests
    assert read.premises == (Question("Oslo lies in", "Norway"),)
    with pytest.raises(DataError, match="'premises': missing field"):
        load_requests(write(OWN | {"premises": ["Oslo lies in"]}))


def test_a_field_that_is_nearly_one_is_warned_of(write):
    with pytest.warns(UserWarning, match="records have 'rephrase', which is not read; 'rephrases'"):
        load_requests(write(OWN | {"rephrase": ["Ada, who lives in"], "note": "x"}), "own")


@pytest.mark.parametrize("text", ['[{"a": "\\ud800"}]', "[" * 100_000])
def test_json_that_is_no_text_is_no_record(tmp_path, text):
    path = tmp_path / "facts.json"
    path.write_text(text)
    with pytest.raises(DataError, match="neither a JSON list of records nor JSON Lines"):
        load_requests(path)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (
            "She lives in",
            "1 prompts, such as 'She lives in' .subject 'Ada'., do not name their sub",
        ),
        ("ada lives in", "do not name their subject"),
        ("Ada lives in ", "such as 'Ada lives in ' .subject 'Ada'., end in white space"),
    ],
)
def test_a_prompt_that_is_not_what_it_seems_is_warned_of(write, prompt, said):
    with pytest.warns(UserWarning, match=said):
        load_requests(write(OWN | {"subject": "Ada", "prompt": prompt}))


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (
            {"subject": "Ada", "prompt": "Ada lives in"},
            r"\(of own, the nearest, it lacks 'target'\)",
        ),
        ({"note": 1}, "its first record fits no format; give format="),
    ],
)
def test_what_a_record_lacks_for_the_nearest_format_is_told(write, record, said):
    with pytest.raises(DataError, match=said):
        load_requests(write(record))
