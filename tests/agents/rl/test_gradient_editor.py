"""The gradient editor: its policy knows no order of units, inputs and classes, and learns."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.protocol import Budget, Stopwatch, Unsupported
from agents.rl.exchangeable import EntryEdit, MatrixShape
from agents.rl.gradient_editor import GradientEditor
from editgym.envs.metering import count_reward_calls

SHAPE = MatrixShape(outputs=5, inputs=7, classes=4)
SEEN = {
    "observe_task": True,
    "observe_parameters": ["fc3.weight", "fc2.bias", "fc1.bias"],
    "observe": "weights",
    "max_raw_observation": 8_192,
}


def observation(weight, head, own_bias, bias_before, goal):
    parts = [weight.flatten(), head.flatten(), own_bias, bias_before, goal]
    return torch.cat(parts).unsqueeze(0)


@pytest.fixture
def policy():
    torch.manual_seed(0)
    policy = EntryEdit(SHAPE, hidden=6, signed=False)
    torch.nn.init.normal_(policy.layers[-1].weight)
    return policy.eval()


@torch.no_grad()
def test_permuting_units_inputs_and_classes_permutes_the_edit(policy):
    s = SHAPE
    weight, head = torch.randn(s.outputs, s.inputs), torch.randn(s.classes, s.outputs)
    own, before, goal = torch.randn(s.outputs), torch.randn(s.inputs), torch.eye(s.classes)[1]
    rows, columns, classes = (torch.randperm(n) for n in (s.outputs, s.inputs, s.classes))
    one = policy(observation(weight, head, own, before, goal)).view(s.outputs, s.inputs)
    other = policy(
        observation(
            weight[rows][:, columns],
            head[classes][:, rows],
            own[rows],
            before[columns],
            goal[classes],
        )
    ).view(s.outputs, s.inputs)
    assert one.std() > 1e-3
    assert torch.allclose(one[rows][:, columns], other, atol=1e-5)
    assert -1 <= one.min() <= one.max() <= 0


@torch.no_grad()
def test_another_goal_is_another_edit_and_candidates_do_not_mix(policy):
    s = SHAPE
    parts = [torch.randn(n) for n in (s.outputs * s.inputs + s.classes * s.outputs,)]
    rest = torch.randn(s.outputs + s.inputs)
    both = torch.stack([torch.cat([*parts, rest, torch.eye(s.classes)[c]]) for c in (0, 2)])
    found = policy(both)
    assert not torch.allclose(found[0], found[1], atol=1e-3)
    assert torch.allclose(found[1], policy(both[1:])[0], atol=1e-6)


@pytest.mark.parametrize(
    "world", [pytest.param("MaskWorld-v1", marks=pytest.mark.slow), "ShiftWorld-v1"]
)
def test_it_learns_classes_at_once_and_survives_save_and_load(world, tmp_path):
    spec = gym.make(world, goals=[3, 7], **SEEN).spec
    agent = GradientEditor(steps=60, batch=2, hidden=16, learning_rate=0.01)
    with count_reward_calls() as meter:
        agent.learn(spec, Budget(), seed=0)
    assert meter.calls == 120
    agent.save(tmp_path)
    again = GradientEditor.load(tmp_path)
    for goal in (3, 7):
        env = gym.make(world, goals=[goal], **SEEN)
        found = env.unwrapped.evaluate(agent.edit(env)).metrics
        assert found["forget_accuracy"] <= 0.5
        assert found["retain_accuracy"] >= found["retain_accuracy_before"] - 0.2
        one, other = (next(iter(a.edit(env))).update.matrix() for a in (agent, again))
        assert torch.equal(one, other)


def test_its_budget_is_kept():
    agent = GradientEditor(batch=4)
    with count_reward_calls() as meter:
        agent.learn(gym.make("MaskWorld-v1", goals=[3, 7], **SEEN).spec, Budget(11), seed=0)
    assert meter.calls == 8
    with pytest.raises(ValueError, match=r"3 reward calls do not pay for one step of 4 \(batch\)"):
        agent.learn(gym.make("MaskWorld-v1", goals=[3, 7], **SEEN).spec, Budget(3), seed=0)


@pytest.mark.parametrize("damage", [b"", b"garbage", b"PK garbage"])
def test_a_damaged_policy_is_named(damage, tmp_path):
    agent = GradientEditor(steps=1, batch=1)
    agent.learn(gym.make("MaskWorld-v1", **SEEN).spec, Budget(), seed=5)
    agent.save(tmp_path)
    (tmp_path / "policy.pt").write_bytes(damage)
    with pytest.raises(ValueError, match=r"policy\.pt is damaged or is no policy: train the agent"):
        GradientEditor.load(tmp_path)


def test_learning_leaves_the_process_its_random_numbers():
    spec = gym.make("MaskWorld-v1", **SEEN).spec
    before = torch.random.get_rng_state()
    GradientEditor(steps=1, batch=1).learn(spec, Budget(), seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("steps", [0, 1])
def test_what_it_learned_before_an_interruption_is_kept(steps, monkeypatch, tmp_path):
    spec, agent = gym.make("MaskWorld-v1", **SEEN).spec, GradientEditor(steps=3, batch=1)
    asked = iter([False] * steps)

    def stopped(_):
        for answer in asked:
            return answer
        raise KeyboardInterrupt

    monkeypatch.setattr(Stopwatch, "expired", property(stopped))
    with pytest.raises(KeyboardInterrupt):
        agent.learn(spec, Budget(), seed=5)
    if steps:
        agent.save(tmp_path)
        assert len(GradientEditor.load(tmp_path).edit(gym.make(spec))) == 1
    else:
        with pytest.raises(RuntimeError, match="has nothing to save"):
            agent.save(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({**SEEN, "rank": 4}, 'one site with rank="full"'),
        ({**SEEN, "observe_parameters": ["fc3.weight"]}, "it observes 4426 numbers"),
        ({**SEEN, "episode_length": 2}, "give episode_length=1"),
    ],
)
def test_other_observations_and_actions_are_refused(arguments, message):
    spec = gym.make("MaskWorld-v1", goals=[3, 7], **arguments).spec
    with pytest.raises(Unsupported, match=message):
        GradientEditor().learn(spec, Budget(), seed=0)


@pytest.mark.parametrize(
    ("learned", "edited"), [("MaskWorld-v1", "ShiftWorld-v1"), ("ShiftWorld-v1", "MaskWorld-v1")]
)
def test_another_kind_of_world_is_refused(learned, edited, tmp_path):
    agent = GradientEditor(steps=1, batch=1)
    agent.learn(gym.make(learned, goals=[3, 7], **SEEN).spec, Budget(), seed=0)
    agent.save(tmp_path)
    again = GradientEditor.load(tmp_path)
    kinds = {world: world.removesuffix("World-v1") for world in (learned, edited)}
    message = f"an action is a {kinds[learned]} of the weights, and in .* it is a {kinds[edited]}"
    with pytest.raises(Unsupported, match=message):
        again.edit(gym.make(edited, goals=[3, 7], **SEEN))
    with pytest.raises(Unsupported, match=r"makes edits of one step, .* has 3; give"):
        again.edit(gym.make(learned, goals=[3, 7], episode_length=3, **SEEN))


def test_a_network_of_another_shape_is_refused():
    agent = GradientEditor(steps=1, batch=1)
    agent.learn(gym.make("MaskWorld-v1", goals=[3, 7], **SEEN).spec, Budget(), seed=0)
    other = {**SEEN, "observe_parameters": ["fc2.weight", "fc1.bias", "conv2.bias"]}
    with pytest.raises(Unsupported):
        agent.edit(gym.make("MaskWorld-v1", goals=[3, 7], sites=["fc1"], rank="full", **other))
    with pytest.raises(RuntimeError, match="call learn"):
        GradientEditor().edit(gym.make("MaskWorld-v1"))
    assert np.prod(gym.make("MaskWorld-v1").action_space.shape) == 4_096
