"""What two versions of the package cost, beside each other: `python -m benchmarks.costs.versions
--before CHECKOUT --model FOLDER --json FILE`.

CHECKOUT is the folder of another version's source (`git worktree add CHECKOUT COMMIT`), FOLDER that
of a Hugging Face model. Each job is done by both versions in turn, each time in a process of its
own, so that a noisy machine is noisy for both; what a job gives is compared too. What FILE holds
already stays there, but for jobs that are done again (`--jobs`):

- a training step of RLEdit at `back_depth` 10, of ten CounterFact facts,
- an AlphaEdit step of ten facts over six contexts with 25 steps of search,
- evaluating 100 CounterFact edits, once ten others were.

All is asked through the arguments that both versions take, by `LifelongLLMEdit-v0`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PACKAGES = ("editgym", "agents", "benchmarks", "envs_registry.py")
_TIMES = 3  # each job by each version
_SITES = ["model.layers.2[0-6].mlp.gate_proj", "model.layers.2[0-6].mlp.up_proj"]
_ALIKE = 1e-3  # relative: passes of other batches round otherwise


def rledit_step(common: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
    """Seconds of a training step once there are ten batches to look back to."""
    from benchmarks.costs.bare_passes import rledit_training_step

    env = _made(common, sites=_SITES, horizon=13, back_depth=10, split="policy")
    process = env.process
    process.reset(0)
    train = rledit_training_step(process)
    each = [_seconds(train) for _ in range(13)][11:]
    return statistics.mean(each), {"rewards": [float(o.reward) for o in process.outcomes]}


def alphaedit_step(common: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
    """Seconds of one step; covariances are known before."""
    from agents.catalogue import make_agent

    env = _made(common, horizon=1, split="test")
    env.reset(seed=0)
    agent: Any = make_agent("alphaedit", steps=25, contexts=6, tokens=2_000)
    agent.begin(env.process)
    took = _seconds(lambda: env.process.advance(agent.entries(env.process)))
    norms = [
        float((edited - base).norm())
        for edited, base in zip(
            env.process.decoder.weights, env.process.decoder.base_weights, strict=True
        )
    ]
    return took, {"norms": norms}


def evaluation(common: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
    """Seconds of evaluating 100 edits of UltraEdit, after a first stream of ten: what is found out
    about the unedited model and kept is known from then on.
    """
    _evaluated(common, horizon=1)
    took, metrics = _evaluated(common, horizon=10)
    return took, {name: metrics[name] for name in ("reliability", "generalization", "locality")}


def _evaluated(common: Mapping[str, Any], horizon: int) -> tuple[float, Mapping[str, Any]]:
    """Seconds of evaluating a stream, and its metrics."""
    from agents.catalogue import make_agent

    env = _made(common, sites=_SITES, horizon=horizon, split="test", step_size=5e-5)
    env.reset(seed=0)
    journal = make_agent("ultraedit").edit(env)
    found: list[Any] = []
    took = _seconds(lambda: found.append(env.evaluate(journal)))
    return took, found[0].metrics


JOBS: Mapping[str, Callable[[Mapping[str, Any]], tuple[float, dict[str, Any]]]] = {
    "rledit_training_step": rledit_step,
    "alphaedit_step": alphaedit_step,
    "evaluation_of_100": evaluation,
}


def _made(common: Mapping[str, Any], **arguments: Any) -> Any:
    from editgym.envs.lifelong_llm_edit import LifelongLLMEditEnv

    own: dict[str, Any] = {"task": "knowledge/counterfact", "edits_per_step": 10}
    try:  # -v0's choices, which were the class's own before there was -v1
        return LifelongLLMEditEnv(
            **own, **common, **arguments, scorer="exact", max_new_tokens=8, text="factworld"
        )
    except (TypeError, ValueError):
        return LifelongLLMEditEnv(**own, **common, **arguments)


def _seconds(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def _child(arguments: Sequence[str]) -> None:
    """In a process of its own: one job by the version that is first on the path."""
    import torch

    import editgym

    torch.set_num_threads(1)
    name, common = arguments
    took, gave = JOBS[name](json.loads(common))
    source = str(Path(editgym.__file__).resolve().parent)
    print(json.dumps({"seconds": took, "gave": gave, "source": source}))


def compared(
    before: Path, after: Path, model: str, jobs: Sequence[str], times: int = _TIMES
) -> dict[str, Any]:
    """Medians of the seconds of every job by both versions, their ratios, and whether both gave
    the same.

    Args:
        before: Folder of the earlier version's source.
        after: Folder of the later version's.
        model: Folder of a Hugging Face model.
        jobs: Which of `JOBS`.
        times: How often each version does each job.

    Raises:
        FileNotFoundError: A folder is no source of the package.
        RuntimeError: A job failed; the message has its last lines.
    """
    result: dict[str, Any] = {}
    with packages_of(before) as old, packages_of(after) as new:
        for name in jobs:
            runs = [(_run(old, name, model), _run(new, name, model)) for _ in range(times)]
            seconds = [[run["seconds"] for run in own] for own in zip(*runs, strict=True)]
            gave = runs[-1][0]["gave"], runs[-1][1]["gave"]
            result[name] = {
                "times": times,
                "before_s": statistics.median(seconds[0]),
                "after_s": statistics.median(seconds[1]),
                "times_faster": statistics.median(
                    one / other for one, other in zip(*seconds, strict=True)
                ),
                "equal": _alike(*gave),
                "before_gave": gave[0],
                "after_gave": gave[1],
            }
    return result


@contextmanager
def packages_of(source: Path) -> Iterator[Path]:
    """A folder from which Python imports that source's packages, and nothing else of it."""
    missing = [name for name in _PACKAGES if not (source / name).exists()]
    if missing:
        raise FileNotFoundError(f"{source} is no source of the package: it has no {missing}")
    with tempfile.TemporaryDirectory() as folder:
        for name in _PACKAGES:
            (Path(folder) / name).symlink_to((source / name).resolve())
        yield Path(folder)


def _run(packages: Path, job: str, model: str) -> dict[str, Any]:
    # An installation for editing would give what the version itself does not have.
    code = (
        "import importlib.util, sys;"
        "sys.meta_path[:] = [one for one in sys.meta_path"
        " if not getattr(one, '__module__', '').startswith('__editable__')];"
        f"spec = importlib.util.spec_from_file_location('versions', {str(Path(__file__))!r});"
        "own = importlib.util.module_from_spec(spec); spec.loader.exec_module(own);"
        "own._child(sys.argv[1:])"
    )
    # Python would look into the current folder first, which may be the later version's.
    here = {"PYTHONPATH": str(packages), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    # One version finds on disk what it kept there before, and the other one would not.
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, "-c", code, job, json.dumps({"model": model})],
            env={**os.environ, **here, "EDITGYM_CACHE": cache},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"{job} failed: {done.stderr[-1_000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if (ran := Path(found.pop("source"))) != (packages / "editgym").resolve():
        raise RuntimeError(f"{job} was done by {ran}, and not by {packages / 'editgym'}")
    return found


def _alike(one: Any, other: Any) -> bool:
    """Whether two results are equal up to rounding."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    return bool(abs(one - other) <= _ALIKE * max(abs(one), abs(other)))


def _measured(file: Path, where: Mapping[str, Any]) -> dict[str, Any]:
    """The jobs that a file holds of the same machine and model; none where there is no file.

    Raises:
        ValueError: The file is of another machine or model, or no JSON.
    """
    if not file.exists():
        return {}
    held = json.loads(file.read_text(encoding="utf-8"))
    if (other := {key: held.get(key) for key in where}) != where:
        raise ValueError(f"--json: {file} is of {other}, and not of {where}; name another file")
    return {name: job for name, job in held.items() if name in JOBS}


_WORDS = {
    "rledit_training_step": "a training step of RLEdit, `back_depth` 10",
    "alphaedit_step": "an AlphaEdit step, six contexts, 25 steps of search",
    "evaluation_of_100": "100 CounterFact edits evaluated",
}


def table(result: Mapping[str, Any]) -> str:
    """The seconds of both versions as a Markdown table."""
    from benchmarks.costs.files import markdown

    lines = [
        [
            words,
            str(own["times"]),
            f"{own['before_s']:.3g}",
            f"{own['after_s']:.3g}",
            f"{own['times_faster']:.2f}",
            "yes" if own["equal"] else "no",
        ]
        for name, words in _WORDS.items()
        if (own := result.get(name)) is not None
    ]
    head = ["what, in seconds", "n", "before", "now", "times faster", "equal results"]
    return markdown(head, lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    from benchmarks.costs.files import add_files, show, write
    from benchmarks.costs.hardware import hardware

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.costs.versions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--before", type=Path, metavar="CHECKOUT")
    add("--model", metavar="FOLDER")
    add("--jobs", default=",".join(JOBS), metavar="A,B", help="default: %(default)s")
    add("--times", type=int, default=_TIMES, help="default: %(default)s")
    add_files(parser)
    options = parser.parse_args(arguments)
    if options.show:
        return show(options.show, table)
    if options.before is None or options.model is None:
        parser.error("--before and --model are needed where something is measured")
    names = options.jobs.split(",")
    if unknown := [name for name in names if name not in JOBS]:
        parser.error(f"--jobs: {unknown} are not known; there are {', '.join(JOBS)}")
    here = Path(__file__).resolve().parents[2]
    model = str(Path(options.model).resolve())
    where = {"hardware": hardware("cpu"), "model": Path(model).name}
    try:
        held = _measured(options.json, where)
    except ValueError as error:
        parser.error(str(error))
    found = compared(options.before.resolve(), here, model, names, options.times)
    result = {**where, **held, **found}
    write(options.json, result)
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
