"""Train an agent: `python -m agents.train --env MaskWorld-v0 --agent ppo --out runs/ppo`.

Writes OUT/agent/ (what was learned) and OUT/config.json (how). `--set` gives arguments of the
environment, and with the prefix `agent.` of the agent: `--set task=unlearning/mnist --set
forget_class=3 --set agent.n_steps=32`. `--settings FILE` gives what `agents.tune` found, or many of
the agent's at once, as a JSON object; `--set` goes before it.

An agent or a task of one's own is named by its import path, from the current folder, from
`PYTHONPATH` or installed: `--agent my_agents:MyAgent --set task=my_tasks:my_task`. A network and
data of one's own need no code: `--set task=unlearning/custom --set model=my_models:MyNetwork --set
weights=FILE --set data=FILE`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from agents import configured
from agents.catalogue import make_agent
from agents.checkpoints import CHECKPOINT, TRAINING, first_difference
from agents.command_line import (
    AGENT_FOLDER,
    CONFIG_FILE,
    GivenSettings,
    UsageError,
    alone_in,
    divided,
    env_spec,
    made_env,
    settings,
    writable,
)
from agents.editors.stream import StreamEditor, stream_process
from agents.protocol import Agent, Budget, Unsupported
from editgym.envs.protocol import open_env
from editgym.paths import whole_file
from editgym.tasks.protocol import Task
from editgym.tasks.unedited import unedited_lines


def parser() -> argparse.ArgumentParser:
    """The command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m agents.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--env", required=True, metavar="ID", help="e.g. MaskWorld-v0")
    parser.add_argument(
        "--agent", required=True, metavar="NAME", help="e.g. ppo, cmaes, or package.module:Class"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="see above; may be repeated"
    )
    parser.add_argument(
        "--settings", type=Path, metavar="FILE", help="what agents.tune found; or a JSON object"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the agent (default: %(default)s)")
    parser.add_argument(
        "--reward-calls", type=int, default=20_480, help="budget (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=float, help="budget in wall-clock time")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        with alone_in(options.out, "--out"):
            code = train(options)
    except (UsageError, Unsupported, ValueError, ImportError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not code:
        name, out = options.agent, options.out
        print(f"trained {name} on {options.env}; edit with: python -m agents.edit {out}")
    return code


def train(options: argparse.Namespace) -> int:
    """Train as the command line says; returns the exit code.

    Raises:
        UsageError, Unsupported, ValueError, ImportError, FileNotFoundError: The options are at
            odds with themselves or with what is there; nothing has been written then.
    """
    env_kwargs, agent_config = divided(settings(options.set))
    from_file = GivenSettings.read(options.settings, options.agent)
    env_kwargs = {**from_file.env_kwargs, **env_kwargs}
    agent_config = {**from_file.settings, **agent_config}
    agent = make_agent(options.agent, **agent_config)
    budget = Budget(options.reward_calls, options.seconds)
    spec = env_spec(options.env, env_kwargs)
    # Bad arguments and settings fail here, before anything is written.
    with closing(made_env(spec, options.env, env_kwargs)) as env:
        if from_file.tuned is not None:
            from_file.tuned.check_env(env)
        if getattr(type(agent), "learn", None) is StreamEditor.learn:
            stream_process(env)  # there is nothing to learn that would fail elsewhere
        unedited = _unedited(env)
    _check_settings(options.agent, agent, spec)
    made = [folder for folder in (options.out, *options.out.parents) if not folder.exists()]
    out = writable(options.out)
    config = {
        "env_id": options.env,
        "env_kwargs": env_kwargs,
        "agent": options.agent,
        "agent_config": agent_config,
        "seed": options.seed,
        "reward_calls": options.reward_calls,
        "seconds": options.seconds,
    }
    _check_edit_is_whole(out, config)
    for line in unedited:
        print(line, flush=True)
    with _replacing(out, config, made):
        try:
            agent.learn(spec, budget, options.seed, out / AGENT_FOLDER)
        except KeyboardInterrupt:
            print(f"\nstopped; {_left_behind(agent, out)}", file=sys.stderr)
            return 130
        agent.save(out / AGENT_FOLDER)
    return 0


def _unedited(env: gym.Env) -> list[str]:
    """What the networks of a world are like before the edit; nothing where there are no classes to
    be right about, as in a stream of facts.
    """
    try:
        task = open_env(env).task
    except Unsupported:  # an environment of one's own need not show its task
        return []
    return unedited_lines(task) if isinstance(task, Task) else []


def _check_settings(name: str, agent: Agent, spec: EnvSpec) -> None:
    """Refuse settings that do not go with the environment, as `learn` would."""
    resolved = getattr(agent, "resolved", None)  # an agent of one's own need not have it
    try:
        if resolved is not None:
            resolved(spec)
    except ValueError as error:
        raise UsageError(f"agent {name} in {spec.id}: {error}") from error


@contextmanager
def _replacing(out: Path, config: Mapping[str, Any], made: Sequence[Path]) -> Iterator[None]:
    """Write how the agent is trained, so that it never stands beside an agent that was trained
    otherwise.

    Another agent in `out` is set aside, and is back, with its own file, if nothing comes of the new
    one; where there was none, nothing is left behind.

    Args:
        out: The folder of the agent and of the file.
        config: How it is trained.
        made: Folders that were made for it, the innermost first.
    """
    agent, aside, file = out / AGENT_FOLDER, out / f"{AGENT_FOLDER}.replaced", out / CONFIG_FILE
    before = file.read_text() if file.is_file() else None
    after = json.dumps(config, indent=2, sort_keys=True) + "\n"
    if before == after:
        yield
        return
    if agent.is_dir():
        shutil.rmtree(aside, ignore_errors=True)
        agent.rename(aside)
    _write(file, after)
    # What is there before a checkpoint or a whole agent is.
    nothing = {"log", configured.CONFIG_FILE, configured.SETTINGS_FILE}
    try:
        yield
        nothing.remove(configured.CONFIG_FILE)  # of an agent that has nothing else
    finally:
        names = {entry.name for entry in agent.iterdir()} if agent.is_dir() else set()
        if any(name not in nothing and not name.endswith(".partial") for name in names):
            shutil.rmtree(aside, ignore_errors=True)
        else:
            shutil.rmtree(agent, ignore_errors=True)
            if aside.is_dir():
                aside.rename(agent)
            _write(file, before)
            for folder in made:
                with suppress(OSError):  # somebody else has put something there
                    folder.rmdir()


def _write(file: Path, text: str | None) -> None:
    """Write a file, whole; None takes it away."""
    if text is None:
        file.unlink()
        return
    with whole_file(file) as partial:
        partial.write_text(text)


def _check_edit_is_whole(out: Path, config: Mapping[str, Any]) -> None:
    """Refuse to train another agent where an edit was interrupted: the edit could not go on."""
    if not (out / CHECKPOINT).is_file():
        return
    before = json.loads((out / CONFIG_FILE).read_text()) if (out / CONFIG_FILE).is_file() else {}
    if different := first_difference(before, config):
        raise UsageError(
            f"--out: {out} holds another interrupted edit: {different}; finish it with"
            f" python -m agents.edit {out}, give another folder, or delete {CHECKPOINT} there to"
            " give it up"
        )


def _left_behind(agent: Agent, out: Path) -> str:
    """What there is to go on with after an interrupted training."""
    from agents.hypernetworks.editor import LearnedEditor  # not above: it takes a while

    folder = out / AGENT_FOLDER
    if isinstance(agent, LearnedEditor) and (folder / TRAINING).is_file():
        return f"the same command goes on from the checkpoint in {folder}"
    try:
        type(agent).load(folder)
    except Exception:  # whatever is there, it is not this agent
        return "there is no agent and no checkpoint yet: the same command begins anew"
    return f"the agent in {folder} can be used: python -m agents.edit {out}"


if __name__ == "__main__":
    sys.exit(main())
