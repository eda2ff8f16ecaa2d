"""What all editors of a stream of facts share: the loop, checkpoints, and what they do not have to
learn.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import torch
from gymnasium.envs.registration import EnvSpec
from tqdm import tqdm

from agents.checkpoints import CHECKPOINT, canonical, first_difference
from agents.configured import ConfiguredAgent
from agents.editors.settings import tuned_settings
from agents.protocol import Access, Budget, Unsupported
from editgym.checks import require
from editgym.envs.lifelong.process import LifelongProcess
from editgym.envs.protocol import edit_env, gradient_stream, is_stream
from editgym.models.state_files import read_state
from editgym.models.training import generators_kept
from editgym.paths import whole_file
from editgym.weights import DiskJournal, EditJournal, Entry, Skip, sites
from editgym.weights.sites import EditSite


class StreamEditor(ConfiguredAgent):
    """An editor that turns each step's requests into journal entries; a subclass writes `entries`.

    Attributes:
        changes_weights: Whether its edits are changes of weights, which an adapter or a checkpoint
            can hold.
        skipped: How many requests were not edited in the last `edit`, by reason.
    """

    access: ClassVar[Access] = "data"
    changes_weights: ClassVar[bool] = True
    skipped: Counter[str]

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.skipped = Counter()

    def tuned(self, spec: EnvSpec) -> Mapping[str, Any]:
        """The values that were tuned for an environment's task, model and length of stream."""
        return tuned_settings(spec, self.name)

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Learn nothing; the seed is kept for what is drawn while editing, if anything is."""
        self.keep_seed(seed)
        self.settings = self.resolved(env_spec)

    def edit(
        self,
        env: gym.Env,
        folder: Path | None = None,
        seed: int | None = None,
        every: float = 0.0,
    ) -> EditJournal:
        """Edit one stream to its end.

        Every step belongs to the environment's episode: `render()` and the episode's infos have it.

        Args:
            env: `LifelongLLMEdit`; it is reset, unless `folder` holds a checkpoint.
            folder: Where a checkpoint is written after a step, and continued from. The
                environment needs a `journal_folder` then.
            seed: The seed that `env` was reset with; a checkpoint of another one is not continued
                from.
            every: Seconds between two checkpoints at least.

        Raises:
            Unsupported: It is another environment, or the editor cannot edit its sites.
            ValueError: The checkpoint is of another editor, or one that has learned something else,
                or of another seed, sites or step size, or a folder is given and the environment
                keeps its journal in memory; nothing has changed then.
        """
        process = stream_process(env)
        require(
            folder is None or isinstance(edit_env(env).journal, DiskJournal),
            "folder",
            folder,
            "None, or an environment made with a journal_folder: a checkpoint goes on from the"
            " steps that lie there",
        )
        self.settings = self.resolved(env.spec)
        self.skipped = Counter()
        identity = self._identity(process, seed)
        state = None if folder is None else _checkpoint(folder, identity)
        # What is gone on with draws what it would have drawn, and nobody else does.
        with nullcontext() if state is None else generators_kept():
            self._start(env, process, state)
            with tqdm(
                total=process.settings.horizon,
                initial=process.step_index,
                desc=self.name,
                unit="step",
                leave=False,
                mininterval=0.5,
            ) as bar:
                latest = time.monotonic()
                while not process.over:
                    process.advance(self.entries(process))
                    bar.update()
                    if folder is not None and time.monotonic() >= latest + every:
                        self._save_checkpoint(env, folder, identity)
                        latest = time.monotonic()
        journal = edit_env(env).journal
        self.skipped = Counter(entry.reason for entry in journal if isinstance(entry, Skip))
        return journal

    def _identity(self, process: LifelongProcess, seed: int | None) -> dict[str, Any]:
        """Say which edit this is: no other one continues its checkpoint."""
        return canonical(
            {
                "agent": self.name,
                "config": self.settings.as_dict(),
                "learned": self.fingerprint(),
                "seed": seed,
                "sites": [site.name for site in process.sites],
                "step_size": process.step_size,
            }
        )

    def _start(self, env: gym.Env, process: LifelongProcess, state: dict[str, Any] | None) -> None:
        """Begin a stream, or go on where a checkpoint's state says that one has stopped."""
        env.reset(options=None if state is None else {"restore": state["env"]})
        self.begin(process)
        if state is not None:
            self.load_state_dict(state["editor"])
            torch.set_rng_state(state["torch"])

    def begin(self, process: LifelongProcess) -> None:
        """Prepare for a stream on the unedited model.

        Raises:
            Unsupported: The editor cannot edit the process's sites.
        """

    def entries(self, process: LifelongProcess) -> list[Entry]:
        """What to apply for the step: what teaches `process.batch.taught`, the new requests and
        those that are rehearsed, with a `Skip` for every new one that is left out. Of a request it
        may look at subject, prompt and target.
        """
        raise AssertionError(f"{type(self).__name__} does not say what to apply")

    def fingerprint(self) -> str | None:
        """A hash of what the editor has learned; None where it learns nothing."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What the editor needs to go on after an interruption, beyond its configuration."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` gave; called after `begin`."""

    def _save_checkpoint(self, env: gym.Env, folder: Path, identity: dict[str, Any]) -> None:
        state = {
            "identity": identity,
            "env": gradient_stream(env).checkpoint(),
            "editor": self.state_dict(),
            "torch": torch.get_rng_state(),
        }
        with whole_file(folder / CHECKPOINT) as partial:
            torch.save(state, partial)


def _checkpoint(folder: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Read the checkpoint of an interrupted edit; None where there is none.

    Raises:
        ValueError: It is damaged, or that of another edit.
    """
    if not (folder / CHECKPOINT).is_file():
        return None
    state = read_state(
        folder / CHECKPOINT,
        ("env", "editor", "torch"),
        "checkpoint of an edit",
        "delete it to begin anew",
        None,
    )
    if different := first_difference(state.get("identity", {}), identity):
        raise ValueError(
            f"folder: {folder} holds an interrupted edit that is another one: {different};"
            " go on with the same agent and seed, give another folder, or delete"
            f" {CHECKPOINT} there to begin anew"
        )
    return state


def stream_process(env: gym.Env) -> LifelongProcess:
    """The tensor API of an environment whose episode is a stream of facts.

    Raises:
        Unsupported: It is another environment.
    """
    try:
        return gradient_stream(env).process
    except Unsupported as error:
        raise Unsupported(
            f"this agent edits streams of facts (LifelongLLMEdit): {error}"
        ) from error


def own_step_size(env: gym.Env) -> float | None:
    """UltraEdit's step size for an environment's model, which counts where an agent's is None; None
    where there is no stream of facts.
    """
    return gradient_stream(env).process.step_size if is_stream(env) else None


def writes_to_residual(process: LifelongProcess, site: EditSite) -> bool:
    """Whether a site's output is added to the residual stream: as wide as the model, and named like
    an output.
    """
    return sites.writes_to_residual(site, process.task.language.model.config.hidden_size)


def chosen_sites(
    process: LifelongProcess, names: Sequence[str] | None, name: str, residual: bool = False
) -> list[EditSite]:
    """The environment's sites that an editor works on.

    Args:
        process: The stream.
        names: The sites, by name; None for all that qualify.
        name: The editor's name, for messages.
        residual: Whether only sites that write to the residual stream qualify.

    Raises:
        Unsupported: A name is not open for edits, or a site does not qualify, or none is left.
    """
    by_name = {site.name: site for site in process.sites}
    unknown = [one for one in names or () if one not in by_name]
    if unknown:
        raise Unsupported(
            f"{name}: sites {unknown} are not open for edits; open are {list(by_name)}"
        )
    chosen = list(process.sites) if names is None else [by_name[one] for one in names]
    if residual:
        bad = [site.name for site in chosen if not writes_to_residual(process, site)]
        if names is not None and bad:
            raise Unsupported(
                f"{name} edits what a site writes to the residual stream (down_proj, c_proj), and "
                f"{bad} do not"
            )
        chosen = [site for site in chosen if writes_to_residual(process, site)]
    if not chosen:
        raise Unsupported(
            f"{name}: none of the open sites {list(by_name)} writes to the residual stream"
        )
    return chosen
