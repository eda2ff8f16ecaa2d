"""Two versions beside each other: each in its own process, from its own source."""

import json
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


def test_what_was_measured_is_shown_as_a_table(tmp_path, capsys):
    job = {"times": 2, "before_s": 3.0, "after_s": 1.25, "times_faster": 2.4, "equal": True}
    other = {"times": 1, "before_s": 120.0, "after_s": 100.0, "times_faster": 1.2, "equal": False}
    file = tmp_path / "costs.json"
    file.write_text(json.dumps({"rledit_training_step": job, "alphaedit_step": other}))
    assert versions.main(["--show", str(file)]) == 0
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert head == "| what, in seconds | n | before | now | times faster | equal results |"
    assert [line.split(" | ")[1:] for line in lines] == [
        ["2", "3", "1.25", "2.40", "yes |"],
        ["1", "120", "100", "1.20", "no |"],
    ]
    del job["times"]
    file.write_text(json.dumps({"rledit_training_step": job}))
    assert versions.main(["--show", str(file)]) == 2
    assert "has no 'times'" in capsys.readouterr().err


def test_a_job_is_done_again_and_what_else_a_file_holds_stays(tmp_path, monkeypatch, capsys):
    file = tmp_path / "costs.json"
    monkeypatch.setattr(versions, "compared", lambda *asked: {asked[3][0]: {"times": asked[4]}})
    command = ["--before", ".", "--model", "/models/small", "--json", str(file)]
    for name, times in (
        ("alphaedit_step", "1"),
        ("rledit_training_step", "1"),
        ("alphaedit_step", "3"),
    ):
        assert versions.main([*command, "--jobs", name, "--times", times]) == 0
    found = json.loads(file.read_text())
    assert found["alphaedit_step"] == {"times": 3}
    assert found["rledit_training_step"] == {"times": 1}
    assert found["model"] == "small"
    command[3] = "/models/large"
    monkeypatch.setattr(versions, "compared", None)
    with pytest.raises(SystemExit):
        versions.main(command)
    assert "'model': 'small'}, and not of" in capsys.readouterr().err
    assert json.loads(file.read_text()) == found


def test_nothing_is_measured_without_two_versions_and_a_model(capsys):
    with pytest.raises(SystemExit):
        versions.main(["--before", ".", "--json", "x.json"])
    assert "--before and --model are needed" in capsys.readouterr().err


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
