"""Models of many families, of shapes that are drawn: with the default sites everything that is
computed under edits is what plain `transformers` and PEFT compute of the edited weights."""

import copy
import warnings

import families
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from editgym.envs.lifelong.terms import Term
from editgym.models.language import LanguageModel
from editgym.weights import (
    EditableDecoder,
    LowRankFactors,
    Shift,
    SiteEdit,
    TokenBatch,
    discover_sites,
    export_adapter,
    export_pretrained,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*logits are computed at every token"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing"),
]
# One of each kind of layout: flattened MLPs, a shared expert, attention, latent attention.
FAST = ("opt", "deepseek_v3")
SHIFT = 0.5


@pytest.fixture(
    params=[
        pytest.param(name, marks=[] if name in FAST else pytest.mark.slow)
        for name in families.FAMILIES
    ]
)
def base(request, factworld_tokenizer):
    """A model that nobody edits."""
    return families.small_model(request.param, len(factworld_tokenizer))


@pytest.fixture
def decoder(base):
    model = copy.deepcopy(base)
    sites = discover_sites(model)
    return EditableDecoder(model, sites, TokenBatch.of(texts(seed=9)))


def texts(seed=0, count=4, opening=()):
    """Prompts and answers of unequal length."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(length):
        return torch.randint(3, 200, (length,), generator=generator).tolist()

    return [([*opening, *drawn(1 + 2 * i)], drawn(1 + (3 * i) % 4)) for i in range(count)]


def factors(decoder, count=(), seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        LowRankFactors(
            0.3 * torch.randn(*count, site.shape[0], 2, generator=generator),
            torch.randn(*count, 2, site.shape[1], generator=generator),
        )
        for site in decoder.sites
    ]


def apply(decoder, updates):
    decoder.apply(
        *(
            SiteEdit(site.name, Shift(SHIFT), update)
            for site, update in zip(decoder.sites, updates, strict=True)
        )
    )


def edited_by_hand(base, decoder, updates):
    """The plain model with the products added to its weights."""
    model = copy.deepcopy(base)
    for site, update in zip(decoder.sites, updates, strict=True):
        product = SHIFT * update.a @ update.b
        weight = model.get_submodule(site.name).weight
        weight.data += product.T if site.kind == "conv1d" else product
    return model


def plain_logits(model, batch_texts):
    """Of a model itself, text by text, at the answer tokens: (m, vocabulary)."""
    rows = []
    for prompt, answer in batch_texts:
        logits = model(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0]
        rows.append(logits[len(prompt) - 1 : -1])
    return torch.cat(rows)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@torch.no_grad()
def test_what_is_computed_under_edits_is_what_the_edited_weights_give(
    base, decoder, factworld_tokenizer
):
    updates = factors(decoder)
    plain = edited_by_hand(base, decoder, updates)
    own = [*texts(), *texts(seed=5, count=2, opening=range(20, 32))]
    shared = texts(seed=6, count=3, opening=range(20, 32))
    for some in (own, shared):
        batch = TokenBatch.of(some)
        before, wanted = plain_logits(base, some), plain_logits(plain, some)
        assert float((wanted - before).abs().max()) > 0.01
        prefix = decoder.prefix(batch)
        close(decoder.logits(batch), before)
        scaled = [LowRankFactors(SHIFT * u.a, u.b) for u in updates]
        close(decoder.logits(batch, scaled, prefix), wanted)
        candidates = factors(decoder, (3,))
        for site_candidates, update in zip(candidates, scaled, strict=True):
            site_candidates.a[1], site_candidates.b[1] = update.a, update.b
        close(decoder.logits(batch, candidates, prefix)[1], wanted)
        # KL(before || now), the mean over a text's answer tokens, then over texts.
        reference = before.log_softmax(-1)
        tokens = F.kl_div(wanted.log_softmax(-1), reference, log_target=True, reduction="none")
        by_text = [tokens.sum(-1)[batch.rows == row].mean() for row in range(len(batch))]
        term = Term(batch, prefix, 1.0, reference, newest=False)
        close(term.cost(decoder.logits(batch, scaled, prefix)), torch.stack(by_text).mean())
    apply(decoder, updates)
    batch = TokenBatch.of(own)
    close(decoder.logits(batch, prefix=decoder.prefix(batch)), plain_logits(plain, own))

    language = LanguageModel(decoder.base, factworld_tokenizer)
    prompts = [prompt for prompt, _ in (*own, *shared)]
    with decoder.active():
        answers = language.greedy(prompts, 6)
    assert answers == [continued(plain, prompt, language.stop_ids) for prompt in prompts]


def continued(model, prompt, stops, most=6):
    """Greedy tokens by whole passes without a cache, up to the first stop token."""
    ids = list(prompt)
    while len(ids) < len(prompt) + most and (len(ids) == len(prompt) or ids[-1] not in stops):
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_keys_and_gradients_are_those_of_the_edited_weights(base, decoder):
    updates = factors(decoder)
    apply(decoder, updates)
    plain, own = edited_by_hand(base, decoder, updates), texts()
    seen = {site.name: [] for site in decoder.sites}

    def keep(name, x, out):
        out.retain_grad()
        seen[name].append((x, out))

    for site in decoder.sites:
        module = plain.get_submodule(site.name)
        module.weight.requires_grad_()
        module.register_forward_hook(lambda _, x, out, name=site.name: keep(name, x[0], out))
    losses = []
    for prompt, answer in own:
        logits = plain(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0]
        losses.append(F.cross_entropy(logits[len(prompt) - 1 : -1], torch.tensor(answer)))
    loss = torch.stack(losses).mean()
    loss.backward()

    def at_answers(parts):
        places = [slice(len(prompt) - 1, len(prompt) + len(answer) - 1) for prompt, answer in own]
        rows = (one.reshape(-1, one.shape[-1]) for one in parts)  # also where one row is all
        return torch.cat([row[place] for row, place in zip(rows, places, strict=True)]).detach()

    batch = TokenBatch.of(own)
    for captured in (decoder.capture(batch), decoder.capture(batch, decoder.prefix(batch))):
        assert captured.loss == pytest.approx(loss.item(), rel=1e-4)
        for site, k, g in zip(decoder.sites, captured.keys, captured.gradients, strict=True):
            close(k, at_answers([x for x, _ in seen[site.name]]))
            close(g, at_answers([out.grad for _, out in seen[site.name]]))
            assert g.abs().max() > 0


def test_merged_weights_and_adapter_load_as_the_edited_network(base, tmp_path):
    peft = pytest.importorskip("peft")
    base.save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval().requires_grad_(False)
    model = copy.deepcopy(base)
    decoder = EditableDecoder(model, discover_sites(model), TokenBatch.of(texts(seed=9)))
    updates = factors(decoder)
    apply(decoder, updates)
    own = texts()
    with torch.no_grad():
        wanted = plain_logits(edited_by_hand(base, decoder, updates), own)
        assert (wanted - plain_logits(base, own)).abs().max() > 1e-3
        folder = export_pretrained(decoder, tmp_path / "merged")
        close(plain_logits(AutoModelForCausalLM.from_pretrained(folder).eval(), own), wanted)
        export_adapter(decoder, tmp_path / "adapter")
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys")
            loaded = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
        close(plain_logits(loaded, own), wanted)
        close(plain_logits(loaded.merge_and_unload(), own), wanted)
