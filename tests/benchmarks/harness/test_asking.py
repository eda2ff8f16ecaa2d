"""A stranger's agent is asked what it is in a process of its own: none of its code runs in the one
that writes everybody's rows."""

import sys

import pytest

from benchmarks import leaderboard
from benchmarks.harness.agent_files import agent_files
from benchmarks.harness.asking import check_agent, named_folders, settings_of
from benchmarks.harness.strangers import module_hashes
from benchmarks.results import ROWS_FILE, Cell, read_rows

pytestmark = pytest.mark.isolated

AGENTS = """
import dataclasses, os, sys, time

from agents.black_box import NoEdit
from agents.configured import ConfiguredAgent, Settings, setting


class Exits(NoEdit):
    def __init__(self):
        raise SystemExit(0)


class ExitsAtOnce(NoEdit):
    def __init__(self):
        os._exit(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadsSettings(Settings):
    folder: str = setting("", names_folder=True)
    size: int = setting(3)


class Reads(NoEdit):
    settings_type = ReadsSettings

    def __init__(self, **config):
        super().__init__()
        self.settings = ReadsSettings.of(config)

    def resolved(self, spec):
        return self.settings
"""


@pytest.fixture(autouse=True)
def strange(tmp_path, monkeypatch):
    """A package with agents, which nothing may import here."""
    package = tmp_path / "strange_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "agents.py").write_text(AGENTS)
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "weights").write_text("w")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    imported = [name for name in sys.modules if name.startswith("strange_package")]
    for name in imported:
        del sys.modules[name]
    assert imported == []


def cell_of(name, **config):
    arguments = {"task": "unlearning/digits", "device": "cpu"}
    return Cell("hostile", "MaskWorld-v1", arguments, f"strange_package.agents:{name}", config, 0)


def test_agents_that_end_their_process_when_they_are_made_have_a_row_and_take_none_along(strange):
    names = [f"strange_package.agents:{name}" for name in ("Exits", "ExitsAtOnce")]
    command = ["run", "--suite", "worlds", "--tasks", "unlearning/digits", "--seeds", "1"]
    command += ["--envs", "MaskWorld-v0", "--agents", ",".join(["no_edit", *names])]
    assert leaderboard.main([*command, "--out", str(strange / "out")]) == 1
    rows = {row["agent"]: row for row in read_rows(strange / "out" / ROWS_FILE)}
    assert rows["no_edit"]["status"] == "finished"
    assert [rows[name]["error"] for name in names] == [
        "SystemExit: 0",
        "the worker process died: it ended with exit code 0",
    ]
    assert set(rows[names[0]]["modules"]) == {"strange_package.agents"}


def test_settings_files_and_modules_are_known_without_an_import(strange):
    cell = cell_of("Reads", folder="policy")
    assert settings_of(cell) == {"folder": "policy", "size": 3}
    assert settings_of(cell_of("ExitsAtOnce")) == {}, "what was typed is all that is known"
    assert named_folders(cell.agent) == ["folder"]
    assert agent_files(cell)["policy"] is not None
    (found,) = module_hashes(cell).values()
    assert len(found) == 64


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("strange_package.agents:Nobody", "has no 'Nobody'"),
        ("strange_package.agents:ReadsSettings", "lacks learn, edit"),
        ("strange_package.nowhere:Agent", "cannot import the module 'strange_package.nowhere'"),
        ("nobody", "there is no 'nobody'"),
    ],
)
def test_what_is_no_agent_is_said(name, said):
    with pytest.raises(ValueError, match=said):
        check_agent(name)


def test_a_setting_that_is_refused_is_said():
    with pytest.raises(ValueError, match="unexpected keyword argument 'sise'"):
        settings_of(cell_of("Reads", sise=3))
