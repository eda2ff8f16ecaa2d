"""Make factlm, the model that knows FactWorld: `python -m editgym.models.train_factlm --size 1m`.

Writes a Hugging Face folder (config, tokenizer, fp16 safetensors), by default where
`model="factlm-SIZE"` finds it. Every epoch ends with a checkpoint in OUT/training.pt, from which
the same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from editgym.checks import one_of, whole
from editgym.data.facts import Question
from editgym.data.factworld import VERSION, FactWorld
from editgym.models.factlm import SIZES, train_tokenizer
from editgym.models.language import LanguageModel, factlm_folder
from editgym.paths import renewed_folder, whole_file

CHECKPOINT = "training.pt"
_FILLER_PER_EPOCH = 2_500
_BATCH = 192
_DECAY = 0.3  # share of the training in which the learning rate falls to 0; before, it stays


def train(
    size: str, out: Path, seed: int = 0, epochs: int | None = None, device: str = "cpu"
) -> LanguageModel:
    """Train a factlm and write it to `out`.

    Args:
        size: A key of `SIZES`.
        out: Folder; an interrupted training in it is continued.
        seed: Seed of FactWorld, of the initial weights and of the order of the statements.
        epochs: In place of the size's own, 1 or more.
        device: Where to train.

    Raises:
        ValueError: An argument is out of range, or `out` holds another training.
    """
    one_of(*SIZES)("size", size)
    shape = SIZES[size]
    total = shape.epochs if epochs is None else epochs
    whole(1)("epochs", total)
    out.mkdir(parents=True, exist_ok=True)
    world = FactWorld(seed)
    tokenizer = train_tokenizer(world)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = shape.build()
    model.to(device)
    optimizers = _optimizers(model, shape.learning_rate)
    checkpoint, done = out / CHECKPOINT, 0
    if checkpoint.is_file():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        there = {"size": size, **saved}  # older ones do not say their size
        if (there["size"], there["total"], there["seed"]) != (size, total, seed):
            raise ValueError(
                f"--out: {out} holds a training of {there['size']} for {there['total']} epochs with"
                f" seed {there['seed']}, not of {size} for {total} with seed {seed}: remove"
                f" {checkpoint}, or ask for the same"
            )
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        done = saved["epoch"]
    for epoch in range(done, total):
        loss = _epoch(
            model, optimizers, tokenizer, world, (epoch, total, shape.learning_rate), seed
        )
        state = {
            "model": model.state_dict(),
            "optimizers": [o.state_dict() for o in optimizers],
            "epoch": epoch + 1,
            "size": size,
            "total": total,
            "seed": seed,
        }
        with whole_file(checkpoint) as partial:
            torch.save(state, partial)
        sample = random.Random(epoch).sample(list(world.facts()), 400)
        right = recall(
            LanguageModel(model, tokenizer),
            [Question(r.templates[epoch % 5].format(p.name), answer) for p, r, answer in sample],
        )
        tqdm.write(f"epoch {epoch + 1}/{total}: loss {loss:.4f}, recall of 400 facts {right:.1%}")
    _write(model, tokenizer, out, size, seed)
    return LanguageModel.load(str(out), device)


def recall(language: LanguageModel, questions: Sequence[Question], batch_size: int = 500) -> float:
    """Share of questions answered exactly, by greedy decoding."""
    right = 0
    for start in range(0, len(questions), batch_size):
        asked = questions[start : start + batch_size]
        answers = language.answers([question.prompt for question in asked])
        right += sum(
            answer == question.answer for answer, question in zip(answers, asked, strict=True)
        )
    return right / len(questions)


def _optimizers(model: PreTrainedModel, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the hidden matrices, AdamW for embeddings and norms.

    Facts are rare: each adds a small direction to a matrix. Muon's orthogonalised steps move small
    directions as far as large ones; in a trial with 2,000 facts it needed a third of AdamW's
    epochs.
    """
    embeddings = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    hidden = [p for p in model.parameters() if p.ndim == 2 and p not in embeddings]
    rest = [p for p in model.parameters() if p.ndim != 2 or p in embeddings]
    return [
        torch.optim.Muon(
            hidden, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def _epoch(
    model: Any,
    optimizers: Sequence[torch.optim.Optimizer],
    tokenizer: PreTrainedTokenizerFast,
    world: FactWorld,
    schedule: tuple[int, int, float],
    seed: int,
) -> float:
    epoch, total, peak = schedule
    rng = random.Random(f"epoch {seed} {epoch}")
    batches = list(_batches(tokenizer, world, rng, _BATCH))
    model.train().requires_grad_(True)
    losses = []
    for index, (ids, learned) in enumerate(
        tqdm(batches, desc=f"epoch {epoch + 1}", leave=False, mininterval=1.0)
    ):
        ids, learned = ids.to(model.device), learned.to(model.device)
        progress = (epoch + index / len(batches)) / total
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = peak * min(1.0, progress * total, (1 - progress) / _DECAY)
        hidden = model.base_model(input_ids=ids).last_hidden_state[:, :-1]
        loss = F.cross_entropy(model.lm_head(hidden[learned[:, 1:]]), ids[:, 1:][learned[:, 1:]])
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        losses.append(float(loss.detach()))
    model.eval()
    return sum(losses) / len(losses)


def _batches(
    tokenizer: PreTrainedTokenizerFast, world: FactWorld, rng: random.Random, size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids and which of them are learned, (n, length), texts of about one length together.

    Of a statement the answer is learned: who comes next in a list of strangers nothing can predict.
    """
    told = world.statements(rng)
    rows: list[tuple[list[int], int]] = []
    prompts = tokenizer([t.prompt for t in told])["input_ids"]
    answers = tokenizer([t.answer for t in told], add_special_tokens=False)["input_ids"]
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = [*prompt, *answer, 2]
        rows.append((ids, len(prompt)))
    for ids in tokenizer(world.filler(_FILLER_PER_EPOCH, rng))["input_ids"]:
        rows.append(([*ids, 2], 1))
    rows.sort(key=lambda row: len(row[0]) + rng.random())
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    rng.shuffle(parts)
    for part in parts:
        longest = max(len(ids) for ids, _ in part)
        yield (
            torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in part]),
            torch.tensor([[first <= i < len(ids) for i in range(longest)] for ids, first in part]),
        )


def _write(model: Any, tokenizer: PreTrainedTokenizerFast, out: Path, size: str, seed: int) -> None:
    """The model as fp16, with the world's version in its metadata; it is there completely or not at
    all, and its checkpoint no more.
    """
    with renewed_folder(out, ("model*.safetensors*", CHECKPOINT)) as folder:
        _write_into(folder, model, tokenizer, size, seed)


def _write_into(
    folder: Path, model: Any, tokenizer: PreTrainedTokenizerFast, size: str, seed: int
) -> None:
    model.half().save_pretrained(folder)
    model.config.dtype = torch.float32  # fp16 is how it is kept, not how it is run
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = folder / "model.safetensors"
    save_file(
        load_file(weights),
        weights,
        metadata={
            "format": "pt",
            "editgym": (
                f'{{"factworld_version": {VERSION}, "size": "{size}", "world_seed": {seed}}}'
            ),
        },
    )
    (folder / "generation_config.json").unlink(missing_ok=True)
    weights.chmod(0o644)  # safetensors writes files for their owner's eyes alone


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m editgym.models.train_factlm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", choices=SIZES, default="1m")
    parser.add_argument(
        "--out", type=Path, help="folder to write to (default: where editgym looks for this size)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="in place of the size's own, 1 or more")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    out = options.out or factlm_folder(options.size)
    try:
        language = train(options.size, out, options.seed, options.epochs, options.device)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    world = FactWorld(options.seed)
    for index in range(5):
        asked = [
            Question(relation.templates[index].format(person.name), answer)
            for person, relation, answer in world.facts()
        ]
        print(f"paraphrase {index + 1} of 5: {recall(language, asked):.2%} of {len(asked):,} facts")
    print(f"wrote {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
