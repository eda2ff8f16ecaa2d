"""What every process of a cell has imported before it is forked: the harness, the environments and
the tasks, and no agent.
"""

from __future__ import annotations

import importlib

import benchmarks.harness.isolation  # noqa: F401
from editgym.tasks.catalogue import TASKS
from envs_registry import ENVIRONMENTS

for _path in (*(row.entry_point for row in ENVIRONMENTS), *TASKS.values()):
    importlib.import_module(_path.partition(":")[0])
