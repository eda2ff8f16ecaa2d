"""Settings of unlearning algorithms: what was chosen for a task, defaults elsewhere."""

from agents.catalogue import make_agent
from agents.unlearning.agent import NAMES
from agents.unlearning.settings import CHOSEN, DEFAULTS
from envs_registry import environment_spec


def test_settings_are_those_of_the_task_unless_given():
    digits = environment_spec("MaskWorld-v0", {})
    custom = environment_spec("MaskWorld-v0", {"task": "unlearning/custom"})
    assert make_agent("ssd").resolved(digits).alpha == CHOSEN["unlearning/digits"]["ssd"]["alpha"]
    assert make_agent("ssd", alpha=3.0).resolved(digits).alpha == 3.0
    scrub = make_agent("scrub-site").resolved(custom).as_dict()
    assert scrub == {**DEFAULTS["scrub"], **CHOSEN["unlearning/mnist"]["scrub-site"]}
    for task in CHOSEN.values():
        assert set(task) == set(NAMES)
