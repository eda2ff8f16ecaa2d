"""What the timings of streams are of: which passes stand beside a step, and what memory is held."""

import json

import pytest
import torch

from benchmarks.costs import bare_passes, streams
from benchmarks.costs.bare_passes import BarePasses, beside_passes, there_and_back


@pytest.fixture
def short(monkeypatch):
    """A look back of two batches, two requests a step."""
    monkeypatch.setattr(streams, "_LOOK_BACK", 2)
    return {"edits_per_step": 2}


def test_a_step_stands_beside_the_passes_over_its_own_tokens(short, monkeypatch):
    env = streams.make_env("cpu", horizon=4, **short)
    env.reset(seed=0)
    made = []
    monkeypatch.setattr(
        bare_passes,
        "there_and_back",
        lambda model, batch, backward=True: made.append((len(batch), backward)),
    )
    passes = BarePasses(env.process)
    together = env.process.settings.reward.micro_batch // 4
    for seen in range(1, 5):
        passes.see()
        made.clear()
        passes.run(differentiable=False)
        prompts, *rewarded, after = made
        # A rephrased request and a question nearby for each of two requests, of as many batches as
        # are looked back to, this one among them.
        assert sum(count for count, _ in rewarded) == 4 * min(seen, 3)
        assert len(rewarded) == -(-min(seen, 3) // together)
        assert {backward for _, backward in rewarded} == {False}
        assert prompts == (len(env.process.prompts), True)
        assert after == (len(env.process.prompts), False)
        env.step(env.training_free_action())
    made.clear()
    passes.run(differentiable=True)
    assert all(backward for _, backward in made[:-1])


def test_a_pass_goes_back_to_the_embeddings_and_leaves_no_gradient(short):
    env = streams.make_env("cpu", horizon=4, **short)
    env.reset(seed=0)
    model, seen = env.task.language.model, []
    handle = model.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    there_and_back(model, env.process.prompts)
    there_and_back(model, env.process.prompts, backward=False)
    handle.remove()
    assert seen == [True, False]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_steps_are_timed_once_the_look_back_is_full(short, monkeypatch):
    env = streams.make_env("cpu", horizon=5, **short)
    env.reset(seed=0)
    clock = iter(range(100))
    timed = []

    def seconds(function, device):
        function()
        timed.append(function)
        return float(next(clock))

    monkeypatch.setattr(bare_passes, "seconds", seconds)
    action = env.training_free_action()
    steps = []
    found = beside_passes(env.process, lambda: steps.append(env.step(action)), False, 3)
    # Two steps fill the look back, the second with a rehearsal of the passes; then passes and step
    # take turns, and each side's last three count.
    assert len(steps) == 5
    assert found == {"step_s": 6.0, "passes_s": 5.0, "ratio": 6.0 / 5.0}


def test_bytes_are_counted_once_for_each_storage():
    before = streams.held_bytes()
    matrix = torch.zeros(1024, 1024)
    views = [matrix[:10], matrix.T, matrix.flatten()]
    assert streams.held_bytes() - before == 4 * 2**20
    assert len(views) == 3


@pytest.mark.parametrize("make", [torch.sparse_csr_tensor, torch.sparse_csc_tensor])
def test_a_sparse_tensor_holds_its_places_and_values(make):
    before = streams.held_bytes()
    pairs = torch.eye(64).to_sparse()
    assert streams.held_bytes() - before == 64 * (2 * 8 + 4)
    compressed = make(torch.arange(65), torch.arange(64), torch.ones(64))
    assert streams.held_bytes() - before == 64 * (2 * 8 + 4) + 65 * 8 + 64 * (8 + 4)
    assert pairs.layout == torch.sparse_coo
    assert compressed.shape == (64, 64)


def test_a_training_step_is_a_whole_one_that_leaves_the_hypernetwork_as_it_was(short, monkeypatch):
    process = streams.make_env("cpu", horizon=4, sites=streams._RLEDIT_SITES[:1], **short).process
    process.reset(0)
    made, seen = [], []

    class Watched(bare_passes.Hypernetwork):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    class Adam(torch.optim.Adam):
        def step(self, closure=None):
            seen.append(sum(float(p.grad.abs().sum()) for p in made[0].parameters()))
            return super().step(closure)

    monkeypatch.setattr(bare_passes, "Hypernetwork", Watched)
    monkeypatch.setattr(torch.optim, "Adam", Adam)
    step = bare_passes.rledit_training_step(process)
    before = [parameter.detach().clone() for parameter in made[0].parameters()]
    step()
    assert seen[0] > 0
    after = list(made[0].parameters())
    assert all(map(torch.equal, before, after))
    assert all(parameter.grad is None for parameter in after)


def test_everything_is_measured(short, tmp_path, capsys):
    file = tmp_path / "new" / "cost.json"
    assert streams.main(["--steps", "1", "--edits", "20", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert json.loads(capsys.readouterr().out) == found
    edits = found["edits"]
    env = streams.make_env("cpu", horizon=1)
    sites = sum(rows * columns for rows, columns in (site.shape for site in env.process.sites))
    assert edits["one_matrix_per_site_bytes"] == 4 * sites
    assert edits["ratio"] == pytest.approx(edits["last_100_s"] / edits["first_100_s"])
    held = edits["held_bytes"] / (edits["model_bytes"] + edits["one_matrix_per_site_bytes"])
    assert edits["memory_ratio"] == pytest.approx(held)
    assert edits["held_bytes"] >= edits["model_bytes"]
    for name in ("step", "differentiable_step", "rledit_training_step"):
        assert found[name]["ratio"] == pytest.approx(
            found[name]["step_s"] / found[name]["passes_s"]
        )
