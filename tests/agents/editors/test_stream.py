"""Editors by gradients and beside the weights, on a small language model with random weights."""

import gymnasium as gym
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agents.catalogue import agent_class, make_agent
from agents.editors.stream import StreamEditor, stream_process
from agents.protocol import Agent, Budget, Unsupported
from editgym.data.factworld import FactWorld
from editgym.models.factlm import train_tokenizer
from editgym.tasks.knowledge.task import TOO_LONG
from editgym.weights import (
    Codebook,
    EditableDecoder,
    EditJournal,
    LowRankFactors,
    Prepend,
    Remember,
    SiteEdit,
    Skip,
)
from editgym.weights.language import graph_size

QUICK = {
    "ft_m": {"steps": 8, "learning_rate": 0.01},
    "ft_l": {"steps": 8, "learning_rate": 0.01, "epsilon": 0.02},
    "loc_ft_bf": {"epochs": 4, "learning_rate": 0.01, "batch_size": 4},
    "lora_merge": {"steps": 8, "learning_rate": 0.02, "rank": 2},
    "in_context": {},
    "retrieve": {"threshold": 0.6},
    "grace": {"steps": 60, "learning_rate": 1.0},
    "ultraedit": {"step_size": 1e-3},
}
BY_GRADIENT = ["ft_m", "ft_l", "loc_ft_bf", "lora_merge", "grace"]
RANDOM = ["loc_ft_bf", "lora_merge"]
SITES = ["model.layers.[23].mlp.*"]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(FactWorld())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = LlamaForCausalLM(
            LlamaConfig(
                num_hidden_layers=4,
                hidden_size=32,
                intermediate_size=64,
                vocab_size=len(tokenizer),
                num_attention_heads=2,
                num_key_value_heads=2,
                max_position_embeddings=128,
                initializer_range=0.2,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def make_env(model_folder):
    """`make_env(**arguments)`: a short stream of requests for validation, just reset."""

    def make(seed=0, **arguments):
        settings = {
            "model": model_folder,
            "sites": SITES,
            "split": "validation",
            "horizon": 3,
            "edits_per_step": 3,
        }
        env = gym.make("LifelongLLMEdit-v0", **(settings | arguments))
        env.reset(seed=seed)
        return env

    return make


def quick(name):
    return make_agent(name, **QUICK[name])


def saved(journal, folder):
    return journal.save(folder / "journal.safetensors").read_bytes()


@pytest.mark.parametrize("name", QUICK)
def test_an_editor_is_an_agent_that_survives_a_round_trip(name, tmp_path):
    agent = quick(name)
    assert isinstance(agent, Agent)
    agent.save(tmp_path)
    again = agent_class(name).load(tmp_path)
    assert again.config == agent.config
    assert again.config.items() >= QUICK[name].items()


@pytest.mark.parametrize("name", QUICK)
def test_an_editor_refuses_an_environment_without_a_stream(name):
    with pytest.raises(Unsupported, match="streams of facts"):
        make_agent(name).edit(gym.make("MaskWorld-v0"))


@pytest.mark.parametrize("name", QUICK)
def test_a_replayed_journal_gives_the_edited_weights_bitwise(name, make_env, tmp_path):
    env = make_env()
    journal = quick(name).edit(env)
    process = stream_process(env)
    edited = process.decoder
    replayed = edited.fresh()
    replayed.replay(EditJournal.load(journal.save(tmp_path / "journal.safetensors")))
    assert all(map(torch.equal, replayed.weights, edited.weights))
    batch = process.task.batch([(r.prompt, r.target) for r in process.stream.requests])
    assert torch.equal(replayed.logits(batch), edited.logits(batch))
    beside = name in ("in_context", "retrieve", "grace")
    assert beside == all(map(torch.equal, edited.weights, edited.base_weights))
    assert {entry.step for entry in journal} == ({0} if name == "loc_ft_bf" else {0, 1, 2})


@pytest.mark.parametrize("name", BY_GRADIENT)
@pytest.mark.parametrize("split", ["policy", "validation"])
def test_an_edit_makes_the_targets_of_its_batch_more_probable(name, split, make_env):
    env = make_env(horizon=1, split=split)
    quick(name).edit(env)
    process = stream_process(env)
    batch = process.task.batch([(r.prompt, r.target) for r in process.stream.requests])
    gained = process.task.decoder.losses(batch) - process.decoder.losses(batch)
    assert (gained > 0.2).all(), gained


@pytest.mark.parametrize("name", [*BY_GRADIENT, "ultraedit"])
def test_a_batch_whose_graph_is_made_in_parts_gives_the_same_edit(name, make_env, monkeypatch):
    def deltas():
        env = make_env(horizon=2, edits_per_step=4)
        quick(name).edit(env)
        decoder = stream_process(env).decoder
        batch = env.unwrapped.task.batch(
            [(r.prompt, r.target) for r in env.unwrapped.process.stream.requests]
        )
        return [*decoder.deltas, decoder.losses(batch)]

    whole, sizes = deltas(), []
    losses = EditableDecoder.losses

    def look(decoder, batch, *args, **named):
        sizes.append(len(batch))
        return losses(decoder, batch, *args, **named)

    monkeypatch.setattr(EditableDecoder, "losses", look)
    monkeypatch.setattr(graph_size, "_LEAST", 2**18)
    monkeypatch.setattr(graph_size, "_SHARE", 0)
    monkeypatch.setattr(graph_size, "_REST_SHARE", 0)
    parts = deltas()
    assert name == "ultraedit" or 0 < min(sizes) < 4
    for own, expected in zip(parts, whole, strict=True):
        # Adam divides by what may be rounding.
        assert (own - expected).norm() <= 0.01 * expected.norm() + 1e-6


def test_checkpoints_need_a_journal_on_disk(make_env, tmp_path):
    with pytest.raises(ValueError, match="folder must be None, or an environment made with a jour"):
        quick("ultraedit").edit(make_env(), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", QUICK)
def test_equal_seeds_give_equal_journals(name, make_env, tmp_path):
    first, second = (saved(quick(name).edit(make_env()), tmp_path) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("name", RANDOM)
def test_what_is_drawn_follows_from_the_seed_of_learning_also_after_a_load(
    name, make_env, tmp_path
):
    journals = []
    for seed in (1, 1, 2):
        agent = quick(name)
        agent.learn(gym.spec("LifelongLLMEdit-v0"), Budget(), seed)
        journals.append(saved(agent.edit(make_env()), tmp_path))
    assert journals[0] == journals[1]
    assert journals[0] != journals[2]
    agent.save(tmp_path / "agent")
    assert (
        saved(agent_class(name).load(tmp_path / "agent").edit(make_env()), tmp_path) == journals[2]
    )


class Interrupted(Exception):
    """What stops an editor between two steps."""


@pytest.mark.parametrize("name", QUICK)
def test_an_interrupted_stream_goes_on_to_the_same_journal(
    name, make_env, tmp_path, interrupted_edit
):
    whole = saved(quick(name).edit(make_env(journal_folder=str(tmp_path / "whole"))), tmp_path)
    agent = quick(name)
    env = make_env(journal_folder=str(tmp_path / "parts"))
    interrupted_edit(agent, env, tmp_path / "state")
    torch.manual_seed(99)
    resumed = make_agent(name, **QUICK[name])
    assert saved(resumed.edit(gym.make(env.spec), tmp_path / "state"), tmp_path) == whole


def test_going_on_with_an_edit_leaves_the_process_its_random_numbers(
    make_env, tmp_path, interrupted_edit
):
    env = make_env(journal_folder=str(tmp_path / "parts"))
    interrupted_edit(quick("ultraedit"), env, tmp_path / "state")
    torch.manual_seed(99)
    before = torch.get_rng_state()
    quick("ultraedit").edit(gym.make(env.spec), tmp_path / "state")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("damage", [b"", b"garbage"])
def test_a_damaged_checkpoint_of_an_edit_is_named(damage, make_env, tmp_path, interrupted_edit):
    env = make_env(journal_folder=str(tmp_path / "parts"))
    interrupted_edit(quick("ultraedit"), env, tmp_path / "state")
    (tmp_path / "state" / "checkpoint.pt").write_bytes(damage)
    with pytest.raises(
        ValueError, match=r"checkpoint\.pt is damaged or is no .*: delete it to beg"
    ):
        quick("ultraedit").edit(gym.make(env.spec), tmp_path / "state")


@pytest.mark.parametrize(
    "otherwise", [{"prompt_format": "qa"}, {"basis": "gradient"}, {"end_weight": 0.1}]
)
def test_an_interrupted_stream_does_not_go_on_when_it_is_asked_otherwise(
    otherwise, make_env, tmp_path, interrupted_edit
):
    env = make_env(journal_folder=str(tmp_path / "parts"))
    interrupted_edit(quick("ultraedit"), env, tmp_path / "state")
    with pytest.raises(ValueError, match="asked in the same way"):
        quick("ultraedit").edit(gym.make(env.spec, **otherwise), tmp_path / "state")
    later = gym.make(env.spec, evaluate_formats=["qa"])  # asked when the stream is over
    assert quick("ultraedit").edit(later, tmp_path / "state").steps == 3


@pytest.mark.parametrize(
    ("name", "config", "env", "seed", "difference"),
    [
        ("ft_m", {}, {}, 0, "agent is 'ultraedit' there and 'ft_m' here"),
        ("ultraedit", {"step_size": 2e-3}, {}, 0, "config.step_size is 0.001 there and 0.002 here"),
        ("ultraedit", {}, {}, 1, "seed is 0 there and 1 here"),
        (
            "ultraedit",
            {},
            {"sites": ["model.layers.[23].mlp.*", "model.layers.0.mlp.up_proj"]},
            0,
            "mlp.up_proj' here",
        ),
        ("ultraedit", {}, {"step_size": 0.5}, 0, "step_size is 0.001 there and 0.5 here"),
    ],
)
def test_an_interrupted_stream_of_another_editor_is_refused_and_kept(
    name, config, env, seed, difference, make_env, tmp_path, monkeypatch
):
    arguments = {"journal_folder": str(tmp_path / "parts"), "step_size": 1e-3}
    elsewhere = arguments | {"journal_folder": str(tmp_path / "whole steps")}
    whole = saved(quick("ultraedit").edit(make_env(**elsewhere), tmp_path / "whole", 0), tmp_path)
    save = StreamEditor._save_checkpoint

    def stop_after_two(self, env, *rest):
        save(self, env, *rest)
        if stream_process(env).step_index == 2:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(StreamEditor, "_save_checkpoint", stop_after_two)
        with pytest.raises(Interrupted):
            quick("ultraedit").edit(make_env(**arguments), tmp_path / "state", 0)
    files = {
        path: path.read_bytes()
        for folder in ("state", "parts")
        for path in (tmp_path / folder).iterdir()
    }
    spec = make_env(**arguments | {"journal_folder": None}).spec
    with pytest.raises(ValueError, match="interrupted edit that is another one") as refused:
        make_agent(name, **QUICK[name] | config).edit(
            gym.make(spec, **arguments | env), tmp_path / "state", seed
        )
    assert difference in str(refused.value)
    assert {path: path.read_bytes() for path in files} == files
    assert (
        saved(quick("ultraedit").edit(gym.make(spec, **arguments), tmp_path / "state", 0), tmp_path)
        == whole
    )


@pytest.mark.parametrize(
    ("name", "layer"), [("ft_m", 3), ("ft_l", 3), ("loc_ft_bf", 2), ("grace", 3)]
)
def test_by_default_one_site_is_edited_that_writes_to_the_residual_stream(name, layer, make_env):
    journal = quick(name).edit(make_env(horizon=1, sites=["model.layers.[123].mlp.*"]))
    assert {entry.site for entry in journal} == {f"model.layers.{layer}.mlp.down_proj"}


def test_the_site_of_an_editor_may_be_chosen(make_env):
    site = "model.layers.2.mlp.up_proj"
    for name in ("ft_m", "loc_ft_bf", "grace"):
        journal = make_agent(name, **QUICK[name], site=site).edit(make_env(horizon=1))
        assert {entry.site for entry in journal} == {site}
    with pytest.raises(Unsupported, match="not open for edits"):
        make_agent("ft_m", site="nowhere").edit(make_env())
    with pytest.raises(Unsupported, match="residual stream"):
        make_agent("ft_m").edit(make_env(sites=["model.layers.3.mlp.up_proj"]))


def test_ft_l_stays_in_its_box_around_the_original_weights_where_ft_m_leaves_it(make_env):
    bound = QUICK["ft_l"]["epsilon"]
    moved = {}
    for name in ("ft_l", "ft_m"):
        env = make_env()
        quick(name).edit(env)
        moved[name] = max(float(delta.abs().max()) for delta in stream_process(env).decoder.deltas)
    assert 0.9 * bound < moved["ft_l"] <= bound + 1e-6
    assert moved["ft_m"] > 1.5 * bound


def test_fine_tuning_stops_where_the_loss_is_small_enough(make_env):
    env = make_env(horizon=1)
    journal = make_agent("ft_m", stop_loss=1e3).edit(env)
    assert not journal.entries[0].update.d.any()


def test_loc_ft_bf_edits_once_and_sees_the_whole_stream(make_env):
    env = make_env()
    agent = make_agent("loc_ft_bf", epochs=15, learning_rate=0.01, batch_size=4)
    journal = agent.edit(env)
    assert len(journal) == 1
    assert agent.access == "oracle"
    process = stream_process(env)
    last = process.stream.requests[-3:]
    batch = process.task.batch([(r.prompt, r.target) for r in last])
    assert (process.task.decoder.losses(batch) - process.decoder.losses(batch) > 0.5).all()


def test_lora_gives_factors_of_its_rank_at_every_site(make_env):
    env = make_env(horizon=1)
    journal = quick("lora_merge").edit(env)
    assert [entry.site for entry in journal] == [site.name for site in stream_process(env).sites]
    for entry in journal:
        assert isinstance(entry, SiteEdit)
        assert isinstance(entry.update, LowRankFactors)
        assert entry.update.a.shape[1] == QUICK["lora_merge"]["rank"]
        assert entry.update.a.any()


def test_in_context_puts_every_fact_before_its_own_prompts(make_env):
    env = make_env()
    agent = quick("in_context")
    journal = agent.edit(env)
    assert agent.access == "oracle"
    assert all(isinstance(entry, Prepend) for entry in journal)
    requests = stream_process(env).stream.requests
    assert [text for entry in journal for text in entry.texts] == [
        f"{r.prompt} {r.target}." for r in requests
    ]


def test_in_context_leaves_out_facts_that_the_context_has_no_room_for_before_their_questions(
    make_env, tiny_gpt2
):
    env = make_env(model=tiny_gpt2, sites=["transformer.h.3.mlp.c_proj"])
    process, agent = stream_process(env), quick("in_context")
    language, requests = process.task.language, process.stream.requests
    longest = [
        max(
            len(language.encode(*pair).ids)
            for pair in [(text, r.target) for text in (r.prompt, *r.rephrases, *r.test_rephrases)]
        )
        for r in requests
    ]
    language.context = max(longest) + 9  # any of them fits, few of them twice
    try:
        journal = agent.edit(env)
        texts = [text for entry in journal if isinstance(entry, Prepend) for text in entry.texts]
        places = [3 * entry.step + entry.request for entry in journal if isinstance(entry, Skip)]
        assert places == [index for index, text in enumerate(texts) if not text]
        assert agent.skipped == {TOO_LONG: texts.count("")}
        assert texts.count("") >= 1
        assert [
            len(language.prompt_ids(f"{text} {r.prompt}")) <= language.context
            for text, r in zip(texts, requests, strict=True)
        ] == [True] * len(requests)
    finally:
        del language.context


def test_retrieve_remembers_every_fact_and_what_it_was_asked(make_env):
    env = make_env()
    agent = quick("retrieve")
    journal = agent.edit(env)
    assert agent.access == "data"
    requests = stream_process(env).stream.requests
    facts = [(request.prompt, request.target) for request in requests]
    assert list(journal) == [
        Remember(tuple(facts[3 * step : 3 * step + 3]), 0.6, step) for step in range(3)
    ]
    remembered = stream_process(env).decoder.remembered
    assert [(prompt, fact.answer) for prompt, fact in remembered.items()] == facts


def test_retrieve_skips_facts_that_have_no_room_before_their_own_prompts(make_env, tiny_gpt2):
    env = make_env(model=tiny_gpt2, sites=["transformer.h.3.mlp.c_proj"])
    process, agent = stream_process(env), quick("retrieve")
    task, requests = process.task, process.stream.requests
    needed = [
        len(task.language.prompt_ids(f"{r.prompt} {r.target}. {r.prompt}")) + 8 for r in requests
    ]
    context, task.language.context = task.language.context, sorted(needed)[4]
    kept = [length <= task.language.context for length in needed]
    assert set(kept) == {True, False}
    try:
        journal = agent.edit(env)
    finally:
        task.language.context = context
    facts = [fact for one in journal if isinstance(one, Remember) for fact in one.facts]
    assert facts == [(r.prompt, r.target) for r, own in zip(requests, kept, strict=True) if own]
    places = [3 * entry.step + entry.request for entry in journal if isinstance(entry, Skip)]
    assert places == [index for index, own in enumerate(kept) if not own]
    assert agent.skipped == {TOO_LONG: len(places)}


def test_grace_answers_every_edited_prompt_and_leaves_other_logits_bitwise_alone(make_env):
    env = make_env()
    agent = make_agent("grace", **QUICK["grace"], radius=0.02)
    journal = agent.edit(env)
    process = stream_process(env)
    assert all(isinstance(entry, Codebook) for entry in journal)
    assert process.decoder.reuses_prefix
    requests, language = process.stream.requests, process.task.language
    with process.decoder.active():
        answers = language.answers([r.prompt for r in requests])
    assert answers == [r.target for r in requests]
    others = process.task.example
    assert torch.equal(process.decoder.logits(others), process.task.decoder.logits(others))


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("ft_m", "steps", 0),
        ("ft_m", "learning_rate", float("nan")),
        ("ft_l", "epsilon", 0.0),
        ("ft_l", "stop_loss", -1.0),
        ("loc_ft_bf", "epochs", 1.5),
        ("loc_ft_bf", "batch_size", 0),
        ("loc_ft_bf", "learning_rate", 0),
        ("loc_ft_bf", "seed", 0.5),
        ("lora_merge", "seed", "a"),
        ("lora_merge", "rank", True),
        ("retrieve", "threshold", 1.1),
        ("retrieve", "threshold", "near"),
        ("grace", "radius", -0.1),
        ("grace", "steps", "many"),
        ("ultraedit", "step_size", 0.0),
    ],
)
def test_an_argument_out_of_range_is_named(name, argument, value):
    with pytest.raises(ValueError, match=argument):
        make_agent(name, **{argument: value})
