"""Hooks of the site: mkdocstrings shows docstrings in full, and `llms.txt` lists all pages.

A page holds docstrings as Markdown between `<!-- docstring of: NAME -->`, or `<!-- members of: NAME
-->`, and `<!-- end -->` (`docs/printed.py`), so that it can be read where it lies; on the site
mkdocstrings takes their place. Every page's Markdown is published beside it, for readers that are
programs.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

_DOCSTRING = re.compile(
    r"^<!-- (?:docstring|members) of: (?P<name>\S+)(?: -->\n|\n(?P<options>(?: .*\n)*)-->\n)"
    r"(?:.*\n)*?<!-- end -->$",
    re.MULTILINE,
)
_NO_PARAGRAPH = ("#", "|", "<!--", "```", ":::", "- ", "![", "> ")
_INTERVAL = re.compile(r"\[(\S+), (\S+)\]")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")


class Entry(NamedTuple):
    """A page as `llms.txt` lists it."""

    section: str
    title: str
    source: str
    markdown: str


_published: dict[str, str] = {}
_listed: list[tuple[str, Any]] = []


def in_full(markdown: str) -> str:
    """A page with mkdocstrings' directives in place of the docstrings that it holds."""
    return _DOCSTRING.sub(lambda found: f"::: {found['name']}\n{found['options'] or ''}", markdown)


def summary(markdown: str) -> str:
    """The first sentence of a page's first paragraph, without links; empty where it has none."""
    for block in re.split(r"\n\s*\n", markdown.strip()):
        if not block.startswith(_NO_PARAGRAPH):
            plain = _LINK.sub(r"\1", " ".join(block.split()))
            return re.split(r"(?<=\.) (?=[A-Z`])", plain)[0]
    return ""


def llms(name: str, about: str, entries: Iterable[Entry]) -> str:
    """The content of `llms.txt` (https://llmstxt.org): the pages by section, each with its source
    and its first sentence.
    """
    lines = [f"# {name}", "", f"> {about}"]
    section = None
    for entry in entries:
        if entry.section != section:
            section = entry.section
            lines += ["", f"## {section}", ""]
        said = summary(entry.markdown)
        lines.append(f"- [{entry.title}]({entry.source})" + (f": {said}" if said else ""))
    return "\n".join(lines) + "\n"


def inside(markdown: str, source: str) -> str:
    """A page whose links to files of the repository that are not on the site are their text alone.

    Args:
        markdown: The page.
        source: Its path in the docs folder.
    """

    def kept(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[2]))
        return link[1] if target.startswith("..") else link[0]

    return re.sub(r"(?<!!)\[([^\]]+)\]\((\.\./[^)#]*)[^)]*\)", kept, markdown)


def unbroken(markdown: str) -> str:
    """A page whose tables have no line break within an interval."""
    lines = (
        _INTERVAL.sub("[\\1,\N{NO-BREAK SPACE}\\2]", line) if line.startswith("|") else line
        for line in markdown.split("\n")
    )
    return "\n".join(lines)


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Keep the page's Markdown for publication, and let mkdocstrings show docstrings."""
    source = page.file.src_uri
    text = inside(markdown, source)
    _published[source] = text
    return unbroken(in_full(text))


def on_nav(nav: Any, **_: Any) -> Any:
    """Note the pages in the order of the navigation, with the section of each."""
    _listed[:] = [
        (section.title if section.is_section else _title(nav), page)
        for section in nav.items
        for page in _pages(section)
    ]
    return nav


def _title(nav: Any) -> str:
    """What pages outside of all sections are listed under: the title of the home page."""
    return nav.homepage.title if nav.homepage is not None else "Pages"


def _pages(item: Any) -> Iterator[Any]:
    if item.is_page:
        yield item
    for child in item.children or ():
        yield from _pages(child)


def on_post_build(config: Any, **_: Any) -> None:
    """Write the pages' Markdown and `llms.txt`."""
    site = Path(config.site_dir)
    for source, text in _published.items():
        to = site / source
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(text, encoding="utf-8")
    entries = [
        Entry(section, page.title, page.file.src_uri, _published[page.file.src_uri])
        for section, page in _listed
    ]
    text = llms(config.site_name, config.site_description, entries)
    (site / "llms.txt").write_text(text, encoding="utf-8")
