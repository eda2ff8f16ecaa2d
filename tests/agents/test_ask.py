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
    written, answers, metrics = said.strip().split("\n\n")
    assert written.endswith(f"wrote {folder}/journal.safetensors\nwrote {folder}/adapter")
    assert metrics.split()[:2] == ["after", "reliability"], "the checks take longest and come last"
    lines = answers.split("\n")
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "LifelongLLMEdit-v1"], "--env and --agent go together"),
        (["--env", "ShiftWorld-v0", "--agent", "ppo"], "ppo has to learn first: python -m agents"),
        *(
            (
                ["--env", "LifelongLLMEdit-v1", "--agent", name, "--export", form],
                f"--export: {name} changes no weights",
            )
            for name, form in (
                ("grace", "adapter"),
                ("retrieve", "merged"),
                ("in_context", "adapter"),
            )
        ),
        (["--env", "ShiftWorld-v1", "--agent", "ft_m"], "this agent edits streams of facts"),
        ([*EDIT, "--ask", "chat"], "tokenizer has no chat template"),
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


@pytest.mark.parametrize("formats", ["bare,pirate", "", " , "])
def test_formats_that_there_are_not_are_refused_at_once(tmp_path, capsys, formats):
    with pytest.raises(SystemExit, match="2"):
        edit.main([str(tmp_path / "run"), *EDIT, "--ask", formats])
    assert "argument --ask: " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_was_left_out_is_said(tmp_path, capsys):
    facts = tmp_path / "own.jsonl"
    facts.write_text(
        '{"subject": "Bill", "prompt": "He founded the company", "target": "Sony"}\n'
        '{"subject": "Ada", "prompt": "Ada lives in", "target": "Oslo"}\n'
    )
    more = ["--set", "model=factlm", "--set", f"requests={facts}"]
    named = ["--env", "LifelongLLMEdit-v1", "--agent", "memit_seq", "--set", "agent.tokens=600"]
    size = ["--set", "horizon=1", "--set", "edits_per_step=2", "--set", "agent.steps=3"]
    folder = tmp_path / "run"
    assert edit.main([str(folder), *named, *more, *size]) == 2
    said = capsys.readouterr().err
    assert "own.jsonl is divided by subject into policy" in said
    assert "test_requests=FILE" in said
    assert not folder.exists(), "nothing half-done is left"
    assert edit.main([str(folder), *named, *more, *size, "--set", f"test_requests={facts}"]) == 0
    assert "left out: 1 requests: subject not in its prompt" in capsys.readouterr().out
    assert edit.main([str(folder), *EDIT]) == 0
    assert f"{folder} held memit_seq with other settings: it is replaced" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("prompts", "formats", "message"),
    [
        ("The capital", None, "prompts must be a list of texts"),
        ([1], None, "prompts must be a list of texts"),
        (["\ud83d"], None, "prompts must be a list of texts"),
        (["x"], "bare", "formats must be a list of texts"),
        (["x"], ["pirate"], "^formats: each must be one of bare, .* got 'pirate'"),
        (["word " * 400], None, r"one is \d+ tokens long, and the model takes 128"),
    ],
)
def test_bad_questions_are_refused(prompts, formats, message):
    env = gym.make("LifelongLLMEdit-v1", horizon=1, edits_per_step=2).unwrapped
    with pytest.raises(ValueError, match=message):
        env.ask(prompts, formats)
    assert env.ask([]) == {"bare": []}


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
