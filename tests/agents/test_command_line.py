"""`agents.train` and `agents.edit`, by their command lines."""

import json
import os
import re

import pytest
import torch
from safetensors.torch import load_file

import envs_registry
from agents import edit, train
from agents.black_box import NoEdit
from agents.command_line import alone_in
from agents.editors.stream import CHECKPOINT, StreamEditor
from agents.hypernetworks.learning import TRAINING, SequenceLearner
from agents.rl import agent as sb3
from agents.rl.budget import Progress
from editgym.envs.worlds.env import WeightEditingEnv
from editgym.tasks import make_task
from editgym.weights import EditJournal
from envs_registry import Environment

SMALL = [
    "--reward-calls",
    "128",
    "--set",
    "agent.num_envs=8",
    "--set",
    "agent.n_steps=8",
    "--set",
    "agent.batch_size=64",
]


@pytest.fixture
def trained(tmp_path):
    folder = tmp_path / "run"
    assert (
        train.main(
            [
                "--env",
                "ShiftWorld-v0",
                "--agent",
                "ppo",
                "--set",
                "forget_class=3",
                *SMALL,
                "--out",
                str(folder),
            ]
        )
        == 0
    )
    return folder


def test_train_writes_what_edit_needs(trained, capsys):
    config = json.loads((trained / "config.json").read_text())
    assert config["env_kwargs"] == {"forget_class": 3}
    assert config["agent_config"]["n_steps"] == 8
    assert edit.main([str(trained), "--export", "merged"]) == 0
    printed = capsys.readouterr().out
    assert "forget_accuracy" in printed
    assert "before" in printed
    journal = EditJournal.load(trained / "journal.safetensors")
    network = make_task("unlearning/digits", forget_class=3).networks[0].fresh()
    network.replay(journal)
    merged = load_file(trained / "merged.safetensors")
    assert all(torch.equal(merged[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.slow
def test_edit_takes_another_network(trained, capsys):
    assert edit.main([str(trained), "--set", "model_seed=1"]) == 0
    other = make_task("unlearning/digits", model_seed=1).networks[0]
    assert EditJournal.load(trained / "journal.safetensors").base_hash == other.base_hash


@pytest.mark.parametrize(
    ("given", "seed"), [pytest.param([], 1, marks=pytest.mark.slow), (["--set", "model_seed=0"], 0)]
)
def test_edit_makes_the_environment_that_edits_are_evaluated_in(trained, monkeypatch, given, seed):
    row = Environment(
        "ShiftWorld-v0",
        "editgym.envs.shift_world:ShiftWorldEnv",
        evaluation_kwargs={"model_seed": 1},
    )
    monkeypatch.setattr(envs_registry, "ENVIRONMENTS", (row,))
    assert edit.main([str(trained), *given]) == 0
    network = make_task("unlearning/digits", model_seed=seed).networks[0]
    assert EditJournal.load(trained / "journal.safetensors").base_hash == network.base_hash


def test_a_shift_is_exported_as_an_adapter(trained):
    pytest.importorskip("peft")
    assert edit.main([str(trained), "--export", "adapter"]) == 0
    assert (trained / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "MaskWorld-v9", "--agent", "ppo"], "--env"),
        (["--env", "MaskWorld-v0", "--agent", "pppo"], "there is no 'pppo'"),
        (["--env", "MaskWorld-v0", "--agent", "ppo", "--set", "nonsense"], "is not key=value"),
        (
            ["--env", "MaskWorld-v0", "--agent", "ppo", "--set", "forget_class=12"],
            "forget_class: 12",
        ),
        (
            ["--env", "MaskWorld-v0", "--agent", "ppo", "--set", "colour=red"],
            "takes no argument 'colour'",
        ),
        (["--env", "MaskWorld-v0", "--agent", "ppo", "--set", "device=tpu"], "device: 'tpu'"),
        (["--env", "ShiftWorld-v1", "--agent", "ft_m"], "this agent edits streams of facts"),
    ],
)
def test_a_wrong_request_is_named_and_nothing_is_written(arguments, message, tmp_path, capsys):
    assert train.main([*arguments, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_argument_that_nobody_takes_is_said_once_with_the_nearest(tmp_path, capsys):
    asked = ["--env", "MaskWorld-v0", "--agent", "ppo", "--out", str(tmp_path / "run")]
    for typed, near in (("forget_clas=3", "forget_class"), ("batch_sise=3", "batch_size")):
        assert train.main([*asked, "--set", typed]) == 2
        said = capsys.readouterr().err
        assert f"(did you mean {near}?)" in said
        assert "environment creator" not in said, "Gymnasium's words are of no help here"


def test_an_unwritable_folder_is_named(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert (
        train.main(["--env", "MaskWorld-v0", "--agent", "no_edit", "--out", str(blocked / "run")])
        == 2
    )
    assert "cannot write to" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert (
        train.main(["--env", "MaskWorld-v0", "--agent", "no_edit", "--out", str(tmp_path / "run")])
        == 2
    )
    assert "cannot write to" in capsys.readouterr().err


def test_edit_of_an_empty_folder_says_to_train_first(tmp_path, capsys):
    assert edit.main([str(tmp_path)]) == 2
    assert "train first" in capsys.readouterr().err


def test_a_mask_is_no_adapter(tmp_path, capsys):
    pytest.importorskip("peft")
    arguments = [
        "--env",
        "MaskWorld-v0",
        "--agent",
        "random",
        "--reward-calls",
        "8",
        "--out",
        str(tmp_path),
    ]
    assert train.main(arguments) == 0
    assert edit.main([str(tmp_path), "--export", "adapter"]) == 2
    assert "scales weights, and a LoRA adapter adds to them" in capsys.readouterr().err


def test_edit_reports_on_the_goal_that_the_episode_drew(tmp_path, capsys):
    assert (
        train.main(
            [
                "--env",
                "MaskWorld-v0",
                "--agent",
                "no_edit",
                "--set",
                "goals=[3, 7]",
                "--out",
                str(tmp_path),
            ]
        )
        == 0
    )
    goals = make_task("unlearning/digits", goals=[3, 7])
    before = {
        f"{goals.evaluate(goals.networks[0].journal, goal)['forget_accuracy']:.4f}"
        for goal in (0, 1)
    }
    seen = set()
    for seed in range(4):
        capsys.readouterr()
        assert edit.main([str(tmp_path), "--seed", str(seed)]) == 0
        (line,) = [
            line
            for line in capsys.readouterr().out.splitlines()
            if line.startswith("forget_accuracy")
        ]
        seen.add(line.split()[-1])
    assert seen == before


def test_the_seed_of_edit_draws_the_stream(tmp_path, capsys):
    assert (
        train.main(
            [
                "--env",
                "LifelongLLMEdit-v0",
                "--agent",
                "ultraedit",
                "--set",
                "horizon=2",
                "--set",
                "edits_per_step=3",
                "--out",
                str(tmp_path),
            ]
        )
        == 0
    )
    journals = []
    for seed in (0, 0, 1):
        assert edit.main([str(tmp_path), "--seed", str(seed)]) == 0
        journals.append((tmp_path / "journal.safetensors").read_bytes())
    assert journals[0] == journals[1] != journals[2]


def test_an_edit_shows_its_progress_and_its_checks_can_be_left_out(trained, monkeypatch, capsys):
    assert edit.main([str(trained)]) == 0
    with_checks = capsys.readouterr()
    assert "edit by ppo" in with_checks.err
    assert "checks on test data" in with_checks.err
    assert "retain_accuracy" in with_checks.out

    def evaluated(*_):
        raise AssertionError("evaluated all the same")

    monkeypatch.setattr(WeightEditingEnv, "evaluate", evaluated)
    journal = (trained / "journal.safetensors").read_bytes()
    assert edit.main([str(trained), "--no-checks", "--export", "merged"]) == 0
    without = capsys.readouterr()
    assert "edit by ppo" in without.err
    assert "checks on test data" not in without.err
    assert "not evaluated (--no-checks)" in without.out
    assert "retain_accuracy" not in without.out
    assert (trained / "journal.safetensors").read_bytes() == journal
    assert (trained / "merged.safetensors").is_file()


@pytest.mark.parametrize(
    ("env", "agent", "more", "bars"),
    [
        ("MaskWorld-v0", "ssd", ["model_seed=1"], ["ssd: "]),
        ("MaskWorld-v0", "scrub", ["agent.epochs=1"], ["scrub: ", "/13 "]),
        ("ShiftWorld-v0", "leace", ["task=debiasing/templates"], []),
        (
            "ShiftWorld-v0",
            "last_layer_fine_tune",
            ["task=debiasing/templates", "agent.steps=10"],
            ["last_layer_fine_tune: ", "/30 "],
        ),
        (
            "ShiftWorld-v0",
            "linear_frontier",
            ["task=debiasing/templates", "agent.weightings=[0.3, 1.0]"],
            ["linear_frontier: ", "/2 "],
        ),
        (
            "ShiftWorld-v0",
            "cda_reweight",
            ["task=debiasing/templates", "agent.epochs=1"],
            ["cda_reweight: "],
        ),
    ],
)
def test_agents_that_take_no_steps_in_the_world_show_progress_too(
    env, agent, more, bars, tmp_path, capsys
):
    given = [part for pair in more for part in ("--set", pair)]
    command = [str(tmp_path), "--env", env, "--agent", agent, *given, "--no-checks"]
    assert edit.main(command) == 0
    err = capsys.readouterr().err
    assert all(bar in err for bar in (f"edit by {agent}", *bars)), err


def test_what_an_agent_has_to_say_of_its_edit_is_printed(custom_task, tmp_path, capsys):
    given = [
        part
        for key, value in custom_task.items()
        for part in ("--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}")
    ]
    command = [str(tmp_path / "run"), "--env", "MaskWorld-v0", "--agent", "ssd", *given]
    with pytest.warns(UserWarning, match="nothing that was tried is better") as caught:
        assert edit.main([*command, "--no-checks"]) == 0
    (said,) = [str(one.message) for one in caught if "better than no edit" in str(one.message)]
    assert said.removeprefix("ssd: ") in capsys.readouterr().out


# --- interruptions --------------------------------------------------------------------------------


def train_on_stream(model, folder, agent, *more):
    return train.main(
        [
            "--env",
            "LifelongLLMEdit-v0",
            "--agent",
            agent,
            "--set",
            f"model={model}",
            "--set",
            "horizon=3",
            "--set",
            "edits_per_step=2",
            "--set",
            'sites=["model.layers.[23].mlp.down_proj"]',
            *more,
            "--out",
            str(folder),
        ]
    )


@pytest.fixture
def stop_after_two(monkeypatch):
    """`stop_after_two(folder)`: an edit there with seed 3 that Ctrl-C stops after two steps."""
    save = StreamEditor._save_checkpoint

    def stopping(self, env, *rest):
        save(self, env, *rest)
        if env.unwrapped.process.step_index == 2:
            raise KeyboardInterrupt

    def stopped(folder):
        with monkeypatch.context() as patch:
            patch.setattr(StreamEditor, "_save_checkpoint", stopping)
            assert edit.main([str(folder), "--seed", "3"]) == 130

    return stopped


@pytest.fixture
def interrupted(tiny_lm, tmp_path, stop_after_two):
    """A folder whose edit by UltraEdit with seed 3 was stopped after two of three steps, and the
    whole journal."""
    for name in ("whole", "parts"):
        assert train_on_stream(tiny_lm, tmp_path / name, "ultraedit") == 0
    assert edit.main([str(tmp_path / "whole"), "--seed", "3"]) == 0
    stop_after_two(tmp_path / "parts")
    return tmp_path / "parts", (tmp_path / "whole" / "journal.safetensors").read_bytes()


def test_an_interrupted_edit_goes_on_with_the_same_agent_and_seed_alone(
    interrupted, tiny_lm, capsys
):
    folder, whole = interrupted
    assert edit.main([str(folder), "--seed", "7"]) == 2
    assert (
        "seed is 3 there and 7 here; go on with the same agent and seed" in capsys.readouterr().err
    )
    assert train_on_stream(tiny_lm, folder, "ft_m") == 2
    assert "agent is 'ultraedit' there and 'ft_m' here; finish it with" in capsys.readouterr().err
    assert train_on_stream(tiny_lm, folder, "ultraedit", "--set", "agent.passes=2") == 2
    assert "agent_config.passes is absent there and 2 here" in capsys.readouterr().err
    assert train_on_stream(tiny_lm, folder, "ultraedit") == 0, "the same agent changes nothing"
    assert edit.main([str(folder), "--seed", "3"]) == 0
    assert (folder / "journal.safetensors").read_bytes() == whole
    assert train_on_stream(tiny_lm, folder, "ft_m") == 0, "a whole edit is in nobody's way"


def test_an_interrupted_edit_can_be_given_up(interrupted, capsys):
    folder, whole = interrupted
    (folder / CHECKPOINT).unlink()
    assert (
        edit.main([str(folder), "--seed", "7", "--set", 'sites=["model.layers.1.mlp.down_proj"]'])
        == 0
    )
    assert len(EditJournal.load(folder / "journal.safetensors")) == 3
    assert edit.main([str(folder), "--seed", "3"]) == 0
    assert (folder / "journal.safetensors").read_bytes() == whole


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (0, "there is no agent and no checkpoint yet"),
        (1, "the same command goes on from the checkpoint in"),
    ],
)
def test_an_interrupted_training_says_what_is_there_to_go_on_with(
    at, message, tiny_lm, tmp_path, monkeypatch, capsys
):
    run = SequenceLearner._sequence

    def stopped(self, index):
        if index == at:
            raise KeyboardInterrupt
        return run(self, index)

    arguments = "rledit", "--set", "agent.sequences=2", "--set", "agent.validate_every=0"
    with monkeypatch.context() as patch:
        patch.setattr(SequenceLearner, "_sequence", stopped)
        assert train_on_stream(tiny_lm, tmp_path, *arguments) == 130
    assert message in capsys.readouterr().err
    assert (tmp_path / "agent" / TRAINING).is_file() == (at > 0)
    assert edit.main([str(tmp_path)]) == 2
    if at:
        told = capsys.readouterr().err
        assert f"DIR: {tmp_path} holds no rledit yet, its training was interrupted" in told
        assert "the same python -m agents.train command goes on with it" in told
    assert train_on_stream(tiny_lm, tmp_path, *arguments) == 0
    assert edit.main([str(tmp_path)]) == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_training_that_comes_to_nothing_leaves_the_agent_of_before(
    error, tiny_lm, tmp_path, monkeypatch
):
    first = "rledit", "--set", "agent.sequences=1", "--set", "agent.validate_every=0"
    assert train_on_stream(tiny_lm, tmp_path, *first) == 0
    files = [tmp_path / "config.json", tmp_path / "agent" / "policy.pt"]
    before = [file.read_bytes() for file in files]

    def stopped(self, index):
        raise error

    monkeypatch.setattr(SequenceLearner, "_sequence", stopped)
    assert train_on_stream(tiny_lm, tmp_path, "hiedit", "--set", "agent.validate_every=0") != 0
    assert [file.read_bytes() for file in files] == before
    assert edit.main([str(tmp_path)]) == 0


def test_an_interrupted_edit_does_not_go_on_with_other_requests(
    tiny_lm, tmp_path, stop_after_two, capsys
):
    file = tmp_path / "requests.json"

    def write(target):
        file.write_text(
            json.dumps(
                [
                    {"subject": f"Person{i}", "prompt": f"Person{i} lives in", "target": target}
                    for i in range(40)
                ]
            )
        )

    write("Oslo")
    assert (
        train_on_stream(
            tiny_lm,
            tmp_path / "run",
            "ultraedit",
            "--set",
            "task=knowledge/custom",
            "--set",
            f"requests={file}",
        )
        == 0
    )
    stop_after_two(tmp_path / "run")
    write("Rome")
    capsys.readouterr()
    assert edit.main([str(tmp_path / "run"), "--seed", "3"]) == 2
    assert "a stream of other requests than are drawn here" in capsys.readouterr().err
    write("Oslo")
    assert edit.main([str(tmp_path / "run"), "--seed", "3"]) == 0


def test_an_agent_that_is_kept_at_an_interruption_can_edit(tmp_path, monkeypatch, capsys):
    def stopped(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "_on_rollout_end", stopped)
    assert (
        train.main(["--env", "ShiftWorld-v0", "--agent", "ppo", *SMALL, "--out", str(tmp_path)])
        == 130
    )
    assert f"the agent in {tmp_path / 'agent'} can be used" in capsys.readouterr().err
    assert edit.main([str(tmp_path)]) == 0


def test_a_file_that_learning_lacks_is_one_line(tiny_lm, tmp_path, monkeypatch, capsys):
    def lacking(*_):
        raise FileNotFoundError("no policy in nowhere")

    assert train_on_stream(tiny_lm, tmp_path, "hiedit", "--set", "agent.low_level=nowhere") == 2
    monkeypatch.setattr(NoEdit, "learn", lacking)
    assert train.main(["--env", "ShiftWorld-v0", "--agent", "no_edit", "--out", str(tmp_path)]) == 2
    first, second = [line for line in capsys.readouterr().err.splitlines() if "nowhere" in line]
    assert first.startswith("error: ")
    assert second == "error: no policy in nowhere"


def test_two_processes_are_not_at_work_in_one_folder(tmp_path, capsys):
    folder = tmp_path / "agent"
    command = ["--env", "MaskWorld-v1", "--agent", "no_edit"]
    with alone_in(folder, "--out"):
        assert train.main([*command, "--out", str(folder)]) == 2
        assert edit.main([str(folder), *command]) == 2
        told = capsys.readouterr().err.splitlines()
        assert [line.split(" is at work")[0] for line in told] == [
            "error: --out: another process",
            "error: DIR: another process",
        ]
        assert not folder.exists()
    assert train.main([*command, "--out", str(folder)]) == 0


def test_another_training_leaves_nothing_mixed(trained, monkeypatch, capsys):
    """Whatever ends it, the folder has an agent and how that one was trained."""
    config, model = (
        (trained / "config.json").read_bytes(),
        (trained / "agent" / "model.zip").read_bytes(),
    )
    other = [
        "--env",
        "ShiftWorld-v0",
        "--agent",
        "ppo",
        "--set",
        "forget_class=8",
        "--out",
        str(trained),
    ]

    def unchanged():
        return (
            (trained / "config.json").read_bytes() == config
            and (trained / "agent" / "model.zip").read_bytes() == model
            and len(list(trained.iterdir())) == 2
        )

    for wrong in (
        ["--reward-calls=-1"],
        ["--reward-calls", "7"],
        ["--set", "agent.num_envs=0"],
        ["--set", "agent.batch_size=abc"],
        ["--set", "agent.policy_kwargs=3"],
    ):
        assert train.main([*other, *wrong]) == 2
        assert unchanged()

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sb3.SB3Agent, "train", stopped)
        assert train.main([*other, *SMALL]) == 130
    assert "the agent that was there before is back in" in capsys.readouterr().err
    assert unchanged()
    assert train.main([*other, *SMALL]) == 0
    assert json.loads((trained / "config.json").read_text())["env_kwargs"] == {"forget_class": 8}
    assert (trained / "agent" / "model.zip").read_bytes() != model
    assert len(list(trained.iterdir())) == 2


@pytest.mark.parametrize(
    ("agent", "calls", "message"),
    [
        ("cmaes", "32", "32 reward calls do not pay for one generation of 64"),
        ("sac", "256", "256 reward calls are over before learning begins .learning_starts=512"),
        ("ppo", "7", "do not pay for one rollout"),
    ],
)
def test_a_budget_that_pays_for_no_learning_is_refused(agent, calls, message, tmp_path, capsys):
    arguments = [
        "--env",
        "ShiftWorld-v0",
        "--agent",
        agent,
        "--reward-calls",
        calls,
        "--out",
        str(tmp_path),
    ]
    assert train.main(arguments) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.glob("agent/*"))


def test_an_algorithm_has_one_name(tmp_path, capsys):
    assert (
        train.main(
            [
                "--env",
                "ShiftWorld-v0",
                "--agent",
                "ppo",
                "--set",
                "agent.algorithm=sac",
                "--out",
                str(tmp_path),
            ]
        )
        == 2
    )
    assert "agent ppo: algorithm is 'sac'" in capsys.readouterr().err
