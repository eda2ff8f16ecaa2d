"""What is searched for every agent that declares a search: its defaults and its limits are settings
that it takes."""

import gymnasium as gym
import pytest

from agents.catalogue import agent_names, make_agent
from agents.protocol import Unsupported
from agents.tune.search import Choice, LogUniform, SiteGroups, Uniform, Whole
from agents.tune.site_groups import site_groups
from agents.tune.space import Range, search_space
from agents.unlearning.settings import NAMES as UNLEARNERS
from editgym.envs.protocol import stream_env as open_stream
from envs_registry import environment_spec

EDITORS = {
    "ultraedit": {"step_size", "passes", "sites.layers", "sites.modules"},
    "ft_m": {"site.layers", "steps", "learning_rate", "stop_loss"},
    "ft_l": {"site.layers", "steps", "learning_rate", "stop_loss", "epsilon"},
    "loc_ft_bf": {"site.layers", "epochs", "learning_rate", "batch_size"},
    "lora_merge": {
        "sites.layers",
        "sites.modules",
        "rank",
        "steps",
        "learning_rate",
        "stop_loss",
    },
    "rome": {"site.layers", "steps", "learning_rate", "max_norm"},
    "memit": {"sites.layers", "steps", "learning_rate", "max_norm", "covariance_weight"},
    "memit_seq": {"sites.layers", "steps", "learning_rate", "max_norm", "covariance_weight"},
    "alphaedit": {"sites.layers", "steps", "learning_rate", "max_norm", "threshold", "ridge"},
    "retrieve": {"threshold"},
    "grace": {"site.layers", "radius", "steps", "learning_rate"},
    "edit_grpo": {"iterations", "learning_rate", "kl_weight"},
}
LEARNING = {
    "sites.layers",
    "sites.modules",
    "learning_rate",
    "step_learning_rate",
    "step_size",
    "ridge",
    "train_env.locality_weight",
}
DECLARED = {
    **EDITORS,
    **dict.fromkeys(("mend", "malmen", "rledit", "hiedit"), LEARNING),
    "ppo": {"start", "learning_rate", "final_log_std", "train_env.locality_weight"},
}
UNDECLARED = {
    "no_edit",
    "random",
    "random_actions",
    "cmaes",
    "reward_ascent",
    "retrain",
    "in_context",
}


@pytest.fixture(scope="module")
def stream(tiny_lm):
    return gym.make("LifelongLLMEdit-v0", model=tiny_lm, horizon=3, edits_per_step=2)


@pytest.fixture(scope="module")
def world():
    return gym.make("MaskWorld-v0", task="unlearning/digits")


def corners(space):
    """Values of all parameters: the defaults, and in turn each limit of each parameter."""
    defaults = {one.name: one.default for one in space.parameters}
    yield defaults
    for one in space.parameters:
        ends = (one.domain.low, one.domain.high) if isinstance(one.domain, Range) else one.domain
        for end in ends:
            whole = isinstance(one.domain, Range) and one.domain.whole
            yield defaults | {one.name: int(end) if whole else end}


def check_takes(name, env, space):
    for one in space.parameters:
        if isinstance(one.domain, Range):
            assert one.domain.low <= one.default <= one.domain.high
            assert one.domain.low < one.domain.high
            assert one.domain.low > 0 or not one.domain.log
        else:
            assert one.default in one.domain
            assert len(one.domain) > 1
    own = make_agent(name).resolved(env.spec)
    for index, values in enumerate(corners(space)):
        tried = {one.name: space.value(one, values[one.name]) for one in space.parameters}
        chosen = space.chosen(tried)
        made = make_agent(name, **chosen.settings).resolved(env.spec)
        if index == 0:
            known = {k: v for k, v in made.as_dict().items() if own.as_dict()[k] is not None}
            assert known == {k: own.as_dict()[k] for k in known}
            assert not chosen.env_kwargs
        found = made.as_dict()
        for setting, value in tried.items():
            whole, _, key = setting.partition(".")
            if whole not in ("site", "sites"):
                assert (found[whole][key] if key else found[whole]) == value
        assert set(chosen.env_kwargs) <= {"sites"}


@pytest.mark.parametrize("name", DECLARED)
def test_the_search_of_an_agent_on_streams(name, stream):
    space = search_space(make_agent(name), stream, {})
    assert {one.name for one in space.parameters} == DECLARED[name]
    check_takes(name, stream, space)


@pytest.mark.parametrize(
    "name", [*UNLEARNERS, "ppo", "a2c", "trpo", "recurrent_ppo", "sac", "rledit"]
)
def test_the_search_of_an_agent_in_worlds(name, world):
    space = search_space(make_agent(name), world, {})
    check_takes(name, world, space)
    assert not {one.name for one in space.parameters} & {
        "sites.layers",
        "train_env.locality_weight",
    }


@pytest.mark.parametrize("name", sorted(UNDECLARED))
def test_an_agent_without_a_search_is_named(name, stream):
    with pytest.raises(Unsupported, match=f"^{name} declares nothing to search here"):
        search_space(make_agent(name), stream, {})


def test_every_agent_is_looked_at():
    debiasing = {
        "last_layer_fine_tune",
        "site_fine_tune",
        "linear_frontier",
        "cda_reweight",
        "leace",
    }
    algorithms = {"td3", "ddpg", "tqc", "ars", "crossq", "a2c", "trpo", "recurrent_ppo", "sac"}
    assert set(agent_names()) == (
        set(DECLARED) | UNDECLARED | debiasing | algorithms | set(UNLEARNERS)
    )


def test_limits_are_factors_of_what_counts_in_the_environment(stream):
    own = open_stream(stream).process.step_size
    for given, base in ((None, own), (0.25, 0.25)):
        env = stream if given is None else gym.make(stream.spec, step_size=given)
        (found,) = [
            one
            for one in search_space(make_agent("ultraedit"), env, {}).parameters
            if one.name == "step_size"
        ]
        assert found.default == base
        assert found.domain == Range(0.1 * base, 1_000 * base, log=True)


def test_defaults_are_those_of_the_streams_that_are_tuned_for():
    """A split may have too few facts for streams so long: they are tuned on shorter ones."""
    asked = environment_spec("LifelongLLMEdit-v0", {"horizon": 60})
    short = gym.make("LifelongLLMEdit-v0", horizon=3, split="validation")
    space = search_space(make_agent("rledit"), short, {}, asked)
    (weight,) = [one for one in space.parameters if one.name == "train_env.locality_weight"]
    agent = make_agent("rledit")
    assert weight.default == agent.resolved(asked).as_dict()["train_env"]["locality_weight"]
    assert weight.default != agent.resolved(short.spec).as_dict()["train_env"]["locality_weight"]


def test_what_is_typed_is_not_searched(stream):
    agent = make_agent("ultraedit", passes=2, sites=["model.layers.2.mlp.down_proj"])
    assert [one.name for one in search_space(agent, stream, {}).parameters] == ["step_size"]
    with pytest.raises(Unsupported, match="or all of it was typed"):
        search_space(make_agent("ultraedit", passes=2, sites=None, step_size=1.0), stream, {})


def test_a_tuned_value_outside_the_limits_is_held_by_them():
    env = gym.make(environment_spec("LifelongLLMEdit-v0", {"split": "validation"}))
    agent = make_agent("ft_l")
    agent.tuned = lambda spec: {"learning_rate": 0.5, "site": "model.layers.4.mlp.down_proj"}
    space = search_space(agent, env, {})
    (rate,) = [one for one in space.parameters if one.name == "learning_rate"]
    assert (rate.default, rate.domain.low, rate.domain.high) == (0.5, 1e-5, 0.5)
    chosen = space.chosen({one.name: one.default for one in space.parameters})
    assert chosen.settings["site"] == "model.layers.4.mlp.down_proj"
    assert not chosen.env_kwargs


def test_values_are_tried_with_three_digits_and_the_default_as_it_is(stream):
    space = search_space(make_agent("ultraedit"), stream, {})
    step = space.parameters[0]
    assert step.name == "step_size"
    assert space.value(step, 0.00123456) == 0.00123
    assert space.value(step, step.default) == step.default


def test_sites_are_opened_by_the_environment_and_chosen_by_the_editor(stream):
    space = search_space(make_agent("ultraedit"), stream, {})
    assert space.describe()["sites.layers"] == ["default", "0", "1", "2-3"]
    assert space.describe()["sites.modules"] == [
        "down_proj",
        "gate_proj+up_proj",
        "gate_proj+up_proj+down_proj",
        "q_proj+k_proj+v_proj",
        "o_proj",
    ]
    values = {one.name: one.default for one in space.parameters}
    values |= {"sites.layers": "2-3", "sites.modules": "gate_proj+up_proj"}
    chosen = space.chosen(values)
    names = [
        f"model.layers.{layer}.mlp.{module}_proj" for layer in (2, 3) for module in ("gate", "up")
    ]
    assert chosen.env_kwargs == {"sites": names}
    assert chosen.settings["sites"] == names
    assert space.shown(values) == values
    values["sites.layers"] = "default"
    assert space.chosen(values).env_kwargs == {}
    assert "sites" not in space.chosen(values).settings
    assert space.shown(values)["sites.modules"] is None


def test_one_site_is_the_middle_one_of_a_part(stream):
    space = search_space(make_agent("ft_m"), stream, {})
    assert space.describe()["site.layers"] == ["default", "0", "1", "2", "3"]
    values = {one.name: one.default for one in space.parameters} | {"site.layers": "1"}
    chosen = space.chosen(values)
    assert chosen.settings["site"] == "model.layers.1.mlp.down_proj"
    assert chosen.env_kwargs == {"sites": ["model.layers.1.mlp.down_proj"]}


def test_agents_without_a_setting_for_sites_work_on_what_is_open(stream):
    space = search_space(make_agent("rledit"), stream, {})
    values = {one.name: one.default for one in space.parameters} | {"sites.layers": "1"}
    chosen = space.chosen(values)
    assert chosen.env_kwargs == {"sites": ["model.layers.1.mlp.down_proj"]}
    assert "sites" not in chosen.settings
    assert chosen.settings["train_env"] == {"back_depth": 5, "locality_weight": 8.0}


def test_typed_sites_stay_open_and_the_editor_chooses_among_them(tiny_lm):
    given = {"sites": ["model.layers.[123].mlp.*"]}
    env = gym.make("LifelongLLMEdit-v0", model=tiny_lm, **given)
    space = search_space(make_agent("ultraedit"), env, given)
    assert space.describe()["sites.layers"] == ["default", "1", "2", "3"]
    values = {one.name: one.default for one in space.parameters}
    chosen = space.chosen(values | {"sites.layers": "3", "sites.modules": "down_proj"})
    assert chosen.env_kwargs == {}
    assert chosen.settings["sites"] == ["model.layers.3.mlp.down_proj"]
    learned = search_space(make_agent("rledit"), env, given)
    assert "sites.layers" not in learned.describe()


def test_names_that_tell_no_role_give_no_groups(stream):
    class Nameless:
        task = open_stream(stream).task
        process = type("Process", (), {"sites": ()})

    groups = site_groups(Nameless, SiteGroups((("mlp outputs",),)), setting=True, fixed=True)
    assert not groups.names


def test_gpt2_has_the_same_roles(tiny_gpt2):
    env = gym.make("LifelongLLMEdit-v0", model=tiny_gpt2)
    assert search_space(make_agent("ultraedit"), env, {}).describe()["sites.modules"] == [
        "c_proj",
        "c_fc",
        "c_fc+c_proj",
        "c_attn",
    ]


def test_searches_are_compared_by_what_they_are():
    assert Choice((1, 2)) == Choice((1, 2)) != Choice((1, 3))
    assert LogUniform(1, 2) != Uniform(1, 2)
    assert Whole(1, 2) == Whole(1, 2)
