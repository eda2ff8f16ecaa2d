"""A suite of one's own: which agents are compared where."""

import own_environment  # noqa: F401 - registers the environment
import own_family  # noqa: F401 - registers the family of its metrics

from benchmarks.suites.entry import Entry, Suite

AGENT = ("own_agent:SmallRandomEdit", {"size": 0.2})
LEARNED = ("own_learned_editor:RateEditor", {"sequences": 1, "validate_every": 0})
FACTS = {
    "requests": "own_facts.json",
    "test_requests": "own_facts_test.json",
    "format": "own_format:FACTS",
    "model": "factlm",
    "sites": ["model.layers.4.mlp.down_proj"],
    "edits_per_step": 2,
    "horizon": 1,
    "back_depth": 0,
}
BARS = {
    "model": "own_images:bars_network",
    "weights": "own_weights.safetensors",
    "data": "own_images:bars",
    "sites": ["1"],
    "batch_size": 64,
}
TEXTS = {"comments": "own_texts:comments", "identities": "own_texts:identities", "vocabulary": 100}
SUITE = Suite(
    "own",
    1,
    (
        Entry("OwnMatrix-v0", "matrix/small", ("no_edit", AGENT), reward_calls=2),
        Entry(
            "ShiftWorld-v0",
            "own_task:gently",
            (AGENT, "own_unlearner:PruneForgotten"),
            reward_calls=2,
        ),
        Entry("MaskWorld-v0", "unlearning/custom", (AGENT,), env_kwargs=BARS, reward_calls=2),
        Entry("ShiftWorld-v0", "debiasing/toxicity", (AGENT,), env_kwargs=TEXTS, reward_calls=2),
        Entry(
            "LifelongLLMEdit-v0",
            "knowledge/custom",
            ("own_editor:OneStep", LEARNED),
            env_kwargs=FACTS,
            seed_kwarg=None,
            reward_calls=8,
        ),
    ),
)
