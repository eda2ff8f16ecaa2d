"""Unlearning by steps along gradients: each algorithm does what its paper says, on cases with a
known answer."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agents.unlearning.agent import ALGORITHMS
from agents.unlearning.descent import Sets, divergence, opened, saliency_masks
from agents.unlearning.settings import DEFAULTS
from editgym.data.images import Labelled
from editgym.tasks import make_task

QUICK = {"epochs": 2, "learning_rate": 0.01, "momentum": 0.9, "batch_size": 16}


@pytest.fixture
def small():
    """A small trained network and three classes of points, the last of which is to be forgotten."""
    points = torch.randn(90, 4) + 2 * F.one_hot(torch.arange(90) % 3, 4)
    labels = torch.arange(90) % 3
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    everything = Labelled(points, labels)
    ALGORITHMS["fine_tune"](model, Sets(everything, everything, 3, seed=0), {**QUICK, "epochs": 30})
    return model, Sets(
        Labelled(points[labels < 2], labels[labels < 2]),
        Labelled(points[labels == 2], labels[labels == 2]),
        3,
        seed=0,
    )


def ran(name, small, **settings):
    model, sets = small
    model = copy.deepcopy(model)
    ALGORITHMS[name](model, sets, {**DEFAULTS[name], **QUICK, **settings})
    return model


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def loss(model, data):
    return F.cross_entropy(model(data.inputs), data.labels).item()


def test_gradient_ascent_takes_a_step_up_the_loss_of_the_forgotten(small):
    model, sets = small
    gradients = torch.autograd.grad(
        F.cross_entropy(model(sets.forget.inputs), sets.forget.labels), model.parameters()
    )
    expected = weights(model) + 0.01 * torch.cat([gradient.flatten() for gradient in gradients])
    after = ran("gradient_ascent", small, epochs=1, batch_size=len(sets.forget))
    assert torch.allclose(weights(after), expected, atol=1e-7)
    assert loss(after, sets.forget) > loss(model, sets.forget)


def test_neggrad_plus_at_beta_1_is_fine_tuning(small):
    assert torch.equal(
        weights(ran("neggrad_plus", small, beta=1.0)), weights(ran("fine_tune", small))
    )
    assert not torch.equal(
        weights(ran("neggrad_plus", small, beta=0.9)), weights(ran("fine_tune", small))
    )


def test_neggrad_plus_at_beta_0_is_ascent_on_other_numbers_of_steps(small):
    model, sets = small
    after = ran("neggrad_plus", small, beta=0.0)
    assert loss(after, sets.forget) > loss(model, sets.forget)


def test_random_labels_are_wrong_all_over_and_the_same_for_a_seed(small, labelled):
    _, sets = small
    many = Sets(sets.retain, labelled([[0.0]] * 400, [3] * 400), 10, seed=1)
    drawn = many.mislabelled().labels
    assert drawn.unique().tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert torch.equal(drawn, many.mislabelled().labels)


@pytest.mark.parametrize("retain_weight", [0.0, 1.0])
def test_random_labels_make_the_forgotten_class_unlikely(small, retain_weight):
    model, sets = small
    after = ran("random_labels", small, retain_weight=retain_weight, epochs=30)
    assert loss(after, sets.forget) > loss(model, sets.forget) + 1


def test_salun_leaves_the_weights_outside_its_mask_bitwise_alone(small):
    model, sets = small
    masks = saliency_masks(model, sets.forget, 0.5)
    mask = torch.cat([own.flatten() for own in masks.values()]).bool()
    assert mask.sum() == round(0.5 * len(mask))
    before, after = weights(model), weights(ran("salun", small, share=0.5))
    assert torch.equal(before[~mask], after[~mask])
    assert (before[mask] != after[mask]).float().mean() > 0.9


def test_saliency_is_the_gradient_of_all_forgotten_data_however_it_is_batched(small):
    model, sets = small
    gradients = torch.autograd.grad(
        F.cross_entropy(model(sets.forget.inputs), sets.forget.labels), model.parameters()
    )
    saliency = torch.cat([gradient.abs().flatten() for gradient in gradients])
    masks = saliency_masks(model, sets.forget, 0.25, size=7)
    mask = torch.cat([own.flatten() for own in masks.values()]).bool()
    assert saliency[mask].min() >= saliency[~mask].max()


def test_salun_of_all_weights_is_random_labels(small):
    assert torch.equal(
        weights(ran("salun", small, share=1.0)), weights(ran("random_labels", small))
    )


def test_divergence_by_hand(labelled):
    teacher = nn.Linear(1, 2, bias=False)
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        teacher.weight.copy_(torch.tensor([[0.0], [0.0]]))  # p = (1/2, 1/2)
        student.weight.copy_(torch.tensor([[0.0], [3.0]]).log1p())  # q = (1/5, 4/5)
    batch = labelled([[1.0], [1.0]], [0, 1])
    expected = 0.5 * torch.log(torch.tensor(0.5 / 0.2)) + 0.5 * torch.log(torch.tensor(0.5 / 0.8))
    assert divergence(teacher, student, batch).item() == pytest.approx(expected.item(), abs=1e-6)
    assert divergence(teacher, teacher, batch).item() == 0


def test_scrub_without_teacher_is_fine_tuning(small):
    alone = ran("scrub", small, ascent_epochs=0, alpha=0.0, gamma=1.0)
    assert torch.equal(weights(alone), weights(ran("fine_tune", small)))


def test_scrub_moves_away_from_its_teacher_on_forgotten_data_and_stays_near_on_the_rest(small):
    model, sets = small
    # The divergence has no slope at the teacher itself: it takes the cross-entropy to leave it.
    assert torch.equal(weights(ran("scrub", small, ascent_epochs=2, gamma=0.0)), weights(model))
    settings = {"epochs": 10, "gamma": 1.0}
    after, kept = (ran("scrub", small, ascent_epochs=epochs, **settings) for epochs in (10, 0))
    far = divergence(model, after, sets.forget).item()
    assert far > 2 * divergence(model, kept, sets.forget).item()
    assert far > 2 * divergence(model, after, sets.retain).item()


def test_a_share_of_nothing_is_refused(labelled):
    with pytest.raises(ValueError, match="share must be greater than 0"):
        saliency_masks(nn.Linear(2, 2), labelled([[0.0, 0.0]], [0]), 0.0)


def test_all_weights_and_sites_are_opened():
    task = make_task("unlearning/digits")
    model = task.networks[0].merged()
    assert len(opened(model)) == len(list(model.parameters()))
