"""A cluster of two nodes, where Ray is installed (`pip install 'editgym[scale]'`)."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks.harness import runner
from benchmarks.harness.runner import Execution, run_cells
from benchmarks.results import ROWS_FILE, rows_agree
from benchmarks.suites.cells import cells
from benchmarks.suites.entry import Entry, Suite

HERE = Path(__file__).parents[1]
TRAVELLER = '''
import json, os, time
from pathlib import Path

from beside_it import waited
from toy_editing import Searcher


class Traveller(Searcher):
    """Says where it learns, and when it is done."""

    def __init__(self, diary=None):
        self.diary = Path(diary)

    def learn(self, env_spec, budget, seed, out=None):
        told = {"file": __file__, "node": os.environ.get("RAY_RAYLET_PID"), "seed": seed}
        (self.diary / f"{seed}-{os.getpid()}.began").write_text(json.dumps(told))
        time.sleep(waited)
        super().learn(env_spec, budget, seed)
        (self.diary / f"{seed}-{os.getpid()}.done").touch()
'''


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A stranger's module in a folder of its own, with one beside it."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "travelling.py").write_text(TRAVELLER)
    (folder / "beside_it.py").write_text("waited = 4.0\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(HERE), str(folder)])
    yield folder
    for name in ("travelling", "beside_it"):
        sys.modules.pop(name, None)


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes of one processor each."""
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # or it leaves a token in the home folder
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=node)
    second = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    cluster.wait_for_nodes()
    yield cluster, second
    cluster.shutdown()


def began(diary):
    return [json.loads(file.read_text()) for file in diary.glob("*.began")]


@pytest.mark.slow
@pytest.mark.timeout(900)  # each of its processes imports everything anew
def test_a_node_that_is_killed_costs_no_row(tmp_path, elsewhere, cluster, monkeypatch):
    nodes, second = cluster
    (victim,) = [
        each[0].process.pid for kind, each in second.all_processes.items() if kind == "raylet"
    ]
    diary = tmp_path / "diary"
    diary.mkdir()
    name = "travelling:Traveller"
    suite = Suite("toy", 5, (Entry("toy_editing:Toy-v0", "toy", (name,), reward_calls=5),))
    chosen = cells(suite, given={name: {"diary": str(diary)}})
    killed = []

    def kill_the_second_node_in_the_middle_of_a_cell(outcome, bar):
        deadline = time.monotonic() + 60
        while not killed:
            for file in diary.glob("*.began"):
                told = json.loads(file.read_text())
                if told["node"] == str(victim) and not file.with_suffix(".done").exists():
                    nodes.remove_node(second, allow_graceful=False)
                    killed.append(told["seed"])
                    return
            assert time.monotonic() < deadline
            time.sleep(0.05)

    monkeypatch.setattr(runner, "_report", kill_the_second_node_in_the_middle_of_a_cell)
    rows = run_cells(chosen, tmp_path / "cluster", Execution(ray_address=nodes.address))
    there = began(diary)
    monkeypatch.undo()
    monkeypatch.setattr(sys, "path", [*sys.path, str(HERE), str(elsewhere)])
    alone = run_cells(chosen, tmp_path / "alone")

    assert [row["status"] for row in rows] == ["finished"] * 5
    written = (tmp_path / "cluster" / ROWS_FILE).read_text().splitlines()
    assert len(written) == len({json.loads(line)["cell"] for line in written}) == 5
    by_cell = {row["cell"]: row for row in rows}
    assert all(rows_agree(by_cell[row["cell"]], row) for row in alone)
    for row in alone:
        journals = [
            (tmp_path / run / row["edit_file"]).read_bytes() for run in ("cluster", "alone")
        ]
        assert journals[0] == journals[1]
    assert sum(told["seed"] == killed[0] for told in there) == 2  # it was begun once more
    assert {told["node"] for told in there} >= {str(victim)}
    assert all("py_modules_files" in told["file"] for told in there)  # it was carried
