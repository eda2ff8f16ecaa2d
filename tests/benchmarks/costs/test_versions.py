"""Two versions beside each other: each in its own process, from its own source."""

from pathlib import Path

import pytest

from benchmarks.costs import versions

ROOT = Path(__file__).resolve().parents[3]


def test_results_are_equal_up_to_rounding():
    one = {"rewards": [1.0, -2.0], "n": {"a": 0.5}}
    assert versions._alike(one, {"rewards": [1.0004, -2.0], "n": {"a": 0.5}})
    assert not versions._alike(one, {"rewards": [1.01, -2.0], "n": {"a": 0.5}})
    assert not versions._alike(one, {"rewards": [1.0], "n": {"a": 0.5}})
    assert not versions._alike(one, {"rewards": [1.0, -2.0]})
    assert versions._alike([], [])


def test_each_version_is_imported_from_its_own_folder(tmp_path):
    other = tmp_path / "other"
    for name in versions._PACKAGES:
        (other / name).parent.mkdir(exist_ok=True)
        (other / name).mkdir() if "." not in name else (other / name).touch()
    with versions.packages_of(other) as packages:
        assert sorted(path.name for path in packages.iterdir()) == sorted(versions._PACKAGES)
        assert (packages / "editgym").resolve() == (other / "editgym").resolve()
    assert not packages.exists()
    (other / "agents").rmdir()
    with (
        pytest.raises(FileNotFoundError, match=r"no source of the package: it has no \['agents'\]"),
        versions.packages_of(other),
    ):
        pass


@pytest.mark.slow
@pytest.mark.data("editing/counterfact-train.json", "editing/counterfact-val.json")
def test_a_job_that_fails_shows_its_last_lines():
    with pytest.raises(RuntimeError, match=r"(?s)evaluation_of_100 failed:.*nowhere"):
        versions.compared(ROOT, ROOT, "/nowhere", ["evaluation_of_100"], times=1)


def test_a_job_that_is_not_known_is_refused(capsys):
    with pytest.raises(SystemExit):
        versions.main(["--before", ".", "--model", ".", "--jobs", "sleep", "--json", "x.json"])
    assert "--jobs: ['sleep'] are not known" in capsys.readouterr().err


def test_a_job_is_done_by_its_version_wherever_the_command_is_given(tmp_path, monkeypatch):
    """Python looks into the current folder first, which is that of the later version here."""
    other = tmp_path / "other"
    for name in ("agents", "benchmarks", "editgym"):
        (other / name).mkdir(parents=True)
    (other / "editgym/__init__.py").write_text("class LifelongLLMEditEnv: pass\n")
    (other / "envs_registry.py").touch()
    monkeypatch.chdir(ROOT)
    with pytest.raises(RuntimeError, match=r"No module named 'agents.catalogue'"):
        versions.compared(other, ROOT, "/nowhere", ["evaluation_of_100"], times=1)
