"""Equal seeds give equal edits, bitwise, other seeds give others: for every agent that draws."""

import inspect

import gymnasium as gym
import pytest

from agents.catalogue import agent_class, agent_names, make_agent
from agents.protocol import Budget
from agents.unlearning.settings import NAMES as UNLEARNERS
from envs_registry import environment_spec

# Agents whose edit is decided by network and data; the seed of `learn` has nothing to decide.
DRAW_NOTHING = {
    "no_edit",
    "retrain",
    "last_layer_fine_tune",
    "site_fine_tune",
    "linear_frontier",
    "leace",
    "ssd",
    "ssd-site",
    "ultraedit",
    "ft_m",
    "ft_l",
    "in_context",
    "retrieve",
    "grace",
    "rome",
    "memit",
    "alphaedit",
    "memit_seq",
}
WORLD = {"sites": ["fc3"], "rank": 1, "batch_size": 32}
# The LoRA start is drawn too: without it, the seed decides by what the algorithm draws alone.
ON_POLICY = {"num_envs": 8, "n_steps": 1, "start": 0}
OFF_POLICY = {"start": 0, "num_envs": 8, "learning_starts": 8, "batch_size": 8, "buffer_size": 100}
ON_WORLDS = {
    "random": {"num_envs": 8},
    "random_actions": {},
    "cmaes": {"population": 8},
    "reward_ascent": {"steps": 2, "start": 0},
    **{name: {"epochs": 1} for name in UNLEARNERS if name not in DRAW_NOTHING},
    "a2c": ON_POLICY,
    **{name: {**ON_POLICY, "batch_size": 8} for name in ("ppo", "trpo", "recurrent_ppo")},
    **dict.fromkeys(("sac", "td3", "ddpg", "tqc", "crossq"), OFF_POLICY),
    "ars": {"n_delta": 2},
}
ONE_SEQUENCE = {"sequences": 1, "validate_every": 0}
ON_STREAMS = {
    "loc_ft_bf": {"epochs": 2},
    "lora_merge": {"steps": 2},
    "mend": ONE_SEQUENCE,
    "malmen": ONE_SEQUENCE,
    "rledit": ONE_SEQUENCE,
    "hiedit": {"sites_per_step": 1, **ONE_SEQUENCE},
}
# Sampled answers have to be right now and then, or nothing is learned: factlm knows some.
ON_FACTLM = {"edit_grpo": {"editor": "ultraedit", "iterations": 2, "rank": 2}}
ON_DEBIASING = {"cda_reweight": {"epochs": 1, "tolerance": 1.0}}


@pytest.fixture
def edit(tmp_path):
    """`edit(name, config, spec, evaluation, seed)`: an agent's journal file, after learning with a
    seed."""

    def run(name, config, spec, evaluation, seed):
        agent = make_agent(name, **config)
        agent.learn(spec, Budget(reward_calls=32), seed=seed)
        env = gym.make(evaluation)
        env.reset(seed=3)
        return agent.edit(env).save(tmp_path / f"{name}.safetensors").read_bytes()

    return run


def check(edit, name, config, spec, evaluation):
    first, again, other = (edit(name, config, spec, evaluation, seed) for seed in (0, 0, 1))
    assert first == again, f"{name}: equal seeds give different edits"
    assert first != other, f"{name}: the seed decides nothing"


@pytest.mark.parametrize("name", ON_WORLDS)
def test_the_seed_decides_in_worlds(name, edit):
    spec = environment_spec("ShiftWorld-v0", WORLD)
    check(edit, name, ON_WORLDS[name], spec, spec)


@pytest.mark.parametrize("name", ON_STREAMS)
def test_the_seed_decides_in_streams(name, edit, stream_spec):
    check(edit, name, ON_STREAMS[name], stream_spec(), stream_spec(evaluation=True))


@pytest.mark.parametrize("name", ON_FACTLM)
def test_the_seed_decides_where_answers_are_sampled(name, edit):
    kwargs = {"horizon": 1, "edits_per_step": 2}
    spec = environment_spec("LifelongLLMEdit-v0", kwargs)
    evaluation = environment_spec("LifelongLLMEdit-v0", kwargs | {"split": "validation"})
    check(edit, name, ON_FACTLM[name], spec, evaluation)


@pytest.mark.parametrize("name", ON_DEBIASING)
def test_the_seed_decides_in_debiasing(name, edit):
    spec = environment_spec("ShiftWorld-v0", {"task": "debiasing/templates"})
    check(edit, name, ON_DEBIASING[name], spec, spec)


def test_every_agent_of_the_catalogue_is_here():
    drawing = [*ON_WORLDS, *ON_STREAMS, *ON_FACTLM, *ON_DEBIASING]
    assert sorted([*drawing, *DRAW_NOTHING]) == sorted(agent_names())


@pytest.mark.parametrize("name", sorted(DRAW_NOTHING - set(UNLEARNERS)))
def test_an_agent_that_draws_nothing_takes_no_seed(name):
    assert "seed" not in inspect.signature(agent_class(name)).parameters
