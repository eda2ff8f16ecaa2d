"""How a task asks its language model, what it takes for an answer, and which text it reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from editgym.checks import is_whole, require, whole, within
from editgym.metrics.answers import SCORERS
from editgym.models.prompt_formats import PromptFormatError, prompt_format

EvaluateFormats = Sequence[str] | Mapping[str, str] | None
Texts = str | Sequence[str] | None
_NAME = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True)
class Interview:
    """How a model is asked and what counts as an answer; `Interview.of` checks what a user gives.

    Attributes:
        prompt_format: How prompts become the text that the model reads: `bare`, `qa`, `completion`,
            `chat`, or a text with `{prompt}` in it.
        evaluate_formats: Further formats that metrics ask in, as (name, format).
        format_edits: How many edits of a stream are asked about in further formats, evenly spread
            over it.
        scorer: The scorer of the metrics without a suffix; None for the task's own.
        separator: What stands between prompt and answer; None for what the language needs.
        system: The system message of a chat; None for the template's own.
        text: Plain text files for perplexity, covariances and contexts, `("factworld",)` for
            FactWorld's, `("samples",)` for the model's own samples; None for FactWorld's with a
            bundled model and samples with another.
        known: Whether only requests are taken whose old answer the unedited model gives.
        max_new_tokens: Where an answer without an end is cut; None for the task's own.
        end_weight: The weight that an answer's ending has among its tokens in losses and gradients,
            0 to 1.
    """

    prompt_format: str = "bare"
    evaluate_formats: tuple[tuple[str, str], ...] = ()
    format_edits: int = 100
    scorer: str | None = None
    separator: str | None = None
    system: str | None = None
    text: tuple[str, ...] | None = None
    known: bool = False
    max_new_tokens: int | None = None
    end_weight: float = 1.0

    @classmethod
    def of(
        cls,
        *,
        prompt_format: str = "bare",
        evaluate_formats: EvaluateFormats = None,
        format_edits: int = 100,
        scorer: str | None = None,
        separator: str | None = None,
        system: str | None = None,
        text: Texts = None,
        known: bool = False,
        max_new_tokens: int | None = None,
        end_weight: float = 1.0,
    ) -> Interview:
        """The interview of a user's arguments, each checked.

        Raises:
            ValueError: An argument is not as it has to be; the message names it.
        """
        _check_format(prompt_format, "prompt_format")
        names = ", ".join(SCORERS)
        require(scorer is None or scorer in SCORERS, "scorer", scorer, f"one of {names}, or None")
        for name, value in (("separator", separator), ("system", system)):
            require(value is None or isinstance(value, str), name, value, "a text, or None")
        require(
            separator is None or "\n" not in separator,
            "separator",
            separator,
            "without a line break, which ends an answer; it may stand at the end of prompt_format",
        )
        require(isinstance(known, bool), "known", known, "True or False")
        whole(1)("format_edits", format_edits)
        require(
            max_new_tokens is None or (is_whole(max_new_tokens) and max_new_tokens >= 1),
            "max_new_tokens",
            max_new_tokens,
            "1 or more, a whole number, or None",
        )
        within(0, 1)("end_weight", end_weight)
        return cls(
            prompt_format,
            _formats(evaluate_formats),
            format_edits,
            scorer,
            separator,
            system,
            _texts(text),
            known,
            max_new_tokens,
            float(end_weight),
        )

    def in_format(self, form: str) -> Interview:
        """The same interview in another format, with nothing further asked."""
        return replace(self, prompt_format=form, evaluate_formats=())


def _check_format(value: object, argument: str) -> None:
    try:
        prompt_format(value, argument)
    except PromptFormatError as error:
        raise ValueError(str(error)) from None


def _formats(value: object) -> tuple[tuple[str, str], ...]:
    """(name, format) of formats by name, or of a mapping from names to formats."""
    expected = "a list of names of formats, or a dict from names to formats"
    if value is None:
        return ()
    if isinstance(value, Mapping):
        pairs = list(value.items())
    else:
        listed = isinstance(value, Sequence) and not isinstance(value, str)
        require(listed, "evaluate_formats", value, expected)
        assert isinstance(value, Sequence)
        pairs = [(one, one) for one in value]
    for name, form in pairs:
        require(
            isinstance(name, str) and _NAME.fullmatch(name) is not None,
            "evaluate_formats",
            name,
            f"{expected}; a name consists of a-z, 0-9 and _",
        )
        _check_format(form, f"evaluate_formats[{name!r}]")
    names = [name for name, _ in pairs]
    require(len(set(names)) == len(names), "evaluate_formats", value, "without a name twice")
    return tuple(pairs)


def _texts(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    files = [value] if isinstance(value, str) else value
    good = isinstance(files, Sequence) and bool(files) and all(isinstance(f, str) for f in files)
    require(good, "text", value, "a file, a list of files, or None")
    assert isinstance(files, Sequence)
    return tuple(files)
