"""Attacks on forgetting: against cases with a known answer, and the same on every run."""

import numpy as np
import pytest
import torch
from torch import nn

from editgym.data.images import Labelled
from editgym.metrics import attacks
from editgym.metrics.attacks import Target
from editgym.metrics.recovery import scales
from editgym.tasks import make_task
from editgym.tasks.unlearning import task as unlearning_task
from editgym.weights import ReplaceTensors


def samples(rows, labels):
    """Samples that a network that passes its inputs on gives these logits."""
    return Labelled(torch.tensor(rows, dtype=torch.float32), torch.tensor(labels))


def target(forget, retain, **changes):
    """A target whose class is 1."""
    parts = {
        "forget": forget,
        "retain": retain,
        "classes": (1,),
        "images": forget,
        "members": None,
        "others": retain,
    }
    return Target(**(parts | changes))


class Linear(nn.Sequential):
    """A network of two layers whose weights are the identity."""

    def __init__(self, size=3):
        super().__init__(nn.Linear(size, size), nn.Linear(size, size))
        with torch.no_grad():
            for layer in self:
                layer.weight.copy_(torch.eye(size))
                layer.bias.zero_()


# --- membership -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "others", "signed", "tpr"),
    [
        ([[9.0, 0], [8.0, 0]], [[1.0, 0], [2.0, 0]], 1.0, 1.0),
        ([[1.0, 0], [2.0, 0]], [[9.0, 0], [8.0, 0]], -1.0, 0.0),  # it stands out the other way
        ([[9.0, 0], [1.0, 0]], [[5.0, 0], [5.0, 0]], 0.0, 0.5),  # half of them beyond doubt
        ([[1.0, 0], [3.0, 0]], [[1.0, 0], [3.0, 0]], 0.0, 0.0),
    ],
)
def test_membership_by_hand(members, others, signed, tpr):
    attacked = target(
        samples(others, [0, 0]),
        samples(others, [0, 0]),
        members=samples(members, [0, 0]),
        others=samples(others, [0, 0]),
    )
    assert attacks.membership(nn.Identity(), attacked) == pytest.approx((signed, tpr))


def test_one_percent_of_false_positives_may_pass():
    """Of 200 others two are surer than every member."""
    others = samples([[float(i), 0.0] for i in range(200)], [0] * 200)
    members = samples([[197.5, 0.0], [196.5, 0.0]], [0, 0])
    attacked = target(others, others, members=members, others=others)
    assert attacks.membership(nn.Identity(), attacked)[1] == 0.5


def test_no_members_are_known():
    attacked = target(samples([[0.0, 1]], [1]), samples([[1.0, 0]], [0]))
    assert attacks.membership(nn.Identity(), attacked) == (None, None)


# --- the constant on a logit ----------------------------------------------------------------------


def test_a_constant_brings_a_hidden_class_back():
    """The class's logit is 20 lower than it was, and orders images as before."""
    forget = samples([[0.0, -11, 1], [2.0, -8, 0]], [1, 1])
    retain = samples([[9.0, -19, 0], [0.0, -15, 3]], [0, 2])
    assert attacks.logit_attack(nn.Identity(), target(forget, retain)) == (1.0, 1.0)


def test_logit_attack_by_hand():
    """Leads over the others' best are 2 and 0 for the class, 1 and -1 for the rest: three of four
    pairs are in order, and the best constant errs on one image of four."""
    forget = samples([[0.0, 2, 0], [0.0, 0, 0]], [1, 1])
    retain = samples([[0.0, 1, -5], [1.0, 0, 1]], [0, 2])
    auc, best = attacks.logit_attack(nn.Identity(), target(forget, retain))
    assert (auc, best) == (pytest.approx(0.5), pytest.approx(0.75))


def test_of_several_classes_it_is_the_mean_and_none_hides_behind_another():
    """Class 2 is forgotten too: its logit is none of those to exceed."""
    forget = samples([[0.0, 1, 9], [0.0, 9, -3]], [1, 2])
    retain = samples([[0.0, 0, 0], [0.0, 0, -1]], [0, 0])
    attacked = target(forget, retain, classes=(1, 2))
    # Class 1 is above both others, class 2 below both.
    assert attacks.logit_attack(nn.Identity(), attacked) == (0.0, pytest.approx(0.75))


def test_a_class_without_images_counts_for_nothing():
    forget = samples([[0.0, 1, 9], [0.0, 9, -3]], [1, 1])
    retain = samples([[0.0, 0, 0], [0.0, 0, -1]], [0, 0])
    alone = attacks.logit_attack(nn.Identity(), target(forget, retain, classes=(1, 2)))
    assert alone == (1.0, 1.0)
    assert attacks.logit_attack(nn.Identity(), target(forget, retain, classes=(2,))) == (None, None)


def test_no_constant_where_samples_are_forgotten():
    attacked = target(samples([[0.0, 1]], [1]), samples([[1.0, 0]], [0]), classes=())
    assert attacks.logit_attack(nn.Identity(), attacked) == (None, None)


# --- relearning -----------------------------------------------------------------------------------


def test_a_hidden_class_is_relearned_from_one_image():
    forget = samples([[0.0, 5, 0]] * 4, [1] * 4)
    retain = samples([[5.0, 0, 0], [0.0, 0, 5]], [0, 2])
    model = Linear()
    with torch.no_grad():
        model[1].bias[1] = -6
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attacked = target(forget, retain)
    assert attacks.balanced_accuracy(model, attacked) == 0.5
    assert attacks.few_image_relearning(model, attacked) == 1.0
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_relearning_that_costs_the_rest_counts_for_nothing():
    """The class looks like another one: what one gains the other loses."""
    same = [[1.0, 1, 1]] * 2
    attacked = target(samples(same, [1, 1]), samples(same, [0, 0]))
    assert attacks.few_image_relearning(Linear(), attacked) == 0.5


def test_no_step_is_one_of_the_choices(monkeypatch):
    attacked = target(samples([[0.0, 5, 0]], [1]), samples([[5.0, 0, 0]], [0]))
    monkeypatch.setattr(attacks, "RELEARN_RATES", (1e6,))
    assert attacks.few_image_relearning(Linear(), attacked) == 1.0


def test_relearning_uses_up_to_five_images_and_the_rates(monkeypatch):
    seen = []
    monkeypatch.setattr(
        attacks, "_relearned", lambda _, images, rate, __: seen.append((len(images), rate)) or [0.0]
    )
    few = samples([[0.0, 5, 0]] * 4, [1] * 4)
    attacks.few_image_relearning(Linear(), target(few, few))
    assert seen == [(n, rate) for n in (1, 2, 4) for rate in (0.001, 0.01, 0.1)]


# --- rounding -------------------------------------------------------------------------------------


def test_rounding_by_hand():
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[7.0, 3.4, -1.6], [0.0, 0.0, 0.0]]))
        model.bias.copy_(torch.tensor([0.123, 0.456]))
    coarse = attacks.rounded(model, 4)  # from -7 to 7
    assert coarse.weight.tolist() == [[7.0, 3.0, -2.0], [0.0, 0.0, 0.0]]
    assert torch.equal(coarse.bias, model.bias)
    assert model.weight[0, 1].item() == pytest.approx(3.4), "the network itself is left as it is"


def test_rounding_has_as_many_levels_as_the_bits_allow():
    model = nn.Conv2d(2, 3, 3)
    for bits, most in ((8, 255), (4, 15)):
        coarse = attacks.rounded(model, bits).weight
        assert all(len(kernel.unique()) <= most for kernel in coarse)
        error = (coarse - model.weight).flatten(1).abs().amax(1)
        step = model.weight.flatten(1).abs().amax(1) / (2 ** (bits - 1) - 1)
        assert (error <= step / 2 * 1.001).all()


# --- features -------------------------------------------------------------------------------------


def test_rotated_and_scaled_features_are_the_same():
    inputs, other = torch.randn(40, 3), Linear()
    rotation = torch.linalg.qr(torch.randn(3, 3)).Q
    with torch.no_grad():
        other[0].weight.copy_(1e9 * rotation)
        other[0].bias.fill_(7)
    assert attacks.feature_cka(other, Linear(), inputs) == pytest.approx(1.0, abs=1e-6)


def test_cka_by_hand():
    """Two features of one spread, of which the edit keeps one: ‖K·L‖ / ‖K‖‖L‖ = 1 / √2."""
    inputs = torch.tensor([[1.0, 1, 0], [-1.0, 1, 0], [1.0, -1, 0], [-1.0, -1, 0]])
    edited = Linear()
    with torch.no_grad():
        edited[0].weight[1, 1] = 0
    assert attacks.feature_cka(edited, Linear(), inputs) == pytest.approx(0.5**0.5)


def test_features_that_say_nothing_or_are_not_there():
    dead = Linear()
    with torch.no_grad():
        dead[0].weight.zero_()
    assert attacks.feature_cka(dead, Linear(), torch.randn(8, 3)) == 0.0
    assert attacks.feature_cka(nn.Identity(), nn.Identity(), torch.randn(8, 3)) is None


# --- what is not finite --------------------------------------------------------------------------


def broken():
    model = Linear()
    nn.init.constant_(model[1].bias, float("inf"))
    return model


GOOD = samples([[0.0, 5, 0]] * 2, [1, 1])
TARGET = target(GOOD, samples([[5.0, 0, 0]] * 2, [0, 0]), members=GOOD)


@pytest.mark.parametrize(
    "attack",
    [
        lambda model: attacks.attacks(model, Linear(), TARGET),
        lambda model: attacks.membership(model, TARGET),
        lambda model: attacks.logit_attack(model, TARGET),
        lambda model: attacks.few_image_relearning(model, TARGET),
        lambda model: attacks.rounded(model, 8),
        lambda model: attacks.feature_cka(model, Linear(), GOOD.inputs),
        lambda model: attacks.feature_cka(Linear(), model, GOOD.inputs),
        lambda model: attacks.balanced_accuracy(model, TARGET),
    ],
)
def test_a_network_that_is_not_finite_gives_no_number(attack):
    attack(Linear())
    with pytest.raises(ValueError, match=r"model: the tensor '1.bias' of Linear has numbers that"):
        attack(broken())


@pytest.mark.parametrize("part", ["forget", "retain", "images", "members", "others"])
def test_data_that_are_not_finite_are_no_target(part):
    bad = samples([[0.0, 5, 0], [0.0, float("nan"), 0]], [1, 1])
    with pytest.raises(ValueError, match=rf"Target.{part} has .* not finite, in 1 of 2 .*at 1"):
        target(**{"forget": GOOD, "retain": GOOD, part: bad})
    with pytest.raises(ValueError, match=r"inputs has .*not finite"):
        attacks.feature_cka(Linear(), Linear(), bad.inputs)


# --- all of them ----------------------------------------------------------------------------------


def test_a_large_retain_set_is_judged_by_a_part_of_it_that_is_always_the_same():
    many = Labelled(torch.randn(1_000, 3), torch.zeros(1_000, dtype=torch.long))
    one, other = (target(many, many).retain for _ in range(2))
    assert len(one) == 256
    assert torch.equal(one.inputs, other.inputs)
    few = many[torch.arange(256)]
    assert target(few, few).retain is few


@pytest.fixture(scope="module")
def edited():
    """The metrics of digits with one constant on one logit, and the task."""
    task = make_task("unlearning/digits", forget_class=7)
    network = task.networks[0].fresh()
    bias = network.state_dict()["fc3.bias"].clone()
    bias[7] -= 1e3
    network.apply(ReplaceTensors({"fc3.bias": bias}))
    return task, network, task.evaluate(network.journal)


def test_one_constant_hides_a_class_and_one_restores_it(edited):
    _, _, metrics = edited
    assert metrics["forget_accuracy"] == 0
    assert metrics["logit_attack"] == pytest.approx(metrics["logit_attack_before"], abs=1e-3)
    assert metrics["logit_attack_accuracy"] > 0.97
    assert metrics["logit_attack_recovered"] == pytest.approx(1, abs=0.01)
    assert metrics["feature_cka"] == metrics["feature_cka_recovered"] == 1
    assert metrics["worst_attack"] == 1
    assert metrics["rounding_8bit_recovered"] < 0.1


def test_attacks_give_the_same_bits_again(edited):
    task, network, metrics = edited
    torch.manual_seed(5)
    torch.rand(3)
    assert task.evaluate(network.journal) == metrics


def test_the_oracle_recovers_nothing_and_no_edit_everything(edited):
    task = edited[0]
    before = task.evaluate(task.networks[0].journal)
    network = task.networks[0].fresh()
    network.apply(ReplaceTensors(task.oracle(0).state_dict()))
    after = task.evaluate(network.journal)
    assert (before["worst_attack"], after["worst_attack"]) == (1, 0)
    for name in ("logit_attack", "few_image_relearning", "rounding_4bit", "feature_cka"):
        assert before[name] == before[f"{name}_before"] == after[f"{name}_before"] > after[name]


def test_signed_membership_is_the_advantage_with_its_sign(edited):
    metrics = edited[2]
    assert abs(metrics["mia_signed"]) == pytest.approx(metrics["mia_advantage"])
    assert -1 <= metrics["mia_signed_before"] <= 1
    assert 0 <= metrics["mia_tpr"] <= 1


def test_membership_is_measured_against_the_noise_of_so_many_samples(edited, monkeypatch):
    """Digits of the class: 81 trained the network, 45 are test images."""
    task, network, metrics = edited
    asked = []
    monkeypatch.setattr(
        unlearning_task, "scales", lambda *sizes: asked.append(sizes) or scales(*sizes)
    )
    assert task.evaluate(network.journal) == metrics
    assert asked == [(81, 45)]


def test_wrecked_networks_have_numbers_too():
    task = make_task("unlearning/digits")
    network = task.networks[0].fresh()
    huge = {n: torch.full_like(t, 3e38) for n, t in network.state_dict().items() if "fc" in n}
    network.apply(ReplaceTensors(huge))
    metrics = task.evaluate(network.journal)
    assert all(value is None or np.isfinite(value) for value in metrics.values())
    assert metrics["few_image_relearning_recovered"] < 0.2
