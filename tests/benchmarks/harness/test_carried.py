"""What a cluster's nodes are given of a stranger's code, and what becomes of cells whose worker
died, on a cluster that is made up."""

import sys
import types

import pytest

from benchmarks import leaderboard
from benchmarks.harness import ray_cluster
from benchmarks.harness.measure import Outcome
from benchmarks.harness.runner import Execution, RunnerError, run_cells
from benchmarks.harness.strangers import carried_modules


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two folders on the path with a stranger's files in them, of which the first comes first."""
    files = {
        "one/alone.py": "import helper",
        "one/helper.py": "",
        "one/pack/__init__.py": "",
        "one/pack/inner/part.py": "",
        "one/spread/part.py": "",
        "one/runs/results.jsonl": "",
        "one/not-a-module.py": "",
        "one/json.py": "the standard library's goes first",
        "one/editgym.py": "",
        "two/helper.py": "that of one goes first",
        "two/other.py": "",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "one"), str(tmp_path / "two")])
    return tmp_path


def carried(folder, *cells):
    return [str(place.relative_to(folder)) for place in carried_modules(cells)]


def test_a_module_is_carried_with_those_beside_it_as_an_import_finds_them(folders, make_cell):
    cell = make_cell("alone:Agent")
    assert carried(folders, cell) == ["one/alone.py", "one/helper.py", "one/pack"]
    other = make_cell("other:Agent")
    assert carried(folders, other) == ["two/other.py", "one/helper.py"]
    assert carried(folders, cell, other)[:2] == ["one/alone.py", "two/other.py"]


def test_a_package_is_carried_whole_also_without_an_init_file(folders, make_cell):
    assert carried(folders, make_cell("pack.inner.part:Agent"))[0] == "one/pack"
    assert carried(folders, make_cell("spread.part:Agent"))[0] == "one/spread"


def test_modules_among_arguments_and_settings_are_carried_too(folders, make_cell):
    environment = {"task": "unlearning/custom", "model": "other:network", "device": "cpu"}
    assert carried(folders, make_cell(env_kwargs=environment)) == ["two/other.py", "one/helper.py"]
    cell = make_cell(agent_config={"oracle": "other:oracle", "note": "nowhere:at_all"})
    assert carried(folders, cell) == ["two/other.py", "one/helper.py"]


def test_what_is_installed_is_not_carried(folders, make_cell):
    assert carried(folders, make_cell("random")) == []
    assert carried(folders, make_cell("torch.nn:Linear")) == []
    assert carried(folders, make_cell("json:loads")) == []
    assert carried(folders, make_cell("agents.black_box:Random")) == []
    assert carried(folders, make_cell("nowhere.at_all:Agent")) == []


class FakeRay(types.ModuleType):
    """As much of Ray as the runner uses; `fates` says how each attempt at a cell ends, and without
    more of them it is run."""

    def __init__(self, fates=(), initialized=False):
        super().__init__("ray")
        self.fates, self.initialized, self.log = list(fates), initialized, []
        names = ("WorkerCrashedError", "NodeDiedError", "OutOfMemoryError", "ObjectLostError")
        error = type("RayError", (Exception,), {})
        self.exceptions = types.SimpleNamespace(
            RayError=error,
            **{name: type(name, (error,), {}) for name in (*names, "RayTaskError")},
        )

    def is_initialized(self):
        return self.initialized

    def init(self, **arguments):
        self.log.append(arguments)

    def shutdown(self):
        self.log.append("shutdown")

    def remote(self, **options):
        assert options["max_retries"] == 0

        def task(call):
            return types.SimpleNamespace(remote=lambda *a: object.__new__(Reference).of(call, a))

        return task

    def wait(self, references, num_returns):
        return references[:1], references[1:]

    def get(self, reference):
        fate = self.fates.pop(0) if self.fates else None
        if fate is not None:
            raise getattr(self.exceptions, fate)("gone")
        return reference.call(*reference.arguments)


class Reference:
    def of(self, call, arguments):
        self.call, self.arguments = call, arguments
        return self


@pytest.fixture
def fake(monkeypatch, make_row):
    def made(*fates, **more):
        ray = FakeRay(fates, **more)
        monkeypatch.setitem(sys.modules, "ray", ray)
        return ray

    monkeypatch.setattr(
        ray_cluster, "run_isolated", lambda cell, _: Outcome(make_row(cell.agent, cell.seed))
    )
    return made


@pytest.mark.parametrize(
    ("fates", "attempts", "status"),
    [
        ([], 1, "finished"),
        (["WorkerCrashedError"], 2, "finished"),
        (["NodeDiedError"], 2, "finished"),
        (["OutOfMemoryError"], 2, "finished"),
        (["ObjectLostError"], 2, "finished"),
        (["WorkerCrashedError", "NodeDiedError"], 2, "failed"),
        (["RayTaskError"], 1, "failed"),
    ],
)
def test_a_cell_whose_worker_died_is_run_once_more(
    tmp_path, fake, make_cell, fates, attempts, status
):
    ray = fake(*fates, *[None] * 9)
    (row,) = run_cells([make_cell()], tmp_path, Execution(ray_address="auto"))
    assert row["status"] == status
    assert len(ray.fates) == len(fates) + 9 - attempts
    if status == "failed":
        assert row["error"] == f"{fates[-1]}: gone"
    assert ray.log[-1] == "shutdown"


@pytest.mark.slow
def test_each_cell_has_its_own_second_chance(tmp_path, fake, make_cell):
    fake("NodeDiedError", "NodeDiedError")
    cells = [make_cell(seed=seed) for seed in range(3)]
    rows = run_cells(cells, tmp_path, Execution(ray_address="auto"))
    assert [row["status"] for row in rows] == ["finished"] * 3
    assert {row["cell"] for row in rows} == {cell.id for cell in cells}


def test_nodes_are_told_where_data_lie_and_given_the_strangers_modules(
    folders, fake, make_cell, monkeypatch
):
    monkeypatch.setenv("EDITGYM_DATA", "/data")
    monkeypatch.delenv("EDITGYM_CACHE")
    ray = fake()
    list(Execution(ray_address="auto").outcomes([make_cell("other:Agent")], folders))
    (given, _) = ray.log
    assert given["address"] == "auto"
    assert given["runtime_env"] == {
        "env_vars": {"EDITGYM_DATA": "/data"},
        "py_modules": [str(folders / "two/other.py"), str(folders / "one/helper.py")],
    }


def test_without_strangers_no_module_is_sent(fake, make_cell, monkeypatch, tmp_path):
    monkeypatch.delenv("EDITGYM_DATA")
    monkeypatch.setenv("EDITGYM_CACHE", "/cache")
    ray = fake()
    list(Execution(ray_address="auto").outcomes([make_cell("random")], tmp_path))
    assert ray.log[0]["runtime_env"] == {"env_vars": {"EDITGYM_CACHE": "/cache"}}


def test_a_process_that_is_connected_already_is_not_taken_over(fake, make_cell, tmp_path):
    ray = fake(initialized=True)
    with pytest.raises(RunnerError, match=r"connected to Ray already.*ray\.shutdown\(\)"):
        list(Execution(ray_address="auto").outcomes([make_cell()], tmp_path))
    assert ray.log == []


@pytest.mark.parametrize("kind", ["RayTaskError", "ConnectionError"])
def test_what_cannot_be_sent_or_reached_is_an_error_of_the_command(
    tmp_path, fake, capsys, monkeypatch, kind
):
    ray = fake()
    error = getattr(ray.exceptions, kind, ConnectionError)

    def refused(**arguments):
        raise error("Package size (2 GiB) exceeds the maximum size")

    monkeypatch.setattr(ray, "init", refused)
    arguments = ["--agents", "no_edit", "--seeds", "1", "--ray", "auto", "--out", str(tmp_path)]
    assert leaderboard.main(["run", "--suite", "quick", *arguments]) == 2
    assert "exceeds the maximum size" in capsys.readouterr().err
    assert ray.log == ["shutdown"]
