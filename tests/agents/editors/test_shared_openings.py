"""Editors make the same edits whether what prompts begin with is read once or in every text."""

import pytest
import torch

from agents.catalogue import make_agent
from editgym.weights.language import rest_passes
from editgym.weights.language.passes import EditedPasses
from editgym.weights.language.rest import Rest

QUICK = {
    "ft_m": {"steps": 6, "learning_rate": 0.01},
    "ft_l": {"steps": 6, "learning_rate": 0.01, "epsilon": 0.05},
    "lora_merge": {"steps": 6, "learning_rate": 0.02, "rank": 2},
    "loc_ft_bf": {"epochs": 2, "learning_rate": 0.01, "batch_size": 4},
    "ultraedit": {"step_size": 1e-3, "passes": 2},
    "grace": {"steps": 10, "learning_rate": 1.0},
}
AT_SUBJECTS = {
    "rome": {},
    "memit": {"contexts": 2, "kl_weight": 0.1},
    "alphaedit": {},
    "memit_seq": {},
}


@pytest.mark.parametrize("name", [*QUICK, *AT_SUBJECTS])
@pytest.mark.parametrize(
    "form",
    [
        "qa",
        pytest.param("The following is true, as everybody knows: {prompt}", marks=pytest.mark.slow),
    ],
)
def test_edits_are_the_same(name, form, model, environment, editor, monkeypatch):
    journals, shared = [], []
    real = EditedPasses.shared

    def counted(passes, batch, injected=None):
        shared.append(real(passes, batch, injected))
        return shared[-1]

    for reads_once in (True, False):
        monkeypatch.setattr(EditedPasses, "shared", counted if reads_once else lambda *_: 0)
        agent = (
            editor(name, **AT_SUBJECTS[name])
            if name in AT_SUBJECTS
            else make_agent(name, **QUICK[name])
        )
        env = environment(model, ("model.layers.[12].mlp.down_proj",), prompt_format=form)
        env.reset(seed=0)
        journals.append(list(agent.edit(env)))
    assert max(shared) >= 8, "nothing was shared"
    assert len(journals[0]) == len(journals[1]) > 0
    for one, other in zip(*journals, strict=True):
        assert type(one) is type(other)
        for ours, theirs in zip(tensors(one), tensors(other), strict=True):
            assert float((ours - theirs).norm()) <= 0.02 * float(theirs.norm()) + 1e-6


@pytest.mark.parametrize("form", ["qa", "bare"])
def test_grace_is_the_same_where_what_stands_before_answers_is_read_once(
    form, model, environment, monkeypatch
):
    found, read = [], []
    told = Rest.told
    monkeypatch.setattr(Rest, "told", lambda *args: read.append(args) or told(*args))
    for least in (0, float("inf")):
        monkeypatch.setattr(rest_passes, "_LEAST_SPARED", least)
        env = environment(model, ("model.layers.[12].mlp.down_proj",), prompt_format=form)
        env.reset(seed=0)
        found.append(list(make_agent("grace", **QUICK["grace"]).edit(env)))
        assert len(read) >= 30, "no step went on from what was read"
    for ours, theirs in zip(*found, strict=True):
        for own, whole in zip(tensors(ours), tensors(theirs), strict=True):
            torch.testing.assert_close(own, whole, rtol=1e-2, atol=1e-3)


def tensors(entry):
    """What an entry changes, as matrices."""
    if hasattr(entry, "update"):
        return [entry.update.matrix()]
    return [value for value in vars(entry).values() if isinstance(value, torch.Tensor)]
