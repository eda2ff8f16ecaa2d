"""A language model's own samples, as plain text: what stands in for text of its training."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from editgym.models.identity import identity
from editgym.models.language import LanguageModel
from editgym.paths import cache_folder, whole_file
from editgym.tasks.knowledge.plain_text import HELD_OUT_TOKENS

SAMPLED_TOKENS = 50_000 + HELD_OUT_TOKENS
_LONGEST = 256  # tokens of one sample
_AT_ONCE = 64  # samples
_MOST_FRUITLESS = 3  # times in a row that nothing new is drawn
_VERSION = 1  # a new number makes samples be drawn again


def own_samples(language: LanguageModel) -> Path:
    """A text file of samples at temperature 1, drawn when it is first asked for. Drawing that was
    interrupted goes on where it had come to.

    A model begins each sample after its start token, or after its end token where it has no start.
    Another kind of processor may draw other samples: whoever compares runs of several machines
    hands this file to all of them by `text=`.

    Args:
        language: The unedited model.
    """
    path = cache_folder() / "text" / f"{_name(language)}.txt"
    if not path.is_file():
        begun = path.with_suffix(".json")
        samples = _drawn(language, begun)
        with whole_file(path) as partial:
            partial.write_text("\n\n".join(samples), encoding="utf-8")
        begun.unlink(missing_ok=True)
    return path


def _name(language: LanguageModel) -> str:
    key = [identity(language), _VERSION, SAMPLED_TOKENS]
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()


@dataclass
class _Drawing:
    """How far drawing has come.

    Attributes:
        generator: Its state, bytes.
        samples: The samples so far, each once.
        tokens: How many tokens they have.
        fruitless: How many times in a row nothing new was drawn.
    """

    generator: list[int]
    samples: list[str] = field(default_factory=list)
    tokens: int = 0
    fruitless: int = 0

    @classmethod
    def begun(cls, file: Path) -> _Drawing:
        """What `keep` wrote, or a drawing from its beginning."""
        if file.is_file():
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        return cls(torch.Generator().manual_seed(0).get_state().tolist())

    def keep(self, file: Path) -> None:
        """Write it to a file, all of it or nothing."""
        with whole_file(file) as partial:
            partial.write_text(json.dumps(asdict(self)), encoding="utf-8")


def _drawn(language: LanguageModel, file: Path) -> list[str]:
    """The samples, each once; `file` holds what there is of them while they are drawn."""
    tokenizer = language.tokenizer
    start = tokenizer.bos_token_id
    begin = [language.end_id if start is None else int(start)]
    most = min(_LONGEST, language.context - 1)
    so_far = _Drawing.begun(file)
    generator = torch.Generator()
    generator.set_state(torch.tensor(so_far.generator, dtype=torch.uint8))
    found = dict.fromkeys(so_far.samples)
    with tqdm(
        total=SAMPLED_TOKENS,
        initial=so_far.tokens,
        desc="the model's own samples",
        unit="token",
    ) as bar:
        # A model may say the same few things again and again.
        while so_far.tokens < SAMPLED_TOKENS and so_far.fruitless < _MOST_FRUITLESS:
            drawn = language.sampled(
                [begin], generator, 1.0, most, _AT_ONCE, stops=frozenset(language.end_ids)
            )
            new = 0
            for ids in drawn:
                # An empty line would end the passage.
                lines = str(tokenizer.decode(ids, skip_special_tokens=True)).split("\n")
                text = "\n".join(line for line in lines if line.strip()).strip()
                if text and text not in found:
                    found[text] = None
                    new += len(language.prompt_ids(text))
            bar.update(new)
            so_far = _Drawing(
                generator.get_state().tolist(),
                list(found),
                so_far.tokens + new,
                0 if new else so_far.fruitless + 1,
            )
            so_far.keep(file)
    return so_far.samples
