"""The site: its pages and hooks, its printed tables, the links that lead to it."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
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
MARKERS = [
    pytest.param(
        page.relative_to(ROOT),
        marker,
        id=f"{page.stem}: {marker['command'][:60]}",
        marks=[pytest.mark.slow] if marker["command"].startswith(SLOW) else [],
    )
    for page in PAGES
    for marker in printed.MARKER.finditer(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("page", "marker"), MARKERS)
def test_a_printed_table_is_what_its_command_prints(page, marker):
    assert marker["table"] == printed.printed(marker), f"run python docs/printed.py {page}"


def test_tables_are_drawn_anew_and_the_rest_of_the_page_is_left(monkeypatch):
    monkeypatch.setattr(printed, "tables", lambda command: [f"| {command} |\n", "| second |\n"])
    page = "A\n\n<!-- printed by: python -m x.y -->\n| old |\n| old |\n\nB\n"
    assert printed.drawn(page) == "A\n\n<!-- printed by: python -m x.y -->\n| x.y |\n\nB\n"
    page = "<!-- printed by (2): python -m x.y -->\nB\n"
    assert printed.drawn(page) == "<!-- printed by (2): python -m x.y -->\n| second |\nB\n"


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


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_of_the_repository_lead_somewhere(name):
    links = re.findall(r"\]\(([^)\s]+)\)", (ROOT / name).read_text(encoding="utf-8"))
    assert links
    for link in links:
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            assert (ROOT / path).is_file(), link
            headings = (
                re.findall(r"^#+ (.+)$", (ROOT / path).read_text("utf-8"), re.MULTILINE)
                if anchor
                else []
            )
            assert not anchor or anchor in {slug(heading) for heading in headings}, link


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
    recipes = hooks.contributing("Recipes")
    assert recipes.startswith("Each kind of part can be added")
    assert "### A suite" in recipes
    assert "## Style" not in recipes
    assert "](guides/own_data.md)" in recipes
    with pytest.raises(KeyError):
        hooks.contributing("No such heading")


def test_every_section_that_a_page_asks_for_is_there():
    asked = [
        heading
        for page in PAGES
        for heading in re.findall(r"<!-- from CONTRIBUTING: (.+) -->", page.read_text("utf-8"))
    ]
    assert sorted(asked) == ["Recipes", "Style", "Where things are"]
    assert all(hooks.contributing(heading) for heading in asked)


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
