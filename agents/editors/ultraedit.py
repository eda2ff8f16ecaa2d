"""UltraEdit as an agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from gymnasium.envs.registration import EnvSpec

from agents.configured import Settings, setting
from agents.editors.settings import SITES
from agents.editors.stream import StreamEditor, chosen_sites, own_step_size
from agents.episodes import spec_arguments
from agents.tune.search import ANY_SITES, LogUniform, Whole
from editgym.checks import above, one_of, optional, whole
from editgym.envs.lifelong.process import LifelongProcess
from editgym.weights import Entry, LowRankFactors, Shift, SiteEdit
from editgym.weights.closed_form import UltraEdit
from editgym.weights.language.capture import Capture

Statistics = Literal["site", "shape"]


@dataclass(frozen=True, kw_only=True)
class UltraEditSettings(Settings):
    """What `UltraEditAgent` takes."""

    step_size: float | None = setting(
        None,
        optional(above(0)),
        search=LogUniform(0.1, 1_000, relative=True, where_none=own_step_size),
    )
    sites: Sequence[str] | None = setting(None, SITES, search=ANY_SITES)
    passes: int = setting(1, whole(1), search=Whole(1, 6))
    statistics: Statistics = setting("site", one_of(*get_args(Statistics)))


class UltraEditAgent(StreamEditor):
    """UltraEdit (Gu et al. 2025): one training-free closed-form update per site and step.

    Sites are updated at once, each as if it were the only one, and so overshoot together. With
    `passes` above 1, which are ours, keys and gradients are taken again with the update so far in
    effect, and the next update is added. The running statistics take in the step's new requests,
    once; rehearsed ones are standardised by them.

    Args:
        step_size: η, greater than 0. None (default) takes the environment's: its argument
            `step_size`, else what is tuned for its model, else 1e-6 at the inputs of Llama-3-8B's
            `down_proj`, scaled to the model's. Tuned for factlm: 1e-3, and 1.4e-3 from 500 edits
            on.
        sites: Names among the environment's sites; None (default) for all.
        passes: Updates per step, 1 or more; 1 (default) is UltraEdit.
        statistics: Over what keys and gradients are standardised: those of one `site` (default), or
            of all edited sites of one `shape` together, as in the released code.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    name = "ultraedit"
    settings_type: ClassVar[type[Settings]] = UltraEditSettings
    settings: UltraEditSettings

    def tuned(self, spec: EnvSpec) -> Mapping[str, Any]:
        """The tuned values; a step size that the environment was given goes before a tuned one."""
        given = spec_arguments(spec).get("step_size")
        return {**super().tuned(spec), **({} if given is None else {"step_size": given})}

    def begin(self, process: LifelongProcess) -> None:
        """Start with empty running statistics."""
        chosen = chosen_sites(process, self.settings.sites, self.name)
        self._sites = {site.name for site in chosen}
        pooled = self.settings.statistics == "shape"
        by_key: dict[object, UltraEdit] = {}
        self._editors = {
            site.name: by_key.setdefault(
                site.shape if pooled else site.name, UltraEdit(site.shape, process.task.device)
            )
            for site in process.sites
            if site.name in self._sites
        }

    def entries(self, process: LifelongProcess) -> list[Entry]:
        """One low-rank shift per site."""
        new = process.capture.new
        for site, keys, gradients in zip(process.sites, new.keys, new.gradients, strict=True):
            if site.name in self._sites:
                self._editors[site.name].observe(keys, gradients)
        total = self._updates(process, process.capture)
        for _ in range(self.settings.passes - 1):
            more = self._updates(process, process.captured_after(total))
            total = [update.plus(other) for update, other in zip(total, more, strict=True)]
        return [
            SiteEdit(site.name, Shift(), update)
            for site, update in zip(process.sites, total, strict=True)
            if site.name in self._sites
        ]

    def _updates(self, process: LifelongProcess, capture: Capture) -> list[LowRankFactors]:
        """One update per site of the process; of rank 0 where the editor does not edit."""
        step_size = self.settings.step_size or process.step_size
        updates = []
        for site, keys, gradients in zip(
            process.sites, capture.keys, capture.gradients, strict=True
        ):
            editor = self._editors.get(site.name)
            updates.append(
                LowRankFactors(gradients.mT[:, :0], keys[:0])
                if editor is None
                else editor.update(keys, gradients, step_size, observe=False)
            )
        return updates

    def state_dict(self) -> dict[str, Any]:
        """The running statistics."""
        return {"editors": {name: editor.state_dict() for name, editor in self._editors.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Running statistics that `state_dict` gave."""
        for name, editor in self._editors.items():
            editor.load_state_dict(state["editors"][name])
