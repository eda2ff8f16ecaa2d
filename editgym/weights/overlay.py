"""A frozen base with an overlay of edits: apply, undo, roll back, replay, reset."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from editgym.weights.factors import widened
from editgym.weights.journal.disk_journal import DiskJournal
from editgym.weights.journal.entries import copied
from editgym.weights.journal.journal import (
    Adapter,
    Codebook,
    EditJournal,
    Entry,
    JournalError,
    Prepend,
    Remember,
    ReplaceTensors,
    SiteEdit,
    Skip,
    require_journal,
)
from editgym.weights.sites import EditSite, UnknownSiteError
from editgym.weights.state import EditedState, Remembered
from editgym.weights.stored import (
    Untouched,
    fingerprint,
    plain_copy,
    stored_tensors,
    tied_names,
)


class EditedWeights:
    """The weights of a frozen network with edits on top; what `EditableNetwork` and
    `EditableDecoder` share.

    The base is never written to, so `reset` takes the same time after one edit as after a million
    and restores every weight bitwise. All edits go through the journal; the edited weights are what
    replaying the journal yields, by the same operations in the same order, so they are equal
    bitwise on CPU.

    Args:
        base: Frozen, and nobody else's to change.
        sites: What may be edited (`find_sites`, `discover_sites`).
    """

    def __init__(self, base: nn.Module, sites: Sequence[EditSite]) -> None:
        self.base = base
        self.sites = tuple(sites)
        self.base_hash = fingerprint(self.base)
        # Of a model that is put off to disk the sites' modules stay where they are used.
        held = [f"{site.name}.{part}" for site in self.sites for part in ("weight", "bias")]
        tensors = stored_tensors(self.base, held)
        self._tensors: Mapping[str, Tensor] = tensors
        self._tied = tied_names(self.base)
        self._by_name = {site.name: site for site in self.sites}
        self._base_weights = tuple(site.to_matrix(tensors[site.parameter]) for site in self.sites)
        self._untouched = Untouched(self._base_weights)
        self._state = self._root = EditedState()  # the root is what the journal begins on
        self.journal = EditJournal(self.base_hash)

    def fresh(self, folder: Path | None = None) -> Self:
        """An unedited network on the same base: shares all that never changes, and nothing that
        does. Its journal is its own: in memory, or in `folder`.

        Raises:
            RuntimeError: Somebody has changed the base's matrices in place.
        """
        self._untouched.check()
        twin = copy.copy(self)
        twin._state = twin._root = EditedState()
        twin.journal = EditJournal(self.base_hash)
        if folder is not None:
            twin.resume(folder)
        return twin

    def branch(self) -> Self:
        """A network in this one's state, with an empty journal in memory: what is applied to it is
        not applied here.
        """
        twin = copy.copy(self)
        twin.settle()
        return twin

    def settle(self) -> None:
        """Let go of the journal, which stays with who has it: what was applied stays for good."""
        self._root, self.journal = self._state, EditJournal(self.base_hash)

    def resume(self, folder: Path) -> None:
        """Go on with the journal in `folder`, from its last whole step; a new folder is a new
        journal.

        Raises:
            JournalError: It belongs to another network.
        """
        before, self.journal = self.journal, DiskJournal(self.base_hash, folder)
        try:
            self._replay()
        except BaseException:
            self.journal = before
            raise

    # --- edits ------------------------------------------------------------------------------------

    def apply(self, *entries: Entry) -> None:
        """Apply edits and write them into the journal; on an error nothing has changed. State and
        journal share no memory with what is given.

        Raises:
            UnknownSiteError: An entry names a site or tensor that the network does not have.
            ValueError: A tensor's shape is not the network's, an edited weight would not be finite,
                or a step is below the journal's last.
        """
        entries = tuple(map(copied, entries))
        try:
            # One after the other: a large model has no room for every edited matrix twice.
            for entry in entries:
                self._state = self._edited(entry, self._state)
            self.journal.append(*map(self._journalled, entries))  # a journal on disk may fail
        except BaseException:
            self._replay()
            raise

    def reset(self) -> None:
        """Forget every edit: O(1), bitwise exact. A journal on disk is emptied.

        Raises:
            JournalError: Another journal has written to the folder; nothing has changed then.
        """
        with self._following_the_journal():
            self.journal = self.journal.begun_anew()
        self._state = self._root = EditedState()

    def undo(self) -> list[Entry]:
        """Take back the edits of the last step and return them.

        Raises:
            IndexError: There is nothing to undo.
        """
        return self._taken_back(self.journal.undo)

    def rollback(self, step: int) -> list[Entry]:
        """Return to the state before `step` was taken, and return the edits taken back."""
        return self._taken_back(partial(self.journal.rollback, step))

    def replay(self, journal: EditJournal) -> None:
        """Start from the base and apply a whole journal, which one on disk then holds.

        Raises:
            TypeError: It is no journal.
            JournalError: The journal was recorded on another base network.
            UnknownSiteError, ValueError: An entry does not fit, as in `apply`; nothing has changed
                then.
            OSError: The folder cannot be written; nothing has changed, unless it cannot take the
                former entries either: the weights are those that it then holds.
        """
        require_journal(journal)
        if journal.base_hash != self.base_hash:
            raise JournalError(
                f"the journal belongs to the network {journal.base_hash[:12]}…, this one is "
                f"{self.base_hash[:12]}…: build the network with the same task and model_seed"
            )
        edited = self.fresh()
        edited.apply(*journal.entries)
        before, former = self.journal, list(self.journal.entries)
        try:
            self.journal = before.begun_anew()
            self.journal.append(*edited.journal.entries)  # a journal on disk may fail
        except BaseException:
            self.journal = before
            self._put_back(former)
            raise
        self._state, self._root = edited._state, EditedState()

    # --- reading ----------------------------------------------------------------------------------

    @property
    def base_weights(self) -> tuple[Tensor, ...]:
        """The base network's matrix at every site, each (out, in), to be read only.

        Raises:
            RuntimeError: Somebody has changed them in place.
        """
        self._untouched.check()
        return self._base_weights

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """The current matrix at every site, each (out, in), to be read only: unedited ones are the
        base's own.
        """
        return tuple(
            site.to_matrix(self._current(site.parameter, self._state)) for site in self.sites
        )

    @property
    def parameters_changed(self) -> dict[str, tuple[Tensor, Tensor]]:
        """(before, after) of every tensor under the overlay."""
        return {name: (self._tensors[name], tensor) for name, tensor in self._state.tensors.items()}

    @property
    def remembered(self) -> Mapping[str, Remembered]:
        """Facts that are put before questions (`Remember`), by prompt, the latest last."""
        return self._state.facts

    def current_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors of the edited network; read them only, unedited ones are the base's
        own.
        """
        return ((name, self._current(name, self._state).detach()) for name in self._tensors)

    def state_dict(self) -> dict[str, Tensor]:
        """The edited network's state dict, to load into a fresh network of the same class."""
        return {name: tensor.clone().contiguous() for name, tensor in self.current_tensors()}

    def probe(self, model: nn.Module | None = None) -> Tensor:
        """Logits of the edited network, or another of its shape, on the inputs it was made with."""
        raise AssertionError(f"{type(self).__name__} was made with no inputs")

    def merged(self) -> nn.Module:
        """A plain copy of the network with the edits in its weights, trainable like any other; of a
        model that is spread over devices, in the CPU's memory.
        """
        return plain_copy(self.base, self._state.tensors.items()).requires_grad_()

    # --- inside -----------------------------------------------------------------------------------

    def _current(self, name: str, state: EditedState) -> Tensor:
        return state.tensors[name] if name in state.tensors else self._tensors[name]

    def _edited(self, entry: Entry, state: EditedState) -> EditedState:
        """The state after one entry."""
        if isinstance(entry, Adapter):
            self._check_adapter(entry)
        if isinstance(entry, Codebook):
            return state.with_codebook(entry, self._base_weights[0].device)
        if isinstance(entry, Remember):
            return state.with_facts(entry)
        if isinstance(entry, Prepend | Skip):
            return state
        if isinstance(entry, ReplaceTensors):
            replaced = {name: self._replacement(name, t) for name, t in entry.tensors.items()}
        else:
            replaced = self._edited_site(entry, state)
        return state.with_tensors(
            {tied: tensor for name, tensor in replaced.items() for tied in self._tied[name]}
        )

    def _edited_site(self, entry: SiteEdit, state: EditedState) -> dict[str, Tensor]:
        if entry.site not in self._by_name:
            raise UnknownSiteError(
                f"site: {entry.site!r} is not open for edits; open are {list(self._by_name)}"
            )
        site = self._by_name[entry.site]
        weight = site.to_matrix(self._current(site.parameter, state))
        if entry.update.shape != weight.shape:
            raise ValueError(
                f"site {site.name} is {tuple(weight.shape)}, the update is"
                f" {tuple(entry.update.shape)}"
            )
        # The factors go where the weights are, so a journal loaded on CPU replays on a network on a
        # GPU.
        update = entry.update.to(weight.device).widened()
        # Half precision would round the sum before anybody chooses what it is kept in.
        edited = self._kept(entry.operator.edited(widened(weight), update), weight)
        if not bool(torch.isfinite(edited).all()):
            is_half = self._tensors[site.parameter].dtype == torch.float16
            remedy = (
                '; float16 overflows easily: give the model dtype "bfloat16" or "float32"'
                if is_half
                else ""
            )
            raise ValueError(f"site {site.name}: the edited weight is not finite{remedy}")
        return {site.parameter: site.to_stored(edited)}

    def _replacement(self, name: str, tensor: Tensor) -> Tensor:
        if name not in self._tensors:
            raise UnknownSiteError(f"replace_tensors: the network has no tensor {name!r}")
        base = self._tensors[name]
        if tensor.shape != base.shape:
            raise ValueError(
                f"replace_tensors: {name} is {tuple(base.shape)}, got {tuple(tensor.shape)}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"replace_tensors: {name} has values that are not finite")
        return self._kept(tensor.to(base.device), base)

    def _replay(self) -> None:
        state = self._root
        for entry in self.journal:
            state = self._edited(entry, state)
        self._state = state

    @contextmanager
    def _following_the_journal(self) -> Iterator[None]:
        """Have the weights of what is left where a journal on disk is interrupted while it removes
        steps.
        """
        known = len(self.journal)
        try:
            yield
        except BaseException:
            if len(self.journal) != known:
                self._replay()
            raise

    def _taken_back(self, take: Callable[[], list[Entry]]) -> list[Entry]:
        """Take entries out of the journal, which has them again if the replay is interrupted."""
        with self._following_the_journal():
            removed = take()
            try:
                self._replay()
            except BaseException:
                self.journal.append(*removed)
                raise
        return removed

    def _put_back(self, former: Sequence[Entry]) -> None:
        """Give the journal, which may have been emptied on disk, the entries that it had."""
        if list(map(id, self.journal.entries)) == list(map(id, former)):
            return
        try:
            self.journal.rollback(0)
            self.journal.append(*former)
        finally:
            self._replay()

    def _check_adapter(self, entry: Adapter) -> None:
        raise ValueError(
            f"an entry of kind {entry.kind} is an adapter of language models, and"
            f" {type(self).__name__} takes edits of weights only"
        )

    def _journalled(self, entry: Entry) -> Entry:
        """An entry as it is kept in the journal."""
        return entry

    def _kept(self, edited: Tensor, base: Tensor) -> Tensor:
        """An edited matrix in the precision that it is kept in."""
        return edited.to(base.dtype)
