"""Checkpoints of a training belong to one agent, seed, environment and model."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from agents.catalogue import make_agent
from agents.hypernetworks.learning import TRAINING, SequenceLearner
from agents.hypernetworks.rledit import RLEdit
from agents.protocol import Budget

QUICK = {"sequences": 4, "validate_every": 2, "learning_rate": 1e-2, "step_learning_rate": 0.1}


def learned(spec, out, budget=None, seed=0, **settings):
    RLEdit(**QUICK | settings).learn(spec, budget or Budget(), seed, out)


class Interrupted(Exception):
    """What stops a training between two sequences."""


@pytest.fixture
def stop_after_one(monkeypatch):
    """Every training is interrupted in its second sequence."""
    run = SequenceLearner._sequence

    def stopped(self, index):
        if index == 1:
            raise Interrupted
        return run(self, index)

    monkeypatch.setattr(SequenceLearner, "_sequence", stopped)


@pytest.mark.usefixtures("stop_after_one")
@pytest.mark.parametrize(
    ("other", "env", "difference"),
    [
        ({"seed": 1}, {}, "seed is 0 there and 1 here"),
        ({"learning_rate": 1e-3}, {}, "config.learning_rate is 0.01 there and 0.001 here"),
        ({"rank": 2}, {}, "config.rank is None there and 2 here"),
        ({"passes": 2}, {}, "config.passes is 1 there and 2 here"),
        ({"rule": "mend"}, {}, "config.rule is 'malmen' there and 'mend' here"),
        ({"step_size": 0.1}, {}, "config.step_size is None there and 0.1 here"),
        ({"ridge": 2.0}, {}, "config.ridge is 1.0 there and 2.0 here"),
        (
            {"train_env": {"decay": 0.5}},
            {},
            "config.train_env.decay is absent there and 0.5 here",
        ),
        ({"budget": Budget(reward_calls=9)}, {}, "sequences is 4 there and 3 here"),
        ({}, {"locality_weight": 2.0}, "env.kwargs.locality_weight is absent there and 2.0 here"),
        ({}, {"edits_per_step": 3}, "env.kwargs.edits_per_step is 2 there and 3 here"),
        (
            {},
            {"sites": ["model.layers.[12].mlp.down_proj"]},
            (
                "env.kwargs.sites.0 is 'model.layers.[23].mlp.down_proj' "
                "there and 'model.layers.[12].mlp.down_proj' here"
            ),
        ),
    ],
)
def test_the_checkpoint_of_another_training_is_refused_and_kept(
    stream_spec, tmp_path, other, env, difference
):
    with pytest.raises(Interrupted):
        learned(stream_spec(), tmp_path, validate_every=0)
    before = (tmp_path / TRAINING).read_bytes()
    with pytest.raises(ValueError, match="checkpoint of another training") as refused:
        learned(stream_spec(**env), tmp_path, **{"validate_every": 0, **other})
    assert f"out: {tmp_path} holds the checkpoint of another training: {difference};" in str(
        refused.value
    )
    assert (tmp_path / TRAINING).read_bytes() == before
    with pytest.raises(Interrupted):
        learned(stream_spec(), tmp_path, validate_every=0)


@pytest.mark.usefixtures("stop_after_one")
@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [
        (("malmen", {}), ("mend", {}), "agent is 'malmen' there and 'mend' here"),
        (
            ("hiedit", {}),
            ("hiedit", {"gate": "straight_through"}),
            "config.gate is 'sampled' there and 'straight_through'",
        ),
        (
            ("hiedit", {"gate": "straight_through"}),
            ("hiedit", {"gate": "straight_through", "site_cost": 0.5}),
            "config.site_cost is 0.01 there and 0.5 here",
        ),
    ],
)
def test_the_checkpoint_of_another_agent_is_refused(
    stream_spec, tmp_path, first, second, difference
):
    one, other = (
        make_agent(name, **QUICK | {"validate_every": 0} | config)
        for name, config in (first, second)
    )
    with pytest.raises(Interrupted):
        one.learn(stream_spec(), Budget(), 0, tmp_path)
    with pytest.raises(ValueError, match=difference):
        other.learn(stream_spec(), Budget(), 0, tmp_path)


@pytest.mark.usefixtures("stop_after_one")
def test_the_checkpoint_of_another_model_is_refused_where_its_folder_is_the_same(
    stream_spec, tiny_lm, tmp_path
):
    model = Path(shutil.copytree(tiny_lm, tmp_path / "model"))
    spec = stream_spec(model=str(model))
    with pytest.raises(Interrupted):
        learned(spec, tmp_path / "out", validate_every=0)
    weights = {name: 2 * tensor for name, tensor in load_file(model / "model.safetensors").items()}
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"another training: networks\.0 is"):
        learned(spec, tmp_path / "out", validate_every=0)


@pytest.mark.parametrize("damage", [b"", b"garbage", b"PK garbage", None])
@pytest.mark.usefixtures("stop_after_one")
def test_a_damaged_file_is_named(damage, stream_spec, tmp_path):
    with pytest.raises(Interrupted):
        learned(stream_spec(), tmp_path)
    agent = RLEdit(**QUICK | {"sequences": 0})
    agent.learn(stream_spec(), Budget(), 0)
    agent.save(tmp_path / "agent")
    for file in (tmp_path / TRAINING, tmp_path / "agent" / "policy.pt"):
        if damage is None:
            torch.save({"identity": {}}, file)
        else:
            file.write_bytes(damage)
    message = r"training\.pt is damaged or is no checkpoint of a training: delete it to begin anew"
    with pytest.raises(ValueError, match=message):
        learned(stream_spec(), tmp_path)
    message = r"policy\.pt is damaged or is no policy: train the agent again"
    with pytest.raises(ValueError, match=message):
        RLEdit.load(tmp_path / "agent")
    with pytest.raises(ValueError, match=message):
        learned(stream_spec(), tmp_path / "other", start_from=str(tmp_path / "agent"))
