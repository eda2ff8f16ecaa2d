"""The general editor: one policy for every class and network, that treats units and classes
alike."""

import copy
import json
import shutil
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.protocol import Budget, Unsupported
from agents.rl.equivariant import EditorShape, EquivariantEdit, describe_units, distinct
from agents.rl.general_editor import GeneralEditor
from benchmarks.studies import general_agents
from benchmarks.studies import general_editor as script
from benchmarks.studies.general_editor import OneEpisode, general_spec

SHAPE = {"outputs": 6, "inputs": 9, "classes": 4, "rank": 2}


@pytest.fixture
def editor():
    size = 6 * 9 + 4 * 6 + 4
    editor = EquivariantEdit(gym.spaces.Box(-5, 5, (size,), np.float32), SHAPE)
    torch.nn.init.normal_(editor.of_inputs[-1].weight)  # or B is 0
    return editor


def packed(weight, head, goal):
    return torch.cat([weight.flatten(), head.flatten(), goal]).unsqueeze(0)


def product(action):
    a, b = action.view(-1).split([12, 18])
    return a.view(6, 2) @ b.view(2, 9)


@pytest.fixture
def network():
    return torch.randn(6, 9), torch.randn(4, 6), torch.tensor([0.0, 1, 0, 0])


def test_permuted_units_get_the_permuted_edit(editor, network):
    weight, head, goal = network
    rows, columns = torch.randperm(6), torch.randperm(9)
    edit = product(editor(packed(weight, head, goal)))
    permuted = product(editor(packed(weight[rows][:, columns], head[:, rows], goal)))
    assert torch.allclose(edit[rows][:, columns], permuted, atol=1e-5)


def test_names_of_classes_do_not_matter_but_the_goal_does(editor, network):
    weight, head, goal = network
    edit = product(editor(packed(weight, head, goal)))
    order = torch.tensor([2, 3, 1, 0])
    assert torch.allclose(
        edit, product(editor(packed(weight, head[order], goal[order]))), atol=1e-5
    )
    assert not torch.allclose(edit, product(editor(packed(weight, head, goal.roll(1)))), atol=0.01)


def test_it_starts_as_lora_does():
    editor = EquivariantEdit(gym.spaces.Box(-5, 5, (82,), np.float32), SHAPE, start=0.5)
    a, b = editor(
        torch.randn(500, 82)
        .index_fill_(1, torch.arange(78, 82), 0)
        .index_fill_(1, torch.tensor([79]), 1)
    ).split([12, 18], dim=1)
    assert (b == 0).all()
    assert 0.2 < float(a.detach().std()) < 1.0


def test_description_by_hand():
    bearing = torch.tensor([[[1.0, 3.0], [0.0, 4.0], [2.0, 2.0]]])  # classes × units
    described = describe_units(bearing, torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0]]))
    # own 1, 3; others' mean 1, 3; largest 2, 4; smallest 0, 2; differences 0, 0 and −1, −1; norm:
    # nothing to tell.
    assert described.shape == (1, 2, 7)
    assert torch.allclose(described[0, :, :4], torch.tensor([[-1.0] * 4, [1.0] * 4]), atol=1e-5)
    assert torch.equal(described[0, :, 4:], torch.zeros(2, 3))


def test_equal_rows_are_found():
    rows = torch.randn(3, 50)[torch.tensor([2, 0, 2, 1, 0])]
    first, kind = distinct(rows)
    assert sorted(first.tolist()) == [0, 1, 3]
    assert torch.equal(rows[first][kind], rows)


def test_rows_of_equal_sums_are_told_apart():
    rows = torch.zeros(4, 10)
    rows[0, [0, 3]] = rows[1, [1, 2]] = rows[2, [0, 3]] = rows[3, [4, 9]] = 1
    first, kind = distinct(rows)
    assert len(first) == 3
    assert kind[0] == kind[2]
    assert len(set(kind.tolist())) == 3


def test_learns_from_some_classes_and_networks_saves_and_edits_others(tmp_path):
    spec = general_spec("ShiftWorld-v0", [0, 1], [0, 1], batch_size=64)
    agent = GeneralEditor(rollout=64, batch_size=64)
    agent.learn(spec, Budget(reward_calls=128), seed=0)
    agent.save(tmp_path / "agent")
    env = gym.make(general_spec("ShiftWorld-v0", [8, 9], [3]))
    edits = [
        who.edit(OneEpisode(env, 1)) for who in (agent, GeneralEditor.load(tmp_path / "agent"))
    ]
    matrices = [entry.update.matrix() for journal in edits for entry in journal]
    assert torch.equal(*matrices)
    assert env.unwrapped._drawn() == (0, 1)


@pytest.mark.parametrize("world", ["MaskWorld-v1", "ShiftWorld-v1"])
def test_where_an_action_is_the_update_it_decides_about_every_weight(world, tmp_path):
    seen = {"observe_parameters": ["fc3.weight", "fc2.bias", "fc1.bias"], "observe": "weights"}
    seen["max_raw_observation"] = 8_192
    spec = general_spec(world, [0, 1], [0, 1], seen, batch_size=32)
    masks = world.startswith("Mask")
    agent = GeneralEditor(rollout=64, hidden=4, signed=not masks)
    agent.learn(spec, Budget(reward_calls=256), seed=0)
    agent.save(tmp_path / "agent")
    env = gym.make(general_spec(world, [8, 9], [3], seen))
    again = GeneralEditor.load(tmp_path / "agent")
    edits = [next(iter(who.edit(OneEpisode(env, 1)))).update.matrix() for who in (agent, again)]
    assert torch.equal(*edits)
    assert edits[0].shape == (32, 128)
    assert len(edits[0].unique()) > 1_000
    if masks:
        assert (edits[0] < 0).all()
    assert (float(edits[0].mean()) < -0.02) == masks, "a mask begins with 5% taken away"
    spec = general_spec(world, [0, 1], [0, 1])
    with pytest.raises(Unsupported, match="a policy of every weight needs"):
        agent.learn(spec, Budget(reward_calls=64), seed=0)


def test_rewards_are_compared_among_equals():
    spec = general_spec("ShiftWorld-v0", [0, 1], [0, 1], batch_size=32)
    agent = GeneralEditor(rollout=64)
    settings = agent.resolved(spec).sized(1)
    env, _ = agent.training_env(spec, settings, gym.make(spec).unwrapped.layout, 0)
    observations = env.reset()
    kind = distinct(torch.from_numpy(observations))[1].numpy()
    env.step_async(
        np.random.default_rng(0).uniform(-1, 1, (64, *env.action_space.shape)).astype(np.float32)
    )
    _, gain, dones, _ = env.step_wait()
    assert len(set(kind)) == 4
    assert dones.all()
    assert np.abs(gain).max() > 0
    for one in set(kind):
        assert gain[kind == one].mean() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"observe_task": False},
        {"observe_parameters": []},
        {"rank": "full"},
        {"sites": ["fc1", "fc2"]},
    ],
)
def test_other_observations_are_refused(change):
    spec = copy.deepcopy(general_spec("MaskWorld-v0", [0, 1], [0]))
    spec.kwargs.update(change)
    with pytest.raises(Unsupported, match="needs one site with"):
        GeneralEditor().learn(spec, Budget(reward_calls=512), seed=0)


def test_shape_is_read_off_the_environment():
    worlds = gym.make_vec(general_spec("MaskWorld-v0", [0, 1], [0]), num_envs=1)
    found = EditorShape.of(worlds.layout, worlds.single_observation_space)
    assert found == EditorShape(outputs=32, inputs=128, classes=10, rank=4)
    with pytest.raises(ValueError, match="learned by ppo"):
        GeneralEditor("sac")


# --- what it observes -----------------------------------------------------------------------------


def test_read_only_parameters_follow_the_weights():
    plain = gym.make("ShiftWorld-v0", networks=[0, 1], observe_task=True)
    env = gym.make(
        "ShiftWorld-v0",
        networks=[0, 1],
        observe_task=True,
        observe_parameters=["fc3.*", "fc2.bias"],
    )
    for network in (0, 1):
        more, less = (one.reset(options={"network": network})[0] for one in (env, plain))
        state = env.unwrapped.task.networks[network].state_dict()
        expected = torch.cat(
            [state[name].flatten() for name in ("fc3.weight", "fc3.bias", "fc2.bias")]
        ).clamp(-5, 5)
        assert np.array_equal(more[:4096], less[:4096])
        assert np.array_equal(more[4096:-10], expected.numpy())
        assert np.array_equal(more[-10:], less[-10:])
        after = env.step(0.5 * env.action_space.sample())[0]
        assert not np.array_equal(after[:4096], more[:4096])
        assert np.array_equal(after[4096:], more[4096:])


def test_read_only_parameters_of_the_vector_environment_are_the_single_ones():
    arguments = {"networks": [0, 1, 2], "observe_parameters": ["fc3.weight"]}
    vector = gym.make_vec("MaskWorld-v0", num_envs=4, **arguments)
    observations, _ = vector.reset(seed=3)
    for i, observation in enumerate(observations):
        assert np.array_equal(
            observation, gym.make("MaskWorld-v0", **arguments).reset(seed=3 + i)[0]
        )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["fc3.weigth"], "is no parameter of the network; the nearest are fc3.weight"),
        ("fc3.weight", "must be a list"),
    ],
)
def test_unknown_parameters_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        gym.make("MaskWorld-v0", observe_parameters=given)


# --- the comparison -------------------------------------------------------------------------------


def learn_on(monkeypatch, networks):
    """Have the study learn on other networks, and by gradient for no longer than a test may."""
    kinds = {
        name: replace(general, networks=networks, calls=general.calls and 8)
        for name, general in script.GENERAL.items()
    }
    for module in (script, general_agents):
        monkeypatch.setattr(module, "GENERAL", kinds)
    monkeypatch.setattr(script, "TRAIN_NETWORKS", networks)


def test_the_gradient_editor_is_measured_in_version_1_alone(tmp_path, monkeypatch, capsys):
    learn_on(monkeypatch, (3,))
    monkeypatch.setattr(script, "TRAIN_CLASSES", (0,))
    monkeypatch.setattr(general_agents, "TRAIN_CLASSES", (0, 1))
    monkeypatch.setattr(script, "TEST_CLASSES", (7,))
    own = ["--out", str(tmp_path), "--networks", "1", "--single", "0", "--agents"]
    assert script.main([*own, "gradient editor", "--worlds", "MaskWorld-v0,MaskWorld-v1"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {row["world"] for row in rows} == {"MaskWorld-v1"}
    assert [(row["network"], row["class"]) for row in rows] == [(0, 7), (0, 0), (3, 7)]
    assert {row["reward_calls"] for row in rows} == {8}
    table = capsys.readouterr().out
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert script.main(["--show", str(tmp_path)]) == 0
    assert capsys.readouterr().out == table
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert "| MaskWorld-v1 | gradient editor | neither seen | 1 |" in table
    assert "| MaskWorld-v1 | gradient editor | network seen | 1 |" in table


def test_who_learns_for_each_edit_is_measured_and_shown_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "TEST_CLASSES", (7,))
    own = {"CMA-ES for each (64)": general_agents.Single("cmaes", 64)}
    monkeypatch.setattr(script, "SINGLE", own)
    monkeypatch.setattr(script, "AGENTS", (*script.AGENTS, *own))
    chosen = ["--worlds", "ShiftWorld-v1,ShiftWorld-v0", "--agents", *own]
    assert script.main(["--out", str(tmp_path), "--networks", "1", "--single", "1", *chosen]) == 0
    (row,) = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert (row["world"], row["network"], row["class"]) == ("ShiftWorld-v1", 0, 7)
    assert row["reward_calls"] == 64
    assert 0 <= row["forget"] < row["forget_before"]
    others = [row | {"agent": "no edit"}, row | {"class": 0}]
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write("".join(json.dumps(other) + "\n" for other in others))
    capsys.readouterr()
    assert script.main(["--show", str(tmp_path), "--unseen", *chosen]) == 0
    (line,) = capsys.readouterr().out.splitlines()[2:]
    assert line.startswith("| ShiftWorld-v1 | CMA-ES for each (64) | neither seen | 1 |")
    assert line.endswith(f"| 64 calls, {row['train_s']:.0f} s, for each edit |")


@pytest.mark.slow
def test_comparison_is_resumed_and_tabulated(tmp_path, monkeypatch, capsys):
    learn_on(monkeypatch, (3, 4, 5))
    for module in (script, general_agents):
        monkeypatch.setattr(module, "TRAIN_CLASSES", (0,))
    monkeypatch.setattr(script, "TEST_CLASSES", (7,))
    alone = {"PPO for each": replace(general_agents.SINGLE["PPO for each"], calls=1_024)}
    monkeypatch.setattr(script, "SINGLE", alone)
    arguments = [
        "--out",
        str(tmp_path),
        "--worlds",
        "ShiftWorld-v0",
        "--networks",
        "1",
        "--single",
        "1",
        "--reward-calls",
        "1024",
    ]
    assert script.main(arguments) == 0
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert len(lines) == 3 * (2 + 3) + 1
    table = capsys.readouterr().out
    assert "| ShiftWorld-v0 | general editor | neither seen | 1 |" in table
    assert "1,024 calls" in table
    assert script.main(arguments) == 0
    path = tmp_path / "results.jsonl"
    assert path.read_text().splitlines() == lines
    assert script.main(["--out", str(tmp_path), "--worlds", "SomeWorld"]) == 2
    path.write_text("\n".join(lines)[:-9])
    assert script.main(arguments) == 0
    torn, again = (json.loads(rows[-1]) for rows in (lines, path.read_text().splitlines()))
    assert path.read_text().splitlines()[:-1] == lines[:-1]
    assert {**torn, "train_s": 0} == {**again, "train_s": 0}


def test_costs_that_were_not_kept_are_not_made_up(tmp_path, capsys):
    row = {"agent": "general editor", "world": "ShiftWorld-v0", "seed": 0, "network": 0, "class": 7}
    row |= {"retain": 0.9, "retain_before": 0.95, "forget": 0.0, "forget_before": 1.0}
    (tmp_path / "results.jsonl").write_text(json.dumps(row) + "\n")
    assert script.main(["--show", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("| 100.00 → 0.00, 0.00 | not kept, once |\n")
    (tmp_path / "results.jsonl").write_text(json.dumps(row | {"reward_calls": 1024}) + "\n")
    assert script.main(["--show", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("| 1,024 calls, once |\n")
    assert script.main(["--show", str(tmp_path / "nowhere")]) == 2
    assert "there are no such rows in" in capsys.readouterr().err


def test_rows_of_another_budget_are_not_mixed(tmp_path, monkeypatch, capsys):
    learn_on(monkeypatch, (3,))
    for module in (script, general_agents):
        monkeypatch.setattr(module, "TRAIN_CLASSES", (0,))
    monkeypatch.setattr(script, "TEST_CLASSES", (7,))
    arguments = [
        "--out",
        str(tmp_path),
        "--worlds",
        "ShiftWorld-v0",
        "--networks",
        "1",
        "--agents",
        "ordinary policy",
    ]
    assert script.main([*arguments, "--reward-calls", "1024"]) == 0
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    row = json.loads((tmp_path / "results.jsonl").read_text().splitlines()[0])
    assert row["reward_calls"] == 1024
    capsys.readouterr()
    for networks in ("1", "2"):
        assert script.main([*arguments, "--networks", networks, "--reward-calls", "2048"]) == 2
        assert (
            f"--reward-calls: 2048, but the agents and rows in {tmp_path} are of 1024"
            in capsys.readouterr().err
        )
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    shutil.rmtree(tmp_path / "agents")
    assert script.main([*arguments, "--networks", "2", "--reward-calls", "2048"]) == 2, (
        "the rows are still there"
    )
    assert (
        script.main(
            [
                "--out",
                str(tmp_path),
                "--worlds",
                "ShiftWorld-v0",
                "--networks",
                "1",
                "--agents",
                "no edit",
            ]
        )
        == 0
    ), "which no training is part of"
