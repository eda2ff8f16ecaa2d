"""Many families of classifiers of `transformers` are cut below their head and in their middle."""

import pytest
import torch
import transformers
from torch.func import functional_call

from editgym.weights import EditableNetwork, find_sites

LAYERS = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_labels": 3,
}
IDS = {"vocab_size": 60, "pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 2}
TEXT = LAYERS | IDS | {"max_position_embeddings": 32}
IMAGE = LAYERS | {"image_size": 16, "patch_size": 4}
SPECIAL = {"cls_token_id": 2, "sep_token_id": 2}
WINDOWS = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2]}
DISTIL = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 32}
# Family, its configuration, its head, and a site in the middle.
IMAGES = [
    ("DeiT", IMAGE, "classifier", "*.layers.1.mlp.fc2"),
    ("Beit", IMAGE, "classifier", "beit.layers.1.mlp.fc2"),
    ("Dinov2", IMAGE, "classifier", "dinov2.encoder.layer.1.mlp.fc2"),
    ("Swin", WINDOWS | {"window_size": 4, "num_labels": 3}, "classifier", "*.blocks.1.mlp.fc2"),
    ("MobileNetV2", {"image_size": 32, "num_labels": 3}, "classifier", "mobilenet_v2.conv_1x1.*"),
    (
        "RegNet",
        {
            "embedding_size": 4,
            "hidden_sizes": [4, 8],
            "depths": [1, 1],
            "groups_width": 4,
            "num_labels": 3,
        },
        "classifier.1",
        "*.stages.1.layers.0.layer.0.convolution",
    ),
]
TEXTS = [
    ("Roberta", TEXT, "classifier.out_proj", "roberta.encoder.layer.1.output.dense"),
    ("DistilBert", IDS | DISTIL | {"num_labels": 3}, "classifier", "*.layer.1.ffn.lin2"),
    ("Albert", TEXT | {"embedding_size": 8}, "classifier", "albert.pooler"),
    ("Electra", TEXT | {"embedding_size": 8}, "classifier.out_proj", "*.layer.1.output.dense"),
    (
        "DebertaV2",
        TEXT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        "classifier",
        "deberta.encoder.layer.1.output.dense",
    ),
    ("ModernBert", TEXT | SPECIAL, "classifier", "model.layers.1.mlp.Wo"),
    ("Llama", TEXT, "score", "model.layers.1.mlp.down_proj"),
    ("MPNet", TEXT, "classifier.out_proj", "mpnet.encoder.layer.1.output.dense"),
]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["head", "middle"])
@pytest.mark.parametrize("row", [*IMAGES, *TEXTS], ids=lambda row: row[0])
@pytest.mark.filterwarnings("error:.*every evaluation runs the whole network")
def test_candidates_equal_whole_passes(row, place):
    family, shape, head, middle = row
    kind = "Image" if row in IMAGES else "Sequence"
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**shape)
    model = getattr(transformers, f"{family}For{kind}Classification")(config).eval()
    size = shape.get("image_size", 32)
    x = torch.randn(7, 3, size, size) if kind == "Image" else torch.randint(3, 60, (7, 9))
    sites = find_sites(model, [head if place == "head" else middle])
    network = EditableNetwork(model, sites, x)
    assert network.reuses_prefix
    weights = [weight + 0.1 * torch.randn(2, *weight.shape) for weight in network.base_weights]
    rows = torch.randint(7, (2, 5))
    found = network.map_candidates(lambda logits, _: logits, weights, network.activations(x), rows)
    for i in range(2):
        stored = {
            site.parameter: site.to_stored(weight[i])
            for site, weight in zip(sites, weights, strict=True)
        }
        with torch.no_grad():
            whole = functional_call(model, stored, (x[rows[i]],)).logits
        torch.testing.assert_close(found[i], whole, atol=1e-4, rtol=1e-4)
