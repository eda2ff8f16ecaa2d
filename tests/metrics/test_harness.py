"""lm-evaluation-harness sees a model with its edits in effect, and leaves all as it was."""

import json
import random

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml

import editgym  # noqa: F401 - registers the environments
from agents.catalogue import make_agent
from editgym.metrics import harness

pytest.importorskip("lm_eval")
SITES = ["model.layers.4.mlp.down_proj"]


@pytest.fixture(scope="module")
def edited():
    """Ten facts that are to be edited in factlm."""
    env = gym.make(
        "LifelongLLMEdit-v1", horizon=1, edits_per_step=10, split="test", sites=SITES
    ).unwrapped
    env.reset(seed=0)
    return env


@pytest.fixture(scope="module")
def own(edited, tmp_path_factory):
    """A folder with a local task about the edited facts: which answer is likelier."""
    import datasets

    folder = tmp_path_factory.mktemp("own")
    documents = [
        {"question": one.prompt, "new": f" {one.target}", "old": f" {one.truth}"}
        for one in edited.process.stream.requests
    ]
    (folder / "facts.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    task = {
        "task": "own_choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "facts.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "target_delimiter": "",
        "output_type": "multiple_choice",
        "doc_to_choice": "{{[old, new]}}",
        "doc_to_target": 1,
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "own_choice.yaml").write_text(yaml.safe_dump(task))
    cache = tmp_path_factory.mktemp("datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        yield folder


def accuracy(env, folder):
    found = harness.evaluate(
        env.network, env.task.language.tokenizer, ["own_choice"], include=folder, batch_size=5
    )
    return found["results"]["own_choice"]["acc,none"]


def likelier(env):
    """The share of requests whose new answer is likelier than the old one, by our own passes."""
    rows = []
    for request in env.process.stream.requests:
        losses = [
            float(env.network.losses(env.task.batch([(request.prompt, answer)]))[0])
            * len(env.task.encode(request.prompt, answer).answer)
            for answer in (request.truth, request.target)
        ]
        rows.append(losses[1] < losses[0])
    return sum(rows) / len(rows)


def test_the_harness_sees_the_edits_and_undoing_them_too(edited, own):
    assert all(request.truth for request in edited.process.stream.requests)
    before = accuracy(edited, own)
    make_agent("ft_m", site=SITES[0]).edit(edited)
    after = accuracy(edited, own)
    assert (before, after) == (0.0, 1.0)
    assert likelier(edited) == 1.0
    edited.network.reset()
    assert accuracy(edited, own) == 0.0


def test_nothing_else_changes(edited, own):
    before = [weight.clone() for weight in edited.network.base.state_dict().values()]
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    accuracy(edited, own)
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])
    assert all(map(torch.equal, edited.network.base.state_dict().values(), before))
    assert not edited.network.base.training


@pytest.mark.slow
def test_bad_input(edited, own, tmp_path, monkeypatch):
    tokenizer = edited.task.language.tokenizer
    with pytest.raises(ValueError, match="lm-evaluation-harness has no own_chioce"):
        harness.evaluate(edited.network, tokenizer, ["own_chioce"], include=own)
    with pytest.raises(FileNotFoundError, match="include: there is no folder"):
        harness.evaluate(edited.network, tokenizer, ["own_choice"], include=tmp_path / "no")
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "editgym\[eval\]"'):
        harness.evaluate(edited.network, tokenizer, ["own_choice"])


def test_one_name_is_no_list_of_tasks():
    with pytest.raises(ValueError, match="tasks must be a list of names, got 'lambada'"):
        harness.evaluate(None, None, "lambada")
