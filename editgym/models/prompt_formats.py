"""How a question becomes the text that a language model reads. A new format is one row of the
table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

PROMPT = "{prompt}"


class PromptFormatError(ValueError):
    """A prompt format that there is not, or that the model cannot be asked in."""


@dataclass(frozen=True)
class PromptFormat:
    """One way of asking: what stands around a prompt, and what ends an answer.

    Attributes:
        name: Its name.
        template: The text that the model reads, with `{prompt}` once; None for the tokenizer's own
            chat template, which has the prompt as the user's turn.
        solved: How a question with its answer is put before the question, with `{prompt}` and
            `{answer}`; the answer has its separator in front.
        head: What `template` begins with, before solved questions and the question.
        ends: What ends an answer: the end token or a line break (`text`); a line break, which is
            also what an edited answer is made to end with (`line`); the model's end tokens, as in a
            chat (`turn`).
    """

    name: str
    template: str | None
    solved: str = "{prompt}{answer}. "
    head: str = ""
    ends: Literal["text", "line", "turn"] = "text"

    def filled(self, prompt: str, solved: str = "") -> str:
        """The text around a prompt.

        Args:
            prompt: The prompt as the data has it; it is never stripped.
            solved: Questions with their answers, as `solved` writes them.
        """
        before, _, after = (self.template or PROMPT).partition(PROMPT)
        opening = before.removeprefix(self.head)
        # Whole solved questions come before the question; statements, right before the prompt.
        if self.ends == "line":
            return f"{self.head}{solved}{opening}{prompt}{after}"
        return f"{before}{solved}{prompt}{after}"


# What is asked and solved here occurs in no data set of facts.
_QUESTIONS = "Q: How many legs does a spider have?\nA: eight\nQ: What colour is snow?\nA: white\n"
_STATEMENTS = "The number of legs that a spider has is eight\nThe colour of fresh snow is white\n"

FORMATS: Mapping[str, PromptFormat] = {
    one.name: one
    for one in (
        PromptFormat("bare", "{prompt}"),
        PromptFormat(
            "qa",
            f"{_QUESTIONS}Q: {{prompt}}\nA:",
            solved="Q: {prompt}\nA:{answer}\n",
            head=_QUESTIONS,
            ends="line",
        ),
        PromptFormat(
            "completion",
            f"{_STATEMENTS}{{prompt}}",
            solved="{prompt}{answer}\n",
            head=_STATEMENTS,
            ends="line",
        ),
        PromptFormat("chat", None, ends="turn"),
    )
}


def prompt_format(value: object, argument: str = "prompt_format") -> PromptFormat:
    """The format of a name, or of a template with `{prompt}` in it.

    Args:
        value: A row of `FORMATS`, or a text with `{prompt}` once.
        argument: What the value was given as, for messages.

    Raises:
        PromptFormatError: There is no such format, and it is no template.
    """
    if isinstance(value, str) and value in FORMATS:
        return FORMATS[value]
    if isinstance(value, str) and value.count(PROMPT) == 1:
        return PromptFormat("custom", value)
    raise PromptFormatError(
        f"{argument} must be one of {', '.join(FORMATS)}, or a text with {PROMPT} in it once, got"
        f" {value!r}"
    )


def solved_questions(
    form: PromptFormat,
    questions: Sequence[tuple[str, str]],
    separator: Callable[[str, str], str],
) -> str:
    """Questions with their answers as the format puts them before a question.

    Args:
        form: The format.
        questions: Prompts and answers.
        separator: What stands between a text and an answer.
    """
    texts = []
    for prompt, answer in questions:
        before, _, after = form.solved.replace(PROMPT, prompt, 1).rpartition("{answer}")
        texts.append(f"{before}{separator(before, answer)}{answer}{after}")
    return "".join(texts)
