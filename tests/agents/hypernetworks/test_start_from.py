"""Learning that starts from a saved agent of the same kind."""

import pytest

from agents.hypernetworks.network import ShapeMismatchError


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
    with pytest.raises(ValueError, match=r"^start_from must be a hiedit with a policy of the same"):
        trained("hiedit", start_from=str(tmp_path))
    with pytest.raises(ShapeMismatchError, match="the policy was trained on"):
        trained("rledit", start_from=str(tmp_path), env={"sites": ["model.layers.1.mlp.down_proj"]})
    with pytest.raises(ValueError, match="start_from must be the folder of an agent"):
        trained("rledit", start_from=3)
