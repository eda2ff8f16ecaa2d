"""Edit a network with a trained agent: `python -m agents.edit runs/ppo --export merged`.

Reads what `agents.train` wrote into DIR, or puts an agent there that has nothing to learn, such as
an editor of facts: `python -m agents.edit runs/facts --env LifelongLLMEdit-v1 --agent ft_m --set
model=smollm2-135m --set requests=FILE --ask bare,chat`. Writes DIR/journal.safetensors and, with
`--export`, DIR/adapter/ (PEFT LoRA) or DIR/merged.safetensors (DIR/merged/ for a language model, to
load with `from_pretrained`); prints the metrics on test data before and after. `--set` changes
arguments of the environment, for example `--set model_seed=1` for another network (an agent that
learned on one network need not transfer; `networks` trains it on several), and with the prefix
`agent.` settings of an agent that learns nothing. `--ask` shows what a
language model answers before and after, in the prompt formats that it names, and undoes the edit to
see that nothing of it is left. `--no-checks` leaves out the metrics, which may take longer than the
edit: for unlearning, a network is retrained and attacks are run. A stream of facts that was
interrupted goes on where it stopped, with the same agent and seed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
from tqdm import tqdm

from agents import train
from agents.catalogue import agent_class, make_agent
from agents.checkpoints import AGENT_FOLDER, CHECKPOINT, CONFIG_FILE, AgentFolder
from agents.command_line import (
    GivenSettings,
    UsageError,
    alone_in,
    divided,
    env_spec,
    made_env,
    seed,
    settings,
    trained_as,
    writable,
)
from agents.configured import ConfiguredAgent
from agents.editors.stream import StreamEditor
from agents.hypernetworks.stream import is_stream_of_facts
from agents.protocol import Agent, Unsupported
from agents.report import (
    asked_in,
    before_after,
    before_and_after,
    check_adds,
    check_changes_weights,
    export,
    formats,
)
from editgym.envs.protocol import edit_env
from editgym.metrics.evaluation import Evaluation
from editgym.weights import EditJournal

_STEPS_FOLDER = "steps"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m agents.edit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="what agents.train wrote")
    parser.add_argument("--env", metavar="ID", help="with --agent: the environment")
    parser.add_argument(
        "--agent",
        metavar="NAME",
        help="an agent that has nothing to learn, which is put into DIR first; --set gives it what"
        " agents.train would take",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="see above; may be repeated"
    )
    parser.add_argument(
        "--settings",
        type=Path,
        metavar="FILE",
        help="what agents.tune found, in place of what an agent that learns nothing was made with",
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        help="of the environment, e.g. draws the stream of facts (default: %(default)s)",
    )
    parser.add_argument(
        "--export", choices=("adapter", "merged"), help="also write the edit in this form"
    )
    parser.add_argument(
        "--ask",
        type=formats,
        default=[],
        metavar="A,B",
        help="prompt formats to show answers in, such as bare,qa,chat",
    )
    parser.add_argument("--no-checks", action="store_true", help="do not evaluate on test data")
    options = parser.parse_args(arguments)
    try:
        if (options.env is None) != (options.agent is None):
            raise UsageError("--env and --agent go together: they say who is put into DIR")
        with alone_in(options.folder, "DIR"):
            if options.agent is not None and (code := _put(options)):
                return code
            return _edit(options)
    except (UsageError, Unsupported, ValueError, ImportError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        whole = (options.folder / CHECKPOINT).is_file()
        left = "the same command goes on from the last whole step" if whole else "nothing was kept"
        print(f"\ninterrupted; {left}", file=sys.stderr)
        return 130


def _put(options: argparse.Namespace) -> int:
    """Put an agent into the folder as `agents.train` would; its arguments are used up then.

    What the edit will need is looked at first: the stream's facts, and the formats to ask in.
    """
    env_kwargs, agent_config = divided(settings(options.set))
    agent = make_agent(options.agent, **agent_config)
    if not (getattr(agent, "learns_nothing", False)):
        raise UsageError(
            f"--agent: {options.agent} has to learn first: python -m agents.train --agent"
            f" {options.agent} --out {options.folder} …, then edit without --agent; a class of your"
            " own that learns nothing says so by learns_nothing = True"
        )
    with closing(
        made_env(env_spec(options.env, env_kwargs, evaluation=True), options.env, env_kwargs)
    ) as env:
        asked_in(env, options.ask)
        env.reset(seed=options.seed)
    before = trained_as(options.folder)
    typed = [part for pair in options.set for part in ("--set", pair)]
    if options.settings is not None:
        typed += ["--settings", str(options.settings)]
    named = ["--env", options.env, "--agent", options.agent, "--out", str(options.folder)]
    try:
        code = train.train(train.parser().parse_args([*named, *typed, "--seed", str(options.seed)]))
    except UsageError as error:
        raise UsageError(str(error).replace("--out:", "DIR:")) from None
    if before is not None and {**before, "finished": True} != trained_as(options.folder):
        print(f"{options.folder} held {before['agent']} with other settings: it is replaced")
    options.set, options.settings = [], None
    return code


def _edit(options: argparse.Namespace) -> int:
    folder: Path = options.folder
    AgentFolder(folder).recover()
    config = trained_as(folder)
    if config is None:
        raise UsageError(
            f"DIR: {folder} holds no {CONFIG_FILE}; train first: python -m agents.train --out"
            f" {folder} …"
        )
    from_file = GivenSettings.read(options.settings, config["agent"])
    env_kwargs, agent_config = divided(settings(options.set))
    given = {**from_file.env_kwargs, **env_kwargs}
    spec = env_spec(config["env_id"], config["env_kwargs"] | given, evaluation=True)
    agent = _loaded(config["agent"], folder)
    if options.settings is not None:
        agent = with_settings(config["agent"], agent, from_file.settings, "--settings")
    if agent_config:
        named = f"--set agent.{next(iter(agent_config))}"
        agent = with_settings(config["agent"], agent, agent_config, named)
    if from_file.tuned is not None:
        with closing(made_env(spec, config["env_id"], given)) as env:
            from_file.tuned.check_env(env)
    writable(folder)
    resumes = isinstance(agent, StreamEditor) and is_stream_of_facts(spec)
    goes_on = resumes and (folder / CHECKPOINT).is_file()
    if resumes:
        if not goes_on:
            shutil.rmtree(folder / _STEPS_FOLDER, ignore_errors=True)
        spec.kwargs["journal_folder"] = str(folder / _STEPS_FOLDER)
    with _no_half_steps(folder):
        env = made_env(spec, config["env_id"], given)
        if options.export:
            check_changes_weights(agent, config["agent"])
        if options.export == "adapter":
            check_adds(env, config["env_id"])
        variants = asked_in(env, options.ask)
        if not goes_on:  # a reset would empty the journal that is gone on with
            env.reset(seed=options.seed)  # closed streams stay what they are at the agent's reset
        if resumes and isinstance(agent, StreamEditor):
            journal = agent.edit(env, folder, options.seed)
        else:
            with tqdm(
                desc=f"edit by {config['agent']}", unit="step", leave=False, mininterval=0.5
            ) as bar:
                journal = agent.edit(_Counted(env, bar))
    # What takes seconds comes before the checks, which may take minutes.
    print(f"wrote {journal.save(folder / 'journal.safetensors')}")
    if options.export:
        print(f"wrote {export(env, journal, options.export, folder)}")
    for note in getattr(agent, "notes", ()):
        print(note)
    for reason, count in getattr(agent, "skipped", {}).items():
        print(f"left out: {count} requests: {reason}")
    if variants:
        print(f"\n{before_and_after(env, journal, variants)}\n", flush=True)
    metrics = None if options.no_checks else _checked(env, journal)
    print("not evaluated (--no-checks)" if metrics is None else before_after(metrics))
    # The stream is whole: another run begins anew.
    (folder / CHECKPOINT).unlink(missing_ok=True)
    shutil.rmtree(folder / _STEPS_FOLDER, ignore_errors=True)
    return 0


class _Counted(gym.Wrapper):
    """An environment whose steps move a bar."""

    def __init__(self, env: gym.Env, bar: tqdm) -> None:
        super().__init__(env)
        self._bar = bar

    def step(self, action: Any) -> Any:
        outcome = self.env.step(action)
        self._bar.update()
        return outcome


def _checked(env: gym.Env, journal: EditJournal) -> Mapping[str, float | None]:
    """The metrics of an edit on test data, with a bar that says what takes so long."""
    with tqdm(total=1, desc="checks on test data", leave=False):
        evaluation: Evaluation = edit_env(env).evaluate(journal)
    return evaluation.metrics


@contextmanager
def _no_half_steps(folder: Path) -> Iterator[None]:
    """Take away the steps of an edit that ends before there is a checkpoint to go on from."""
    try:
        yield
    except BaseException:
        if not (folder / CHECKPOINT).is_file():
            shutil.rmtree(folder / _STEPS_FOLDER, ignore_errors=True)
        raise


def _loaded(name: str, folder: Path) -> Agent:
    """The agent that was trained into a folder.

    Raises:
        UsageError: Its training was interrupted, and there is no agent of before.
        FileNotFoundError, ValueError: It cannot be read.
    """
    saved = folder / AGENT_FOLDER
    try:
        return agent_class(name).load(saved)
    except FileNotFoundError as error:
        if not AgentFolder(folder).is_resumable:
            raise
        raise UsageError(
            f"DIR: {folder} holds no {name} yet, its training was interrupted: the same"
            " python -m agents.train command goes on with it"
        ) from error


def with_settings(name: str, agent: Agent, given: Mapping[str, Any], argument: str) -> Agent:
    """An agent with other settings in place of its own.

    Args:
        name: The agent's name.
        agent: The agent.
        given: The other settings, by name.
        argument: What they were given by, for the message.

    Raises:
        UsageError: It has learned with its own.
    """
    if not (isinstance(agent, ConfiguredAgent) and agent.is_its_config):
        raise UsageError(
            f"{argument}: {name} has learned with the settings that it has; give it to"
            " python -m agents.train"
        )
    return make_agent(name, **{**agent.config, **given})


if __name__ == "__main__":
    sys.exit(main())
