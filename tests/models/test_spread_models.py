"""Models that are spread over devices, or put off to disk, do what they do in one place."""

import gymnasium as gym
import pytest
import torch
from device_maps import MAPS, spread
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from agents.catalogue import make_agent
from editgym.models.language import LanguageModel
from editgym.weights import (
    Codebook,
    EditableDecoder,
    LowRankFactors,
    Shift,
    SiteEdit,
    TokenBatch,
    UnknownSiteError,
    export_adapter,
    export_merged,
    export_pretrained,
    find_sites,
    fingerprint,
)
from editgym.weights.language.site_pass import Injection

pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
OPENING = list(range(20, 32))
TEXTS = [
    ([3, 4, 5], [6, 7]),
    ([8], [9, 10, 11]),
    ([12, 13, 14, 15, 16, 17], [18]),
]
SHARED = [([*OPENING, *prompt], answer) for prompt, answer in TEXTS]
SITES = ["model.layers.[123].mlp.down_proj", "model.layers.2.self_attn.q_proj"]


@pytest.fixture(params=MAPS)
def language(request, tiny_lm):
    if request.param == "auto" and torch.cuda.is_available():
        pytest.skip("the map is for computers without a GPU")
    return LanguageModel.load(tiny_lm, device_map=MAPS[request.param])


@pytest.fixture(scope="module")
def plain(tiny_lm):
    return LanguageModel.load(tiny_lm)


def decoder_of(language, sites=tuple(SITES)):
    example = TokenBatch.of(TEXTS, language.device)
    return EditableDecoder(language.model, find_sites(language.model, sites), example)


def factors(decoder, count=(), seed=0):
    """On the CPU, as a journal's are."""
    generator = torch.Generator().manual_seed(seed)
    return [
        LowRankFactors(
            0.1 * torch.randn(*count, site.shape[0], 2, generator=generator),
            torch.randn(*count, 2, site.shape[1], generator=generator),
        )
        for site in decoder.sites
    ]


def apply(decoder, updates=None, step=0):
    decoder.apply(
        *(
            SiteEdit(site.name, Shift(), update, step)
            for site, update in zip(decoder.sites, updates or factors(decoder), strict=True)
        )
    )


def injected(batch):
    rows = torch.arange(len(batch), device=batch.ids.device)
    values = torch.linspace(-1, 1, 3 * 32).view(3, 32).to(batch.ids.device)
    return {"model.layers.2.mlp.down_proj": Injection(rows, rows * 0 + 13, values)}


def computed(language):
    """All kinds of what a decoder computes, on the CPU, before and after an edit."""
    decoder, found = decoder_of(language), []
    for step in range(2):
        for texts in (TEXTS, SHARED):
            batch = TokenBatch.of(texts, language.device)
            prefix, updates = decoder.prefix(batch), factors(decoder, (2,), seed=1)
            found += [
                decoder.logits(batch),
                decoder.logits(batch, prefix=prefix),
                decoder.logits(batch, updates, prefix),
                *(decoder.logits(batch, injected=injected(batch)) if texts is SHARED else ()),
            ]
            states = decoder.site_states(
                batch, [site.name for site in decoder.sites], batch.rows, batch.positions
            )
            captured = decoder.capture(batch, prefix)
            found += [part for state in states.values() for part in state]
            found += [*captured.keys, *captured.gradients]
        apply(decoder, step=step)
    keys = decoder.capture(batch).keys[0]
    value = torch.linspace(-1, 1, 32)
    code = Codebook(decoder.sites[0].name, keys[:1].cpu(), value[None], torch.tensor([0.1]))
    decoder.apply(code)
    return [
        *(part.cpu() for part in found),
        decoder.logits(batch).cpu(),
        *map(to_cpu, decoder.deltas),
    ]


def to_cpu(tensor):
    return tensor.cpu()


@pytest.fixture(scope="module")
def wanted(plain):
    return computed(plain)


def test_the_same_is_computed_and_decoded(language, plain, wanted):
    assert language.device.type == "cpu"
    for ours, theirs in zip(computed(language), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    prompts = [prompt for prompt, _ in (*TEXTS, *SHARED)]
    assert language.greedy(prompts) == plain.greedy(prompts)
    decoders = [decoder_of(one) for one in (language, plain)]
    answers = []
    for one, decoder in zip((language, plain), decoders, strict=True):
        apply(decoder)
        with decoder.active():
            answers.append(one.greedy(prompts))
    assert answers[0] == answers[1] != plain.greedy(prompts)


def test_weights_are_hashed_wherever_they_are_and_never_written_to(language, plain):
    before = fingerprint(language.model)
    assert before == fingerprint(plain.model)
    decoder = decoder_of(language)
    assert decoder.base_hash == before
    logits = decoder.probe()
    apply(decoder)
    assert not torch.equal(decoder.probe(), logits)
    decoder.undo()
    assert torch.equal(decoder.probe(), logits)
    assert fingerprint(language.model) == before
    assert not any(weight.is_meta for weight in (*decoder.weights, *decoder.base_weights))


def test_what_is_taken_out_is_whole(language, plain, tmp_path):
    decoders = [decoder_of(one) for one in (language, plain)]
    batch = decoders[0]._example
    for decoder in decoders:
        apply(decoder)
    ours, theirs = (decoder.state_dict() for decoder in decoders)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    wanted = decoders[1].probe()
    written = load_file(export_merged(decoders[0], tmp_path / "merged.safetensors"))
    assert all(torch.equal(written[name], theirs[name]) for name in theirs)
    merged = decoders[0].merged()
    assert all(parameter.requires_grad for parameter in merged.parameters())
    folder = export_pretrained(decoders[0], tmp_path / "folder")
    for model in (merged, AutoModelForCausalLM.from_pretrained(folder)):
        logits = model(input_ids=batch.ids, use_cache=False).logits[batch.rows, batch.positions]
        torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-5)
    peft = pytest.importorskip("peft")
    folder = export_adapter(decoders[0], tmp_path / "adapter")
    loaded = peft.AutoPeftModelForCausalLM.from_pretrained(folder).eval()
    torch.testing.assert_close(decoders[1].probe(loaded), wanted, rtol=1e-4, atol=1e-4)


def test_tied_weights_are_known_where_both_are_on_disk(tmp_path, tiny_lm):
    plain = LanguageModel.load(tiny_lm)
    plain.model.config.tie_word_embeddings = True
    plain.model.lm_head.weight = plain.model.model.embed_tokens.weight
    plain.model.save_pretrained(tmp_path)
    plain.tokenizer.save_pretrained(tmp_path)
    for device_map in ({"": "disk"}, None):
        language = LanguageModel.load(str(tmp_path), device_map=device_map)
        model, decoder = language.model, decoder_of(language)
        assert decoder._tied["lm_head.weight"] == ["model.embed_tokens.weight", "lm_head.weight"]
        assert decoder._tied["model.norm.weight"] == ["model.norm.weight"]
        with pytest.raises(UnknownSiteError, match=r"lm_head .* shares its weight with"):
            EditableDecoder(model, find_sites(model, ["lm_head"]), TokenBatch.of(TEXTS))


def test_a_stream_of_facts_is_edited_as_in_one_place(tiny_lm):
    found = []
    for device_map in (None, MAPS["some on disk"]):
        env = gym.make(
            "LifelongLLMEdit-v1",
            model=tiny_lm,
            sites=["model.layers.[12].mlp.down_proj"],
            horizon=2,
            edits_per_step=2,
            step_size=1e-2,
            text="factworld",
            device_map=device_map,
        )
        for name, settings in (("ultraedit", {}), ("memit_seq", {"tokens": 600, "steps": 4})):
            env.reset(seed=0)
            make_agent(name, **settings).edit(env)
            found.append(env.unwrapped.process.decoder.deltas)
        env.reset(seed=0)
        observation, reward, *_ = env.step(env.unwrapped.training_free_action())
        found.append([torch.from_numpy(observation), torch.tensor(reward)])
    for ours, theirs in zip(found[3:], found[:3], strict=True):
        assert max(float(one.abs().max()) for one in theirs) > 1e-3
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("layers", "gpus"),
    [
        pytest.param([0, "cpu", "disk", 0], 1, id="memory and disk"),
        pytest.param([0, 0, 1, 1], 2, id="halves"),
        pytest.param([1, 0, 1, 0], 2, id="in turn"),
    ],
)
def test_on_gpus_the_same_is_computed(tiny_lm, plain, wanted, layers, gpus):
    if torch.cuda.device_count() < gpus:
        pytest.skip(f"fewer than {gpus} GPUs")
    language = LanguageModel.load(tiny_lm, dtype="float32", device_map=spread(layers, 0))
    for ours, theirs in zip(computed(language), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    decoder = decoder_of(language)
    places = [torch.device("cuda", to if isinstance(to, int) else 0) for to in layers]
    apply(decoder)
    assert [weight.device for weight in decoder.weights[:3]] == places[1:]
    assert fingerprint(language.model) == fingerprint(plain.model)
    prompts = [prompt for prompt, _ in (*TEXTS, *SHARED)]
    assert language.greedy(prompts) == plain.greedy(prompts)
