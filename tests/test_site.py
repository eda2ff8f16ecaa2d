"""The site: its pages and hooks, what its pages are made from, the links that lead to it."""

import importlib.util
import itertools
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
sys.path.append(str(DOCS))  # `printed` imports a module of its folder
# Tables that take more than a second or two.
SLOW = (
    "benchmarks.studies.columns docs/results/lifelong --where suite=lifelong horizon",
    "benchmarks.studies.columns docs/results/worlds",
    "benchmarks.studies.paper",
    "benchmarks.studies.power",
)


def loaded(name: str) -> ModuleType:
    """A module of the docs folder, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks, printed = loaded("hooks"), loaded("printed")
# Comments that tests of pages read: they stand above what is there anyway.
OF_TESTS = ("not run: ", "exits with ", "needs ", "power -->")
MARKERS = [
    pytest.param(
        page.relative_to(ROOT),
        marker,
        id=f"{page.stem}: {marker['command'][:60]}",
        marks=[pytest.mark.slow] if marker["command"].startswith(SLOW) else [],
    )
    for page in (ROOT / "README.md", *PAGES)
    for marker in printed.MARKER.finditer(page.read_text(encoding="utf-8"))
]
INSERTED = [
    pytest.param(page.relative_to(DOCS), marker, id=f"{page.stem}: {marker['name']}")
    for page in PAGES
    for marker in printed.INSERTED.finditer(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("page", "marker"), MARKERS)
def test_a_printed_table_is_what_its_command_prints(page, marker):
    assert marker["table"] == printed.printed(marker), f"run python docs/printed.py {page}"


@pytest.mark.parametrize(("page", "marker"), INSERTED)
def test_inserted_text_is_what_it_is_made_from(page, marker):
    text = printed.inserted(marker, str(page))
    assert text.strip()
    assert marker["text"] == text, f"run python docs/printed.py docs/{page}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_a_page_is_read_where_it_lies(page):
    """What the site alone fills in, or draws in another way, would be missing or strange there."""
    text, outside = page.read_text(encoding="utf-8"), without_code(page)
    assert not re.findall(r"^ *(?::::|!!!|\?\?\?|===|--8<--|///|\{[:#.]).*", outside, re.MULTILINE)
    comments = re.findall(r"^ *<!-- (.*)", outside, re.MULTILINE)
    known = ("printed by", "from CONTRIBUTING: ", "docstring of: ", "members of: ", "end -->")
    assert not [one for one in comments if not one.startswith((*known, *OF_TESTS))]
    made = {marker["name"] for marker in printed.INSERTED.finditer(text)}
    assert len(made) == sum(one.startswith(known[1:4]) for one in comments), "without an end"


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *PAGES],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_tables_and_lists_stand_by_themselves(page):
    """Python-Markdown takes what follows a table at once for a row of it, and a list that follows a
    paragraph at once for a part of it."""
    lines = without_code(page).splitlines()
    kinds = [kind_of(line) for line in lines]
    touching = [
        lines[place + 1]
        for place, pair in enumerate(itertools.pairwise(kinds))
        if pair in {("table", "list"), ("table", "text"), ("text", "list"), ("list", "table")}
        or pair == ("text", "table")
    ]
    assert not touching


def kind_of(line):
    """What a line of a page is; a comment is nothing on the site."""
    if not line.strip() or line.startswith("<!--"):
        return "nothing"
    if line.startswith("|"):
        return "table"
    if re.match(r"(?:[-*+]|\d+\.) ", line):
        return "list"
    return "inside" if line.startswith((" ", "#", ">")) else "text"


def test_tables_are_drawn_anew_and_the_rest_of_the_page_is_left(monkeypatch):
    monkeypatch.setattr(printed, "tables", lambda command: [f"| {command} |\n", "| second |\n"])
    page = "A\n\n<!-- printed by: python -m x.y -->\n| old |\n| old |\n\nB\n"
    assert printed.drawn(page, "a.md") == (
        "A\n\n<!-- printed by: python -m x.y -->\n| x.y |\n\nB\n"
    )
    page = "<!-- printed by (2): python -m x.y -->\nB\n"
    assert printed.drawn(page, "a.md") == "<!-- printed by (2): python -m x.y -->\n| second |\nB\n"


def test_what_is_no_table_is_drawn_as_it_is_printed():
    page = "A\n\n<!-- printed by: python -m this -->\n```text\nold\n\n| x |\n```\n\nB\n"
    drawn = printed.drawn(page, "a.md")
    assert drawn.startswith(
        "A\n\n<!-- printed by: python -m this -->\n```text\nThe Zen of Python, by Tim Peters\n"
    )
    assert drawn.endswith("let's do more of those!\n```\n\nB\n")


def test_a_command_that_fails_is_an_error():
    with pytest.raises(RuntimeError, match=r"paired nowhere --by x ended with 2"):
        printed.tables("benchmarks.studies.paired nowhere --by x")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_a_page_is_short(page):
    assert page.read_text(encoding="utf-8").count("\n") <= 300


def test_every_page_stands_in_the_navigation():
    listed = re.findall(
        r"^ +- (?:.+: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE
    )
    listed += re.findall(
        r"^  - [^:\n]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE
    )
    assert {str(page.relative_to(DOCS)) for page in PAGES} == set(listed)


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_links_lead_somewhere_where_a_page_lies(page):
    """The site's build checks them too, but not those to files that are not on the site."""
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            file = page.parent / path if path else page
            assert file.is_file(), link
            headings = re.findall(r"^#+ (.+)$", without_code(file), re.MULTILINE) if anchor else []
            assert not anchor or anchor in {slug(heading) for heading in headings}, link


def without_code(page):
    """A page's text without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def slug(heading):
    """A heading's anchor."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_intervals_are_shown_from_five_seeds_on():
    """In every table with a column n."""
    for page in (DOCS / "results").glob("*.md"):
        n = None
        for line in page.read_text(encoding="utf-8").splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not line.startswith("|"):
                n = None
            elif n is None:
                n = cells.index("n") if "n" in cells else -1
            elif n >= 0 and cells[n].split()[0].isdigit() and int(cells[n].split()[0]) < 5:
                assert not re.search(r"\d \[[\d−+-]", line), f"{page.name}: {line}"


def test_nothing_comes_from_other_hosts():
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "font: false" in config
    assert "http" not in config
    for drawing in (DOCS / "images").glob("*.svg"):
        text = drawing.read_text(encoding="utf-8")
        assert re.findall(r"https?://\S+?(?=\")", text) == ["http://www.w3.org/2000/svg"]


def test_sections_of_contributing_stand_in_pages():
    recipes = printed.contributing("Recipes")
    assert recipes.startswith("Each kind of part can be added")
    assert "### A suite" in recipes
    assert "## Style" not in recipes
    assert "](guides/own_data.md)" in recipes
    with pytest.raises(KeyError):
        printed.contributing("No such heading")
    asked = [one.values[1]["name"] for one in INSERTED if "CONTRIBUTING" in one.values[1]["kind"]]
    assert sorted(asked) == ["Recipes", "Style", "Where things are"]


def test_a_class_stands_in_its_page_as_its_docstring_has_it():
    text = printed.docstrings.whole("editgym.envs.mask_world.MaskWorldEnv", "environments/a.md")
    lines = text.splitlines()
    assert lines[0] == "[`editgym/envs/mask_world.py`](../../editgym/envs/mask_world.py):"
    assert "    task='unlearning/digits', render_mode=None, *, rank='auto', origin='lora'," in lines
    assert (
        "Scale a network's weights so that it forgets what it should and keeps the rest." in lines
    )
    headings = [line[4:] for line in lines if line.startswith("### ")]
    assert headings == [
        *("Observation", "Action", "Transition", "Reward", "End", "Info", "Arguments", "Raises"),
        *("Example", "Version history"),
    ]
    assert "- `beta`: Weight of O; None takes the task's." in lines
    assert 'info["retain_accuracy"] == info["retain_accuracy_before"]  # True' in lines


def test_a_module_stands_in_its_page_by_its_members():
    text = printed.docstrings.members("agents.black_box", "agents/a.md", ["NoEdit", "CmaEs"])
    about, empty, first, second = text.splitlines()
    assert about.startswith("`agents.black_box`, in [`agents/black_box.py`](../../agents/black_box")
    assert empty == ""
    assert first == "- `NoEdit`: Leaves the network as it is. It takes no arguments."
    assert second.startswith("- `CmaEs`: CMA-ES (Hansen 2016)")
    package = printed.docstrings.members("editgym.weights.export", "reference/a.md")
    assert "(../../editgym/weights/export/__init__.py)" in package
    assert "- `export_adapter`: " in package
    assert "Path" not in package  # what a package imports from elsewhere is not its own
    with pytest.raises(ImportError):
        printed.docstrings.found("no_such_package.thing")


def test_the_site_shows_docstrings_in_full():
    page = (
        "A\n\n<!-- members of: a.b\n    options:\n      members: [C]\n-->\n\nC\n\n<!-- end -->\n\n"
        "<!-- docstring of: d -->\n\n## More\n\n<!-- end -->\n\n<!-- from CONTRIBUTING: E -->\nF\n"
        "<!-- end -->\n"
    )
    assert hooks.in_full(page) == (
        "A\n\n::: a.b\n    options:\n      members: [C]\n\n\n::: d\n\n\n"
        "<!-- from CONTRIBUTING: E -->\nF\n<!-- end -->\n"
    )


def test_a_page_is_summed_up_by_its_first_sentence():
    page = (
        "# Title\n\n![x](y)\n\n| a |\n\nSee [this](that.md): `A` and\nB v1.2. Then more.\n\nNext.\n"
    )
    assert hooks.summary(page) == "See this: `A` and B v1.2."
    assert hooks.summary("# Title\n\n::: module\n") == ""


def test_links_that_leave_the_site_are_their_text():
    page = "See [this](../a.md#b), [`that.py`](../../examples/that.py) and ![x](../../y.png).\n"
    assert hooks.inside(page, "guides/page.md") == (
        "See [this](../a.md#b), `that.py` and ![x](../../y.png).\n"
    )


def test_intervals_do_not_break_in_tables():
    assert hooks.unbroken("| 0.5 [0.4, 0.6] |\nIn [0.4, 0.6].\n") == (
        "| 0.5 [0.4,\u00a00.6] |\nIn [0.4, 0.6].\n"
    )


def test_llms_txt_lists_pages_by_section():
    entries = [
        hooks.Entry("One", "A", "a.md", "# A\n\nWhat A is. More.\n"),
        hooks.Entry("One", "B", "b.md", "# B\n"),
        hooks.Entry("Two", "C", "c.md", "# C\n\nWhat C is.\n"),
    ]
    assert hooks.llms("name", "about", entries) == (
        "# name\n\n> about\n\n## One\n\n- [A](a.md): What A is.\n- [B](b.md)\n"
        "\n## Two\n\n- [C](c.md): What C is.\n"
    )
