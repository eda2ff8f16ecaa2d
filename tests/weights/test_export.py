import copy
import json
import sys
import warnings

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from editgym.weights import (
    DenseUpdate,
    EditableDecoder,
    EditableNetwork,
    ExportError,
    LowRankFactors,
    Shift,
    SiteEdit,
    Skip,
    TokenBatch,
    export_adapter,
    export_merged,
    find_sites,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*every evaluation runs the whole network")
peft = pytest.importorskip("peft")


@pytest.fixture
def with_adapter(build, tmp_path):
    """`with_adapter(kind, network)`: logits of a fresh network under the adapter that `network`
    exports."""

    def load(kind, network, x):
        model = peft.PeftModel.from_pretrained(
            copy.deepcopy(build(kind)), str(export_adapter(network, tmp_path / "a"))
        )
        with torch.no_grad():
            return model.eval()(x)

    return load


def low_rank(site, rank, limit=0.05, bound=None, step=0):
    rows, columns = site.shape
    return SiteEdit(
        site.name,
        Shift(limit),
        LowRankFactors(torch.randn(rows, rank), torch.randn(rank, columns), rank**-0.5, bound),
        step,
    )


@pytest.mark.parametrize("bound", [None, 1.0])
@pytest.mark.parametrize("kind", ["linear", "conv2d", "conv1d", "gpt2"])
def test_peft_loads_the_journal_and_gives_its_logits(editable, inputs, with_adapter, kind, bound):
    network, x = editable(kind), inputs(kind)
    base = network.logits(x)
    network.apply(*(low_rank(site, 2, bound=bound) for site in network.sites))
    network.apply(*(low_rank(site, 1, bound=bound, step=1) for site in network.sites))
    torch.testing.assert_close(
        with_adapter(kind, network, x), network.logits(x), atol=1e-5, rtol=1e-5
    )
    assert (network.logits(x) - base).abs().max() > 1e-3


def test_sites_whose_names_are_suffixes_of_one_another_keep_their_ranks(
    editable, inputs, with_adapter, tmp_path
):
    network, x = editable("suffix names"), inputs("suffix names")
    ranks = {"fc": 1, "tail.fc": 3, "conv": 2, "tail.conv": 4}
    network.apply(*(low_rank(site, ranks[site.name]) for site in network.sites))
    torch.testing.assert_close(
        with_adapter("suffix names", network, x), network.logits(x), atol=1e-5, rtol=1e-5
    )
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert {name: len(tensors[f"base_model.model.{name}.lora_A.weight"]) for name in ranks} == ranks


def test_adapter_of_some_sites_leaves_their_namesakes_alone(editable, inputs, with_adapter):
    network, x = editable("suffix names"), inputs("suffix names")
    network.apply(low_rank(network.sites[0], 2))
    torch.testing.assert_close(
        with_adapter("suffix names", network, x), network.logits(x), atol=1e-5, rtol=1e-5
    )


class Mixed(nn.Module):
    """Linear and Conv1D in one network."""

    def __init__(self, conv1d):
        super().__init__()
        self.first, self.second = nn.Linear(12, 24), conv1d(5, 24)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def test_linear_and_conv1d_sites_in_one_adapter(tmp_path):
    from transformers.pytorch_utils import Conv1D

    model, x = Mixed(Conv1D).eval(), torch.randn(9, 12)
    network = EditableNetwork(model, find_sites(model, ["*"]), x)
    network.apply(*(low_rank(site, 2) for site in network.sites))
    with pytest.warns(UserWarning, match="fan_in_fan_out"):
        adapted = peft.PeftModel.from_pretrained(
            model, str(export_adapter(network, tmp_path))
        ).eval()
    with torch.no_grad():
        torch.testing.assert_close(adapted(x), network.logits(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "conv2d", "conv1d"])
def test_dense_shifts_are_factored_exactly(editable, inputs, with_adapter, make_edit, kind):
    network, x = editable(kind), inputs(kind)
    network.apply(make_edit(network, "dense_shift", 0), make_edit(network, "dense_shift", 1))
    torch.testing.assert_close(
        with_adapter(kind, network, x), network.logits(x), atol=1e-5, rtol=1e-5
    )


def exported_rank(network, folder):
    return load_file(export_adapter(network, folder) / "adapter_model.safetensors")[
        "base_model.model.fc2.lora_A.weight"
    ].shape[0]


def test_rank_is_that_of_the_sum(network, tmp_path):
    site, once = network.sites[0], low_rank(network.sites[0], 3)
    network.apply(once)
    assert exported_rank(network, tmp_path) == 3
    network.apply(low_rank(site, 2, step=1))
    assert exported_rank(network, tmp_path) == 5
    network.apply(
        SiteEdit(site.name, Shift(0.05), LowRankFactors(2 * once.update.a, once.update.b), 2)
    )
    assert exported_rank(network, tmp_path) == 5, "an edit repeated adds no rank"
    for step in range(3, 30):
        network.apply(low_rank(site, 4, step=step))
    assert exported_rank(network, tmp_path) == 32, "never more than min(out, in)"


def test_scaling_is_one_for_every_site(editable, tmp_path):
    network = editable("suffix names")
    network.apply(*(low_rank(site, rank) for rank, site in enumerate(network.sites, start=1)))
    config = json.loads((export_adapter(network, tmp_path) / "adapter_config.json").read_text())
    assert config["alpha_pattern"] == config["rank_pattern"]
    assert sorted(config["rank_pattern"].values()) == [1, 2, 3, 4]
    assert config["lora_alpha"] == config["r"]


@pytest.mark.parametrize("entry", ["low_rank_mask", "dense_mask", "replace_tensors"])
def test_edit_that_is_not_additive_cannot_be_an_adapter(network, make_edit, entry, tmp_path):
    network.apply(make_edit(network, "low_rank_shift"), Skip(0, "too long", 0))
    network.apply(make_edit(network, entry, step=1))
    with pytest.raises(ExportError, match=f"entry 2 is a {entry}.*merged"):
        export_adapter(network, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_empty_journal_cannot_be_an_adapter(network, tmp_path):
    network.apply(Skip(0, "too long"))
    with pytest.raises(ExportError, match="journal is empty"):
        export_adapter(network, tmp_path)


def test_convolution_with_groups_cannot_be_an_adapter(tmp_path):
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Flatten())
    network = EditableNetwork(model, find_sites(model, ["0"]), torch.randn(4, 4, 5, 5))
    network.apply(SiteEdit("0", Shift(), DenseUpdate(torch.randn(8, 18))))
    with pytest.raises(ExportError, match="groups"):
        export_adapter(network, tmp_path)


def test_without_peft_the_error_says_what_to_install(network, make_edit, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "peft", None)
    network.apply(make_edit(network))
    with pytest.raises(ImportError, match=r"editgym\[llm\]"):
        export_adapter(network, tmp_path)


@pytest.mark.parametrize(
    "entry", ["low_rank_shift", "low_rank_mask", "dense_shift", "dense_mask", "replace_tensors"]
)
@pytest.mark.parametrize("kind", ["linear", "conv2d", "conv1d", "resnet", "gpt2"])
def test_merged_checkpoint_loads_into_a_fresh_network_exactly(
    editable, build, inputs, make_edit, tmp_path, kind, entry
):
    network, x = editable(kind), inputs(kind)
    network.apply(make_edit(network, entry))
    model = build(kind)
    model.load_state_dict(load_file(export_merged(network, tmp_path / "merged.safetensors")))
    with torch.no_grad():
        assert torch.equal(model(x), network.logits(x))


def test_merged_checkpoint_is_single_precision_unless_asked(editable, tmp_path):
    network = editable("resnet")
    path = export_merged(network, tmp_path / "merged.safetensors")
    assert load_file(path)["linear.weight"].dtype == torch.float32
    with safe_open(str(path), framework="pt") as file:
        assert file.metadata()["base_hash"] == network.base_hash
    half = load_file(export_merged(network, path, torch.float16))
    assert half["linear.weight"].dtype == torch.float16
    assert half["bn1.num_batches_tracked"].dtype == torch.int64


def test_what_begins_as_nothing_does_is_no_merged_checkpoint(network, tmp_path):
    with pytest.raises(ExportError, match=r"^inside: no tensor's name begins with 'nonsense\.'"):
        export_merged(network, tmp_path / "merged.safetensors", inside="nonsense.")
    assert not list(tmp_path.iterdir())
    whole = load_file(export_merged(network, tmp_path / "merged.safetensors"))
    part = load_file(export_merged(network, tmp_path / "fc2.safetensors", inside="fc2."))
    assert part.keys() == {"weight", "bias"}
    assert torch.equal(part["weight"], whole["fc2.weight"])


def test_numbers_that_a_precision_does_not_have_are_refused(network, tmp_path):
    network.apply(SiteEdit("fc2", Shift(), DenseUpdate(torch.full((32, 128), 1e6))))
    with pytest.raises(ExportError, match=r"^dtype: fc2\.weight has numbers .* torch\.float16"):
        export_merged(network, tmp_path / "merged.safetensors", torch.float16)
    assert not list(tmp_path.iterdir())
    export_merged(network, tmp_path / "merged.safetensors", torch.bfloat16)
    export_merged(network, tmp_path / "other.safetensors", torch.float16, inside="fc1.")


def test_an_adapter_is_loaded_for_inference_and_drops_nothing(network, make_edit, tmp_path):
    network.apply(make_edit(network, "dense_shift"))
    folder = export_adapter(network, tmp_path / "adapters" / "one")
    assert export_adapter(network, folder) == folder, "again, into the folder that is there"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["inference_mode"], config["lora_dropout"], config["bias"]) == (True, 0.0, "none")
    assert config["fan_in_fan_out"] is False


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("dense", [False, True])
def test_an_edit_by_zero_is_an_adapter_of_rank_one_that_changes_nothing(
    editable, inputs, with_adapter, tmp_path, kind, dense
):
    network, x = editable(kind), inputs(kind)
    site = network.sites[0]
    zero = LowRankFactors(torch.zeros(site.shape[0], 3), torch.zeros(3, site.shape[1]))
    network.apply(SiteEdit(site.name, Shift(), DenseUpdate(zero.matrix()) if dense else zero))
    torch.testing.assert_close(with_adapter(kind, network, x), network.logits(x))
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert {tuple(tensor.shape) for tensor in tensors.values()} == {
        (1, site.shape[1]),
        (site.shape[0], 1),
    }


def test_dense_and_low_rank_edits_of_one_site_add_up(
    network, inputs, with_adapter, make_edit, tmp_path
):
    x, site = inputs("linear"), network.sites[0]
    network.apply(make_edit(network, "dense_shift"), low_rank(site, 2, limit=2.0))
    network.apply(low_rank(site, 1, bound=0.5, step=1))
    torch.testing.assert_close(
        with_adapter("linear", network, x), network.logits(x), atol=1e-4, rtol=1e-4
    )


# --- what was written is proved -------------------------------------------------------------------


def small_lm(kind, **settings):
    common = {
        "vocab_size": 60,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
    }
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **common | settings)
    return AutoModelForCausalLM.from_config(config).float().eval().requires_grad_(False)


def edited_lm(model, sites):
    example = TokenBatch.of([([3, 4, 5], [6, 7]), ([8], [9])])
    decoder = EditableDecoder(model, find_sites(model, sites), example)
    decoder.apply(*(low_rank(site, 2, 0.5) for site in decoder.sites))
    return decoder


def test_an_adapter_is_loaded_by_itself(tmp_path):
    model = small_lm("llama")
    model.save_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").requires_grad_(False)
    decoder = edited_lm(model, ["model.layers.1.mlp.*"])
    export_adapter(decoder, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["task_type"] == "CAUSAL_LM"
    assert config["base_model_name_or_path"] == str(tmp_path / "model")
    loaded = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    torch.testing.assert_close(decoder.probe(loaded), decoder.probe(), rtol=1e-4, atol=1e-4)
    assert float((decoder.probe(model) - decoder.probe()).abs().max()) > 0.01


MOE = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}


@pytest.mark.parametrize(
    ("kind", "settings", "sites"),
    [
        ("glm4_moe", MOE | {"n_shared_experts": 1}, "model.layers.*.mlp.shared_experts.*"),
        ("glm4_moe", MOE, "model.layers.*.mlp.*down_proj"),  # of dense layers too
        ("qwen2_moe", {"num_experts": 4}, "model.layers.*.mlp.shared_expert.down_proj"),
        (
            "qwen3_moe",
            {"num_experts": 4, "num_experts_per_tok": 2},
            "model.layers.[12].self_attn.o_proj",
        ),
        ("mixtral", {"num_local_experts": 2}, "model.layers.[12].self_attn.*"),
    ],
)
def test_adapters_of_what_peft_takes_for_experts_are_loaded_right(kind, settings, sites, tmp_path):
    model = small_lm(kind, **settings)
    model.save_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval().requires_grad_(False)
    decoder = edited_lm(model, [sites])
    before = decoder.probe(model)
    decoder.apply(low_rank(decoder.sites[-1], 1, 0.5, step=1))  # of another rank than the others
    export_adapter(decoder, tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys")
        loaded = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    torch.testing.assert_close(decoder.probe(loaded), decoder.probe(), rtol=1e-4, atol=1e-4)
    assert float((before - decoder.probe()).abs().max()) > 0.01
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(decoder.probe(merged), decoder.probe(), rtol=1e-4, atol=1e-4)


class LoadsLess(peft.PeftModel):
    """A PEFT that leaves out some of what it is given."""

    left_out, factor = "nothing", 0.0

    @classmethod
    def from_pretrained(cls, model, folder):
        loaded = peft.PeftModelForCausalLM.from_pretrained(model, folder)
        for name, parameter in loaded.named_parameters():
            if cls.left_out in name and "lora_B" in name:
                parameter.data *= cls.factor
        return loaded


@pytest.mark.parametrize("factor", [0.0, 1 + 1e-6])
@pytest.mark.parametrize("there", [False, True])
def test_an_adapter_that_peft_makes_something_else_of_is_refused(
    tmp_path, monkeypatch, there, factor
):
    """Also where the logits hardly tell."""
    decoder = edited_lm(small_lm("llama"), ["model.layers.[12].mlp.down_proj"])
    monkeypatch.setattr(peft, "PeftModel", LoadsLess)
    monkeypatch.setattr(LoadsLess, "factor", factor)
    folder = tmp_path / "new" / "adapter"
    if there:
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("an earlier one")
    monkeypatch.setattr(LoadsLess, "left_out", "layers.2")
    with pytest.raises(
        ExportError, match=r"not load the update of model\.layers\.2\.mlp.* into Llama.*merged"
    ):
        export_adapter(decoder, folder)
    left = sorted(file.name for file in tmp_path.rglob("*"))
    assert left == (["adapter", "adapter_config.json", "new"] if there else [])
    if there:
        assert (folder / "adapter_config.json").read_text() == "an earlier one"
    monkeypatch.setattr(LoadsLess, "left_out", "nothing")
    export_adapter(decoder, folder)


def test_an_adapter_that_peft_cannot_load_is_refused(tmp_path, monkeypatch):
    def fail(model, folder):
        raise ValueError("no such module")

    decoder = edited_lm(small_lm("llama"), ["model.layers.1.mlp.down_proj"])
    monkeypatch.setattr(LoadsLess, "from_pretrained", fail)
    monkeypatch.setattr(peft, "PeftModel", LoadsLess)
    with pytest.raises(ExportError, match=r"cannot load the adapter into Llama.*: no such module"):
        export_adapter(decoder, tmp_path / "adapter")
    assert not list(tmp_path.iterdir())


def test_exporting_leaves_the_network_as_it_was(editable, make_edit, tmp_path):
    network = editable("linear")
    network.apply(make_edit(network))
    before, modules = network.probe(), [name for name, _ in network.base.named_modules()]
    export_adapter(network, tmp_path / "a")
    assert torch.equal(network.probe(), before)
    assert [name for name, _ in network.base.named_modules()] == modules


# --- what an adapter cannot do, however small the edit --------------------------------------------


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.f = nn.Linear(4, 8), nn.Linear(8, 3)
        self.a = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        x = self.e(x)
        return self.f(self.a(x, x, x, need_weights=False)[0].mean(1))


def convolution(**options):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, **options),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 3),
    )


@pytest.mark.parametrize("size", [1.0, 1e-2])
@pytest.mark.parametrize(
    ("model", "site", "shape"),
    [
        (Attention, "a.out_proj", (5, 4)),
        (lambda: convolution(dilation=2, padding=2), "2", (1, 10, 10)),
        (lambda: convolution(dilation=2), "2", (1, 10, 10)),
        (lambda: convolution(padding=1, padding_mode="reflect"), "2", (1, 10, 10)),
    ],
    ids=["attention", "dilated", "dilated and smaller", "reflecting"],
)
def test_an_adapter_without_the_edits_effect_is_refused(model, site, shape, size, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(4, *shape)
    module = model().eval()
    network = EditableNetwork(module, find_sites(module, [site]), x)
    edit = low_rank(network.sites[0], 2)
    network.apply(SiteEdit(edit.site, Shift(size), edit.update))
    with pytest.raises(ExportError):
        export_adapter(network, tmp_path / "adapter")
