"""Whether a stream can go on from a saved state, and whether beginning anew would lose steps."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from editgym.envs.lifelong.episode import REWARDED, LifelongOutcome
from editgym.envs.lifelong.grades import Grade
from editgym.tasks.knowledge.task import Stream
from editgym.weights import DiskJournal, EditJournal
from editgym.weights.closed_form import UltraEdit
from editgym.weights.sites import EditSite


class Kept(NamedTuple):
    """What a state says of the steps before it, as it is gone on with.

    Attributes:
        statistics: The running statistics of UltraEdit, one for each site.
        steps: The grade of every step, if it is known, its reward, and what that said of the batch.
    """

    statistics: list[UltraEdit]
    steps: list[tuple[Grade | None, Tensor, dict[str, float]]]


def restored_state(options: Mapping[str, Any], seed: int | None) -> dict[str, Any] | None:
    """The state that a reset is to go on from, if its options have one.

    Raises:
        ValueError: An option is not known, there is a seed beside the state, or the state is no
            environment's.
    """
    if not isinstance(options, Mapping):
        raise ValueError(f'options must be {{"restore": state}}, or None, got {options!r}')
    unknown = sorted(map(str, options.keys() - {"restore"}))
    if unknown:
        raise ValueError(f'options: {unknown} are not known; the environment takes "restore" alone')
    if not options:
        return None
    state = options["restore"]
    if seed is not None:
        raise ValueError(
            f"seed must be None where an episode is restored with its random state, got {seed}"
        )
    if not isinstance(state, dict) or not {"process", "stream_seed", "random"} <= state.keys():
        raise ValueError(f"restore must be what checkpoint() gave, got {type(state).__name__}")
    return state


def check_random(state: Any, generator: np.random.Generator) -> None:
    """Refuse a random state that a generator cannot go on from.

    Raises:
        ValueError: It is none.
    """
    try:
        copy.deepcopy(generator).bit_generator.state = state
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"restore: its random state is damaged ({type(error).__name__}: {error})"
        ) from error


def journalled(journal: EditJournal, step: int) -> dict[str, Any]:
    """What the journal has of the steps below `step`: their numbers, and the hash of the last."""
    steps = sorted({e.step for e in journal if e.step is not None and e.step < step})
    return {"steps": steps, "last": journal.content_hash(steps[-1]) if steps else None}


def check_restorable(
    state: Mapping[str, Any],
    identity: list[Any],
    edited: Mapping[str, Any],
    journal: EditJournal,
    run: str | None,
) -> None:
    """Refuse a state that a process cannot go on from.

    Args:
        state: What `LifelongProcess.state_dict` gave.
        identity: The process's `LifelongSettings.identity`.
        edited: What the process edits and how far, by name of the argument; early states do not say
            it.
        journal: The process's journal.
        run: The episode that the journal belongs to; None where the process has begun none.

    Raises:
        ValueError: The state is of another stream or model, or the journal lacks steps that were
            made before it, has other edits there, or was begun anew since.
    """
    if state["stream"] != identity:
        raise ValueError(
            f"state: it is of the stream {state['stream']}, this one is {identity}: go"
            " on with the same task, split, horizon, edits_per_step, rehearse, rehearse_by,"
            " unique_subjects, order, stream and basis, asked in the same way"
        )
    for name, value in edited.items():
        if state.get(name, value) != value:
            raise ValueError(
                f"state: it was saved with {name}={state[name]!r}, here it is {value!r}: go on with"
                " the same ones"
            )
    saved, outcomes = state["journalled"], state.get("outcomes", ())
    if not isinstance(saved, dict) or len(outcomes) != state["step_index"]:
        raise ValueError(
            f"state: it holds what {len(outcomes)} steps gave, and was saved after"
            f" {state['step_index']}: it is damaged, or of another version; begin anew"
        )
    found = journalled(journal, state["step_index"])
    if saved["steps"] != found["steps"]:
        raise ValueError(
            f"state: it was saved after the journalled steps {saved['steps']}, the journal has"
            f" {found['steps']} of them: give the same journal_folder, or begin anew"
        )
    if saved["steps"] and run not in (None, state.get("run")):
        raise ValueError(
            "state: the journal of its steps is gone, for another episode was begun here since:"
            " go on before any other reset, with the same journal_folder"
        )
    if saved["last"] != found["last"]:
        raise ValueError(
            f"state: the journal's step {found['steps'][-1]} holds other edits than were made"
            " before it was saved: give the journal_folder of the same run, or begin anew"
        )


def kept(state: Mapping[str, Any], sites: Sequence[EditSite], device: torch.device) -> Kept:
    """What a state says of the steps before it; nothing is changed by looking at it.

    Raises:
        ValueError: Something is missing, or of another shape.
    """
    statistics = [UltraEdit(site.shape, device) for site in sites]
    try:
        for editor, own in zip(statistics, state["ultraedit"], strict=True):
            editor.load_state_dict(own)
        steps = [
            (
                grade_of(own),
                torch.tensor(own["reward"]),
                {key: own["metrics"][key] for key in REWARDED if key in own["metrics"]},
            )
            for own in state["outcomes"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"state: it is damaged, or of another version; begin anew ({type(error).__name__}:"
            f" {error})"
        ) from error
    return Kept(statistics, steps)


def check_same_requests(state: Mapping[str, Any], drawn: Stream) -> None:
    """Refuse a state whose seed draws other requests than it did.

    Raises:
        ValueError: The requests' files have changed.
    """
    if state["requests"] != drawn.fingerprint:
        raise ValueError(
            "state: it was saved in a stream of other requests than are drawn here: go on with"
            " the same requests and test_requests, as their files were then"
        )


def check_resettable(journal: EditJournal) -> None:
    """Refuse to begin a stream where a folder holds steps of one that nobody went on with.

    Raises:
        ValueError: A reset would delete them.
    """
    steps = len({entry.step for entry in journal})  # also those that only left requests out
    if isinstance(journal, DiskJournal) and steps:
        raise ValueError(
            f"journal_folder: {journal.folder} holds {steps} steps of an interrupted"
            " stream, and a reset would delete them; go on with them by an editor's edit(env,"
            ' folder) or reset(options={"restore": state}), or delete the folder'
        )


def outcome_state(outcome: LifelongOutcome, grade: Grade | None) -> dict[str, Any]:
    """What a step gave, as plain values.

    Args:
        outcome: The step's.
        grade: What its prompts came to; None where nobody has looked.
    """
    return {
        "reward": float(outcome.reward),
        "answered": None if grade is None else grade[0].tolist(),
        "metrics": {**(grade[1] if grade is not None else {}), **outcome.rewarded},
    }


def grade_of(state: Mapping[str, Any]) -> Grade | None:
    """What a step's prompts came to, by `outcome_state`; None where nobody had looked."""
    if state["answered"] is None:
        return None
    return torch.tensor(state["answered"]), dict(state["metrics"])
