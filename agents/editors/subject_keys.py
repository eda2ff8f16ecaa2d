"""What locate-and-edit editors share: keys and hidden states at subjects' last tokens, and the
sites that reach the answer from there.

ROME (Meng et al. 2022) and MEMIT (Meng et al. 2023) read a fact as a key, the input of an MLP's
last layer at the subject's last token, and a value, what has to come out there for the model to
give the new answer.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from agents.configured import setting
from agents.editors.stream import StreamEditor, chosen_sites
from agents.editors.targets import SubjectBatch, TargetSettings
from agents.protocol import Unsupported
from editgym.checks import whole
from editgym.data.facts import EditRequest
from editgym.envs.lifelong.process import LifelongProcess
from editgym.models.asking import Asking
from editgym.tasks.knowledge.task import KnowledgeTask
from editgym.weights import EditableDecoder, Entry, Skip
from editgym.weights.hooks import hooked
from editgym.weights.language.given import at_tokens
from editgym.weights.language.site_pass import Injection
from editgym.weights.sites import EditSite, Layer, layer_of

NO_SUBJECT = "subject not in its prompt"


@dataclass(frozen=True, kw_only=True)
class SubjectSettings(TargetSettings):
    """What all editors of facts at their subjects take.

    Attributes:
        tokens: How many tokens of plain text the covariance of keys is taken over.
    """

    tokens: int = setting(50_000, whole(1))


class SubjectEditor(StreamEditor):
    """An editor of what sites write into the residual stream at subjects' last tokens."""

    settings: SubjectSettings

    def usable_sites(self, process: LifelongProcess, names: Sequence[str] | None) -> list[EditSite]:
        """The sites to edit, from the lowest layer up; by default those with two or more layers
        above, if any.

        What is written at the subject reaches the answer by the attention of later layers only. In
        factlm one such layer leaves a target's cross-entropy at 1.1 however δ is chosen, two bring
        it to 0.04.

        Args:
            process: The stream.
            names: Names among the environment's sites; None for all that qualify.

        Raises:
            Unsupported: A named site does not write to the residual stream, or nothing reads what
                it writes, or the layer changes it before it adds it.
        """
        sites = chosen_sites(process, names, self.name, residual=True)
        read = [site for site in sites if _layers_above(process.decoder, site) >= 1]
        if not read or (names is not None and len(read) < len(sites)):
            bad = [site.name for site in sites if site not in read]
            raise Unsupported(
                f"{self.name}: {bad} are in the last layer, and after it no attention carries what"
                " is written at the subject on to the answer; open a lower layer, such as"
                f" sites={[_layer_below(bad[0])]}"
            )
        for site in read:
            if reason := _changed_before_it_is_added(process, site):
                raise Unsupported(
                    f"{self.name}: what {site.name} gives out is not added to the residual stream"
                    f" as it is: {reason}, and the wanted hidden states would be missed"
                )
        well_read = [site for site in read if _layers_above(process.decoder, site) >= 2]
        return sorted(
            read if names is not None else well_read or read,
            key=lambda site: _layer(site).number,
        )

    def entries(self, process: LifelongProcess) -> list[Entry]:
        """The edits of new and rehearsed requests whose subject is in their prompt, and a `Skip` of
        each other new one.
        """
        asking, (taught, places) = process.task.asking, (process.batch.taught, process.batch.places)
        found = [find_subject(asking, one.prompt, one.subject) for one in taught]
        new = found[: len(process.requests)]
        kept = [
            index
            for index, at in enumerate(found)
            if at is not None and (index < len(new) or self.rehearses(places[index]))
        ]
        edits: list[Entry] = []
        if kept:
            batch = self.subject_batch(process, [taught[index] for index in kept])
            batch = batch._replace(
                places=[places[index] for index in kept],
                new=sum(index < len(new) for index in kept),
            )
            edits = self.edits(process, batch)
        return edits + [Skip(index, NO_SUBJECT) for index, at in enumerate(new) if at is None]

    def rehearses(self, place: int) -> bool:
        """Whether an earlier request, at this place of the stream, may be taught again."""
        return True

    @abstractmethod
    def edits(self, process: LifelongProcess, batch: SubjectBatch) -> list[Entry]:
        """The edits of a step's requests."""

    def subject_batch(
        self, process: LifelongProcess, requests: Sequence[EditRequest]
    ) -> SubjectBatch:
        """Requests of a step as tokens; each has its subject in its prompt."""
        asked = [
            (prompt, request.target, request.subject)
            for request in requests
            for prompt in self._contexts(process.task, request.prompt, request.target)
        ]
        essence = (
            [(f"{r.subject} is a", r.target, r.subject) for r in requests]
            if self.settings.kl_weight
            else []
        )
        texts = process.task.batch([(prompt, answer) for prompt, answer, _ in asked + essence])
        asking = process.task.asking
        places = [find_subject(asking, prompt, subject) for prompt, _, subject in asked + essence]
        device = texts.ids.device
        numbers = torch.arange(len(requests), device=device)
        owners = torch.cat(
            [numbers.repeat_interleave(self.settings.contexts), numbers[: len(essence)]]
        )
        return SubjectBatch(
            texts,
            torch.tensor(places, device=device),
            owners,
            len(asked),
            process.decoder.prefix(texts),
        )

    def _contexts(self, task: KnowledgeTask, prompt: str, target: str) -> list[str]:
        """The prompt, and the prompt after sentences about something else where those fit into the
        context.
        """
        others = self.settings.contexts - 1
        before = task.text.contexts(others, prompt) if others else []
        longer = [f"{sentence} {prompt}" for sentence in before]
        return [
            prompt,
            *(
                text if len(task.encode(text, target).ids) <= task.language.context else prompt
                for text in longer
            ),
        ]


def find_subject(asking: Asking, prompt: str, subject: str) -> int | None:
    """Which token of a prompt, as the model is asked it, is its subject's last; None if the subject
    is not in it.

    Raises:
        Unsupported: The tokenizer does not tell which characters a token stands for.
    """
    try:
        return asking.subject_token(prompt, subject)
    except ValueError as error:
        raise Unsupported(str(error)) from error


@torch.no_grad()
def _changed_before_it_is_added(process: LifelongProcess, site: EditSite) -> str | None:
    """What a layer does to a site's output before it adds it to the hidden state; None where a
    vector that is added to the output is added to the hidden state after the layer, as it is.
    """
    decoder, batch = process.decoder, process.task.example
    rows = torch.arange(len(batch), device=batch.ids.device)
    positions = torch.tensor(batch.lengths, device=batch.ids.device) - 2

    def after(injected: Mapping[str, Injection]) -> Tensor:
        seen: list[Tensor] = []

        def keep(_inputs: tuple[Any, ...], output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            seen.append(at_tokens(hidden, batch.ids.shape, rows, positions).float())

        with hooked(after=[(decoder.base.get_submodule(_layer(site).name), keep)]):
            decoder.logits(batch, injected=injected, whole=True)
        return seen[0]

    before = after({})
    added = torch.randn(before.shape, generator=torch.Generator().manual_seed(0)).to(before.device)
    added *= before.norm(dim=1, keepdim=True) / added.norm(dim=1, keepdim=True)
    moved = after({site.name: Injection(rows, positions, added)}) - before
    if (moved - added).norm() < 0.1 * added.norm():  # half precision rounds
        return None
    factors = (moved * added).sum(1, keepdim=True) / added.square().sum(1, keepdim=True)
    if (moved - factors * added).norm() >= 0.1 * moved.norm():
        return "its layer changes it, as models do that normalise it there (Gemma 2, OLMo 2)"
    if float(factors.max() - factors.min()) < 0.1 * float(factors.abs().max()):
        factor = float(factors.mean())
        return f"its layer multiplies it by {factor:.3g}, as Granite does by residual_multiplier"
    return (
        "its layer multiplies it by a number of each token's own, as Qwen2-MoE gates its shared"
        " expert"
    )


def _layer(site: EditSite) -> Layer:
    layer = layer_of(site.name)
    if layer is None:
        raise Unsupported(
            f"site {site.name} is in no numbered layer, so nobody knows where its output is added"
        )
    return layer


def _layer_below(name: str) -> str:
    """The site of the same name one layer below, or that site itself in the lowest one."""
    layer = layer_of(name)
    if layer is None or not layer.number:
        return name
    return name.replace(f"{layer.stack}.{layer.number}.", f"{layer.stack}.{layer.number - 1}.", 1)


def _layers_above(decoder: EditableDecoder, site: EditSite) -> int:
    layer = _layer(site)
    layers = decoder.base.get_submodule(layer.stack)
    if not isinstance(layers, nn.ModuleList):
        raise Unsupported(f"site {site.name}: {layer.stack} is no list of layers")
    return len(layers) - 1 - layer.number
