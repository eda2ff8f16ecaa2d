"""What a call takes in memory at its peak."""

import mmap

import pytest
import torch

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
