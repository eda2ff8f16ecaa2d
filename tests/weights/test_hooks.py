"""Hooks and replaced forwards for one block, and modules as they were after it."""

import pytest
import torch
from torch import nn

from editgym.weights.hooks import Reached, hooked, unreplaced


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


def untouched(model):
    return not any(
        module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__
        for module in model.modules()
    )


def test_hooks_look_and_change_nothing(model):
    x, seen = torch.randn(4, 2), []
    plain = model(x)
    with hooked(
        before=[(model[1], lambda inputs: (seen.append(inputs[0]), "ignored"))],
        after=[(model[0], lambda inputs, output: (seen.append((inputs[0], output)), "ignored"))],
    ):
        assert torch.equal(model(x), plain)
    (given, came), then = seen
    assert given is x
    assert torch.equal(came, model[0](x))
    assert then is came
    assert untouched(model)


def test_forwards_are_replaced_and_put_back(model):
    own = lambda x: x.sum(1, keepdim=True)  # noqa: E731 - somebody else's forward
    model[1].forward = own
    with hooked(instead=[(model[0], lambda x: 2 * x), (model[1], lambda x: x + 1)]):
        assert torch.equal(model(torch.ones(1, 2)), torch.full((1, 2), 3.0))
    assert model[1].forward is own
    assert "forward" not in model[0].__dict__


def stop(*_):
    raise Reached


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_pass_ends_where_a_hook_says_that_it_has_come_far_enough(model, where):
    with hooked(**{where: [(model[0], stop)]}):
        with hooked(instead=[(model[1], lambda x: x)]):
            model(torch.ones(1, 2))
        pytest.fail("the block without hooks kept what was raised for the one around it")
    assert untouched(model)


def test_another_error_goes_on_and_leaves_no_hook(model):
    with (
        pytest.raises(RuntimeError, match="shapes cannot be multiplied"),
        hooked(after=[(model[0], lambda *_: None)], instead=[(model[1], lambda x: x)]),
    ):
        model(torch.ones(1, 5))
    assert untouched(model)


def test_a_module_that_cannot_be_hooked_leaves_no_hook_on_the_others(model):
    with pytest.raises(AttributeError), hooked(before=[(model[0], print), ("no module", print)]):
        pass
    assert untouched(model)


def test_within_a_block_a_model_can_be_asked_as_it_is_outside(model):
    x = torch.randn(4, 2)
    plain, own = model(x), lambda x: 3 * x
    with hooked(instead=[(model[0], own)]), hooked(instead=[(model[0], lambda x: x[:, :0])]):
        with unreplaced(model):
            assert torch.equal(model(x), plain)
            assert untouched(model)
        assert model[0](x).shape == (4, 0)
    assert untouched(model)
    model[1].forward = own
    with hooked(instead=[(model[1], lambda x: x)]), unreplaced(model):
        assert model[1].forward is own
    assert model[1].forward is own
