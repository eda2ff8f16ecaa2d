"""UltraEdit as an agent."""

from __future__ import annotations

from typing import Any

from agents.editors.stream import StreamEditor, chosen_sites
from editgym.checks import is_finite, is_whole, require
from editgym.envs.lifelong.process import LifelongProcess
from editgym.weights import Entry, LowRankFactors, Shift, SiteEdit
from editgym.weights.closed_form import UltraEdit
from editgym.weights.site_pass import Capture


class UltraEditAgent(StreamEditor):
    """UltraEdit (Gu et al. 2025): one training-free closed-form update per site and step.

    Sites are updated at once, each as if it were the only one, and so overshoot together. With
    `passes` above 1, which are ours, keys and gradients are taken again with the update so far in
    effect, and the next update is added.

    Args:
        step_size: η; None takes the task's, which was tuned for its model on validation requests.
        sites: Names among the environment's sites; None for all.
        passes: Updates per step; 1 is UltraEdit.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    name = "ultraedit"

    def __init__(
        self, step_size: float | None = None, sites: list[str] | None = None, passes: int = 1
    ) -> None:
        require(
            step_size is None or (is_finite(step_size) and step_size > 0),
            "step_size",
            step_size,
            "greater than 0 and finite, or None",
        )
        require(is_whole(passes) and passes >= 1, "passes", passes, "1 or more, a whole number")
        self.config = {"step_size": step_size, "sites": sites, "passes": passes}
        self.step_size, self.sites, self.passes = step_size, sites, passes

    def begin(self, process: LifelongProcess) -> None:
        """Start with empty running statistics."""
        self._sites = {site.name for site in chosen_sites(process, self.sites, self.name)}
        self._editors = {
            site.name: UltraEdit(site.shape, process.task.device)
            for site in process.sites
            if site.name in self._sites
        }

    def entries(self, process: LifelongProcess) -> list[Entry]:
        """One low-rank shift per site."""
        total = self._updates(process, process.capture, observe=True)
        for _ in range(self.passes - 1):
            more = self._updates(process, process.captured_after(total), observe=False)
            total = [update.plus(other) for update, other in zip(total, more, strict=True)]
        return [
            SiteEdit(site.name, Shift(), update)
            for site, update in zip(process.sites, total, strict=True)
            if site.name in self._sites
        ]

    def _updates(
        self, process: LifelongProcess, capture: Capture, observe: bool
    ) -> list[LowRankFactors]:
        """One update per site of the process; of rank 0 where the editor does not edit."""
        step_size = self.step_size or process.task.step_size
        updates = []
        for site, keys, gradients in zip(
            process.sites, capture.keys, capture.gradients, strict=True
        ):
            editor = self._editors.get(site.name)
            updates.append(
                LowRankFactors(gradients.mT[:, :0], keys[:0])
                if editor is None
                else editor.update(keys, gradients, step_size, observe)
            )
        return updates

    def state_dict(self) -> dict[str, Any]:
        """The running statistics."""
        return {"editors": {name: editor.state_dict() for name, editor in self._editors.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Running statistics that `state_dict` gave."""
        for name, editor in self._editors.items():
            editor.load_state_dict(state["editors"][name])
