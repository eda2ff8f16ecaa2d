"""What a submitter says of his results beside the numbers: `disclosure.toml`.

Numbers do not tell how a method came about, and no harness can find it out: these are the questions
that a reader has to ask the submitter.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

DISCLOSURE_FILE = "disclosure.toml"
QUESTIONS = {
    "submitter": "Who submits: name, and affiliation where there is one.",
    "contact": "How to ask: an address, or the page of an account.",
    "code": "Where the code of every agent can be had that is not editgym's own: repository and"
    " commit; none where all agents are editgym's.",
    "settings": "How the settings were chosen: by whom or what, on which tasks and seeds, in how"
    " many trials.",
    "test_data": "Whether test data, or scores of these cells, were looked at before the settings"
    " were fixed, and what for.",
    "beyond": "What went in beyond what the harness hands out: other data, pretrained networks,"
    " knowledge of the test stream.",
    "left_out": "Which runs, seeds, agents or tasks were done and are not here, and why.",
    "machines": "On which machines, and how many hours in all, with what was tried before.",
    "limits": "Where the method fails, or was not tried.",
    "license": "Under which license rows and journals may be published.",
}


def form() -> str:
    """An empty disclosure, with its questions."""
    head = '# What is not known is said so. An answer may be "none", not empty.\n'
    return head + "".join(f'\n# {question}\n{key} = ""\n' for key, question in QUESTIONS.items())


def read_disclosure(file: Path) -> dict[str, str]:
    """The answers of a disclosure.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is no TOML, an answer is missing, or there is one that no question asks for.
    """
    answers = _read(file)
    for key in answers:
        if key not in QUESTIONS:
            raise ValueError(f"{file}: {key} is no question; there are {', '.join(QUESTIONS)}")
    for key, question in QUESTIONS.items():
        answer = answers.get(key)
        if not isinstance(answer, str) or not answer.strip():
            raise ValueError(
                f'{file}: {key} has no answer. {question} Write {key} = "…"; "none" is one'
            )
    return answers


def submitter_of(folder: Path) -> str | None:
    """Who submitted the rows in a folder; None where no disclosure lies there that says it.

    Raises:
        ValueError: The disclosure is no TOML.
    """
    file = folder / DISCLOSURE_FILE
    return str(_read(file).get("submitter") or "").strip() or None if file.is_file() else None


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no TOML: {error}") from error
