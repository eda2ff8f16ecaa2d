"""Parts of the stream's reward, by hand."""

from types import SimpleNamespace

import pytest
import torch

from editgym.envs.lifelong import reward, terms
from editgym.envs.lifelong.reward import (
    LookBack,
    RewardWeights,
    floored,
    squared_norm,
    squared_norms,
)
from editgym.envs.lifelong.rewarded import Judged
from editgym.envs.lifelong.terms import Term
from editgym.weights import (
    Codebook,
    DenseUpdate,
    LowRankFactors,
    Mask,
    Shift,
    SiteEdit,
    TokenBatch,
)
from editgym.weights.language.layers import Prefix


def test_rewards_that_are_no_numbers_or_below_the_floor_are_the_floor():
    nan, infinite = float("nan"), float("inf")
    rewards = torch.tensor([-2.5, nan, infinite, -infinite, -2e6])
    assert floored(rewards).tolist() == [-2.5, *[-1_000_000] * 4]


def test_weights_of_the_terms_are_rledits_unless_given():
    weights = RewardWeights()
    assert (weights.back_depth, weights.decay) == (10, 0.95)
    assert (weights.locality_weight, weights.norm_weight) == (0.6, 1e-4)
    assert (weights.reference, weights.micro_batch) == ("original", 512)


@pytest.mark.parametrize("record", [RewardWeights, reward.Costs, Judged, Term])
def test_records_cannot_be_changed(record):
    assert record.__dataclass_params__.frozen


@pytest.mark.parametrize("lead", [(), (3,)])
def test_squared_norms_are_those_of_the_products(lead):
    torch.manual_seed(0)
    updates = [
        LowRankFactors(torch.randn(*lead, 4, 2), torch.randn(*lead, 2, 5), scale=scale)
        for scale in (1.0, 3.0)
    ]
    expected = torch.stack([update.matrix().square().sum((-2, -1)) for update in updates])
    torch.testing.assert_close(squared_norms(updates), expected)
    assert squared_norms(updates).shape == (2, *lead)


def test_squared_norm_of_an_entry_by_hand():
    a, b = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0, 0.0, 3.0]])  # 1 0 3, 2 0 6
    assert squared_norm(SiteEdit("site", Shift(), LowRankFactors(a, b))) == pytest.approx(50)
    scaled = LowRankFactors(a, b, scale=2.0)
    assert squared_norm(SiteEdit("site", Shift(0.5), scaled)) == pytest.approx(50)
    clipped = LowRankFactors(a, b, bound=2.0)  # 1 0 2, 2 0 2
    assert squared_norm(SiteEdit("site", Shift(3.0), clipped)) == pytest.approx(9 * 13)
    dense = DenseUpdate(torch.tensor([[1.0, -2.0]]))
    assert squared_norm(SiteEdit("site", Shift(2.0), dense)) == pytest.approx(4 * 5)
    assert squared_norm(SiteEdit("site", Mask(), LowRankFactors(a, b))) == 0
    code = Codebook("site", torch.ones(1, 3), torch.ones(1, 2), torch.ones(1))
    assert squared_norm(code) == 0


@pytest.mark.parametrize(
    ("sizes", "limit", "expected"),
    [
        ([2, 3, 4, 1], 5, [[2, 3], [4, 1]]),
        ([2, 3, 4, 1], 4, [[2], [3], [4], [1]]),
        ([2, 3, 4, 1], 100, [[2, 3, 4, 1]]),
        ([9, 1, 9], 2, [[9], [1], [9]]),  # one text more than the limit still goes
        ([1, 1, 1], 2, [[1, 1], [1]]),
        ([], 2, []),
    ],
)
def test_as_many_texts_go_together_as_the_limit_allows(sizes, limit, expected):
    pieces = [piece(TokenBatch.of([([1], [2])] * size)) for size in sizes]
    groups = terms.grouped(pieces, limit)
    assert [[len(piece.texts) for piece in group] for group in groups] == expected


# --- looking back, on a model that answers as it is told ------------------------------------------


def texts(*pairs):
    return TokenBatch.of([([7] * prompt, [label]) for prompt, label in pairs])


def piece(batch, *, weight=1.0, reference=None, newest=False, prefix=None):
    return terms.Term(batch, prefix, weight, reference, newest)


class Tells:
    """A decoder whose logits favour label 1, at every answer token; it counts its passes."""

    def __init__(self, candidates=None):
        self.passes, self.candidates = [], candidates

    def logits(self, batch, updates=None, prefix=None):
        self.passes.append((len(batch), prefix))
        logits = torch.tensor([0.0, 3.0, 0.0]).expand(len(batch.labels), 3)
        return logits if self.candidates is None else logits.expand(self.candidates, -1, -1)


def looking_back(**weights):
    return LookBack(SimpleNamespace(device="cpu"), RewardWeights(**weights))


def test_shares_are_of_the_newest_texts_alone():
    newest, older = texts((1, 1), (2, 1), (1, 0), (3, 1)), texts((1, 0), (1, 0))
    same = torch.tensor([0.0, 3.0, 0.0]).log_softmax(-1).expand(4, 3)
    pieces = [
        piece(newest, newest=True),
        piece(newest, weight=0.6, reference=same, newest=True),
        piece(older, weight=0.5),
        piece(older, weight=0.3, reference=same[:2]),
    ]
    decoder = Tells()
    costs = looking_back(micro_batch=6).costs(decoder, pieces)
    likely, unlikely = (-same[0, label].item() for label in (1, 0))
    expected = (3 * likely + unlikely) / 4 + 0.5 * unlikely
    assert costs.total.item() == pytest.approx(expected, rel=1e-5)
    assert (costs.generalization, costs.locality) == (0.75, 0.75)
    assert [count for count, _ in decoder.passes] == [4, 6, 2], "and none for the locality"


@pytest.mark.parametrize("weight", [0.0, 0.6])
def test_shares_of_candidates_are_not_told(weight):
    batch, decoder = texts((1, 1)), Tells(candidates=5)
    look = looking_back(locality_weight=weight)
    look._judged.append(Judged(batch, None, batch, None, None))
    costs = look.costs(decoder, [piece(batch, newest=True)])
    assert (costs.generalization, costs.locality) == (0.0, 0.0)
    assert costs.total.shape == (5,)
    assert len(decoder.passes) == 1


@pytest.mark.parametrize("local", [False, True])
def test_locality_without_a_weight_has_a_pass_of_its_own(local):
    batch, decoder = texts((1, 1), (1, 0)), Tells()
    look = looking_back(locality_weight=0.0)
    look._judged.append(Judged(batch, None, batch if local else None, None, None))
    costs = look.costs(decoder, [piece(batch, newest=True)])
    assert costs.locality == (0.5 if local else 0.0)
    assert len(decoder.passes) == 1 + local


def judged(reference=None, local=True):
    batch = texts((1, 1))
    prefix = Prefix(torch.zeros(1, 2, 4), 1)
    return Judged(batch, prefix, batch if local else None, prefix, reference)


def test_pieces_are_weighed_by_their_age():
    reference = torch.zeros(1, 3)
    look, decoder = looking_back(decay=0.5, locality_weight=0.6, back_depth=2), Tells()
    for one in (judged(reference), judged(reference, local=False), judged(reference)):
        look._judged.append(one)
    pieces = look.pieces(decoder)
    assert [(one.weight, one.newest, one.reference is reference) for one in pieces] == [
        (1.0, True, False),
        (0.6, True, True),
        (0.5, False, False),
        (0.25, False, False),
        (pytest.approx(0.15), False, True),
    ]
    assert all(one.prefix is not None for one in pieces)
    assert not decoder.passes


def test_the_model_before_the_step_is_asked_where_it_is_the_reference():
    look, decoder = looking_back(reference="previous"), Tells()
    one = judged()
    look._judged.append(one)
    _, local = look.pieces(decoder)
    assert local.reference.exp().sum(-1).tolist() == pytest.approx([1.0])
    assert decoder.passes == [(1, one.locality_prefix)]
    assert [one.reference for one in looking_back(locality_weight=0.0).pieces(decoder)] == []
    look.weights = RewardWeights(reference="previous", locality_weight=0.0)
    assert len(look.pieces(decoder)) == 1


def test_as_many_batches_are_looked_back_to_as_asked():
    assert [looking_back(back_depth=depth)._judged.maxlen for depth in (0, 3)] == [1, 4]


def test_prefixes_go_with_their_texts():
    batch = texts((1, 1))
    one, other = Prefix(torch.zeros(1, 2, 4), 1), Prefix(torch.ones(1, 3, 4), 1)
    joined = terms.joined([piece(batch, prefix=one), piece(batch, prefix=other)])
    assert joined.activations.shape == (2, 3, 4)
    assert joined.activations[1].all()
    assert terms.joined([piece(batch), piece(batch)]) is None


def test_long_terms_are_cut_into_texts_of_about_one_length(monkeypatch):
    batch = TokenBatch.of([([1] * size, [2]) for size in (2, 9, 3, 8, 2)])
    whole = [piece(batch, weight=0.5), piece(batch, weight=2.0)]
    monkeypatch.setattr(terms, "_TOKENS_AT_ONCE", 24)
    groups = terms.grouped(whole, 3)
    sizes = [[length for term in group for length in term.texts.lengths] for group in groups]
    assert sorted(size for own in sizes for size in own) == [3, 3, 3, 3, 4, 4, 9, 9, 10, 10]
    assert all(max(own) * len(own) <= 24 and len(own) <= 3 for own in sizes)
    assert [own for own in sizes if 10 in own] == [[10, 10]]
    assert sum(term.share for group in groups for term in group) == pytest.approx(2)
    assert len(terms.grouped(whole[:1], 10)) == 2


def test_parts_of_a_term_cost_what_the_term_costs():
    torch.manual_seed(1)
    batch = TokenBatch.of([([1, 1], [2, 3]), ([1], [2]), ([1, 1, 1], [4, 3, 2])])
    reference, logits = torch.randn(6, 5).log_softmax(-1), torch.randn(6, 5)
    for term in (piece(batch, weight=2.0), piece(batch, weight=2.0, reference=reference)):
        parts = [(rows, term.part(rows)) for rows in ([2, 0], [1])]
        costs = [float(part.cost(logits[batch.tokens(rows)])) for rows, part in parts]
        assert sum(costs) == pytest.approx(float(term.cost(logits)))
        assert [part.share for _, part in parts] == pytest.approx([2 / 3, 1 / 3])
        assert term.part([0, 1, 2]) is term
