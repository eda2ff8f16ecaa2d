"""Settings that nobody gave are looked for on validation data; what diverges is said and left."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from agents.catalogue import make_agent
from agents.tune.space import search_space
from agents.unlearning import search
from agents.unlearning.agent import UnlearningAlgorithm
from agents.unlearning.validation import Reading, Validation, is_finite
from editgym.tasks import make_task


class Bright(nn.Module):
    """Knows of four classes by their bright quadrants, with weights of any scale."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.hidden, self.head = nn.Linear(64, 16), nn.Linear(16, 4)
        self.scale = scale

    def forward(self, x):
        return self.head(torch.relu(self.hidden(x.flatten(1) / self.scale)))


@pytest.fixture(params=[1e-3, 1.0, 1e3], ids=["small weights", "usual weights", "large weights"])
def bright(request, small_images, tmp_path):
    """Arguments of a world whose network has the four quadrants' classes by heart; its first
    weights are of one of three scales."""
    return trained(request.param, small_images, tmp_path)


@pytest.fixture
def bright_once(small_images, tmp_path):
    """The same, of the usual scale."""
    return trained(1.0, small_images, tmp_path)


def trained(scale, small_images, tmp_path):
    torch.manual_seed(0)
    model = Bright(scale)
    x = torch.from_numpy(small_images["x_train"]).float() / 255
    y = torch.from_numpy(small_images["y_train"])
    with torch.no_grad():
        model.hidden.weight.mul_(scale)
    optimizer = torch.optim.Adam(
        [
            {"params": model.hidden.parameters(), "lr": 0.01 * scale},
            {"params": model.head.parameters()},
        ],
        lr=0.01,
    )
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    save_file(model.state_dict(), tmp_path / "bright.safetensors")
    np.savez(tmp_path / "bright.npz", **small_images)
    return {
        "task": "unlearning/custom",
        "model": f"{__name__}:Bright",
        "model_kwargs": {"scale": scale},
        "weights": str(tmp_path / "bright.safetensors"),
        "data": str(tmp_path / "bright.npz"),
        "sites": ["hidden"],
        "forget_class": 2,
    }


def edited(name, arguments, **settings):
    """The environment after an edit by an agent, the agent, and what it warned of."""
    env = gym.make("editgym:MaskWorld-v0", **arguments)
    agent = make_agent(name, **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        agent.edit(env)
    said = [str(one.message) for one in caught if one.category is UserWarning]
    return env.unwrapped, agent, said


@pytest.mark.parametrize("name", ["gradient_ascent", "salun-site", "ssd"])
def test_a_network_of_any_scale_forgets_and_keeps_the_rest(name, bright):
    world, agent, said = edited(name, bright)
    accuracies = world.task.accuracies(world.network)
    assert accuracies["retain_accuracy"] >= 0.9
    assert accuracies["forget_accuracy"] <= 0.2
    assert not said
    (note,) = agent.notes
    assert note.startswith("the best state on validation data was kept, with")
    assert "(before: 100.0% and 100.0%)" in note


@pytest.mark.parametrize(
    ("rate", "reason"), [(1.0, "one constant answer reaches"), (1e30, "weights are not finite")]
)
def test_typed_settings_that_diverge_are_said_and_nothing_is_edited(rate, reason, bright_once):
    world, agent, (said,) = edited("gradient_ascent", bright_once, learning_rate=rate, epochs=20)
    assert said.startswith("gradient_ascent has diverged: ")
    assert reason in said
    assert "the network is left as it was; give other settings" in said
    assert len(world.journal) == 0
    assert not world.network.parameters_changed
    assert agent.settings.learning_rate == rate


def test_a_buffer_that_is_not_finite_is_no_divergence():
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    assert is_finite(model)
    with torch.no_grad():
        model.bias[0] = float("nan")
    assert not is_finite(model)


def test_what_was_chosen_for_a_task_is_kept_as_it_was_measured(monkeypatch):
    monkeypatch.setattr(Validation, "divergence", lambda self, model: "so it is said")
    digits = {"task": "unlearning/digits"}
    world, _, (said,) = edited("gradient_ascent", digits)
    assert said == (
        "gradient_ascent has diverged: so it is said; the edit stays, as what was chosen for a"
        " task is measured as it is"
    )
    assert len(world.journal) == 1
    world, _, (said,) = edited("gradient_ascent", digits, learning_rate=3e-3)
    assert "left as it was" in said
    assert len(world.journal) == 0


class Erases(UnlearningAlgorithm):
    """Forgets everything."""

    name = "erases"

    def forget(self, model, sets):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()


def test_an_algorithm_of_ones_own_that_diverges_is_said_too(bright_once, custom_task):
    world, _, (said,) = edited(f"{__name__}:Erases", bright_once)
    assert said.startswith("erases has diverged: of the validation data to be kept it classifies ")
    assert len(world.journal) == 0
    # A network that never knew anything cannot lose it.
    world, _, said = edited(f"{__name__}:Erases", custom_task)
    assert said == []
    assert len(world.journal) == 1


def test_where_nothing_is_better_than_no_edit_there_is_none(bright_once, monkeypatch):
    monkeypatch.setattr(Validation, "score", lambda self, reading: 0.0)
    world, agent, (said,) = edited("ssd", bright_once)
    assert said == f"ssd: {agent.notes[0]}"
    assert "nothing that was tried is better than no edit" in said
    assert len(world.journal) == 0


def validation(**arguments):
    task = make_task("unlearning/digits", **arguments)
    return task, Validation(task, 0, task.networks[0].base)


def test_the_score_of_classes_is_what_is_kept_and_what_is_lost():
    task, seen = validation(forget_class=3)
    kept = task.splits.validation.labels != 3
    logits = task.networks[0].logits(task.splits.validation.inputs)
    right = logits.argmax(-1) == task.splits.validation.labels
    by_hand = [float(right[rows].double().mean()) for rows in (kept, ~kept)]
    assert seen.before == pytest.approx(by_hand)
    labels = task.splits.validation.labels[kept]
    assert seen.chance == pytest.approx(float(labels.bincount().max()) / len(labels))
    lost = seen.before.forget - 0.2
    assert seen.score(Reading(0.8, 0.2)) == pytest.approx(2 * 0.8 * lost / (0.8 + lost))
    assert seen.score(Reading(0.8, 1.0)) == 0
    assert seen.has_diverged(Reading(seen.chance, 0.0))
    assert not seen.has_diverged(Reading(seen.chance + 0.01, 0.0))


def test_the_score_of_samples_is_what_is_kept_and_how_unknown_they_are():
    task, seen = validation(forget_samples=20)
    forget = task.model_split(0)[1]
    right = task.networks[0].logits(forget.inputs).argmax(-1) == forget.labels
    assert seen.before.forget == pytest.approx(float(right.double().mean()))
    assert seen.score(Reading(0.9, 0.9)) == pytest.approx(2 * 0.9 / 1.9)
    assert seen.score(Reading(0.9, 0.4)) == pytest.approx(2 * 0.9 * 0.5 / 1.4)


class Halves:
    """A score of a network with one number: how near it is to a half."""

    before = Reading(1.0, 1.0)

    def read(self, model):
        return Reading(1 - abs(model.weight.item() - 0.5), 0.0)

    def score(self, reading):
        return reading.retain if reading != self.before else 0.0

    def has_diverged(self, reading):
        return reading.retain < 0


def walked(monkeypatch, most=400, **tries):
    """A search over walks of one number, each named by where it goes."""
    monkeypatch.setattr(search, "MOST_STEPS", most)
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    found, steps = search.Search(model, Halves()), []

    def run(settings):
        assert model.weight.item() == 1.0, "every try begins anew"
        for value in settings["values"]:
            nn.init.constant_(model.weight, value)
            steps.append(value)
            found(model)

    longest = max(map(len, tries.values()))
    found.over([{"name": name, "values": values} for name, values in tries.items()], run, longest)
    return found, model.weight.item(), steps


def test_the_best_state_of_all_tries_is_kept(monkeypatch):
    found, weight, _ = walked(monkeypatch, far=[0.9, 9.0, 5.0], near=[0.8, 0.6, 0.7], same=[0.6])
    assert (found.best["name"], weight) == ("near", pytest.approx(0.6))
    assert [one["name"] for one in found.diverged] == ["far"]
    assert found.told().endswith("; 1 of 3 tries diverged")


def test_a_try_ends_when_its_steps_are_taken_or_its_weights_are_not_finite(monkeypatch):
    nan = float("nan")
    found, weight, steps = walked(monkeypatch, 3, long=[0.9, 0.8, 0.7, 0.6], lost=[0.9, nan, 0.5])
    assert len(steps) == 3 + 2
    assert weight == pytest.approx(0.7)
    assert [one["name"] for one in found.diverged] == ["lost"]


def test_agents_tune_finds_a_rate_where_none_was_chosen(bright_once):
    env = gym.make("editgym:MaskWorld-v0", **bright_once)
    rates = {p.name: p.default for p in search_space(make_agent("fine_tune"), env, {}).parameters}
    assert rates["learning_rate"] == 0.01
    thresholds = {p.name: p.default for p in search_space(make_agent("ssd"), env, {}).parameters}
    assert thresholds["alpha"] == 10.0
