import json
import re

import pytest

from editgym.data.errors import DataError
from editgym.data.identity import BLANK, dixon_templates
from editgym.data.identity_files import IDENTITY_FORMATS, IdentityFormat, identity_reader

PLAIN = {"text": "said", "label": "rude"}


def read(tmp_path, given, content, name="own.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_text(content, encoding=encoding)
    return identity_reader(given)(path, "utf-8")


def test_text_and_label_are_enough(tmp_path):
    data = read(tmp_path, PLAIN, "said,rude\nhello,0\n ,1\nbah,true\nwell,-1\n")
    assert (data.texts, data.labels) == (("hello", "bah"), (0, 1))
    assert data.identities == ((), ())
    assert data.templates == data.texts
    assert data.terms == []


def test_one_column_names_the_identity(tmp_path):
    given = {**PLAIN, "identity": "who", "names": {"f": "women", "n/a": None}}
    content = "said,rude,who\nWomen talk,0,f\nI like men,0,men\nno idea,1,n/a\nbah,1,\nomen!,1,f\n"
    data = read(tmp_path, given, content)
    assert data.texts == ("Women talk", "I like men", "omen!")
    assert data.identities == ("women", "men", "women")
    assert data.templates == (f"{BLANK} talk", f"I like {BLANK}", "omen!")
    assert data.polar_words == ("", "", "")


def test_hatecheck(tmp_path):
    content = (
        ",functionality,case_id,test_case,label_gold,target_ident,templ_id\n"
        "0,derog,1,I hate women.,hateful,women,4\n1,derog,2,I hate gays.,hateful,gay people,4\n"
        "2,counter,3,I like women.,non-hateful,women,5\n3,object,4,I hate tea.,non-hateful,,6\n"
    )
    data = read(tmp_path, "hatecheck", content)
    assert data.labels == (1, 1, 0)
    assert data.identities == ("women", "gay people", "women")
    assert data.templates == ("4", "4", "5")


def test_several_identities_in_a_text(tmp_path):
    given = {**PLAIN, "identity": "who", "separator": ";"}
    content = "said,rude,who\nall,0,b; a;b\none,1,a\n"
    assert read(tmp_path, given, content).identities == (("b", "a"), "a")
    rows = [{"said": "x", "rude": 1, "who": ["a", "b"]}, {"said": "y", "rude": 0, "who": "a; b"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    data = read(tmp_path, {**PLAIN, "identity": "who"}, lines, "own.jsonl")
    assert data.identities == (("a", "b"), "a; b")
    assert data.identity_sets == (("a", "b"), ("a; b",))
    assert data.terms == ["a", "a; b", "b"]


def test_a_column_for_each_identity_holds_a_share(tmp_path):
    given = {**PLAIN, "shares": ["male", "female"], "names": {"female": "women"}}
    content = "said,rude,male,female\na,0.2,0.5,\nb,0.8,0.6,1.0\nc,1,0,0.49\nd,0,false,True\n"
    data = read(tmp_path, given, content)
    assert data.texts == ("a", "b", "d")
    assert data.identities == ("male", ("male", "women"), "women")
    assert read(tmp_path, {**given, "threshold": 0.4}, content).texts == tuple("abcd")
    with pytest.raises(DataError, match="row 1, column male: expected a share from 0 to 1, true"):
        read(tmp_path, given, "said,rude,male,female\na,0,5,\n")


@pytest.mark.parametrize(
    ("name", "columns"),
    [("civil_comments", "text,toxicity"), ("civil_comments_kaggle", "comment_text,target")],
)
def test_civil_comments(tmp_path, name, columns):
    shares = IDENTITY_FORMATS[name].__self__.shares
    assert len(shares) == len(set(shares)) == 24
    rows = ["a,0.9," + ",".join("1" if own in ("male", "black") else "0" for own in shares)]
    rows += ["b,0.1," + "," * 23, "c,0.2,1" + "," * 23]
    data = read(tmp_path, name, f"{columns},{','.join(shares)}\n" + "\n".join(rows) + "\n")
    assert (data.texts, data.labels) == (("a", "c"), (1, 0))
    assert data.identities == (("male", "black"), "male")


def test_columns_are_crossed(tmp_path):
    given = {**PLAIN, "identity": ["race", "gender"], "names": {"F": "woman", "M": "man"}}
    content = "said,rude,race,gender\nx,1,black,F\ny,0,white,M\nz,0,,F\n"
    assert read(tmp_path, given, content).identities == (
        ("black", "woman"),
        ("white", "man"),
        "woman",
    )
    crossed = read(tmp_path, {**given, "crossed": True}, content)
    assert crossed.identities == ("black & woman", "white & man", "woman")
    several = {**PLAIN, "shares": ["b", "f"], "crossed": True}
    data = read(tmp_path, several, "said,rude,b,f\nx,1,1,1\ny,0,1,0\n")
    assert data.identities == ("b & f", "b")


def test_terms_are_found_as_whole_words(tmp_path):
    given = {**PLAIN, "terms": ["American", "African American", "C++ fans"]}
    content = (
        "said,rude\nAn african american and an AMERICAN,0\nPanamericans,1\n"
        "c++ fans!,1\nAmericana,1\n"
    )
    data = read(tmp_path, given, content)
    assert data.identities == (("African American", "American"), "C++ fans")
    assert data.templates == (f"An {BLANK} and an {BLANK}", f"{BLANK}!")


def test_own_label_values_encoding_and_template_column(tmp_path):
    given = {
        **PLAIN,
        "identity": "who",
        "template": "like",
        "toxic_values": ["grob"],
        "encoding": "cp1252",
    }
    content = "said,rude,who,like\nfür A,grob,A,1\nfür B,nett,B,1\nfür A,nett,A,\n"
    data = read(tmp_path, given, content, encoding="cp1252")
    assert data.labels == (1, 0, 0)
    assert data.templates == ("1", "1", f"für {BLANK}")


def test_dixons_file_is_the_default_format(tmp_path):
    assert identity_reader("dixon") is dixon_templates


def test_a_format_of_ones_own_is_named_by_its_import_path(tmp_path, monkeypatch):
    (tmp_path / "whose.py").write_text(
        "from editgym.data.identity_files import IdentityFormat\n"
        "WHO = IdentityFormat(text='said', label='rude', identity='who')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    data = read(tmp_path, "whose:WHO", "said,rude,who\na,0,x\nb,1,y\n")
    assert data.identities == ("x", "y")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("hatechek", r"there is no 'hatechek'; the formats are dixon, hatecheck.*\"identity\""),
        (["said", "rude"], r"there is no \['said', 'rude'\]; the formats are"),
        ({"label": "rude"}, "identities_format: text must be a text, got None"),
        ({"text": "said"}, "identities_format: label must be a text, got None"),
        ({**PLAIN, "identitys": "who"}, r"there is no identitys='who' \(did you mean identity\?\)"),
        ({**PLAIN, "identity": 3}, "identity must be a column or a list of columns, got 3"),
        ({**PLAIN, "shares": "male"}, "shares must be a list of texts, got 'male'"),
        ({**PLAIN, "threshold": 0}, "threshold must be above 0 and at most 1, got 0"),
        ({**PLAIN, "names": {"a": 1}}, "names must be an object whose values are names"),
        ({**PLAIN, "crossed": 1}, "crossed must be true or false, got 1"),
        ({**PLAIN, "toxic_values": "a"}, "toxic_values must be a list of label values"),
    ],
)
def test_a_wrong_format_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        identity_reader(given)


@pytest.mark.parametrize(
    ("given", "content", "message"),
    [
        (PLAIN, "said,bad\nx,1\n", "no column 'rude'; there are said, bad; identities_format="),
        ({**PLAIN, "identity": "who"}, "said,rude\nx,1\n", "there is no column 'who'"),
        ({**PLAIN, "template": "like"}, "said,rude\nx,1\n", "there is no column 'like'"),
        (PLAIN, "said,rude\nx,1\ny,maybe\n", "row 2, column rude: expected a number"),
        (PLAIN, "said,rude\nx,1\ny,1\n", "every text has the same label"),
        (
            {**PLAIN, "identity": "who"},
            "said,rude,who\nx,1,\ny,0,\n",
            "has no labelled text about an identity, by who",
        ),
        (
            {**PLAIN, "identity": "who", "names": {"f": "women"}},
            "said,rude,who\nx,1,F\ny,0,M\n",
            r"names: .*own\.csv has no 'f'; it has 'F', 'M'",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path, given, content, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, given, content)


def test_attributes_are_checked_in_python_too():
    with pytest.raises(ValueError, match="identities_format: threshold must be"):
        IdentityFormat(text="a", label="b", threshold=2)


def cells(*who):
    """The lines of a file whose cells are these values of JSON, and two texts about `a`."""
    rows = [
        {"said": f"text {i}", "rude": i % 2, "who": one} for i, one in enumerate((*who, "a", "a"))
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("cell", [False, True, 0, 1, 2.5, {"a": 1}, ["a", 0], [False]])
def test_a_cell_that_names_nobody_is_refused_by_its_row(tmp_path, cell):
    shown = re.escape(repr(cell[-1] if isinstance(cell, list) else cell))
    with pytest.raises(
        DataError, match=rf"row 2, column who: expected the name .* got {shown}; say"
    ):
        read(tmp_path, PLAIN | {"identity": "who"}, cells("b", cell), "own.jsonl")


@pytest.mark.parametrize("word", ["false", "True", "no", "yes"])
def test_so_is_a_truth_value_in_a_csv(tmp_path, word):
    content = f"said,rude,who\nx,0,a\ny,1,{word}\n"
    with pytest.raises(
        DataError, match=rf"row 2, column who: expected the name .* got '{word}'; say"
    ):
        read(tmp_path, PLAIN | {"identity": "who"}, content)


def test_what_names_says_of_such_a_cell_holds(tmp_path):
    names = {"false": None, "0": "nought", "1": "one"}
    content = cells(False, 0, 1, None, [], "b", ["b", 0])
    data = read(tmp_path, PLAIN | {"identity": "who", "names": names}, content, "own.jsonl")
    assert data.identities == ("nought", "one", "b", ("b", "nought"), "a", "a")
