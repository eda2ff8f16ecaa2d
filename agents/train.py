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
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from agents.catalogue import make_agent
from agents.checkpoints import AGENT_FOLDER, CHECKPOINT, TRAINING, AgentFolder
from agents.command_line import (
    GivenSettings,
    UsageError,
    alone_in,
    divided,
    env_spec,
    made_env,
    seed,
    settings,
    writable,
)
from agents.editors.stream import StreamEditor, stream_process
from agents.protocol import Agent, Budget, Unsupported
from editgym.envs.protocol import open_env
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
    parser.add_argument("--seed", type=seed, default=0, help="of the agent (default: %(default)s)")
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
    except KeyboardInterrupt:  # before anything was written
        print("\nstopped; nothing was trained", file=sys.stderr)
        return 130
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
    place = AgentFolder(out)
    place.recover()
    _check_nothing_is_under_way(out, place, config)
    for line in unedited:
        print(line, flush=True)
    finished = stopped = False
    try:
        place.begin(config)
        agent.learn(spec, budget, options.seed, place.agent)
        agent.save(place.agent)
        finished = True
    except KeyboardInterrupt:
        stopped = True
        _save_the_best_yet(agent, place)
    finally:
        stays = place.settle(finished)
        for folder in made:
            with suppress(OSError):  # it holds something
                folder.rmdir()
    if stopped:
        print(f"\nstopped; {_left_behind(agent, place, stays, out)}", file=sys.stderr)
        return 130
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


def _check_nothing_is_under_way(out: Path, place: AgentFolder, config: Mapping[str, Any]) -> None:
    """Refuse to train another agent where a training or an edit was interrupted: it could not go
    on.
    """
    different = place.difference(config)
    if different and place.is_resumable:
        raise UsageError(
            f"--out: {out} holds another interrupted training: {different}; finish it with the"
            f" command that began it, give another folder, or delete {AGENT_FOLDER}/{TRAINING}"
            " there to give it up"
        )
    if different and (out / CHECKPOINT).is_file():
        raise UsageError(
            f"--out: {out} holds another interrupted edit: {different}; finish it with"
            f" python -m agents.edit {out}, give another folder, or delete {CHECKPOINT} there to"
            " give it up"
        )


def _save_the_best_yet(agent: Agent, place: AgentFolder) -> None:
    """Save what an interrupted search has found, if anything; others keep checkpoints."""
    if getattr(agent, "saves_the_best_yet", False):
        with suppress(RuntimeError):  # it has found nothing yet
            agent.save(place.agent)


def _left_behind(agent: Agent, place: AgentFolder, stays: bool, out: Path) -> str:
    """What there is to go on with after an interrupted training.

    Args:
        agent: The agent that learned.
        place: Where.
        stays: Whether what it left is there.
        out: The folder of both.
    """
    from agents.hypernetworks.editor import LearnedEditor  # not above: it takes a while

    if not stays and place.agent.is_dir():
        return f"the agent that was there before is back in {place.agent}"
    if not stays:
        return "there is no agent and no checkpoint yet: the same command begins anew"
    if isinstance(agent, LearnedEditor) and place.is_resumable:
        return f"the same command goes on from the checkpoint in {place.agent}"
    try:
        type(agent).load(place.agent)
    except Exception:  # whatever is there, it is no agent yet
        return f"what it wrote is in {place.agent}, and the same command hands it that folder again"
    return f"the agent in {place.agent} can be used: python -m agents.edit {out}"


if __name__ == "__main__":
    sys.exit(main())
