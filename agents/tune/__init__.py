"""Settings for a model, a task or an agent that nobody has tuned: `python -m agents.tune`."""
