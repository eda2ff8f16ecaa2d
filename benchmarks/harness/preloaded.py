"""What every process of a cell has imported before it is forked: the harness, the environments, the
tasks and the libraries that these import where they use them, and no agent.
"""

from __future__ import annotations

import importlib

import benchmarks.harness.isolation  # noqa: F401
from editgym.tasks.catalogue import TASKS
from envs_registry import ENVIRONMENTS

# Each takes one to three seconds; the server spends them once.
_LIBRARIES = (
    "sklearn.datasets",
    "sklearn.linear_model",
    "torchvision",
    "transformers.modeling_utils",
)

for _path in (*(row.entry_point for row in ENVIRONMENTS), *TASKS.values()):
    importlib.import_module(_path.partition(":")[0])
for _library in _LIBRARIES:
    importlib.import_module(_library)
