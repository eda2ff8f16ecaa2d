"""When a vector environment begins its next episodes: Gymnasium's three modes."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from editgym.checks import require
from editgym.envs.arguments import checked_options

_NAMES = {mode.name.lower(): mode for mode in AutoresetMode}
_VALUES = {mode.value: mode for mode in AutoresetMode}


def checked_autoreset_mode(given: str | AutoresetMode) -> AutoresetMode:
    """The mode that is meant by `"same_step"`, `"next_step"` or `"disabled"`, by Gymnasium's own
    spelling of these, or by itself.

    Raises:
        ValueError: There is no such mode.
    """
    if isinstance(given, AutoresetMode):
        return given
    known = _NAMES | _VALUES
    require(
        isinstance(given, str) and given in known,
        "autoreset_mode",
        given,
        f"one of {', '.join(map(repr, _NAMES))}, or an AutoresetMode",
    )
    return known[given]


def without_reset_mask(
    options: dict[str, Any] | None, candidates: int, mode: AutoresetMode
) -> dict[str, Any]:
    """A reset's options but for `"reset_mask"`, with which Gymnasium resets some environments of
    many where autoreset is disabled. Here all episodes end together, so it has to choose all.

    Raises:
        ValueError: They are no options by name; or the mask leaves a candidate out, has another
            shape or type, or autoreset is not disabled.
    """
    rest = dict(checked_options(options))
    if "reset_mask" not in rest:
        return rest
    mask = np.asarray(rest.pop("reset_mask"))
    require(
        mode is AutoresetMode.DISABLED,
        "options: reset_mask",
        mask,
        'left out unless autoreset_mode is "disabled"',
    )
    require(
        mask.shape == (candidates,) and mask.dtype == np.bool_ and bool(mask.all()),
        "options: reset_mask",
        mask,
        f"True for all {candidates} candidates, whose episodes begin and end together",
    )
    return rest
