"""Correcting the facts of a language model: the model, its streams of requests, and their
tokens.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from editgym.checks import above, optional
from editgym.data.facts import EditRequest, Question
from editgym.models.language import LanguageModel
from editgym.paths import file_states
from editgym.tasks.knowledge.asked_model import AS_ASKED, AskedModel
from editgym.tasks.knowledge.divergence import log_probabilities
from editgym.tasks.knowledge.drawing import REPEATED, TOO_LONG, Drawing
from editgym.tasks.knowledge.interview import Interview
from editgym.tasks.knowledge.own_samples import own_samples
from editgym.tasks.knowledge.plain_text import (
    FACTWORLD,
    SAMPLES,
    FactWorldText,
    FileText,
    PlainText,
    found_files,
)
from editgym.tasks.knowledge.stream import SPLITS, Stream, StreamSplit
from editgym.weights import EditableDecoder, TokenBatch, discover_sites, find_sites
from editgym.weights.language.graph_size import tokens_at_once
from editgym.weights.language.layers import Prefix
from editgym.weights.language.tokens import by_length

TeacherForced = Literal["accuracy", "probability"]
_CHECKED_ON = 4  # sentences: what edited models are compared on, and shortcuts checked


class KnowledgeTask(AskedModel):
    """A language model, requests in three splits that share no subject, and what the metrics need.

    Args:
        name: The task's name in the catalogue.
        language: The model.
        sites: Names or globs of what may be edited; None lets `discover_sites` choose.
        draw: Goes through the candidate requests of a split in random order; it gets the split and
            a generator, or None for the order of a file.
        known: Questions for `capability`, and the accuracy of a guess; None where there is no such
            data set.
        facts: Gives facts that the model may know, for `known_kept`; by default those of `known`.
        step_size: UltraEdit's η for this model.
        teacher_forced: How `tf_*` metrics score an answer: `accuracy` of its tokens, or whether the
            new answer is more probable than the old one.
        scorer: Name of the scorer, unless the interview names one.
        max_new_tokens: Where an answer without an end is cut, unless the interview says.
        text: Which plain text is read, unless the interview names files: FactWorld's, or the
            model's own samples.
        interview: How the model is asked.
        divided: What is said of where the splits come from, where the given one has too few.

    Attributes:
        example: A few texts as tokens.
        decoder: The unedited decoder; environments edit `fresh()` ones.
        asking: Prompts and answers as tokens, in the interview's format.
        scorer: What counts as an answer.

    Raises:
        ValueError: `step_size` is not positive.
        PromptFormatError: The model has no chat template.
        UnknownSiteError: A site matches no weight of the model.
    """

    def __init__(
        self,
        name: str,
        language: LanguageModel,
        sites: Sequence[str] | None,
        draw: Callable[[StreamSplit, random.Random | None], Iterable[EditRequest]],
        *,
        known: tuple[Sequence[Question], float] | None = None,
        facts: Callable[[], Iterable[Question]] | None = None,
        step_size: float | None = None,
        teacher_forced: TeacherForced = "accuracy",
        scorer: str = "exact",
        max_new_tokens: int = 8,
        text: Literal["factworld", "samples"] = "factworld",
        interview: Interview = AS_ASKED,
        divided: Callable[[StreamSplit], str] = lambda _: "",
    ) -> None:
        optional(above(0))("step_size", step_size)
        super().__init__(language, interview, scorer, max_new_tokens)
        self.name = name
        self.known = known
        self.facts = facts or (lambda: known[0] if known else ())
        self.teacher_forced = teacher_forced
        self._draw, self._divided = draw, divided
        chosen = (
            discover_sites(language.model) if sites is None else find_sites(language.model, sites)
        )
        self._own_text = text
        self._texts: dict[tuple[object, ...], PlainText] = {}

        self.example = self._text_batch(FactWorldText().held_out[:_CHECKED_ON])
        self.decoder = EditableDecoder(language.model, chosen, self.example)
        # At Llama-3-8B's down_proj (14,336 inputs) 1e-6 is UltraEdit's own; ‖k̂‖² grows with the
        # inputs.
        scaled = 1e-6 * 14_336 / max(site.shape[1] for site in chosen)
        self.step_size = scaled if step_size is None else step_size
        self._variants: WeakValueDictionary[Interview, KnowledgeTask] = WeakValueDictionary()
        self._original: KnowledgeTask | None = None

    # --- how it is asked --------------------------------------------------------------------------

    def asked(self, interview: Interview) -> KnowledgeTask:
        """The same model and requests, asked otherwise: one object for each interview, as long as
        somebody has it.

        Raises:
            PromptFormatError: The model has no chat template.
        """
        if self._original is not None:
            return self._original.asked(interview)
        if interview == self.interview:
            return self
        variant = self._variants.get(interview)
        if variant is None:
            variant = copy.copy(self)
            variant._original = self
            variant.ask_as(interview)
            self._variants[interview] = variant
        return variant

    # --- streams ----------------------------------------------------------------------------------

    def stream(
        self,
        split: StreamSplit,
        count: int,
        rng: random.Random | None,
        *,
        unique_subjects: bool = True,
        edits_per_step: int = 1,
    ) -> Stream:
        """`count` requests of a split; see `Drawing` for what is left out.

        Args:
            split: The split.
            count: How many.
            rng: Draws their order; None for the order that they have in their file.
            unique_subjects: Whether of several about one subject only the first is taken.
            edits_per_step: Requests in a step, none of which edits the prompt of another.

        Raises:
            ValueError: The split has too few requests, or they have no order of their own.
        """
        drawing = Drawing(self, self.fits, unique_subjects, edits_per_step)
        drawing.take(self._draw(split, rng), count)
        if len(drawing.kept) < count:
            left = ""
            if drawing.left_out:
                hint = "; unique_subjects=False takes several about one subject"
                hint = hint if drawing.left_out[REPEATED] else ""
                left = f" (left out: {dict(drawing.left_out)}{hint})"
            size = min(len(drawing.kept), edits_per_step)
            steps = len(drawing.kept) // size if size else 0
            fitting = f"; give horizon={steps}, edits_per_step={size}" if size else ""
            raise ValueError(
                f"{self.name}: {count} requests are asked for (horizon × edits_per_step), and"
                f" the {split} split has {len(drawing.kept)} that can be used"
                f"{left}{self._divided(split)}{fitting}"
            )
        return drawing.stream()

    # --- tokens -----------------------------------------------------------------------------------

    @property
    def text(self) -> PlainText:
        """The plain text that the model is read with; a model's own samples are drawn now, if they
        never were.

        Raises:
            DataError: A file of the text is missing or too short.
        """
        names, files = self._text_names, self._text_files()
        key = (*names, *file_states(*map(str, files)))
        if key not in self._texts:
            self._texts[key] = self._read(names, files)
        return self._texts[key]

    @property
    def _text_names(self) -> tuple[str, ...]:
        return self.interview.text or (self._own_text,)

    def _text_files(self) -> list[Path]:
        """The files of one's own among the text's names."""
        names = self._text_names
        return [] if names in ((FACTWORLD,), (SAMPLES,)) else found_files(names)

    def _read(self, names: tuple[str, ...], files: Sequence[Path]) -> PlainText:
        if names == (FACTWORLD,):
            return FactWorldText()
        if names == (SAMPLES,):
            return FileText([own_samples(self.language)], self.language)
        return FileText(files, self.language)

    def check_asked(self) -> None:
        """Find out now, and not when a stream is over, whether all that the interview names is
        there: its further formats, and the files of its text.

        Raises:
            PromptFormatError: The model has no chat template.
            DataError: A file is missing.
        """
        self._text_files()
        for _, form in self.interview.evaluate_formats:
            self.asked(self.interview.in_format(form))

    def held_out_batches(self) -> list[TokenBatch]:
        """The text that perplexity is measured on, passages of about one length together; the first
        token of each passage is its prompt.
        """
        passages = self.text.held_out
        lengths = [len(self.language.prompt_ids(passage)) for passage in passages]
        return [
            self._text_batch([passages[index] for index in group])
            for group in by_length(lengths, tokens_at_once(self.language.model))
            if max(lengths[index] for index in group) > 1  # one token predicts nothing
        ]

    def _text_batch(self, passages: Sequence[str]) -> TokenBatch:
        texts = [self.language.prompt_ids(text)[: self.language.context] for text in passages]
        return TokenBatch.of([(ids[:1], ids[1:]) for ids in texts if len(ids) > 1], self.device)

    @torch.no_grad()
    def reference(self, batch: TokenBatch, prefix: Prefix | None = None) -> Tensor:
        """Log-probabilities of the unedited model at the batch's answer tokens, (m, vocabulary).

        Args:
            batch: Questions with answers.
            prefix: What no edit changes about them (`EditableDecoder.prefix`).
        """
        return log_probabilities(self._unedited.logits(batch, prefix=prefix))

    @cached_property
    def _unedited(self) -> EditableDecoder:
        return self.decoder.fresh()

    def fits(self, request: EditRequest, before: str = "") -> bool:
        """Whether a request's questions, each with its answer, are within the model's context after
        a text `before`, in every format that they are asked in.
        """
        further = [form for _, form in self.interview.evaluate_formats]
        others = [self.asked(self.interview.in_format(form)) for form in further]
        return all(one._fits_as_asked(request, before) for one in (self, *others))

    def _fits_as_asked(self, request: EditRequest, before: str) -> bool:
        answers = [
            (text, request.target)
            for text in (request.prompt, *request.rephrases, *request.test_rephrases)
        ]
        answers += [
            (question.prompt, question.answer)
            for question in request.portability
            if question.answer
        ]
        if self.teacher_forced == "probability":  # then old answers are put into the model as well
            answers += [
                (text, request.truth)
                for text in (request.prompt, *request.test_rephrases)
                if request.truth
            ]
            answers += [
                (question.prompt, question.answer) for question in request.near if question.answer
            ]
        others = [question.prompt for question in (*request.locality, *request.near, *request.far)]
        longest = max(
            [len(self.encode(before + prompt, answer).ids) for prompt, answer in answers]
            + [
                len(self.prompt_ids(before + prompt)) + self.max_new_tokens
                for prompt in (*others, *request.same_subject)
            ]
        )
        return longest <= self.language.context


__all__ = [
    "SPLITS",
    "TOO_LONG",
    "KnowledgeTask",
    "Stream",
    "StreamSplit",
    "TeacherForced",
]
