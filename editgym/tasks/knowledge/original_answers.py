"""What an unedited language model answers, asked in one way: found out once, and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from editgym.models.asking import Asking
from editgym.models.identity import identity
from editgym.models.language import LanguageModel
from editgym.paths import cache_folder


class OriginalAnswers(dict[str, tuple[int, ...]]):
    """Greedy answers as tokens with the stop token, by prompt.

    They are in memory, and in a file to which each is appended when it is found: the next process
    begins with what is there. A file belongs to a model (`identity`), a way of asking, a device and
    a version of PyTorch. A line that an interruption has torn is passed over, and where nothing can
    be written it only takes longer the next time.

    Args:
        language: The model.
        asking: How prompts become tokens.
        max_new_tokens: Where an answer without an end is cut.
    """

    def __init__(self, language: LanguageModel, asking: Asking, max_new_tokens: int) -> None:
        super().__init__()
        self._language, self._asking, self._max_new_tokens = language, asking, max_new_tokens
        self._path: Path | None = None

    def unknown(self, prompts: Sequence[str]) -> list[str]:
        """The prompts among these whose answers have to be decoded, each once."""
        if any(prompt not in self for prompt in prompts):
            self._read()
        return [prompt for prompt in dict.fromkeys(prompts) if prompt not in self]

    def keep(self, found: Mapping[str, Sequence[int]]) -> None:
        """Take answers in, in memory and on disk."""
        self.update((prompt, tuple(ids)) for prompt, ids in found.items())
        if self._path is None or not found:
            return
        lines = [json.dumps([prompt, list(ids)]) for prompt, ids in found.items()]
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                # What stands before may be torn; the line break keeps it apart.
                file.write("\n" + "\n".join(lines) + "\n")

    def _read(self) -> None:
        """Read the file, once."""
        if self._path is not None:
            return
        self._path = cache_folder() / "answers" / f"{self._name()}.jsonl"
        with suppress(OSError):
            text = self._path.read_text(encoding="utf-8", errors="replace")
            self.update(own for own in _answers(text) if own[0] not in self)

    def _name(self) -> str:
        parts = [
            identity(self._language),
            self._asking.prompt_ids("The text"),
            sorted(self._asking.stop_ids),
            self._max_new_tokens,
            str(self._language.device),
            torch.__version__,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _answers(text: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The answers that are whole in a file's text."""
    for line in text.splitlines():
        with suppress(ValueError, TypeError):
            prompt, ids = json.loads(line)
            if isinstance(prompt, str) and all(isinstance(one, int) for one in ids):
                yield prompt, tuple(ids)
