"""What locate-and-edit editors share: subjects, contexts, sites, and what is left out."""

from dataclasses import replace

import gymnasium as gym
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from agents.editors.stream import stream_process
from agents.editors.subject_keys import NO_SUBJECT, find_subject
from agents.protocol import Unsupported
from editgym.weights import EditJournal, Skip

NAMES = ("rome", "memit", "alphaedit", "memit_seq")
EDITS = 4  # in a step of the fixture `environment`


def test_the_subjects_last_token(process):
    language = process.task.language
    for request in process.stream.requests:
        index = find_subject(language.asking(), request.prompt, request.subject)
        said = language.tokenizer.decode(language.prompt_ids(request.prompt)[1 : index + 1]).strip()
        assert said == request.prompt[: request.prompt.index(request.subject)] + request.subject
    assert find_subject(language.asking(), "Nobody lives in", "Somebody") is None


def test_a_request_without_its_subject_is_skipped(
    process,
    editor,
):
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
def test_the_records_of_what_is_left_out_say_why(
    env,
    process,
    name,
    monkeypatch,
    tmp_path,
    editor,
):
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
        self._batch = self._next_batch(0)

    monkeypatch.setattr(type(process), "reset", begin_with_strangers)
    journal = agent.edit(env)
    assert agent.skipped == {NO_SUBJECT: 2}
    saved = EditJournal.load(journal.save(tmp_path / "journal.safetensors"))
    records = env.unwrapped.evaluate(saved).records
    assert [record["skipped"] for record in records] == [
        NO_SUBJECT if index in lost else None for index in range(len(whole))
    ]


def test_no_context_is_a_sentence_that_perplexity_is_measured_on(
    process,
    editor,
):
    agent, read = editor("memit", contexts=40), set()
    for request in process.stream.requests:
        contexts = agent._contexts(process.task, request.prompt, request.target)
        assert len(contexts) == 40
        read |= {text.removesuffix(f" {request.prompt}") for text in contexts}
    assert len(read) > 300
    assert not read & set(process.task.text.held_out)


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_edited(
    env,
    model,
    name,
    environment,
    editor,
):
    where = "site" if name == "rome" else "sites"
    for wrong in ("model.layers.1.mlp.up_proj", "model.layers.9.mlp.down_proj"):
        with pytest.raises(Unsupported, match="layers"):
            editor(name, **{where: wrong if name == "rome" else [wrong]}).edit(env)
    with pytest.raises(Unsupported, match="last layer"):
        editor(name).edit(environment(model, ["model.layers.3.mlp.down_proj"]))
    with pytest.raises(Unsupported, match="LifelongLLMEdit"):
        editor(name).edit(gym.make("MaskWorld-v0"))


def test_by_default_sites_that_qualify_are_edited(
    model,
    environment,
    editor,
):
    for opened, edited in (("[0123]", "01"), ("[23]", "2")):
        journal = editor("memit").edit(
            environment(model, [f"model.layers.{opened}.mlp.*"], horizon=1)
        )
        assert {entry.site for entry in journal} == {
            f"model.layers.{layer}.mlp.down_proj" for layer in edited
        }


def small(kind, tokenizer, folder, **settings):
    """The folder of a small model of a kind."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **settings,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


CHANGED = {
    "gemma2": ({"head_dim": 16}, "mlp.down_proj", "its layer changes it, .* normalise it"),
    "granite": (
        {"residual_multiplier": 0.22},
        "mlp.down_proj",
        r"its layer multiplies it by 0\.22, as Granite",
    ),
    "qwen2_moe": (
        {"num_experts": 3, "num_experts_per_tok": 2, "initializer_range": 0.5},
        "mlp.shared_expert.down_proj",
        "multiplies it by a number of each token's own, as Qwen2-MoE gates",
    ),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "gemma2") for name in NAMES), ("memit", "granite"), ("rome", "qwen2_moe")],
)
@pytest.mark.filterwarnings("ignore:.*logits are computed at every token")
def test_models_that_change_what_a_site_adds_are_refused_with_the_true_reason(
    tokenizer, tmp_path, kind, name, environment, editor
):
    settings, output, reason = CHANGED[kind]
    folder = small(kind, tokenizer, tmp_path, **settings)
    with pytest.raises(Unsupported, match=rf"layers\.\d\.{output} gives out is not .*{reason}"):
        editor(name).edit(environment(folder, [f"model.layers.[01].{output}"]))


@pytest.mark.parametrize("name", ["rome", "memit_seq"])
def test_models_that_put_all_tokens_in_one_row_are_edited(
    tokenizer, tmp_path, name, environment, editor
):
    folder = small("opt", tokenizer, tmp_path, ffn_dim=64, word_embed_proj_dim=32)
    env = environment(folder, ["model.decoder.layers.[01].fc2"], horizon=1)
    env.reset(seed=0)
    process, agent = stream_process(env), editor(name)
    asked = process.requests
    site = process.sites[1]
    batch = agent.subject_batch(process, asked)
    keys, hidden = map(batch.means, batch.states(process.decoder).read(site, site))
    language, seen = process.task.language, []
    fc2 = language.model.get_submodule(site.name)
    handle = fc2.register_forward_pre_hook(lambda _module, x: seen.append(x[0]))
    with torch.no_grad():
        for row in range(len(batch.texts)):
            language.model(input_ids=batch.texts.ids[row : row + 1])
    handle.remove()
    texts = zip(seen, batch.positions, strict=True)
    plain = batch.means(torch.stack([x[position] for x, position in texts]))
    torch.testing.assert_close(keys, plain, rtol=1e-4, atol=1e-5)
    assert hidden.shape == (len(asked), 32)
    journal = agent.edit(env)
    assert {entry.site for entry in journal} <= {one.name for one in process.sites}
    assert all(float(entry.update.matrix().norm()) > 0 for entry in journal)
