"""Every recipe of CONTRIBUTING is followed: its part is added from a folder outside the package, by
import path, runs through the leaderboard with two jobs, and is validated."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.results import ROWS_FILE, read_rows

HERE = Path(__file__).parent
OWN = HERE / "own"
CONTRIBUTING = HERE.parent.parent / "CONTRIBUTING.md"
FACTS = [
    ("Ada Vell", "florist"),
    ("Bram Tor", "pilot"),
    ("Cela Run", "judge"),
    ("Dorn Hask", "miner"),
    ("Edda Prim", "sailor"),
    ("Falk Orst", "barber"),
]


def records(facts):
    """Records as `own_format.FACTS` reads them."""
    return [
        {
            "who": who,
            "ask": "{} works as a",
            "say": job,
            "again": f"By trade {who} is a",
            "others": [{"prompt": "The sky is"}],
        }
        for who, job in facts
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A stranger's folder with all parts, and the rows that the leaderboard made of them."""
    folder = tmp_path_factory.mktemp("strangers")
    for file in OWN.glob("own_*.py"):
        shutil.copy(file, folder)
    (folder / "own_facts.json").write_text(json.dumps(records(FACTS[:4])))
    (folder / "own_facts_test.json").write_text(json.dumps(records(FACTS[4:])))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
    save_file(network.state_dict(), folder / "own_weights.safetensors")
    done = leaderboard(folder, "run", "--suite", "own_suite:SUITE", "--jobs", "2", "--out", "rows")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def leaderboard(folder, *arguments):
    """The leaderboard's command in the stranger's folder."""
    command = [sys.executable, "-m", "benchmarks.leaderboard", *arguments]
    # Requests in files are looked for in the data folder.
    known = {**os.environ, "EDITGYM_DATA": str(folder)}
    return subprocess.run(command, cwd=folder, env=known, capture_output=True, text=True)


def test_every_part_is_measured(folder):
    rows = read_rows(folder / "rows" / ROWS_FILE)
    assert {row["status"] for row in rows} == {"finished"}
    assert {row["task"] for row in rows} == {
        "matrix/small",
        "own_task:gently",
        "unlearning/custom",
        "debiasing/toxicity",
        "knowledge/custom",
    }
    assert {row["agent"] for row in rows} == {
        "no_edit",
        "own_agent:SmallRandomEdit",
        "own_unlearner:PruneForgotten",
        "own_editor:OneStep",
        "own_learned_editor:RateEditor",
    }


def test_rows_hold_resolved_settings_and_counted_rewards(folder):
    rows = {(row["task"], row["agent"]): row for row in read_rows(folder / "rows" / ROWS_FILE)}
    assert rows["own_task:gently", "own_unlearner:PruneForgotten"]["settings"] == {"threshold": 0.5}
    searched = rows["matrix/small", "own_agent:SmallRandomEdit"]
    assert (searched["settings"], searched["reward_calls"]) == ({"size": 0.2}, 2)
    assert rows["knowledge/custom", "own_learned_editor:RateEditor"]["reward_calls"] == 1


def test_the_family_is_in_the_report(folder):
    assert "| distance ↓ |" in (folder / "rows" / "LEADERBOARD.md").read_text()


@pytest.mark.slow
def test_every_row_is_reproduced(folder):
    done = leaderboard(folder, "validate", "rows", "--sample", "20")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 of 8 rows reproduced" in done.stdout


def test_contributing_names_the_file_of_each_recipe():
    named = set(re.findall(r"tests/recipes/own/(own_\w+\.py)", CONTRIBUTING.read_text()))
    assert named == {file.name for file in OWN.glob("own_*.py")}


def test_the_files_to_copy_are_there():
    root = CONTRIBUTING.parent
    named = re.findall(
        r"`((?:editgym|agents|benchmarks|tests)/[\w/]+\.\w+)`", CONTRIBUTING.read_text()
    )
    assert named
    assert [name for name in named if not (root / name).is_file()] == []
