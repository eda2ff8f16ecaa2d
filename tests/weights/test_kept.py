"""Activations are computed once for each row, and read from disk after that."""

import importlib
import sys
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from editgym.weights import (
    DenseUpdate,
    EditableNetwork,
    Keep,
    ReplaceTensors,
    Shift,
    SiteEdit,
    find_sites,
)
from editgym.weights.classifiers.behaviour import behaviour
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
    # Of what is read, some rows are computed again, to see whether they are the same.
    assert computing.rows[2:] == x[[1, 0, 3]].tolist()
    kept(x)  # the first one reads what the other has written
    assert computing.rows[5:] == x[[3, 2]].tolist()
    other(x)
    assert computing.rows[7:] == x[[2]].tolist()
    kept(x)
    other(x)
    assert len(computing.rows) == 8


def test_eight_rows_of_every_file_are_compared_as_they_are_asked_for(computing):
    x = torch.arange(90.0).view(30, 3)
    computing()(x[:20])
    computing()(x[20:])
    assert len(computing.rows) == 30
    later = computing()
    later(x[:1])
    later(x[:20])
    assert computing.rows[30:] == x[[0, 1, 3, 6, 9, 11, 14, 17]].tolist()
    later(x[:20])
    assert len(computing.rows) == 38
    later(x)
    assert computing.rows[38:] == x[[20, 21, 22, 23, 25, 26, 27, 28]].tolist()
    later(x)
    assert len(computing.rows) == 46


def test_code_that_makes_the_same_of_one_row_and_not_of_others_is_noticed(tmp_path):
    x = torch.arange(60.0).view(20, 3)
    KeptRows(tmp_path, lambda rows: (2 * rows,))(x)

    def other(rows):
        return (2 * rows + (rows[:, :1] > 30),)

    later = KeptRows(tmp_path, other)
    assert torch.equal(later(x)[0], other(x)[0])


def test_a_file_that_was_changed_is_computed_anew(computing, tmp_path):
    x = torch.arange(60.0).view(20, 3)
    computing()(x)
    (file,) = (tmp_path / "rows").iterdir()
    tensors = load_file(file)
    tensors["0"][13, 1] += 0.5
    save_file(tensors, file)
    assert torch.equal(computing()(x)[0], 2 * x)
    assert computing.rows[20:] == x.tolist()


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
    save_file({}, tmp_path / "rows" / "empty.safetensors")
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
    assert computing.rows == x.tolist(), "two are compared, three are new"


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
    later.logits(ids)  # compares some rows
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
    later.activations(ids)
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


class Tempered(Masked):
    """A classifier whose attribute no `repr` shows, and whose weights are another's."""

    def __init__(self, model, **settings):
        super().__init__(model)
        self.settings = SimpleNamespace(**settings)

    def forward(self, ids):
        return self.model(
            inputs_embeds=self.settings.factor * self.model.bert.embeddings.word_embeddings(ids),
            attention_mask=(ids != PAD).long(),
        )


def test_networks_that_differ_in_an_attribute_alone_share_nothing(network, ids, tmp_path):
    for count, factor in ((1, 1.0), (2, 1.0 + 1e-9), (2, 1.0), (3, 3.0)):
        tempered = Tempered(bert().model, factor=factor, names={"a", "b", "c"}).eval()
        network(model=tempered).activations(ids)
        assert len(list((tmp_path / "features").iterdir())) == count


# --- what else than tensors decides how a network computes ----------------------------------------


class Held(torch.nn.Module):
    def __init__(self, **given):
        super().__init__()
        self.inner = torch.nn.Linear(2, 2)
        for name, value in given.items():
            setattr(self, name, value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": [1, (2,)]}, {"a": [1, (3,)]}),
        ({"a": {"b": None}}, {"a": {"b": False}}),
        ({"a": {1, 2}}, {"a": {1, 3}}),
        ({"a": SimpleNamespace(b=1)}, {"a": SimpleNamespace(b=2)}),
        ({"a": torch.relu}, {"a": torch.tanh}),
        ({"a": [torch.ones(2)]}, {"a": [torch.zeros(2)]}),
        ({}, {"a": 1}),
    ],
)
def test_attributes_tell_networks_apart(one, other):
    assert behaviour(Held(**one)) == behaviour(Held(**one))
    assert behaviour(Held(**one)) != behaviour(Held(**other))


def test_weights_hooks_and_addresses_do_not():
    one, other = Held(a=object()), Held(a=object())
    other.inner.register_forward_hook(lambda *_: None)
    assert behaviour(one) == behaviour(other)
    assert behaviour(one) != behaviour(one.eval()) == behaviour(other.eval())


def test_the_code_of_a_module_tells_networks_apart(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    seen = set()
    for body in ("return x", "return 2 * x"):
        source = f"from torch import nn\nclass Own(nn.Module):\n    def forward(self, x): {body}\n"
        (tmp_path / "own_code.py").write_text(source)
        sys.modules.pop("own_code", None)
        importlib.invalidate_caches()
        seen.add(behaviour(importlib.import_module("own_code").Own()))
    sys.modules.pop("own_code", None)
    assert len(seen) == 2


@pytest.mark.parametrize("before", [0, 3])
def test_no_rows_are_no_rows(computing, before):
    kept = computing()
    kept(torch.arange(3.0 * before).view(before, 3))
    double, total = kept(torch.zeros(0, 3))
    assert (double.shape, total.shape, total.dtype) == ((0, 3), (0,), torch.int32)


def test_rows_of_many_files_are_joined_once(computing, monkeypatch):
    monkeypatch.setattr("editgym.weights.classifiers.kept._PER_FILE", 2)
    x, joined, cat = torch.arange(60.0).view(20, 3), [], torch.cat
    computing()(x)
    monkeypatch.setattr(torch, "cat", lambda parts, *args: joined.append(parts) or cat(parts))
    later = computing()
    assert torch.equal(later(x)[0], 2 * x)
    assert [len(parts) for parts in joined] == [10, 10]
