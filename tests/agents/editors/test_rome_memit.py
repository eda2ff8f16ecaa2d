"""ROME, MEMIT, AlphaEdit and sequential MEMIT: their algebra, and what they do to a model."""

from dataclasses import replace

import gymnasium as gym
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from agents.catalogue import agent_class, make_agent
from agents.editors import covariance as module
from agents.editors.alphaedit import RecursiveLeastSquares
from agents.editors.covariance import covariances, inverse_factor, null_space, sentences
from agents.editors.rome_memit import memit_update, rank_one_updates
from agents.editors.stream import stream_process
from agents.editors.subject_keys import NO_SUBJECT, find_subject, read_states
from agents.editors.targets import TargetSettings, target_shifts
from agents.protocol import Unsupported
from editgym.data.factworld import FactWorld
from editgym.models.factlm import train_tokenizer
from editgym.weights import EditJournal, Skip
from editgym.weights.site_pass import Injection

NAMES = ("rome", "memit", "alphaedit", "memit_seq")
FAST = {"tokens": 600, "steps": 8, "learning_rate": 0.5, "max_norm": 5.0}
OWN = {
    "alphaedit": {"threshold": 1.0, "ridge": 0.01},
    "memit": {"covariance_weight": 0.01},
    "memit_seq": {"covariance_weight": 0.01, "ridge": 1e-4},
}
STEPS, EDITS = 3, 4


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer(FactWorld())


def llama(tokenizer, folder, seed):
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            initializer_range=0.2,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def model(tokenizer, tmp_path_factory):
    return llama(tokenizer, tmp_path_factory.mktemp("llama"), seed=0)


def environment(model, sites=("model.layers.[01].mlp.*",), **arguments):
    return gym.make(
        "LifelongLLMEdit-v0",
        model=model,
        sites=list(sites),
        split="validation",
        **{"horizon": STEPS, "edits_per_step": EDITS} | arguments,
    )


@pytest.fixture(scope="module")
def env(model):
    return environment(model)


@pytest.fixture
def process(env):
    env.reset(seed=0)
    return stream_process(env)


def editor(name, **arguments):
    return make_agent(name, **FAST | OWN.get(name, {}) | arguments)


def problem(n=5, d=12, out=7, batches=4):
    """S₀⁻¹, W, and batches of keys and values as rows."""
    root = torch.randn(d, d, dtype=torch.float64)
    return (
        root @ root.mT / d + 0.1 * torch.eye(d, dtype=torch.float64),
        torch.randn(out, d, dtype=torch.float64),
        [
            (torch.randn(n, d, dtype=torch.float64), torch.randn(n, out, dtype=torch.float64))
            for _ in range(batches)
        ],
    )


def stream(s0, weight, batches):
    """The solver and W after all batches."""
    solver = RecursiveLeastSquares(weight, s0)
    for keys, values in batches:
        weight = weight + solver.update(keys, values).matrix()
    assert torch.allclose(solver.w, weight, rtol=1e-10)
    return solver, weight


def close(one, other, tolerance):
    return float((one - other).norm() / other.norm()) < tolerance


# --- recursive least squares ----------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 5, 20])
def test_recursive_steps_equal_the_dense_sequential_solve(n):
    prior, weight, batches = problem(n)
    solver, ours = stream(prior.inverse(), weight, batches)
    total = prior.clone()
    for keys, values in batches:
        total += keys.mT @ keys
        weight = weight + (values - keys @ weight.mT).mT @ keys @ total.inverse()
    assert close(ours, weight, 1e-10)
    assert close(solver.s, total.inverse(), 1e-10)


def test_the_stream_equals_the_joint_ridge_solution():
    prior, weight, batches = problem()
    keys, values = (torch.cat(parts) for parts in zip(*batches, strict=True))
    joint = (values.mT @ keys + weight @ prior) @ (keys.mT @ keys + prior).inverse()
    assert close(stream(prior.inverse(), weight, batches)[1], joint, 1e-10)


def test_alphaedit_equals_its_dense_equation_and_leaves_preserved_keys_alone():
    _, weight, batches = problem(n=3)
    preserved = torch.randn(6, 12, dtype=torch.float64)
    p, ridge, eye = (
        null_space(preserved.mT @ preserved, 1e-6),
        0.7,
        torch.eye(12, dtype=torch.float64),
    )
    ours = stream(p / ridge, weight, batches)[1]
    dense, seen = weight, torch.zeros(12, 12, dtype=torch.float64)
    for keys, values in batches:
        seen += keys.mT @ keys
        residuals = values - keys @ dense.mT
        dense = dense + residuals.mT @ keys @ p @ (seen @ p + ridge * eye).inverse()
    assert close(ours, dense, 1e-10)
    assert torch.allclose(preserved @ ours.mT, preserved @ weight.mT)


@pytest.mark.parametrize("n", [5, 20])
@pytest.mark.parametrize("removed", [(1,), (3,), (0, 2, 3)])
def test_removal_equals_a_replay_without_the_batches(n, removed):
    prior, weight, batches = problem(n)
    solver, edited = stream(prior.inverse(), weight, batches)
    keys, values = (torch.cat([batches[i][part] for i in removed]) for part in (0, 1))
    edited = edited + solver.remove(keys, values).matrix()
    replayed, without = stream(
        prior.inverse(), weight, [b for i, b in enumerate(batches) if i not in removed]
    )
    assert close(edited, without, 1e-6)
    assert close(solver.s, replayed.s, 1e-6)


def test_removal_of_unknown_keys_is_an_error():
    prior, weight, batches = problem()
    solver, _ = stream(prior.inverse(), weight, batches)
    with pytest.raises(ValueError, match="not among those"):
        solver.remove(100 * batches[0][0], batches[0][1])


# --- ROME and MEMIT -------------------------------------------------------------------------------


def test_rome_meets_its_constraint_and_works_in_sequence():
    c, weight, ((keys, values), *_) = problem()
    factor = torch.linalg.cholesky(c)
    one = weight + rank_one_updates(weight, keys[:1], values[:1], factor).matrix()
    assert torch.allclose(one @ keys[0], values[0], atol=1e-10)
    expected = weight
    for k, v in zip(keys, values, strict=True):
        direction = torch.linalg.solve(c, k)
        expected = expected + torch.outer(v - expected @ k, direction) / (k @ direction)
    ours = weight + rank_one_updates(weight, keys, values, factor).matrix()
    assert close(ours, expected, 1e-10)
    assert torch.allclose(ours @ keys[-1], values[-1])


@pytest.mark.parametrize("n", [1, 5, 20])
def test_memit_equals_its_dense_formula(n):
    c, _, ((keys, residuals), *_) = problem(n)
    dense = residuals.mT @ keys @ (0.3 * c + keys.mT @ keys).inverse()
    assert close(
        memit_update(keys, residuals, torch.linalg.cholesky(c), 0.3).matrix(), dense, 1e-10
    )


def test_rome_in_a_model_gives_v_at_k(model):
    env = environment(model, horizon=1, edits_per_step=1)
    env.reset(seed=0)
    process = stream_process(env)
    agent = editor("rome")
    agent.begin(process)
    batch = agent.subject_batch(process, process.requests)
    site = agent._site
    index = process.sites.index(site)
    key, hidden = read_states(process.decoder, batch, site, site)
    shift = target_shifts(process.decoder, batch, site, hidden, agent.settings)
    wanted = process.decoder.weights[index] @ key[0] + shift[0]
    process.decoder.apply(*agent.entries(process))
    assert torch.allclose(
        process.decoder.weights[index] @ key[0], wanted, atol=1e-5 * float(wanted.abs().max())
    )


# --- keys and targets -----------------------------------------------------------------------------


def test_the_subjects_last_token(process):
    language = process.task.language
    for request in process.stream.requests:
        index = find_subject(language, request.prompt, request.subject)
        said = language.tokenizer.decode(language.prompt_ids(request.prompt)[1 : index + 1]).strip()
        assert said == request.prompt[: request.prompt.index(request.subject)] + request.subject
    assert find_subject(language, "Nobody lives in", "Somebody") is None


def test_targets_of_a_batch_are_those_found_alone(process):
    agent = editor("memit", contexts=2, kl_weight=0.1, decay=0.1)
    agent.begin(process)
    whole = process.requests

    def shifts():
        batch = agent.subject_batch(process, process.requests)
        hidden = read_states(process.decoder, batch, agent._sites[-1], agent._sites[-1])[1]
        return target_shifts(process.decoder, batch, agent._sites[-1], hidden, agent.settings)

    together = shifts()
    process.batch.requests = whole[1:2]
    assert torch.allclose(shifts()[0], together[1], rtol=1e-3, atol=1e-3)


def test_the_target_lowers_the_loss_within_its_limit(process):
    agent = editor("memit", max_norm=0.5)
    agent.begin(process)
    batch, site = agent.subject_batch(process, process.requests), agent._sites[-1]
    hidden = read_states(process.decoder, batch, site, site)[1]
    shift = target_shifts(process.decoder, batch, site, hidden, agent.settings)
    there = {site.name: Injection(batch.rows, batch.positions, shift)}
    losses = process.decoder.losses
    assert (losses(batch.texts, injected=there) < losses(batch.texts)).all()
    assert (shift.norm(dim=1) <= 0.5001 * hidden.norm(dim=1)).all()


def test_a_request_without_its_subject_is_skipped(process):
    requests = process.requests
    for name in NAMES:
        agent = editor(name)
        agent.begin(process)
        process.batch.requests = (
            *requests[:2],
            replace(requests[2], subject="Nobody"),
            *requests[3:],
        )
        *edits, skip = agent.entries(process)
        assert skip == Skip(2, NO_SUBJECT)
        assert all(edit.update.a.shape[1] == EDITS - 1 for edit in edits)
        process.batch.requests = tuple(replace(request, subject="Nobody") for request in requests)
        assert agent.entries(process) == [Skip(i, NO_SUBJECT) for i in range(EDITS)]


@pytest.mark.parametrize("name", ["rome", "memit_seq"])
def test_the_records_of_what_is_left_out_say_why(env, process, name, monkeypatch, tmp_path):
    agent = editor(name)
    whole = process.stream.requests
    lost = (1, 2 * EDITS)
    changed = tuple(
        replace(request, subject="Nobody") if index in lost else request
        for index, request in enumerate(whole)
    )
    reset = type(process).reset

    def begin_with_strangers(self, seed):
        reset(self, seed)
        self.stream = replace(self.stream, requests=changed)
        self._batch = self._batch_of(0)

    monkeypatch.setattr(type(process), "reset", begin_with_strangers)
    journal = agent.edit(env)
    assert agent.skipped == {NO_SUBJECT: 2}
    saved = EditJournal.load(journal.save(tmp_path / "journal.safetensors"))
    records = env.unwrapped.evaluate(saved).records
    assert [record["skipped"] for record in records] == [
        NO_SUBJECT if index in lost else None for index in range(len(whole))
    ]


# --- covariance -----------------------------------------------------------------------------------


def test_covariance_is_the_mean_of_outer_products_of_inputs(process):
    site, seen = process.sites[-1], []
    language = process.task.language
    handle = language.model.get_submodule(site.name).register_forward_pre_hook(
        lambda _m, args: seen.append(args[0][0])
    )
    left = 300
    for sentence in sentences(process.task.filler):
        ids = language.prompt_ids(sentence)[:left]
        language.model(input_ids=torch.tensor([ids]))
        left -= len(ids)
        if not left:
            break
    handle.remove()
    keys = torch.cat(seen).double()
    assert len(keys) == 300
    assert close(covariances(process.task, [site], 300)[0], keys.mT @ keys / 300, 1e-5)


def test_covariance_is_kept_in_memory_and_on_disk_by_model(
    tokenizer, process, tmp_path, monkeypatch
):
    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path / "cache"))
    site = [process.sites[0]]
    found = covariances(process.task, site, 100)[0]
    (path,) = (tmp_path / "cache" / "covariance").iterdir()
    assert torch.equal(load_file(path)["covariance"], found)
    monkeypatch.setattr(module, "_computed", lambda *_: pytest.fail("computed twice"))
    assert covariances(process.task, site, 100)[0] is found
    module._MEMORY.clear()
    save_file({"covariance": 2 * found}, path)
    assert torch.equal(covariances(process.task, site, 100)[0], 2 * found)
    module._MEMORY.clear()
    monkeypatch.undo()
    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path / "cache"))
    other = environment(llama(tokenizer, tmp_path / "other", seed=1))
    assert not torch.equal(covariances(stream_process(other).task, site, 100)[0], 2 * found)
    assert len(list((tmp_path / "cache" / "covariance").iterdir())) == 2


def test_the_text_holds_nothing_that_metrics_ask_about(process):
    world, read = FactWorld(), list(sentences(process.task.filler))
    text = " | ".join(read)
    assert not [p.name for p in world.people if p.split != "policy" and f"{p.name} " in text]
    assert not set(read) & set(process.task.filler)


def test_no_context_is_a_sentence_that_perplexity_is_measured_on(process):
    agent, read = editor("memit", contexts=40), set()
    for request in process.stream.requests:
        contexts = agent._contexts(process.task, request.prompt, request.target)
        assert len(contexts) == 40
        read |= {text.removesuffix(f" {request.prompt}") for text in contexts}
    assert len(read) > 300
    assert not read & set(process.task.filler)


def test_inverse_factor_of_a_singular_covariance_and_an_empty_null_space():
    key = torch.randn(1, 6, dtype=torch.float64)
    assert inverse_factor(key.mT @ key).isfinite().all()
    with pytest.raises(ValueError, match="threshold"):
        null_space(torch.eye(6, dtype=torch.float64), 0.5)


# --- agents ---------------------------------------------------------------------------------------


def target_losses(process, requests):
    batch = process.task.batch([(request.prompt, request.target) for request in requests])
    return process.decoder.losses(batch).mean()


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_raises_the_targets_probability(process, name):
    agent = editor(name)
    agent.begin(process)
    before = process.decoder.losses(process.prompts).mean()
    process.decoder.apply(*agent.entries(process))
    assert process.decoder.losses(process.prompts).mean() < before - 0.5


@pytest.mark.parametrize("name", NAMES)
def test_a_journal_replays_bitwise(env, process, name, tmp_path):
    journal = editor(name).edit(env)
    assert [entry.step for entry in journal] == [
        step for step in range(STEPS) for _ in range(len(journal) // STEPS)
    ]
    fresh = process.task.decoder.fresh()
    fresh.replay(EditJournal.load(journal.save(tmp_path / "journal.safetensors")))
    assert all(map(torch.equal, fresh.weights, process.decoder.weights))


@pytest.mark.parametrize("name", NAMES)
def test_save_and_load_and_checkpoints(model, name, tmp_path, interrupted_edit):
    agent = editor(name)
    agent.save(tmp_path / "agent")
    again = agent_class(name).load(tmp_path / "agent")
    assert again.config == agent.config
    env = environment(model)
    env.reset(seed=0)
    whole = agent.edit(env)
    env = environment(model, journal_folder=str(tmp_path / "journal"))
    env.reset(seed=0)
    interrupted_edit(again, env, tmp_path / "checkpoint")
    resumed = (
        agent_class(name)
        .load(tmp_path / "agent")
        .edit(environment(model, journal_folder=str(tmp_path / "journal")), tmp_path / "checkpoint")
    )
    assert all(
        torch.equal(a.update.matrix(), b.update.matrix())
        for a, b in zip(whole.entries, resumed.entries, strict=True)
    )


@pytest.mark.parametrize("name", ["alphaedit", "memit_seq"])
def test_removed_steps_leave_what_the_other_steps_ask_for(env, process, name):
    agent = editor(name)
    agent.edit(env)
    decoder = process.decoder
    batches = {step: agent._batches[step] for step in range(STEPS)}
    decoder.apply(*agent.remove([0, 2]))
    covered = covariances(process.task, agent._sites, agent.settings.tokens)
    for index, site in enumerate(agent._sites):
        base = process.task.decoder.base_weights[process.sites.index(site)].double()
        expected = stream(agent.prior(covered[index]), base, [batches[1][index]])[1]
        assert close(decoder.weights[process.sites.index(site)].double(), expected, 1e-5)
    with pytest.raises(ValueError, match="steps"):
        agent.remove(0)


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_edited(env, model, name):
    where = "site" if name == "rome" else "sites"
    for wrong in ("model.layers.1.mlp.up_proj", "model.layers.9.mlp.down_proj"):
        with pytest.raises(Unsupported, match="layers"):
            editor(name, **{where: wrong if name == "rome" else [wrong]}).edit(env)
    with pytest.raises(Unsupported, match="last layer"):
        editor(name).edit(environment(model, ["model.layers.3.mlp.down_proj"]))
    with pytest.raises(Unsupported, match="LifelongLLMEdit"):
        editor(name).edit(gym.make("MaskWorld-v0"))


def test_by_default_sites_that_qualify_are_edited(model):
    for opened, edited in (("[0123]", "01"), ("[23]", "2")):
        journal = editor("memit").edit(
            environment(model, [f"model.layers.{opened}.mlp.*"], horizon=1)
        )
        assert {entry.site for entry in journal} == {
            f"model.layers.{layer}.mlp.down_proj" for layer in edited
        }


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("rome", {"tokens": 0}),
        ("rome", {"steps": 0}),
        ("rome", {"nonsense": 1}),
        ("memit", {"covariance_weight": 0}),
        ("memit", {"learning_rate": float("nan")}),
        ("alphaedit", {"threshold": -1}),
        ("alphaedit", {"ridge": 0}),
        ("memit_seq", {"ridge": "a"}),
        ("memit_seq", {"contexts": 1.5}),
        ("memit", {"decay": -1}),
    ],
)
def test_wrong_arguments_are_named(name, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make_agent(name, **wrong)


def test_target_settings_default_to_one_context():
    assert TargetSettings().contexts == 1


def gemma(tokenizer, folder):
    """Of Gemma 2's shape: it normalises what an MLP gives before it adds it."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gemma2",
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", NAMES)
def test_models_that_change_what_a_site_adds_are_refused(tokenizer, tmp_path, name):
    with pytest.raises(Unsupported, match=r"layers.1.mlp.down_proj.* is not what their layers add"):
        editor(name).edit(environment(gemma(tokenizer, tmp_path)))
