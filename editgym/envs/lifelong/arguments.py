"""What the arguments of streams of edits may be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from editgym.checks import Check, above, at_least, is_whole, one_of, whole
from editgym.envs.lifelong.batch import Basis
from editgym.envs.lifelong.rehearsal import RehearsedBy
from editgym.envs.lifelong.rendering import RENDER_MODES
from editgym.envs.lifelong.reward import LookedAt, Reference
from editgym.tasks.knowledge.task import SPLITS

ActionForm = Literal["coefficients", "factors"]


def _is_file(path: str | Path) -> bool:
    return Path(path).is_file()


CHECKS: Mapping[str, Check] = {
    "action": one_of(*get_args(ActionForm)),
    "split": one_of(*SPLITS),
    "reference": one_of(*get_args(Reference)),
    "look_back": one_of(*get_args(LookedAt)),
    "basis": one_of(*get_args(Basis)),
    "render_mode": one_of(None, *RENDER_MODES),
    "journal_folder": Check(
        lambda v: v is None or (isinstance(v, str | Path) and str(v) != "" and not _is_file(v)),
        "the path of a folder, there or not, or None",
    ),
    "edits_per_step": whole(1),
    "horizon": whole(1),
    "rehearse": whole(0),
    "rehearse_by": one_of(*get_args(RehearsedBy)),
    "unique_subjects": Check(lambda v: isinstance(v, bool), "True or False"),
    "order": Check(
        lambda v: v == "file" or (is_whole(v) and v >= 0), '0 or more, a whole number, or "file"'
    ),
    "stream": Check(
        lambda v: v is None or (is_whole(v) and v >= 0), "0 or more, a whole number, or None"
    ),
    "back_depth": whole(0),
    "micro_batch": whole(1),
    "locality_weight": at_least(0),
    "norm_weight": at_least(0),
    "decay": at_least(0),
    "max_coefficient": above(0),
    "shift_limit": above(0),
    "observation_bound": above(0),
}
