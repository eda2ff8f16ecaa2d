"""A tiny GGUF file."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory):
    """The path of a tiny Llama, its matrices rounded to Q4_1."""
    import gguf_maker

    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return str(gguf_maker.write_gguf(path, gguf_maker.tiny_llama()))
