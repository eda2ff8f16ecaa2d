"""One policy for classes and networks that it never saw: `python -m
benchmarks.studies.general_editor --out DIR`.

The general editor (`agents.rl.general_editor`) learns from rewards on some classes of some networks
of `unlearning/digits` and then edits others, one episode each, without learning further. Beside it:
the same PPO with an ordinary policy, trained on the same, PPO and CMA-ES that learn anew for every
class and network, and no edit. In version 1 of the worlds, the gradient editor
(`agents.rl.gradient_editor`) learns through the reward's gradient, on these networks and on more of
them. Finished rows are in DIR/results.jsonl, and are not measured again; trained agents are in
DIR/agents; DIR/TABLE.md is the comparison. `--show DIR` measures nothing: it prints the comparison
of DIR's rows, of the worlds and agents that are given.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
from tqdm import tqdm

import editgym  # noqa: F401 - registers the environments
from agents.protocol import Agent
from benchmarks.harness.machine import single_thread
from benchmarks.results import ROWS_FILE, append_row, finished
from benchmarks.studies.general_agents import (
    GENERAL,
    GENERAL_CALLS,
    HEAD_SEEN,
    SINGLE,
    TEST_CLASSES,
    TRAIN_CLASSES,
    TRAIN_NETWORKS,
    WORLDS,
    Learner,
    general_spec,
    trained,
)
from editgym.envs.protocol import open_env
from editgym.tasks.unlearning.task import UnlearningTask

AGENTS = ("no edit", *GENERAL, *SINGLE)
_NEITHER = "neither seen"
Row = dict[str, Any]


class OneEpisode(gym.Wrapper):
    """Whatever a reset asks for, it begins an episode with the given goal."""

    def __init__(self, env: gym.Env, goal: int) -> None:
        super().__init__(env)
        self._goal = goal

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        """Begin the episode."""
        return self.env.reset(options={"goal": self._goal})


def measure(
    agent: Learner | Agent | None,
    world: str,
    network: int,
    digit: int,
    seen: Mapping[str, Any] = HEAD_SEEN,
) -> Row:
    """Test accuracies of one agent's edit of one network for one class; no agent is no edit."""
    env = gym.make(general_spec(world, [digit], [network], seen))
    task: UnlearningTask = open_env(env).task
    before = task.accuracies(task.networks[0].fresh())
    if agent is None:
        after = before
    else:
        agent.edit(OneEpisode(env, 0))
        after = task.accuracies(open_env(env).network)
    return {
        f"{name}{suffix}": values[f"{name}_accuracy"]
        for name in ("retain", "forget")
        for suffix, values in (("", after), ("_before", before))
    }


def calls_before(folder: Path) -> set[int]:
    """How many reward calls those agents in `folder` and its rows learned from whose number the
    command line gives; one number, but for old rows.
    """
    names = [name for name, general in GENERAL.items() if general.calls is None]
    costs = [
        json.loads(path.read_text())
        for name in names
        for world in WORLDS
        for path in (folder / "agents").glob(f"{name.replace(' ', '-')}-{world}-*/cost.json")
    ]
    found = [row for row in finished(folder / ROWS_FILE) if row["agent"] in names]
    return {one["reward_calls"] for one in (*costs, *found) if "reward_calls" in one}


def rows(
    agents: Sequence[str],
    world: str,
    seed: int,
    networks: Sequence[int],
    single: Sequence[int],
    folder: Path,
    calls: int,
    known: set[tuple[Any, ...]],
) -> Iterator[Row]:
    """What is not `known` yet, row by row: `agent world seed network class retain forget …`."""

    def named(*values: Any) -> Row:
        return dict(zip(("agent", "world", "seed", "network", "class"), values, strict=True))

    pairs = [(network, digit) for network in networks for digit in (*TEST_CLASSES, *TRAIN_CLASSES)]
    pairs += [(network, digit) for network in TRAIN_NETWORKS[:3] for digit in TEST_CLASSES]
    for kind in (kind for kind in ("no edit", *GENERAL) if kind in agents):
        general = GENERAL.get(kind)
        if general is not None and not world.endswith(general.version):
            continue
        missing = [pair for pair in pairs if (kind, world, seed, *pair) not in known]
        agent = trained(kind, world, seed, folder, calls) if missing and general else None
        for pair in missing:
            cost: Row = {"reward_calls": general.calls or calls} if general else {}
            seen = general.seen if general else HEAD_SEEN
            yield named(kind, world, seed, *pair) | cost | measure(agent, world, *pair, seen)
    for kind, alone in SINGLE.items():
        if kind not in agents or not world.endswith(alone.version):
            continue
        for pair in itertools.product(single, TEST_CLASSES):
            if (kind, world, seed, *pair) not in known:
                begin = time.monotonic()
                own = alone.learned(world, *pair, seed)
                cost = {"reward_calls": alone.calls, "train_s": time.monotonic() - begin}
                yield (
                    named(kind, world, seed, *pair) | cost | measure(own, world, *pair, alone.seen)
                )


def table(found: Sequence[Row], folder: Path) -> str:
    """Means by world, agent and what was seen, in Markdown; accuracies in percent."""
    lines = [
        (
            "| world | agent | class and network | edits | retain before → after, worst change | "
            "forget before → after, worst | learning |"
        ),
        "|---|---|---|--:|---|---|---|",
    ]
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in found:
        groups.setdefault((row["world"], AGENTS.index(row["agent"]), _seen(row)), []).append(row)
    for (world, place, kind), own in sorted(groups.items()):
        mean = {
            key: 100 * statistics.fmean(row[key] for row in own)
            for key in ("retain", "retain_before", "forget", "forget_before")
        }
        change = 100 * min(row["retain"] - row["retain_before"] for row in own)
        worst = 100 * max(row["forget"] for row in own)
        lines.append(
            f"| {world} | {AGENTS[place]} | {kind} | {len(own)} | {mean['retain_before']:.2f} →"
            f" {mean['retain']:.2f}, {change:+.2f} | {mean['forget_before']:.2f} →"
            f" {mean['forget']:.2f}, {worst:.2f} | {_cost(own, folder)} |"
        )
    return "\n".join(lines) + "\n"


def _seen(row: Row) -> str:
    """Which of the class and the network were learned from, by the agent or by others."""
    places = {"class": TRAIN_CLASSES, "network": _learned_on(row["agent"])}
    return next((f"{one} seen" for one, values in places.items() if row[one] in values), _NEITHER)


def _learned_on(agent: str) -> Sequence[int]:
    """The networks that an agent learned on, or that the others of its table did."""
    return GENERAL[agent].networks if agent in GENERAL else TRAIN_NETWORKS


def _cost(own: Sequence[Row], folder: Path) -> str:
    if own[0]["agent"] in GENERAL:
        paths = (folder / "agents").glob(
            f"{own[0]['agent'].replace(' ', '-')}-{own[0]['world']}-*/cost.json"
        )
        costs = [json.loads(path.read_text()) for path in paths]
        calls = {one["reward_calls"] for one in (*costs, *own) if "reward_calls" in one}
        words = [f"{count:,} calls" for count in sorted(calls)]
        if costs:
            words.append(f"{statistics.fmean(c['train_s'] for c in costs):.0f} s")
        return ", ".join([*(words or ["not kept"]), "once"])
    seconds = [row["train_s"] for row in own if "train_s" in row]
    if own[0]["agent"] not in SINGLE:
        return "none"
    once = SINGLE[own[0]["agent"]].calls
    return f"{once:,} calls, {statistics.fmean(seconds):.0f} s, for each edit"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.general_editor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    folder = parser.add_mutually_exclusive_group(required=True)
    folder.add_argument("--out", type=Path, metavar="DIR")
    folder.add_argument("--show", type=Path, metavar="DIR", help="only print what DIR has")
    parser.add_argument(
        "--worlds", default=",".join(WORLDS), help="comma-separated (default: %(default)s)"
    )
    parser.add_argument(
        "--agents", default=",".join(AGENTS), help="comma-separated (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=1, help="of the policy (default: %(default)s)")
    parser.add_argument(
        "--unseen", action="store_true", help="show classes and networks alone that are new"
    )
    parser.add_argument(
        "--networks", type=int, default=10, help="to test on, from 0 (default: %(default)s)"
    )
    parser.add_argument(
        "--single",
        type=int,
        default=3,
        help="of these, for agents that learn for each (default: %(default)s)",
    )
    parser.add_argument(
        "--reward-calls", type=int, default=GENERAL_CALLS, help="(default: %(default)s)"
    )
    return parser


def _wrong(options: argparse.Namespace, worlds: list[str], agents: list[str]) -> str | None:
    """What is wrong with the options; None where nothing is."""
    for what, given, offered in (("--worlds", worlds, WORLDS), ("--agents", agents, AGENTS)):
        if unknown := sorted(set(given) - set(offered)):
            return f"{what}: there is no {', '.join(unknown)}; there are {', '.join(offered)}"
    if options.show:
        return None
    first = min(TRAIN_NETWORKS)
    if not 0 < options.networks <= first:
        return (
            f"--networks: must be 1 to {first}, got {options.networks}: those from {first} on are"
            " trained on"
        )
    before = calls_before(options.out) if set(agents) & set(GENERAL) else set()
    if other := sorted(before - {options.reward_calls}):
        return (
            f"--reward-calls: {options.reward_calls}, but the agents and rows in {options.out} are"
            f" of {', '.join(map(str, other))}; give that number, or another folder"
        )
    return None


def _measure_missing(options: argparse.Namespace, worlds: list[str], agents: list[str]) -> None:
    """Append the rows that the folder does not have yet, each when it is measured."""
    path = options.out / ROWS_FILE
    known = {
        (row["agent"], row["world"], row["seed"], row["network"], row["class"])
        for row in finished(path)
    }
    folder, calls = options.out, options.reward_calls
    networks, single = range(options.networks), range(options.single)
    with single_thread(), tqdm(unit="edit", mininterval=1.0) as bar:
        for seed, world in itertools.product(range(options.seeds), worlds):
            for row in rows(agents, world, seed, networks, single, folder, calls, known):
                append_row(path, row)
                bar.update()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    worlds, agents = options.worlds.split(","), options.agents.split(",")
    if wrong := _wrong(options, worlds, agents):
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    if options.show:
        found = finished(options.show / ROWS_FILE)
        found = [row for row in found if row["world"] in worlds and row["agent"] in agents]
        found = [row for row in found if not options.unseen or _seen(row) == _NEITHER]
        if not found:
            print(f"error: --show: there are no such rows in {options.show}", file=sys.stderr)
            return 2
        print(table(found, options.show), end="")
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    _measure_missing(options, worlds, agents)
    text = table(finished(options.out / ROWS_FILE), options.out)
    (options.out / "TABLE.md").write_text(text)
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
