"""Which of a split's requests a stream takes, and why it leaves others out."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from editgym.data.edit_request import EditRequest, Question
from editgym.tasks.knowledge.asked_model import AskedModel
from editgym.tasks.knowledge.stream import Stream

TOO_LONG, KNOWN, NOT_KNOWN, REPEATED, SAME_STEP = (
    "longer than the context",
    "target equal to the current answer",
    "old answer not the unedited model's",
    "another one about its subject is in the stream",
    "its prompt is edited in the same step",
)

_Edit = tuple[str, str]  # a prompt and its target


class Drawing:
    """The requests of one stream, taken one after the other.

    Left out, and counted, are requests that do not fit into the model's context, those whose target
    is the current answer already, and those that edit a prompt that the same step edits. The
    current answer is the unedited model's, or what an earlier request of the stream made of the
    same prompt.

    Args:
        model: The unedited model, as it is asked.
        fits: Whether all questions of a request are within the model's context.
        unique_subjects: Whether of several requests about one subject only the first is taken.
        edits_per_step: Requests in a step.

    Attributes:
        kept: The requests that were taken, in their order.
        left_out: How many others were not, by reason.
    """

    def __init__(
        self,
        model: AskedModel,
        fits: Callable[[EditRequest], bool],
        unique_subjects: bool,
        edits_per_step: int,
    ) -> None:
        self.kept: list[EditRequest] = []
        self.left_out: Counter[str] = Counter()
        self._model, self._fits = model, fits
        self._unique, self._size = unique_subjects, edits_per_step
        self._subjects: set[str] = set()
        self._latest: dict[str, int] = {}  # places in `kept`, by prompt

    def take(self, candidates: Iterable[EditRequest], count: int) -> None:
        """Take the first `count` candidates that can be used, or as many as there are."""
        left = iter(candidates)
        while len(self.kept) < count:
            wanted = list(itertools.islice(left, count - len(self.kept)))
            if not wanted:
                return
            self._take(wanted)

    def stream(self) -> Stream:
        """The stream of what was taken.

        A request whose `premises` do not all hold at the stream's end has no `portability` there;
        and what the stream itself edits, in whatever words, is not among the questions whose
        answers should stay.
        """
        drawn = Stream(tuple(self.kept))
        holding = {(request.prompt, request.target) for request in drawn.holding}
        edited = {
            text
            for request in self.kept
            for text in (request.prompt, *request.rephrases, *request.test_rephrases)
        }

        def stays(questions: Sequence[Question]) -> tuple[Question, ...]:
            return tuple(one for one in questions if one.prompt not in edited)

        requests = (
            replace(
                request,
                portability=request.portability if holding.issuperset(request.premises) else (),
                near=stays(request.near),
                far=stays(request.far),
                locality=stays(request.locality),
                same_subject=tuple(one for one in request.same_subject if one not in edited),
            )
            for request in self.kept
        )
        skipped = {reason: n for reason, n in self.left_out.items() if reason != REPEATED}
        return Stream(tuple(requests), skipped)

    # --- inside -----------------------------------------------------------------------------------

    def _take(self, wanted: Sequence[EditRequest]) -> None:
        usable = [self._may_be_new(request) and self._fits(request) for request in wanted]
        asked = [request for request, own in zip(wanted, usable, strict=True) if own]
        edits = [_edit(request) for request in asked]
        current = dict(zip(edits, self._model.original_texts_beside(edits), strict=True))
        for request, own in zip(wanted, usable, strict=True):
            if not self._may_be_new(request):
                reason: str | None = REPEATED
            else:
                reason = self._objection(request, current) if own else TOO_LONG
            if reason is None:
                self._subjects.add(request.subject)
                self._latest[request.prompt] = len(self.kept)
                self.kept.append(request)
            else:
                self.left_out[reason] += 1

    def _may_be_new(self, request: EditRequest) -> bool:
        return not (self._unique and request.subject in self._subjects)

    def _objection(self, request: EditRequest, current: Mapping[_Edit, str]) -> str | None:
        """Why a request that could be asked is no edit here."""
        model, place = self._model, self._latest.get(request.prompt)
        if place is not None and place // self._size == len(self.kept) // self._size:
            return SAME_STEP
        answer = current[_edit(request)] if place is None else self.kept[place].target
        if model.scorer.gives(answer, request.target, request.names(request.target)):
            return KNOWN
        if model.interview.known and place is None and not self._known(request):
            return NOT_KNOWN
        return None

    def _known(self, request: EditRequest) -> bool:
        """Whether the unedited model gives the request's old answer."""
        if request.truth is None:
            return False
        (answer,) = self._model.original_texts_beside([(request.prompt, request.truth)])
        return self._model.scorer.gives(answer, request.truth, request.names(request.truth))


def _edit(request: EditRequest) -> _Edit:
    """What a request asks for: its prompt may be edited to several targets."""
    return request.prompt, request.target
