"""C = E[k kᵀ] of a site's inputs over plain text: what a locate-and-edit editor must not
disturb.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from agents.editors.on_disk import give_back_freed
from editgym.models.identity import identity
from editgym.paths import cache_folder
from editgym.tasks.knowledge.task import KnowledgeTask
from editgym.weights.hooks import Reached, hooked
from editgym.weights.language.given import by_text
from editgym.weights.language.layers import below_head
from editgym.weights.sites import EditSite
from editgym.weights.tensor_file import write_tensors

_TOKENS_AT_ONCE = 1_024  # padding counted
_BLOCK = 256  # rows of a symmetric sum
_RIDGE = 1e-5  # of the mean eigenvalue: C has no inverse while there are fewer tokens than inputs


def covariances(task: KnowledgeTask, sites: Sequence[EditSite], tokens: int) -> Iterator[Tensor]:
    """C = E[k kᵀ] of the unedited model's inputs k at every site, each (in, in), float64, one
    after the other: all of them at once would take more memory than the sites.

    Meng et al. 2022 (ROME, section 3.1) take 100,000 samples of Wikipedia; here it is the task's
    plain text. They are kept on disk by model, site and text.

    Args:
        task: Its model and tokenizer.
        sites: Any of the model's.
        tokens: How many tokens of the text to read; all of it if it has fewer.

    Raises:
        ValueError: They cannot be kept on disk.
    """
    paths = [_path(task, site, tokens) for site in sites]
    missing = [(site, path) for site, path in zip(sites, paths, strict=True) if not _is_whole(path)]
    give_back_freed()  # by passes over texts
    if missing:
        sums, counted = _summed(task, [site for site, _ in missing], tokens)
        for _, path in missing:
            _write(path, sums.pop(0).whole().div_(counted).cpu())
            give_back_freed()
    for path in paths:
        yield load_file(path)["covariance"].to(task.device)
        give_back_freed()  # what was made of it, matrices of its size among it


def inverse_factor(covariance: Tensor) -> Tensor:
    """The Cholesky factor of C + εI, for `torch.cholesky_solve`; ε is 1e-5 of C's mean
    eigenvalue.
    """
    raised = covariance.clone()
    raised.diagonal().add_(_RIDGE * covariance.diagonal().mean())
    return torch.linalg.cholesky(raised)


def null_space(covariance: Tensor, threshold: float) -> Tensor:
    """P = U Uᵀ, U the eigenvectors of C whose eigenvalue is below `threshold` × the mean one (Fang
    et al. 2025).

    AlphaEdit gives the threshold as a number of its own for each model; relative to the mean, one
    fits all scales.

    Raises:
        ValueError: There is no such eigenvector.
    """
    values, vectors = torch.linalg.eigh(covariance)
    kept = vectors[:, values < threshold * values.mean()]
    if not kept.shape[1]:
        raise ValueError(
            f"threshold: no eigenvalue of the covariance is below {threshold} of the mean (the"
            f" smallest is {float(values[0] / values.mean()):.3g} of it): raise it"
        )
    return kept @ kept.mT


class _Gram:
    """Σ k kᵀ in float64, of which the blocks on and below the diagonal are computed and kept.

    Args:
        size: How many numbers k has.
        device: Where it is kept.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        ends = [min(start + _BLOCK, size) for start in range(0, size, _BLOCK)]
        self._rows = [  # up to the diagonal's block
            torch.zeros(end - row * _BLOCK, end, dtype=torch.float64, device=device)
            for row, end in enumerate(ends)
        ]

    def add(self, keys: Tensor) -> None:
        """Add the products of keys as rows, (n, size), float32."""
        for number, rows in enumerate(self._rows):
            left = keys[:, number * _BLOCK : rows.shape[1]]
            rows += (left.mT @ keys[:, : rows.shape[1]]).double()

    def whole(self) -> Tensor:
        """The sum, (size, size); it can be taken once, because its blocks are given up for it."""
        size = self._rows[-1].shape[1]
        found = self._rows[0].new_empty(size, size)
        while self._rows:
            rows = self._rows.pop()
            start, end = rows.shape[1] - rows.shape[0], rows.shape[1]
            found[start:end, :end] = rows
            found[:start, start:end] = rows[:, :start].mT
        return found


def _path(task: KnowledgeTask, site: EditSite, tokens: int) -> Path:
    key = json.dumps([identity(task.language), site.name, task.text.hash, tokens])
    name = hashlib.sha256(key.encode()).hexdigest()
    return cache_folder() / "covariance" / f"{name}.safetensors"


def _write(path: Path, covariance: Tensor) -> None:
    try:
        write_tensors(path, {"covariance": covariance}, {})
    except OSError as error:
        raise ValueError(
            f"EDITGYM_CACHE: cannot keep covariances in {path.parent}: {error}"
        ) from error


def _is_whole(path: Path) -> bool:
    """Whether there is a file, and nothing damaged it."""
    try:
        with safe_open(path, "pt") as file:
            return "covariance" in file.keys()  # noqa: SIM118 - it is no dict
    except (OSError, SafetensorError):
        return False


@torch.no_grad()
def _summed(task: KnowledgeTask, sites: Sequence[EditSite], tokens: int) -> tuple[list[_Gram], int]:
    """Σ k kᵀ of every site and how many k there are, by one pass over the text that ends at the
    last of the sites.
    """
    sums = [_Gram(site.shape[1], task.device) for site in sites]
    counted, reached = 0, 0
    model: nn.Module = task.decoder.base
    mask = torch.zeros(0)

    def count(index: int, inputs: Tensor) -> None:
        nonlocal reached
        sums[index].add(by_text(inputs, mask.shape).to(mask.device)[mask].float())
        reached += 1
        if reached == len(sites):
            raise Reached

    looks = [
        (model.get_submodule(site.name), lambda inputs, index=index: count(index, inputs[0]))
        for index, site in enumerate(sites)
    ]
    bar = tqdm(total=tokens, desc="covariances", unit="token", leave=False, mininterval=0.5)
    with hooked(before=looks), bar:
        for texts in _batches(task, tokens):
            lengths = torch.tensor([len(ids) for ids in texts], device=task.device)
            padded = nn.utils.rnn.pad_sequence(
                [torch.tensor(ids) for ids in texts], batch_first=True
            ).to(task.device)
            mask = torch.arange(padded.shape[1], device=task.device) < lengths[:, None]
            reached = 0
            with suppress(Reached):
                below_head(model)(input_ids=padded, use_cache=False)
            counted += int(mask.sum())
            bar.update(int(mask.sum()))
    return sums, counted


def _batches(task: KnowledgeTask, tokens: int) -> Iterator[list[tuple[int, ...]]]:
    """The first `tokens` tokens of the text, a few passages of about one length at once; the last
    passage may be cut.
    """
    read: list[tuple[int, ...]] = []
    left = tokens
    for passage in task.text.passages():
        if not left:
            break
        read.append(task.language.prompt_ids(passage)[: min(left, task.language.context)])
        left -= len(read[-1])
    read.sort(key=len)
    batch: list[tuple[int, ...]] = []
    for ids in read:
        if batch and (len(batch) + 1) * len(ids) > _TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(ids)
    if batch:
        yield batch
