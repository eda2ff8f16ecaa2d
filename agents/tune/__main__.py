"""Find an agent's settings for a model, on validation data: `python -m agents.tune --env
LifelongLLMEdit-v1 --agent ultraedit --set model=FOLDER --set requests=own.jsonl --trials 30 --out
DIR`.

Trials are drawn by Optuna from what the agent declares next to its settings; the first one has the
defaults. A trial is scored on streams of the validation split (in unlearning, on networks that no
report uses), and is cut short where its first steps are behind those of half the trials before.
`--set` gives arguments of the environment and, with the prefix `agent.`, settings of the agent:
what is given is not searched.

DIR has the best settings so far in settings.json, which `agents.train`, `agents.edit` and
`benchmarks.leaderboard` take by `--settings`, every trial in trials.csv, and a picture of them in
trials.png. The same command goes on where it was interrupted, by whatever, and finds the same; with
more trials it goes on from those that there are.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from agents.command_line import UsageError, divided, env_spec, seed, settings, writable
from agents.episodes import task_name
from agents.protocol import Budget, Unsupported
from agents.tune.settings_file import FILE

if TYPE_CHECKING:
    from agents.tune.report import Report
    from agents.tune.study import Study


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m agents.tune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--env", required=True, metavar="ID", help="e.g. LifelongLLMEdit-v1")
    add("--agent", required=True, metavar="NAME", help="e.g. ultraedit, or package.module:Class")
    add(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="see above; may be repeated"
    )
    add("--trials", type=_count, default=30, metavar="N", help="(default: %(default)s)")
    add(
        "--episodes",
        type=_count,
        default=2,
        metavar="N",
        help="validation streams, or networks, that a trial is scored on (default: %(default)s)",
    )
    add("--seed", type=seed, default=0, help="of the study (default: %(default)s)")
    add(
        "--reward-calls",
        type=int,
        default=20_480,
        help="budget of an agent that learns, for each trial (default: %(default)s)",
    )
    add("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args(arguments)
    try:
        return _tune(options)
    except (UsageError, Unsupported, ValueError, ImportError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _tune(options: argparse.Namespace) -> int:
    if importlib.util.find_spec("optuna") is None:
        raise UsageError('tuning needs Optuna: python -m pip install "editgym[tune]"')
    from agents.tune.report import Report  # these load Optuna
    from agents.tune.space import search_space
    from agents.tune.study import Study
    from agents.tune.validation import Subject, validation_of

    env_kwargs, agent_config = divided(settings(options.set))
    if "split" in env_kwargs:
        raise UsageError("--set: split cannot be given: settings are tuned on the validation split")
    # By the id that environments say they have, whichever name they are asked for by.
    env_id = env_spec(options.env, env_kwargs).id
    subject = Subject(env_id, env_kwargs, options.agent, agent_config)
    spec, agent = subject.spec(), subject.make()
    budget = Budget(options.reward_calls)
    validation = validation_of(subject, options.episodes, options.seed, budget)
    space = search_space(agent, validation.env, env_kwargs, spec)
    out = writable(options.out)
    identity = {
        "env_id": env_id,
        "env_kwargs": env_kwargs,
        "agent": options.agent,
        "settings": agent_config,
        "episodes": options.episodes,
        "reward_calls": options.reward_calls,
        "model": validation.model,
        "data": validation.data,
    }
    report = Report(out, subject, validation, space, task_name(spec))
    with Study(out, identity, space, validation, options.seed).opened() as study:
        return _run(study, report, options)


def _run(study: Study, report: Report, options: argparse.Namespace) -> int:
    bar = tqdm(total=options.trials, initial=len(study.trials), desc=options.agent, unit="trial")

    def after_each() -> None:
        found = report.update(study.trials)
        bar.set_postfix(best="–" if found is None else f"{found.study['score']:.3f}")
        bar.update(len(study.trials) - bar.n)

    with bar:
        try:
            study.run(options.trials, after_each)
        except KeyboardInterrupt:
            print("\nstopped; the same command goes on from there", file=sys.stderr)
            return 130
        finally:
            found = report.update(study.trials, whole=True)
    trials = study.trials
    if found is None:
        error = trials[0].user_attrs["error"]
        raise UsageError(f"none of {len(trials)} trials could be scored; the first: {error}")
    print(
        f"trial {found.study['trial']} of {len(trials)} is the best, {found.study['score']:.4f}"
        f" (the defaults: {trials[0].value:.4f}): {found.settings} {found.env_kwargs or ''}\n"
        f"use it with: --settings {options.out / FILE}"
    )
    return 0


def _count(text: str) -> int:
    """A number from 1 on."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
