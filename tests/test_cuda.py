"""What has to be the same on a GPU: environments, and every agent that edits facts, beside the
CPU."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from agents.catalogue import make_agent
from agents.protocol import Budget
from editgym.weights import EditJournal
from envs_registry import ENVIRONMENTS, environment_spec

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
SITES = ["model.layers.[12].mlp.down_proj", "model.layers.[345].mlp.*"]
FACTS = {"sites": SITES, "edits_per_step": 3, "horizon": 2, "back_depth": 1}
SMALL = {"LifelongLLMEdit-v0": FACTS}
NO_VALIDATION = {"sequences": 1, "validate_every": 0}
EDITORS = {
    "no_edit": {},
    "random_actions": {},
    "in_context": {},
    "retrieve": {},
    "ft_m": {},
    "ft_l": {},
    "loc_ft_bf": {"epochs": 3},
    "lora_merge": {"steps": 8},
    "grace": {},
    "rome": {},
    "memit": {},
    "memit_seq": {},
    "alphaedit": {},
    "ultraedit": {},
    "mend": NO_VALIDATION,
    "malmen": NO_VALIDATION,
    "rledit": {"passes": 2, **NO_VALIDATION},
    "hiedit": {"sites_per_step": 3, **NO_VALIDATION},
    "edit_grpo": {
        "editor": "memit_seq",
        "iterations": 2,
        "bonus": 0.5,
        "sites": ["model.layers.4.mlp.down_proj"],
    },
}


def make(env_id, device, **kwargs):
    return gym.make(f"editgym:{env_id}", device=device, **{**SMALL.get(env_id, {}), **kwargs})


@pytest.mark.parametrize("env_id", [row.id for row in ENVIRONMENTS])
def test_an_episode_on_the_gpu_is_that_on_the_cpu(env_id):
    cpu, gpu = (make(env_id, device) for device in ("cpu", DEVICE))
    assert gpu.unwrapped.task.device.type == DEVICE
    seen = [env.reset(seed=3)[0] for env in (cpu, gpu)]
    over = False
    while not over:
        np.testing.assert_allclose(seen[1], seen[0], rtol=2e-2, atol=2e-2)
        action = 0.1 * np.random.default_rng(0).uniform(-1, 1, cpu.action_space.shape).astype(
            np.float32
        )
        (a, reward, over, _, info), (b, other, _, _, its) = (env.step(action) for env in (cpu, gpu))
        seen = [a, b]
        assert other == pytest.approx(reward, rel=1e-2, abs=1e-3)
        assert its.keys() == info.keys()


@pytest.mark.parametrize("env_id", [row.id for row in ENVIRONMENTS])
def test_gymnasiums_checker_has_nothing_to_say_on_the_gpu(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        # A GPU adds up in any order: two episodes of one seed agree to rounding only.
        warnings.filterwarnings("default", message=".*not equal although similar.*")
        check_env(make(env_id, DEVICE).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("env_id", [row.id for row in ENVIRONMENTS if row.vector_entry_point])
def test_one_candidate_of_the_vector_environment_is_the_single_one_on_the_gpu(env_id):
    single, several = (
        make(env_id, DEVICE),
        gym.make_vec(f"editgym:{env_id}", num_envs=1, device=DEVICE),
    )
    observation, observations = single.reset(seed=5)[0], several.reset(seed=5)[0]
    np.testing.assert_allclose(observations[0], observation, rtol=1e-5, atol=1e-5)
    action = 0.2 * np.ones(single.action_space.shape, np.float32)
    assert several.step(action[None])[1][0] == pytest.approx(single.step(action)[1], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "rehearse"),
    [*((name, 0) for name in EDITORS), *((name, 2) for name in ("ft_l", "ultraedit", "memit_seq"))],
)
def test_an_agents_edit_of_facts_on_the_gpu_holds_on_the_cpu(name, rehearse, tmp_path):
    """Its journal, read again on the CPU, gives there what the GPU says of it."""
    own = {"rehearse": rehearse}
    spec = environment_spec("LifelongLLMEdit-v0", {"device": DEVICE, **FACTS, **own})
    torch.manual_seed(0)
    agent = make_agent(name, **EDITORS[name])
    agent.learn(spec, Budget(reward_calls=8), seed=0)
    env = make("LifelongLLMEdit-v0", DEVICE, split="test", **own)
    env.reset(seed=0)
    journal = agent.edit(env)
    journal.save(tmp_path / "journal.safetensors")
    on_gpu = env.unwrapped.evaluate(journal)
    twin = make("LifelongLLMEdit-v0", "cpu", split="test", **own)
    twin.reset(seed=0)
    loaded = EditJournal.load(tmp_path / "journal.safetensors")
    on_cpu = twin.unwrapped.evaluate(loaded)
    assert [r["answer"] for r in on_gpu.records] == [r["answer"] for r in on_cpu.records]
    for key, value in on_cpu.metrics.items():
        assert on_gpu.metrics[key] == (
            None if value is None else pytest.approx(value, rel=0.02, abs=0.05)
        ), key


def test_an_edit_in_closed_form_on_the_gpu_is_that_on_the_cpu():
    deltas = []
    for device in ("cpu", DEVICE):
        env = make("LifelongLLMEdit-v0", device, split="test")
        env.reset(seed=0)
        make_agent("ultraedit").edit(env)
        deltas.append([delta.cpu() for delta in env.unwrapped.process.decoder.deltas])
    for on_cpu, on_gpu in zip(*deltas, strict=True):
        assert (on_gpu - on_cpu).norm() <= 0.02 * on_cpu.norm()


def test_ppo_learns_on_the_gpu():
    spec = environment_spec("ShiftWorld-v0", {"device": DEVICE})
    agent = make_agent("ppo")
    agent.learn(spec, Budget(reward_calls=10_240), seed=0)
    env = gym.make(spec)
    env.reset(seed=0)
    metrics = env.unwrapped.evaluate(agent.edit(env)).metrics
    assert metrics["forget_accuracy"] < 0.5 * metrics["forget_accuracy_before"]
    assert metrics["retain_accuracy"] > metrics["retain_accuracy_before"] - 0.1
