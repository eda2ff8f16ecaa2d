"""Learning that starts from a saved agent of the same kind."""

import pytest
import torch

from agents.hypernetworks.network import ShapeMismatchError
from agents.hypernetworks.saved import POLICY_FILE


@pytest.mark.parametrize("name", ["rledit", "malmen", "mend", "hiedit"])
def test_untrained_further_it_edits_as_it_was_saved(
    name, trained, stream_env, tmp_path, same_edits
):
    first = trained(name)
    first.save(tmp_path)
    again = trained(name, start_from=str(tmp_path), sequences=0)
    edits = [agent.edit(stream_env(split="test")) for agent in (first, again)]
    assert same_edits(*edits)
    assert not same_edits(edits[0], trained(name, sequences=0).edit(stream_env(split="test")))


def test_learning_goes_on_from_it(trained, stream_env, tmp_path, same_edits):
    trained("rledit").save(tmp_path)
    on, anew = (trained("rledit", start_from=given) for given in (str(tmp_path), None))
    assert not same_edits(*(agent.edit(stream_env(split="test")) for agent in (on, anew)))


def test_what_does_not_fit_is_refused(trained, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^start_from: no policy in .*nowhere"):
        trained("rledit", start_from=str(tmp_path / "nowhere"))
    trained("rledit", sequences=0).save(tmp_path)
    with pytest.raises(ValueError, match=r"^start_from must be a rledit with a policy of the same"):
        trained("rledit", start_from=str(tmp_path), blocks=2)
    with pytest.raises(ShapeMismatchError, match="the policy was trained on"):
        trained("rledit", start_from=str(tmp_path), env={"sites": ["model.layers.1.mlp.down_proj"]})
    with pytest.raises(ValueError, match="start_from must be the folder of an agent"):
        trained("rledit", start_from=3)


@pytest.mark.parametrize(
    ("saved", "name", "own"),
    [
        ("rledit", "hiedit", {"gate": "all"}),
        ("rledit", "mend", {}),
        ("rledit", "malmen", {}),
        ("malmen", "rledit", {}),
        ("hiedit", "rledit", {}),
        ("malmen", "mend", {}),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_another_agents_folder_is_refused(named, saved, name, own, trained, tmp_path):
    """Agents were saved without their names at first."""
    trained(saved, sequences=0).save(tmp_path)
    if not named:
        without(tmp_path, "agent")
    message = rf"^start_from must be the folder of a saved {name}, got '{saved}'$"
    with pytest.raises(ValueError, match=message):
        trained(name, start_from=str(tmp_path), **own)


@pytest.mark.parametrize("name", ["rledit", "hiedit"])
def test_another_rule_is_refused(name, trained, tmp_path):
    trained(name, sequences=0, rule="malmen").save(tmp_path)
    message = rf"^start_from must be a {name} with this agent's rule, 'mend', got 'malmen'$"
    with pytest.raises(ValueError, match=message):
        trained(name, start_from=str(tmp_path), rule="mend")


@pytest.mark.parametrize("name", ["rledit", "malmen", "mend", "hiedit"])
@pytest.mark.parametrize("missing", [["agent"], ["agent", "settings"]])
def test_a_folder_that_was_saved_earlier_is_taken(
    missing, name, trained, stream_env, tmp_path, same_edits
):
    first = trained(name)
    first.save(tmp_path)
    without(tmp_path, *missing)
    again = trained(name, start_from=str(tmp_path), sequences=0)
    assert same_edits(*(agent.edit(stream_env(split="test")) for agent in (first, again)))


@pytest.mark.parametrize(("saved", "mode"), [("released", "paper"), ("paper", "released")])
@pytest.mark.parametrize("missing", [["agent"], ["agent", "settings"], []])
def test_a_step_size_is_taken_whichever_way_it_was_learned(
    missing, saved, mode, trained, stream_env, tmp_path
):
    first = trained("rledit", sequences=0, mode=saved)
    first.save(tmp_path)
    without(tmp_path, *missing)
    again = trained("rledit", start_from=str(tmp_path), sequences=0, mode=mode)
    one, other = (agent.edit(stream_env(split="test")) for agent in (first, again))
    for before, after in zip(one, other, strict=True):
        torch.testing.assert_close(
            after.update.matrix(), before.update.matrix(), rtol=1e-4, atol=1e-7
        )


def test_a_step_size_without_a_logarithm_is_refused(trained, tmp_path):
    first = trained("rledit", sequences=0, mode="released")
    with torch.no_grad():
        first.policy.network.steps[1] = -0.25
    first.save(tmp_path)
    message = r"^start_from must be .* η greater than 0 .*layers\.3\.mlp\.down_proj': -0\.25"
    with pytest.raises(ValueError, match=message):
        trained("rledit", start_from=str(tmp_path))
    trained("rledit", start_from=str(tmp_path), mode="released")


def without(folder, *names):
    """Take out of the policy in `folder` what was not saved at first."""
    state = torch.load(folder / POLICY_FILE, weights_only=True)
    torch.save({k: v for k, v in state.items() if k not in names}, folder / POLICY_FILE)
