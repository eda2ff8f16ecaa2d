"""What a call takes in memory at its peak."""

import json
import mmap

import pytest
import torch

from benchmarks.costs import memory
from benchmarks.costs.memory import peak_of


def test_the_peak_is_what_a_call_takes_beyond_what_was_there():
    kept = torch.ones(8 << 20)  # 32 MiB, there before

    def take():
        assert float((kept + 1).sum()) > 0  # as much again, and gone at its end

    assert 24 << 20 <= peak_of(take) < 48 << 20  # the kernel counts pages in batches


def test_pages_of_a_file_do_not_count(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(bytes(32 << 20))
    with file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    with mapped:
        assert peak_of(lambda: sum(mapped[:: mmap.PAGESIZE])) < 8 << 20


def test_what_a_call_raises_is_raised():
    with pytest.raises(ZeroDivisionError):
        peak_of(lambda: 1 / 0)


def test_an_edit_is_put_beside_what_every_edit_needs(tmp_path, capsys):
    file = tmp_path / "memory.json"
    given = ["--set", "task=knowledge/factworld", "--set", "agent.steps=2", "--json", str(file)]
    sites = ["--set", 'sites=["model.layers.[45].mlp.down_proj"]']
    for agent in ("lora_merge", "ft_m"):
        assert memory.main(["--agent", agent, *given, *sites]) == 0
    printed = capsys.readouterr().out
    found = json.loads(file.read_text())["agents"]
    assert set(found) == {"lora_merge", "ft_m"}, "another agent's stays"
    for own in found.values():
        assert own["sites"] == 2
        assert own["one_matrix_per_site_bytes"] == 2 * 4 * 128 * 384
        assert own["taken_bytes"] > own["one_matrix_per_site_bytes"] / 2  # one is edited by ft_m
        both = own["model_bytes"] + own["one_matrix_per_site_bytes"]
        assert own["ratio"] == (own["model_bytes"] + own["taken_bytes"]) / both
    assert memory.main(["--show", str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == sorted(
        line for line in printed.splitlines() if line.startswith("| `")
    )


def test_a_file_that_is_none_of_its_own_is_left_as_it_is(tmp_path, capsys):
    file = tmp_path / "memory.json"
    file.write_text("no JSON")
    with pytest.raises(SystemExit):
        memory.main(["--agent", "ft_m", "--json", str(file)])
    assert "cannot be gone on with" in capsys.readouterr().err
    assert file.read_text() == "no JSON"
