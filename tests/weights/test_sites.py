import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.pytorch_utils import Conv1D

from editgym.models.classifiers import ResNet20, SmallConvNet
from editgym.weights import EditSite, UnknownSiteError, discover_sites, editable_sites, find_sites
from editgym.weights.sites import layer_number, layer_of, writes_to_residual


@pytest.fixture
def model():
    return SmallConvNet(8)


def names(sites):
    return [site.name for site in sites]


@pytest.mark.parametrize(
    ("layer", "kind", "shape"),
    [
        (nn.Linear(7, 3), "linear", (3, 7)),
        (Conv1D(3, 7), "conv1d", (3, 7)),
        (nn.Conv2d(2, 3, (4, 5)), "conv2d", (3, 40)),
    ],
)
def test_site_sees_the_weight_as_out_by_in(layer, kind, shape):
    (site,) = editable_sites(nn.Sequential(layer))
    assert (site.kind, site.shape, site.parameter) == (kind, shape, "0.weight")


@pytest.mark.parametrize("layer", [nn.Linear(7, 3), Conv1D(3, 7), nn.Conv2d(2, 3, (4, 5))])
@pytest.mark.parametrize("lead", [(), (4,)])
def test_to_stored_inverts_to_matrix(layer, lead):
    (site,) = editable_sites(nn.Sequential(layer))
    stored = torch.randn(*lead, *site.stored_shape)
    assert site.to_matrix(stored).shape == (*lead, *site.shape)
    assert torch.equal(site.to_stored(site.to_matrix(stored)), stored)


def test_matrix_of_a_convolution_multiplies_unfolded_patches():
    layer = nn.Conv2d(2, 3, (2, 4), bias=False)
    (site,) = editable_sites(nn.Sequential(layer))
    images = torch.randn(5, 2, 6, 7)
    patches = nn.functional.unfold(images, (2, 4))
    torch.testing.assert_close(
        (site.to_matrix(layer.weight) @ patches).view(5, 3, 5, 4), layer(images)
    )


def test_matrix_of_a_conv1d_maps_inputs_to_outputs():
    layer, x = Conv1D(3, 7), torch.randn(5, 7)
    (site,) = editable_sites(nn.Sequential(layer))
    torch.testing.assert_close(x @ site.to_matrix(layer.weight).T + layer.bias, layer(x))


def test_model_that_is_itself_a_layer_has_a_site():
    model = nn.Linear(4, 3)
    (site,) = discover_sites(model)
    assert site.parameter in model.state_dict()


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["fc2"], ["fc2"]),
        (["fc3", "conv1"], ["fc3", "conv1"]),
        (["fc*"], ["fc1", "fc2", "fc3"]),
        (["conv?", "fc[13]"], ["conv1", "conv2", "fc1", "fc3"]),
        (["fc2", "fc*"], ["fc2", "fc1", "fc3"]),
    ],
)
def test_names_and_globs_find_sites_in_order_without_repeats(model, patterns, expected):
    assert names(find_sites(model, patterns)) == expected


def test_weights_that_are_computed_from_others_are_none_to_edit():
    model = nn.Sequential(nn.Linear(4, 6), nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)))
    assert [site.name for site in editable_sites(model)] == ["0"]
    with pytest.raises(UnknownSiteError):
        find_sites(model, ["1"])


def test_unknown_site_lists_the_nearest_with_their_shapes(model):
    with pytest.raises(UnknownSiteError, match=r"'fc22'.*5 editable.*fc2 \(32 . 128, linear\)"):
        find_sites(model, ["fc1", "fc22"])


@pytest.mark.parametrize("pattern", ["bn*", "", "fc2.weight"])
def test_pattern_that_matches_nothing_is_an_error(model, pattern):
    with pytest.raises(UnknownSiteError):
        find_sites(model, [pattern])


def test_no_patterns_at_all_is_an_error(model):
    with pytest.raises(UnknownSiteError, match="sites is empty"):
        find_sites(model, [])


@pytest.mark.parametrize("patterns", ["fc2", [3], ["fc2", None], {"fc2": 1}])
def test_what_is_no_list_of_strings_is_refused_with_what_to_write(model, patterns):
    with pytest.raises(UnknownSiteError, match="must be a list of names or globs, got"):
        find_sites(model, patterns)


def test_five_sites_are_near_enough_to_be_named():
    model = nn.ModuleDict({f"layer{number}": nn.Linear(2, 2) for number in range(7)})
    with pytest.raises(UnknownSiteError, match="7 editable weights") as error:
        find_sites(model, ["unlike"])
    assert str(error.value).count(", linear)") == 5


def llama():
    return LlamaForCausalLM(
        LlamaConfig(
            num_hidden_layers=6,
            hidden_size=16,
            intermediate_size=24,
            vocab_size=50,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )


def gpt2():
    return GPT2LMHeadModel(
        GPT2Config(
            n_layer=6,
            n_embd=16,
            n_head=2,
            vocab_size=50,
            n_positions=16,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def flat_mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (SmallConvNet, ["fc2"]),
        (ResNet20, [f"layer3.{block}.conv{i}" for block in range(3) for i in (1, 2)]),
        (llama, [f"model.layers.{layer}.mlp.down_proj" for layer in (3, 4)]),
        (gpt2, [f"transformer.h.{layer}.mlp.c_proj" for layer in (3, 4)]),
        (flat_mlp, ["1"]),
    ],
)
def test_discovered_sites_of_networks_never_seen_before(build, expected):
    assert names(discover_sites(build())) == expected


@pytest.mark.parametrize(
    ("n_layers", "expected"),
    [
        (2, [1]),
        (3, [1, 2]),
        (4, [2, 3]),
        (5, [2, 3, 4]),
        (7, [3, 4, 5]),
        (12, [6, 7, 8, 9]),
        (32, list(range(16, 27))),
    ],
)
def test_discovered_transformer_sites_lie_in_the_middle_to_late_layers(n_layers, expected):
    blocks = nn.ModuleList(
        nn.ModuleDict(
            {"mlp": nn.ModuleDict({"up_proj": nn.Linear(2, 2), "down_proj": nn.Linear(2, 2)})}
        )
        for _ in range(n_layers)
    )
    found = names(discover_sites(nn.ModuleDict({"layers": blocks})))
    assert found == [f"layers.{layer}.mlp.down_proj" for layer in expected]


def block(module, name="mlp", last="down_proj"):
    return nn.ModuleDict({name: nn.ModuleDict({last: module})})


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ([block(nn.Linear(2, 2))], "fc1"),  # one layer is no stack
        ([block(nn.Linear(2, 2), "attn", "o_proj")], "fc1"),
        ([block(nn.Conv2d(2, 2, 3)) for _ in range(2)], "fc1"),
        ([block(nn.Linear(2, 2), "adapter") for _ in range(2)], "fc1"),
        ([block(nn.Linear(2, 2), last="up_proj") for _ in range(2)], "fc1"),
        ([block(nn.Linear(2, 2)) for _ in range(2)], "h.1.mlp.down_proj"),
    ],
)
def test_only_a_stack_of_mlps_is_one(blocks, expected):
    model = nn.ModuleDict(
        {
            "h": nn.ModuleList(blocks),
            "mlp": nn.ModuleDict({"down_proj": nn.Linear(2, 2)}),  # in no layer
            "fc1": nn.Linear(2, 2),
            "fc3": nn.Linear(2, 2),
        }
    )
    assert names(discover_sites(model)) == [expected]


def test_the_last_hidden_layer_is_the_one_before_the_head():
    assert names(discover_sites(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))) == ["0"]


@pytest.mark.parametrize("kernel", [(3, 1), (1, 3)])
def test_a_convolutional_networks_last_stage_is_as_wide_as_its_last_convolution(kernel):
    convolutions = [nn.Conv2d(3, 8, kernel), nn.Conv2d(8, 4, kernel), nn.Conv2d(4, 4, kernel)]
    model = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(16, 2))
    assert names(discover_sites(model)) == ["1", "2"]


def test_a_kernel_of_two_by_two_is_larger_than_one_by_one():
    model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(16, 2))
    assert [site.name for site in discover_sites(model)] == ["0"]


def test_without_hidden_layers_and_larger_kernels_the_last_weight_is_left():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.Flatten(), nn.Linear(5, 2))
    assert [site.name for site in discover_sites(model)] == ["3"]


def test_network_without_weights_to_edit_is_an_error():
    with pytest.raises(UnknownSiteError, match="no Linear, Conv1D or Conv2d"):
        discover_sites(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()))


def test_sites_are_equal_by_value():
    assert (
        EditSite("a", "linear", (2, 3))
        == EditSite("a", "linear", (2, 3))
        != EditSite("b", "linear", (2, 3))
    )


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.4.mlp.down_proj", ("model.layers", 4, "model.layers.4")),
        ("h.11.moe.3.w2", ("h", 11, "h.11")),
        ("fc2", None),
        ("layers.7", None),
    ],
)
def test_a_layer_is_the_first_number_inside_a_name(name, layer):
    found = layer_of(name)
    assert found is None if layer is None else (found.stack, found.number, found.name) == layer
    assert layer_number(name) == (layer and layer[1])


@pytest.mark.parametrize(
    "name",
    [
        "down_proj",
        "c_proj",
        "fc_out",
        "fc2",
        "dense_4h_to_h",
        "wo",
        "w2",
        "o_proj",
        "out_proj",
        "dense",
    ],
)
def test_outputs_as_wide_as_the_model_are_added_to_the_residual_stream(name):
    site = EditSite(f"h.3.block.{name}", "linear", (16, 24))
    assert writes_to_residual(site, 16)
    assert not any(writes_to_residual(site, width) for width in (8, 24)), "another width"
    assert not writes_to_residual(EditSite(f"h.3.{name}.up_proj", "linear", (16, 24)), 16)
