"""Activations are computed once for each row, and read from disk after that."""

import pytest
import torch
import transformers

from editgym.weights import (
    DenseUpdate,
    EditableNetwork,
    Keep,
    ReplaceTensors,
    Shift,
    SiteEdit,
    find_sites,
)
from editgym.weights.classifiers.kept import KeptRows

PAD = 1


@pytest.fixture
def computing(tmp_path):
    """`computing()`: the keeper of a function in one folder, as another process would make it; the
    rows that were computed are in `computing.rows`."""

    def make(factor=2.0, **options):
        def compute(inputs):
            make.rows += inputs.tolist()
            return factor * inputs, inputs.sum(1).int()

        return KeptRows(tmp_path / "rows", compute, **options)

    make.rows = []
    return make


def test_each_row_is_computed_once_whatever_the_order_and_the_process(computing):
    x = torch.arange(12.0).view(4, 3)
    kept = computing()
    double, total = kept(x[[0, 1, 1]])
    assert torch.equal(double, 2 * x[[0, 1, 1]])
    assert total.tolist() == [3, 12, 12]
    assert computing.rows == x[:2].tolist()
    kept(x[[1, 0]])
    assert len(computing.rows) == 2
    other = computing()
    found = other(x[[3, 1, 0]])
    assert torch.equal(found[0], 2 * x[[3, 1, 0]])
    assert found[1].dtype == torch.int32
    # Of what is read, one row is computed again, to see whether it is the same.
    assert computing.rows[2:] == x[[1, 3]].tolist()
    kept(x)  # the first one reads what the other has written
    assert computing.rows[4:] == x[[3, 2]].tolist()
    other(x)
    assert computing.rows[6:] == x[[2]].tolist()
    kept(x)
    other(x)
    assert len(computing.rows) == 7


def test_rows_of_other_code_are_computed_anew(computing, tmp_path):
    x = torch.arange(12.0).view(4, 3)
    computing()(x[:2])
    double, _ = computing(factor=3.0)(x)
    assert torch.equal(double, 3 * x)
    assert torch.equal(computing(factor=3.0)(x)[0], 3 * x)
    assert len(list((tmp_path / "rows").iterdir())) == 1


@pytest.mark.parametrize("contents", [b"", b"not safetensors"])
def test_a_file_that_nobody_wrote_whole_is_passed_over(computing, tmp_path, contents):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "other.safetensors").write_bytes(contents)
    x = torch.arange(6.0).view(2, 3)
    assert torch.equal(computing()(x)[0], 2 * x)


def test_an_interrupted_computation_leaves_whole_files(computing, tmp_path, monkeypatch):
    monkeypatch.setattr("editgym.weights.classifiers.kept._PER_FILE", 2)
    monkeypatch.setattr("editgym.weights.classifiers.kept._TOGETHER", 1)
    x, kept = torch.arange(15.0).view(5, 3), computing()
    compute = kept._compute

    def interrupted(inputs):
        if inputs[0, 0] == 9:
            raise KeyboardInterrupt
        return compute(inputs)

    kept._compute = interrupted
    with pytest.raises(KeyboardInterrupt):
        kept(x)
    assert [file.suffix for file in (tmp_path / "rows").iterdir()] == [".safetensors"]
    computing.rows.clear()
    assert torch.equal(computing()(x)[0], 2 * x)
    assert computing.rows == [x[0].tolist(), *x[2:].tolist()]


def test_padding_is_cut_off_where_lengths_are_given(computing):
    x = torch.tensor([[5, 1, 1, 1], [5, 6, 7, 1], [8, 1, 1, 1], [9, 6, 1, 1]])
    seen = []

    def compute(inputs):
        seen.append(inputs.tolist())
        return (inputs[:, :1],)

    kept = KeptRows(computing()._folder, compute, lambda ids: (ids != PAD).sum(1))
    assert kept(x)[0].flatten().tolist() == [5, 5, 8, 9]
    assert seen == [[[5, 1, 1], [8, 1, 1], [9, 6, 1], [5, 6, 7]]], "the shortest come first"


def test_a_folder_that_cannot_be_written_to_is_an_error(computing, tmp_path):
    (tmp_path / "rows").write_text("a file")
    with pytest.raises(ValueError, match="EDITGYM_CACHE: cannot keep features in"):
        computing()(torch.zeros(1, 3))


# --- a network whose activations are kept ---------------------------------------------------------


def bert(seed=0):
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=16,
        pad_token_id=PAD,
        initializer_range=0.5,
    )
    return Masked(transformers.BertForSequenceClassification(config)).eval()


class Masked(torch.nn.Module):
    """A classifier that does not look at padding."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(ids, attention_mask=(ids != PAD).long())


@pytest.fixture
def ids():
    """Texts of two to nine tokens, padded to ten."""
    found = torch.randint(3, 40, (20, 10))
    found[torch.arange(10) >= torch.randint(2, 10, (20, 1))] = PAD
    return found


@pytest.fixture
def network(tmp_path, ids):
    """`network(sites, model)`: one that keeps its activations in one folder."""

    def make(sites=("model.classifier",), model=None):
        model = model or bert()
        keep = Keep(tmp_path / "features", lambda rows: (rows != PAD).sum(1))
        return EditableNetwork(model, find_sites(model, sites), ids[:8], keep)

    return make


def without_encoder(network):
    """The network, whose encoder must not be called any more."""
    network.base.model.bert.encoder.register_forward_pre_hook(lambda *_: pytest.fail("called"))
    return network


def test_logits_and_rewards_come_from_what_is_kept(network, ids):
    first = network()
    expected = EditableNetwork(bert(), first.sites, ids[:8]).logits(ids)
    torch.testing.assert_close(first.logits(ids), expected, atol=1e-5, rtol=1e-5)
    later = network()
    later.logits(ids[:1])  # compares one row
    without_encoder(later)
    torch.testing.assert_close(later.logits(ids), expected, atol=1e-5, rtol=1e-5)
    (seen,) = later.activations(ids)
    assert torch.equal(later.inputs_to("model.classifier", ids), seen)
    logits = later.candidate_logits([later.base_weights[0].unsqueeze(0)], [seen])[0]
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_edits_above_the_cut_need_no_pass_and_others_make_one(network, ids):
    edited = network()
    update = DenseUpdate(torch.full((2, 8), 0.3), bound=1.0)
    entries = (
        SiteEdit("model.classifier", Shift(1.0), update),
        ReplaceTensors({"model.classifier.bias": torch.tensor([3.0, -1.0])}),
        ReplaceTensors({"model.bert.pooler.dense.bias": torch.full((8,), 0.5)}),
    )
    for entry in entries:
        edited.apply(entry)
        with torch.no_grad():
            whole = edited.merged()(ids)
        torch.testing.assert_close(edited.logits(ids), whole, atol=1e-5, rtol=1e-5)
    edited.undo()
    edited.logits(ids)
    without_encoder(edited).logits(ids)


def test_networks_that_differ_above_the_cut_alone_keep_rows_together(network, ids, tmp_path):
    network().activations(ids)
    other = bert()
    with torch.no_grad():
        other.model.classifier.weight.add_(1.0)
    later = network(model=other)
    later.activations(ids[:1])
    without_encoder(later).activations(ids)
    assert len(list((tmp_path / "features").iterdir())) == 1
    with torch.no_grad():
        other.model.bert.pooler.dense.weight.add_(1.0)
    network(model=other).activations(ids)
    assert len(list((tmp_path / "features").iterdir())) == 2


def test_padding_stays_where_what_is_kept_has_the_length_of_the_texts(network, ids):
    inner = network(["model.bert.encoder.layer.1.output.dense"])
    seen = inner.activations(ids)
    assert [one.shape[1] for one in seen] == [10] * len(seen)
    with torch.no_grad():
        torch.testing.assert_close(inner.logits(ids), inner.base(ids), atol=1e-5, rtol=1e-5)


def test_what_is_many_numbers_is_not_kept(network, ids, tmp_path, monkeypatch):
    monkeypatch.setattr("editgym.weights.classifiers.network._MOST_KEPT", 7)
    network().activations(ids)
    assert not (tmp_path / "features").exists()


def test_networks_that_are_traced_keep_nothing(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    x = torch.randn(6, 4)
    EditableNetwork(model, find_sites(model, ["1"]), x, Keep(tmp_path / "features")).logits(x)
    assert not (tmp_path / "features").exists()
