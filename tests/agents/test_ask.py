"""`agents.edit --agent` puts an editor into the folder, and `--ask` shows what a model answers."""

import json

import gymnasium as gym
import pytest

from agents import edit
from editgym.tasks.catalogue import make_task

SITES = '["model.layers.4.mlp.down_proj"]'
EDIT = [
    *("--env", "LifelongLLMEdit-v1", "--agent", "ft_m"),
    *("--set", "horizon=1", "--set", "edits_per_step=3", "--set", f"sites={SITES}"),
]


def test_one_command_edits_shows_undoes_and_exports(tmp_path, capsys):
    folder = tmp_path / "run"
    asked = ["--ask", "bare,It is true that {prompt}"]
    assert edit.main([str(folder), *EDIT, *asked, "--export", "adapter"]) == 0
    said = capsys.readouterr().out
    lines = said[said.index("\n\n") :].strip().split("\n")
    env = gym.make("LifelongLLMEdit-v1", split="test", horizon=1, edits_per_step=3)
    env.reset(seed=0)
    for index, request in enumerate(env.unwrapped.process.stream.requests):
        prompt, bare, other = lines[3 * index : 3 * index + 3]
        assert prompt == f"{request.prompt} … {request.target}"
        form, before, _, after = bare.split(maxsplit=1)[0], *bare.split("  ")[-2:], None
        assert form == "bare"
        assert bare.endswith(f"'{request.truth}'  ->  '{request.target}'"), (before, after)
        assert other.strip().startswith("It is true that {prompt}  '")
    assert lines[9] == "undone: every weight and every answer is what it was"
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    assert json.loads((folder / "config.json").read_text())["agent"] == "ft_m"
    # The agent is there now, and other requests are edited without naming it.
    assert edit.main([str(folder), "--seed", "1"]) == 0


def test_metrics_without_a_value_are_not_shown():
    shown = edit.before_after({"a": None, "b": 0.5, "c_before": 0.25, "c": None, "d_before": None})
    assert [line.split() for line in shown.split("\n")[1:]] == [["b", "0.5000"], ["c", "0.2500"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "LifelongLLMEdit-v1"], "--env and --agent go together"),
        (["--env", "ShiftWorld-v0", "--agent", "ppo"], "ppo has to learn first: python -m agents"),
        ([*EDIT, "--ask", "chat"], "tokenizer has no chat template"),
        ([*EDIT, "--ask", "pirate"], "must be one of bare, qa, completion, chat"),
        ([*EDIT, "--set", "agent.stepz=3"], "unexpected keyword argument 'stepz'"),
        (
            ["--env", "ShiftWorld-v0", "--agent", "ssd-site", "--ask", "bare"],
            "unlearning/digits has no language model to be asked",
        ),
    ],
)
def test_bad_input(tmp_path, capsys, arguments, message):
    assert edit.main([str(tmp_path / "run"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("run/*.safetensors"))


def test_the_environment_is_asked_as_it_is_now():
    env = gym.make("LifelongLLMEdit-v1", split="test", horizon=1, edits_per_step=3).unwrapped
    env.reset(seed=0)
    requests = env.process.stream.requests
    prompts = [request.prompt for request in requests]
    before = env.ask(prompts)
    assert before == {"bare": [request.truth for request in requests]}
    from agents.catalogue import make_agent

    make_agent("ft_m").edit(env)
    assert env.ask(prompts)["bare"] == [request.target for request in requests]
    assert list(env.ask(prompts, ["qa", "bare"])) == ["qa", "bare"]
    env.network.reset()
    assert env.ask(prompts) == before
    make_agent("retrieve", threshold=0.9).edit(env)
    task = make_task("knowledge/factworld")
    after = [
        task.language.text(
            task.language.greedy([task.prompt_ids(r.prompt, [(r.prompt, r.target)])])[0]
        )
        for r in requests
    ]
    assert env.ask(prompts) == {"bare": after}, "what is remembered stands before a question"
