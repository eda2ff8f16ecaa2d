"""Docstrings that a stranger reads once: every summary and every argument's text has its noun."""

import ast
import re

from source import ROOT, parsed, product_files

FRAGMENT = re.compile(r"(Of|As|Those|That of|These|Likewise|Ditto)\b(?! soon| long)")
SECTIONS = {
    "Args:",
    "Attributes:",
    "Raises:",
    "Returns:",
    "Yields:",
    "Arguments:",
}


def beginnings(docstring):
    """(line, text) of the places of a docstring where a sentence begins by its form: its summary,
    the text of each argument, attribute and error, and what is returned."""
    lines = docstring.split("\n")
    yield 0, lines[0].strip()
    section, indent = None, 0
    for number, line in enumerate(lines):
        words = line.strip()
        if words in SECTIONS:
            section, indent = words, len(line) - len(line.lstrip())
            first = True
        elif section and words:
            depth = len(line) - len(line.lstrip())
            if depth <= indent:
                section = None
            elif section in ("Returns:", "Yields:"):
                if first:
                    yield number, words
                first = False
            elif depth == indent + 4 and ": " in words:
                yield number, words.split(": ", 1)[1]


def docstrings(file):
    """(line, docstring) of a file's module, classes and functions, private ones too."""
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found = ast.get_docstring(node, clean=True)
            if found:
                yield node.body[0].lineno, found


def test_no_docstring_begins_without_its_noun():
    fragments = [
        f"{file.relative_to(ROOT)}:{line + number}: {text}"
        for file in product_files()
        for line, docstring in docstrings(file)
        for number, text in beginnings(docstring)
        if FRAGMENT.match(text)
    ]
    assert not fragments, "\n" + "\n".join(fragments)


def test_the_places_are_found():
    docstring = """Summary.

    Args:
        one: Of the first.
            As a continuation is read, it may begin so.
        two: A number.

    Returns:
        Those that are left,
        As many as there are.

    Raises:
        ValueError: As above.
    """
    assert list(beginnings(ast.literal_eval(repr(docstring)))) == [
        (0, "Summary."),
        (3, "Of the first."),
        (5, "A number."),
        (8, "Those that are left,"),
        (12, "As above."),
    ]
