"""Asking a language model: a prompt and its answer as the tokens that the model reads, the end of
an answer, and the text that answered tokens spell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from editgym.metrics.answers import is_unspaced
from editgym.models.prompt_formats import PromptFormat, PromptFormatError, solved_questions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MOST_REMEMBERED = 100_000
_OPENING = frozenset("([{<“‘„«‹「『（【《〈")
_QUOTES = frozenset("\"'")


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt, and of the answer that follows it with its ending."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """Prompt and answer."""
        return self.prompt + self.answer


class Asking:
    """One way of asking a model.

    Args:
        tokenizer: The model's.
        end_ids: The model's end tokens, the tokenizer's first.
        form: What stands around a prompt, and what ends an answer.
        separator: What stands between prompt and answer; None (default) for what the language
            needs (`separator_after`).
        system: The system message of a chat; None for the template's own.

    Raises:
        PromptFormatError: The tokenizer has no chat template, or one that does not keep the prompt.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        end_ids: Sequence[int],
        form: PromptFormat,
        separator: str | None = None,
        system: str | None = None,
    ) -> None:
        self.form = form
        self._tokenizer = tokenizer
        self._model_ends = tuple(end_ids)
        self._separator = separator
        self._system = system
        self._ids: dict[str, tuple[int, ...]] = {}  # streams ask the same things again and again
        if form.template is None:
            self._check_chat()

    # --- prompts and answers ----------------------------------------------------------------------

    def rendered(self, prompt: str, solved: Sequence[tuple[str, str]] = ()) -> str:
        """The text that the model reads, up to where its answer begins.

        Args:
            prompt: The prompt as the data has it.
            solved: Questions with answers that stand before it.
        """
        before = solved_questions(self.form, solved, self.separator)
        if self.form.template is not None:
            return self.form.filled(prompt, before)
        return self._chat(f"{before}{prompt}")

    def separator(self, prompt: str, answer: str) -> str:
        """What stands between a prompt, or the text around it, and its answer."""
        return separator_after(prompt, answer) if self._separator is None else self._separator

    def encode(
        self, prompt: str, answer: str, end: bool = True, solved: Sequence[tuple[str, str]] = ()
    ) -> Encoded:
        """Tokens of a prompt and of the answer after it.

        Args:
            prompt: The prompt as the data has it.
            answer: Not empty.
            end: Whether the answer's tokens include its ending.
            solved: Questions with answers that stand before the prompt.
        """
        text = self.rendered(prompt, solved)
        asked = self._tokens(text)
        # A chat's answer begins where the template ends.
        between = "" if self.form.template is None else self.separator(text, answer)
        whole = self._tokens(f"{text}{between}{answer}")
        # Some tokenizers merge across the border; then the answer's own tokens follow the prompt's.
        said = (
            whole[len(asked) :]
            if whole[: len(asked)] == asked
            else tuple(self._tokenizer(f"{between}{answer}", add_special_tokens=False)["input_ids"])
        )
        return Encoded(asked, (*said, *self.ending) if end else said)

    def prompt_ids(self, prompt: str, solved: Sequence[tuple[str, str]] = ()) -> tuple[int, ...]:
        """Tokens of a prompt with the tokenizer's own start token, if it uses one, and no end
        token.
        """
        return self._tokens(self.rendered(prompt, solved))

    def subject_token(self, prompt: str, subject: str) -> int | None:
        """Which token of `prompt_ids(prompt)` is the subject's last; None where the subject is not
        in the prompt.

        Where a subject occurs twice the last one counts, because only there the model has read all
        before it.

        Raises:
            ValueError: The tokenizer does not tell which characters a token stands for.
        """
        subject = subject.rstrip()  # a tokenizer may count no space to a token's characters
        if not subject or subject not in prompt:
            return None
        if not self._tokenizer.is_fast:
            raise ValueError(
                f"{type(self._tokenizer).__name__} does not tell which characters a token stands"
                " for: locating a subject needs a fast tokenizer"
            )
        text = self.rendered(prompt)
        # A chat template may take white space off the prompt's ends.
        inside = prompt if prompt in text else prompt.strip()
        last = text.rfind(inside) + inside.rfind(subject) + len(subject) - 1
        spans = self._tokenizer(
            text, return_offsets_mapping=True, add_special_tokens=self._adds_special
        )["offset_mapping"]
        return next(
            index for index, (begin, end) in reversed(list(enumerate(spans))) if begin <= last < end
        )

    # --- the end of an answer ---------------------------------------------------------------------

    @cached_property
    def ending(self) -> tuple[int, ...]:
        """What an edited answer is made to end with: the end token, a line break, or what the chat
        template has after a turn.
        """
        if self.form.ends == "line":
            return self._line_break
        if self.form.ends == "turn":
            return (self._end_of_turn,)
        return self._model_ends[:1]

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an answer: the end tokens, and but in a chat every token with a line
        break in it.
        """
        if self.form.ends == "turn":
            return frozenset({*self._model_ends, self._end_of_turn})
        pieces = self._tokenizer.batch_decode([[index] for index in range(len(self._tokenizer))])
        breaks = {index for index, piece in enumerate(pieces) if "\n" in piece}
        return frozenset({*self._model_ends, *breaks})

    def stops(self, answer: str) -> frozenset[int]:
        """`stop_ids` where this answer is expected: one with a line break in it is read to its
        end.
        """
        spans_lines = "\n" in answer and self.form.ends != "turn"
        return frozenset(self._model_ends) if spans_lines else self.stop_ids

    def text(self, ids: Sequence[int], expected: str = "") -> str:
        """The answer that tokens spell, up to its end, without surrounding white space.

        Args:
            ids: The tokens after a prompt.
            expected: The right answer, if there is one; of an answer as many lines are kept as it
                has.
        """
        stops = self.stops(expected)
        kept = next((i for i, token in enumerate(ids) if token in stops), len(ids))
        text = str(self._tokenizer.decode(list(ids[:kept]), skip_special_tokens=True)).strip()
        if "\n" not in expected or self.form.ends == "turn":
            return text
        return "\n".join(text.split("\n")[: expected.count("\n") + 1])

    # --- inside -----------------------------------------------------------------------------------

    @property
    def _adds_special(self) -> bool:
        """Whether the tokenizer adds its start token; a chat template writes its own."""
        return self.form.template is not None

    def _tokens(self, text: str) -> tuple[int, ...]:
        if text not in self._ids:
            if len(self._ids) >= _MOST_REMEMBERED:
                self._ids.clear()
            ids: list[int] = self._tokenizer(text, add_special_tokens=self._adds_special)[
                "input_ids"
            ]
            ended = self._adds_special and ids and ids[-1] == self._model_ends[0]
            self._ids[text] = tuple(ids[:-1] if ended else ids)
        return self._ids[text]

    @cached_property
    def _line_break(self) -> tuple[int, ...]:
        """A line break after a word, as tokens."""
        before, after = (
            tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])
            for text in ("word", "word\n")
        )
        if after[: len(before)] == before and len(after) > len(before):
            return after[len(before) :]
        return tuple(self._tokenizer("\n", add_special_tokens=False)["input_ids"])[-1:]

    def _chat(self, content: str, answer: str | None = None) -> str:
        messages: list[dict[str, str]] = [{"role": "user", "content": content}]
        if self._system is not None:
            messages.insert(0, {"role": "system", "content": self._system})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
        rendered: Any = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=answer is None
        )
        return str(rendered)

    @cached_property
    def _end_of_turn(self) -> int:
        """The token that the template has after an assistant's turn; the end token where it has
        none.
        """
        said = self._chat("question", "answer")
        _, _, after = said.rpartition("answer")
        ids = self._tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
        special = set(self._tokenizer.all_special_ids) | set(
            self._tokenizer.added_tokens_decoder or {}
        )
        return next((token for token in ids if token in special), self._model_ends[0])

    def _check_chat(self) -> None:
        if not self._tokenizer.chat_template:
            raise PromptFormatError(
                'prompt_format "chat": the model\'s tokenizer has no chat template; ask it in'
                ' "bare", "qa", "completion" or a text with {prompt} in it'
            )
        try:
            text = self._chat("editgym asks this")
        except Exception as error:  # templates raise what they like
            raise PromptFormatError(
                f'prompt_format "chat": the chat template refuses the messages: {error}'
            ) from error
        if "editgym asks this" not in text:
            raise PromptFormatError(
                'prompt_format "chat": the tokenizer\'s chat template leaves the prompt out'
            )


def separator_after(text: str, answer: str) -> str:
    """What a language puts between a text and the answer after it.

    A space, but nothing after white space, after an opening bracket or quote, or before an answer
    in a script that is written without spaces.
    """
    if not text or text[-1].isspace() or text[-1] in _OPENING:
        return ""
    if text[-1] in _QUOTES and (len(text) == 1 or text[-2].isspace() or text[-2] in _OPENING):
        return ""
    if is_unspaced(answer):
        return ""
    return " "
