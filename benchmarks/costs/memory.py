"""The memory that an edit of a language model takes at its peak: `python -m benchmarks.costs.memory
--agent NAME --set model=FOLDER --set agent.passes=6 --json FILE`.

`--set` gives arguments of the environment and, by `agent.`, of the agent. What FILE holds of other
agents stays there. The stream has two steps of ten edits, and is edited twice: what an editor finds
out about a model and keeps, such as covariances, is known the second time, which counts. It is put
beside the model and one fp32 matrix a site, which every edit needs.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agents.catalogue import make_agent
from agents.command_line import divided, settings
from agents.editors.on_disk import give_back_freed
from benchmarks.costs.files import add_files, markdown, show, write
from benchmarks.costs.hardware import hardware
from benchmarks.harness.machine import single_thread
from editgym.envs.lifelong_llm_edit import LifelongLLMEditEnv

_STREAM: Mapping[str, Any] = {
    "task": "knowledge/counterfact",
    "split": "test",
    "horizon": 2,
    "edits_per_step": 10,
}
# A process of its own looks every half millisecond, so that who is looked at does nothing for it.
_WATCH = """
import os, select, sys
def own(page=os.sysconf("SC_PAGE_SIZE")):
    with open(f"/proc/{sys.argv[1]}/statm", "rb") as file:
        resident, shared = file.read().split()[1:3]
    return (int(resident) - int(shared)) * page
first = peak = own()
print(first, flush=True)
while not select.select([sys.stdin], [], [], 0.0005)[0]:
    peak = max(peak, own())
print(peak, flush=True)
"""


def peak_of(function: Callable[[], object]) -> int:
    """Bytes that a call takes at its peak beyond what the process held before it.

    Only memory of the process's own counts. Pages of files, as of mapped weights, the kernel takes
    away and brings back when it likes, so that what is resident tells of the call before, too.

    Raises:
        OSError: The system is not Linux, whose /proc tells it.
    """
    gc.collect()
    give_back_freed()
    command = [sys.executable, "-S", "-c", _WATCH, str(os.getpid())]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as watcher:
        assert watcher.stdin is not None
        assert watcher.stdout is not None
        before = watcher.stdout.readline()
        if not before:
            raise OSError("memory is told by /proc/PID/statm, and this system has none")
        try:
            function()
        finally:
            watcher.stdin.close()
        return int(watcher.stdout.read()) - int(before)


def edit_memory(
    agent: str, config: Mapping[str, Any], env_kwargs: Mapping[str, Any]
) -> dict[str, float]:
    """What editing a stream takes beyond the model, beside model and one matrix a site.

    Args:
        agent: Name of an editor.
        config: What it is made with.
        env_kwargs: What the environment is made with.
    """
    env = LifelongLLMEditEnv(**{**_STREAM, **env_kwargs})
    make_agent(agent, **config).edit(env)
    env.reset(seed=0)
    # Weights that two modules share are one parameter.
    model = sum(p.numel() * p.element_size() for p in env.task.language.model.parameters())
    matrices = 4 * sum(rows * columns for rows, columns in (s.shape for s in env.process.sites))
    taken = peak_of(lambda: make_agent(agent, **config).edit(env))
    return {
        "sites": len(env.process.sites),
        "taken_bytes": taken,
        "model_bytes": model,
        "one_matrix_per_site_bytes": matrices,
        "ratio": (model + taken) / (model + matrices),
    }


def table(found: dict[str, Any]) -> str:
    """The agents' memory as a Markdown table, in units of 10^6 bytes."""
    head = ["editor", "sites", "model, MB", "a matrix each, MB", "an edit takes, MB", "ratio"]
    sizes = ("model_bytes", "one_matrix_per_site_bytes", "taken_bytes")
    lines = []
    for name, own in sorted(found["agents"].items()):
        bytes_of = [f"{own[size] / 1e6:.0f}" for size in sizes]
        lines.append([f"`{name}`", f"{own['sites']}", *bytes_of, f"{own['ratio']:.2f}"])
    return markdown(head, lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.costs.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--agent", metavar="NAME", help="the editor")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="see above; may be repeated"
    )
    add_files(parser)
    options = parser.parse_args(arguments)
    if options.show:
        return show(options.show, table)
    if options.agent is None:
        parser.error("--agent is needed where something is measured")
    env_kwargs, config = divided(settings(options.set))
    try:
        before = json.loads(options.json.read_text()) if options.json.is_file() else {}
    except (OSError, ValueError) as error:
        parser.error(f"--json: {options.json} cannot be gone on with: {error}")
    with single_thread():
        own = {
            "env_kwargs": env_kwargs,
            "config": config,
            **edit_memory(options.agent, config, env_kwargs),
        }
    agents = {**before.get("agents", {}), options.agent: own}
    write(options.json, {"hardware": hardware("cpu"), "agents": agents})
    print(table({"agents": {options.agent: own}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
