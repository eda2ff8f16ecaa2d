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
    for name in NAMES:  # of a network that nobody knows, no step and no threshold is assumed
        found, algorithm = make_agent(name).resolved(custom).as_dict(), name.removesuffix("-site")
        assert found["alpha" if algorithm == "ssd" else "learning_rate"] is None
        assert set(found) == set(DEFAULTS[algorithm])
    assert make_agent("scrub-site").resolved(custom).gamma == 5.0
    assert make_agent("scrub-site", learning_rate=0.1).resolved(custom).learning_rate == 0.1
    for task in CHOSEN.values():
        assert set(task) == set(NAMES)
